"""Shape: in which columns of a source the fields of its documents stand, and the row under our own names.

`Shape.of` finds the columns (`columns.py`); `Shape.canonical` is the row that `row_to_document` and
`row_to_pair` read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import Any

from tokpack.frozen import frozen
from tokpack.schema import PREFERENCE
from tokpack.stages.messages import PART_SIZES
from tokpack.stages.normalize import fields
from tokpack.stages.normalize.chats.blocks import plain_text, system_in_text
from tokpack.stages.normalize.chats.calls import OLDER_TOOLS, TOOLS, read_tools, tool_name
from tokpack.stages.normalize.chats.media import MEDIA
from tokpack.stages.normalize.chats.message_rows import chat_in_text
from tokpack.stages.normalize.chats.roles import SPEAKERS, Speakers, role_name, spoken
from tokpack.stages.normalize.chats.training import speaks_of_training
from tokpack.stages.normalize.chats.turns import are_bare, as_messages
from tokpack.stages.normalize.fields import Row, as_json, is_filled, root, value_at
from tokpack.stages.normalize.formats import CHATS, FIELDS, OPTIONAL, SLOW_COLUMNS, TOKENS
from tokpack.stages.normalize.late import (
    Late,
    late_columns,
    read_late,
    refuse_media,
    refuse_weight,
    roots_of,
)
from tokpack.stages.normalize.layouts.better import Better
from tokpack.stages.normalize.layouts.columns import (
    TAKES,
    Columns,
    columns_beside,
    fields_of_lists,
    message_keys,
    needed_columns,
    optional_column,
    other_tools,
    template_argument,
    template_arguments,
)
from tokpack.stages.normalize.layouts.flags import flag_columns, is_marked
from tokpack.stages.normalize.layouts.layouts import Layout
from tokpack.stages.normalize.values import RowError, is_missing, is_nothing
from tokpack.stages.read.faults import UNREADABLE

TIE = "tie"
"""Key of a canonical row whose pair has no better side."""


@frozen
class Shape:
    """How the rows of a source are laid out. `columns`: field of tokpack -> column of the file, or a path."""

    format: str
    columns: dict[str, str]
    slow_columns: frozenset[str]
    """Columns that change the document and that only the row-by-row path reads."""
    beside: dict[str, str] = field(default_factory=dict)
    """Fields beside those that the format needs -> column or path."""
    other_tools: tuple[str, ...] = ()
    """Further columns or paths of tools, for rows in which the one of `beside` says nothing."""
    variables: tuple[str, ...] = ()
    """Columns that are arguments of the chat template."""
    late: Late = field(default_factory=dict)
    late_roots: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """Columns that `late` begins in -> keys in them; none where the column itself is read."""
    speakers: Speakers = field(default_factory=dict)
    """Who speaks in the data, as the user says."""
    media: frozenset[str] = frozenset()
    """Columns of images and sounds, which set a row aside."""
    present: frozenset[str] = frozenset()
    named: frozenset[str] = frozenset()
    """Fields whose column the user named."""
    layout: Layout | None = None
    better: Better | None = None
    message_keys: tuple[str, str] = ("role", "content")
    """How the messages of a chat name who speaks, and what."""
    arguments: tuple[str, ...] = ()
    """Arguments of the chat template that the first rows bring."""
    readable: frozenset[str] | None = None
    """Names among which are all fields of messages that the chat template reads; None: any may be."""
    part_roles: frozenset[str] = frozenset()
    """Roles whose text parts the chat template writes otherwise than the parts joined."""
    splits: tuple[str, ...] = ()
    """Columns that nothing reads and that say which split of a set a row belongs to."""
    flags: tuple[str, ...] = ()
    """Columns that nothing reads and that mark rows which mostly should not be trained."""
    notes: tuple[str, ...] = ()
    """What the user should know of the choice of columns."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Column that does not reach the documents -> an example of what it holds."""
    unpaired: bool = False
    """Whether the field `label` says which answers are good, and both kinds are trained: KTO."""
    grouping: tuple[str, ...] = ()
    """Those of them that have few values in the first rows: what figures can be parted by."""

    @staticmethod
    def of(
        name: str,
        mapping: Mapping[str, str],
        present: Sequence[str],
        rows: Sequence[Row] = (),
        layout: Layout | None = None,
    ) -> Shape:
        held = Columns(present, rows)
        given = {**(layout.fields if layout else {}), **mapping}
        columns, notes = needed_columns(name, given, held)
        for target in OPTIONAL.get(name, ()):
            if path := optional_column(name, target, given, held, columns):
                columns[target] = path
        taken = {root(path, present) for path in columns.values()}
        beside = columns_beside(name, given, held, taken, columns)
        if "input" in beside and name in ("alpaca", "prompt_completion"):
            columns["input"] = beside.pop("input")
        others = () if "tools" in given else other_tools(beside, held, taken)
        read = {root(path, present) for path in (*columns.values(), *beside.values(), *others)}
        variables = tuple(
            column for column in present if column in fields.TEMPLATE_VARIABLES and column not in read
        )
        late = late_columns(name, given, held, {*columns.values(), *beside.values(), *others, *variables})
        roots = roots_of(late)
        fast = {"split"} if name == PREFERENCE else {"split", "system"}
        slow = {root(path, present) for field, path in beside.items() if field not in fast}
        slow |= {root(path, present) for path in others}
        slow |= {column for column, keys in roots.items() if not keys} | (SLOW_COLUMNS - set(present))
        media = {c for c in {*MEDIA, *present} if c.casefold() in MEDIA} if name in TAKES else set()
        slow |= media | (set(fields.BESIDE["weight"]) if name == PREFERENCE else set())
        return Shape(
            name,
            columns,
            frozenset((slow | set(variables)) - set(columns.values())),
            beside=beside,
            other_tools=others,
            variables=variables if name in TAKES else (),
            late=late,
            late_roots=roots,
            speakers={spoken(mapping[role]): role for role in SPEAKERS if role in mapping},
            media=frozenset(media - read),
            present=frozenset(present),
            named=frozenset({*mapping, *fields_of_lists(columns)}),
            layout=layout,
            better=Better.mapped(mapping, columns, rows) or (layout.better if layout else None),
            message_keys=message_keys(name, columns, held),
            arguments=template_arguments(beside.get("chat_template_kwargs"), variables, held),
            splits=tuple(c for c in present if c.casefold() in fields.SPLITS and c not in read),
            flags=flag_columns((c for c in present if c not in read), rows),
            notes=(*notes, *([layout.note] if layout and layout.note else [])),
        )

    @property
    def documents_per_row(self) -> int:
        """A preference pair is two documents, `2 * row` and `2 * row + 1`; any other row is one."""
        return 2 if self.format == PREFERENCE else 1

    @property
    def is_text(self) -> bool:
        """Whether all of a row is trained: a text, or ids without labels."""
        return self.format == "text" or (self.format == TOKENS and "labels" not in self.columns)

    @property
    def row_by_row(self) -> bool:
        """Whether no row can be taken from whole columns."""
        changed = (self.layout is not None and self.layout.adapt is not None) or self.better is not None
        nested = any("." in path and path not in self.present for path in self.columns.values())
        return changed or nested or (self.format in CHATS and "completion" in self.beside)

    @property
    def may_say_nothing(self) -> set[str]:
        """Columns in which `[]`, `null` and the like stand for nothing."""
        held = {path for field, path in self.beside.items() if field in ("tools", "history")}
        return {*TOOLS, "history", *held, *self.other_tools}

    def read_columns(self) -> set[str]:
        """Columns of the file that reach the document."""
        paths = [*self.columns.values(), *self.beside.values(), *self.other_tools, *self.variables]
        paths += [*(self.layout.reads if self.layout else ()), *(self.better.columns if self.better else ())]
        return {root(path, self.present) for path in paths} & self.present

    def accounted_for(self) -> frozenset[str]:
        """Columns that are read, or told of already: any other is new."""
        late = (column for column, keys in self.late_roots.items() if not keys)
        return frozenset({*self.read_columns(), *self.unread, *self.media, *late, UNREADABLE})

    def fits(self, rows: list[dict[str, Any]]) -> bool:
        """Whether any of the first rows has every required field, with messages where they belong."""
        for row in rows:
            values = [self.value(row, target) for target in FIELDS[self.format]]
            if any(value is None for value in values):
                continue
            if self.format == PREFERENCE:
                return all(isinstance(value, str | list | dict) for value in values)
            if self.format in CHATS:
                if values[0] in ([], "[]"):
                    continue
                return bool(as_messages(values[0], bool(self.named & set(FIELDS[self.format]))))
            if self.format == TOKENS:
                return isinstance(values[0], list) and all(type(value) is int for value in values[0])
            if self.format == "text" and not isinstance(values[0], str):
                continue
            unknown = (isinstance(value, list | dict) and not as_messages(value) for value in values)
            if self.layout is None and any(unknown):
                continue
            return True
        return False

    def fits_empty(self, rows: list[dict[str, Any]]) -> bool:
        """Whether the rows are chats without a message."""
        column = next(iter(self.columns.values()))
        return self.format in CHATS and any(row.get(column) in ([], "[]") for row in rows)

    def value(self, row: Row, target: str) -> Any:
        """What stands in the column of a required field, of the row as the layout gives it."""
        if self.layout and self.layout.adapt:
            row = self.layout.adapt(row)
        return value_at(row, self.columns[target])

    def canonical(self, row: Row) -> dict[str, Any]:
        """The row under our own names, chats as lists of messages; nothing else of it. Raises RowError."""
        refuse_media(row, self.media & row.keys())
        refuse_weight(row, self.format)
        if self.layout and self.layout.adapt:
            row = self.layout.adapt(row)
        paths = (self.columns | self.beside).items()
        found = {target: value_at(row, path) for target, path in paths}
        found |= {target: None for target in found if target != "weight" and is_missing(found[target])}
        if "tools" in found:
            path, value = self._tools(row)
            del found["tools"]
            found[OLDER_TOOLS if path.casefold() == OLDER_TOOLS else "tools"] = value
        if not self.late_roots.keys().isdisjoint(row):
            read_late(row, self.late, found)
        if self.better:
            found = self._sorted(found, row)
        for target in found.keys() & _HELD.keys():
            value = found[target]
            if are_bare(value) and not self.speakers:
                continue
            value = found[target] = self._decoded(target, value)
            labeled = target in _CHATS and isinstance(value, str) and isinstance(found.get("system"), str)
            found |= {"system": _LABEL.sub("", found["system"])} if labeled else {}
            if value is not None and not (isinstance(value, str) and target not in self.named):
                found[target] = _HELD[target](value, target in self.named)
            if isinstance(found[target], list) and target != "system":
                found[target] = [
                    self._with_part_sizes(self._named(self._readable(message))) for message in found[target]
                ]
        if "skip" in found:
            found["skip"] = is_marked(self.beside["skip"], found["skip"])
        given = {name: row[name] for name in self.variables if is_filled(row.get(name))}
        arguments = {name: template_argument(value) for name, value in given.items()}
        if arguments:
            more = as_json(found.get("chat_template_kwargs"))
            found["chat_template_kwargs"] = arguments | (more if isinstance(more, dict) else {})
        return found

    def _decoded(self, target: str, value: Any) -> Any:
        """What JSON in a text stands for, where that is a chat, or a system message of a service."""
        if target in _CHATS:
            return as_json(value)
        if not isinstance(value, str) or target in self.named:
            return value
        return system_in_text(value) if target == "system" else chat_in_text(value, self.layout is not None)

    def _tools(self, row: Row) -> tuple[str, Any]:
        """The first column of tools that says something. Raises RowError where two hold different ones."""
        first = self.beside["tools"]
        held = [(path, value_at(row, path)) for path in (first, *self.other_tools)]
        filled = [(path, value) for path, value in held if not is_nothing(value)]
        for path, value in filled[1:]:
            if not _tool_names(path, value) <= _tool_names(*filled[0]):
                raise RowError(f"{filled[0][0]} and {path} hold different tools: --map tools=COLUMN chooses")
        return filled[0] if filled else held[0]

    def _named(self, message: Any) -> Any:
        """A message with the role that the user gives its speaker."""
        key = "role" if isinstance(message, dict) and message.get("role") is not None else "from"
        said = message.get(key) if self.speakers and isinstance(message, dict) else None
        role = self.speakers.get(spoken(said)) if isinstance(said, str) else None
        return {**message, key: role} if role else message

    def _readable(self, message: Any) -> Any:
        """A message without the fields that nothing reads."""
        if self.readable is None or not isinstance(message, dict) or message.keys() <= fields.OF_MESSAGES:
            return message
        return {key: value for key, value in message.items() if self.reads(key)}

    def _with_part_sizes(self, message: Any) -> Any:
        """A message of text parts that matter to the template with their sizes."""
        if (
            not self.part_roles
            or not isinstance(message, dict)
            or not isinstance(message.get("content"), list)
        ):
            return message
        role, parts = message.get("role"), message["content"]
        if not isinstance(role, str) or role_name(role) not in self.part_roles:
            return message
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        sizes = [len(text) for text in texts if isinstance(text, str)]
        return {**message, PART_SIZES: sizes} if sizes and len(sizes) == len(parts) else message

    def reads(self, key: str) -> bool:
        """Whether a field of a message may matter: to the template, or to us."""
        return (
            self.readable is None
            or key in self.readable
            or key in fields.OF_MESSAGES
            or key.casefold() in fields.OF_MESSAGES
            or speaks_of_training(key)
        )

    def misplaced(self, message: Mapping[str, Any]) -> frozenset[str]:
        """Keys of tools in a message, as raw data has it, of the assistant or of a tool: nothing but a
        template reads them there."""
        if message.keys().isdisjoint(TOOLS):
            return frozenset()
        named = self._named(message)
        role = named.get("from") if named.get("role") is None else named["role"]
        spoken_by = role_name(role) if isinstance(role, str) else ""
        return frozenset(TOOLS) if spoken_by in ("assistant", "tool") else frozenset()

    def _sorted(self, found: dict[str, Any], row: Row) -> dict[str, Any]:
        assert self.better is not None
        side = self.better.side(row)
        if side == 1:
            swapped = (("chosen", "rejected"), fields.SIDE_REASONING)
            found |= {to: found.get(of) for pair in swapped for to, of in zip(pair, pair[::-1], strict=True)}
        return found | ({TIE: True} if side is None else {})


_CHATS = ("messages", "conversations", "history")
_LABEL = re.compile(r"\A\s*SYSTEM:\s*")
"""What a system message beside turns in one text may begin with: glaive's label of the speaker."""


def _tool_names(path: str, value: Any) -> set[str]:
    column = OLDER_TOOLS if path.casefold() == OLDER_TOOLS else "tools"
    return set(map(tool_name, read_tools({column: value}).get("tools", ())))


def _messages(value: Any, named: bool) -> Any:
    messages = as_messages(value, named)
    return value if messages is None else messages


_MAY_BE_CHATS = ("messages", "conversations", "history", "chosen", "rejected", "prompt", "completion")
_HELD: dict[str, Callable[[Any, bool], Any]] = {
    "system": lambda value, named: plain_text(value),
    **dict.fromkeys(_MAY_BE_CHATS, _messages),
}
"""Field -> how what is no text is written as ours."""

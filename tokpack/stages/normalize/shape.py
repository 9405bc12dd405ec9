"""Shape: in which columns of a source the fields of its documents stand, and the row under our own names.

`Shape.of` finds the columns by name in any letter case, by a look at the first rows, or as `--map` says;
`Shape.canonical` is the row that `row_to_document` and `row_to_pair` read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokpack.schema import PREFERENCE
from tokpack.stages.normalize import fields
from tokpack.stages.normalize.better import Better
from tokpack.stages.normalize.calls import OLDER_TOOLS, TOOLS
from tokpack.stages.normalize.fields import Row, as_json, is_filled, root, value_at
from tokpack.stages.normalize.layouts import Layout
from tokpack.stages.normalize.rows import CHATS, FIELDS, OPTIONAL, SLOW_COLUMNS, TOKENS
from tokpack.stages.normalize.turns import are_bare, as_messages, plain_text, plain_tools

NAMES: dict[str, tuple[str, ...]] = {
    "messages": ("messages", "contents"),
    "conversations": tuple(name for name in fields.CHATS if name not in ("messages", "contents")),
    "instruction": ("instruction",),
    "output": ("output", *(name for name in fields.COMPLETIONS if name != "output")),
    "prompt": fields.PROMPTS,
    "completion": fields.COMPLETIONS,
    "chosen": fields.CHOSEN,
    "rejected": fields.REJECTED,
}
"""Required field -> columns that may hold it, best first."""
TAKES = {
    "messages": ("system", "tools", "reasoning", "label", "trained", "chat_template_kwargs"),
    "sharegpt": ("system", "tools", "reasoning", "label", "trained", "chat_template_kwargs"),
    "alpaca": (
        "system",
        "tools",
        "history",
        "input",
        "reasoning",
        "label",
        "trained",
        "chat_template_kwargs",
    ),
    "prompt_completion": (
        "system",
        "tools",
        "history",
        "input",
        "reasoning",
        "label",
        "trained",
        "chat_template_kwargs",
    ),
    PREFERENCE: ("system", "tools", "history", "input", "chat_template_kwargs"),
}
"""Format -> fields that may stand beside what it needs."""
LATE = ("system", "tools", "functions", "history", "chat_template_kwargs")
"""Columns that are read also where the first rows do not have them."""
TIE = "tie"
"""Key of a canonical row whose pair has no better side."""


def known_fields(name: str, named: set[str]) -> set[str]:
    """The fields that `--map` may name for a format. A chat whose column is named may have its last answer in
    another one, `completion`."""
    known = {*FIELDS[name], *OPTIONAL.get(name, ()), *TAKES.get(name, ())}
    if name == PREFERENCE:
        known.add("better")
    if name in CHATS and named & FIELDS[name].keys():
        known.add("completion")
    return known


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns of a source with its first rows."""

    present: Sequence[str]
    rows: Sequence[Row] = ()

    def find(self, names: Iterable[str], test: Callable[[list[Any]], bool] | None = None) -> list[str]:
        """Those of `names`, in their order, that are columns, in any letter case, or lead to something.
        `test` looks at the filled values of the first rows."""
        folded = {column.casefold(): column for column in reversed(self.present)}
        found = []
        for name in names:
            path = name if name in self.present else folded.get(name)
            if path is None and "." in name and name.split(".")[0] in folded:
                path = ".".join([folded[name.split(".")[0]], *name.split(".")[1:]])
                path = self._nested(path)
            if path is not None and path not in found and (test is None or test(self.values(path))):
                found.append(path)
        return found

    def _nested(self, path: str) -> str | None:
        return path if self.values(path) else None

    def values(self, path: str) -> list[Any]:
        return [value for row in self.rows if is_filled(value := value_at(row, path))]

    def fuller(self, paths: list[str]) -> str:
        """The path with most filled rows, then with most in them; the first of equals."""

        def fill(path: str) -> tuple[int, int]:
            values = self.values(path)
            return len(values), sum(len(str(value)) for value in values)

        return max(paths, key=fill)


@dataclass(frozen=True, slots=True)
class Shape:
    """How the rows of a source are laid out. `columns`: field of tokpack -> column of the file, or a path."""

    format: str
    columns: dict[str, str]
    slow_columns: frozenset[str]
    """Columns that change the document and that only the row-by-row path reads."""
    beside: dict[str, str] = field(default_factory=dict)
    """Fields beside those that the format needs -> column or path."""
    variables: tuple[str, ...] = ()
    """Columns that are arguments of the chat template."""
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
    notes: tuple[str, ...] = ()
    """What the user should know of the choice of columns."""
    unread: Mapping[str, str] = field(default_factory=dict)
    """Column that does not reach the documents -> an example of what it holds."""
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
        columns, notes = _needed(name, given, held)
        for target in OPTIONAL.get(name, ()):
            if path := _optional(name, target, given, held, columns):
                columns[target] = path
        taken = {root(path, present) for path in columns.values()}
        beside = _beside(name, given, held, taken, columns)
        if "input" in beside and name in ("alpaca", "prompt_completion"):
            columns["input"] = beside.pop("input")
        read = {root(path, present) for path in (*columns.values(), *beside.values())}
        variables = tuple(
            column for column in present if column in fields.TEMPLATE_VARIABLES and column not in read
        )
        late = SLOW_COLUMNS - set(present)
        slow = {
            root(path, present) for field, path in beside.items() if field != "system" or name == PREFERENCE
        }
        return Shape(
            name,
            columns,
            frozenset((late | slow | set(variables)) - set(columns.values())),
            beside=beside,
            variables=variables if name in TAKES else (),
            present=frozenset(present),
            named=frozenset({*mapping, *_of_lists(columns)}),
            layout=layout,
            better=Better.mapped(mapping, columns, rows) or (layout.better if layout else None),
            message_keys=_message_keys(name, columns, held),
            arguments=_arguments(beside.get("chat_template_kwargs"), variables, held),
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
        return {*TOOLS, "history", *held}

    def read_columns(self) -> set[str]:
        """Columns of the file that reach the document."""
        paths = [*self.columns.values(), *self.beside.values(), *self.variables]
        paths += [*(self.layout.reads if self.layout else ()), *(self.better.columns if self.better else ())]
        return {root(path, self.present) for path in paths} & self.present

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
        if self.layout and self.layout.adapt:
            row = self.layout.adapt(row)
        found = {target: value_at(row, path) for target, path in self.columns.items()}
        found |= {target: value_at(row, path) for target, path in self.beside.items()}
        for name in LATE:
            if name not in found and name in row and name not in self.present:
                found[name] = row[name]
        if self.beside.get("tools", "").casefold() == OLDER_TOOLS:
            found[OLDER_TOOLS] = found.pop("tools")
        if self.better:
            found = self._sorted(found, row)
        for target in found.keys() & _HELD.keys():
            value = found[target]
            if are_bare(value):
                continue
            if target in _CHATS:
                value = found[target] = as_json(value)
            if value is not None and not (isinstance(value, str) and target not in self.named):
                found[target] = _HELD[target](value, target in self.named)
            if isinstance(found[target], list) and target not in ("tools", "system"):
                found[target] = [self._readable(message) for message in found[target]]
        arguments = {name: row[name] for name in self.variables if is_filled(row.get(name))}
        if arguments:
            given = as_json(found.get("chat_template_kwargs"))
            found["chat_template_kwargs"] = arguments | (given if isinstance(given, dict) else {})
        return found

    def _readable(self, message: Any) -> Any:
        """A message without the fields that nothing reads."""
        if self.readable is None or not isinstance(message, dict) or message.keys() <= fields.OF_MESSAGES:
            return message
        return {key: value for key, value in message.items() if self.reads(key)}

    def reads(self, key: str) -> bool:
        """Whether a field of a message may matter: to the template, or to us."""
        return self.readable is None or key in self.readable or key in fields.OF_MESSAGES

    def _sorted(self, found: dict[str, Any], row: Row) -> dict[str, Any]:
        assert self.better is not None
        side = self.better.side(row)
        if side == 1:
            found |= {"chosen": found.get("rejected"), "rejected": found.get("chosen")}
        return found | ({TIE: True} if side is None else {})


def _arguments(path: str | None, variables: tuple[str, ...], held: Columns) -> tuple[str, ...]:
    given = [as_json(value) for value in held.values(path)] if path else []
    names = [name for value in given if isinstance(value, dict) for name in value if is_filled(value[name])]
    return tuple(dict.fromkeys([*names, *(name for name in variables if held.values(name))]))


def _of_lists(columns: Mapping[str, str]) -> set[str]:
    """The field of conversations, where its column is called so: there a list of texts is one too."""
    return (
        {"conversations"} if columns.get("conversations", "").casefold().startswith("conversation") else set()
    )


def _message_keys(name: str, columns: Mapping[str, str], held: Columns) -> tuple[str, str]:
    default = ("from", "value") if name == "sharegpt" else ("role", "content")
    if name not in CHATS:
        return default
    for messages in held.values(next(iter(columns.values()))):
        if isinstance(messages, list) and isinstance(messages[0], dict):
            return (
                ("from", "value")
                if "from" in messages[0] and "role" not in messages[0]
                else ("role", "content")
            )
    return default


_CHATS = ("messages", "conversations")


def _messages(value: Any, named: bool) -> Any:
    messages = as_messages(value, named)
    return value if messages is None else messages


_HELD: dict[str, Callable[[Any, bool], Any]] = {
    "system": lambda value, named: plain_text(value),
    "tools": lambda value, named: plain_tools(value),
    **dict.fromkeys(("messages", "conversations", "chosen", "rejected", "prompt", "completion"), _messages),
}
"""Field -> how what is no text is written as ours."""


def _needed(name: str, given: Mapping[str, str], held: Columns) -> tuple[dict[str, str], list[str]]:
    """The columns of the fields that a format needs, and what there is to say of the choice."""
    columns: dict[str, str] = {}
    notes: list[str] = []
    for target in FIELDS[name]:
        if target in given:
            columns[target] = given[target]
            continue
        names = NAMES.get(target, (target,))
        found = held.find(names[:1]) + [
            path
            for path in held.find(names[1:], _fit(target))
            if root(path, held.present) not in columns.values()
        ]
        found = [path for path in found if path not in columns.values()]
        filled = [path for path in found if held.values(path)]
        if not filled and target == "completion":
            filled = [path for path in held.find(fields.LESSER_COMPLETIONS, _is_prompt) if held.values(path)]
        filled = filled or found
        if target in ("completion", "output") and filled:
            columns[target] = held.fuller(filled)
        elif target == "prompt":
            columns[target] = _prompt(filled, columns, held) or names[0]
        else:
            columns[target] = (filled or [names[0]])[0]
        others = [path for path in filled if path != columns[target] and path not in ("input", "inputs")]
        if others and target in ("completion", "output", "prompt"):
            notes.append(f"{target} is {columns[target]}, and {', '.join(others)} would fit too")
    return columns, notes


def _prompt(found: list[str], columns: Mapping[str, str], held: Columns) -> str | None:
    """The first that does not hold the answer as well, as prompts that are written out for training do."""
    answers = held.find(fields.COMPLETIONS, _is_text)
    for path in found:
        pairs = [
            (value_at(row, path), value_at(row, answer))
            for row in held.rows
            for answer in answers
            if answer != path
        ]
        texts = [(a, b) for a, b in pairs if isinstance(a, str) and isinstance(b, str) and len(b) > 8]
        if not texts or not all(b in a for a, b in texts):
            return path
    return found[0] if found else None


def _optional(
    name: str, target: str, given: Mapping[str, str], held: Columns, columns: Mapping[str, str]
) -> str | None:
    if target in given:
        return given[target]
    if target == "input" and name != TOKENS:
        return None  # a field beside
    whole = name == PREFERENCE and any(map(_is_whole, held.values(columns["chosen"])))
    names = fields.PAIR_PROMPTS if (name, target) == (PREFERENCE, "prompt") and not whole else (target,)
    test = None if name == TOKENS else _is_prompt
    found = [*held.find(names[:1]), *held.find(names[1:], test)]
    found = [path for path in found if path not in columns.values()]
    return next(iter(found), None)


def _beside(
    name: str, given: Mapping[str, str], held: Columns, taken: set[str], columns: Mapping[str, str]
) -> dict[str, str]:
    beside = {}
    for target in TAKES.get(name, ()):
        if target in given:
            beside[target] = given[target]
        elif target not in columns:
            found = [
                path
                for path in held.find(fields.BESIDE[target], _TESTS[target])
                if root(path, held.present) not in taken and path not in beside.values()
            ]
            if found:
                beside[target] = next((path for path in found if held.values(path)), found[0])
    if name in CHATS and "completion" in given:
        beside["completion"] = given["completion"]
    return beside


# What the values of a column may be


def _is_text(values: list[Any]) -> bool:
    return all(isinstance(value, str) for value in values)


def _is_chat(values: list[Any]) -> bool:
    return any(as_messages(value) for value in values)


def _is_whole(answer: Any) -> bool:
    """Whether an answer is a whole conversation, which holds its prompt."""
    messages = as_messages(answer)
    role = messages[0].get("role", messages[0].get("from")) if messages else None
    return str(role).casefold() in ("user", "human", "system")


def _is_list(values: list[Any]) -> bool:
    return any(isinstance(as_json(value), list) and as_messages(value, named=True) for value in values)


def _is_prompt(values: list[Any]) -> bool:
    return not values or _is_text(values) or _is_chat(values)


def _is_reasoning(values: list[Any]) -> bool:
    texts = [value[0] if isinstance(value, list) and value else value for value in values]
    return _is_text(texts) and (
        not texts or any(text.strip().casefold() not in fields.SWITCHES for text in texts)
    )


def _is_label(values: list[Any]) -> bool:
    return bool(values) and all(str(value).casefold() in fields.TRUTHS for value in values)


def _is_history(values: list[Any]) -> bool:
    return not any(isinstance(value, str) and not isinstance(as_json(value), list) for value in values)


def _is_system(values: list[Any]) -> bool:
    return all(isinstance(value, str | dict | list) for value in values)


_TESTS: dict[str, Callable[[list[Any]], bool] | None] = {
    "system": _is_system,
    "tools": None,
    "history": _is_history,
    "input": _is_text,
    "reasoning": _is_reasoning,
    "label": _is_label,
    "trained": _is_label,
    "chat_template_kwargs": None,
}


def _fit(target: str) -> Callable[[list[Any]], bool] | None:
    if target in ("messages", "conversations"):
        return _is_list
    return _is_prompt if target in NAMES else None

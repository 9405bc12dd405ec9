"""What was recognized in a source, and what of it is not read: told to the user in one line."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence

from tokpack.schema import UNPAIRED
from tokpack.stages.normalize.chats.training import speaks_of_training
from tokpack.stages.normalize.chats.turns import are_bare, as_messages
from tokpack.stages.normalize.fields import OF_MESSAGES, SWITCHES, TRUTHS, Row, is_filled, value_at
from tokpack.stages.normalize.layouts.columns import TAKES, Columns
from tokpack.stages.normalize.passed_over import PassedOver
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.values import WIDTH, shown
from tokpack.terminal.activity import in_number

log = logging.getLogger("tokpack")

MOST_GROUPS = 20
MOST_NAMED = 10
"""Columns that are named in one line."""
LONGEST_NAME = 1000
"""Characters; people name no column so, and a search takes as long as the name."""
MATTERS = re.compile(
    r"^tools?|tools?$|tool[._]definitions|^(images?|audios?|videos?)$|^functions?$|^system|system_|reasoning|thinking|^cot$|_cot$|^labels?$|^kto|score|rating|reward"
    r"|^(loss_|sample_)?weights?$|^loss$|^train(ed|able|ing)?$|^roles_to_train$|^rank$|^context$|^history$|helpfulness|correctness|^is_safe|^(overall_)?preference(_strength)?$|^better|^winner$"
    r"|monologue|scratchpad|thoughts?$|^(analysis|plan|reflection|internal|inner)$|^internal_|^inner_|^actions?(_input)?$|^calls$|thoughts?_process$"
    r"|^observations?$|^(intermediate_)?steps$|^tool_?(use|used|invocations|results?|outputs?)$|^citations$"
    r"|^(choices|options|endings|passages?|article|story|background)$"
    r"|^(chosen|rejected)(_response)?$|kwargs$|^instructions$|^developer|^documents$|^input$|^(answer|response|completion|output)$",
    re.IGNORECASE,
)
"""Names of columns that mostly should have reached the model, or say that an answer should not."""
GOOD = re.compile(
    r"^(is_|was_)?(good|accepted|approved|correct|valid|included?|pass(ed)?|success(ful)?|resolved|verified|desired)$",
    re.IGNORECASE,
)
BAD = re.compile(r"^(is_|was_)?(bad|excluded?|skip(ped)?|ignored?|deleted|flagged|mask(ed)?)$", re.IGNORECASE)
VERDICT = re.compile(
    rf"{GOOD.pattern}|{BAD.pattern}|thumbs|feedback|verdict|^use_(for|in)_|_mask$|^train_|^status$",
    re.IGNORECASE,
)
"""Names of columns that may say that a row is not to be learned."""
THOUGHT = re.compile("reasoning|thinking", re.IGNORECASE)
"""Columns that may also only say whether there is any: `reasoning: on`."""

_READ_FROM = (
    "reasoning is read from reasoning_content, calls from tool_calls, tools from the row or a system or user "
    "message"
)


def recognized(shape: Shape) -> str:
    """`prompt_completion (prompt from question, completion from answer)`, in the words of `--map`."""
    fields = [f"{field} from {path}" for field, path in (*shape.columns.items(), *shape.beside.items())]
    if shape.better and shape.better.columns:
        fields.append(f"better from {' and '.join(shape.better.columns)}")
    fields += [f"template arguments from {', '.join(shape.variables)}"] if shape.variables else []
    name = f"{shape.format}, layout {shape.layout.name}" if shape.layout else shape.format
    name = f"{UNPAIRED}, {name}" if shape.unpaired else name
    return f"{name} ({', '.join(fields)})"


def unread_columns(shape: Shape, columns: Sequence[str], rows: Sequence[Row]) -> dict[str, str]:
    """Each column that does not reach the document -> an example; empty ones are left out."""
    held, read = Columns(columns, rows), shape.read_columns() | shape.media
    examples = {name: held.values(name) for name in columns if name not in read}
    return {name: shown(values[0]) for name, values in examples.items() if any(map(is_filled, values))}


def unread_fields(shape: Shape, rows: Sequence[Row]) -> dict[str, str]:
    """Each field of messages that only a template may read, as `messages.plan` -> an example."""
    found: dict[str, str] = {}
    for path in shape.columns.values():
        for value in (value_at(row, path) for row in rows):
            if isinstance(value, str | None) or are_bare(value):
                continue
            for message in as_messages(value) or ():
                for key, held in message.items() if isinstance(message, Mapping) else ():
                    known = key.casefold() in OF_MESSAGES or speaks_of_training(key)
                    known = known and key not in shape.misplaced(message)
                    if f"{path}.{key}" not in found and is_filled(held) and not known:
                        found[f"{path}.{key}"] = shown(held)
    return found


def still_unread(shape: Shape) -> dict[str, str]:
    """What is not read, without the fields of messages that the chat template reads."""
    read = {
        name
        for name in shape.unread
        for path in shape.columns.values()
        if name not in shape.present
        and name.startswith(f"{path}.")
        and (shape.readable is None or name[len(path) + 1 :] in shape.readable)
    }
    return {name: example for name, example in shape.unread.items() if name not in read}


def grouping_columns(unread: Iterable[str], rows: Sequence[Row]) -> tuple[str, ...]:
    """Columns of short texts with at least two values and few for so many rows, as `source` or `language`."""
    found = []
    for name in unread:
        values = [row.get(name) for row in rows]
        texts = {value for value in values if isinstance(value, str) and value and len(value) <= WIDTH}
        short = all(value is None or (isinstance(value, str) and len(value) <= WIDTH) for value in values)
        if short and 2 <= len(texts) <= min(MOST_GROUPS, len(rows) // 3):
            found.append(name)
    return tuple(found)


def worth_a_warning(unread: Mapping[str, str]) -> list[str]:
    """Columns left unread that probably mean something for training."""
    return [
        name
        for name, example in unread.items()
        if any(map(_matters, (name, name.rpartition(".")[2])))
        and not (THOUGHT.search(name) and example.casefold() in SWITCHES)
    ]


def _matters(name: str) -> bool:
    found = len(name) <= LONGEST_NAME and (MATTERS.search(name) or VERDICT.search(name))
    return bool(found)


def _worth_a_warning(shape: Shape) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Columns, and fields of messages, that probably mean something for training."""
    found = [name for name in worth_a_warning(shape.unread) if name not in shape.flags]
    columns = tuple(name for name in found if name in shape.present)
    return columns, tuple(name for name in found if name not in shape.present)


def tell(sources: Sequence[str], shapes: Sequence[Shape]) -> None:
    """A line for each layout that was found, what of it is not read, and a warning where that may matter."""
    files: dict[tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...], str], list[str]] = {}
    for name, shape in zip(sources, shapes, strict=True):
        unread = ", ".join(f"{column} {example!r}" for column, example in shape.unread.items())
        rest = f"not read: {unread}" if unread else "nothing else is in it"
        line = f"{recognized(shape)}; {rest}"
        columns, fields = _worth_a_warning(shape)
        key = (line, shape.notes, columns, fields, _way_of_verdict(shape, columns))
        files.setdefault(key, []).append(name)
    for (line, notes, matters, fields, way), names in files.items():
        name = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        log.info("%s: %s", name, line)
        for note in notes:
            log.info("%s: %s", name, note)
        if matters:
            listed = ", ".join(matters)
            log.warning(
                "%s: not read, and may matter: %s (--map FIELD=COLUMN reads one%s)", name, listed, way
            )
        if fields:
            log.warning(
                "%s: fields of messages that the chat template does not read, and may matter: %s (%s)",
                *(name, _listed(fields), _READ_FROM),
            )


def _way_of_verdict(shape: Shape, columns: Sequence[str]) -> str:
    """How the first column that says true or false of whole rows leaves some out; empty without one."""
    said = [column for column in columns if shape.unread[column].casefold() in TRUTHS]
    for column in said if "label" in TAKES.get(shape.format, ()) else ():
        if GOOD.search(column):
            return f"; --map label={column} leaves out the rows where it is false"
        if BAD.search(column):
            return f"; --map skip={column} leaves out the rows where it is true"
    return ""


def late_unread(shape: Shape, over: PassedOver | None) -> dict[str, str]:
    """Columns of a source that begin after its first rows and that nothing reads -> an example."""
    return {
        column: shown for column, shown in (over.unread if over else {}).items() if column not in shape.unread
    }


def tell_passed_over(
    sources: Sequence[str], shapes: Sequence[Shape], found: Mapping[int, PassedOver]
) -> None:
    """What came to light when all rows were read: columns that begin late, rows to test with."""
    for number, over in sorted(found.items()):
        name, late = sources[number], late_unread(shapes[number], over)
        matters = worth_a_warning(late)
        if others := [f"{column} {late[column]!r}" for column in late if column not in matters]:
            log.info("%s: not read, in later rows: %s", name, _listed(others))
        of_messages = tuple(f"{path}." for path in shapes[number].columns.values())
        fields = [column for column in matters if column.startswith(of_messages)]
        if columns := [f"{column} {late[column]!r}" for column in matters if column not in fields]:
            log.warning(
                "%s: not read, in later rows, and may matter: %s (--map FIELD=COLUMN reads one that is "
                "in the first rows)",
                *(name, _listed(columns)),
            )
        if fields:
            log.warning(
                "%s: fields of messages that the chat template does not read, in later rows, and may "
                "matter: %s (%s)",
                *(name, _listed([f"{field} {late[field]!r}" for field in fields]), _READ_FROM),
            )
        for column, count in over.held_back.items():
            rows = in_number(count, "row(|s) (is|are)")
            log.warning(
                "%s: %s %s test or validation by %s and packed as well: --map split=%s leaves them out",
                *(name, f"{count:,}", rows, column, column),
            )
        for column, count in over.marked.items():
            rows = in_number(count, "row(|s) (is|are)")
            log.warning(
                "%s: %s %s marked by %s and packed as well: --map skip=%s leaves them out",
                *(name, f"{count:,}", rows, column, column),
            )


def _listed(said: Sequence[str]) -> str:
    more = len(said) - MOST_NAMED
    return ", ".join(said[:MOST_NAMED]) + (f" and {more} more" if more > 0 else "")

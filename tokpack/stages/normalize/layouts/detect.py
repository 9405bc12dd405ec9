"""Detect: the layout of a source's rows, from its columns and first rows, or as the user says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from tokpack.errors import DataError, UsageError, near_matches
from tokpack.on_disk.reasons import LABELED_BAD
from tokpack.schema import PREFERENCE, UNPAIRED
from tokpack.settings.config import RANKED, TREES, SourceConfig
from tokpack.stages.normalize.chats.roles import SPEAKERS
from tokpack.stages.normalize.chats.text_turns import marks_in, template_in
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import LESSER_COMPLETIONS, TRUTHS, plain_name, root, value_at
from tokpack.stages.normalize.formats import CHATS, FIELDS, TOKENS
from tokpack.stages.normalize.layouts.columns import NAMES, TAKES, Columns, known_fields
from tokpack.stages.normalize.layouts.find_layout import find_layout, ranked_layout
from tokpack.stages.normalize.layouts.hints import answer_beside, near_paths, way_out
from tokpack.stages.normalize.layouts.jq_hints import for_file
from tokpack.stages.normalize.layouts.layouts import Layout
from tokpack.stages.normalize.layouts.pair_checks import check_prompt, check_weight
from tokpack.stages.normalize.layouts.printed import check_printed
from tokpack.stages.normalize.layouts.speakers import check_speaker, notes_on_roles
from tokpack.stages.normalize.layouts.turn_flags import check_turn_flags
from tokpack.stages.normalize.layouts.unread import grouping_columns, unread_columns, unread_fields
from tokpack.stages.normalize.raw_rows import parse_line
from tokpack.stages.normalize.rows import tools_twice
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.values import is_repr, shown
from tokpack.stages.read.blocks import chunks
from tokpack.stages.read.containers import AS_TEXT, HEAD_BYTES, recognize
from tokpack.stages.read.faults import Unreadable, readable_rows
from tokpack.stages.read.sources import Source
from tokpack.stages.read.streams import BOM, looked_at
from tokpack.stages.read.tables import CELLS


def detect_shape(source: Source) -> Shape:
    """Recognize a source's container and row shape, or take the one that was forced.

    Raises UsageError naming the columns when nothing fits, DataError when no row can be read.
    """
    config = source.config
    if source.size_bytes == 0:
        raise DataError("the input is empty", where=source.path, hint="check the step that wrote it")
    head = recognize(source)
    rows, fault = first_rows(source, head)
    if not rows:
        raise DataError(
            f"no {source.container} row in the first lines{f', the first is {fault}' if fault else ''}",
            where=source.path,
            hint=_expected(source, fault),
        )
    columns = list(dict.fromkeys(key for row in rows for key in row))
    check_printed(source, columns, rows)
    _check_map(config, columns, rows, source)
    layout = _layout(config, columns, rows, source)
    forced = config.format not in ("auto", UNPAIRED)
    shapes = [
        Shape.of(name, config.map, columns, rows, layout if layout and layout.format == name else None)
        for name in _formats(config, layout)
        if forced or may_fit(name, config.map, columns, layout)
    ]
    fitting = shapes if forced else [shape for shape in shapes if shape.fits(rows)]
    fitting = fitting or [shape for shape in shapes if shape.fits_empty(rows)]
    if not fitting:
        held = f"their columns: {', '.join(columns)}" if columns else "they have no columns"
        raise UsageError(
            f"cannot recognize the rows of {source.name}; {held}",
            where=source.path,
            hint=_way_out(source, columns, rows),
        )
    _check_tokens(fitting, columns, source)
    check_weight(fitting[0], columns, rows, source)
    check_prompt(fitting[0], columns, rows, source)
    check_turn_flags(fitting[0], rows, source)
    found = _labeled(fitting[0], config, rows, source)
    found = replace(found, notes=(*found.notes, *_notes_on_texts(found, columns, rows)))
    found = replace(found, notes=(*found.notes, *_notes_on_prompts(found, rows)))
    if found.format in CHATS and "tools" in found.beside and any(tools_twice(row, found) for row in rows):
        note = f"system messages hold the tools already: {found.beside['tools']} is not given again"
        found = replace(found, notes=(*found.notes, note))
    found = replace(found, notes=(*found.notes, *_other_chats(found, columns, rows)))
    found = replace(found, notes=(*found.notes, *notes_on_roles(found, rows, source)))
    unread = unread_columns(found, columns, rows) | unread_fields(found, rows)
    return replace(found, unread=unread, grouping=grouping_columns(unread, rows))


def _notes_on_texts(shape: Shape, columns: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """What to say of texts that are trained whole, though they hold chats or have an answer beside them."""
    if shape.format != "text":
        return []
    column = shape.columns["text"]
    texts = [text for row in rows if isinstance(text := value_at(row, column), str)]
    chats = [marks for text in texts if (marks := marks_in(text))]
    others = [name for text in texts if (name := template_in(text))]
    if chats:
        return [
            f"{column} holds chats in {len(chats)} of the first {len(texts)} rows (marks as {chats[0]}), "
            f"trained whole; --map messages={column} trains their answers alone"
        ]
    if others:
        return [
            f"{column} holds chats in {len(others)} of the first {len(texts)} rows, as the chat template of "
            f"{others[0]} writes them, trained whole; written as messages, their answers are trained alone"
        ]
    if answer := answer_beside(column, columns, rows):
        return [
            f"{column} is trained whole, without {answer}; --map prompt={column},completion={answer} trains "
            f"{answer} alone"
        ]
    return []


def _notes_on_prompts(shape: Shape, rows: list[dict[str, Any]]) -> list[str]:
    """What to say of prompts that are all the same, as `-` where the question stands in another set."""
    path = shape.columns.get("prompt", shape.columns.get("instruction", ""))
    alone = not {"input", "history", "system"} & {*shape.columns, *shape.beside}
    if len(rows) < MANY or not alone or shape.row_by_row:
        return []
    asked = {value for row in rows if isinstance(value := value_at(row, path), str)}
    answers = {
        str(value_at(row, column)) for row in rows for column in shape.columns.values() if column != path
    }
    if len(asked) > 1 or len(answers) < MANY or not asked:
        return []
    return [
        f"{path} is {shown(asked.pop())!r} in each of the first {len(rows)} rows: does another column hold "
        "what is asked?"
    ]


def _other_chats(shape: Shape, columns: list[str], rows: list[dict[str, Any]]) -> list[str]:
    """What to say of columns that hold other chats than the one that is read."""
    if shape.format not in CHATS or shape.layout:
        return []
    [read] = shape.columns.values()
    others = [
        column
        for column in columns
        if column not in shape.read_columns()
        and any((chat := as_messages(row.get(column))) and chat != as_messages(row.get(read)) for row in rows)
    ]
    return [
        f"{column} holds other messages than {read}: --map messages={column} takes them" for column in others
    ]


def _layout(
    config: SourceConfig, columns: list[str], rows: list[dict[str, Any]], source: Source
) -> Layout | None:
    """The known layout of the rows. Raises UsageError for one that the user must say how to read."""
    if config.format == RANKED:
        layout = ranked_layout(columns, rows)
        if layout is None:
            raise UsageError(
                "no column holds a list of rated answers",
                where=source.path,
                hint="a list of objects is expected, each with a text and a rank, score or rating",
            )
        return layout
    layout = find_layout(columns, rows)
    if layout is None or (layout.hint and (config.map or config.format != "auto")):
        return None
    if layout.hint:
        hint = for_file(layout.hint, source, rows)
        raise UsageError(f"{source.name}: {layout.reason}", where=source.path, hint=hint)
    own = {**layout.fields, **config.map}
    if config.format not in ("auto", layout.format, _unpaired_name(layout)) or any(
        own.get(side) != layout.fields.get(side) for side in ("chosen", "rejected")
    ):
        return None
    return layout


def _formats(config: SourceConfig, layout: Layout | None) -> list[str]:
    """The formats to try, in order: those that have a place for every field that the user named."""
    if config.format == RANKED:
        return [PREFERENCE]
    if config.format in TREES:
        return ["messages"]
    named = set(config.map)
    order = [layout.format] if layout else []
    order += [name for name in FIELDS if name not in order]
    if config.format == UNPAIRED:
        named, order = named | {"label"}, [name for name in order if "label" in TAKES.get(name, ())]
    elif config.format != "auto":
        return [config.format]
    return [name for name in order if named <= known_fields(name, named)]


def may_fit(name: str, mapping: Mapping[str, str], columns: list[str], layout: Layout | None) -> bool:
    """Whether each field that the format needs has a column of one of its names: others are not tried."""
    if layout is not None and layout.format == name:
        return True
    held = {plain_name(column) for column in columns}
    for target in FIELDS[name]:
        lesser = LESSER_COMPLETIONS if target == "completion" else ()
        names = (*NAMES.get(target, (target,)), *lesser)
        if target not in mapping and not any(
            {*map(plain_name, (one, one.partition(".")[0]))} & held for one in names
        ):
            return False
    return True


def _unpaired_name(layout: Layout) -> str:
    """The format under which rows of the layout are unpaired preferences; empty where it has no label."""
    return UNPAIRED if "label" in TAKES.get(layout.format, ()) else ""


def _labeled(shape: Shape, config: SourceConfig, rows: list[dict[str, Any]], source: Source) -> Shape:
    """The shape, whose labels are trained on where the user says so; answers that their row calls bad are not
    taught without a word."""
    path = shape.beside.get("label")
    if config.format == UNPAIRED:
        if path is None:
            raise UsageError(
                f"{source.name}: no column says which answers are good",
                where=source.path,
                hint="--map label=COLUMN names one of true and false (or 1 and 0)",
            )
        return replace(shape, unpaired=True)
    if path is None or "label" in config.map or config.format != "auto":
        return shape
    bad = sum(TRUTHS.get(str(value_at(row, path)).casefold()) is False for row in rows)
    if bad:
        raise UsageError(
            f"{source.name} holds unpaired preferences: {path} calls {bad} of the first {len(rows)} "
            "answers bad",
            where=source.path,
            hint=f"--format {UNPAIRED} packs both, for KTO; --map label={path} trains the good answers and "
            f"leaves out the others as {LABELED_BAD}",
        )
    return shape


LOOKED_AT = 1 << 20
"""Bytes of the head that are looked at for rows."""
MANY = 10
"""Rows from which on it is told that they all ask the same."""
ONE_A_LINE = 'one JSON object a line is expected; of one array of objects say .json, or container = "json"'


def _expected(source: Source, fault: str) -> str:
    if fault.startswith("not UTF-8"):
        return "convert the file to UTF-8: iconv -f LATIN1 -t UTF-8"
    if fault.startswith("the header has 1 cells"):
        return "what separates its cells is no comma? Of tabs name it .tsv; else save it with commas"
    if fault.endswith("but an array"):
        return 'write each row as an object: of a list of messages {"messages": [...]}'
    if fault and source.container in ("jsonl", "json"):
        return f"{ONE_A_LINE}; jq -c . FILE > rows.jsonl writes objects so that take several lines"
    if source.config.format in TREES:
        return "no tree has an answer: a message needs message_id, text, role; the first a parent_id of null"
    return "there are no rows in it: check the step that wrote it"


def _way_out(source: Source, columns: list[str], rows: list[dict[str, Any]]) -> str:
    printed = [name for name in columns if any(is_repr(row.get(name)) for row in rows)]
    if printed:
        return f"{printed[0]} is what Python prints, not JSON: write it with json.dumps, or save as JSONL"
    cells = source.container in CELLS
    marks = [mark for mark in ";\t|," if mark in "".join(columns)]
    if cells and len(columns) == 1 and marks:
        way = {"\t": "name it .tsv", ",": "name it .csv"}.get(marks[0], "save the file with commas")
        return f"cells are separated by {marks[0]!r}: {way}"
    way = way_out(columns, rows)
    way = way if source.container == "json" else for_file(way, source, rows)
    if cells and any(re.search(r"\s.*[.?!]$", name) for name in columns):
        way = "the first line names the columns: write prompt,completion above it"
    return f"{way}; {AS_TEXT}" if source.note else way


def first_rows(source: Source, head: bytes, count: int = 100) -> tuple[list[dict[str, Any]], str]:
    """Up to `count` readable rows from the head of a source, to recognize its format from, and what is wrong
    with the first unreadable one. `head`: its first bytes, which may be all."""
    if source.container == "text":
        return [{"text": ""}], ""
    if _is_whole(source, head):
        return _parsable(head[: head.rfind(b"\n") + 1] or head, count)
    with looked_at(source):
        found: list[dict[str, Any]] = []
        fault, size = "", 0
        for _, _, _, data in chunks(replace(source, head_only=True), 1 << 16):
            left = count - len(found)
            rows, first = _parsable(data, left) if isinstance(data, bytes) else _readable(data, left)
            size += len(data) if isinstance(data, bytes) else data.nbytes
            found, fault = found + rows, fault or first
            if len(found) == count or size >= LOOKED_AT:
                break
    return found, fault


def _is_whole(source: Source, head: bytes) -> bool:
    """Whether `head` is all there is of a file of JSON lines."""
    plain = source.container == "jsonl" and not source.compression and source.config.format not in TREES
    return plain and len(head) < HEAD_BYTES and 0 < (source.size_bytes or 0) <= len(head) + len(BOM)


def _readable(table: pa.Table, count: int) -> tuple[list[dict[str, Any]], str]:
    rows = readable_rows(table.slice(0, count))
    faults = [row.reason for row in rows if isinstance(row, Unreadable)]
    return [row for row in rows if not isinstance(row, Unreadable)], next(iter(faults), "")


def _parsable(data: bytes, count: int) -> tuple[list[dict[str, Any]], str]:
    rows: list[dict[str, Any]] = []
    fault = ""
    for line in data.split(b"\n")[: 10 * count]:
        if not line.strip():
            continue
        row, reason = parse_line(line)
        if row is not None:
            rows.append(row)
        fault = fault or reason
        if len(rows) == count:
            break
    return rows, fault


def _check_tokens(fitting: list[Shape], columns: list[str], source: Source) -> None:
    """Ids beside a text are not taken, or left, without a word; nor are rows of several documents."""
    if fitting[-1].format != TOKENS:
        return
    if len(fitting) > 1:
        raise UsageError(
            f"the rows hold both {fitting[0].format} and input_ids",
            where=source.path,
            hint=f"--format tokens takes the ids as they are, --format {fitting[0].format} the text",
        )
    if "seq_lengths" in columns:
        raise UsageError(
            "the rows are packed already: several documents each, as seq_lengths says",
            where=source.path,
            hint="`tokpack repack` and `tokpack merge` take them; of other sets give one document a row",
        )


def _check_map(config: SourceConfig, columns: list[str], rows: list[dict[str, Any]], source: Source) -> None:
    targets = {field for name in FIELDS for field in known_fields(name, set(config.map))} | {"better"}
    held = Columns(columns, rows)
    for target, path in config.map.items():
        if target in SPEAKERS:
            check_speaker(path, rows, source)
            continue
        if target not in targets:
            raise UsageError(
                f"--map: no field {target!r}", where=source.path, hint=near_matches(target, targets)
            )
        column = root(path, columns)
        if column not in columns:
            near = near_paths(path, rows) or near_matches(path, columns)
            raise UsageError(f"--map: no column {path!r}", where=source.path, hint=near)
        if path not in columns and not held.values(path):
            values, near = held.values(column), near_paths(path, rows)
            raise UsageError(
                f"--map: nothing stands at {path!r} in the first rows",
                where=source.path,
                hint=f"{near} {column} holds {shown(values[0]) if values else 'nothing'}".strip(),
            )

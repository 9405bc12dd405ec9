"""The way out for rows of no known layout: the command to try, made from the file's own columns."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from tokpack.errors import near_matches
from tokpack.on_disk.reasons import PROMPTS_ONLY
from tokpack.schema import PREFERENCE
from tokpack.stages.normalize.chats.turns import as_messages
from tokpack.stages.normalize.fields import CHATS as CHAT_COLUMNS
from tokpack.stages.normalize.fields import PROMPTS, Row, as_json, is_filled, known_paths
from tokpack.stages.normalize.formats import CHATS, FIELDS, TOKENS
from tokpack.stages.normalize.layouts.columns import NAMES, Columns
from tokpack.stages.normalize.layouts.commands import ROWS, at, quoted
from tokpack.stages.normalize.layouts.dialogs import way_of_dialog
from tokpack.stages.normalize.layouts.exchanges import way_to_chat
from tokpack.stages.normalize.layouts.wrapped_rows import way_to_rows
from tokpack.stages.normalize.values import shown

ASKING = re.compile(
    r"prompt|question|quer(y|ies)|problem|instruction|input|user|human|article|document|source|dialogue|passage|premise"
    r"|goal|task|src|docstring|descri|intent|frage|anweisung|pregunta|instrucci|pergunta|domanda|вопрос|问题|指令|輸入|输入|質問|질문",
    re.IGNORECASE,
)
ANSWERING = re.compile(
    r"answer|response|output|completion|solution|target|summar|highlight|reply|assistant|generation|translation\b"
    r"|code|result|candidate|continuation|tgt|abstract|^labels?$|(^|_)sql$|^patch$|antwort|respuesta|réponse|resposta|risposta|ответ|回答|答案|答え|输出|輸出|응답|답변",
    re.IGNORECASE,
)
BETTER = re.compile(r"chosen|prefer|accept|\bgood|\bwin|best|positive", re.IGNORECASE)
WORSE = re.compile(r"reject|non_?prefer|dispref|\bbad|\blos|worst|negative", re.IGNORECASE)
BESIDE = re.compile(r"context|kontext|passage|background|背景", re.IGNORECASE)
ABOUT = re.compile(
    r"(^|[_.])(ids?|ids?_list|uuid|hash|kwargs|model|models|policy|source|category|lang|language|license|url|worker|split|key|types?|toks|tokens|"
    r"path|file|filename|ext|hexsha|sha|sha\d+|repo|size|copies|created(_?at)?|updated(_?at)?|timestamp|"
    r"label|metadata|date|(sub_)?topic|role(_\d+)?|from|(user)?name|nick(name)?|object|status|method|(finish|stop)_?reason)(\.0)?$|(^|[_.])(distilabel_)?metadata\.",
    re.IGNORECASE,
)
"""Paths of what is told about a row."""
LABELS = ("label", "Label", "labels")
"""Names under which also texts to be learned stand."""
DEPTH = 3
"""Levels that are looked into for texts."""
SHOWN = 8


def way_out(columns: Sequence[str], rows: Sequence[Row]) -> str:
    """Names the texts of the rows, the nearest format, and a command."""
    held = Columns(columns, rows)
    if prompts := _prompts_only(columns, held):
        text = all(isinstance(value, str) for value in held.values(prompts))
        itself = f"; --map text={prompts} trains on the prompts themselves" if text else ""
        return f"rows of {PROMPTS_ONLY}{itself}"
    if way := way_to_rows(columns, rows) or _way_of_column(columns, held):
        return way
    texts = list(dict.fromkeys(path for row in rows for path, _ in _texts(row, "", DEPTH)))
    texts = [path for path in texts if not _is_about(path, held)] or [p for p in texts if p in columns]
    if way := way_to_chat(rows):
        return _with_answers(way, texts, held)
    if not texts:
        return "no column holds a text: say what is what with --map prompt=COLUMN,completion=COLUMN"
    numbers = [
        name
        for name in columns
        if ANSWERING.search(name) and (values := held.values(name)) and not any(map(_has_text, values))
    ]
    if numbers:
        value = held.values(numbers[0])[0]
        way = "write it out in a column of its own"
        if isinstance(value, bool | int | float):
            way = f"{ROWS.format(f'{at(numbers[0])} |= tostring')} writes it as one"
        return (
            f"{numbers[0]} holds {shown(value)}, not a text: {way}, then "
            f"--map prompt=COLUMN,completion=COLUMN; texts stand in {', '.join(texts[:SHOWN])}"
        )
    command = _command(texts, held)
    near = _near(held) if command.startswith("text=") else ""
    more = f"{', '.join(texts[:SHOWN])}{' and more' if len(texts) > SHOWN else ''}"
    return f"try --map {quoted(command)}; texts stand in {more}{f'; {near}' if near else ''}"


def _with_answers(way: str, texts: list[str], held: Columns) -> str:
    """The way to a chat without an answer, with the columns that may hold one."""
    found = [
        path
        for path in texts
        if ANSWERING.search(path) and any(isinstance(v, str) for v in held.values(path))
    ]
    if "completion=COLUMN" not in way or not found:
        return way
    if len(found) == 1:
        way = way.replace(
            "no answer to it was found: where one is in another column, ", f"{found[0]} may be its answer: "
        )
        return way.replace("completion=COLUMN", f"completion={found[0]}")
    return f"{way}; texts stand in {', '.join(found[:SHOWN])}"


def answer_beside(column: str, columns: Sequence[str], rows: Sequence[Row]) -> str:
    """The column of what may be the answers to the texts in another one; empty where there is none."""
    held = Columns(columns, rows)
    others = [
        name for name in columns if name != column and ANSWERING.search(name) and not ABOUT.search(name)
    ]
    texts = [name for name in others if any(isinstance(v, str) and " " in v for v in held.values(name))]
    return _longest(texts, held)


def _way_of_column(columns: Sequence[str], held: Columns) -> str:
    """The way to a chat that a column holds; empty where none does."""
    for column in columns:
        values = held.values(column)
        if way := way_of_dialog(column, values, column.casefold() in CHAT_COLUMNS):
            return way
        if any(isinstance(value, list) and value and isinstance(value[0], str) for value in values):
            named = column.casefold() in CHAT_COLUMNS and len(values[0]) > 1
            if named or (not ANSWERING.search(column) and any(map(_is_chat, values))):
                way = f"--map {quoted(f'messages={column}')} reads them as user and assistant in turn"
                return f"{column} is a list of texts: {way}"
        elif any(_is_chat(value) for value in values):
            return f"{column} looks like a chat: --map {quoted(_map_of_chat(column, values))}"
        elif column.casefold() in CHAT_COLUMNS and (keys := _keys_of_objects(values)):
            return (
                f"{column} holds objects of {', '.join(keys)}: a message says who speaks in role or from, "
                "as user and assistant, and what in content or value"
            )
    return ""


def _keys_of_objects(values: Sequence[Any]) -> list[str]:
    """The first keys of a list of objects; none for anything else."""
    lists = [held for value in values if isinstance(held := as_json(value), list) and held]
    objects = bool(lists) and all(isinstance(item, dict) for held in lists for item in held)
    return list(dict.fromkeys(key for item in lists[0] for key in item))[:SHOWN] if objects else []


def _prompts_only(columns: Sequence[str], held: Columns) -> str:
    """The column of prompts, where no other holds a text; empty where a chat in it has an answer."""
    texts = [c for c in columns if not _is_about(c, held) and any(map(_has_text, held.values(c)))]
    if len(texts) != 1 or texts[0].casefold() not in PROMPTS:
        return ""
    chats = (as_messages(value, named=True) or [] for value in held.values(texts[0]))
    roles = {message.get("role", "") for chat in chats for message in chat if isinstance(message, dict)}
    return texts[0] if roles <= {"system", "developer", "user"} else ""


def near_paths(path: str, rows: Iterable[Any]) -> str:
    """`"did you mean 'meta.x'?"`; empty where no column or path is near."""
    known = known_paths(rows)
    return near_matches(path, known) if get_close_matches(path, known) else ""


def _is_about(path: str, held: Columns) -> bool:
    """Whether it is told of a row, and no text of several words under such a name."""
    said = path in LABELS and any(isinstance(v, str) and len(v.split()) > 1 for v in held.values(path))
    return ABOUT.search(path) is not None and not said


def _is_chat(value: Any) -> bool:
    messages = as_messages(value, named=True) or []
    texts = [message.get("content") for message in messages if isinstance(message, dict)]
    return len(messages) > 1 and all(isinstance(text, str) and " " in text for text in texts[:2])


def _map_of_chat(column: str, values: Sequence[Any]) -> str:
    """Also for a request that holds system and tools beside its messages."""
    request = as_json(values[0])
    if not isinstance(request, dict) or not isinstance(request.get("messages"), list):
        return f"messages={column}"
    beside = [key for key in ("system", "tools") if is_filled(request.get(key))]
    return ",".join(f"{key}={column}.{key}" for key in ("messages", *beside))


def _command(texts: list[str], held: Columns) -> str:
    worse = _longest([path for path in texts if WORSE.search(path)], held)
    better = _longest([path for path in texts if BETTER.search(path) and not WORSE.search(path)], held)
    rest = [path for path in texts if path not in (better, worse)]
    asked = _longest([path for path in rest if ASKING.search(path) and not ANSWERING.search(path)], held)
    if better and worse:
        asked = asked or _longest(rest, held)
        prompt = f"prompt={asked}," if asked else ""
        return f"{prompt}chosen={better},rejected={worse}"
    answered = _longest([path for path in texts if ANSWERING.search(path) and path != asked], held)
    long = sorted(texts, key=lambda path: -_length(path, held))
    if not answered or not asked:
        two = sorted([path for path in long if path not in (answered, asked)][:2], key=texts.index)
        answered = answered or (two[-1] if two else "")
        asked = asked or next((path for path in two if path != answered), "")
    if not asked or not answered:
        return f"text={long[0]}"
    others = [path for path in texts if path not in (asked, answered)]
    near = f"{answered.rpartition('.')[0]}.input"
    beside = next((path for path in others if BESIDE.search(path) or path == near), "")
    given = f",input={beside}" if beside else ""
    return f"prompt={asked}{given},completion={answered}"


def _near(held: Columns) -> str:
    """The format of which one column is missing, and which."""
    for name, fields in FIELDS.items():
        if name == TOKENS or name in CHATS or len(fields) < 2:
            continue
        found = {field: held.find(NAMES.get(field, (field,))) for field in fields}
        missing = [field for field, columns in found.items() if not any(map(held.values, columns))]
        if len(missing) == 1:
            there = next(columns[0] for columns in found.values() if any(map(held.values, columns)))
            kind = "a pair" if name == PREFERENCE else name
            return f"with {there} it would be {kind} if {missing[0]} were named"
    return ""


def _texts(value: Any, path: str, depth: int) -> Iterator[tuple[str, str]]:
    """(path, text) of the texts in a value; of a list the first entry."""
    value = as_json(value) if path else value
    if isinstance(value, str):
        if path and is_filled(value):
            yield path, value
        return
    if not depth:
        return
    items = (
        value.items()
        if isinstance(value, dict)
        else [("0", value[0])]
        if isinstance(value, list) and value
        else []
    )
    for key, item in items:
        yield from _texts(item, f"{path}.{key}" if path else str(key), depth - 1)


def _has_text(value: Any) -> bool:
    return isinstance(value, str) or any(True for _ in _texts(value, "x", DEPTH))


def _longest(paths: list[str], held: Columns) -> str:
    return max(paths, key=lambda path: _length(path, held), default="")


def _length(path: str, held: Columns) -> int:
    return sum(len(str(value)) for value in held.values(path))

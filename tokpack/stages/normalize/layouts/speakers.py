"""Who speaks in the first chats of a source: names that no template knows, and a system that answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

from tokpack.errors import UsageError, near_matches
from tokpack.stages.normalize.chats.blocks import ROLE_KEYS
from tokpack.stages.normalize.chats.roles import is_unknown, spoken
from tokpack.stages.normalize.fields import Row, as_json
from tokpack.stages.normalize.formats import CHATS
from tokpack.stages.normalize.layouts.columns import Columns
from tokpack.stages.normalize.layouts.commands import ROWS, at
from tokpack.stages.normalize.layouts.dialogs import way_of_dialog
from tokpack.stages.normalize.layouts.jq_hints import for_file
from tokpack.stages.normalize.rows import row_to_document
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.sources import Source

MOST = 5
"""Unknown roles that are named."""


def notes_on_roles(shape: Shape, rows: Sequence[Row], source: Source) -> list[str]:
    """What to say of roles whose messages no template knows. Raises UsageError where the system answers in
    every chat and no assistant does: nothing would be trained."""
    if shape.format not in CHATS:
        return []
    [path] = shape.columns.values()
    if source.config.format == "auto" and (way := way_of_dialog(path, Columns([], rows).values(path))):
        raise UsageError(
            f"{source.name}: no role is named", where=source.path, hint=for_file(way, source, rows)
        )
    chats: list[Sequence[str | None]] = []
    declaring: list[str] = []
    for row in rows:
        with suppress(Exception):  # a row that cannot be read is told of when its turn comes
            document = row_to_document(row, shape)
            chats.append(document.roles)
            turns = zip(document.roles, document.contents, strict=True)
            declaring += [role for role, text in turns if role and is_unknown(role) and _are_tools(text)][:1]
    if declaring:
        way = for_file(_tools_beside(declaring[0], shape), source, rows)
        said = f"messages of {declaring[0]!r} hold tools, and no template knows that role"
        if len(declaring) == len(chats) and source.config.format == "auto":
            raise UsageError(f"{source.name}: {said}", where=source.path, hint=way)
        return [f"{said}: {way}"]
    talks = [roles for roles in chats if len(roles) > 1]
    if source.config.format == "auto" and talks and all(map(_is_answered_by_system, talks)):
        raise UsageError(
            f"{source.name}: system speaks after the user, and no assistant does: nothing is there to train",
            where=source.path,
            hint="--map assistant=system says that it is the assistant",
        )
    strange = list(dict.fromkeys(str(role) for roles in chats for role in roles if is_unknown(role)))
    if not strange:
        return []
    said = ", ".join(map(repr, strange[:MOST]))
    way = "--map user=NAME,assistant=NAME says who is who"
    return [f"messages of roles that no template knows: {said}; {way}"]


def _are_tools(text: str | None) -> bool:
    """Whether a message is a list of tools in JSON, as Kimi's `tool_declare`."""
    tools = as_json(text)
    return isinstance(tools, list) and bool(tools) and all(map(_is_tool, tools))


def _is_tool(value: Any) -> bool:
    function = value.get("function", value) if isinstance(value, Mapping) else None
    return isinstance(function, Mapping) and "name" in function


def _tools_beside(role: str, shape: Shape) -> str:
    """What puts the tools of such messages into a column."""
    [path] = shape.columns.values()
    chat = at(path) if path in shape.present else f".{path}"
    who, what = shape.message_keys
    tools = f'[{chat}[] | select(.{who} == "{role}").{what} | if type == "string" then fromjson else . end]'
    program = f'.tools = ({tools} | add) | {chat} |= map(select(.{who} != "{role}"))'
    return f"{ROWS.format(program)} puts them beside the messages"


def _is_answered_by_system(roles: Sequence[str | None]) -> bool:
    return "assistant" not in roles and ("user", "system") in pairwise(roles)


def check_speaker(name: str, rows: Sequence[Row], source: Source) -> None:
    """Raises UsageError where nobody speaks by that name in the first rows."""
    names = list(dict.fromkeys(said for row in rows for said in _names(row)))
    if spoken(name) not in map(spoken, names):
        raise UsageError(
            f"--map: nobody is called {name!r} in the first rows",
            where=source.path,
            hint=near_matches(name, names),
        )


def _names(value: Any) -> Iterator[str]:
    """Names of speakers at any depth."""
    value = as_json(value)
    if isinstance(value, Mapping):
        yield from (said for key in ROLE_KEYS if isinstance(said := value.get(key), str))
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _names(item)

"""Names of roles: who speaks, as templates call them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import polars as pl

ROLE_ALIASES = {
    "developer": "system",
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "chatbot": "assistant",
    "model": "assistant",
    "ai": "assistant",
    "observation": "tool",
    "environment": "tool",
    "tool_responses": "tool",
    "tool_results": "tool",
    "tool_outputs": "tool",
    "function_responses": "tool",
    "function_response": "tool",
    "function_result": "tool",
    "tool_response": "tool",
    "tool_result": "tool",
    "tool_output": "tool",
    "function": "tool",
    "ipython": "tool",
}
CALLS = ("function_call", "tool_call", "function_calls", "tool_calls")
"""Roles of turns whose content is a call in JSON: the assistant's."""
_BETWEEN = re.compile(r"[ -]")
_KNOWN = frozenset({"system", "user", "assistant", "tool", *CALLS})


@lru_cache(1024)
def role_name(role: str) -> str:
    """The role that a name stands for, in any case, with white space around, hyphens or spaces for `_`;
    unknown ones as they are."""
    name = _BETWEEN.sub("_", role.strip().rstrip(":").rstrip().lower())
    name = ROLE_ALIASES.get(name, name)
    return name if name in _KNOWN else role


def is_unknown(role: str | None) -> bool:
    """Whether it is the name of a role that is none of those."""
    return role is not None and role not in _KNOWN


SPEAKERS = ("user", "assistant", "tool")
"""Roles for which the user may name who speaks so in the data."""
Speakers = Mapping[str, str]
"""Name in the data, as `spoken` writes it -> role."""


def spoken(name: str) -> str:
    """A name by which speakers are told apart."""
    return name.strip().casefold()


def role_names(roles: pl.Series, speakers: Speakers = MappingProxyType({})) -> pl.Series:
    """The same of a column, where the user says of `speakers` who they are."""
    names = {role: speakers.get(spoken(role)) or role_name(role) for role in roles.unique().drop_nulls()}
    others = {role: name for role, name in names.items() if role != name}
    return roles.replace(others) if others else roles

"""Plug-in points are plain functions, found in this order: a callable, a built-in, `"module:function"`,
an entry point of the group `tokpack.<kind>s`. A built-in is a function, or where to load it from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from tokpack.errors import UsageError, near_matches

WHERE = {"planner": "--planner (plan.planner)", "filter": "--clean (clean.rules)", "exporter": "--to"}


def resolve(
    kind: str,
    name: str | Callable[..., Any],
    builtin: Mapping[str, str | Callable[..., Any]],
    known: Iterable[str] = (),
) -> Callable[..., Any]:
    """The function behind a name. Raises UsageError for an unknown one, with near matches, in `known` too."""
    if callable(name):
        return name
    if name in builtin:
        found = builtin[name]
        return found if callable(found) else _from_module(kind, found)
    if ":" in name:
        return _from_module(kind, name)
    installed = {entry.name: entry.value for entry in entry_points(group=f"tokpack.{kind}s")}
    if name in installed:
        return _from_module(kind, installed[name])
    near = near_matches(name, [*builtin, *installed, *known]).removesuffix("?")
    raise UsageError(
        f"no {kind} named {name!r}", where=WHERE.get(kind, kind), hint=f"{near}; your own: module:function"
    )


def _from_module(kind: str, name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    try:
        function: Callable[..., Any] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(
            f"cannot load {kind} {name!r}: {error}",
            where=WHERE.get(kind, kind),
            hint="is its folder on PYTHONPATH?",
        ) from None
    if not callable(function):
        raise UsageError(f"{kind} {name!r} is not a function", where=WHERE.get(kind, kind))
    return function

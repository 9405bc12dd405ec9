"""Calls written as Python writes them, as OLMo's data has them, `count(pond=1)`, one a line, or in a list; as
Python prints them (Toucan); or with their arguments in single quotes (glaive).
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Iterator
from typing import Any

LONGEST = 1 << 16
"""Characters of a text that is looked into."""


def python_calls(text: str) -> list[dict[str, Any]]:
    """The calls of a text, with named arguments and plain values; none where it holds anything else."""
    if len(text) > LONGEST:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip())
        return [_call(node) for statement in tree.body for node in _nodes(statement)]
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return []


def printed_calls(text: str) -> list[dict[str, Any]]:
    """The calls that a text holds as Python prints them, one or a list; none where it is JSON, or holds
    anything else."""
    if len(text) > LONGEST or not _PRINTED.match(text) or _is_json(text):
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = json.loads(json.dumps(ast.literal_eval(text.strip())))
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return []
    calls = value if isinstance(value, list) else [value]
    return calls if all(map(_is_call, calls)) else []


_PRINTED = re.compile(r"\s*(?:\[\s*)?\{\s*['\"]\w+['\"]\s*:.*'", re.DOTALL)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _is_call(value: Any) -> bool:
    """Whether it has the name of a function, by itself or under `function`."""
    held = value.get("function", value) if isinstance(value, dict) else None
    return isinstance(held, dict) and isinstance(held.get("name"), str)


def _nodes(statement: ast.stmt) -> Iterator[ast.expr]:
    if not isinstance(statement, ast.Expr):
        raise ValueError("no call")
    held = statement.value
    yield from held.elts if isinstance(held, ast.List | ast.Tuple) else (held,)


def _call(node: ast.expr) -> dict[str, Any]:
    if not isinstance(node, ast.Call) or node.args or not isinstance(node.func, ast.Name | ast.Attribute):
        raise ValueError("no call of names and values")
    named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords if keyword.arg}
    if len(named) < len(node.keywords):
        raise ValueError("an argument has no name")
    return {"name": ast.unparse(node.func), "arguments": named}

"""Calls written as Python writes them, as OLMo's data has them: `count(pond=1)`, one a line, or in a list."""

from __future__ import annotations

import ast
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

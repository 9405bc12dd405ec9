"""Loops that have found what they look for are left: templates cannot say so, and run idle to the end.

    {% for j in range(i - 1, -1, -1) %}{% if not ns.found %} ... {% endif %}{% endfor %}

When the test fails the round does nothing; as the test asks for nothing that a round changes by itself, no
later one does anything: a break there changes no text. Gemma 4 looks back so at each message, which takes a
time that grows with the square of the messages otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes


def leave_idle_loops(tree: nodes.Template) -> nodes.Template:
    """Put the breaks into a template's syntax tree, which is changed."""
    for loop in [*tree.find_all(nodes.For)]:
        branch = loop.body[0] if len(loop.body) == 1 else None
        if not isinstance(branch, nodes.If) or not _is_plain(loop) or not _stays(branch.test, loop):
            continue
        if not branch.body:
            branch.body = [nodes.Break(lineno=branch.lineno)]
        elif not branch.elif_ and not branch.else_:
            branch.else_ = [nodes.Break(lineno=branch.lineno)]
    return tree


def _is_plain(loop: nodes.For) -> bool:
    """Over numbers or a slice: nothing happens when the next item is taken."""
    over = loop.iter
    numbers = isinstance(over, nodes.Call) and isinstance(over.node, nodes.Name) and over.node.name == "range"
    sliced = isinstance(over, nodes.Getitem) and isinstance(over.arg, nodes.Slice)
    return (numbers or sliced) and not loop.recursive and loop.test is None


def _stays(test: nodes.Node, loop: nodes.For) -> bool:
    """Whether the test turns out the same in the next round if this one does nothing."""
    if any(isinstance(node, nodes.Call | nodes.Filter) for node in _within(test)):
        return False
    changing = {"loop"} | {node.name for node in _within(loop.target) if isinstance(node, nodes.Name)}
    return not any(isinstance(node, nodes.Name) and node.name in changing for node in _within(test))


def _within(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    yield from node.find_all(nodes.Node)

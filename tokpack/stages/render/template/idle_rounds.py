"""Loops that have found what they look for are left: templates cannot say so, and run idle to the end.

    {% for j in range(i - 1, -1, -1) %}{% if not ns.found %} ... {% endif %}{% endfor %}

When the test fails the round does nothing; as the test asks for nothing that a round changes by itself, no
later one does anything: a break there changes no text. Gemma 4 looks back so at each message, which takes a
time that grows with the square of the messages otherwise.

    {% for m in messages[i:] %}{% if m.role == 'assistant' %}{% set ns.found = true %}{% endif %}{% endfor %}

Whether any of the later messages is of a kind: the order of the rounds does not matter. They begin with the
last one, which mostly is, as gpt-oss asks at each call for the answer at the end of the chat.
"""

from __future__ import annotations

from collections.abc import Iterator

from jinja2 import nodes


def leave_idle_loops(tree: nodes.Template) -> nodes.Template:
    """Put the breaks into a template's syntax tree, which is changed."""
    for loop in [*tree.find_all(nodes.For)]:
        branch = loop.body[0] if len(loop.body) == 1 else None
        if isinstance(branch, nodes.If) and _asks_for_any(loop, branch):
            loop.iter = nodes.Filter(loop.iter, "reverse", [], [], None, None, lineno=loop.lineno)
            branch.body.append(nodes.Break(lineno=branch.lineno))
            continue
        if not isinstance(branch, nodes.If) or not _is_plain(loop) or not _stays(branch.test, loop):
            continue
        if not branch.body:
            branch.body = [nodes.Break(lineno=branch.lineno)]
        elif not branch.elif_ and not branch.else_:
            branch.else_ = [nodes.Break(lineno=branch.lineno)]
    return tree


def _asks_for_any(loop: nodes.For, branch: nodes.If) -> bool:
    """Whether it only sets something where a test of the item alone, which cannot fail, is true."""
    sets = [node for node in branch.body if isinstance(node, nodes.Assign)]
    constant = all(isinstance(n.target, nodes.NSRef) and isinstance(n.node, nodes.Const) for n in sets)
    sliced = isinstance(loop.iter, nodes.Getitem) and isinstance(loop.iter.arg, nodes.Slice)
    only = bool(sets) and len(sets) == len(branch.body) and not branch.elif_ and not branch.else_
    done = only and constant and sliced and not loop.else_ and not loop.recursive and loop.test is None
    return done and isinstance(loop.target, nodes.Name) and _is_of_item(branch.test, loop.target.name)


def _is_of_item(test: nodes.Node, item: str) -> bool:
    """A field of the item is compared with a constant, or looked for."""
    if isinstance(test, nodes.And | nodes.Or):
        return _is_of_item(test.left, item) and _is_of_item(test.right, item)
    if isinstance(test, nodes.Not):
        return _is_of_item(test.node, item)
    if not isinstance(test, nodes.Compare) or len(test.ops) != 1:
        return False
    left, right, how = test.expr, test.ops[0].expr, test.ops[0].op
    if how in ("in", "notin"):
        return isinstance(left, nodes.Const) and isinstance(right, nodes.Name) and right.name == item
    of_item = isinstance(left, nodes.Getattr) and isinstance(left.node, nodes.Name) and left.node.name == item
    return how in ("eq", "ne") and of_item and isinstance(right, nodes.Const)


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

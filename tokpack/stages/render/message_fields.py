"""Which fields of a message a chat template can put out: dates, countries and scores beside it are none."""

from __future__ import annotations

from jinja2 import nodes

_WHOLE = frozenset({"tojson", "items", "dictsort", "string", "list", "xmlattr", "pprint"})
"""Filters and methods that put out all of a message."""


def message_fields(tree: nodes.Template) -> frozenset[str] | None:
    """Every name and text of the template, among which are the fields that it reads; None where it puts out
    whole messages."""
    messages = {
        name.name
        for loop in tree.find_all(nodes.For)
        if any("message" in name.name for name in loop.iter.find_all(nodes.Name))
        or "message" in _name(loop.iter)
        for name in (loop.target, *loop.target.find_all(nodes.Name))
        if isinstance(name, nodes.Name)
    } | {"message"}
    whole = [(node.name, node.node) for node in tree.find_all(nodes.Filter)]
    whole += [(node.attr, node.node) for node in tree.find_all(nodes.Getattr)]
    if any(word in _WHOLE and _name(value) in messages for word, value in whole):
        return None
    words = {node.attr for node in tree.find_all(nodes.Getattr)}
    words |= {node.value for node in tree.find_all(nodes.Const) if isinstance(node.value, str)}
    return frozenset(words)


def _name(node: nodes.Node | None) -> str:
    return node.name if isinstance(node, nodes.Name) else ""

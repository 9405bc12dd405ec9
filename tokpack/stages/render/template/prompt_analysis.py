"""Is the generation prompt of a template always the same? Read from its syntax tree.

What a template writes after its last loop may depend on the messages, most often through a namespace that the
loop filled (`ns.is_tool`). Where it does not, one prompt serves every turn of every chat.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jinja2 import nodes

_DATA = frozenset({"messages", "tools", "documents"})


def prompt_is_constant(tree: nodes.Template) -> bool:
    """Nothing after the last loop of the template depends on the messages. False where that is not clear."""
    last = max((i for i, node in enumerate(tree.body) if isinstance(node, nodes.For)), default=None)
    if last is None:
        return False
    tainted = _tainted(tree)
    macros = {macro.name: macro for macro in tree.find_all(nodes.Macro)}
    waiting, seen = list(_names(tree.body[last + 1 :])), set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in macros:
            waiting += _names(macros[name].body)
    return not seen & tainted


def _tainted(tree: nodes.Template) -> set[str]:
    """Names that may hold something of the messages, by what they are set from and where."""
    tainted = set(_DATA)
    while True:
        before = len(tainted)
        _spread(tree.body, tainted, inside=False)
        if len(tainted) == before:
            return tainted


def _spread(body: Iterable[nodes.Node], tainted: set[str], inside: bool) -> None:
    """`inside`: whether a statement is reached depends on the messages."""
    for node in body:
        if isinstance(node, nodes.Assign | nodes.AssignBlock):
            value = [node.node] if isinstance(node, nodes.Assign) else node.body
            if inside or tainted.intersection(_names(value)):
                tainted.update(_targets(node.target))
        elif isinstance(node, nodes.For):
            over = inside or bool(tainted.intersection(_names([node.iter])))
            if over:
                tainted.update(_targets(node.target))
            _spread([*node.body, *node.else_], tainted, over)
        elif isinstance(node, nodes.If):
            asked = inside or bool(tainted.intersection(_names([node.test])))
            _spread([*node.body, *node.elif_, *node.else_], tainted, asked)
        elif isinstance(node, nodes.Macro | nodes.CallBlock | nodes.With | nodes.FilterBlock):
            _spread(node.body, tainted, inside)


def _names(body: Iterable[nodes.Node]) -> Iterator[str]:
    for node in body:
        if isinstance(node, nodes.Name):
            yield node.name
        for name in node.find_all(nodes.Name):
            yield name.name


def _targets(target: nodes.Node) -> Iterator[str]:
    if isinstance(target, nodes.NSRef):
        yield target.name
    yield from _names([target])

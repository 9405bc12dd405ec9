"""Abstract values of a chat template's expressions: which of them depend on message contents, and how."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Literal

from jinja2 import nodes

Kind = Literal["content", "text", "message", "list", "parts", "length", "absent"] | None
"""A content, a text built with one, a message, the list of messages, the parts of a split content, a length,
something that such messages lack; None for what does not depend on contents."""

_STRIPS: Final = {"strip", "lstrip", "rstrip"}
_SEARCHES: Final = {"startswith", "endswith", "find", "rfind", "count", "index"}
_SPLITS: Final = {"split", "rsplit", "partition", "rpartition"}
_REPLACES: Final = {"replace", "removeprefix", "removesuffix"}
_TESTS_OF_TEXT: Final = {
    **dict.fromkeys(("string", "iterable", "sequence"), True),
    **dict.fromkeys(("mapping", "number", "boolean", "integer", "float"), False),
}
_TESTS_OF_BEING: Final = {"defined": True, "undefined": False, "none": False}
_FILTERS: Final[dict[tuple[Kind, str], Kind]] = {
    ("content", "length"): "length",
    ("content", "count"): "length",
    ("parts", "first"): "content",
    ("parts", "last"): "content",
    ("parts", "length"): None,
    ("parts", "count"): None,
}


class OpaqueError(Exception):
    """The template looks into contents in a way that is not followed here."""


@dataclass
class Analysis:
    """How a template treats contents."""

    constants: set[str] = field(default_factory=set)
    """Contents that hold one of these may be treated differently."""
    empty_matters: bool = False
    """So may contents that are empty, or only whitespace."""
    opaque: str = ""
    """Why nothing can be said; empty when something can."""


class Expressions:
    """Kinds of expressions, given the kinds of names."""

    def __init__(self) -> None:
        self.result = Analysis()
        self.names: dict[str, Kind] = {"messages": "list"}
        """Kinds by name, whatever the scope; a namespace's attributes as `name.attribute`."""
        self.macros: dict[str, nodes.Macro] = {}

    def bind(self, name: str, kind: Kind) -> None:
        """The name may hold this kind, too."""
        self.names[name] = either(self.names[name], kind) if name in self.names else kind

    def truth(self, node: nodes.Node) -> bool | None:
        """The condition's value where it is the same for all chats, else None."""
        if (handler := getattr(self, f"_{type(node).__name__.lower()}_truth", None)) is not None:
            known: bool | None = handler(node)
            return known
        kind = self.kind(node)
        if kind in ("content", "text", "length"):
            self.result.empty_matters = True
        return False if kind == "absent" else None

    def _const_truth(self, node: nodes.Const) -> bool:
        return bool(node.value)

    def _not_truth(self, node: nodes.Not) -> bool | None:
        inner = self.truth(node.node)
        return None if inner is None else not inner

    def _and_truth(self, node: nodes.And) -> bool | None:
        left = self.truth(node.left)
        right = None if left is False else self.truth(node.right)
        return False if False in (left, right) else True if left and right else None

    def _or_truth(self, node: nodes.Or) -> bool | None:
        left = self.truth(node.left)
        right = None if left is True else self.truth(node.right)
        return True if True in (left, right) else False if (left, right) == (False, False) else None

    def _test_truth(self, node: nodes.Test) -> bool | None:
        kind = self.kind(node.node)
        if node.name in _TESTS_OF_BEING:
            if kind == "absent":
                return not _TESTS_OF_BEING[node.name] if node.name != "none" else False
            # A name may not be set yet where it is asked for.
            named = isinstance(node.node, nodes.Name)
            return _TESTS_OF_BEING[node.name] if kind == "content" and not named else None
        if kind in ("content", "text"):
            if node.name not in _TESTS_OF_TEXT:
                raise OpaqueError(f"the test {node.name} of a {kind}")
            return _TESTS_OF_TEXT[node.name]
        if kind == "absent":
            return False if node.name in _TESTS_OF_TEXT else None
        if kind == "message" and node.name in ("mapping", "string"):
            return node.name == "mapping"
        if kind is not None:
            raise OpaqueError(f"the test {node.name} of a {kind}")
        self.none_of(node.args)
        return None

    def _compare_truth(self, node: nodes.Compare) -> bool | None:
        kinds = [self.kind(node.expr), *(self.kind(op.expr) for op in node.ops)]
        if all(kind in (None, "absent") for kind in kinds):
            return None
        if len(node.ops) != 1:
            raise OpaqueError("a chain of comparisons with a content")
        (left, right), op = kinds, node.ops[0]
        if right == "message" and op.op in ("in", "notin") and isinstance(node.expr, nodes.Const):
            return (node.expr.value in ("role", "content")) == (op.op == "in")
        if right == "content" and op.op in ("in", "notin"):
            self.note(node.expr)
        elif left == "content" and (op.op in ("eq", "ne") or isinstance(op.expr, nodes.List | nodes.Tuple)):
            self.note(op.expr)
        elif right == "content" and op.op in ("eq", "ne"):
            self.note(node.expr)
        elif left == "length" and isinstance(op.expr, nodes.Const) and op.expr.value == 0:
            self.result.empty_matters = True
        else:
            raise OpaqueError("a comparison with a content")
        return None

    def note(self, *given: nodes.Node) -> None:
        """A content is held against these constants."""
        for node in given:
            if isinstance(node, nodes.List | nodes.Tuple):
                self.note(*node.items)
            elif isinstance(node, nodes.Const) and isinstance(node.value, str):
                if node.value:
                    self.result.constants.add(node.value)
                self.result.empty_matters |= not node.value
            else:
                raise OpaqueError("a content is compared with something that is not written out")

    def kind(self, node: nodes.Node) -> Kind:
        """Kind of an expression's value."""
        if (handler := getattr(self, f"_{type(node).__name__.lower()}_kind", None)) is not None:
            kind: Kind = handler(node)
            return kind
        self.none_of(node.iter_child_nodes())
        return None

    def _name_kind(self, node: nodes.Name) -> Kind:
        return self.names.get(node.name)

    def _nsref_kind(self, node: nodes.NSRef) -> Kind:
        return self.names.get(f"{node.name}.{node.attr}")

    def _add_kind(self, node: nodes.Add) -> Kind:
        return self._joined([node.left, node.right])

    def _concat_kind(self, node: nodes.Concat) -> Kind:
        return self._joined(node.nodes)

    def _condition_kind(self, node: nodes.Node) -> Kind:
        self.truth(node)
        return None

    _not_kind = _compare_kind = _test_kind = _condition_kind

    def none_of(self, given: Iterable[nodes.Node]) -> None:
        for node in given:
            if (kind := self.kind(node)) not in (None, "absent"):
                raise OpaqueError(f"a {kind} is used in {type(node).__name__}")

    def _joined(self, parts: Iterable[nodes.Node]) -> Kind:
        kinds = {self.kind(part) for part in parts}
        if kinds & {"list", "message", "parts", "length"}:
            raise OpaqueError("messages are put together")
        return "text" if kinds & {"content", "text"} else None

    def _or_kind(self, node: nodes.Or) -> Kind:
        self.truth(node.left)
        return either(self.kind(node.left), self.kind(node.right))

    def _and_kind(self, node: nodes.And) -> Kind:
        if self.truth(node.left) is False:
            return None
        return either(self.kind(node.left), self.kind(node.right))

    def _condexpr_kind(self, node: nodes.CondExpr) -> Kind:
        known = self.truth(node.test)
        yes = None if known is False else self.kind(node.expr1)
        no = None if known is True or node.expr2 is None else self.kind(node.expr2)
        return either(yes, no)

    def _getattr_kind(self, node: nodes.Getattr) -> Kind:
        if (attribute := f"{name_of(node.node)}.{node.attr}") in self.names:
            return self.names[attribute]
        return self._member(self.kind(node.node), node.attr)

    def _getitem_kind(self, node: nodes.Getitem) -> Kind:
        base = self.kind(node.node)
        self.none_of([node.arg])
        if base == "list":
            return "list" if isinstance(node.arg, nodes.Slice) else "message"
        if base == "parts":
            return "parts" if isinstance(node.arg, nodes.Slice) else "content"
        return self._member(base, node.arg.value if isinstance(node.arg, nodes.Const) else None)

    def _member(self, base: Kind, key: object) -> Kind:
        if base in (None, "absent"):
            return base
        if base == "message" and isinstance(key, str):
            return "content" if key == "content" else None if key == "role" else "absent"
        raise OpaqueError(f"a part of a {base}")

    def _call_kind(self, node: nodes.Call) -> Kind:
        if isinstance(node.node, nodes.Getattr):
            base = self.kind(node.node.node)
            if base not in (None, "absent"):
                return self._method(base, node.node.attr, node)
        if (name := name_of(node.node)) in self.macros:
            return self._macro_call(self.macros[name], node)
        if name == "raise_exception":
            return None
        self.none_of([*([] if name else [node.node]), *node.args, *(pair.value for pair in node.kwargs)])
        return None

    def _macro_call(self, macro: nodes.Macro, node: nodes.Call) -> Kind:
        if len(node.args) > len(macro.args) or node.dyn_args or node.dyn_kwargs:
            raise OpaqueError("a macro with arguments of any number")
        for parameter, value in zip(macro.args, node.args, strict=False):
            self.bind(parameter.name, self.kind(value))
        for pair in node.kwargs:
            self.bind(pair.key, self.kind(pair.value))
        return self.names.get(f"{macro.name}()")

    def _method(self, base: Kind, method: str, node: nodes.Call) -> Kind:
        first = node.args[0] if node.args else None
        if base == "message" and method == "get" and isinstance(first, nodes.Const):
            self.none_of(node.args[1:])
            return self._member(base, first.value)
        if base != "content" or node.kwargs:
            raise OpaqueError(f".{method}() of a {base}")
        if method in _STRIPS:
            self.none_of(node.args)
            return "content"
        if first is None or method not in _SEARCHES | _SPLITS | _REPLACES:
            raise OpaqueError(f".{method}() of a content")
        self.note(first)
        self.none_of(node.args[1:])
        return None if method in _SEARCHES else "parts" if method in _SPLITS else "content"

    def _filter_kind(self, node: nodes.Filter) -> Kind:
        if node.node is None:
            raise OpaqueError("a filter over a block")
        base, name = self.kind(node.node), node.name
        if base == "list":
            return self._filter_of_list(node)
        self.none_of([*node.args, *(pair.value for pair in node.kwargs)])
        if base in (None, "absent") or name in ("default", "d"):
            return base
        if base in ("content", "text") and name in ("trim", "string", "safe"):
            self.result.empty_matters |= base == "text"
            return base
        if base == "content" and name == "replace" and node.args:
            self.note(node.args[0])
            return "content"
        if (base, name) not in _FILTERS:
            raise OpaqueError(f"the filter {name} on a {base}")
        return _FILTERS[base, name]

    def _filter_of_list(self, node: nodes.Filter) -> Kind:
        if node.name in ("length", "count"):
            return None
        if node.name in ("first", "last"):
            return "message"
        if node.name in ("list", "reverse"):
            return "list"
        first = node.args[0] if node.args else None
        by_role = isinstance(first, nodes.Const) and first.value == "role"
        if node.name in ("selectattr", "rejectattr") and by_role:
            return "list"
        of_role = [p.value.value for p in node.kwargs if isinstance(p.value, nodes.Const)] == ["role"]
        if node.name == "map" and not node.args and of_role:
            return None
        raise OpaqueError(f"the filter {node.name} on the messages")


def name_of(node: nodes.Node) -> str:
    return node.name if isinstance(node, nodes.Name) else ""


def either(left: Kind, right: Kind) -> Kind:
    """Kind of a value that is one or the other."""
    if left == right or right in (None, "absent"):
        return None if left == "absent" and right is None else left
    if left in (None, "absent"):
        return right
    if {left, right} == {"content", "text"}:
        return "text"
    raise OpaqueError(f"one name for a {left} and a {right}")

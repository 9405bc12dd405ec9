"""Run a chat template on symbols: one run shows how every chat of a shape is written.

The template is compiled again for this, in an environment that joins texts without losing their slots, and
whose filters, tests and calls pass symbols on only where that is known to be right.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any, cast

from jinja2 import Environment, Template, nodes
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.utils import Namespace

from tokpack.stages.render.compiled.symbol_values import OpaqueObject, SymbolLength, is_symbolic, to_json
from tokpack.stages.render.compiled.symbols import Opaque, Part, Symbol, joined, parts_of
from tokpack.stages.render.template.chat_template import ENVIRONMENT, ChatTemplate, Message, RenderError
from tokpack.stages.render.template.kept_code import kept_code
from tokpack.stages.render.template.template_limits import HELD, LimitedEnvironment, check_json, held, limited

_PASSING_FILTERS = frozenset(
    {
        "default",
        "d",
        "first",
        "last",
        "list",
        "selectattr",
        "rejectattr",
        "map",
        "items",
        "dictsort",
        "reverse",
    }
)
"""Filters that hand on what they are given, or use it only in ways that symbols follow."""
_OF_JINJA = ("_loop_vars", "_block_vars")
"""Keyword arguments that Jinja adds to every call."""
_TEXT_TESTS = {"string": True, "iterable": True, "sequence": True, "mapping": False}


class _Generator(CodeGenerator):
    """Writes `a ~ b`, and `a in b`, so that symbols see them."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        self.write("environment.concat((")
        for argument in node.nodes:
            self.visit(argument, frame)
            self.write(", ")
        self.write("))")

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:  # noqa: N802
        if len(node.ops) != 1 or node.ops[0].op not in ("in", "notin"):
            super().visit_Compare(node, frame)
            return
        self.write("(not " if node.ops[0].op == "notin" else "(")
        self.write("environment.contains(")
        self.visit(node.ops[0].expr, frame)
        self.write(", ")
        self.visit(node.expr, frame)
        self.write("))")


class _SymbolicEnvironment(LimitedEnvironment):
    code_generator_class = _Generator
    intercepted_binops = frozenset({"%", "*", "**"})

    @staticmethod
    def concat(parts: Any) -> str:
        return joined([str(part) for part in parts])

    @staticmethod
    def contains(container: Any, item: Any) -> bool:
        if isinstance(item, Symbol) and isinstance(container, str):
            raise Opaque("data is sought in a text")
        return item in container

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if is_symbolic(left) or is_symbolic(right):
            raise Opaque(f"the operator {operator} on data")
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        if isinstance(getattr(value, "__self__", None), Symbol):
            return None
        return super().wrap_str_format(value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        given = [*args, *(value for name, value in kwargs.items() if name not in _OF_JINJA)]
        if not _passes(__obj) and any(map(is_symbolic, given)):
            raise Opaque(f"{getattr(__obj, '__name__', 'a function')}() is called with data")
        return super().call(__context, __obj, *args, **kwargs)


def _passes(called: Any) -> bool:
    """Whether a callable hands on its arguments as they are."""
    if isinstance(called, Macro | type) or called in _own_functions():
        return True
    owner = getattr(called, "__self__", None)
    return isinstance(owner, Symbol | dict | list | tuple | Namespace | LoopContext | Extension)


def _own_functions() -> list[Any]:
    return [ENVIRONMENT.globals["raise_exception"], ENVIRONMENT.globals["dict"]]


def _filter_of_symbols(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(plain)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if any(map(is_symbolic, [*args, *kwargs.values()])):
            raise Opaque(f"the filter {name} on data")
        return plain(*args, **kwargs)

    return guarded


def _trim(value: Any, chars: str | None = None) -> str:
    return str(value).strip(chars)


def _length(value: Any) -> int:
    return SymbolLength.of(value) if isinstance(value, Symbol) else len(value)


def _replace(value: Any, old: str, new: str, count: int | None = None) -> str:
    return str(value).replace(old, new, -1 if count is None else count)


def _join(value: Any, d: str = "", attribute: Any = None) -> str:
    items = [str(item) for item in value] if attribute is None else []
    if attribute is not None or isinstance(value, Symbol):
        raise Opaque("the filter join by an attribute")
    return joined(text for i, item in enumerate(items) for text in ([d] * (i > 0) + [item]))


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    check_json(indent, separators)
    between = separators and tuple(separators)
    names = ("ensure_ascii", "indent", "separators", "sort_keys")
    return to_json(value, tuple(zip(names, (ensure_ascii, indent, between, sort_keys), strict=True)))


def _text_test(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    def test(value: Any) -> bool:
        if isinstance(value, Symbol):
            return _TEXT_TESTS[name]
        if isinstance(value, OpaqueObject):
            return name != "string"
        return bool(plain(value))

    return test


def _environment() -> Environment:
    env = _SymbolicEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[type(e) for e in ENVIRONMENT.extensions.values()]
    )
    env.globals |= ENVIRONMENT.globals
    for name, plain in ENVIRONMENT.filters.items():
        env.filters[name] = plain if name in _PASSING_FILTERS else _filter_of_symbols(name, plain)
    env.filters |= {
        "tojson": _tojson,
        "trim": _trim,
        "string": str,
        "length": _length,
        "count": _length,
        "replace": _replace,
        "join": _join,
        HELD: held,
    }
    for name in _TEXT_TESTS:
        env.tests[name] = _text_test(name, cast(Callable[..., Any], env.tests[name]))
    return env


_ENVIRONMENT = _environment()


@functools.lru_cache(maxsize=32)
def _code(source: str) -> CodeType:
    """Of a template, the same for all its variables."""
    return kept_code("symbolic", source, lambda: _ENVIRONMENT.compile(source))


class SymbolicTemplate:
    """A chat template that can be run on symbols. Safe to share between threads."""

    def __init__(self, template: ChatTemplate) -> None:
        self._template = template
        globals_of_template = _ENVIRONMENT.make_globals(template.functions)
        self._compiled = Template.from_code(_ENVIRONMENT, _code(template.source), globals_of_template)

    def run(self, messages: Sequence[Message], tools: Any) -> tuple[Part, ...]:
        """What is written, in parts. Raises Opaque, or RenderError when the template fails."""
        inputs = self._template.inputs(messages, tools)
        try:
            with limited():
                return parts_of(joined(map(str, self._compiled.generate(**inputs))))
        except Exception as error:  # a template is a program: it can fail in any way
            raise RenderError(str(error) or type(error).__name__) from error

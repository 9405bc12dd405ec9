"""Limits of chat templates, which are programs that anyone may have written: steps, time, size.

Rounds of loops and calls of macros are counted as they run, what a variable takes and what is written is
measured, and operators that make much out of little are refused before they do. Counting is the same on every
machine; time is only the last resort, for work within one step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import BuiltinMethodType
from typing import Any

from jinja2 import nodes
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from tokpack.stages.render.template.idle_rounds import leave_idle_loops

MOST_STEPS = 1_000_000
STEPS_OF_PAIR = 8
"""Further steps for each pair of messages: Gemma 4 looks through all messages at each of them."""
MOST_SECONDS = 60.0
MOST_CHARACTERS = 1 << 28
"""That one document becomes, or that its variables take one after another, eightfold."""
LONGEST_NUMBER = 1 << 16
"""Bits: nothing stops Python within one product or division, which of millions of digits takes minutes."""
LARGEST_WIDTH = 1_000_000
"""Of what is filled up, indented, rounded or cut into parts."""
WIDEST_JSON = 64
"""Of each level of indented JSON, and of what stands between its values."""
WIDEST_DATE = 1000
"""Characters of a date's form."""
HELD = "tokpack_held"
"""Name of the filter that assigned values pass; a filter is called without a way through the sandbox."""
ITEM = 32
"""Characters that an item of a list counts for."""
MACRO = 16
"""Steps that a call of a macro counts for."""
LOOK_AT_CLOCK = 256
MOST_NAMES = 4096
"""Attributes of types that are kept as safe or not."""
MANY = 20
"""So many documents beyond a limit say that it is the template, not the documents."""
_FORMATS = frozenset({"format", "format_map"})
_SCOPES = ("_loop_vars", "_block_vars")
"""What jinja's compiled templates add to each call, for functions that take the context."""
_WIDTHS = frozenset({"center", "ljust", "rjust", "zfill", "expandtabs", "indent", "batch", "slice", "round"})
_WIDTHS |= {"truncate", "wordwrap"} | _FORMATS

CHECKED_FILTERS = (
    "join",
    "replace",
    "center",
    "indent",
    "batch",
    "slice",
    "round",
    "truncate",
    "wordwrap",
    "format",
    "int",
    "sum",
)


class LimitError(Exception):
    """The template did more than a document can need."""


@dataclass(slots=True)
class _Budget:
    steps: int
    characters: int
    until: float
    granted: int
    """Steps at the beginning."""


_budget: ContextVar[_Budget | None] = ContextVar("tokpack_template_budget", default=None)


@contextmanager
def limited(messages: int = 0) -> Iterator[None]:
    """Everything that a template does inside is for one document of so many messages."""
    steps = MOST_STEPS + STEPS_OF_PAIR * messages**2
    until = time.monotonic() + MOST_SECONDS
    token = _budget.set(_Budget(steps, 8 * MOST_CHARACTERS, until, steps))
    try:
        yield
    finally:
        _budget.reset(token)


def tick(steps: int) -> None:
    """One round of a loop, or one call of a macro."""
    if budget := _budget.get():
        budget.steps -= steps
        if budget.steps < 0:
            raise LimitError(f"the template takes more than {budget.granted:,} steps")
        if budget.steps % LOOK_AT_CLOCK < steps and time.monotonic() > budget.until:
            raise LimitError(f"the template takes more than {MOST_SECONDS:g} seconds")


def held(value: Any) -> Any:
    """What a variable takes."""
    if type(value) in (str, list, tuple):  # stand-ins for data have subtypes
        size = _size(value)
        check_size(size)
        if budget := _budget.get():
            budget.characters -= size
            check_size(0 if budget.characters >= 0 else MOST_CHARACTERS + 1)
    return value


def _size(value: str | list[Any] | tuple[Any, ...]) -> int:
    return len(value) if isinstance(value, str) else ITEM * len(value)


def check_size(characters: int) -> None:
    if characters > MOST_CHARACTERS:
        raise LimitError(f"the template makes more than {MOST_CHARACTERS:,} characters")


class LimitedEnvironment(ImmutableSandboxedEnvironment):
    """A sandbox whose templates end."""

    intercepted_binops = frozenset({"+", "*", "**", "%", "/", "//"})

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._safe: dict[tuple[type, str], bool] = {}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """As the sandbox says, asked once for each type and name: it looks at nothing else."""
        known = self._safe.get((type(obj), attr))
        if known is None:
            known = super().is_safe_attribute(obj, attr, value)
            if len(self._safe) < MOST_NAMES:
                self._safe[type(obj), attr] = known
        return known

    @property
    def step(self) -> None:
        """Looked up in each round: a call would go through the sandbox."""
        tick(1)

    @property
    def macro_step(self) -> None:
        tick(MACRO)

    def _parse(self, *args: Any, **kwargs: Any) -> nodes.Template:
        return leave_idle_loops(super()._parse(*args, **kwargs))

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        _count(source)
        source.set_environment(self)
        return super()._generate(source, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _check_operands(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        method = getattr(__obj, "__wrapped__", __obj)  # the sandbox wraps str.format
        if isinstance(text := getattr(method, "__self__", None), str):
            _check_method(text, method.__name__, args, kwargs)
        if type(__obj) is not BuiltinMethodType or __obj.__name__ in _FORMATS:
            return super().call(__context, __obj, *args, **kwargs)
        for scope in _SCOPES:
            kwargs.pop(scope, None)
        return __obj(*args, **kwargs)  # as the sandbox and the context would, which look at much first


def check_filter(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before a filter runs, on what it gets."""
    value = args[0] if args else None
    if name == "join" and isinstance(value, list | tuple):
        between = next((part for part in (*args[1:2], kwargs.get("d")) if isinstance(part, str)), "")
        _check_join(between, value)
    elif isinstance(value, str) and name == "replace":
        _check_method(value, name, args[1:], kwargs)
    elif isinstance(value, str) and name == "int":
        _check_number(4 * len(value))  # of hexadecimal digits, which Python reads in any number
    elif name == "sum" and any(isinstance(part, list | tuple) for part in (*args[2:], *kwargs.values())):
        raise LimitError("the template makes a sum of lists")  # each is copied once for each after it
    elif name in _WIDTHS:
        _check_widths(args[1:], kwargs)


def check_json(indent: Any, separators: Any) -> None:
    """What the filter `tojson` writes before and between values, for each of them."""
    parts = separators if isinstance(separators, list | tuple) else ()
    _check_widths([len(p) if isinstance(p, str) else p for p in (indent, *parts)], {}, WIDEST_JSON)


def check_date(form: str) -> None:
    """What `strftime_now` is asked to write."""
    _check_widths([len(form)], {}, WIDEST_DATE)


def _count(tree: nodes.Template) -> None:
    """Have loops and macros tell each of their steps, and assignments what they hold."""
    for kind in (nodes.For, nodes.Macro, nodes.CallBlock):
        for node in [*tree.find_all(kind)]:
            _begin_with_tick(node)
    for assignment in [*tree.find_all(nodes.Assign)]:
        assignment.node = nodes.Filter(assignment.node, HELD, [], [], None, None)


def _begin_with_tick(node: Any) -> None:
    step = nodes.EnvironmentAttribute("step" if isinstance(node, nodes.For) else "macro_step")
    node.body.insert(0, nodes.ExprStmt(step).set_lineno(node.lineno))


def _check_operands(operator: str, left: Any, right: Any) -> None:
    if isinstance(left, int) and isinstance(right, int):
        power = operator == "**"
        _check_number(left.bit_length() * max(right, 1) if power else left.bit_length() + right.bit_length())
    elif operator == "+" and isinstance(left, str | list) and isinstance(right, str | list):
        check_size(_size(left) + _size(right))
    elif operator == "*":
        for text, times in ((left, right), (right, left)):
            if isinstance(text, str | list | tuple) and isinstance(times, int):
                check_size(_size(text) * max(times, 0))
    elif operator == "%" and isinstance(left, str):
        _check_format(left, right if isinstance(right, tuple) else (right,))


def _check_number(bits: int) -> None:
    if bits > LONGEST_NUMBER:
        raise LimitError(f"the template makes a number of more than {LONGEST_NUMBER:,} bits")


def _check_method(text: str, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if name == "replace" and len(args) >= 2 and all(isinstance(part, str) for part in args[:2]):
        check_size(len(text) + text.count(args[0]) * max(len(args[1]) - len(args[0]), 0))
    elif name == "join" and args and isinstance(args[0], list | tuple):
        _check_join(text, args[0])
    elif name in _FORMATS:
        _check_format(text, (*args, *kwargs.values()))
    elif name in _WIDTHS:
        _check_widths(args, kwargs)


def _check_join(between: str, parts: Any) -> None:
    check_size(sum(len(part) for part in parts if isinstance(part, str)) + len(between) * len(parts))


def _check_format(form: str, given: tuple[Any, ...]) -> None:
    """Widths stand in the text as numbers, or are taken from what is given."""
    digits = "".join(c if c.isdigit() else " " for c in form).split()
    given_widths = given if "*" in form or ":{" in form else ()
    _check_widths((*(int(number[:20]) for number in digits), *given_widths), {})
    check_size(len(form) * (1 + sum(len(part) for part in given if isinstance(part, str))) // 2)


def _check_widths(args: Sequence[Any], kwargs: dict[str, Any], most: int = LARGEST_WIDTH) -> None:
    for value in (*args, *kwargs.values()):
        if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) > most:
            raise LimitError(f"the template fills up to {value:,} places")

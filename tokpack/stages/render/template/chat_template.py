"""A chat template rendered as transformers renders it.

The Jinja environment, its filters, functions and the `{% generation %}` tag follow the contract that
transformers documents for chat templates; `tests/test_render_template.py` compares the two.
"""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from types import CodeType
from typing import Any

from jinja2 import Environment, Template, TemplateError, TemplateSyntaxError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.utils import Namespace

from tokpack.errors import UsageError
from tokpack.stages.render.template import template_trace
from tokpack.stages.render.template.kept_code import kept_code
from tokpack.stages.render.template.template_limits import (
    CHECKED_FILTERS,
    HELD,
    MANY,
    LimitedEnvironment,
    LimitError,
    check_date,
    check_filter,
    check_json,
    check_size,
    held,
    limited,
)
from tokpack.stages.render.template.template_trace import Trace

Message = Mapping[str, Any]
CharSpan = tuple[int, int]

REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")
"""Names under which data carries a message's reasoning; templates read the first, gpt-oss the second."""
PRIVATE_USE = range(0x100000, 0x10FFFE)
"""Where marks are taken from, around the characters that the data itself uses."""


class RenderError(Exception):
    """This document cannot be rendered, or its spans cannot be located; the message says why."""


@dataclass(slots=True)
class _Tracker:
    """Where the blocks inside `{% generation %}` land in the output, in characters."""

    length: int = 0
    spans: list[CharSpan] = field(default_factory=list)


_tracker: ContextVar[_Tracker | None] = ContextVar("tokpack_generation_tracker", default=None)


class GenerationTag(Extension):
    """`{% generation %}...{% endgeneration %}`: passes its body through and notes where it lands."""

    tags = {"generation"}  # noqa: RUF012  jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_note"), [], [], body).set_lineno(line)

    def _note(self, caller: Callable[[], str]) -> str:
        text = caller()
        if tracker := _tracker.get():
            tracker.spans.append((tracker.length, tracker.length + len(text)))
        return text


class _PlainDict:
    """`dict(...)` for templates, without the attributes of the real type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: Any, value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(keys, value)


class _SafeNamespace(Namespace):
    """`namespace(...)` that stores no name beginning with an underscore."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        instance, *rest = args
        attributes = dict(*rest, **kwargs)
        for name in attributes:
            _refuse_private(name)
        Namespace.__init__(instance, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a chat template may not store {name!r} on a namespace")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: Any = None,
    separators: Any = None,
    sort_keys: bool = False,
) -> str:
    check_json(indent, separators)
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


def _guarded(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that is not run on what makes much out of little."""
    takes = getattr(plain, "jinja_pass_arg", None) is not None

    @functools.wraps(plain)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        check_filter(name, args[1:] if takes else args, kwargs)
        return plain(*args, **kwargs)

    return guarded


def _environment() -> Environment:
    env = LimitedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols])
    env.filters |= {name: _guarded(name, env.filters[name]) for name in CHECKED_FILTERS}
    env.filters |= {"tojson": _to_json, HELD: held}
    env.globals |= {
        "raise_exception": _raise_exception,
        "dict": _PlainDict(),
        "namespace": _SafeNamespace,
    }
    return env


ENVIRONMENT = _environment()


@contextmanager
def _compiling() -> Iterator[None]:
    """Turn what is wrong with a template, for Jinja or for Python's compiler, into a UsageError."""
    try:
        yield
    except (TemplateError, SyntaxError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise UsageError(
            f"the chat template does not compile: {getattr(error, 'message', None) or error}",
            where=f"chat template{line}",
            hint="correct it, or give another with --chat-template FILE",
        ) from None


def check_template(source: str | None) -> None:
    """Raises UsageError for a template that does not compile, or does not end on the shortest chat."""
    if source is None:
        return
    with suppress(RenderError):
        template = ChatTemplate(source)
        template.render([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    if template.beyond:
        raise _without_end(template.beyond[0])


def _without_end(what: str) -> UsageError:
    return UsageError(
        f"the chat template does not end: {what}",
        where="chat template",
        hint="is it from somebody you trust? Give another with --chat-template FILE",
    )


@lru_cache(maxsize=32)
def _code(source: str, traced: bool = False) -> CodeType:
    """Of a template, the same for all its variables; `traced`: with notes of which message is written."""
    if not traced:
        return kept_code("plain", source, lambda: ENVIRONMENT.compile(source))
    noted = template_trace.traced
    return kept_code("traced", source, lambda: ENVIRONMENT.compile(noted(ENVIRONMENT.parse(source))))


@dataclass(frozen=True)
class ChatTemplate:
    """One compiled chat template with the variables it always sees. Safe to share between threads."""

    source: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    """Special tokens (`bos_token` and so on) and the user's template options."""
    date: datetime.date = field(default_factory=datetime.date.today)
    """What `strftime_now` takes for today."""
    beyond: list[str] = field(default_factory=list, repr=False, compare=False)
    """What documents went beyond a limit."""

    @cached_property
    def _compiled(self) -> Template:
        with _compiling():
            return Template.from_code(
                ENVIRONMENT, _code(self.source), ENVIRONMENT.make_globals(self.functions)
            )

    @property
    def functions(self) -> dict[str, Any]:
        """What templates may call beside the environment's own functions."""
        return {"strftime_now": self._strftime_now}

    @cached_property
    def _traced(self) -> Template:
        """The same with notes of which message is being written."""
        _ = self._compiled  # its error is the better one
        code = _code(self.source, traced=True)
        named = {**self.functions, template_trace.NOTE: template_trace.note}
        return Template.from_code(ENVIRONMENT, code, ENVIRONMENT.make_globals(named))

    def _strftime_now(self, form: str) -> str:
        check_date(form)
        return datetime.datetime.combine(self.date, datetime.time()).strftime(form)

    @cached_property
    def tree(self) -> nodes.Template:
        with _compiling():
            return ENVIRONMENT.parse(self.source)

    @cached_property
    def has_generation(self) -> bool:
        """It marks the assistant's part itself, with `{% generation %}`."""
        return any(
            isinstance(call.call.node, nodes.ExtensionAttribute)
            for call in self.tree.find_all(nodes.CallBlock)
            if isinstance(call.call, nodes.Call)
        )

    @cached_property
    def uses_date(self) -> bool:
        return any(name.name == "strftime_now" for name in self.tree.find_all(nodes.Name))

    def inputs(
        self, messages: Sequence[Message], tools: Any, add_generation_prompt: bool = False
    ) -> dict[str, Any]:
        """Every variable that the template sees."""
        return {
            "documents": None,
            **self.variables,
            "messages": [_prepare(message) for message in messages],
            "tools": tools,
            "add_generation_prompt": add_generation_prompt,
        }

    def render(
        self, messages: Sequence[Message], tools: Any = None, *, add_generation_prompt: bool = False
    ) -> tuple[str, list[CharSpan]]:
        """(text, spans of the `{% generation %}` blocks in characters). Raises RenderError."""
        return self._run(self._compiled, self.inputs(messages, tools, add_generation_prompt))

    def render_traced(
        self, messages: Sequence[Message], tools: Any, mark: str, *, add_generation_prompt: bool = False
    ) -> tuple[str, Trace]:
        """(text with `mark` where a round of a loop begins or ends, what each mark says).

        Raises RenderError.
        """
        inputs = self.inputs(messages, tools, add_generation_prompt)
        trace = Trace(mark, {id(message): i for i, message in enumerate(inputs["messages"])})
        token = template_trace.current.set(trace)
        try:
            return self._run(self._traced, inputs)[0], trace
        finally:
            template_trace.current.reset(token)

    def _run(self, template: Template, inputs: dict[str, Any]) -> tuple[str, list[CharSpan]]:
        tracker = _Tracker()
        token = _tracker.set(tracker)
        try:
            blocks = []
            with limited(len(inputs["messages"])):
                for block in template.generate(**inputs):
                    blocks.append(block)
                    tracker.length += len(block)
                    check_size(tracker.length)
        except UsageError:
            raise
        except LimitError as error:
            self.beyond.append(str(error))
            if len(self.beyond) >= MANY:
                raise _without_end(str(error)) from None
            raise RenderError(str(error)) from None
        except Exception as error:  # a template is a program: it can fail in any way
            raise RenderError(str(error) or type(error).__name__) from error
        finally:
            _tracker.reset(token)
        return "".join(blocks), tracker.spans


class Explicit(dict[str, Any]):
    """A message whose keys without a value reach the template."""


def _prepare(message: Message) -> dict[str, Any]:
    """Keys without a value are left out; reasoning is found under every name that templates read."""
    if isinstance(message, Explicit):
        present = dict(message)
    else:
        present = {key: value for key, value in message.items() if value is not None}
    reasoning = next((present[key] for key in REASONING_KEYS if present.get(key) is not None), None)
    if reasoning is None:
        return present
    named = {"thinking": reasoning}
    named.update(present)
    named["reasoning_content"] = reasoning
    return named

"""What renders chats: the templates of a run with their compilers, for every set of arguments."""

from __future__ import annotations

import datetime
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from itertools import islice
from types import MappingProxyType
from typing import Any

from jinja2 import meta

from tokpack.encoding.tokenizer import Tokenizer
from tokpack.errors import UsageError
from tokpack.stages.render.compiled.compiled_shape import Compiled
from tokpack.stages.render.compiled.kept_shapes import keep_shapes, load_shapes
from tokpack.stages.render.compiled.template_compiler import TemplateCompiler
from tokpack.stages.render.message_fields import message_fields
from tokpack.stages.render.reference import Loss, RenderedRow, RenderSettings, chat_reference
from tokpack.stages.render.spans.chat_spans import SpanFinder
from tokpack.stages.render.template.chat_template import ChatTemplate, Explicit, Message, RenderError

_ROLES = ("system", "user", "assistant", "tool")
_MOST_ENGINES = 32
"""Rows may bring arguments of their own; engines for so many kinds of them are kept."""


class TemplateEngine:
    """Renders with one set of arguments of the template. Safe to share between threads."""

    def __init__(self, finder: SpanFinder | None, tool_finder: SpanFinder | None, loss: Loss) -> None:
        self.finder, self.tool_finder, self._loss = finder, tool_finder, loss
        self.compiler = self._compiler(finder)
        self.tool_compiler = self.compiler if tool_finder is finder else self._compiler(tool_finder)

    def _compiler(self, finder: SpanFinder | None) -> TemplateCompiler | None:
        if finder is None:
            return None
        segments = finder.with_segments

        def closed(text: str) -> bool:
            return finder.closing(text, 0, len(text)) < len(text)

        return TemplateCompiler(
            finder.template, self.reference, segments, lambda: finder.facts.prompt, closed
        )

    def reference(self, messages: Sequence[Message], tools: Any = None) -> RenderedRow:
        """One chat by Jinja, spans in bytes. Raises RenderError."""
        finder = self.finder if tools is None else self.tool_finder
        if finder is None:
            raise RenderError("no chat template")
        return chat_reference(finder, messages, tools, self._loss)

    def write(self, messages: Sequence[Message], tools: Any) -> tuple[Compiled, list[str]] | None:
        """The shape of a chat and the texts for its slots; None when it is left to Jinja."""
        finder, compiler = self.finder, self.compiler
        if tools is not None:
            finder, compiler = self.tool_finder, self.tool_compiler
        if finder is None or compiler is None:
            return None
        given = finder.forms.give(messages)
        if Explicit in map(type, given):
            return None
        return compiler.write(given, finder.forms.give_tools(tools))


class Renderer:
    """Everything about rendering that outlives a batch. Safe to share between threads.

    `date` is the day that templates see, `warnings` are messages for the end of the run.
    """

    def __init__(self, tokenizer: Tokenizer, options: RenderSettings) -> None:
        self.tokenizer, self.options = tokenizer, options
        self.date = _read_date(options.date)
        self.warnings: list[str] = []
        self._lock = threading.Lock()
        self._engines: dict[str, TemplateEngine] = {}
        self.engine = self.engine_for({})
        self.finder, self.tool_finder = self.engine.finder, self.engine.tool_finder
        self.proven: set[Compiled] = set()
        """Shapes of which a real row was the same by Jinja."""
        self._kept = 0
        if self.uses_date:
            self.warn(f"the chat template writes the date; it is {self.date} in every document")

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it compiles the templates itself; the day stays."""
        return Renderer, (self.tokenizer, replace(self.options, date=str(self.date)))

    def take_kept(self) -> None:
        """Begin with the shapes that earlier processes learned of these templates."""
        for compiler, learned in zip(self._compilers, load_shapes(self._source), strict=False):
            self.proven.update(compiler.take(learned))
        self._kept = len(self.proven)

    def keep(self) -> None:
        """Keep what was learned of the templates, if that is more than was kept."""
        if len(self.proven) > self._kept:
            keep_shapes(self._source, [compiler.learned(self.proven) for compiler in self._compilers])
            self._kept = len(self.proven)

    @property
    def _compilers(self) -> list[TemplateCompiler]:
        found = (self.engine.compiler, self.engine.tool_compiler)
        return list(dict.fromkeys(compiler for compiler in found if compiler is not None))

    @cached_property
    def _source(self) -> str:
        """All that shapes come from: templates, special tokens, settings, and the day."""
        tokenizer = self.tokenizer
        settings = asdict(replace(self.options, date=str(self.date)))
        of_tokenizer = (tokenizer.special_tokens_map, [*tokenizer.added_tokens])
        return repr((tokenizer.chat_template, tokenizer.tool_template, of_tokenizer, settings))

    def engine_for(self, kwargs: Mapping[str, Any]) -> TemplateEngine:
        """What renders chats with these arguments of the template beside the run's own."""
        if not kwargs and self._engines:
            return self.engine
        key = json.dumps(kwargs, sort_keys=True)
        with self._lock:
            if key not in self._engines:
                if len(self._engines) >= _MOST_ENGINES:  # the first one is the run's own
                    del self._engines[next(islice(self._engines, 1, None))]
                self._engines[key] = self._new_engine(kwargs)
            return self._engines[key]

    def _new_engine(self, kwargs: Mapping[str, Any]) -> TemplateEngine:
        chat, tool = self.tokenizer.chat_template, self.tokenizer.tool_template
        finder = self._finder(chat, kwargs)
        return TemplateEngine(
            finder, finder if tool == chat else self._finder(tool, kwargs), self.options.loss
        )

    def _finder(self, source: str | None, kwargs: Mapping[str, Any]) -> SpanFinder | None:
        if source is None or self.options.render == "plain":
            return None
        given = json.loads(json.dumps({**self.options.template_kwargs, **kwargs}))
        template = ChatTemplate(source, {**self.tokenizer.special_tokens_map, **given}, self.date)
        return SpanFinder(
            template,
            tuple(self.tokenizer.added_tokens),
            self.options.tool_arguments,
            with_segments=bool(self.options.loss_mask),
        )

    def refuse(self, compiled: Compiled) -> None:
        """A proof failed: leave the shape to Jinja."""
        with self._lock:
            engines = list(self._engines.values())
        for engine in engines:
            for compiler in (engine.compiler, engine.tool_compiler):
                if compiler is not None:
                    compiler.refuse(compiled)

    def warn(self, message: str) -> None:
        """Keep a message, once."""
        with self._lock:
            if message not in self.warnings:
                self.warnings.append(message)

    @property
    def message_fields(self) -> frozenset[str] | None:
        """Names among which are all fields of messages that a template reads; None: any may be."""
        found: set[str] = set()
        for finder in (self.finder, self.tool_finder):
            fields = message_fields(finder.template.tree) if finder else frozenset()
            if fields is None:
                return None
            found |= fields
        return frozenset(found)

    @cached_property
    def part_roles(self) -> frozenset[str]:
        """Roles whose text parts a template writes otherwise than the parts joined."""
        fields = self.message_fields
        if fields is not None and "text" not in fields:
            return frozenset()
        forms = [finder.forms for finder in (self.finder, self.tool_finder) if finder]
        return frozenset(role for role in _ROLES if any(form.reads_parts(role) for form in forms))

    def unread_arguments(self, names: Sequence[str]) -> list[str]:
        """Those of the arguments that no template of this run reads."""
        return [name for name in names if name not in self.variables_read] if names else []

    def is_overruled(self, kwargs: Mapping[str, Any]) -> bool:
        """Whether arguments that a template reads are others than those of the run."""
        given = self.options.template_kwargs
        others = (name for name, value in kwargs.items() if name in given and value != given[name])
        return any(name in self.variables_read for name in others)

    @cached_property
    def variables_read(self) -> frozenset[str]:
        """What the templates of this run read beside what they set themselves."""
        finders = [finder for finder in (self.finder, self.tool_finder) if finder]
        trees = [finder.template.tree for finder in finders]
        return frozenset(name for tree in trees for name in meta.find_undeclared_variables(tree))

    @property
    def uses_date(self) -> bool:
        """The template's output depends on the day."""
        return self.finder is not None and self.finder.template.uses_date

    @property
    def marks_generation(self) -> bool:
        template = self.finder and self.finder.template
        return bool(template and template.has_generation and self.options.loss != "all")

    def reference(
        self, messages: Sequence[Message], tools: Any = None, kwargs: Mapping[str, Any] = MappingProxyType({})
    ) -> RenderedRow:
        """One chat by Jinja, spans in bytes. Raises RenderError."""
        return self.engine_for(kwargs).reference(messages, tools)


def _read_date(text: str) -> datetime.date:
    try:
        return datetime.date.fromisoformat(text) if text else datetime.date.today()
    except ValueError:
        raise UsageError(f"{text!r} is not a date", where="date", hint="write YYYY-MM-DD") from None

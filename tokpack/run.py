"""A run: what one command works with, set up once from its settings and read by every stage."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import field, replace
from pathlib import Path
from typing import Any

from tokpack.encoding.tokenizer import Tokenizer, load_tokenizer
from tokpack.engine import default_workers, early
from tokpack.errors import UsageError, near_matches
from tokpack.files.stamps import named
from tokpack.frozen import frozen
from tokpack.on_disk.shards import INDEX
from tokpack.schema import PREFERENCE, UNPAIRED
from tokpack.settings.config import Config, RenderConfig, SourceConfig
from tokpack.stages.clean import rules_of
from tokpack.stages.keep import KeepList
from tokpack.stages.normalize.formats import TOKENS
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.layouts.unread import still_unread
from tokpack.stages.normalize.layouts.unread import tell as tell_unread
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.plan import resolve as planner
from tokpack.stages.read.containers import notes
from tokpack.stages.read.sources import Source, open_sources
from tokpack.stages.read.unchanged import stamp_of
from tokpack.stages.render.reference import RenderSettings
from tokpack.stages.render.renderer import Renderer
from tokpack.stages.render.template.chat_template import check_template
from tokpack.stages.render.template.template_markers import special_tokens_of
from tokpack.stages.special_tokens import SpecialTokens
from tokpack.terminal.activity import Activity, default_activity
from tokpack.version import __version__

log = logging.getLogger("tokpack")

MB = 1_000_000
PROVED = 1 << 30
"""Bytes of input whose proofs are kept: in a longer run they are no matter."""
MOST_KINDS = 32
"""Of shapes that a new one is compared with."""


@frozen
class Run:
    """What one run works with: set up once, read by every stage."""

    config: Config
    tokenizer: Tokenizer
    renderer: Renderer
    sources: list[Source]
    shapes: list[Shape]
    alike: list[int]
    """Of each source: a number that those have in common whose rows are read in the same way."""
    workers: int
    special: SpecialTokens
    learned: bool
    """The tokenizer is learned from the data: what is kept is text, and no model's template is known."""
    tell: Activity
    """Says what goes on."""
    keep: KeepList = field(default_factory=KeepList)
    """Documents that a person wants kept."""

    @staticmethod
    def start(
        config: Config, workers: int = 0, learned: Tokenizer | None = None, tell: Activity | None = None
    ) -> Run:
        """Open the inputs, recognize their shapes, load the tokenizer. Raises before any work is done.

        A tokenizer that is `learned` replaces the one of the config; `tell` gets to know what goes on.
        """
        tell = tell or default_activity()
        if not config.tokenize.tokenizer and learned is None:
            raise UsageError(
                "no tokenizer given", where="--tokenizer", hint="the folder or Hub name of your model"
            )
        if workers < 0:
            raise UsageError(f"--workers cannot be {workers}", where="--workers", hint="give 0 or more")
        planner(config.plan.planner)
        rules_of(config.clean)
        keep = KeepList.load(config.select.keep)
        sources = open_sources(config.source, config.read.max_line_mb << 20)
        if against := config.decontaminate.against:
            open_sources(tuple(SourceConfig(path=path) for path in against))
        template = Path(config.render.chat_template) if config.render.chat_template else None
        with tell.doing("loading the tokenizer"):
            tokenizer = learned or load_tokenizer(config.tokenize.tokenizer, chat_template=template)
            for text in (tokenizer.chat_template, tokenizer.tool_template):
                check_template(text)
            tokenizer.prepare(named_inputs(sources), later=early.waiting() > 0)
        with tell.doing("looking at the inputs"):
            shapes = each_once(map(detect_shape, sources))
        for note in notes(sources):
            log.warning(note)
        check_loss_mask(config, sources, shapes)
        kind = check_kind(config, sources, shapes)
        renderer = Renderer(tokenizer, _render_settings(config.render, kind))
        if renderer.uses_date:
            config = replace(config, render=replace(config.render, date=str(renderer.date)))
        _warn_of_unread_arguments(renderer, shapes, list(config.render.template_kwargs))
        shapes, alike = shared(shapes, renderer.message_fields, renderer.part_roles)
        tell_unread([source.name for source in sources], shapes)
        return Run(
            config,
            tokenizer,
            renderer,
            sources,
            shapes,
            alike,
            workers or default_workers(),
            special_tokens_of(tokenizer),
            learned is not None,
            tell,
            keep.of_pairs() if kind == PREFERENCE else keep,
        )

    @property
    def by_chat_template(self) -> bool:
        """Whether conversations are rendered by a chat template."""
        return self.config.render.mode != "plain" and self.tokenizer.chat_template is not None

    @property
    def kind(self) -> str:
        """`kind` of the manifest, that of all documents: preference pairs, unpaired ones, or empty for text
        to be learned as it is."""
        return kind_of(self.shapes[0])

    @property
    def pairs(self) -> bool:
        """Whether the documents are preference pairs: all of them, or none."""
        return self.kind == PREFERENCE

    @property
    def input_bytes(self) -> int | None:
        """Of all inputs as they are stored; None where one does not say."""
        sizes = [source.size_bytes for source in self.sources]
        return sum(size for size in sizes if size) if None not in sizes else None

    @property
    def repeat(self) -> list[float]:
        """Of each source: how often it is packed."""
        return [source.config.repeat for source in self.sources]

    @property
    def draws(self) -> bool:
        """Whether some documents are drawn from all, to be held out or repeated."""
        return self.config.write.val > 0 or max(self.repeat) > 1

    @property
    def block_bytes(self) -> int:
        """Of input that is read at a time."""
        return self.config.read.block_mb << 20

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for an unfinished run to be continued."""
        inputs = [
            {"name": s.name, "size_bytes": s.size_bytes, "format": shape.format}
            for s, shape in self._inputs()
        ]
        config = self.config.portable()
        del config["read"]["allow_bad"]  # decides whether the run ends, not what is in it
        return {
            "tokpack": __version__,
            "config": config,
            "tokenizer": self.tokenizer.sha256,
            "template": self.tokenizer.template_sha256,
            "inputs": inputs,
            **({"keep": self.keep.sha256} if len(self.keep.doc_ids) else {}),
        }

    def _inputs(self) -> Iterator[tuple[Source, Shape]]:
        return zip(self.sources, self.shapes, strict=True)


def named_inputs(sources: list[Source]) -> str:
    """What names the inputs as they are now; empty where their proofs are not kept."""
    stamps = [stamp_of(source) for source in sources]
    sizes = [source.size_bytes for source in sources]
    total = sum(size for size in sizes if size) if None not in sizes else PROVED
    known = all(stamps) and total < PROVED
    return named((s.path, stamp) for s, stamp in zip(sources, stamps, strict=True)) if known else ""


def each_once(shapes: Iterable[Shape]) -> list[Shape]:
    """The shapes, those that are equal to one of the last kinds before them as that one: of very many small
    files each has one."""
    kinds: list[Shape] = []
    found: list[Shape] = []
    for shape in shapes:
        number = _last_of(kinds, shape)
        kinds += [shape] if number == len(kinds) else []
        found.append(kinds[number])
    return found


def shared(
    shapes: list[Shape], readable: frozenset[str] | None = None, part_roles: frozenset[str] = frozenset()
) -> tuple[list[Shape], list[int]]:
    """The shapes with what the chat template reads, those that are equal but for what is only told of them
    in one another's memory; and of each the number of its kind."""
    kinds: list[Shape] = []
    made: dict[int, tuple[Shape, int]] = {}
    for shape in shapes:
        if id(shape) in made:
            continue
        bare = replace(shape, readable=readable, part_roles=part_roles, notes=(), unread={}, grouping=())
        number = _last_of(kinds, bare)
        kinds += [bare] if number == len(kinds) else []
        told = replace(kinds[number], notes=shape.notes, unread=shape.unread, grouping=shape.grouping)
        told = replace(told, unread=still_unread(told))
        made[id(shape)] = told, number
    return [made[id(shape)][0] for shape in shapes], [made[id(shape)][1] for shape in shapes]


def _last_of(kinds: list[Shape], shape: Shape) -> int:
    """Where among the last kinds one is equal; how many there are, where none is."""
    last = range(len(kinds) - 1, max(-1, len(kinds) - 1 - MOST_KINDS), -1)
    return next((number for number in last if kinds[number] == shape), len(kinds))


def _render_settings(given: RenderConfig, kind: str) -> RenderSettings:
    """Settings of the renderer, for documents of a `kind`."""
    return RenderSettings(
        render=given.mode,
        loss="completion" if kind and given.loss == "assistant" else given.loss,
        eos=given.eos,
        separator=given.separator,
        paranoid=given.paranoid,
        date=given.date,
        tool_arguments=given.tool_arguments,
        template_kwargs=given.template_kwargs,
        loss_mask=tuple(filter(None, given.loss_mask.split(","))),
    )


def _warn_of_unread_arguments(renderer: Renderer, shapes: list[Shape], given: list[str]) -> None:
    if lost := renderer.unread_arguments(given):
        near = near_matches(lost[0], renderer.variables_read)
        way = f"; {near}" if near.startswith("did you mean") else ""
        log.warning("not read by the chat template: %s (--template-kwarg)%s", ", ".join(lost), way)
    brought = list(dict.fromkeys(name for shape in shapes for name in shape.arguments))
    if lost := renderer.unread_arguments(brought):
        tools = [name for name in lost if name.endswith("tools")]
        way = f"; --map tools=chat_template_kwargs.{tools[0]} gives these as tools" if tools else ""
        log.warning("not read by the chat template, though rows bring them: %s%s", ", ".join(lost), way)


def check_loss_mask(config: Config, sources: list[Source], shapes: list[Shape]) -> None:
    """Raises UsageError for inputs whose segments cannot be known."""
    ready = next((s for s, shape in zip(sources, shapes, strict=True) if shape.format == TOKENS), None)
    if config.render.loss_mask and ready is not None:
        raise UsageError(
            f"{ready.name} is tokenized already: segments are found in texts",
            where="--loss-mask",
            hint="leave it out, or give the texts",
        )


KINDS = {"": "documents", PREFERENCE: "preference pairs", UNPAIRED: "unpaired preferences"}


def kind_of(shape: Shape) -> str:
    """The `kind` of the manifest that documents of a shape make."""
    return PREFERENCE if shape.format == PREFERENCE else UNPAIRED if shape.unpaired else ""


def check_kind(config: Config, sources: list[Source], shapes: list[Shape]) -> str:
    """The kind of all inputs. Raises UsageError for what cannot be done with preferences."""
    kinds = [kind_of(shape) for shape in shapes]
    if not any(kinds):
        return ""
    kind = next(filter(None, kinds))
    other = next((number for number, one in enumerate(kinds) if one != kind), None)
    if other is not None:
        raise UsageError(
            f"{sources[kinds.index(kind)].name} holds {KINDS[kind]}, {sources[other].name} "
            f"holds {KINDS[kinds[other]] if kinds[other] else shapes[other].format}: "
            "one packed dataset cannot hold both",
            where=sources[other].path,
            hint="pack them apart, or read both alike with --format",
        )
    if config.render.loss == "all":
        raise UsageError(
            f"{KINDS[kind]} are compared by their completions: there is no loss on the prompt",
            where="--loss all",
            hint="leave it out, or give last: the last answer of a completion of several turns",
        )
    if config.truncate.overlong == "split":
        raise UsageError(
            f"splitting would tear {KINDS[kind]}",
            where="--overlong split",
            hint="drop (the default for preferences), right, left or turns",
        )
    if kind == UNPAIRED and config.write.shard_format == INDEX:
        raise UsageError(
            "an index packed dataset holds no labels of answers",
            where="--index-only",
            hint="leave it out",
        )
    return kind

"""The values of a report: what report.json holds, and every view draws.

Numbers are tokens where their names say nothing else; shares are parts of 1.
"""

from __future__ import annotations

from dataclasses import field
from typing import Any

from tokpack.frozen import frozen
from tokpack.on_disk.ledger import Ledger
from tokpack.report.bill.cost_figures import Cost
from tokpack.schema import PREFERENCE
from tokpack.settings.plain import KEY, LEFT_OUT, from_plain
from tokpack.stages.order import Dealt
from tokpack.stages.planners.mix import Mixed
from tokpack.stages.planners.parts import Parted
from tokpack.way.figures import MoneyFigures, NearFigures


@frozen(kw_only=True)
class InputFile:
    name: str
    size_bytes: int | None
    """None of a stream."""
    format: str
    recognized: str | None = field(default=None, metadata=LEFT_OUT)
    """None in what is made from packed datasets, as all below."""
    notes: list[str] | None = field(default=None, metadata=LEFT_OUT)
    unread: dict[str, str] | None = field(default=None, metadata=LEFT_OUT)
    """Columns that reach no document, with an example of each."""


@frozen(kw_only=True)
class Bin:
    """Documents of `start` to `end - 1` tokens."""

    start: int = field(metadata={KEY: "from"})
    end: int = field(metadata={KEY: "to"})
    documents: int
    tokens: int


@frozen(kw_only=True)
class Lengths:
    """Of kept documents, before truncation; without a document there is only the number 0."""

    documents: int
    mean: float | None = field(default=None, metadata=LEFT_OUT)
    p50: int | None = field(default=None, metadata=LEFT_OUT)
    """Half of the documents are no longer."""
    p90: int | None = field(default=None, metadata=LEFT_OUT)
    p99: int | None = field(default=None, metadata=LEFT_OUT)
    max: int | None = field(default=None, metadata=LEFT_OUT)
    overlong: int | None = field(default=None, metadata=LEFT_OUT)
    """Documents longer than a row."""
    histogram: list[Bin]


@frozen(kw_only=True)
class SlotLine:
    """A way to train on the same data for an epoch."""

    name: str
    rows: int
    tokens: int
    slots: int
    fill: float
    steps: int
    saved: int
    """Slots, against padded batches of the documents as they came."""


@frozen(kw_only=True)
class DocumentsPerRow:
    mean: float
    max: int


@frozen(kw_only=True)
class PlanFigures:
    """The plan as the manifest and the report have it."""

    rows: int
    bound: int
    """No plan has fewer rows."""
    bound_kind: str
    gap: float
    fill: float
    note: str | None = field(default=None, metadata=LEFT_OUT)
    dealt: Dealt | None = field(default=None, metadata=LEFT_OUT)
    mixed: Mixed | None = field(default=None, metadata=LEFT_OUT)
    parted: Parted | None = field(default=None, metadata=LEFT_OUT)
    documents_per_row: DocumentsPerRow | None = field(default=None, metadata=LEFT_OUT)
    """None in a manifest."""


@frozen(kw_only=True)
class RowClass:
    """Rows by the share of their slots that is free: more than in the class before, at most `up_to`."""

    up_to: float
    rows: int


@frozen(kw_only=True)
class DropPlace:
    place: str
    """`chats.jsonl:17`."""
    detail: str
    """What triggered the rule."""
    other: str | None = field(default=None, metadata=LEFT_OUT)
    """Of duplicates, the document that is repeated."""


@frozen(kw_only=True)
class Drop:
    reason: str
    documents: int
    tokens: int
    examples: list[str]
    places: list[DropPlace] | None = field(default=None, metadata=LEFT_OUT)
    """Of the examples, one by one; empty where they are not known."""


@frozen(kw_only=True)
class PackedPiece:
    """A document in the picture of packing."""

    place: str
    tokens: int


@frozen(kw_only=True)
class SourceFigures:
    """Kept documents of a source: how many, what is packed and trained of them, and their lengths."""

    name: str
    documents: int
    packed: int
    trained: int
    trained_share: float
    p50: int
    p90: int
    p99: int
    max: int


@frozen(kw_only=True)
class LongDocument:
    doc_id: int
    source: str
    row: int
    tokens: int
    fate: str
    """`kept`, `shortened`, or the reason it is left out for."""


@frozen(kw_only=True)
class Truncation:
    """What rows of another length would cut or leave out."""

    capacity: int
    documents: int
    tokens: int
    share: float
    """Of all tokens."""


@frozen(kw_only=True)
class Waiting:
    idle_share: float
    """Of the time of all ranks, spent waiting for the slowest."""
    step: list[float]
    """Work of each rank in a middling step, the slowest being 1."""


@frozen(kw_only=True)
class Ranks:
    ranks: int
    rows_per_step: int
    token_cost: int
    """0: attention alone is counted."""
    asked: bool
    """Whether rows were asked to be dealt to them."""
    shuffled: Waiting
    dealt: Waiting


@frozen(kw_only=True)
class Labels:
    """Of unpaired preferences: documents by their label, each once."""

    desirable: int
    undesirable: int


@frozen(kw_only=True)
class KeptDocument:
    place: str
    tokens: int
    trained: int
    runs: list[tuple[str, bool]]
    """Text as rendered, and whether it is trained."""


@frozen(kw_only=True)
class ValueFigures:
    """Documents whose row has one value in a column."""

    name: str
    read: int
    documents: int
    packed: int
    trained: int
    trained_share: float
    p50: int
    p90: int
    p99: int
    max: int
    dropped: dict[str, int]


@frozen(kw_only=True)
class ByColumn:
    column: str
    values: list[ValueFigures]
    more: int
    """Values that are not listed."""


@frozen(kw_only=True)
class TopToken:
    id: int
    text: str
    count: int


@frozen(kw_only=True)
class Script:
    script: str
    tokens: int


@frozen(kw_only=True)
class SourceFit:
    name: str
    tokens: int
    bytes: int


@frozen(kw_only=True)
class Vocabulary:
    """Of the contents of kept documents, without the template around them."""

    size: int
    used: int
    """Ids."""
    share: float
    tokens: int
    bytes: int
    covered: int
    """Ids that make up 90 % of the tokens."""
    top: list[TopToken]
    scripts: list[Script]
    sources: list[SourceFit]


@frozen(kw_only=True)
class LanguageShare:
    language: str
    share: float
    error: float
    """Sampling error at 95 %."""


@frozen(kw_only=True)
class Languages:
    sample: int
    of: int
    """Documents: those looked at, of how many."""
    shares: list[LanguageShare]


@frozen(kw_only=True)
class Figures:
    """All of a report. What is made from packed datasets has fewer parts; a bill, texts and a vocabulary are
    there where they were asked for."""

    tokpack_version: str
    kind: str | None = field(default=None, metadata=LEFT_OUT)
    tokenizer: str
    capacity: int
    config: dict[str, Any]
    """The settings, table by table, as a configuration file has them."""
    inputs: list[InputFile]
    ledger: Ledger
    lengths: Lengths
    batch_size: int
    """Of the padded batches that rows are compared with."""
    slots: list[SlotLine]
    plan: PlanFigures
    rows: list[RowClass]
    drops: list[Drop]
    counters: dict[str, int]
    packing: list[list[PackedPiece]] | None = field(default=None, metadata=LEFT_OUT)
    grouping: list[str] | None = field(default=None, metadata=LEFT_OUT)
    """Columns that `--by` could take."""
    sources: list[SourceFigures] | None = field(default=None, metadata=LEFT_OUT)
    longest: list[LongDocument] | None = field(default=None, metadata=LEFT_OUT)
    truncation: list[Truncation] | None = field(default=None, metadata=LEFT_OUT)
    ranks: Ranks | None = None
    rules: list[str] | None = field(default=None, metadata=LEFT_OUT)
    """Rules of cleaning that were on."""
    budget: MoneyFigures | None = field(default=None, metadata=LEFT_OUT)
    labels: Labels | None = field(default=None, metadata=LEFT_OUT)
    cost: Cost | None = field(default=None, metadata=LEFT_OUT)
    near_dup: NearFigures | None = field(default=None, metadata=LEFT_OUT)
    kept: list[KeptDocument] | None = field(default=None, metadata=LEFT_OUT)
    by: ByColumn | None = field(default=None, metadata=LEFT_OUT)
    vocabulary: Vocabulary | None = field(default=None, metadata=LEFT_OUT)
    languages: Languages | None = field(default=None, metadata=LEFT_OUT)

    @property
    def is_preference(self) -> bool:
        """Whether rows hold preference pairs."""
        return self.kind == PREFERENCE

    @staticmethod
    def read(data: dict[str, Any]) -> Figures:
        """From the data of report.json. Raises DataError that names what is damaged."""
        return from_plain(Figures, data, "")

"""The values of a bill: what `make_cost` counts, `cost` of report.json holds and every view draws.

Numbers that are measured, computed or assumed are `Figure`s, which name their unit; the others are settings.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Literal

from tokpack.cost import Estimate, Figure
from tokpack.cost.figure import count
from tokpack.cost.memory import Remedy
from tokpack.frozen import frozen

LEAST_GIB = 0.005
"""Parts of the memory below it are not shown."""
Key = Literal["money", "hours", "flops"]
"""What a bill counts in."""


@frozen(kw_only=True)
class ModelFigures:
    name: str
    type: str
    parameters: Figure
    trained: Figure
    max_positions: int | None
    """Tokens of a document that the model was made for."""
    notes: list[str]


@frozen(kw_only=True)
class GpuFigures:
    key: str
    name: str
    count: int
    peak: Figure | None
    memory: Figure
    price: Figure | None
    sources: list[str]
    read: str | None
    """The day on which the sources were read."""


@frozen(kw_only=True)
class MethodFigures:
    kind: str
    rank: int | None
    weights: str
    checkpointing: bool


@frozen(kw_only=True)
class BilledRecipe:
    epochs: float
    batch_size: int
    """Documents of a micro-batch that is not packed."""
    accumulation: int
    learning_rate: float


@frozen(kw_only=True)
class Saved:
    """Against padded batches of the data as it came."""

    slots: Figure
    share: Figure
    money: Figure | None


@frozen(kw_only=True)
class Way:
    """A way to train on the same data."""

    key: str
    name: str
    rows: Figure
    steps: Figure
    slots: Figure
    tokens: Figure
    fill: Figure
    flops: Figure
    hours: Figure | None
    wall_hours: Figure | None
    tokens_per_second: Figure | None
    money: Figure | None
    energy: Figure | None
    saved: Saved = Saved(slots=count(0, "slots"), share=count(0.0, "share"), money=None)


@frozen(kw_only=True)
class MemoryParts:
    """GiB, with the loss of `tokpack train`."""

    weights: Figure
    adapter: Figure
    gradients: Figure
    optimizer: Figure
    activations: Figure
    logits: Figure
    scratch: Figure
    overhead: Figure
    total: Figure

    def shown(self) -> list[tuple[str, float]]:
        """Name and GiB of each part that is worth a line, largest first."""
        gib = [(f.name, getattr(self, f.name).value) for f in fields(self) if f.name != "total"]
        return sorted((part for part in gib if part[1] >= LEAST_GIB), key=lambda part: -part[1])


@frozen(kw_only=True)
class MemoryFigures:
    """Of one row at once."""

    parts: MemoryParts
    whole_logits: Figure
    fits: bool | None
    """None without a GPU, as all below but `advice`."""
    usable: Figure | None
    micro_batch_tokens: Figure | None
    micro_batch_rows: Figure | None
    padded_fits: bool | None
    advice: list[Remedy]


@frozen(kw_only=True)
class PlannedSettings:
    micro_batch: int
    accumulation: int
    gpu_count: int
    samples_per_step: Figure
    steps: Figure
    learning_rate: float | None


@frozen(kw_only=True)
class PlannedRun:
    before: PlannedSettings
    unchanged: PlannedSettings
    use: PlannedSettings
    documents_per_row: Figure
    recommendation: str
    reason: str
    warnings: list[str]
    flags: list[str]


@frozen(kw_only=True)
class LengthFigures:
    """The same run with rows of another length."""

    capacity: int
    rows: Figure
    fill: Figure
    truncated: Figure
    truncated_share: Figure
    truncated_documents: Figure
    flops: Figure
    hours: Figure | None
    money: Figure | None
    memory: Figure | None
    fits: bool | None
    checkpointing: bool


@frozen(kw_only=True)
class Curve:
    points: list[LengthFigures]
    current: int
    recommended: int | None
    reason: str


@frozen(kw_only=True)
class Card:
    """The packed run on another GPU, or on the chosen one."""

    key: str
    maker: str
    dtype: str
    checkpointing: bool
    chosen: bool
    hours: Figure
    wall_hours: Figure
    money: Figure | None
    price: str
    """Who asks it, and when."""


@frozen(kw_only=True)
class Service:
    """A managed service that bills by the token."""

    key: str
    provider: str
    model: str
    own_model: bool
    """Whether it trains a model of its own, not the one that was asked for."""
    chosen: bool
    as_it_came: Figure
    cleaned: Figure


@frozen
class Advice:
    key: str
    do: str
    flag: str
    why: str
    saves: Figure | None = None
    """Dollars; None where no money is known."""
    saved_share: float = 0.0
    """Of the work."""
    urgent: bool = False


@frozen(kw_only=True)
class Cost:
    """`estimate`: of the packed run, None without a GPU; `api`: managed services."""

    model: ModelFigures
    gpu: GpuFigures | None
    method: MethodFigures
    recipe: BilledRecipe
    estimate: Estimate | None
    calibrated: bool
    """Whether the speed was measured."""
    comparison: list[Way]
    """The run itself stands last."""
    saved_share: Figure
    memory: MemoryFigures
    run_plan: PlannedRun
    curve: Curve
    cards: list[Card]
    api: list[Service]
    recommendations: list[Advice] = field(default_factory=list)

    @property
    def timed(self) -> bool:
        """Whether hours are known: there is a GPU, or the present device was measured."""
        return self.estimate is not None

    @property
    def priced(self) -> bool:
        return self.estimate is not None and self.estimate.money is not None

    @property
    def counts_in(self) -> Key:
        """Money where there is a price, else hours, else work."""
        return "money" if self.priced else "hours" if self.timed else "flops"

    def counted(self, line: Way | LengthFigures) -> Figure:
        """A way or a length of a row in what the bill counts in."""
        figure: Figure = getattr(line, self.counts_in)
        return figure

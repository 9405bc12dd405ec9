"""One evaluation: base and adapters in one model, held-out documents, a control text, tasks, gates.

open dataset ─▶ load base and adapters ─▶ prove isolation ─▶ losses of base and of each adapter
─▶ compare document by document ─▶ tasks ─▶ gates
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tokpack.errors import DataError, UsageError
from tokpack.files.durable import write_page
from tokpack.on_disk.checked import check_dataset
from tokpack.packed.folder import PackedFolder
from tokpack.packed.viewer import known_ranges, origin_of
from tokpack.packed_urls import name_of
from tokpack.schema import IGNORE_INDEX, PAIR_WIDTH
from tokpack.terminal.activity import Activity, Advance, counted
from tokpack.terminal.printable import one_line, snippet
from trainer_plugin.adapters.loaded import AdaptedModel, BaseWeights, load_adapted
from trainer_plugin.checkpoints.adapter_folder import RECIPE, Adapter, read_adapters
from trainer_plugin.evaluation.asked import refuse_unpaired
from trainer_plugin.evaluation.gates import Gate, Outcome, check_gates, judge, parse_gate
from trainer_plugin.evaluation.held_out import AdapterComparison, Extreme, compare
from trainer_plugin.evaluation.losses import DocumentLosses, DocumentPlaces, Floats, read_documents
from trainer_plugin.evaluation.statistics import FEW, Interval
from trainer_plugin.evaluation.tasks import (
    EvalTask,
    TaskComparison,
    TaskSettings,
    need_lm_eval,
    read_tasks,
    run_tasks,
)
from trainer_plugin.isolation.verify import prepare_model
from trainer_plugin.losses.preference_loss import PreferenceLoss
from trainer_plugin.recipe import load_recipe
from trainer_plugin.rows.dataset import PackedDataset

Split = Literal["auto", "validation", "train"]
SHOWN_TOKENS, SHOWN_LETTERS = 96, 240


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalSettings:
    """How to evaluate."""

    split: Split = "auto"
    """auto: the validation part where there is one, else the packed dataset itself."""
    max_rows: int = 0
    """Only so many rows, drawn by `seed`; 0: all."""
    attn: str = "auto"
    dtype: str = "auto"
    base_weights: BaseWeights = "auto"
    probe: bool = True
    check: bool = True
    seed: int = 0


@dataclass(frozen=True, slots=True)
class EvaluatedPart:
    """A packed dataset with the losses of all models on it."""

    name: str
    split: str
    rows: int
    documents: int
    tokens: int
    comparisons: list[AdapterComparison]


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """All that `tokpack eval` found. Prints as tables; `to_dict` is its JSON, `save_html` its page."""

    model: str
    base_weights: str
    dtype: str
    attn: str
    adapters: dict[str, str]
    """Name -> folder."""
    held_out: EvaluatedPart
    control: EvaluatedPart | None
    tasks: list[TaskComparison]
    notes: list[str]
    versions: dict[str, str]
    seconds: float = 0.0
    gates: list[Outcome] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether every gate was met."""
        return all(outcome.passed for outcome in self.gates)

    def figures(self, adapter: str) -> dict[str, Interval]:
        """What gates ask for, by name."""
        found = _figures(self.held_out, adapter, "heldout")
        if self.control is not None:
            found |= {"control": _of(self.control, adapter).difference}
        for one in self.tasks:
            if one.adapter == adapter:
                found[f"{one.task}/{one.metric}"] = one.difference
                found |= {one.task: one.difference} if one.primary else {}
        return found

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def save_html(self, path: str | Path) -> None:
        """Write the page."""
        from trainer_plugin.evaluation.page import page

        write_page(Path(path), page(self))

    def __rich__(self) -> Any:
        from trainer_plugin.evaluation.terminal import view

        return view(self)


def _of(part: EvaluatedPart, adapter: str) -> AdapterComparison:
    return next(one for one in part.comparisons if one.adapter == adapter)


def _figures(part: EvaluatedPart, adapter: str, name: str) -> dict[str, Interval]:
    one = _of(part, adapter)
    found = {name: one.difference, "improved": one.improved}
    if one.pairs is not None:
        found |= {"reward_accuracy": one.pairs.accuracy, "reward_margin": one.pairs.margin}
    return found


def evaluate(
    packed: str | Path,
    model: str | Path | None = None,
    adapters: Sequence[str | Path] = (),
    *,
    control: str | Path | None = None,
    tasks: Sequence[str] = (),
    gates: Sequence[str] = (),
    task_settings: TaskSettings | None = None,
    settings: EvalSettings | None = None,
    tell: Activity | None = None,
) -> Evaluation:
    """Compare adapters (`FOLDER` or `NAME=FOLDER`) with their base on a packed dataset.

    model: the base; None: the one that the first adapter names. control: another packed dataset, of text
    that the model should not forget. tasks: lm-eval's, by name or file. gates: conditions such as
    "heldout < -0.02". Raises UsageError for what does not fit together, DataError for shards that were
    altered, VerifyError when documents would see each other.
    """
    tell, settings, started = tell or Activity(quiet=True), settings or EvalSettings(), time.monotonic()
    if not adapters:
        raise UsageError("no adapter to evaluate", where="--adapter", hint="--adapter FOLDER, more than once")
    found = read_adapters(adapters)
    dataset = open_part(packed, settings, tell)
    other = None if control is None else open_part(control, replace(settings, split="auto"), tell)
    conditions = [parse_gate(text) for text in gates]
    asked, wanted = _tasks(tasks, task_settings or TaskSettings())
    names = [*_measured(dataset, other), *(task.name for task in asked)]
    check_gates(conditions, names, [adapter.name for adapter in found])
    loaded = load_adapted(model, found, base_weights=settings.base_weights, dtype=settings.dtype, tell=tell)
    for one in (dataset, other):
        if one is not None:
            one.check_tokenizer(loaded.tokenizer)
            one.check_values(loaded.network)
    attn = _isolate(loaded, dataset, settings, tell)
    losses = DocumentLosses(loaded.network)
    notes = [f"base in {loaded.dtype}"]
    notes += [note for adapter in found if (note := _seen_in_training(adapter, dataset))]
    parts = [
        None if one is None else measure(loaded, losses, one, name, tell)
        for one, name in ((dataset, "held-out loss"), (other, "loss on the control text"))
    ]
    assert parts[0] is not None
    notes += _few(parts[0])
    compared = run_tasks(loaded, asked, wanted, tell) if asked else []
    if wanted.limit and asked:
        notes.append(f"tasks: the first {counted(wanted.limit, 'question')} of each")
    evaluation = Evaluation(
        model=loaded.name,
        base_weights="through 4 bits (NF4)" if loaded.on_4_bits else "as they are",
        dtype=loaded.dtype.name,
        attn=attn,
        adapters={adapter.name: str(adapter.folder) for adapter in found},
        held_out=parts[0],
        control=parts[1],
        tasks=compared,
        notes=notes,
        versions=_versions(),
        seconds=round(time.monotonic() - started, 1),
    )
    return replace(evaluation, gates=_judged(evaluation, conditions))


def _tasks(names: Sequence[str], settings: TaskSettings) -> tuple[list[EvalTask], TaskSettings]:
    if names:
        need_lm_eval()
    return read_tasks(names, settings.trusted), settings


def _measured(dataset: PackedDataset, control: PackedDataset | None) -> list[str]:
    """Names of the figures that there will be."""
    names = ["heldout", "improved"]
    names += ["reward_accuracy", "reward_margin"] if dataset.is_preference else []
    return names + (["control"] if control is not None else [])


def _judged(evaluation: Evaluation, gates: Sequence[Gate]) -> list[Outcome]:
    return [
        judge(gate, adapter, evaluation.figures(adapter))
        for gate in gates
        for adapter in evaluation.adapters
        if gate.adapter in ("", adapter)
    ]


def open_part(packed: str | Path, settings: EvalSettings, tell: Activity) -> PackedDataset:
    """The part of a packed dataset to evaluate on."""
    dataset = PackedDataset(packed)
    refuse_unpaired(dataset)
    if settings.check:
        with tell.doing("checking the sums of the shards"):
            check_dataset(dataset.folder, dataset.manifest)
    validation = None if settings.split == "train" else dataset.validation()
    if settings.split == "validation" and validation is None:
        raise UsageError(
            "no validation part in this packed dataset",
            where=str(dataset.folder),
            hint="pack with --val 0.01, or give --split train",
        )
    dataset = validation or dataset
    if not len(dataset):
        raise DataError("the packed dataset has no rows", where=str(dataset.folder), hint="give another")
    if 0 < settings.max_rows < len(dataset):
        rows = np.random.default_rng(settings.seed).permutation(len(dataset))[: settings.max_rows]
        dataset = dataset.select(np.sort(rows))
    return dataset


def _isolate(loaded: AdaptedModel, dataset: PackedDataset, settings: EvalSettings, tell: Activity) -> str:
    with tell.doing("probing the isolation of documents" if settings.probe else "setting the attention up"):
        report = prepare_model(loaded.network, settings.attn, dataset=dataset, probe=settings.probe)
    proof = "documents are isolated" if settings.probe else "isolation of documents NOT probed"
    tell.say(f"dtype {loaded.dtype}; attention {report.attn}: {proof}")
    return str(report.attn)


def measure(
    loaded: AdaptedModel, losses: DocumentLosses, dataset: PackedDataset, what: str, tell: Activity
) -> EvaluatedPart:
    """Losses of base and adapters on one dataset, compared."""
    documents = read_documents(dataset)
    models: list[str | None] = [None, *loaded.adapters]
    sums: dict[str | None, Floats] = {}
    with tell.doing(what, len(models) * len(dataset), "rows") as advance:
        for name in models:
            with loaded.using(name) as network:
                sums[name] = losses(network, dataset, _named(advance, name))
    if not np.isfinite(sums[None]).all():
        raise DataError(
            "the base's loss is no number on some documents",
            where=str(dataset.folder),
            hint="--dtype float32",
        )
    shown = _Shown(dataset, documents, loaded.tokenizer)
    comparisons = [
        compare(name, documents, sums[None], sums[name], shown.sources, shown, _preference(adapter, dataset))
        for name, adapter in loaded.adapters.items()
    ]
    split = str(dataset.manifest.get("split", "train"))
    folder = dataset.folder.parent if dataset.folder.name == "validation" else dataset.folder
    return EvaluatedPart(
        name=one_line(name_of(folder), 80),
        split="validation" if dataset.folder.name == "validation" else split,
        rows=len(dataset),
        documents=len(np.unique(documents.doc_id)),
        tokens=int(documents.tokens.sum()),
        comparisons=comparisons,
    )


def _named(advance: Advance, name: str | None) -> Advance:
    def step(amount: int, figures: str = "") -> None:
        advance(amount, figures or (f"adapter {name}" if name else "base"))

    return step


def _preference(adapter: Adapter, dataset: PackedDataset) -> PreferenceLoss | None:
    """The preference loss that the adapter was trained with, where its recipe says so."""
    path = adapter.folder / RECIPE
    if not dataset.is_preference or not path.is_file():
        return None
    return PreferenceLoss.of(load_recipe(path).preference)


class _Shown:
    """Documents with their texts and places."""

    def __init__(self, dataset: PackedDataset, documents: DocumentPlaces, tokenizer: Any) -> None:
        self.dataset, self.documents, self.tokenizer = dataset, documents, tokenizer
        self.width = PAIR_WIDTH if dataset.is_preference else 1
        self.ranges = known_ranges(PackedFolder(dataset.folder))
        self.sources = self._sources()

    def _sources(self) -> list[str]:
        names, ends = list(self.ranges), np.array([end for _, end in self.ranges.values()])
        at = np.searchsorted(ends, self.documents.doc_id, "right")
        return [names[i] if i < len(names) else "" for i in at]

    def __call__(self, index: int, base_loss: float, loss: float) -> Extreme:
        documents = self.documents
        start, tokens = int(documents.start[index]), int(documents.tokens[index])
        row = self.dataset[int(documents.row[index])]
        ids, labels = (row[name][start : start + tokens] for name in ("input_ids", "labels"))
        trained = np.flatnonzero(labels[1:] != IGNORE_INDEX) + 1
        first = int(trained[0])
        doc_id = int(documents.doc_id[index])
        prompt = self._decode(ids[max(0, first - SHOWN_TOKENS) : first])
        return Extreme(
            doc_id=doc_id,
            piece=int(documents.piece[index]),
            source=self.sources[index],
            place=origin_of(self.ranges, doc_id, self.width),
            tokens=tokens,
            trained_tokens=int(documents.trained[index]),
            base_loss=base_loss,
            loss=loss,
            prompt=snippet(prompt[-SHOWN_LETTERS:], SHOWN_LETTERS),
            answer=snippet(self._decode(ids[trained[:SHOWN_TOKENS]]), SHOWN_LETTERS),
        )

    def _decode(self, ids: Any) -> str:
        return str(self.tokenizer.decode(ids.tolist(), skip_special_tokens=True))


def _seen_in_training(adapter: Adapter, dataset: PackedDataset) -> str:
    """A warning where the adapter was trained on these very shards."""
    written = {shard.get("sha256") for shard in adapter.provenance.get("shards", [])}
    if not written & {shard["sha256"] for shard in dataset.manifest["shards"]}:
        return ""
    return f"the adapter {adapter.name} was trained on these rows: this is no held-out loss"


def _few(part: EvaluatedPart) -> list[str]:
    if part.documents >= FEW:
        return []
    return [
        f"{counted(part.documents, 'document')}: intervals of so few are rough; hold more out (pack --val)"
    ]


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "transformers", "peft")}

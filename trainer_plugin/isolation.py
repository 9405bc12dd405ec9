"""The isolation probe: does a document in a packed row see its neighbours, with this model as it is now?

    packed    A B C  in one row, as the collator makes it
    changed   A'B C  and  A B C'                 logits of the others must not move
    alone     A | B | C  through the plain call  logits must be the packed ones
    control   A'BC   as one document             how far logits move when documents do leak

A leak shows as a difference near the control; rounding stays far below it. So a check passes when the
difference is exactly zero, or both under the tolerance for the dtype (relative to the largest logit) and
under a tenth of the control. The control keeps the probe from being blind on models whose logits hardly
depend on context.

Ten short forward passes: seconds for a small model, and the only proof that holds for every architecture:
of the decoder models in transformers some leak without any warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from tokpack.errors import UsageError, VerifyError
from tokpack.schema import IGNORE_INDEX
from trainer_plugin.attention import NAME
from trainer_plugin.collator import PackedCollator
from trainer_plugin.isolation_report import Check, IsolationReport, ModelVerification
from trainer_plugin.strategies import apply_strategy, attention_of, fit_batch, inner_model

if TYPE_CHECKING:
    from trainer_plugin.dataset import PackedDataset

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-8, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference that counts as rounding, relative to the largest logit. bf16 sdpa: 2.4e-2 measured."""

PROBE_TOKENS = 384
BACKENDS = (NAME, "sdpa", "eager")


def probe_isolation(
    model: Any,
    rows: Iterable[Mapping[str, Any]] | None = None,
    *,
    strategy: str = "native",
    seed: int = 0,
    max_tokens: int = PROBE_TOKENS,
) -> IsolationReport:
    """Probe a model as it is set up now; `strategy` only names the set-up in the report.

    `rows` are packed rows whose documents are used, shortened to `max_tokens` in all; without them the
    documents are random tokens. A model that raises fails the probe with the error as the note.
    """
    documents = _probe_documents(model, rows, seed, max_tokens)
    dtype = str(next(inner_model(model).parameters()).dtype).removeprefix("torch.")
    notes: list[str] = []
    with _quiet_evaluation(model):
        try:
            checks = _run_checks(model, documents, seed, notes)
        except Exception as error:  # any error of a model's own code means: not proven
            text = " ".join(str(error).split())[:300]
            checks = (Check("the model runs on packed rows", float("inf"), 0.0, False, type(error).__name__),)
            notes.append(text)
    return IsolationReport(
        strategy=strategy,
        attn="loop" if strategy == "loop" else attention_of(model),
        dtype=dtype,
        documents=len(documents),
        tokens=sum(map(len, documents)),
        checks=checks,
        notes=tuple(notes),
    )


def prepare_model(
    model: Any,
    attn: str = "auto",
    *,
    dataset: PackedDataset | None = None,
    probe: bool = True,
) -> IsolationReport:
    """Set `model` up for packed rows and prove it; returns the report of the set-up that is now in place.

    attn: "auto" takes the first that passes of the packed attention, the attention the model came with, and
        the loop over documents; "tokpack", "loop", or any `attn_implementation` takes that one or raises.

    Raises UsageError for models that cannot be right (3-D multimodal positions, rows too long for a dynamic
    RoPE), VerifyError when nothing passes.
    """
    refuse_config(inner_model(model).config, dataset)
    inner_model(model).config.use_cache = False
    native = attention_of(model)
    native = _reference_attention(model) if native == NAME else native
    if attn in ("auto", NAME, "loop"):
        ladder = [(NAME, native), ("native", native), ("loop", native)]
        ladder = [step for step in ladder if attn in ("auto", step[0])]
    else:
        ladder = [("native", attn)]
    rows = None if dataset is None else [dataset[i] for i in range(min(4, len(dataset)))]
    reports = []
    for strategy, attention in ladder:
        try:
            apply_strategy(model, strategy, attention)
        except UsageError:
            if attn != "auto":
                raise
            continue
        if not probe:
            return IsolationReport(strategy, attention_of(model), "", 0, 0, (), ("not probed",))
        report = probe_isolation(model, rows, strategy=strategy)
        if report.ok:
            return report
        reports.append(report)
    apply_strategy(model, "native", native)
    raise VerifyError(
        f"{type(inner_model(model)).__name__} does not keep packed documents apart\n"
        + "\n".join(str(report) for report in reports),
        where=f"attn={attn}",
        hint="use attn=auto" if attn != "auto" else "pack with `--planner none` (one document a row) for it",
    )


def refuse_config(config: Any, dataset: PackedDataset | None = None) -> None:
    """Raise UsageError for what no probe on short rows can show: 3-D positions, length-dependent RoPE."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    ropes = _rope_parameters(text)
    if hasattr(config, "vision_config") and any("mrope_section" in rope for rope in ropes):
        raise UsageError(
            f"{config.model_type} takes 3-D positions (text and image); packed rows carry text positions",
            where="model",
            hint="train a text-only model of the family",
        )
    for rope in ropes:
        if rope.get("rope_type") not in ("dynamic", "longrope") or dataset is None:
            continue
        original = rope.get("original_max_position_embeddings") or getattr(
            text, "original_max_position_embeddings", None
        )
        original = int(original or text.max_position_embeddings)
        crowded = dataset.row_longest()[dataset.row_documents() > 1]
        if crowded.size and crowded.max() > original:
            raise UsageError(
                f"{rope['rope_type']} RoPE changes every document of a row as soon as one is longer than "
                f"{original:,} tokens; the longest beside others has {crowded.max():,}",
                where=str(dataset.folder),
                hint=f"pack again with a capacity of at most {original}",
            )


def verify_model(
    folder: str | Path,
    model: Any,
    *,
    attn: str | None = None,
    device: str | None = None,
) -> ModelVerification:
    """Probe `model` (a folder, a hub name, or a loaded model) on real rows of the artefact in `folder`.

    Every backend of "tokpack", "sdpa", "eager" is probed, or `attn` alone; the loop over documents follows
    when none passes. Raises UsageError when the model's tokenizer is not the artefact's.
    """
    from trainer_plugin.dataset import PackedDataset

    dataset = PackedDataset(folder)
    name = str(model)
    if isinstance(model, (str, Path)):
        model = _load_model(str(model), dataset, device)
    else:
        name = type(inner_model(model)).__name__
        model = model.to(device) if device else model
    refuse_config(inner_model(model).config, dataset)
    before = attention_of(model)
    native = _reference_attention(model) if before == NAME else before
    rows = [dataset[i] for i in range(min(4, len(dataset)))]
    reports: dict[str, IsolationReport] = {}
    for backend in [attn] if attn else list(BACKENDS):
        strategy = backend if backend in (NAME, "loop") else "native"
        reports[backend] = _probe_backend(model, rows, strategy, native if strategy == "loop" else backend)
    if attn is None and not any(report.ok for report in reports.values()):
        reports["loop"] = _probe_backend(model, rows, "loop", native)
    apply_strategy(model, NAME if before == NAME else "native", native)
    return ModelVerification(name, reports, tuple(_advice(reports)))


def _probe_backend(model: Any, rows: list[Any], strategy: str, attn: str) -> IsolationReport:
    try:
        apply_strategy(model, strategy, attn)
    except UsageError as error:
        failed = Check("the model takes this attention", float("inf"), 0.0, False)
        return IsolationReport(strategy, attn, "", 0, 0, (failed,), (error.what,))
    return probe_isolation(model, rows, strategy=strategy)


def _advice(reports: Mapping[str, IsolationReport]) -> list[str]:
    good = [name for name, report in reports.items() if report.ok]
    bad = [name for name, report in reports.items() if not report.ok]
    lines = []
    if good:
        lines.append(f"use attn={good[0]} (`tokpack train --attn auto` picks it)")
    if bad:
        lines.append(f"do not train packed rows with attn={', '.join(bad)}")
    if not good:
        lines.append("no backend keeps documents apart: pack with `--planner none`, one document a row")
    return lines


def _load_model(name: str, dataset: PackedDataset, device: str | None) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        dataset.check_tokenizer(AutoTokenizer.from_pretrained(name))
        model = AutoModelForCausalLM.from_pretrained(name, dtype="auto")
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the model cannot be loaded: {str(error).splitlines()[0]}",
            where=f"--model {name}",
            hint="give a folder with config.json, tokenizer and weights, or a model name on the hub",
        ) from None
    return model.to(device) if device else model


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    """All RoPE settings of a text config: one, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in rope.values() if isinstance(value, dict)]
    return nested or ([rope] if rope else [])


def _probe_documents(
    model: Any, rows: Iterable[Mapping[str, Any]] | None, seed: int, max_tokens: int
) -> list[np.ndarray]:
    """At least two documents of at least two tokens, `max_tokens` in all."""
    documents: list[np.ndarray] = []
    for row in rows or ():
        bounds = np.cumsum(np.asarray(row["seq_lengths"]))[:-1]
        documents += [part for part in np.split(np.asarray(row["input_ids"]), bounds) if len(part) > 1]
    if len(documents) >= 2:
        documents = documents[:4]
        return [document[: max_tokens // len(documents)].astype(np.int64) for document in documents]
    config = inner_model(model).config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    window = getattr(text, "sliding_window", None) or 0
    longest = min(window + 8, max_tokens // 2) if window else 40
    rng = np.random.default_rng(seed)
    return [rng.integers(1, text.vocab_size, length) for length in (21, max(40, longest), 17)]


def _run_checks(model: Any, documents: list[np.ndarray], seed: int, notes: list[str]) -> tuple[Check, ...]:
    config = inner_model(model).config
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    rng = np.random.default_rng(seed + 1)
    first = [rng.integers(1, text.vocab_size, len(documents[0])), *documents[1:]]
    last = [*documents[:-1], rng.integers(1, text.vocab_size, len(documents[-1]))]
    packed = _packed_logits(model, documents)
    scale = max(float(logits.abs().max()) for logits in packed)
    tolerance = TOLERANCE.get(packed[0].dtype, 5e-2)
    joined = [_packed_logits(model, [np.concatenate(case)])[0] for case in (documents, first)]
    control = float((joined[0] - joined[1])[len(documents[0]) :].abs().max()) / scale
    rounding = 4 * torch.finfo(packed[0].dtype).eps

    def check(
        name: str, found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor], floor: float
    ) -> Check:
        if not all(torch.isfinite(logits).all() for logits in found):
            return Check(name, float("inf"), tolerance, False, "not finite")
        moved = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True)) / scale
        limit = max(min(tolerance, 0.1 * control), floor)
        return Check(name, moved, limit, moved <= limit)

    checks = (
        check("first document changed", _packed_logits(model, first)[1:], packed[1:], 0.0),
        check("last document changed", _packed_logits(model, last)[:-1], packed[:-1], 0.0),
        check("packed against alone", packed, _alone_logits(model, documents), rounding),
    )
    notes.append(f"leaking documents would move the logits by {control:.1e}")
    notes.extend(_cache_note(model, documents, first, packed, scale))
    return checks


def _cache_note(
    model: Any, documents: list[np.ndarray], first: list[np.ndarray], packed: list[torch.Tensor], scale: float
) -> list[str]:
    """What `use_cache=True` would do: transformers then ignores the document boundaries without a warning."""
    try:
        cached = _packed_logits(model, documents, use_cache=True)
    except Exception:  # a model that refuses is safe
        return []
    moved = max(float((a - b).abs().max()) for a, b in zip(cached, packed, strict=True)) / scale
    if moved <= TOLERANCE.get(packed[0].dtype, 5e-2):
        return []
    return [f"use_cache=True would leak ({moved:.1e}): the trainer keeps it off, own loops must too"]


def _packed_logits(model: Any, documents: list[np.ndarray], use_cache: bool = False) -> list[torch.Tensor]:
    row = {
        "input_ids": np.concatenate(documents),
        "labels": np.full(sum(map(len, documents)), IGNORE_INDEX),
        "seq_lengths": np.array([len(document) for document in documents]),
    }
    batch = PackedCollator()([row])
    del batch["labels"]
    logits = model(**fit_batch(model, batch), **_cache_option(model, use_cache)).logits[0]
    return list(logits.split([len(document) for document in documents]))


def _alone_logits(model: Any, documents: list[np.ndarray]) -> list[torch.Tensor]:
    """Each document by the plain call, with the attention that transformers itself brings."""
    inner = inner_model(model)
    ours = attention_of(model) == NAME
    if ours:
        inner.set_attn_implementation(_reference_attention(model))
    try:
        option = _cache_option(model, False)
        device = next(inner.parameters()).device
        ids = [torch.as_tensor(document, device=device)[None] for document in documents]
        return [model(input_ids=document, **option).logits[0] for document in ids]
    finally:
        if ours:
            inner.set_attn_implementation(NAME)


def _reference_attention(model: Any) -> str:
    return "sdpa" if getattr(inner_model(model), "_supports_sdpa", False) else "eager"


def _cache_option(model: Any, use_cache: bool) -> dict[str, bool]:
    import inspect

    parameters = inspect.signature(inner_model(model).forward).parameters
    known = "use_cache" in parameters or "_tokpack_whole_forward" in vars(inner_model(model))
    return {"use_cache": use_cache} if known else {}


@contextmanager
def _quiet_evaluation(model: Any) -> Any:
    """No dropout, no gradients; the model's mode comes back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)

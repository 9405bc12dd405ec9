"""Set a model up for packed rows and prove that documents do not see each other.

`prepare_model` walks down the ways of `trainer_plugin.models.strategies` to the first that passes the probe;
`verify_model` probes every attention a model can take and says which to use.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokpack.errors import UsageError, VerifyError
from tokpack.terminal.activity import Activity, counted
from trainer_plugin.dtypes import probed_dtype, stored_dtype
from trainer_plugin.isolation.probe import probe_isolation, reference_attention
from trainer_plugin.isolation.report import IsolationReport, ModelVerification, ProbeCheck
from trainer_plugin.models.attention import NAME
from trainer_plugin.models.strategies import apply_strategy, attention_of, inner_model, split_layers

if TYPE_CHECKING:
    from trainer_plugin.rows.dataset import PackedDataset

BACKENDS = (NAME, "sdpa", "eager")
FALLBACKS = ("mixers", "loop")


def prepare_model(
    model: Any,
    attn: str = "auto",
    *,
    dataset: PackedDataset | None = None,
    probe: bool = True,
) -> IsolationReport:
    """Set `model` up for packed rows and prove it; returns the report of the set-up that is now in place.

    attn: "auto" takes the first that passes of the packed attention, the attention the model came with,
        either of them with the leaking layers run document by document ("mixers"), and the loop over
        documents; "tokpack", "mixers", "loop", or any `attn_implementation` takes that one or raises.

    Raises UsageError for models that cannot be right (3-D multimodal positions, rows too long for a dynamic
    RoPE), VerifyError when nothing passes.
    """
    refuse_config(inner_model(model).config, dataset)
    native = _native_attention(model)
    rows = None if dataset is None else [dataset[i] for i in range(min(4, len(dataset)))]
    ladder = _ladder(attn, native)
    reports = []
    for strategy, attention in ladder:
        try:
            apply_strategy(model, strategy, attention)
        except UsageError as error:
            if len(ladder) == 1:
                raise
            reports.append(_not_taken(strategy, attention, error))
            continue
        if not probe:
            way = strategy if strategy in FALLBACKS else attention_of(model)
            return IsolationReport(strategy, way, "", 0, 0, (), ("not probed",), split_layers(model))
        report = probe_isolation(model, rows)
        if report.ok:
            return report
        reports.append(report)
    apply_strategy(model, "native", native)
    ahead = any(report.sees_ahead for report in reports)
    fault = "is not causal" if ahead else "does not keep packed documents apart"
    raise VerifyError(
        f"{type(inner_model(model)).__name__} {fault}\n"
        + "\n".join(f"  {report.strategy}, {report.attn}: {report.problem}" for report in reports),
        where=f"attn={attn}",
        hint=_way_out(attn, ahead),
    )


def _way_out(attn: str, ahead: bool) -> str:
    if ahead:
        other = "another version of transformers" if attn == "eager" else "attn=eager"
        return f"try {other}; a model that is made to see ahead cannot be trained so"
    return "use attn=auto" if attn != "auto" else "pack with `--planner none` (one document a row) for it"


def _ladder(attn: str, native: str) -> list[tuple[str, str]]:
    """`(strategy, attention)` in the order in which they are tried."""
    steps = [(NAME, NAME), ("native", native), ("mixers", NAME), ("mixers", native), ("loop", native)]
    if attn == "auto":
        return steps
    return [step for step in steps if step[0] == attn] or [("native", attn)]


def _native_attention(model: Any) -> str:
    before = attention_of(model)
    return reference_attention(model) if before == NAME else before


def _not_taken(strategy: str, attn: str, error: UsageError) -> IsolationReport:
    failed = ProbeCheck("the model takes it", float("inf"), 0.0, False)
    return IsolationReport(strategy, attn, "", 0, 0, (failed,), (error.what,))


def refuse_config(config: Any, dataset: PackedDataset | None = None) -> None:
    """Raise UsageError for what no probe on short rows can show: 3-D positions, length-dependent RoPE."""
    text = config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config
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
                f"{counted(original, 'token')}; the longest beside others has {crowded.max():,}",
                where=str(dataset.folder),
                hint=f"pack again with a capacity of at most {original}",
            )


def verify_model(
    folder: str | Path,
    model: Any,
    *,
    attn: str | None = None,
    device: str | None = None,
    tell: Activity | None = None,
) -> ModelVerification:
    """Probe `model` (a folder, a hub name, or a loaded model) on real rows of the packed dataset in `folder`.

    Every backend of "tokpack", "sdpa", "eager" is probed, or `attn` alone; when none passes, "mixers" and
    "loop" follow. Raises UsageError when the model's tokenizer is not the packed dataset's, and
    for a `device` that is not there.
    """
    from trainer_plugin.rows.dataset import PackedDataset

    dataset, tell = PackedDataset(folder), tell or Activity(quiet=True)
    if device:
        _check_device(device)
    name, dtype = str(model), None
    if isinstance(model, (str, Path)):
        with tell.doing(f"loading {name}"):
            dtype = probed_dtype(stored_dtype(name), device or "cpu")
            model = _load_model(name, dtype.dtype, dataset, device)
    else:
        name = type(inner_model(model)).__name__
        model = model.to(device) if device else model
    refuse_config(inner_model(model).config, dataset)
    dataset.check_values(model)
    before, native = attention_of(model), _native_attention(model)
    rows = [dataset[i] for i in range(min(4, len(dataset)))]
    reports: dict[str, IsolationReport] = {}
    backends = [attn] if attn else BACKENDS
    with tell.doing("probing the isolation of documents", len(backends), "ways of attention") as advance:
        for backend in backends:
            reports[backend] = _probe_backend(model, rows, backend, native)
            advance(1, "")
    for fallback in FALLBACKS if attn is None else ():
        if not any(report.ok for report in reports.values()):
            with tell.doing(f"probing {fallback}"):
                reports[fallback] = _probe_backend(model, rows, fallback, native)
    apply_strategy(model, NAME if before == NAME else "native", native)
    advice = [f"probed in {dtype}"] if dtype is not None else []
    return ModelVerification(name, reports, (*advice, *_advice(reports, attn)))


def _probe_backend(model: Any, rows: list[Any], backend: str, native: str) -> IsolationReport:
    """The report of the first step that passes, else of the last."""
    report = None
    for strategy, attention in _ladder(backend, native):
        try:
            apply_strategy(model, strategy, attention)
            report = probe_isolation(model, rows)
        except UsageError as error:
            report = _not_taken(strategy, attention, error)
        if report.ok:
            break
    assert report is not None
    return report


def _advice(reports: Mapping[str, IsolationReport], asked: str | None) -> list[str]:
    good = [name for name, report in reports.items() if report.ok]
    lines = []
    if good:
        how = f"`tokpack train --attn {asked}`" if asked else "`tokpack train --attn auto` picks it"
        lines.append(f"use attn={good[0]} ({how})")
    for name, report in reports.items():
        if not report.ok:
            lines.append(f"do not train packed rows with attn={name}: {report.problem}")
        if report.mixers:
            lines.append(f"attn={name} runs document by document: {', '.join(report.mixers)}")
    if any(report.sees_ahead for report in reports.values()) and not good:
        lines.append(_way_out(asked or "auto", True))
    elif not good and asked:
        lines.append("verify without --attn tries the others")
    elif not good:
        lines.append("no backend keeps documents apart: pack with `--planner none`, one document a row")
    return lines


def _check_device(device: str) -> None:
    import torch

    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # each build has its own way to say no
        raise UsageError(
            f"cannot use the device {device!r}: {str(error).splitlines()[0]}",
            where=f"--device {device}",
            hint="leave it out, or give one that this machine and this build of PyTorch have: cpu, cuda, mps",
        ) from None


def _load_model(name: str, dtype: Any, dataset: PackedDataset, device: str | None) -> Any:
    from trainer_plugin.checkpoints.model_files import load_causal_model, load_tokenizer

    dataset.check_tokenizer(load_tokenizer(name))
    model = load_causal_model(name, dtype=dtype)
    return model.to(device) if device else model


def _rope_parameters(config: Any) -> list[dict[str, Any]]:
    """All RoPE settings of a text config: one, or one for each kind of layer."""
    rope = getattr(config, "rope_parameters", None) or {}
    nested = [value for value in rope.values() if isinstance(value, dict)]
    return nested or ([rope] if rope else [])

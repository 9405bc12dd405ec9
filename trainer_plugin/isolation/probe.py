"""The isolation probe: does a document in a packed row see its neighbors, with this model as it is now?

    packed     A B C  in one row, as the collator makes it
    changed    A'B C  and  A B C'                 logits of the others must not move
    alone      A | B | C  through the plain call  logits must be the packed ones
    gradients  of a loss on B, in training mode   must not reach A and C
    ahead      A      its second half changed     must not move the logits of the first, windows as they are
    control    A'BC   as one document             how far logits move when documents do leak

A leak shows as a difference near the control; rounding stays far below it. So a check passes when the
difference is exactly zero, or both under the tolerance for the dtype (relative to the largest logit) and
under a tenth of the control, which keeps the probe from being blind on models whose logits hardly depend on
context. Packed against alone in 16 bits compares means over tokens, and with a fifth. Sliding windows and
chunks are shortened while it runs, so that short documents reach beyond them. Over a large
vocabulary the logits of some tokens of each document are compared, not of all: the head would take longer
than the rest of the model.

A dozen short passes: seconds for a small model, and the only proof that holds for every architecture: of the
decoder models in transformers some leak without any warning.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from tokpack.schema import IGNORE_INDEX
from trainer_plugin.isolation.report import (
    AHEAD,
    ALONE,
    CHANGED_FIRST,
    CHANGED_LAST,
    GRADIENTS,
    IsolationReport,
    ProbeCheck,
)
from trainer_plugin.models.attention import NAME
from trainer_plugin.models.private_names import supports_sdpa
from trainer_plugin.models.strategies import (
    attention_of,
    cache_option,
    fit_batch,
    inner_model,
    quiet_evaluation,
    split_layers,
    strategy_of,
    text_config,
)
from trainer_plugin.rows.collator import PackedCollator

TOLERANCE = {torch.float32: 2e-4, torch.float64: 1e-8, torch.float16: 2e-2, torch.bfloat16: 5e-2}
"""Largest difference that counts as rounding, relative to the largest logit."""

GRADIENT_LIMIT = 1e-6
"""Largest gradient at another document's tokens, relative to the own ones. Nothing but a path makes one."""

PROBE_TOKENS = 384
FLEX_TOKENS = 128
"""Fewer in a row, without gradients, and PyTorch 2.11's compiled FlexAttention finds no kernel: the longest
document, which is probed by itself too, has to have as many."""
PROBE_LOGITS = 1 << 22
"""Logits of one pass, about: of tokens that are spread evenly over the row."""
WINDOW = 16
_WINDOWS = ("sliding_window", "attention_chunk_size")

Logits = list[torch.Tensor]


def probe_isolation(
    model: Any,
    rows: Iterable[Mapping[str, Any]] | None = None,
    *,
    seed: int = 0,
    max_tokens: int = PROBE_TOKENS,
) -> IsolationReport:
    """Probe a model as it is set up now.

    `rows` are packed rows whose documents are used, shortened to `max_tokens` in all; without them the
    documents are random tokens. A model that raises fails the probe with the error as the note.
    """
    documents = _probe_documents(model, rows, seed, max_tokens)
    notes: list[str] = []
    case = _Case(model, documents, seed)
    with quiet_evaluation(model):
        try:
            with _short_windows(model):
                checks = _run_checks(case, notes)
            if all(one.ok for one in checks):
                checks += (_ahead_check(case),)
        except Exception as error:  # any error of a model's own code means: not proven
            text = " ".join(str(error).split())[:300]
            checks = (
                ProbeCheck("the model runs on packed rows", float("inf"), 0.0, False, type(error).__name__),
            )
            notes.append(text)
    strategy = strategy_of(model)
    return IsolationReport(
        strategy=strategy,
        attn=strategy if strategy in ("mixers", "loop") else attention_of(model),
        dtype=str(next(inner_model(model).parameters()).dtype).removeprefix("torch."),
        documents=len(documents),
        tokens=sum(map(len, documents)),
        checks=checks,
        notes=tuple(notes),
        mixers=split_layers(model),
    )


def reference_attention(model: Any) -> str:
    """The attention of transformers that documents alone are run with."""
    return "sdpa" if supports_sdpa(inner_model(model)) else "eager"


def unmasked(logits: torch.Tensor) -> torch.Tensor:
    """Zero where a model masks a logit out with the lowest number that there is."""
    return logits.where(logits.abs() < torch.finfo(logits.dtype).max / 2, 0)


class _Case(NamedTuple):
    model: Any
    documents: list[np.ndarray]
    seed: int

    @property
    def places(self) -> np.ndarray:
        """Tokens of the row whose logits are compared, the first and last two of each document at least.

        int64[K], ascending.
        """
        total = sum(map(len, self.documents))
        step = max(1, total * text_config(self.model).vocab_size // PROBE_LOGITS)
        whole = step == 1 or inner_model(self.model).get_output_embeddings() is None
        if whole or strategy_of(self.model) == "loop":  # which calls the head once a document
            return np.arange(total)
        ends = np.cumsum([len(document) for document in self.documents])
        starts = np.concatenate([[0], ends[:-1]])
        return np.unique(np.concatenate([np.arange(total - 1, -1, -step), starts, ends - 1, ends - 2]))

    def changed(self, number: int) -> list[np.ndarray]:
        """The documents, one of them replaced by other random tokens."""
        rng = np.random.default_rng(self.seed + 1)
        documents = list(self.documents)
        documents[number] = rng.integers(1, text_config(self.model).vocab_size, len(documents[number]))
        return documents


def _probe_documents(
    model: Any, rows: Iterable[Mapping[str, Any]] | None, seed: int, max_tokens: int
) -> list[np.ndarray]:
    """At least two documents of at least two tokens, `max_tokens` in all."""
    documents: list[np.ndarray] = []
    for row in rows or ():
        bounds = np.cumsum(np.asarray(row["seq_lengths"]))[:-1]
        documents += [part for part in np.split(np.asarray(row["input_ids"]), bounds) if len(part) > 1]
    flex = attention_of(model) == "flex_attention"
    documents = documents[: 3 if flex else 4]
    documents = [part[: max_tokens // len(documents)].astype(np.int64) for part in documents]
    if len(documents) >= 2 and (not flex or max(map(len, documents)) >= FLEX_TOKENS):
        return documents
    rng = np.random.default_rng(seed)
    lengths = (53, FLEX_TOKENS + 13, 43) if flex else (21, 40, 17)
    return [rng.integers(1, text_config(model).vocab_size, length) for length in lengths]


def _run_checks(case: _Case, notes: list[str]) -> tuple[ProbeCheck, ...]:
    model, documents = case.model, case.documents
    places = case.places
    packed = _packed_logits(model, documents, places)
    first = case.changed(0)
    behind = np.searchsorted(places, len(documents[0]))
    leaked = [_packed_logits(model, [np.concatenate(row)], places)[0][behind:] for row in (documents, first)]
    largest = _Largest(max(float(logits.abs().max()) for logits in packed), leaked)
    against_alone = _TokenMean(leaked) if packed[0].dtype in (torch.float16, torch.bfloat16) else largest
    checks = [
        largest.check(CHANGED_FIRST, _packed_logits(model, first, places)[1:], packed[1:]),
        largest.check(CHANGED_LAST, _packed_logits(model, case.changed(-1), places)[:-1], packed[:-1]),
        against_alone.check(ALONE, packed, _alone_logits(model, documents, places)),
    ]
    if all(one.ok for one in checks):
        checks.append(_gradient_check(model, documents, places))
    notes.append(f"leaking documents would move the logits by {largest.leak:.1e}")
    notes.extend(_cache_note(case, packed, largest))
    return tuple(checks)


def _ahead_check(case: _Case) -> ProbeCheck:
    """One document, as training gets it: transformers may leave the mask out of such a row.

    Without this a model that reads both ways passes: it does so in a packed row and alone.
    """
    longest = int(np.argmax([len(document) for document in case.documents]))
    document, other = case.documents[longest], case.changed(longest)[longest]
    half = len(document) // 2
    places = _Case(case.model, [document], case.seed).places
    behind = int(np.searchsorted(places, half))
    before, after = (
        _packed_logits(case.model, [np.concatenate([document[:half], rest])], places)[0]
        for rest in (document[half:], other[half:])
    )
    largest = _Largest(float(before.abs().max()), [before[behind:], after[behind:]])
    return largest.check(AHEAD, [after[:behind]], [before[:behind]])


class _Largest:
    """Differences as the largest of any logit, relative to the largest logit."""

    share = 0.1

    def __init__(self, scale: float, leaked: Logits) -> None:
        self.scale = scale
        self.leak = self.distance(leaked[:1], leaked[1:])

    def distance(self, found: Logits, wanted: Logits) -> float:
        moved = max(float((a - b).abs().max()) for a, b in zip(found, wanted, strict=True))
        return moved / self.scale

    def check(self, name: str, found: Logits, wanted: Logits) -> ProbeCheck:
        dtype = found[0].dtype
        tolerance = TOLERANCE.get(dtype, 5e-2)
        if not all(torch.isfinite(logits).all() for logits in found):
            return ProbeCheck(name, float("inf"), tolerance, False, "not finite")
        moved = self.distance(found, wanted)
        limit = max(min(tolerance, self.share * self.leak), 4 * torch.finfo(dtype).eps)
        return ProbeCheck(name, moved, limit, moved <= limit)


class _TokenMean(_Largest):
    """The same as the mean over the tokens of the norms of their logits.

    For 16-bit logits of two runs: at the worst token their rounding comes near to what a leak does there.
    """

    share = 0.2

    def __init__(self, leaked: Logits) -> None:
        super().__init__(1.0, leaked)

    def distance(self, found: Logits, wanted: Logits) -> float:
        a, b = (torch.cat(list(logits)).float() for logits in (found, wanted))
        return float((a - b).norm(dim=1).mean() / b.norm(dim=1).mean())


def _cache_note(case: _Case, packed: Logits, largest: _Largest) -> list[str]:
    """What `use_cache=True` would do: transformers then ignores the document boundaries without a warning."""
    try:
        moved = largest.distance(
            _packed_logits(case.model, case.documents, case.places, use_cache=True), packed
        )
    except Exception:  # a model that refuses is safe
        return []
    if moved <= TOLERANCE.get(packed[0].dtype, 5e-2):
        return []
    return [f"use_cache=True would leak ({moved:.1e}): the trainer keeps it off, own loops must too"]


def _packed_logits(
    model: Any, documents: list[np.ndarray], places: np.ndarray, use_cache: bool = False
) -> Logits:
    """Logits of each document at the places of the row that lie in it."""
    row = {
        "input_ids": np.concatenate(documents),
        "labels": np.full(sum(map(len, documents)), IGNORE_INDEX),
        "seq_lengths": np.array([len(document) for document in documents]),
    }
    batch = PackedCollator()([row])
    del batch["labels"]
    with _head_at(model, places, sum(map(len, documents))):
        logits = unmasked(model(**fit_batch(model, batch), **cache_option(model, use_cache)).logits[0])
    return list(logits.split([len(part) for part in _places_by_document(documents, places)]))


def _places_by_document(documents: list[np.ndarray], places: np.ndarray) -> list[np.ndarray]:
    """The places in each document, counted from its start."""
    ends = np.cumsum([len(document) for document in documents])
    parts = np.split(places, np.searchsorted(places, ends[:-1]))
    return [part - start for part, start in zip(parts, [0, *ends[:-1]], strict=True)]


@contextmanager
def _head_at(model: Any, places: np.ndarray, total: int) -> Iterator[None]:
    """The head makes logits at these places alone; nothing changes where they are all there are."""
    if len(places) == total:
        yield
        return
    head = inner_model(model).get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _module, args: (args[0][:, places], *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def _alone_logits(model: Any, documents: list[np.ndarray], places: np.ndarray) -> Logits:
    """Each document by the plain call, with the attention that transformers itself brings."""
    inner, before = inner_model(model), attention_of(model)
    other = before in (NAME, "flex_attention")
    if other:
        inner.set_attn_implementation(reference_attention(model))
    try:
        option = cache_option(model, False)
        device = next(inner.parameters()).device
        logits = []
        for document, own in zip(documents, _places_by_document(documents, places), strict=True):
            ids = torch.as_tensor(document, device=device)[None]
            with _head_at(model, own, len(document)):
                logits.append(unmasked(model(input_ids=ids, **option).logits[0]))
        return logits
    finally:
        if other:
            inner.set_attn_implementation(before)


def _gradient_check(model: Any, documents: list[np.ndarray], places: np.ndarray) -> ProbeCheck:
    """One loss, on one document, in training mode: some models take other kernels there."""
    middle = len(documents) // 2
    with _training(model), _embedding_leaves(model) as leaves:
        logits = _packed_logits(model, documents, places)[middle]
        logits.float().square().mean().backward()
    gradients = [leaf.grad.float().reshape(-1, leaf.shape[-1]) for leaf in leaves if leaf.grad is not None]
    start = sum(map(len, documents[:middle]))
    if sum(map(len, gradients)) != sum(map(len, documents)):
        return ProbeCheck(
            GRADIENTS, 0.0, GRADIENT_LIMIT, True, "not measured: the embeddings are out of reach"
        )
    sizes = torch.cat(gradients).abs().amax(dim=1)
    own = float(sizes[start : start + len(documents[middle])].max())
    sizes[start : start + len(documents[middle])] = 0
    other = float(sizes.max()) / own if own else float("inf")
    return ProbeCheck(GRADIENTS, other, GRADIENT_LIMIT, other <= GRADIENT_LIMIT)


@contextmanager
def _training(model: Any) -> Iterator[None]:
    """Training mode without a trace: no gradients at parameters, no random numbers used up."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type == "cuda"}
    with torch.random.fork_rng(devices=list(devices)), torch.enable_grad():
        for parameter in trainable:
            parameter.requires_grad_(False)
        model.train()
        try:
            yield
        finally:
            model.eval()
            for parameter in trainable:
                parameter.requires_grad_(True)


@contextmanager
def _embedding_leaves(model: Any) -> Iterator[list[torch.Tensor]]:
    """The embeddings of each call, made leaves of the graph."""
    leaves: list[torch.Tensor] = []

    def make_leaf(_module: Any, _args: Any, output: Any) -> Any:
        leaf = output.detach().requires_grad_(True)
        leaves.append(leaf)
        return leaf.clone()  # a model may write into its embeddings

    handle = inner_model(model).get_input_embeddings().register_forward_hook(make_leaf)
    try:
        yield leaves
    finally:
        handle.remove()


@contextmanager
def _short_windows(model: Any) -> Iterator[None]:
    """Windows and chunks of `WINDOW` tokens, in the configurations and the layers that read them."""
    inner = inner_model(model)
    places: list[dict[str, Any]] = [vars(module) for module in inner.modules()]
    configs = [place["config"] for place in places if hasattr(place.get("config"), "__dict__")]
    configs.append(text_config(model))
    places += {id(config): vars(config) for config in configs}.values()
    before = [
        (place, name, place[name])
        for place in places
        for name in _WINDOWS
        if isinstance(place.get(name), int) and place[name] > WINDOW
    ]
    try:
        for place, name, _ in before:
            place[name] = WINDOW
        yield
    finally:
        for place, name, value in before:
            place[name] = value

"""Base against adapter on the same documents: what differs, how sure that is, and where.

A difference is the adapter's loss minus the base's, in nats per trained token: below 0 is better. Every
document is compared with itself, so what makes one text harder than another drops out. Intervals draw whole
conversations (`trainer_plugin.evaluation.statistics`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer_plugin.evaluation.losses import DocumentPlaces, Floats, Ints
from trainer_plugin.evaluation.statistics import Interval, ratio, share
from trainer_plugin.losses.preference_loss import PreferenceLoss

EXTREMES = 10
"""Documents shown on either end."""
SHORTEST_BIN, LONGEST_BIN = 64, 1 << 20


@dataclass(frozen=True, slots=True)
class Group:
    """Some of the documents: those of a source, or of a length."""

    name: str
    documents: int
    trained_tokens: int
    base_loss: float
    loss: float
    difference: Interval


@dataclass(frozen=True, slots=True)
class Extreme:
    """A document on which the adapter did much better or worse than the base; texts are cut."""

    doc_id: int
    piece: int
    source: str
    place: str
    """"number 12 of chats.jsonl"; empty where it is not known."""
    tokens: int
    trained_tokens: int
    base_loss: float
    loss: float
    prompt: str
    """Text before the first trained token, its end."""
    answer: str
    """Trained text, its start."""

    @property
    def difference(self) -> float:
        return self.loss - self.base_loss


@dataclass(frozen=True, slots=True)
class Pairs:
    """Preference pairs: rewards are those of the loss that the adapter was trained with."""

    pairs: int
    loss: str
    strength: float
    accuracy: Interval
    """Share of pairs in which the reward of the chosen answer is the higher one."""
    margin: Interval
    """Mean reward of the chosen answer minus that of the rejected one."""
    base_prefers: Interval
    """Share of pairs in which the base finds the chosen answer likelier per token."""
    prefers: Interval


@dataclass(frozen=True, slots=True)
class AdapterComparison:
    """One adapter against the base. Of preference pairs all but `pairs` is about the chosen answers."""

    adapter: str
    documents: int
    trained_tokens: int
    base_loss: float
    loss: float
    difference: Interval
    improved: Interval
    """Share of conversations whose loss fell."""
    by_source: list[Group]
    by_length: list[Group]
    worst: list[Extreme]
    best: list[Extreme]
    pairs: Pairs | None = None


def compare(
    adapter: str,
    documents: DocumentPlaces,
    base: Floats,
    ours: Floats,
    sources: list[str],
    show: Callable[[int, float, float], Extreme],
    preference: PreferenceLoss | None = None,
) -> AdapterComparison:
    """base, ours: summed losses, float64[D]. sources: of each document. show: index and both losses ->
    the document, with its texts."""
    counted = documents.trained > 0
    if documents.chosen is not None:
        counted &= documents.chosen
    at = np.flatnonzero(counted)
    table = _Table(documents.doc_id[at], documents.trained[at].astype(np.float64), base[at], ours[at])
    means = (table.ours - table.base) / table.trained
    order = np.lexsort((documents.piece[at], table.clusters, means))
    shown = [show(int(at[i]), *table.losses_of(i)) for i in (*order[-EXTREMES:][::-1], *order[:EXTREMES])]
    worst, best = shown[: len(shown) // 2], shown[len(shown) // 2 :]
    whole = table.group("all", np.ones(len(at), bool))
    return AdapterComparison(
        adapter=adapter,
        documents=whole.documents,
        trained_tokens=whole.trained_tokens,
        base_loss=whole.base_loss,
        loss=whole.loss,
        difference=whole.difference,
        improved=table.improved(),
        by_source=_by_source(table, np.array(sources, dtype=object)[at]),
        by_length=_by_length(table, documents.tokens[at]),
        worst=[one for one in worst if one.difference > 0],
        best=[one for one in best if one.difference < 0],
        pairs=None if documents.chosen is None else _pairs(documents, base, ours, preference),
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """One entry a document with trained tokens; `clusters` names its conversation."""

    clusters: Ints
    trained: Floats
    base: Floats
    ours: Floats

    def losses_of(self, i: int) -> tuple[float, float]:
        return float(self.base[i] / self.trained[i]), float(self.ours[i] / self.trained[i])

    def group(self, name: str, mine: npt.NDArray[np.bool_]) -> Group:
        trained, base, ours = self.trained[mine], self.base[mine], self.ours[mine]
        tokens = max(trained.sum(), 1)
        return Group(
            name=name,
            documents=len(np.unique(self.clusters[mine])),
            trained_tokens=int(trained.sum()),
            base_loss=float(base.sum() / tokens),
            loss=float(ours.sum() / tokens),
            difference=ratio(ours - base, trained, self.clusters[mine]),
        )

    def improved(self) -> Interval:
        _, members = np.unique(self.clusters, return_inverse=True)
        differences = np.bincount(members, weights=self.ours - self.base)
        return share(int((differences < 0).sum()), len(differences))


def _by_source(table: _Table, sources: npt.NDArray[np.object_]) -> list[Group]:
    """Largest first; nothing where all are of one."""
    names = sorted(set(sources))
    groups = [table.group(str(name), sources == name) for name in names] if len(names) > 1 else []
    return sorted(groups, key=lambda group: -group.trained_tokens)


def _by_length(table: _Table, tokens: Ints) -> list[Group]:
    """Bins that double, shortest first."""
    groups, low, high = [], 0, SHORTEST_BIN
    while low < LONGEST_BIN:
        mine = (tokens > low) & (tokens <= high)
        if mine.any():
            name = f"up to {high:,} tokens" if not low else f"{low + 1:,} to {high:,}"
            groups.append(table.group(name, mine))
        low, high = high, high * 2 if high < LONGEST_BIN else 1 << 62
    return groups


def _pairs(documents: DocumentPlaces, base: Floats, ours: Floats, preference: PreferenceLoss | None) -> Pairs:
    """Pairs lie side by side; those without trained tokens in one answer count for nothing."""
    import torch

    preference = preference or PreferenceLoss()
    trained = documents.trained.reshape(-1, 2)
    whole = (trained > 0).all(axis=1)
    tokens, reference, policy = (
        torch.from_numpy(np.ascontiguousarray(values.reshape(-1, 2)[whole]).astype(np.float64))
        for values in (documents.trained, -base, -ours)
    )
    found = preference(policy, tokens, reference)
    margins = (found.chosen - found.rejected).numpy()
    ahead = [(sums / tokens).diff(dim=1)[:, 0] < 0 for sums in (reference, policy)]
    count = int(whole.sum())
    return Pairs(
        pairs=count,
        loss=preference.loss,
        strength=preference.strength,
        accuracy=share(int((margins > 0).sum()), count),
        margin=ratio(margins, np.ones(count), np.arange(count)),
        base_prefers=share(int(ahead[0].sum()), count),
        prefers=share(int(ahead[1].sum()), count),
    )

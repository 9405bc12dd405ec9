"""`BalancedSampler`: a new row order each epoch, in which ranks that wait for each other do equal work.

Rows are equal in tokens, not in attention: the slowest rank of a step sets its pace. Rows sorted by cost
are cut into hands of `ranks * batch_rows` neighbours, one micro-batch for every rank, and the hands are
shuffled: within a hand costs are nearly equal, from hand to hand they vary, so every optimizer step still
mixes. With one rank nothing needs balancing and the order is a plain shuffle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from tokpack.schema import IGNORE_INDEX
from trainer_plugin.dataset import PackedDataset

if TYPE_CHECKING:
    from trainer_plugin.budget import Stop


class BalancedSampler:
    """Sampler over a `PackedDataset`. The order depends on `(seed, epoch)` alone: it is known beforehand.

    costs: float[rows], the time a row takes, in any unit; default: tokens + `pair_cost` x squared lengths.
    Call `set_epoch` as with PyTorch's DistributedSampler (accelerate does). `stop` cuts the order short.
    """

    stop: Stop | None = None

    def __init__(
        self,
        dataset: PackedDataset,
        ranks: int = 1,
        *,
        batch_rows: int = 1,
        seed: int = 0,
        costs: np.ndarray | None = None,
        pair_cost: float = 0.0,
    ) -> None:
        self.ranks, self.batch_rows, self.seed, self.epoch = ranks, batch_rows, seed, 0
        if costs is None:
            costs = dataset.row_tokens() + pair_cost * dataset.row_pairs()
        self.costs = np.asarray(costs, dtype=np.float64)

    def __len__(self) -> int:
        return len(self.costs)

    def __iter__(self) -> Iterator[int]:
        return iter(self._cut(self.order(self.epoch), self.epoch).tolist())

    @property
    def hand(self) -> int:
        """Rows of one micro-batch of all ranks."""
        return self.ranks * self.batch_rows

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """Rows of an epoch, each once: int64[rows]. Rank r takes batches r, r + ranks, and so on."""
        rng = np.random.default_rng((self.seed, epoch))
        rows = rng.permutation(len(self.costs))
        if self.ranks == 1:
            return rows
        full = len(rows) // self.hand * self.hand
        kept, rest = rows[:full], rows[full:]
        hands = kept[np.argsort(self.costs[kept], kind="stable")].reshape(-1, self.hand)
        hands = rng.permuted(rng.permutation(hands), axis=1)
        return np.concatenate([hands.reshape(-1), rest])

    def epoch_rows(self, epoch: int) -> np.ndarray:
        """Rows that all ranks together train on in an epoch, in order.

        An epoch that does not divide among the ranks is filled up with its own first rows (accelerate).
        """
        order = self.order(epoch)
        if self.ranks > 1:
            order = np.resize(order, math.ceil(len(order) / self.hand) * self.hand)
        return self._cut(order, epoch)

    def _cut(self, order: np.ndarray, epoch: int) -> np.ndarray:
        return order[: self.stop.rows] if self.stop is not None and epoch == self.stop.epoch else order

    def steps_for(self, rows: int, accumulation: int) -> int:
        """Optimizer steps of the first `rows` rows of an epoch."""
        return math.ceil(math.ceil(rows / self.hand) / accumulation)

    def rows_of(self, steps: int, accumulation: int = 1) -> np.ndarray:
        """Rows that `steps` optimizer steps of all ranks train on, in order, repeats included."""
        parts: list[np.ndarray] = []
        epoch = 0
        while steps > 0 and not (self.stop is not None and epoch > self.stop.epoch):
            order = self.epoch_rows(epoch)
            parts.append(order[: steps * accumulation * self.hand])
            steps, epoch = steps - self.steps_for(len(order), accumulation), epoch + 1
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


class RankRows:
    """Every `ranks`-th row, as many on each rank: missing ones are repeats without labels, weight 0."""

    def __init__(self, dataset: Any, rank: int, ranks: int) -> None:
        self.dataset, self.rank, self.ranks = dataset, rank, ranks

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.ranks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = index * self.ranks + self.rank
        if row < len(self.dataset):
            return dict(self.dataset[row])
        repeat = dict(self.dataset[len(self.dataset) - 1])
        return {**repeat, "labels": np.full(len(repeat["labels"]), IGNORE_INDEX)}


def pair_cost(model: Any) -> float:
    """Cost of one pair of tokens in attention, in units of a token's cost in the weights.

    Forward pass: a token takes 2 x parameters, a causal pair 2 x hidden x layers (scores and values, half
    of the square).
    """
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    return float(config.hidden_size * config.num_hidden_layers / max(model.num_parameters(), 1))

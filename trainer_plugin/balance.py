"""`BalancedSampler`: a new row order each epoch, in which ranks that wait for each other do equal work.

Rows are equal in tokens, not in attention: the slowest rank of a step sets its pace. Rows sorted by cost
are cut into hands of `ranks * batch_rows` neighbours, one micro-batch for every rank, and the hands are
shuffled: within a hand costs are nearly equal, from hand to hand they vary, so every optimizer step still
mixes. With one rank nothing needs balancing and the order is a plain shuffle.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer_plugin.dataset import PackedDataset


class BalancedSampler:
    """Sampler over a `PackedDataset`. The order depends on `(seed, epoch)` alone: it is known beforehand.

    costs: float[rows], the time a row takes, in any unit; default: tokens + `pair_cost` x squared lengths.
    Call `set_epoch` as with PyTorch's DistributedSampler (accelerate does).
    """

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
        return iter(self.order(self.epoch).tolist())

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def order(self, epoch: int) -> np.ndarray:
        """Rows of an epoch, each once: int64[rows]. Rank r takes batches r, r + ranks, and so on."""
        rng = np.random.default_rng((self.seed, epoch))
        rows = rng.permutation(len(self.costs))
        hand = self.ranks * self.batch_rows
        if self.ranks == 1:
            return rows
        full = len(rows) // hand * hand
        kept, rest = rows[:full], rows[full:]
        hands = kept[np.argsort(self.costs[kept], kind="stable")].reshape(-1, hand)
        hands = rng.permuted(rng.permutation(hands), axis=1)
        return np.concatenate([hands.reshape(-1), rest])

    def rows_of(self, steps: int, accumulation: int = 1) -> np.ndarray:
        """Rows that `steps` optimizer steps of all ranks train on, in order, repeats included.

        An epoch that does not divide among the ranks is filled up with its own first rows (accelerate).
        """
        hand = self.ranks * self.batch_rows
        per_epoch = -(-len(self) // hand)
        parts: list[np.ndarray] = []
        epoch = 0
        while steps > 0:
            order = self.order(epoch)
            if self.ranks > 1:
                order = np.resize(order, per_epoch * hand)
            taken = min(steps, -(-per_epoch // accumulation))
            parts.append(order[: taken * accumulation * hand])
            steps, epoch = steps - taken, epoch + 1
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def pair_cost(model: Any) -> float:
    """Cost of one pair of tokens in attention, in units of a token's cost in the weights.

    Forward pass: a token takes 2 x parameters, a causal pair 2 x hidden x layers (scores and values, half
    of the square).
    """
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return float(config.hidden_size * config.num_hidden_layers / max(parameters, 1))

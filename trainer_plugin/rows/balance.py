"""`BalancedSampler`: the order in which rows are trained on, known before the first step.

- `packed`: as they lie in the shards, in every epoch: for a curriculum (`tokpack pack --planner sequential`).
- `random`: shuffled anew each epoch.
- `balanced`: shuffled anew each epoch, and so that ranks that wait for each other do equal work.

Rows are equal in tokens, not in attention: the slowest rank of a step sets its pace. Rows sorted by cost are
cut into hands of `ranks * batch_rows` neighbors, one micro-batch for every rank, and the hands are
shuffled: within a hand costs are nearly equal, from hand to hand they vary, so every optimizer step still
mixes. What differs within a hand evens out over the micro-batches of a step: whoever has worked most gets
the cheapest part of the next hand. With one rank nothing needs balancing and the order is a plain shuffle.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from tokpack.errors import UsageError
from tokpack.schema import IGNORE_INDEX, keeps_order

if TYPE_CHECKING:
    from trainer_plugin.rows.dataset import PackedDataset


Order = Literal["packed", "balanced", "random"]
ORDERS: tuple[Order, ...] = ("packed", "balanced", "random")


@dataclass(frozen=True)
class Stop:
    """The end of a run: after `rows` rows of `epoch` (from 0), which takes `steps` optimizer steps in all."""

    epoch: int
    rows: int
    steps: int


class BalancedSampler:
    """Sampler over a `PackedDataset`. The order is known beforehand: for one rank by seed and epoch
    alone, for several on their layout and the costs too.

    costs: float[rows], the time a row takes, in any unit (no dataset is needed then); default: tokens +
    `pair_cost` x squared lengths.
    order: None takes `packed` for a dataset whose manifest says that its order counts, else `balanced`.
    Call `set_epoch` as with PyTorch's DistributedSampler (accelerate does). `stop` cuts the order short.
    """

    stop: Stop | None = None

    def __init__(
        self,
        dataset: PackedDataset | None,
        ranks: int = 1,
        *,
        batch_rows: int = 1,
        accumulation: int = 1,
        seed: int = 0,
        costs: np.ndarray | None = None,
        pair_cost: float = 0.0,
        order: Order | None = None,
    ) -> None:
        if order is None:
            order = "packed" if dataset is not None and keeps_order(dataset.manifest) else "balanced"
        if order not in ORDERS:
            raise UsageError(f"unknown order {order!r}", where="order", hint=", ".join(ORDERS))
        self.row_order = order
        self.ranks, self.batch_rows, self.accumulation = ranks, batch_rows, accumulation
        self.seed, self.epoch = seed, 0
        if costs is None:
            assert dataset is not None
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
        if self.row_order == "packed":
            return np.arange(len(self.costs))
        rng = np.random.default_rng((self.seed, epoch))
        rows = rng.permutation(len(self.costs))
        if self.ranks == 1 or self.row_order == "random":
            return rows
        full = len(rows) // self.hand * self.hand
        kept, rest = rows[:full], rows[full:]
        hands = kept[np.argsort(self.costs[kept], kind="stable")].reshape(-1, self.hand)
        hands = rng.permuted(rng.permutation(hands), axis=1)
        return np.concatenate([self._even_out(hands, rng).reshape(-1), rest])

    def _even_out(self, hands: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Each hand dealt so that the ranks' sums over a step come close; hands: int64[n, hand]."""
        steps = len(hands) // self.accumulation
        if self.accumulation == 1 or steps == 0:
            return hands
        shape = (steps, self.accumulation, self.ranks, self.batch_rows)
        dealt = hands[: steps * self.accumulation].reshape(shape)
        costs = self.costs[dealt].sum(-1)
        load = rng.random((steps, self.ranks)) * costs.mean() * 1e-9  # any rank may begin with the dearest
        for turn in range(self.accumulation):
            busiest, cheapest = np.argsort(-load, axis=1), np.argsort(costs[:, turn], axis=1)
            given = np.empty_like(cheapest)
            np.put_along_axis(given, busiest, cheapest, axis=1)
            dealt[:, turn] = np.take_along_axis(dealt[:, turn], given[..., None], axis=1)
            load += np.take_along_axis(costs[:, turn], given, axis=1)
        return np.concatenate([dealt.reshape(-1, self.hand), hands[steps * self.accumulation :]])

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


def balanced_sampler(
    dataset: PackedDataset, args: Any, model: Any, order: Order | None = None
) -> BalancedSampler:
    """The row order that a training run takes, known before it starts.

    transformers' own strategy `sequential` asks for rows as they were packed; `order` has the last word.
    """
    if order is None and args.train_sampling_strategy == "sequential":
        order = "packed"
    return BalancedSampler(
        dataset,
        args.world_size,
        batch_rows=args.per_device_train_batch_size,
        accumulation=args.gradient_accumulation_steps,
        seed=args.seed if args.data_seed is None else args.data_seed,
        pair_cost=pair_cost(model),
        order=order,
    )


def lost_mix(dataset: PackedDataset, sampler: BalancedSampler) -> str:
    """Why steps do not hold the shares of sources that they were packed with; empty where they do."""
    rows = (dataset.manifest.get("plan", {}).get("mixed") or {}).get("rows_per_step")
    step = sampler.hand * sampler.accumulation
    if rows is None or (sampler.row_order == "packed" and step % rows == 0):
        return ""
    packed = f"the rows were packed in steps of {rows:,}, each with its share of each source"
    if sampler.row_order != "packed":
        return f"{packed}: the row order {sampler.row_order} undoes it"
    return f"{packed}, and a step trains on {step:,}: tokpack repack --rows-per-step makes them anew"

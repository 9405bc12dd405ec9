"""A budget in dollars: how many tokens the planned training pays for.

The bill is the cost model's own, on the documents that would be chosen, at the upper end of its range; the
number of tokens is found by trying. What the manifest records is that number: it
gives the same documents again without prices.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tokpack.cost import ApiPrice, Estimate, api_cost
from tokpack.cost.planned_run import packed_run, planned_rows
from tokpack.cost.training import Lengths, Training
from tokpack.errors import UsageError
from tokpack.frozen import frozen
from tokpack.settings.config import Config

CLOSE = 0.995
"""Share of the amount that is near enough to stop."""
TRIES = 60


@frozen
class MoneyBudget:
    """An amount of money, and the bill that it has to pay."""

    usd: float
    bill: Callable[[Lengths], float]
    """Dollars, at most, of training on packed pieces of these lengths."""
    least: float = 0.0
    """Dollars, at most, that any training costs: loading the model."""

    def tokens(self, total: int, cost_of: Callable[[int], float]) -> int:
        """The largest budget found whose cost stays within the amount, `total` if all does.

        `cost_of`: dollars of what a budget in tokens selects. Raises UsageError when no document is paid for.
        """
        whole = cost_of(total)
        if whole <= self.usd:
            return total
        low, high, bought = (0, self.least), (total, whole), False
        for step in range(TRIES):
            # Cost is nearly a straight line: the next try lies on it, or in the middle where that is slow.
            share = 0.5 if step % 3 == 2 else max(0.0, self.usd - low[1]) / (high[1] - low[1])
            budget = low[0] + max(1, int((high[0] - low[0]) * share))
            if low[1] >= CLOSE * self.usd or budget >= high[0]:
                break
            cost = cost_of(budget)
            if cost <= self.usd:
                low, bought = (budget, max(cost, self.least)), cost > 0
            else:
                high = (budget, cost)
        if not bought:
            start = f", {self.least:.2g} of it before the first step" if self.least else ""
            raise UsageError(
                f"{self.usd:g} USD pay for no document",
                where="--budget",
                hint=f"all of the data costs {whole:.2g} USD with these settings{start}",
            )
        return low[0]


def money_budget(config: Config, training: Training | None) -> MoneyBudget | None:
    """The bill of the GPU that is planned, or else of the service. None when no dollars were named.

    Raises UsageError when there is nothing to bill by.
    """
    usd = config.select.budget_usd
    if not usd:
        return None
    if training is None or not (training.priced or training.api):
        raise UsageError(
            "a budget in money needs the training that it pays for",
            where=f"--budget {usd:g}usd",
            hint="add --model and --gpu, or --model and --api; or give tokens: --budget 20M",
        )
    if training.priced:
        return MoneyBudget(usd, lambda lengths: _gpu_bill(config, training, lengths), _start_bill(training))
    assert training.api is not None
    return service_budget(usd, training.api, training.settings.epochs)


def service_budget(usd: float, price: ApiPrice, epochs: float) -> MoneyBudget:
    """Services bill tokens x epochs, whatever the rows."""
    return MoneyBudget(usd, lambda lengths: api_cost(int(lengths.sum()), epochs, price).value)


def _gpu_bill(config: Config, training: Training, lengths: Lengths) -> float:
    if not len(lengths):
        return 0.0
    capacity = config.truncate.max_length
    rows = planned_rows(config, lengths, capacity)
    return _most(packed_run(training, lengths, rows, capacity, training.checkpointing(capacity)))


def _start_bill(training: Training) -> float:
    """Of a run without a token."""
    return _most(training.run(np.zeros(1, np.int64), 1, checkpointing=False))


def _most(run: Estimate | None) -> float:
    """The upper end of the dollars of a run that has a price."""
    assert run is not None
    assert run.money is not None
    return run.money.high or run.money.value

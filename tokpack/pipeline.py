"""The data's way, in order: read this first.

    start               the inputs opened, their shapes recognized, the tokenizer loaded      run.py
    pass 1, by batch    read -> normalize -> clean -> render -> hash -> tokenize -> truncate  way/pass_one.py
    between, globally   duplicates, evaluation text, budget, hold-out                         way/decide.py
                        the row of each document                                              way/plan_part.py
    pass 2              write -> manifest -> report                                           way/pass_two.py

Documents are marked, never deleted, until the plan: a `drop_reason` set once stays. Pass 1 leaves a token
store on disk, batch by batch, so that a killed run goes on where it stopped; between the passes only
numbers per document are in memory. `pack`, `analyze` and `clean` go this way to the decisions; then `pack`
writes rows, `analyze` a report, and `clean` the kept documents as text.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tokpack.cost.money_budget import MoneyBudget
from tokpack.errors import UsageError
from tokpack.run import Run
from tokpack.way.corpus import Corpus
from tokpack.way.decide import decide
from tokpack.way.pass_one import pass_one
from tokpack.way.plan_part import Part, plan_part
from tokpack.way.store import TokenStore

log = logging.getLogger("tokpack")

__all__ = ["Part", "Run", "clock", "decided", "pass_one", "plan_part"]


def decided(
    run: Run, store: TokenStore, money: MoneyBudget | None, seconds: dict[str, float] | None = None
) -> tuple[Run, Corpus]:
    """All documents as numbers, each marked that is left out; and the run with what was decided about it.

    `money` buys the budget of tokens. `seconds` gets how long each step took.
    """
    seconds = {} if seconds is None else seconds
    if money is not None and run.kind:
        raise UsageError(
            "no bill is known for preferences: they are trained beside a reference model",
            where=f"--budget {money.usd:g}usd",
            hint="give tokens: --budget 20M",
        )
    with clock(seconds, "pass 1"):
        corpus = pass_one(run, store)
    with clock(seconds, "decide"):
        run = decide(run, corpus, money)
    if in_vain := run.keep.in_vain(corpus.docs):
        log.warning(in_vain)
    return run, corpus


@contextmanager
def clock(seconds: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - start

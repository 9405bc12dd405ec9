"""The data's way, in order: read this first.

    pass 1, by batch    read -> normalize -> clean -> dedup (hash) -> render -> tokenize -> truncate -> store
    between, globally   decide (duplicates, evaluation text, budget, hold-out) -> plan
    pass 2              write -> manifest -> report

Documents are marked, never deleted, until the plan: a `drop_reason` set once stays. Pass 1 leaves a token
store on disk, batch by batch, so that a killed run goes on where it stopped; between the passes only
numbers per document are in memory.
"""

from __future__ import annotations

from tokpack.run import MB, Run
from tokpack.way.documents import encode
from tokpack.way.pass_one import pass_one
from tokpack.way.plan_part import Part, plan_part

__all__ = ["MB", "Part", "Run", "encode", "pass_one", "plan_part"]

"""Which values the settings may have."""

from __future__ import annotations

import math
from operator import attrgetter
from typing import TYPE_CHECKING

from tokpack.errors import SettingError

if TYPE_CHECKING:
    from tokpack.settings.config import Config, CostConfig, PlanConfig, SourceConfig

UNMIXED = ("sequential", "optimal")
"""Planners that make no steps: one keeps input order, the other takes all documents at once."""
LEAST_MEMORY_MB = 1000
MOST_COPIES = 1000
MOST_TOKENS = 2**31 - 1
"""In a row, and in a document: places in it are int32."""
MOST_NUMBER = 2**63
MOST_RANKS = 1_000_000
MOST_PARTS = 4096
MOST_SHARD_MB = 1 << 20

Check = tuple[bool, str, str]
"""Whether all is well, the key, and what it may be."""


def check_limits(config: Config) -> None:
    """Raises SettingError naming the key."""
    for number, source in enumerate(config.source):
        _check_source(source, f"source[{number}]")
    if config.select.budget and config.select.budget_usd:
        raise SettingError(
            "a budget in tokens and one in dollars", where="select.budget_usd", hint="leave one of them out"
        )
    _check_segments(config.render.loss_mask.split(",") if config.render.loss_mask else [])
    for ok, key, wanted in [*_of_data(config), *_of_plan(config.plan), *_of_cost(config.cost)]:
        if not ok:
            value = attrgetter(key)(config)
            raise SettingError(f"{{name}} cannot be {value}", where=key, hint=f"give {wanted}")


def _of_data(config: Config) -> list[Check]:
    truncate = config.truncate
    return [
        (0 <= config.seed < MOST_NUMBER, "seed", f"0 to {MOST_NUMBER - 1:,}"),
        (2 <= truncate.max_length <= MOST_TOKENS, "truncate.max_length", f"2 to {MOST_TOKENS:,} tokens"),
        (0 <= config.read.allow_bad <= 1, "read.allow_bad", "a share between 0 and 1"),
        (1 <= config.read.block_mb <= 1024, "read.block_mb", "1 to 1024 MB"),
        (1 <= config.read.max_line_mb <= 2047, "read.max_line_mb", "1 to 2047 MB"),
        (0 <= config.write.val < 1, "write.val", "a share between 0 and 1"),
        (1 <= config.write.shard_mb <= MOST_SHARD_MB, "write.shard_mb", f"1 to {MOST_SHARD_MB:,} MB"),
        (0 <= config.near_dup.threshold <= 1, "near_dup.threshold", "a similarity between 0 and 1"),
        (
            not config.near_dup.memory_mb or LEAST_MEMORY_MB <= config.near_dup.memory_mb <= MOST_TOKENS,
            "near_dup.memory_mb",
            f"{LEAST_MEMORY_MB:,} MB (1G) or more",
        ),
        (0 <= config.select.budget < MOST_NUMBER, "select.budget", "a number of tokens"),
        (
            not config.select.recorded
            or not (config.select.limited or config.select.keep or any(s.max_tokens for s in config.source)),
            "select.recorded",
            "it without a budget, `max_tokens` and `--keep`, which choose already",
        ),
        (0 <= config.select.budget_usd < float("inf"), "select.budget_usd", "dollars, 0 or more"),
        (0 < config.select.diversity <= 1, "select.diversity", "a similarity above 0, at most 1"),
    ]


def _of_plan(plan: PlanConfig) -> list[Check]:
    return [
        (
            0 <= plan.max_docs_per_row <= MOST_TOKENS,
            "plan.max_docs_per_row",
            f"0 (no limit) to {MOST_TOKENS:,}",
        ),
        (1 <= plan.rows_per_step <= MOST_RANKS, "plan.rows_per_step", f"1 to {MOST_RANKS:,}"),
        (0 <= plan.world_size <= MOST_RANKS, "plan.world_size", f"0 to {MOST_RANKS:,}"),
        (
            plan.rows_per_step == 1 or plan.world_size > 0 or plan.mix_per_step,
            "plan.rows_per_step",
            "plan.world_size (--world-size) as well: rows are dealt to that many ranks",
        ),
        (
            not plan.mix_per_step or plan.rows_per_step * max(1, plan.world_size) > 1,
            "plan.mix_per_step",
            "plan.rows_per_step (--rows-per-step) as well: one row is no mix",
        ),
        (
            not plan.mix_per_step or plan.planner not in UNMIXED,
            "plan.mix_per_step",
            "another planner than `sequential`, which keeps input order, and `optimal`, which takes all "
            "documents at once",
        ),
        (1 <= plan.parts <= MOST_PARTS, "plan.parts", f"1 to {MOST_PARTS:,}"),
        (
            plan.parts == 1 or plan.planner != "sequential",
            "plan.parts",
            "1 with the planner `sequential`, which takes the token store in its order already",
        ),
        (
            plan.parts == 1 or not plan.mix_per_step,
            "plan.parts",
            "1 with --mix-per-step, whose steps draw from the whole of each source",
        ),
        (0 <= plan.token_cost < MOST_NUMBER, "plan.token_cost", "0 or more"),
        (
            not plan.world_size or plan.planner != "sequential",
            "plan.world_size",
            "0 or more, and 0 with the planner `sequential`, whose order dealing would undo",
        ),
    ]


def _of_cost(cost: CostConfig) -> list[Check]:
    return [
        ((cost.gpu_price or 0) >= 0, "cost.gpu_price", "dollars per hour, 0 or more"),
        (cost.gpu_count >= 1, "cost.gpu_count", "1 or more"),
        (cost.rank >= 1, "cost.rank", "1 or more"),
        (cost.epochs > 0, "cost.epochs", "more than 0"),
        (cost.batch_size >= 1, "cost.batch_size", "1 or more"),
        (cost.accumulation >= 1, "cost.accumulation", "1 or more"),
        (cost.learning_rate > 0, "cost.learning_rate", "more than 0"),
        (not cost.mfu or _is_range(cost.mfu), "cost.mfu", "two shares between 0 and 1, low first"),
    ]


def _check_source(source: SourceConfig, where: str) -> None:
    if not 0 <= source.max_tokens < MOST_NUMBER:
        raise SettingError(
            f"{{name}} cannot be {source.max_tokens}",
            where=f"{where}.max_tokens",
            hint="give a number of tokens; 0: no limit",
        )
    if not 0 <= source.weight < math.inf:
        raise SettingError(
            f"{{name}} cannot be {source.weight:g}",
            where=f"{where}.weight",
            hint="give a share of 0 or more; 0: by the tokens of the source",
        )
    if not 1 <= source.repeat <= MOST_COPIES:
        raise SettingError(
            f"{{name}} cannot be {source.repeat:g}",
            where=f"{where}.repeat",
            hint=f"give 1 to {MOST_COPIES}; max_tokens takes less of a source",
        )


def _check_segments(segments: list[str]) -> None:
    from tokpack.schema import SEGMENTS  # brings pyarrow, which no help page needs

    for name in segments:
        if name not in SEGMENTS and segments != ["none"]:
            raise SettingError(
                f"no segment is called {name!r}",
                where="render.loss_mask",
                hint=f"give some of {','.join(SEGMENTS)}, or none to measure them",
            )


def _is_range(mfu: tuple[float, ...]) -> bool:
    return len(mfu) == 2 and 0 < mfu[0] <= mfu[1] <= 1

"""What else a run could cost: other capacities, other cards, managed services; and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from tokpack.cost import ApiPrice, Figure, api_cost, capacity_curve
from tokpack.cost.capacity import CAPACITIES, MAX_TRUNCATED, CapacityPoint
from tokpack.cost.figure import count
from tokpack.cost.gpus import GIB
from tokpack.cost.planned_run import micro_batches, packed_run
from tokpack.cost.slots import PACKED, PACKED_CLEANED, PADDED_LONGEST
from tokpack.cost.training import CostedDocuments, Training
from tokpack.report.bill.cost_figures import Advice, Card, Cost, Curve, LengthFigures, Service, Way
from tokpack.report.bill.cost_words import ends, hours, money
from tokpack.report.words import share as share_words
from tokpack.terminal.activity import counted, in_number
from tokpack.way.figures import NearFigures

WORTH = 0.02
"""A saving below this share of the money is not worth a changed setting."""
WORTH_MOVING_USD = 5.0
"""A saving below this is not worth another rented card."""


def curve(training: Training, documents: CostedDocuments, tokens_at_once: int) -> Curve:
    """Every capacity up to what the model was made for, with the one to take; documents cut or split anew.

    `tokens_at_once`: slots of a micro-batch, as near as whole rows come to it at another capacity.
    """
    limit = training.max_positions or CAPACITIES[-1]
    capacities = sorted({c for c in CAPACITIES if c <= limit} | {documents.capacity})

    def rows_for(capacity: int) -> int:
        return documents.rows_for(documents.fit(capacity), capacity)

    most = None
    if training.gpu is not None:
        sparing = training.settings.checkpointing != "off"
        most = training.fit(documents.capacity, training.gpu, sparing).max_tokens
    found = capacity_curve(
        documents.whole,
        rows_for,
        training.shape,
        capacities=capacities,
        method=training.method,
        max_tokens=most,
        split=documents.split,
        uncut=documents.uncut,
    )
    return Curve(
        points=[_point(training, documents, point, tokens_at_once) for point in found.points],
        current=documents.capacity,
        recommended=found.recommended if most is None or found.recommended <= most else None,
        reason=found.reason,
    )


def _point(
    training: Training, documents: CostedDocuments, point: CapacityPoint, tokens_at_once: int
) -> LengthFigures:
    capacity = point.capacity
    checkpointing = training.checkpointing(capacity)
    cut = documents.fit(capacity)
    run = training.run(cut, micro_batches(point.rows, tokens_at_once, capacity), checkpointing)
    fit = training.fit(capacity, training.gpu, checkpointing) if training.gpu else None
    total = int(documents.whole.sum())
    return LengthFigures(
        capacity=capacity,
        rows=count(point.rows, "rows"),
        fill=count(point.fill, "share of slots"),
        truncated=count(point.truncated, "tokens", "beyond the capacity or left out for it, one epoch"),
        truncated_share=count(point.truncated / total if total else 0.0, "share of tokens"),
        truncated_documents=count(point.truncated_documents, "documents"),
        flops=run.flops if run else count(point.flops * training.settings.epochs, "FLOPs"),
        hours=run.gpu_hours if run else None,
        money=run.money if run else None,
        memory=Figure(fit.memory.total / GIB, "GiB", "assumed", "one row") if fit else None,
        fits=fit.fits if fit else None,
        checkpointing=checkpointing,
    )


def cards(training: Training, documents: CostedDocuments) -> list[Card]:
    """Each GPU with a price that holds a row: hours and money of the packed run, cheapest first."""
    if training.gpu is None:
        return []
    out = []
    for gpu in training.gpus.values():
        own = gpu.key == training.gpu.key
        if not own and gpu.price_usd_h is None:
            continue
        checkpointing = training.checkpointing(documents.capacity, gpu)
        if not training.holds(documents.capacity, gpu, checkpointing):
            continue
        pieces, rows, capacity = documents.pieces, documents.rows, documents.capacity
        run = packed_run(training, pieces, rows, capacity, checkpointing, None if own else gpu)
        if run is not None:
            card = Card(
                key=gpu.key,
                maker=gpu.name.partition(" ")[0],
                dtype=gpu.dtype,
                checkpointing=checkpointing,
                chosen=own,
                hours=run.gpu_hours,
                wall_hours=run.wall_hours,
                money=run.money,
                price=gpu.price_note.partition(": http")[0],
            )
            out.append(card)
    return sorted(out, key=lambda card: (card.money.value if card.money else 0.0, card.key))


def managed(training: Training, documents: CostedDocuments) -> list[Service]:
    """Services that bill by the token, for models of this size and for models of their own.

    A provider's smallest price class that takes the model; the service that was asked for comes first.
    """
    size = training.shape.total_params / 1e9
    chosen: list[tuple[bool, ApiPrice]] = []
    seen = {training.api.provider} if training.api is not None else set()
    for price in sorted(training.apis.values(), key=lambda p: (p.max_params_b or np.inf, p.key)):
        asked = training.api is not None and price.key == training.api.key
        if price.max_params_b is not None and not asked:
            if size > price.max_params_b or price.provider in seen:
                continue
            seen.add(price.provider)
        chosen.append((not asked, price))
    return [
        _service(training, documents, price, chosen=not rank)
        for rank, price in sorted(chosen, key=lambda entry: entry[0])
    ]


def _service(training: Training, documents: CostedDocuments, price: ApiPrice, *, chosen: bool) -> Service:
    epochs = training.settings.epochs
    return Service(
        key=price.key,
        provider=price.provider,
        model=price.model,
        own_model=price.max_params_b is None,
        chosen=chosen,
        as_it_came=api_cost(int(documents.raw.sum()), epochs, price),
        cleaned=api_cost(int(documents.pieces.sum()), epochs, price),
    )


def advise(cost: Cost, capacity: int) -> list[Advice]:
    """What to do: first what must be done, then by money saved (by share of the work without prices)."""
    found = (
        advice
        for advice in (
            _memory(cost),
            _packing(cost),
            _cleaning(cost),
            _capacity(cost, capacity),
            _card(cost),
            _positions(cost, capacity),
        )
        if advice
    )
    return ranked(found)


def advise_near_duplicates(cost: Cost, near: NearFigures, packed: int) -> Cost:
    """The bill with one more recommendation: what dropping near duplicates would save of `packed` tokens."""
    share = near.tokens / packed if packed and not near.applied else 0.0
    if share < WORTH:
        return cost
    saves = None
    if (final := cost.estimate) and final.money:
        # Of the money without the start, which fewer tokens do not shorten.
        hours_of = zip(ends(final.training_hours), ends(final.gpu_hours), strict=True)
        parts = [share * training / whole for training, whole in hours_of]
        low, high = (part * usd for part, usd in zip(parts, ends(final.money), strict=True))
        saves = Figure(low, "USD", "assumed", "at the cost of an average token", high)
    why = in_number(
        near.documents,
        f"{near.documents:,} document(|s) of {counted(near.tokens, 'token')} nearly repeat(s|) earlier ones",
    )
    flag = f"--near-dup {near.threshold}"
    new = Advice("near_duplicates", "drop near duplicates", flag, why, saves, share)
    return replace(cost, recommendations=ranked([*cost.recommendations, new]))


def ranked(found: Iterable[Advice]) -> list[Advice]:
    """First what must be done, then by money saved, or by share of the work where nothing has a price."""

    def saved(advice: Advice) -> float:
        return advice.saves.value if advice.saves else advice.saved_share

    return sorted(found, key=lambda advice: (not advice.urgent, -saved(advice)))


def _way(cost: Cost, key: str) -> Way | None:
    return next((way for way in cost.comparison if way.key == key), None)


def saving(
    before: Way | LengthFigures | Card, after: Way | LengthFigures | Card
) -> tuple[Figure | None, float]:
    """Money saved, as a figure, and its share of `before`; of hours or work where no money is known."""
    measure = next(key for key in ("money", "hours", "flops") if getattr(before, key) is not None)
    was, now = ends(getattr(before, measure)), ends(getattr(after, measure))
    share = 1 - sum(now) / sum(was) if sum(was) else 0.0
    if measure != "money":
        return None, share
    saved = Figure(was[0] - now[0], "USD", "assumed", "at the speeds of either", was[1] - now[1])
    return saved, share


def _memory(cost: Cost) -> Advice | None:
    found = cost.memory
    if found.fits is not False:
        return None
    assert cost.gpu is not None
    assert found.usable is not None
    first = found.advice[0]
    needed = found.parts.total.value
    return Advice(
        "memory",
        first.do,
        first.flag,
        f"one row needs {needed:.1f} GiB, {cost.gpu.key} has {found.usable.value:.1f} to use",
        urgent=True,
    )


def _packing(cost: Cost) -> Advice | None:
    padded, packed = _way(cost, PADDED_LONGEST), _way(cost, PACKED)
    plan = cost.run_plan
    if padded is None or packed is None:
        return None
    if plan.recommendation == "do not pack":
        return Advice("do_not_pack", "do not pack", "--planner none", plan.reason, urgent=True)
    saves, share = saving(padded, packed)
    full = [share_words(way.fill.value, 1) for way in (padded, packed)]
    why = f"padded batches are {full[0]} full, rows {full[1]}"
    return Advice("pack", "pack", "tokpack pack", why, saves=saves, saved_share=share)


def _cleaning(cost: Cost) -> Advice | None:
    packed, cleaned = _way(cost, PACKED), _way(cost, PACKED_CLEANED)
    if packed is None or cleaned is None:
        return None
    saves, share = saving(packed, cleaned)
    if share <= 0:
        return None
    gone = packed.tokens.value - cleaned.tokens.value
    return Advice(
        "clean",
        "clean first",
        "tokpack pack",
        in_number(gone, f"{gone:,} fewer token(|s) to train on; the reasons are below"),
        saves=saves,
        saved_share=share,
    )


def _capacity(cost: Cost, capacity: int) -> Advice | None:
    """Another --max-length, where it saves enough, keeps text that is cut now, or is all that fits."""
    points = {point.capacity: point for point in cost.curve.points}
    best = cost.curve.recommended
    if best is None or best == capacity:
        return None
    saves, share = saving(points[capacity], points[best])
    cuts_too_much = points[capacity].truncated_share.value > MAX_TRUNCATED
    flag, reason = f"--max-length {best}", cost.curve.reason
    if best > capacity and cuts_too_much:
        lost = points[capacity].truncated_share.value
        why = f"at {capacity:,} you lose {lost:.1%} of the tokens to length; {best:,} is {reason}"
        return Advice("raise_max_length", "raise --max-length", flag, why)
    if best < capacity and (share >= WORTH or points[capacity].fits is False):
        why = f"{best:,} is {reason}"
        return Advice("lower_max_length", "lower --max-length", flag, why, saves=saves, saved_share=share)
    return None


def _card(cost: Cost) -> Advice | None:
    """A cheaper card that runs the same software, where the table's prices make one: of the same maker, with
    bf16 if the chosen one has it, and only for a sum that pays for the move."""
    chosen = next((card for card in cost.cards if card.chosen), None)
    if chosen is None or chosen.money is None:
        return None
    alike = (card for card in cost.cards if card.dtype in ("bf16", chosen.dtype))
    best = next(card for card in alike if chosen.maker in ("", card.maker))
    if best.chosen:
        return None
    saves, share = saving(chosen, best)
    if share < WORTH or saves is None or saves.value < WORTH_MOVING_USD:
        return None
    why = f"{money(best.money)} in {hours(best.wall_hours)}, at the price of {best.price}"
    return Advice(
        "cheaper_gpu", "rent another card", f"--gpu {best.key}", why, saves=saves, saved_share=share
    )


def _positions(cost: Cost, capacity: int) -> Advice | None:
    limit = cost.model.max_positions
    if limit is None or capacity <= limit:
        return None
    return Advice(
        "positions",
        "keep documents within the model's positions",
        f"--max-length {limit}",
        f"{cost.model.name} was made for documents of up to {limit:,} tokens; rows may be longer, "
        "documents not",
        urgent=True,
    )

"""The bill before training: its figures are those of the cost model, its advice follows from them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from report_samples import planned, sample

from tokpack.cost import (
    api_cost,
    estimate,
    find_gpu,
    fits,
    flops,
    load_apis,
    memory,
    run_plan,
    slot_table,
)
from tokpack.cost.capacity import fit_lengths
from tokpack.cost.gpus import GIB
from tokpack.cost.training import CostedDocuments
from tokpack.report.bill.advice import advise_near_duplicates, curve
from tokpack.report.bill.bill import LOSSES, make_cost
from tokpack.report.bill.cost_charts import curve_chart
from tokpack.report.bill.cost_figures import Advice, Cost, Way
from tokpack.report.bill.cost_words import cost_words, ends, money
from tokpack.report.values import Figures
from tokpack.report.words import make_bill
from tokpack.settings.plain import to_plain
from tokpack.stages.plan import make_plan
from tokpack.way.figures import NearFigures


def rows_for(lengths: Any, capacity: int) -> int:
    return make_plan(lengths, capacity).rows


def documents(raw: np.ndarray, kept: np.ndarray | None = None, capacity: int = 2048) -> CostedDocuments:
    whole = raw if kept is None else kept
    pieces = np.minimum(whole, capacity)
    return CostedDocuments(
        raw=raw,
        whole=whole,
        split=np.zeros(len(whole), bool),
        uncut=np.zeros(len(whole), bool),
        pieces=pieces,
        rows=rows_for(pieces, capacity),
        capacity=capacity,
        rows_for=rows_for,
    )


def lengths(count: int = 4000, mean: int = 300, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 2 * mean, count)


RAW = lengths()
KEPT = RAW[:3000]


@pytest.fixture(scope="module")
def cost() -> Cost:
    made = make_cost(planned(epochs=3.0, batch_size=4, accumulation=8), documents(RAW, KEPT))
    assert made is not None
    return made


def way(cost: Cost, key: str) -> Way:
    return next(way for way in cost.comparison if way.key == key)


def advice(cost: Cost, key: str) -> Advice | None:
    return next((advice for advice in cost.recommendations if advice.key == key), None)


def test_hours_and_money_are_those_of_the_estimate(cost: Cost) -> None:
    run, use = planned(epochs=3.0), cost.run_plan.use
    final = estimate(
        run.shape,
        KEPT,
        find_gpu("a10"),
        method=run.method,
        epochs=3.0,
        checkpointing=run.checkpointing(2048),
        micro_batches=-(-rows_for(KEPT, 2048) // use.micro_batch),
    )
    assert cost.estimate.money == final.money
    assert cost.estimate.gpu_hours == final.gpu_hours
    assert cost.comparison[-1].money == final.money
    assert cost.estimate.energy.unit == "kWh"


def test_every_way_to_train_has_the_slots_of_the_slot_table(cost: Cost) -> None:
    table = slot_table(
        RAW,
        2048,
        4,
        rows_for(RAW, 2048),
        cleaned_lengths=KEPT,
        cleaned_rows=rows_for(KEPT, 2048),
    )
    assert [w.slots.value for w in cost.comparison] == [row.slots for row in table]
    assert [w.fill.value for w in cost.comparison] == [row.fill for row in table]
    work = flops(planned().shape, table[1].widths, method=planned().method, checkpointing=True)
    assert way(cost, "padded to longest").flops.value == pytest.approx(3 * work.total)
    first, last = (sum(ends(w.money)) for w in (way(cost, "padded to longest"), cost.comparison[-1]))
    assert cost.saved_share.value == pytest.approx(1 - last / first)


def test_a_hundred_thousand_documents_of_800_tokens_fill_39_percent_of_padded_rows() -> None:
    raw = lengths(100_000, 800)
    cost = make_cost(planned(), documents(raw))
    assert cost is not None
    padded = way(cost, "padded to max")
    assert padded.slots.value == 204_800_000
    assert padded.fill.value == pytest.approx(0.39, abs=0.005)
    assert way(cost, "packed").fill.value > 0.99
    assert padded.money.value > 2 * way(cost, "packed").money.value
    assert padded.steps.value == 12_500
    assert cost.run_plan.use.steps.value == pytest.approx(12_500, rel=0.25)


def test_data_that_cleaning_does_not_touch_has_one_packed_way() -> None:
    cost = make_cost(planned(), documents(RAW))
    assert cost is not None
    assert [w.name for w in cost.comparison][-1] == "packed"
    assert len(cost.comparison) == 4
    assert advice(cost, "clean") is None


def test_the_run_plan_keeps_samples_per_step_and_fills_memory_with_rows(cost: Cost) -> None:
    plan = run_plan(
        documents=3000,
        packed_rows=rows_for(KEPT, 2048),
        batch_size=4,
        accumulation=8,
        epochs=3.0,
        learning_rate=2e-4,
    )
    use = cost.run_plan.use
    assert cost.run_plan.before.steps.value == plan.before.steps
    assert use.steps.value == plan.equal.steps
    assert use.micro_batch * use.accumulation == plan.equal.accumulation
    assert use.micro_batch <= max(1, cost.memory.micro_batch_rows.value)
    assert f"--accumulation {use.accumulation}" in cost.run_plan.flags
    assert cost.run_plan.recommendation == "pack"


def test_memory_is_that_of_one_row_and_checkpointing_is_on_only_where_needed() -> None:
    roomy = make_cost(planned(gpu="h200"), documents(RAW))
    tight = make_cost(planned(gpu="a10"), documents(RAW, capacity=4096))
    assert roomy is not None
    assert tight is not None
    assert (roomy.method.checkpointing, tight.method.checkpointing) == (False, True)
    how: dict[str, Any] = {"method": planned().method, "checkpointing": True, "head_bytes": 4}
    ours, others = (memory(planned().shape, 4096, loss=loss, **how).total / GIB for loss in LOSSES)
    assert tight.memory.parts.total.value == pytest.approx(ours)
    assert tight.memory.whole_logits.value == pytest.approx(others)
    assert others > 1.5 * ours
    assert "--gradient-checkpointing" in tight.run_plan.flags
    assert "--gradient-checkpointing" not in roomy.run_plan.flags


def test_a_row_that_does_not_fit_says_what_to_change_first() -> None:
    run = planned(gpu="t4", method="full")
    cost = make_cost(run, documents(RAW))
    assert cost is not None
    assert cost.memory.fits is False
    assert cost.recommendations[0].key == "memory"
    assert cost.recommendations[0].urgent
    fit = fits(run.shape, find_gpu("t4"), 2048, method=run.method, checkpointing=True, loss="chunked")
    assert cost.memory.advice == list(fit.advice)
    assert cost.curve.recommended is None
    assert "does not fit" in cost_words(cost).headline


def test_the_curve_replans_every_capacity_up_to_the_models_positions(cost: Cost) -> None:
    points = cost.curve.points
    assert [p.capacity for p in points] == [512, 1024, 2048, 4096, 8192]
    for point in points:
        capacity = point.capacity
        cut = np.minimum(KEPT, capacity)
        assert point.rows.value == rows_for(cut, capacity)
        assert point.truncated.value == int((KEPT - cut).sum())
        run, at_once = planned(epochs=3.0), cost.run_plan.use.micro_batch * 2048
        batches = -(-point.rows.value // max(1, at_once // capacity))
        priced = run.run(cut, batches, point.checkpointing)
        assert priced is not None
        assert point.money == priced.money
    assert cost.curve.recommended in [p.capacity for p in points]


@pytest.mark.slow
def test_words_over_the_curve_stay_inside_the_chart(cost: Cost) -> None:
    last = cost.curve.points[-1].capacity
    chart = curve_chart(replace(cost, curve=replace(cost.curve, recommended=last)))
    for svg in (chart.wide, chart.narrow):
        anchors = re.findall(r'text-anchor="(\w+)"[^>]*>recommended<', svg)
        assert anchors == ["end"]


def test_documents_kept_in_pieces_lose_no_token_on_the_curve() -> None:
    text = np.array([100_000, 50, 3000])
    split = np.array([True, False, False])
    assert sorted(fit_lengths(text, 4096, split))[-24:] == [4096] * 24
    assert int(fit_lengths(text, 4096, split).sum()) == text.sum()
    base = documents(text, capacity=4096)
    found = curve(planned(), replace(base, split=split), 4096)
    assert [p.truncated.value for p in found.points] == [2488, 1976, 952, 0, 0]


def test_advice_comes_with_a_flag_most_money_first(cost: Cost) -> None:
    saved = [a.saves.value for a in cost.recommendations if a.saves and not a.urgent]
    assert saved == sorted(saved, reverse=True)
    assert all(a.flag for a in cost.recommendations)
    pack = advice(cost, "pack")
    assert pack is not None
    difference = way(cost, "padded to longest").money.value - way(cost, "packed").money.value
    assert pack.saves.value == pytest.approx(difference)
    clean = advice(cost, "clean")
    assert clean is not None
    fewer = way(cost, "packed").tokens.value - way(cost, "packed and cleaned").tokens.value
    assert clean.why == f"{fewer:,} fewer tokens to train on; the reasons are below"


def test_near_duplicates_are_advised_with_the_money_of_their_tokens() -> None:
    cost = make_cost(planned(), documents(RAW))
    assert cost is not None
    found = {"threshold": 0.8, "applied": False, "documents": 7, "tokens": int(RAW.sum()) // 4}
    near = NearFigures(on="both", bounded=0, kept={}, pairs=[], **found)
    cost = advise_near_duplicates(cost, near, int(RAW.sum()))
    found = advice(cost, "near_duplicates")
    assert found is not None
    assert found.flag == "--near-dup 0.8"
    hours = cost.estimate.training_hours.value  # what loads before them, fewer tokens do not shorten
    assert found.saves.value == pytest.approx(hours * cost.gpu.price.value / 4, rel=0.001)
    saved = [a.saves.value for a in cost.recommendations if a.saves and not a.urgent]
    assert saved == sorted(saved, reverse=True)
    few = make_cost(planned(), documents(RAW))
    assert few is not None
    few = advise_near_duplicates(few, replace(near, tokens=10), int(RAW.sum()))
    few = advise_near_duplicates(few, replace(near, applied=True), int(RAW.sum()))
    assert advice(few, "near_duplicates") is None


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_every_remedy_for_too_little_memory_has_its_flag(method: str) -> None:
    shape = planned().shape
    for gpu in ("t4", "a10", "l4", "h200"):
        for capacity in (8192, 65_536):
            fit = fits(shape, find_gpu(gpu), capacity, method=planned(method=method).method)
            for remedy in fit.advice:
                assert ("shard" in remedy.do) == (not remedy.flag), remedy
                for kind in ("--gpu ", "--max-length "):
                    if remedy.flag.startswith(kind):
                        assert remedy.flag.removeprefix(kind) in remedy.do


def test_full_batches_are_advised_not_to_be_packed() -> None:
    cost = make_cost(planned(), documents(np.full(5000, 2000)))
    assert cost is not None
    found = advice(cost, "do_not_pack")
    assert found is not None
    assert found.flag == "--planner none"
    assert advice(cost, "pack") is None


def test_a_capacity_that_cuts_too_much_is_advised_to_grow_and_one_too_large_to_shrink() -> None:
    short = make_cost(planned(gpu="h200"), documents(lengths(3000, 1500), capacity=512))
    assert short is not None
    found = advice(short, "raise_max_length")
    assert found is not None
    assert int(found.flag.split()[-1]) > 512
    unfit = make_cost(planned(), documents(RAW, capacity=32768))
    assert unfit is not None
    shrink = advice(unfit, "lower_max_length")
    assert shrink is not None
    assert int(shrink.flag.split()[-1]) < 8192
    assert advice(unfit, "positions") is not None


def test_cards_are_those_with_a_price_that_hold_a_row_cheapest_first(cost: Cost) -> None:
    prices = [card.money.value for card in cost.cards]
    assert prices == sorted(prices)
    assert [card.key for card in cost.cards if card.chosen] == ["A10"]
    assert "T4" not in {card.key for card in make_cost(planned(method="lora"), documents(RAW)).cards}  # type: ignore[index]


def test_another_card_is_of_the_same_maker_and_has_bf16() -> None:
    cost = make_cost(planned(epochs=300.0), documents(RAW))
    assert cost is not None
    found = advice(cost, "cheaper_gpu")
    assert found is not None
    cards = {card.key: card for card in cost.cards}
    chosen = cards[found.flag.split()[-1]]
    assert (chosen.maker, chosen.dtype) == ("NVIDIA", "bf16")
    alike = [c for c in cards.values() if c.maker == "NVIDIA" and c.dtype == "bf16"]
    assert chosen.money.value == min(card.money.value for card in alike)
    assert found.why.endswith(f"at the price of {chosen.price}")
    assert re.search(r", on 20\d\d-\d\d-\d\d$", chosen.price)


def test_another_card_is_advised_only_for_a_sum_that_pays_for_the_move() -> None:
    for epochs, advised in ((300.0, True), (0.01, False)):
        cost = make_cost(planned(epochs=epochs), documents(RAW))
        assert cost is not None
        assert (advice(cost, "cheaper_gpu") is not None) == advised


def test_managed_services_bill_content_times_epochs(cost: Cost) -> None:
    prices = load_apis()
    for service in cost.api:
        price = prices[service.key]
        assert service.as_it_came == api_cost(int(RAW.sum()), 3.0, price)
        assert service.cleaned == api_cost(int(KEPT.sum()), 3.0, price)
        assert price.max_params_b is None or price.max_params_b >= 8.03
    assert len({s.provider for s in cost.api if not s.own_model}) == sum(not s.own_model for s in cost.api)


def test_a_service_that_was_asked_for_comes_first_and_stands_beside_the_gpu() -> None:
    run = replace(planned(epochs=3.0), api=load_apis()["together-lora-100b"])
    cost = make_cost(run, documents(RAW, KEPT))
    assert cost is not None
    first = cost.api[0]
    assert (first.key, first.chosen) == ("together-lora-100b", True)
    assert "together-lora-16b" not in [service.key for service in cost.api]  # the same provider
    assert not any(service.chosen for service in cost.api[1:])
    assert money(first.cleaned) in cost_words(cost).service
    assert not cost_words(make_cost(planned(), documents(RAW))).service  # type: ignore[arg-type]


def test_every_way_says_what_it_saves_of_padded_batches(cost: Cost) -> None:
    padded = way(cost, "padded to longest")
    for line in cost.comparison:
        saved = line.saved
        assert saved.slots.value == padded.slots.value - line.slots.value
        assert saved.money.value == pytest.approx(padded.money.value - line.money.value)
        after, before = (sum(ends(w.money)) for w in (line, padded))
        assert saved.share.value == pytest.approx(1 - after / before)


def test_slots_and_bill_say_the_same_hours() -> None:
    data = sample(training=planned())
    bill = Figures.read(data).cost
    assert bill is not None
    hours_of_ten = 10 * (1 - bill.saved_share.value)
    assert f"packed rows take about {hours_of_ten:.1f}." in make_bill(Figures.read(data)).explanation
    assert not any("attention" in note for note in make_bill(Figures.read(data)).notes)
    alone = make_bill(Figures.read(sample()))
    assert any("--model" in note for note in alone.notes)
    assert data["slots"][1]["slots"] == way(bill, "padded to longest").slots.value


def test_without_a_gpu_there_is_work_and_memory_and_no_money() -> None:
    cost = make_cost(planned(gpu=""), documents(RAW, KEPT))
    assert cost is not None
    assert cost.estimate is cost.gpu is cost.memory.fits is None
    assert cost.cards == []
    assert all(w.money is None and w.flops.value > 0 for w in cost.comparison)
    assert "Give --gpu" in cost_words(cost).explanation
    assert advice(cost, "pack").saved_share > 0.2  # type: ignore[index]


def test_nothing_left_to_train_on_has_no_cost() -> None:
    nothing = np.array([], np.int64)
    empty = replace(documents(RAW), whole=nothing, pieces=nothing, rows=0)
    assert make_cost(planned(), empty) is None


def test_equal_data_gives_equal_bytes() -> None:
    first, second = (json.dumps(to_plain(make_cost(planned(), documents(RAW, KEPT)))) for _ in range(2))
    assert first == second

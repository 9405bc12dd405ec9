"""A budget in dollars: the bill of what is packed stays within it and uses it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chats import messy_rows, write_rows
from hypothesis import given, settings
from hypothesis import strategies as st
from report_samples import LLAMA_8B
from rich.console import Console

import tokpack
from tokpack.cost.money_budget import MoneyBudget
from tokpack.errors import UsageError
from tokpack.settings.parsing import parse_budget

pytestmark = pytest.mark.slow

MIXTRAL = {**LLAMA_8B, "model_type": "mixtral", "num_local_experts": 8, "num_experts_per_tok": 2}


@pytest.fixture(scope="module")
def chats(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", messy_rows(400, seed=8))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("model") / "config.json"
    path.write_text(json.dumps(LLAMA_8B))
    return path


@pytest.fixture(scope="module")
def plan(qwen, model) -> dict[str, Any]:
    return {"tokenizer": str(qwen), "max_length": 512, "model": str(model), "gpu": "a10", "epochs": 3.0}


@pytest.fixture(scope="module")
def all_of_it(chats, plan) -> tuple[float, float]:
    return start_and_bill(chats, plan)


def start_and_bill(chats: Path, options: dict[str, Any]) -> tuple[float, float]:
    """Dollars, at most, before the first step, and of training on everything that is kept."""
    cost = tokpack.analyze(chats, **options).data["cost"]
    start = cost["estimate"]["startup"]["high"] * cost["gpu"]["count"] * cost["gpu"]["price"]["value"]
    return start, float(cost["estimate"]["money"]["high"])


def amount(share: float, both: tuple[float, float]) -> float:
    """Dollars for the start and a share of the rest."""
    start, whole = both
    return start + share * (whole - start)


def bill(packed: tokpack.PackedFolder) -> float:
    return float(packed.report["cost"]["estimate"]["money"]["high"])


@pytest.mark.parametrize(
    ("share", "options"),
    [
        (0.5, {}),
        (0.1, {"val": 0.2}),
        (0.7, {"planner": "sequential", "overlong": "right"}),
        (0.4, {"gpu_price": 0.1, "gpu_count": 2}),
    ],
)
def test_the_bill_stays_within_the_amount_and_uses_it(chats, plan, all_of_it, tmp_path, share, options):
    usd = amount(share, all_of_it if "gpu_price" not in options else start_and_bill(chats, plan | options))
    packed = tokpack.pack(chats, tmp_path / "out", budget=f"{usd:.12f}usd", **plan, **options)
    assert 0.9 * usd <= bill(packed) <= usd
    assert packed.ledger["documents"]["dropped"]["over_budget"]
    said = packed.report["budget"]
    assert said["bill"] == pytest.approx(bill(packed))
    assert (said["usd"], said["all"]) == (pytest.approx(usd), False)
    assert packed.manifest["config"]["select"] == {"budget": said["tokens"], "diversity": 0.5}
    assert "usd" not in (packed.folder / "manifest.json").read_text()


def test_the_tokens_in_the_manifest_give_the_same_rows_without_prices(chats, plan, all_of_it, qwen, tmp_path):
    first = tokpack.pack(chats, tmp_path / "a", budget=f"${amount(0.3, all_of_it):.12f}", **plan)
    tokens = first.manifest["config"]["select"]["budget"]
    again = tokpack.pack(chats, tmp_path / "b", budget=tokens, tokenizer=str(qwen), max_length=512)
    assert again.manifest == first.manifest


def test_copies_are_paid_for(chats, plan, all_of_it, tmp_path):
    (tmp_path / "run.toml").write_text(
        f'[select]\nbudget_usd = {amount(0.5, all_of_it):.12f}\n[[source]]\npath = "{chats}"\nrepeat = 2.5\n'
    )
    packed = tokpack.pack([], tmp_path / "out", config=tmp_path / "run.toml", **plan)
    assert 0.9 * amount(0.5, all_of_it) <= bill(packed) <= amount(0.5, all_of_it)
    assert packed.ledger["documents"]["repeated"]


def test_adapters_on_experts_are_billed_by_their_rows(chats, plan, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(MIXTRAL))
    options = plan | {"model": str(tmp_path / "config.json"), "gpu": "h100-sxm", "method": "lora"}
    usd = amount(0.5, start_and_bill(chats, options))
    packed = tokpack.pack(chats, tmp_path / "out", budget=f"{usd:.12f} USD", **options)
    assert 0.9 * usd <= bill(packed) <= usd


def test_a_service_bills_tokens_times_epochs(chats, plan, tmp_path):
    options = plan | {"gpu": None, "api": "together-lora-16b"}
    packed = tokpack.pack(chats, tmp_path / "out", budget="0.02usd", **options)
    [price] = [api for api in packed.report["cost"]["api"] if api["key"] == "together-lora-16b"]
    assert 0.018 <= price["cleaned"]["value"] <= 0.02
    assert packed.report["budget"]["bill"] == price["cleaned"]["value"]


def test_more_than_all_of_it_costs_keeps_everything(chats, plan, all_of_it):
    report = tokpack.analyze(chats, budget="1000usd", **plan)
    assert "over_budget" not in report.data["ledger"]["documents"]["dropped"]
    assert report.data["budget"]["all"]
    assert report.data["budget"]["bill"] == pytest.approx(all_of_it[1])
    console = Console(width=200, no_color=True, file=io.StringIO())
    console.print(report.full())
    assert "The budget of 1000 USD is more than all of it costs" in console.file.getvalue()


def test_text_is_budgeted_by_the_price_of_its_service(chats, tmp_path, qwen):
    options = {"tokenizer": str(qwen), "epochs": 2.0}
    report = tokpack.clean(chats, tmp_path / "kept.jsonl", budget="$0.01", api_price=1.0, **options)
    [service] = report.data["bill"]["services"]
    assert 0.009 <= service["kept"]["value"] <= 0.01
    assert report.data["budget"]["tokens"] >= report.data["ledger"]["tokens"]["packed"]
    with pytest.raises(UsageError, match="one price"):
        tokpack.clean(chats, tmp_path / "other.jsonl", budget="$0.01", **options)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"model": None, "gpu": None, "epochs": None}, "needs the training", "--model and --gpu"),
        ({"gpu": None}, "needs the training", "--model and --api"),
        ({"budget": "0.000000001usd"}, "pay for no document", "before the first step"),
    ],
)
def test_what_cannot_be_billed_is_an_error_with_the_flags(chats, plan, tmp_path, options, message, hint):
    with pytest.raises(UsageError, match=message) as error:
        tokpack.pack(chats, tmp_path / "out", **{"budget": "5usd"} | plan | options)
    assert hint in error.value.hint


def test_a_budget_in_money_is_not_calibrated(chats, plan):
    with pytest.raises(UsageError, match="before the speed is measured"):
        tokpack.analyze(chats, budget="5usd", calibrate=True, **plan)


def test_pairs_have_no_bill(plan, tmp_path):
    row = {"prompt": "Say it.", "chosen": "Yes.", "rejected": "No."}
    path = write_rows(tmp_path / "pairs.jsonl", [json.dumps(row).encode()])
    with pytest.raises(UsageError, match="trained beside a reference model"):
        tokpack.pack(path, tmp_path / "out", budget="5usd", **plan)


# The parts


def test_amounts_are_read_as_people_write_them():
    for text in ("50usd", "50 USD", "$50", "50$", " 50.0 Usd "):
        assert parse_budget(text) == {"budget": 0, "budget_usd": 50.0}
    assert parse_budget(".5usd") == {"budget": 0, "budget_usd": 0.5}
    assert parse_budget("20M") == {"budget": 20_000_000, "budget_usd": 0.0}
    for text in ("50eur", "$50usd", "usd", "-5usd", "$"):
        with pytest.raises(UsageError, match="--budget 50usd"):
            parse_budget(text)


def test_two_budgets_are_one_too_many_but_a_flag_wins_over_the_file(tmp_path):
    from tokpack.settings.options import make_config

    (tmp_path / "run.toml").write_text("[select]\nbudget = 1000\nbudget_usd = 5.0\n")
    with pytest.raises(UsageError, match="in tokens and one in dollars"):
        make_config([], {"config": tmp_path / "run.toml"})
    for budget, kept in (("7usd", (0, 7.0)), ("2k", (2000, 0.0)), (3000, (3000, 0.0))):
        select = make_config([], {"config": tmp_path / "run.toml", "budget": budget}).select
        assert (select.budget, select.budget_usd) == kept


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=200),
    st.floats(0.01, 1.2),
    st.floats(0.0, 0.02),
)
def test_any_budget_found_is_paid_for_and_nearly_used(lengths, share, attention):
    ordered = np.cumsum(lengths)

    def cost_of(tokens: int) -> float:
        chosen = np.array(lengths)[ordered <= tokens]
        return float((chosen + attention * chosen**2).sum())

    total, usd = int(ordered[-1]), share * cost_of(int(ordered[-1]))
    try:
        tokens = MoneyBudget(usd, lambda _: 0.0).tokens(total, cost_of)
    except UsageError:
        assert cost_of(lengths[0]) > usd
        return
    assert cost_of(tokens) <= usd
    missing = ordered[ordered > tokens]
    if share >= 1:
        assert tokens == total
    elif len(missing):
        dearest = max(lengths) + attention * max(lengths) ** 2
        assert cost_of(tokens) >= 0.99 * usd - dearest

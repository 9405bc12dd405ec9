"""Runs that end at a token budget or at a sum of money, and go on from there."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from trainer_rows import LENGTHS, make_documents, tiny_llama, trainer_for, write_packed

from tokpack.errors import UsageError
from trainer_plugin import BalancedSampler, PackedDataset
from trainer_plugin.training.budget import SPENT, limit_tokens

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "packed"
    write_packed(folder, make_documents(LENGTHS * 3), 64)
    return PackedDataset(folder)


def rows_up_to(sampler, tokens, budget):
    """By hand: rows of epoch after epoch until the budget is reached."""
    rows, total, epoch = [], 0, 0
    while True:
        for row in sampler.order(epoch).tolist():
            rows.append(row)
            total += int(tokens[row])
            if total >= budget:
                return rows, total
        epoch += 1


def read_rows(trainer):
    """Rows in the order in which the collator gets them, as doc_ids."""
    seen, collate = [], trainer.data_collator

    def spy(rows):
        seen.extend(row["doc_ids"].tolist() for row in rows)
        return collate(rows)

    trainer.data_collator = spy
    return seen


@pytest.mark.parametrize(("batch_rows", "accumulation"), [(1, 1), (1, 3), (2, 1), (2, 2)])
@pytest.mark.parametrize("budget", [1, 300, 9 * 64, 1100])
def test_a_token_budget_ends_the_run_with_the_row_that_reaches_it(
    dataset, tmp_path, batch_rows, accumulation, budget
):
    trainer = trainer_for(
        tiny_llama("tokpack"),
        dataset,
        tmp_path,
        options={"token_budget": budget},
        batch_rows=batch_rows,
        accumulation=accumulation,
        epochs=3.0,
    )
    seen = read_rows(trainer)
    trainer.train()
    rows, tokens = rows_up_to(trainer.sampler, dataset.row_tokens(), budget)
    assert trainer.counts()["tokens"] == tokens
    assert seen == [dataset[row]["doc_ids"].tolist() for row in rows]
    assert trainer.state.global_step == trainer.state.max_steps
    assert trainer.state.log_history[-1]["epoch"] == pytest.approx(len(rows) / len(dataset), abs=0.1)


def test_the_last_step_of_a_budget_divides_by_the_tokens_it_really_has(dataset, tmp_path):
    """Five rows in steps of two: the weights are those of SGD by hand, the last step on one row alone."""
    lengths = dataset.row_tokens()
    flags = {"accumulation": 2, "learning_rate": 1e-2, "warmup_steps": 0.0, "scheduler": "constant"}
    order = trainer_for(tiny_llama("tokpack"), dataset, tmp_path)._get_train_sampler().order(0)
    trainer = trainer_for(
        tiny_llama("tokpack"),
        dataset,
        tmp_path,
        options={"token_budget": int(lengths[order[:5]].sum())},
        trainer={"optim": "sgd"},
        **flags,
    )
    trainer.train()
    assert trainer.state.global_step == 3
    model = tiny_llama("tokpack").train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for rows in (order[0:2], order[2:4], order[4:5]):
        batch = trainer.data_collator([dataset[row] for row in rows])
        labels = batch.pop("labels")
        batch = {name: value for name, value in batch.items() if not name.startswith("packed_")}
        logits = model(**batch, use_cache=False).logits[0, :-1]
        cross_entropy(logits, labels[0, 1:]).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    for one, other in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert (one - other).abs().max() < 1e-6


def test_a_budget_that_the_run_never_reaches_changes_nothing(dataset, tmp_path):
    trainer = trainer_for(tiny_llama("tokpack"), dataset, tmp_path, options={"token_budget": 10**9})
    trainer.train()
    assert trainer.counts()["tokens"] == dataset.row_tokens().sum()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_the_end_of_a_budget_is_the_first_row_or_micro_batch_that_reaches_it(data):
    tokens = np.array(data.draw(st.lists(st.integers(1, 50), min_size=1, max_size=23)))
    accumulation, budget = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3 * int(tokens.sum())))
    layout = {"ranks": data.draw(st.integers(1, 3)), "batch_rows": data.draw(st.integers(1, 3))}
    sampler = BalancedSampler(None, **layout, accumulation=accumulation, costs=tokens)
    whole = 4 * sampler.steps_for(len(tokens), accumulation)
    everything = sampler.rows_of(whole, accumulation)
    steps = limit_tokens(sampler, tokens, budget, accumulation=accumulation, steps=whole)
    rows = sampler.rows_of(steps, accumulation)
    assert rows.tolist() == everything[: len(rows)].tolist()
    last = 1 if sampler.ranks == 1 else sampler.hand
    assert tokens[rows].sum() >= budget > tokens[rows[:-last]].sum()


def test_a_run_resumed_under_a_budget_ends_where_the_whole_run_ends_bit_equal(dataset, tmp_path):
    def run(folder, resume=None, kill_at=None):
        trainer = trainer_for(
            tiny_llama("tokpack", attention_dropout=0.1),
            dataset,
            folder,
            options={"token_budget": 900},
            accumulation=2,
            epochs=3.0,
            learning_rate=1e-2,
            save_steps=2,
        )
        if kill_at:
            monkey_stop(trainer, kill_at)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", kill_at=5)
    resumed = run(tmp_path / "cut", resume=str(tmp_path / "cut" / "checkpoint-4"))
    assert whole.counts() == resumed.counts()
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    again = run(tmp_path / "cut", resume=True)
    assert again.counts() == whole.counts()
    assert again.session_tokens == 0


def monkey_stop(trainer, step):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= step

    trainer.add_callback(Stop())


def test_a_checkpoint_whose_rows_are_not_the_first_of_this_run_is_refused(dataset, tmp_path):
    def run(budget=None, resume=False, accumulation=2):
        trainer = trainer_for(
            tiny_llama("tokpack"),
            dataset,
            tmp_path,
            options={"token_budget": budget},
            accumulation=accumulation,
            save_steps=1,
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    lengths = dataset.row_tokens()
    order = run()._get_train_sampler().order(0)
    run(budget=int(lengths[order[:3]].sum()))
    with pytest.raises(UsageError, match="trained on 3 rows in 2 steps, this run takes 4"):
        run(resume=str(tmp_path / "checkpoint-2"))
    with pytest.raises(UsageError, match="trained on 2 rows in 1 step, this run takes 1"):
        run(resume=str(tmp_path / "checkpoint-1"), accumulation=1)
    assert run(resume=str(tmp_path / "checkpoint-1")).counts()["tokens"] == lengths.sum()


def test_a_finished_run_resumed_takes_no_further_step(dataset, tmp_path):
    first = trainer_for(tiny_llama("tokpack"), dataset, tmp_path, max_steps=2, save_steps=1)
    first.train()
    second = trainer_for(tiny_llama("tokpack"), dataset, tmp_path, max_steps=2, save_steps=1)
    second.train(resume_from_checkpoint=True)
    assert second.state.global_step == 2
    assert second.counts() == first.counts()


class Clock:
    """Ten seconds a step: every reading of the time moves it on by as much as the test says."""

    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    from transformers import TrainerCallback

    from trainer_plugin.training import budget

    clock = Clock()
    monkeypatch.setattr(budget, "time", clock)

    class Tick(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            clock.now += 10.0

    clock.callback = Tick()
    return clock


def test_a_run_stops_after_the_step_in_which_its_money_is_spent(dataset, tmp_path, clock):
    """10 s a step at 3,600 dollars an hour: 10 dollars a step."""

    def run(limit, resume=None):
        options = {"gpu_price": 3600.0, "max_cost": limit}
        trainer = trainer_for(
            tiny_llama("tokpack"), dataset, tmp_path, options=options, epochs=2.0, save_steps=100
        )
        trainer.add_callback(clock.callback)
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    first = run(35.0)
    assert first.state.global_step == 4
    costs = [entry["cost_usd"] for entry in first.state.log_history if "cost_usd" in entry]
    assert costs == [10.0, 20.0, 30.0, 40.0]
    totals = [entry["cost_usd_total"] for entry in first.state.log_history if "cost_usd_total" in entry]
    assert totals == [10.0 * first.state.max_steps] * 4
    second = run(58.0, resume=True)
    assert second.state.global_step == 6
    assert second.meter.dollars == 60.0
    with pytest.raises(UsageError, match=r"\$60.0000, all of --max-cost 60"):
        run(60.0, resume=True)


def test_seconds_of_a_killed_session_count_up_to_its_last_log(dataset, tmp_path, clock):
    def trainer(**options):
        made = trainer_for(tiny_llama("tokpack"), dataset, tmp_path, options=options, save_steps=2)
        made.add_callback(clock.callback)
        return made

    killed = trainer(gpu_price=1.0)
    killed.add_callback(crash_at(4))
    with pytest.raises(RuntimeError, match="killed"):
        killed.train()
    assert (tmp_path / SPENT).is_file()
    resumed = trainer(gpu_price=1.0)
    resumed.train(resume_from_checkpoint=True)
    steps = resumed.state.max_steps
    assert resumed.meter.seconds == 10.0 * (3 + (steps - 2))
    assert resumed.meter.session == 10.0 * (steps - 2)


def crash_at(step):
    from transformers import TrainerCallback

    class Crash(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == step:
                raise RuntimeError("killed")

    return Crash()


def test_budgets_that_cannot_be_kept_are_refused(dataset, tmp_path):
    with pytest.raises(UsageError, match="needs a price"):
        trainer_for(tiny_llama("tokpack"), dataset, tmp_path, options={"max_cost": 1.0})
    rows = [dict(dataset[i]) for i in range(4)]
    plain = trainer_for(tiny_llama("tokpack"), rows, tmp_path, options={"token_budget": 10})
    with pytest.raises(UsageError, match="row order that is known beforehand"):
        plain.train()

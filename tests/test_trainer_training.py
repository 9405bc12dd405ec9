"""Training on packed rows equals training on the documents one by one; loss, evaluation, resume, guards.

Tolerances: fp32 sums in another order differ by about 1e-7 of the sum; losses are compared to 2e-6 and
gradients to 2e-5 of their norm. What runs the same operations must agree in every bit.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from few import a_few
from torch.nn.functional import cross_entropy
from trainer_rows import LENGTHS, make_documents, tiny_llama, trainer_for, write_packed

from tokpack.errors import UsageError, VerifyError
from tokpack.terminal.activity import Activity
from trainer_plugin import PackedCollator, PackedDataset, load_recipe
from trainer_plugin.recipe import training_arguments
from trainer_plugin.training.guards import refuse_arguments

DOCUMENTS = make_documents(LENGTHS * 3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows") / "packed"
    write_packed(folder, DOCUMENTS, 64)
    return PackedDataset(folder)


def lora(model, seed=0):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():  # B starts at zero, and A would have no gradient
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def reference_loss(model, documents, loss):
    """The definition, document by document, in the plain call."""
    sums, counts = [], []
    for ids, labels in documents:
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
        target = torch.tensor(labels[1:], dtype=torch.int64)
        sums.append(cross_entropy(logits, target, ignore_index=-100, reduction="sum"))
        counts.append(int((target != -100).sum()))
    if loss == "token":
        return sum(sums) / sum(counts)
    means = [total / count for total, count in zip(sums, counts, strict=True) if count]
    return sum(means) / len(means)


def documents_of(rows):
    out = []
    for row in rows:
        at = 0
        for length in row["seq_lengths"].tolist():
            out.append(
                (row["input_ids"][at : at + length].tolist(), row["labels"][at : at + length].tolist())
            )
            at += length
    return out


@pytest.mark.parametrize("loss", ["token", "document"])
@pytest.mark.parametrize("attn", a_few(["tokpack", "sdpa", "eager", "loop"]))
def test_one_packed_step_has_the_loss_and_gradients_of_the_documents_one_by_one(
    dataset, tmp_path, attn, loss
):
    from trainer_plugin import prepare_model

    base = tiny_llama()
    prepare_model(base, attn)
    model = lora(base)
    trainer = trainer_for(model, dataset, tmp_path, loss=loss, accumulation=3, batch_rows=2)
    rows = [dataset[i] for i in range(6)]
    batches = [trainer.data_collator(rows[i : i + 2]) for i in (0, 2, 4)]
    batches, items = trainer.get_batch_samples(iter(batches), 3, torch.device("cpu"))
    model.train()
    packed = 0.0
    for batch in batches:
        part = trainer.compute_loss(model, batch, num_items_in_batch=items)
        part.backward()
        packed += float(part.detach())
    packed_gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
    model.zero_grad()
    expected = reference_loss(tuned_plain(model, attn), documents_of(rows), loss)
    expected.backward()
    assert abs(packed - expected.item()) < 2e-6 * expected.item()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            difference = (packed_gradients[name] - parameter.grad).norm() / parameter.grad.norm()
            assert difference < 2e-5, (name, float(difference))


def tuned_plain(model, attn):
    """The same weights, set back to transformers' own attention and forward."""
    from trainer_plugin.models.strategies import apply_strategy

    apply_strategy(model, "native", "sdpa" if attn in ("tokpack", "loop") else attn)
    return model


@pytest.mark.slow
def test_accumulated_micro_batches_train_like_one_large_batch(dataset, tmp_path):
    weights = []
    for rows, accumulation in ((1, 4), (2, 2), (4, 1)):
        trainer = trainer_for(
            tiny_llama("tokpack"),
            dataset.select(range(8)),
            tmp_path,
            batch_rows=rows,
            accumulation=accumulation,
            epochs=2.0,
            learning_rate=1e-2,
            trainer={"optim": "sgd"},
        )
        trainer.train()
        weights.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    start = torch.cat([p.detach().flatten() for p in tiny_llama().parameters()])
    moved = (weights[0] - start).norm()
    assert moved > 1e-2
    for other in weights[1:]:
        assert (weights[0] - other).norm() < 1e-5 * moved


@pytest.mark.parametrize("takes_loss_arguments", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_packed_training_ends_at_the_weights_of_unpacked_training(dataset, tmp_path, takes_loss_arguments):
    """Plain Trainer semantics, by hand: the same documents per step, one at a time, SGD.

    Trainer divides the loss of a model that takes no loss arguments by the accumulation steps, unless told
    that it is divided already.
    """
    part = dataset.select(range(6))
    model = tiny_llama("tokpack")
    model.accepts_loss_kwargs = takes_loss_arguments
    trainer = trainer_for(
        model,
        part,
        tmp_path,
        accumulation=2,
        learning_rate=1e-2,
        warmup_steps=0.0,
        scheduler="constant",
        trainer={"optim": "sgd"},
    )
    order = list(trainer._get_train_sampler())
    trainer.train()
    model = tiny_llama().train()
    start = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    for step in range(3):
        rows = [part[i] for i in order[step * 2 : step * 2 + 2]]
        reference_loss(model, documents_of(rows), "token").backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    moved = torch.cat([(p - q).flatten() for p, q in zip(model.parameters(), start, strict=True)]).norm()
    for packed, plain in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert (packed - plain).norm() < 1e-5 * moved


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["token", "document"])
@pytest.mark.parametrize("rows", [1, 5])
def test_evaluation_weighs_by_tokens_or_documents_not_by_batches(dataset, tmp_path, loss, rows):
    model = tiny_llama("tokpack")
    trainer = trainer_for(model, None, tmp_path, loss=loss, batch_rows=rows, eval_dataset=dataset)
    found = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        expected = float(reference_loss(tiny_llama(), DOCUMENTS, loss))
    assert abs(found - expected) < 2e-6 * expected


@pytest.mark.slow
def test_evaluation_with_metrics_keeps_the_weighted_loss(dataset, tmp_path):
    seen = []

    def metrics(prediction):
        seen.append(prediction.predictions.shape)
        return {"accuracy": 0.5}

    trainer = trainer_for(tiny_llama("tokpack"), None, tmp_path, eval_dataset=dataset)
    plain = trainer.evaluate()["eval_loss"]
    trainer.compute_metrics = metrics
    with_metrics = trainer.evaluate()
    assert with_metrics["eval_loss"] == plain
    assert with_metrics["eval_accuracy"] == 0.5
    assert len(seen) == 1


@pytest.mark.slow
def test_a_run_resumed_in_mid_epoch_ends_bit_equal_and_counts_on(dataset, tmp_path):
    def run(folder, stop=None, resume=None):
        model = tiny_llama("tokpack", attention_dropout=0.1)
        trainer = trainer_for(
            model, dataset, folder, accumulation=2, epochs=2.0, learning_rate=1e-2, save_steps=3
        )
        if stop:
            trainer.add_callback(stopper(stop))
        trainer.train(resume_from_checkpoint=resume)
        return trainer

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", stop=4)
    resumed = run(tmp_path / "cut", resume=str(tmp_path / "cut" / "checkpoint-3"))
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)
    assert whole.counts() == resumed.counts()
    assert whole.counts()["tokens"] == 2 * dataset.row_tokens().sum()


def stopper(step):
    from transformers import TrainerCallback

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step >= step
            return control

    return Stop()


@pytest.mark.slow
def test_logs_tell_real_tokens_fill_and_trained_tokens(dataset, tmp_path):
    trainer = trainer_for(tiny_llama("tokpack"), dataset, tmp_path, accumulation=2)
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert logs[-1]["tokens"] == dataset.row_tokens().sum() == trainer.counts()["tokens"]
    assert logs[-1]["trained_tokens"] == dataset.row_trained().sum()
    order = trainer._get_train_sampler().order(0)[:2]
    assert logs[0]["fill"] == pytest.approx(dataset.row_tokens()[order].sum() / 128, abs=1e-4)
    assert all(entry["tokens_per_second"] > 0 for entry in logs)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_tells_loss_speed_fill_tokens_money_and_the_time_to_go(dataset, tmp_path, terminal):
    import io

    from rich.console import Console

    from trainer_plugin.training.progress import RichProgress

    class DrawsEachLog(RichProgress):
        """Eight steps can be over before the bar is drawn a second time."""

        def on_log(self, *args, **kwargs):
            super().on_log(*args, **kwargs)
            if self.tell.live:
                self.tell._bars.refresh()

    trainer = trainer_for(tiny_llama("tokpack"), dataset, tmp_path, options={"gpu_price": 3600.0})
    shown = io.StringIO()
    progress = DrawsEachLog(Activity(console=Console(file=shown, force_terminal=terminal, width=160)))
    trainer.add_callback(progress)
    trainer.train()
    text = shown.getvalue()
    for word in ("loss ", "tokens/s", "fill ", "trained)", " of about $"):
        assert word in text, word
    rows = len(dataset)
    assert (f"/{rows} steps" if terminal else f"step {rows}/{rows}") in text
    assert terminal or " to go" in text


@pytest.mark.slow
def test_padding_to_the_capacity_changes_neither_loss_nor_fill(dataset, tmp_path):
    logs = []
    for capacity in (None, 64):
        trainer = trainer_for(tiny_llama("tokpack"), dataset, tmp_path, batch_rows=2)
        trainer.data_collator.capacity = capacity
        trainer.train()
        logs.append([(e["loss"], e["fill"]) for e in trainer.state.log_history if "loss" in e])
    np.testing.assert_allclose(logs[0], logs[1], rtol=1e-5)


@pytest.mark.slow
def test_three_lines_turn_a_plain_trainer_into_a_packed_one(dataset, tmp_path):
    from transformers import Trainer

    one_row = dataset.select([0])
    flags = {"method": "full", "max_steps": 3, "learning_rate": 1e-2, "trainer": {"use_cpu": True}}
    arguments = training_arguments(load_recipe(**flags), tmp_path)
    plain = Trainer(tiny_llama("tokpack"), arguments, PackedCollator(), train_dataset=one_row)
    plain.train()
    packed = trainer_for(tiny_llama("tokpack"), one_row, tmp_path, max_steps=3, learning_rate=1e-2)
    packed.train()
    losses = [[entry.get("loss") for entry in one.state.log_history] for one in (plain, packed)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_a_raw_dataset_opened_by_datasets_trains_too(tmp_path):
    datasets = pytest.importorskip("datasets")
    from trainer_rows import pack_rows

    raw = datasets.Dataset.from_list(pack_rows(DOCUMENTS, 64))
    raw.save_to_disk(tmp_path / "raw")
    trainer = trainer_for(
        tiny_llama("tokpack"), datasets.load_from_disk(tmp_path / "raw"), tmp_path, max_steps=2
    )
    trainer.train()
    assert trainer.counts()["rows"] == 2


def test_what_would_mix_documents_or_weights_is_refused(dataset, tmp_path):
    trainer = trainer_for(tiny_llama("tokpack"), dataset, tmp_path)
    batch = PackedCollator()([dataset[0]])
    with pytest.raises(UsageError, match="attention_mask"):
        trainer.compute_loss(trainer.model, {**batch, "attention_mask": torch.ones_like(batch["input_ids"])})
    with pytest.raises(UsageError, match="where documents end"):
        trainer.compute_loss(trainer.model, {"input_ids": batch["input_ids"], "labels": batch["labels"]})
    with pytest.raises(UsageError, match="use_cache=True"):
        trainer_for(tiny_llama("tokpack"), dataset, tmp_path, trainer={"use_cache": True})
    with pytest.raises(UsageError, match="per-document mean"):
        trainer_for(tiny_llama(), dataset, tmp_path, loss="document", trainer={"label_smoothing_factor": 0.1})


@pytest.mark.slow
def test_iterable_datasets_are_refused(tmp_path):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    with pytest.raises(UsageError, match="iterable dataset"):
        trainer_for(tiny_llama("tokpack"), Stream(), tmp_path, max_steps=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_gpu": 2}, "DataParallel over 2 GPUs"),
        ({"world_size": 2, "average_tokens_across_devices": False}, "average_tokens_across_devices"),
        ({"cp_enabled": True}, "context parallelism"),
        ({"WORLD_SIZE": "2"}, "each would train alone"),
        ({"ACCELERATE_USE_FSDP": "true"}, "FSDP was asked for, but accelerate ignores it on CPUs"),
    ],
)
def test_ways_to_distribute_that_tear_rows_apart_or_do_nothing_are_refused(monkeypatch, changes, message):
    """Settings of machines that the tests do not have, as accelerate and transformers present them."""
    arguments = SimpleNamespace(
        n_gpu=1, use_cache=False, world_size=1, average_tokens_across_devices=True, label_smoothing_factor=0
    )
    parallel = SimpleNamespace(cp_enabled=False, sp_enabled=False)
    accelerator = SimpleNamespace(
        parallelism_config=parallel, num_processes=2, distributed_type=SimpleNamespace(value="MULTI_CPU")
    )
    refuse_arguments(arguments, accelerator, "token")
    for name, value in changes.items():
        if name.isupper():
            monkeypatch.setenv(name, value)
        else:
            setattr(parallel if name == "cp_enabled" else arguments, name, value)
    with pytest.raises(UsageError, match=message):
        refuse_arguments(arguments, accelerator, "token")


@pytest.mark.slow
def test_positions_of_text_and_image_are_refused(dataset, tmp_path):
    trainer = trainer_for(tiny_llama("tokpack"), dataset, tmp_path)
    batch = PackedCollator()([dataset[0]])
    batch["position_ids"] = batch["position_ids"].expand(3, 1, -1)
    with pytest.raises(UsageError, match="3-D positions"):
        trainer.compute_loss(trainer.model, batch)


@pytest.mark.slow
def test_training_does_not_start_when_documents_see_each_other(dataset, tmp_path, monkeypatch):
    from transformers import masking_utils

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda position_ids: None)
    trainer = trainer_for(tiny_llama("sdpa"), dataset, tmp_path)
    with pytest.raises(VerifyError, match="see each other"):
        trainer.train()
    assert trainer.state.global_step == 0

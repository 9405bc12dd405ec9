"""Layers with a state, a convolution or an index, run document by document, forward and backward."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from tiny_decoders import build, why_not_built
from trainer_rows import LENGTHS, WITH_ONE, make_documents, needs_packed_trainer, pack_rows, write_packed

from tokpack.errors import UsageError, VerifyError
from trainer_plugin import PackedCollator, prepare_model, probe_isolation, verify_model
from trainer_plugin.models import strategies
from trainer_plugin.models.attention import document_lengths
from trainer_plugin.models.strategies import (
    apply_strategy,
    fit_batch,
    restore_forward,
    split_layers,
    strategy_of,
)

HYBRIDS = ("mamba2", "qwen3_next", "lfm2", "falcon_h1")


def make_batch(seed=3, lengths=(9, 17, 5, 23, 1, 12)):
    return PackedCollator()(pack_rows(make_documents(lengths, seed=seed), 128))


def documents_of(batch):
    lengths = document_lengths(batch["cu_seq_lens_q"])
    return zip(batch["input_ids"].split(lengths, 1), batch["labels"].split(lengths, 1), strict=True)


def gradients_alone(model, batches):
    """Gradients of the token mean over all batches, each document through the plain call."""
    model.zero_grad()
    trained = sum((batch["labels"] != -100).sum() for batch in batches)
    for batch in batches:
        for ids, labels in documents_of(batch):
            logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
            loss = torch.nn.functional.cross_entropy(
                logits, labels[0, 1:], reduction="sum", ignore_index=-100
            )
            (loss / trained).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_gradients(model, expected):
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert (gradient - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-8, name


@pytest.mark.slow
@pytest.mark.parametrize("family", HYBRIDS)
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_gradients_of_packed_rows_equal_those_of_documents_alone(family, checkpointing):
    """Two rows, both forward passes before the backward pass: recomputing needs the bounds of its row."""
    if why := why_not_built(family):
        pytest.skip(why)
    model, batches = build(family), [make_batch(3), make_batch(4, (30, 6, 31))]
    expected = gradients_alone(model, batches)
    assert prepare_model(model).strategy == "mixers"
    model.train()
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    model.zero_grad()
    trained = sum((batch["labels"] != -100).sum() for batch in batches)
    losses = [model(**fit_batch(model, batch), num_items_in_batch=trained).loss for batch in batches]
    sum(losses).backward()
    assert_gradients(model, expected)


@pytest.mark.parametrize("strategy", ["mixers", "loop"])
def test_a_copy_of_a_prepared_model_runs_on_its_own_weights(strategy):
    """TRL copies the model to make its reference."""
    model, batch = build("mamba"), make_batch()
    prepare_model(model, strategy)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        before = model(**batch).logits
        for parameter in model.parameters():
            parameter.zero_()
        torch.testing.assert_close(twin(**batch).logits, before)
        assert model(**batch).logits.abs().max() < before.abs().max()


def test_calls_without_documents_run_as_before_and_the_set_up_can_be_undone():
    model, ids = build("jamba"), torch.arange(3, 30)[None]
    with torch.no_grad():
        before = model(input_ids=ids, use_cache=False).logits
        assert "JambaMambaMixer x 1" in prepare_model(model).mixers
        model.set_attn_implementation("sdpa")  # the packed attention wants documents
        assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)
        longer = model.generate(input_ids=ids, min_new_tokens=4, max_new_tokens=4, do_sample=False)
    assert longer.shape[1] == ids.shape[1] + 4
    restore_forward(model)
    assert (strategy_of(model), split_layers(model)) == ("native", ())
    assert "forward" not in vars(model)


@pytest.mark.parametrize("way", ["mixers", "loop"])
def test_packed_rows_that_other_collators_make_raise_instead_of_leaking(way):
    """Positions that restart, or document numbers, and no bounds."""
    model, batch = build("mamba"), make_batch()
    prepare_model(model, way)
    for keys in (("input_ids", "position_ids"), ("input_ids", "seq_idx")):
        with pytest.raises(UsageError, match="without cu_seq_lens_q"):
            model(**{key: batch[key] for key in keys})


def test_one_document_in_a_row_and_a_row_of_padding_are_no_special_case():
    model = build("falcon_mamba")
    prepare_model(model)
    batch = PackedCollator(capacity=32)(pack_rows(make_documents([20]), 32))
    with torch.no_grad():
        alone = type(model).forward(model, input_ids=batch["input_ids"][:, :20]).logits
        packed = model(**batch).logits
    torch.testing.assert_close(packed[:, :20], alone, atol=1e-6, rtol=1e-5)


def test_a_cache_stays_off_for_rows_with_documents():
    model, batch = build("qwen3_next"), make_batch()
    prepare_model(model)
    with torch.no_grad():
        assert torch.equal(model(**batch, use_cache=True).logits, model(**batch, use_cache=False).logits)


def test_rows_that_a_model_lengthens_are_refused():
    """Virtual tokens of prompt tuning: the layers would see more states than the documents have tokens."""
    model, batch = build("mamba"), make_batch()
    prepare_model(model)
    embeddings = model.get_input_embeddings()
    handle = embeddings.register_forward_hook(lambda _module, _args, out: torch.cat([out[:, :4], out], 1))
    with pytest.raises(UsageError, match="another number"):
        model(**batch)
    handle.remove()


def test_the_loss_of_the_router_is_kept():
    batch, losses = make_batch(), {}
    for coefficient in (0.0, 10.0):
        model = build("jamba")
        model.config.output_router_logits, model.router_aux_loss_coef = True, coefficient
        prepare_model(model)
        with torch.no_grad():
            losses[coefficient] = model(**batch, output_router_logits=True).loss
    assert losses[10.0] > losses[0.0] + 1


def test_mixers_can_be_asked_for_and_say_when_there_are_none():
    assert prepare_model(build("lfm2"), "mixers").mixers == ("Lfm2ShortConv x 1",)
    with pytest.raises(VerifyError, match="no layer was found"):
        prepare_model(build("llama"), "mixers")


def test_a_leak_behind_another_leak_is_found():
    """RWKV: the shift by one token leaks, and the attention around it."""
    model = build("rwkv")
    apply_strategy(model, "mixers", "eager")
    assert split_layers(model) == ("RwkvSelfAttention x 2", "ZeroPad2d x 2")
    assert probe_isolation(model).ok


def test_verify_goes_on_to_the_mixers_when_no_attention_passes(tmp_path):
    write_packed(tmp_path / "p", make_documents(LENGTHS), 64)
    result = verify_model(tmp_path / "p", build("mamba"))
    assert list(result.reports) == ["tokpack", "sdpa", "eager", "mixers"]
    assert result.ok
    assert "use attn=mixers" in result.advice[0]
    assert result.advice[-1] == "attn=mixers runs document by document: MambaMixer x 2"


@pytest.mark.slow
def test_lora_trains_on_a_hybrid_as_on_any_model(tmp_path):
    """With and without gradient checkpointing, two rows a step: the same losses, and they fall."""
    needs_packed_trainer()
    from peft import LoraConfig, get_peft_model
    from transformers import TrainingArguments

    from trainer_plugin import PackedTrainer

    losses = []
    for checkpointing in (False, True):
        model = build("qwen3_next")
        prepare_model(model)
        torch.manual_seed(0)
        model = get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
        arguments = TrainingArguments(
            str(tmp_path),
            max_steps=6,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=2,
            gradient_checkpointing=checkpointing,
            learning_rate=1e-2,
            logging_steps=1,
            **{"report_to": [], "save_strategy": "no", "use_cpu": True, "disable_tqdm": True},
        )
        trainer = PackedTrainer(model, arguments, train_dataset=pack_rows(make_documents(WITH_ONE), 64))
        trainer.train()
        assert (trainer.isolation_report.strategy, trainer.isolation_report.ok) == ("mixers", True)
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    assert losses[0][-1] < losses[0][0] - 0.3


def test_what_forward_takes_is_asked_once_of_all_models_of_a_class(monkeypatch):
    class Model:
        def forward(self, input_ids, seq_idx=None, **kwargs):
            pass

    asked, signature = [], strategies.inspect.signature
    monkeypatch.setattr(strategies.inspect, "signature", lambda f: asked.append(f) or signature(f))
    for model in (Model(), Model()):
        assert strategies._accepts(model.forward, "seq_idx")
        assert not strategies._accepts(model.forward, "cu_seq_lens_q")
        assert strategies._accepts(model.forward, "cu_seq_lens_q", by_name=False)
    assert asked == [Model.forward]

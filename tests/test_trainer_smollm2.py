"""The same equalities on a real model, SmolLM2-135M-Instruct, on its own texts."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import torch
from trainer_rows import pack_rows

from trainer_plugin import PackedCollator, prepare_model, probe_isolation
from trainer_plugin.isolation.probe import PROBE_TOKENS
from trainer_plugin.models.attention import document_lengths
from trainer_plugin.models.strategies import apply_strategy

pytestmark = pytest.mark.slow

TEXTS = [
    "The lighthouse keeper counted the ships, and wrote each name down in a book with a blue cover.",
    "Rye bread keeps longer than wheat bread. Why? The starch of rye holds more water.",
    "def area(radius):\n    return 3.14159 * radius ** 2\n\nprint(area(2))",
    "Yes.",
    "In 1869 Mendeleev left gaps in his table for elements that nobody had found; three of them turned up "
    "within twenty years, with nearly the weights and densities that he had written beside the gaps.",
    "Q: What is the capital of Peru?\nA: Lima.",
]


@pytest.fixture(scope="module")
def documents(smollm2):
    from tokpack.encoding.snapshot import auto_tokenizer

    tokenizer = auto_tokenizer(smollm2)
    encoded = [tokenizer(text)["input_ids"] for text in TEXTS]
    return [(ids, [-100] * (len(ids) // 3 + 1) + ids[len(ids) // 3 + 1 :]) for ids in encoded]


@pytest.fixture(scope="module")
def batch(documents):
    return PackedCollator()(pack_rows(documents, 512))


FEW = 4
"""Of the model's thirty layers: for what is as true of each of them."""


def load(folder, dtype, layers=30):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, num_hidden_layers=layers).eval()


def with_lora(model):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.01)
    return model


def test_the_probe_passes_in_a_dozen_short_passes(smollm2, batch):
    model = load(smollm2, torch.float32, FEW)
    passes = []
    hook = model.get_input_embeddings().register_forward_hook(
        lambda _, ids, __: passes.append(ids[0].numel())
    )
    report = prepare_model(model)
    hook.remove()
    assert len(passes) <= 15
    assert max(passes) <= PROBE_TOKENS
    assert (report.strategy, report.ok) == ("tokpack", True)
    model = load(smollm2, torch.float32, FEW)
    for attn in ("sdpa", "eager"):
        model.set_attn_implementation(attn)
        assert probe_isolation(model).ok


def rows_are_multiplied_alike(lengths):
    """Does a row's product depend on how many rows are multiplied with it? With AMX it does, in bf16."""
    rows, weights = (
        torch.randn(sum(lengths), 576, generator=torch.Generator().manual_seed(0)) for _ in range(2)
    )
    rows, weights = rows.bfloat16(), weights.bfloat16()
    parts = torch.cat([part @ weights.T for part in rows.split(lengths)])
    return torch.equal(rows @ weights.T, parts)


def test_packed_bf16_logits_are_those_of_the_documents_alone_bit_for_bit(smollm2, batch):
    """To the bit where the processor's products allow it."""
    model = load(smollm2, torch.bfloat16, FEW)
    apply_strategy(model, "tokpack", "sdpa")
    lengths = document_lengths(batch["cu_seq_lens_q"])
    with torch.no_grad():
        packed = model(**batch, use_cache=False).logits
        apply_strategy(model, "native", "sdpa")
        alone = [model(input_ids=ids, use_cache=False).logits for ids in batch["input_ids"].split(lengths, 1)]
    difference = (packed - torch.cat(alone, 1)).abs().max()
    assert difference == 0 if rows_are_multiplied_alike(lengths) else difference < 0.02 * packed.abs().max()


@pytest.mark.parametrize(("attn", "layers"), [("tokpack", 30), ("sdpa", FEW), ("eager", FEW)])
def test_loss_and_lora_gradients_of_a_packed_row_equal_those_of_its_documents(
    smollm2, batch, documents, attn, layers
):
    """fp32. Loss to 2e-6 relative; each gradient to 1e-4 of its norm (6e-5 on some processors)."""
    model = with_lora(load(smollm2, torch.float32, layers))
    apply_strategy(model, "tokpack" if attn == "tokpack" else "native", attn)
    packed = model(**batch, use_cache=False).loss
    packed.backward()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    apply_strategy(model, "native", "sdpa" if attn == "tokpack" else attn)
    trained = (batch["labels"] != -100).sum()
    total = 0.0
    for ids, labels in documents:
        if all(label == -100 for label in labels):
            continue
        inputs = {"input_ids": torch.tensor([ids]), "labels": torch.tensor([labels])}
        loss = model(**inputs, num_items_in_batch=trained, use_cache=False).loss
        loss.backward()
        total += loss.item()
    assert abs(packed.item() - total) < 2e-6 * total
    assert len(gradients) == 14 * layers
    for name, parameter in model.named_parameters():
        if name in gradients:
            difference = (gradients[name] - parameter.grad).norm() / parameter.grad.norm()
            assert difference < 1e-4, (name, float(difference))


def test_the_loss_is_wrong_with_a_cache_and_with_a_mask_of_ones(smollm2, batch):
    """Why the guards exist: transformers' own attention, the two most natural mistakes."""
    model = load(smollm2, torch.float32)
    with torch.no_grad():
        right = model(**batch, use_cache=False).loss.item()
        cached = model(**batch, use_cache=True).loss.item()
        ones = torch.ones_like(batch["input_ids"])
        masked = model(**batch, use_cache=False, attention_mask=ones).loss.item()
    assert abs(cached - right) > 0.05 * right
    assert abs(masked - right) > 0.05 * right

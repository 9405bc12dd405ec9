"""Steps of preference training to compare: pairs, trainers, losses and gradients."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import log_softmax
from trainer_rows import needs_packed_trainer, tiny_llama

from trainer_plugin import PackedDPOTrainer, PreferenceLoss, load_recipe
from trainer_plugin.recipe import training_arguments


def make_pairs(count=9, seed=0):
    rng = np.random.default_rng(seed)
    pairs = []
    for _ in range(count):
        prompt = rng.integers(3, 128, rng.integers(2, 9)).tolist()
        answers = [rng.integers(3, 128, rng.integers(1, 12)).tolist() for _ in range(2)]
        pairs.append(tuple((prompt + a, [-100] * len(prompt) + a) for a in answers))
    return pairs


def with_adapter(seed=0):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    return get_peft_model(
        tiny_llama("tokpack"), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
    )


def moved(model, names="lora_B", std=0.05):
    """The model a few steps away from its reference."""
    torch.manual_seed(5)
    for name, parameter in model.named_parameters():
        if names in name:
            parameter.data += std * torch.randn_like(parameter)
    return model


def trainer_for(model, rows, tmp_path, loss="dpo", ref_model=None, **flags):
    needs_packed_trainer()
    recipe = load_recipe(method="full", trainer={"use_cpu": True}, **flags)
    arguments = training_arguments(recipe, tmp_path)
    return PackedDPOTrainer(
        model,
        arguments,
        train_dataset=rows,
        eval_dataset=rows,
        progress=False,
        preference=PreferenceLoss(loss=loss),
        ref_model=ref_model,
    )


def packed_loss(trainer, model, rows):
    """Loss of one step over all rows, a micro-batch each, and its gradients."""
    batches = [trainer.data_collator([row]) for row in rows]
    batches, items = trainer.get_batch_samples(iter(batches), len(batches), torch.device("cpu"))
    model.zero_grad()
    total = 0.0
    for batch in batches:
        loss = trainer.compute_loss(model, batch, num_items_in_batch=items)
        loss.backward()
        total += loss.item()
    return total, items, gradients_of(model)


def gradients_of(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(ours, others, tolerance):
    assert ours.keys() == others.keys()
    norm = torch.stack([gradient.norm() for gradient in others.values()]).norm()
    assert norm > 0
    for name, gradient in ours.items():
        assert (gradient - others[name]).norm() <= tolerance * norm, name


def log_prob(model, ids, labels):
    model.base_model.model.set_attn_implementation("sdpa")
    scores = log_softmax(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0], -1)
    return sum(scores[t - 1, ids[t]] for t in range(1, len(ids)) if labels[t] != -100)


def padded(pairs):
    """TRL's batch: chosen documents, then rejected ones, padded on the right."""
    documents = [pair[which] for which in (0, 1) for pair in pairs]
    width = max(len(ids) for ids, _ in documents)
    batch = {
        name: torch.zeros(len(documents), width, dtype=torch.long)
        for name in ("input_ids", "attention_mask", "completion_mask")
    }
    for number, (ids, labels) in enumerate(documents):
        batch["input_ids"][number, : len(ids)] = torch.tensor(ids)
        batch["attention_mask"][number, : len(ids)] = 1
        batch["completion_mask"][number, : len(ids)] = torch.tensor(labels) != -100
    return batch

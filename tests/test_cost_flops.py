"""Our FLOPs against torch's own counter on small models with eager attention, which counts len^2."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokpack.cost.flops import attention_pairs, flops, token_cost
from tokpack.cost.method import Method
from tokpack.cost.model_shape import ModelShape
from tokpack.errors import UsageError

LLAMA = {
    "model_type": "llama",
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
MODELS: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "gemma2": {**LLAMA, "model_type": "gemma2", "head_dim": 32, "sliding_window": 32},
    "gpt_neox": {k: v for k, v in LLAMA.items() if k != "num_key_value_heads"} | {"model_type": "gpt_neox"},
    "qwen3_moe": {**LLAMA, **MOE, "model_type": "qwen3_moe", "head_dim": 16},
}
LENGTHS = [384, 384]
SOME = [name if name == "llama" else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]


def counted(run: Any) -> float:
    """FLOPs that torch's dispatcher sees."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


@pytest.fixture(scope="module")
def tiny(request: pytest.FixtureRequest) -> dict[str, Any]:
    """A real model with eager attention and a Python loop over experts, its inputs, and our shape."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    values = dict(MODELS[request.param])
    config = transformers.AutoConfig.for_model(
        values.pop("model_type"), attn_implementation="eager", experts_implementation="eager", **values
    )
    model = transformers.AutoModelForCausalLM.from_config(config).train()
    ids = torch.randint(3, 512, (len(LENGTHS), LENGTHS[0]))

    def forward_backward(net: Any) -> None:
        net(input_ids=ids, labels=ids, use_cache=False).loss.backward()

    shape = ModelShape.from_config(config.to_dict())
    return {"model": model, "ids": ids, "shape": shape, "train": forward_backward}


@pytest.mark.parametrize("tiny", SOME, indirect=True)
def test_full_training_equals_the_counter(tiny: dict[str, Any]) -> None:
    estimate = flops(tiny["shape"], LENGTHS, method=Method(kind="full"), causal=False)
    real = counted(lambda: tiny["model"](input_ids=tiny["ids"], use_cache=False))
    assert estimate.forward == pytest.approx(real, rel=0.001)
    assert estimate.total == pytest.approx(counted(lambda: tiny["train"](tiny["model"])), rel=0.001)


@pytest.mark.slow
@pytest.mark.parametrize("tiny", SOME, indirect=True)
def test_lora_training_is_within_two_percent_of_the_counter(tiny: dict[str, Any]) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(tiny["model"], config)
    method = Method(kind="lora", rank=8)
    estimate = flops(tiny["shape"], LENGTHS, method=method, causal=False)
    real = counted(lambda: model(input_ids=tiny["ids"], use_cache=False))
    assert estimate.forward == pytest.approx(real, rel=0.02)
    assert estimate.total == pytest.approx(counted(lambda: tiny["train"](model)), rel=0.02)

    model.gradient_checkpointing_enable()
    model.enable_input_require_grads()
    estimate = flops(tiny["shape"], LENGTHS, method=method, causal=False, checkpointing=True)
    assert estimate.total == pytest.approx(counted(lambda: tiny["train"](model)), rel=0.02)


@given(st.lists(st.integers(0, 60), max_size=8), st.one_of(st.none(), st.integers(1, 70)))
def test_attention_pairs_equal_a_count_token_by_token(lengths: list[int], window: int | None) -> None:
    slow = sum(min(i + 1, window or i + 1) for n in lengths for i in range(n))
    assert attention_pairs(lengths, window) == slow
    assert attention_pairs(lengths, window, causal=False) == sum(n * n for n in lengths)


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20))
def test_documents_cost_less_packed_apart_than_as_one(lengths: list[int]) -> None:
    shape = ModelShape.from_config(LLAMA)
    apart, whole = flops(shape, lengths), flops(shape, [sum(lengths)])
    assert apart.linear == whole.linear
    assert apart.attention <= whole.attention
    assert apart.total <= whole.total


@given(st.lists(st.integers(1, 500), min_size=1, max_size=20), st.integers(1, 19))
def test_flops_of_two_halves_add_up(lengths: list[int], cut: int) -> None:
    shape = ModelShape.from_config(LLAMA)

    def total(part: list[int]) -> float:
        return flops(shape, part, method=Method(kind="qlora"), checkpointing=True).total

    assert total(lengths[:cut]) + total(lengths[cut:]) == pytest.approx(total(lengths))


def test_frozen_weights_cost_no_weight_gradient() -> None:
    shape = ModelShape.from_config(LLAMA)
    lora, full = flops(shape, [100]), flops(shape, [100], method=Method(kind="full"))
    assert full.backward == 2 * full.forward
    assert lora.backward == lora.linear + 2 * lora.attention + 2 * lora.adapter
    assert full.adapter == 0


def test_padding_slots_cost_linear_work_and_no_attention() -> None:
    shape = ModelShape.from_config(LLAMA)
    plain, padded = flops(shape, [100, 50]), flops(shape, [100, 50], slots=256)
    assert padded.linear == pytest.approx(plain.linear * 256 / 150)
    assert padded.attention == plain.attention


def test_restoring_nf4_weights_is_time_and_no_flops() -> None:
    shape = ModelShape.from_config(LLAMA)
    plain, nf4 = (flops(shape, [100], method=Method(kind=kind)).total for kind in ("lora", "qlora"))
    assert plain == nf4


def test_squares_of_int32_lengths_do_not_overflow() -> None:
    lengths = np.full(1_000, 1_000_000, dtype=np.int32)
    assert attention_pairs(lengths) == 1_000 * 1_000_000 * 1_000_001 // 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "quantum"}, "unknown method"),
        ({"kind": "full", "weights": "nf4"}, "cannot train nf4"),
        ({"kind": "qlora", "weights": "bf16"}, "qlora means nf4"),
        ({"optimizer": "adamw_9bit"}, "did you mean"),
        ({"rank": 0}, "at least 1"),
    ],
)
def test_methods_that_cannot_train_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Method(**options)


@pytest.mark.parametrize("method", [Method(kind="full"), Method(kind="qlora")])
def test_the_cost_of_a_token_in_pairs_gives_the_ratio_of_two_rows(method: Method) -> None:
    shape = ModelShape.from_config(LLAMA)
    token = token_cost(shape, 1024, method=method, checkpointing=True)
    rows = [[1000], [10] * 100]
    ours = [token * sum(row) + sum(n * n for n in row) for row in rows]
    counted = [flops(shape, row, method=method, checkpointing=True).total for row in rows]
    assert ours[0] / ours[1] == pytest.approx(counted[0] / counted[1], rel=1e-2)

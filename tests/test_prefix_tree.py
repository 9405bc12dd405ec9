"""Rows of shared beginnings: every sequence is in its row, and its log-likelihoods are those of it alone."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer_plugin.evaluation.prefix_tree import LEAST_SHARED, grow, rows_of

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))


def sequences_of(seed: int) -> list[tuple[int, ...]]:
    """Sequences of few different tokens, that share beginnings of every length."""
    rng = random.Random(seed)
    head = tuple(rng.randrange(3) for _ in range(rng.randrange(0, 40)))
    found = set()
    for _ in range(rng.randrange(1, 12)):
        question = head[: rng.randrange(len(head) + 1)]
        question += tuple(rng.randrange(3) for _ in range(rng.randrange(1, 14)))
        for _ in range(rng.randrange(1, 5)):
            found.add(question + tuple(rng.randrange(3) for _ in range(rng.randrange(0, 90, 3))))
    return sorted(found)


@given(st.integers(0, 1 << 30))
def test_every_sequence_is_read_along_its_branch_and_every_token_belongs_to_one(seed):
    sequences = sequences_of(seed)
    tree = grow(sequences)
    ids, positions = np.array(tree.ids), tree.positions
    used = np.zeros(len(ids), bool)
    for number, sequence in enumerate(sequences):
        places = tree.indices(number)
        assert tuple(ids[places]) == sequence
        assert positions[places].tolist() == list(range(len(sequence)))
        used[places] = True
    assert used.all()
    assert [one for family in tree.families() for one in family] == list(range(len(tree.segments)))
    assert len(ids) <= sum(map(len, sequences))


def test_a_beginning_is_shared_from_a_length_on():
    for length in (LEAST_SHARED - 1, LEAST_SHARED):
        head = tuple(range(length))
        tree = grow([(*head, 90), (*head, 91)])
        assert len(tree.ids) == (length + 2 if length >= LEAST_SHARED else 2 * (length + 1))


@given(st.integers(0, 1 << 30), st.integers(1, 200), st.integers(1, 50))
def test_rows_hold_all_sequences_once_and_stay_within_their_bounds(seed, most, most_scored):
    sequences = sequences_of(seed)
    scored = [min(len(one), 3) for one in sequences]
    rows = list(rows_of(sequences, scored, most, most_scored))
    assert [i for low, high in rows for i in range(low, high)] == list(range(len(sequences)))
    for low, high in rows:
        if high - low > 1:
            assert len(grow(sequences[low:high]).ids) <= most + LEAST_SHARED * (high - low)
            assert sum(scored[low:high]) <= most_scored


# On models


def requests_of(seed: int) -> list:
    from trainer_plugin.evaluation.scoring import Request

    rng = random.Random(seed)

    def some(count: int) -> list[int]:
        return [rng.randrange(3, 128) for _ in range(count)]

    head, found = some(30), []
    for _ in range(6):
        context = head[: rng.randrange(10, 31)] + some(rng.randrange(1, 30))
        found += [Request(context, some(length)) for length in (1, 1, 6, rng.randrange(1, 70))]
    found += [found[0], Request([5], some(3)), Request([5], some(80))]
    return found


def alone(model, request, max_length):
    """By transformers' own attention, one request at a time."""
    import torch

    ids = (list(request.context) + list(request.continuation))[-(max_length + 1) :]
    with torch.no_grad():
        logits = model(torch.tensor([ids[:-1]])).logits[0, -len(request.continuation) :]
    wanted = torch.tensor(list(request.continuation))
    scores = logits.log_softmax(-1)[range(len(wanted)), wanted]
    return float(scores.sum()), bool((logits.argmax(-1) == wanted).all())


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("Llama", {}),
        ("Mistral", {"sliding_window": 9}),
        ("Gemma2", {"sliding_window": 9, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 4.0}),
        ("Qwen3", {}),
        ("GptOss", {"sliding_window": 9, "num_local_experts": 4}),
    ],
)
def test_log_likelihoods_of_shared_beginnings_are_those_of_each_request_alone(family, changes):
    import torch
    import transformers

    from trainer_plugin import register_attention
    from trainer_plugin.evaluation.scoring import Scorer
    from trainer_plugin.models.strategies import apply_strategy

    register_attention()
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3}
    config = getattr(transformers, f"{family}Config")(**sizes, **changes, pad_token_id=0)
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    requests = requests_of(1)
    expected = [alone(model, one, 90) for one in requests]
    apply_strategy(model, "tokpack", "eager")
    scorer = Scorer(model, max_length=90, row_tokens=256)
    answers = scorer.score(model, requests, lambda amount, figures="": None)
    assert scorer.reason is None
    for answer, (log_likelihood, greedy) in zip(answers, expected, strict=True):
        assert answer.log_likelihood == pytest.approx(log_likelihood, abs=1e-4, rel=1e-5)
        assert answer.is_greedy == greedy
    from trainer_plugin.models.strategies import attention_of

    assert attention_of(model) == "tokpack"


def test_models_that_do_not_go_along_trees_say_why():
    from tiny_decoders import build
    from trainer_rows import tiny_llama

    from trainer_plugin.evaluation.scoring import Scorer
    from trainer_plugin.models.strategies import apply_strategy

    model = tiny_llama()
    assert "its attention is sdpa" in Scorer(model, 64).reason
    by_document = build("mamba")  # whose mixers run document by document
    apply_strategy(by_document, "mixers", "tokpack")
    assert "its attention is mixers" in Scorer(by_document, 64).reason
    dynamic = tiny_llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0})
    apply_strategy(dynamic, "tokpack", "sdpa")
    scorer = Scorer(dynamic, 64)
    assert "RoPE" in scorer.reason
    assert scorer.score(dynamic, requests_of(2), lambda amount, figures="": None) is None

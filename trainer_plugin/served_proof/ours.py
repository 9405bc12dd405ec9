"""Log-probabilities by the base and each adapter here, of given tokens and at the places of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from trainer_plugin.adapters.loaded import AdaptedModel
from trainer_plugin.rows.dataset import PackedDataset
from trainer_plugin.served_proof.verdict import Floats
from trainer_plugin.serving.batch import Lane, Row
from trainer_plugin.serving.engine import can_be_mixed, end_tokens
from trainer_plugin.serving.values import MIXED, Job

LEAST_TOKENS = 8


def lane_for(loaded: AdaptedModel, adapter: str | None) -> Lane:
    mixed = adapter is None or can_be_mixed(loaded.find(adapter))
    return Lane(loaded, MIXED if mixed else str(adapter))


def logprobs(loaded: AdaptedModel, adapter: str | None, tokens: Sequence[int]) -> Floats:
    """Of each token but the first, after those before it: float64[T - 1]."""
    job = Job(
        prompt=tuple(tokens), max_tokens=0, adapter=adapter, temperature=0, likeliest=0, score_prompt=True
    )
    row = Row(job, loaded.tokenizer)
    lane_for(loaded, adapter).join([row])
    return np.array([score.logprob for score in row.prompt_scores[1:]], dtype=np.float64)


def answer(loaded: AdaptedModel, adapter: str | None, prompt: Sequence[int], tokens: int) -> list[int]:
    """The likeliest tokens after a prompt, up to an end token, which is left out."""
    job = Job(prompt=tuple(prompt), max_tokens=tokens, adapter=adapter, temperature=0)
    row, lane = Row(job, loaded.tokenizer), lane_for(loaded, adapter)
    found: list[int] = []
    ends, chosen = end_tokens(loaded), lane.join([row])[0].token
    while chosen not in ends and len(found) < tokens:
        found.append(chosen)
        chosen = lane.step()[0].token
    return found


@torch.inference_mode()
def distributions(
    loaded: AdaptedModel, adapter: str | None, prompt: Sequence[int], generated: Sequence[int]
) -> torch.Tensor:
    """Log-probabilities [len(generated), vocabulary] at the places of an answer."""
    with loaded.using(adapter) as network:
        ids = torch.tensor([[*prompt, *generated]], device=network.device)
        logits = network(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        return torch.log_softmax(logits.float(), -1).cpu()


def held_out(dataset: PackedDataset, documents: int, tokens: int) -> list[list[int]]:
    """Beginnings of documents of the held-out part, or of all there is, spread over it evenly."""
    dataset = dataset.validation() or dataset
    rows = np.unique(np.linspace(0, len(dataset) - 1, min(len(dataset), documents)).astype(int))
    found: list[list[int]] = []
    for number in rows:
        row: dict[str, Any] = dataset[int(number)]
        ends = np.cumsum(row["seq_lengths"])
        sizes = np.minimum(row["seq_lengths"], tokens)
        for at in np.argsort(-sizes, kind="stable")[: -(-documents // len(rows))]:
            start = int(ends[at] - row["seq_lengths"][at])
            found.append(row["input_ids"][start : start + int(sizes[at])].tolist())
    return [one for one in found if len(one) >= LEAST_TOKENS][:documents]

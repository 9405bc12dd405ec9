"""From logits to tokens, each row by its own wishes, and to log-probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer_plugin.serving.values import Job, Score


def generator_of(job: Job) -> torch.Generator:
    """On the CPU, so that a seed draws the same numbers on every device."""
    made = torch.Generator()
    if job.seed is None:
        made.seed()
    else:
        made.manual_seed(job.seed & ((1 << 63) - 1))
    return made


def choose(logits: torch.Tensor, jobs: Sequence[Job], generators: Sequence[torch.Generator]) -> list[Score]:
    """The next token of each row. logits: [rows, vocabulary], of any dtype."""
    logits = logits.float()
    tokens = logits.argmax(-1).tolist()
    for row, (job, generator) in enumerate(zip(jobs, generators, strict=True)):
        if job.temperature > 0:
            tokens[row] = _draw(logits[row].cpu(), job, generator)
    return [
        Score(token, None)
        if job.likeliest is None
        else score(logits[row : row + 1], [token], job.likeliest)[0]
        for row, (job, token) in enumerate(zip(jobs, tokens, strict=True))
    ]


def _draw(logits: torch.Tensor, job: Job, generator: torch.Generator) -> int:
    """One token of the distribution after temperature, the `top_k` likeliest and the nucleus `top_p`."""
    likelihoods, tokens = torch.softmax(logits / job.temperature, -1).sort(descending=True)
    if job.top_k:
        likelihoods = likelihoods[: job.top_k]
    if job.top_p < 1:
        before = likelihoods.cumsum(-1) - likelihoods
        likelihoods = likelihoods * (before < job.top_p)
    if not float(likelihoods.sum()) > 0:  # a temperature near 0 leaves rounding alone
        return int(tokens[0])
    return int(tokens[torch.multinomial(likelihoods, 1, generator=generator)])


def score(logits: torch.Tensor, tokens: Sequence[int], likeliest: int) -> list[Score]:
    """Log-probabilities of the tokens. logits: [places, vocabulary], of any dtype."""
    logprobs = torch.log_softmax(logits.float(), -1)
    own = logprobs.gather(1, torch.tensor(tokens, device=logits.device)[:, None])[:, 0].tolist()
    if not likeliest:
        return [Score(token, value) for token, value in zip(tokens, own, strict=True)]
    values, ids = (part.tolist() for part in logprobs.topk(min(likeliest, logprobs.shape[1]), -1))
    return [
        Score(token, value, tuple(zip(*best, strict=True)))
        for token, value, *best in zip(tokens, own, ids, values, strict=True)
    ]

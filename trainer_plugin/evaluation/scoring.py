"""Log-likelihoods of continuations, many requests in one forward pass, shared beginnings computed once.

    requests (context, continuation) ─▶ distinct inputs, sorted ─▶ rows of prefix trees
    ─▶ states of the tokens asked for ─▶ head ─▶ log-probabilities and greedy choice

Only tokens of continuations meet the head. Before the first row counts, two of its sequences are run alone:
the logits must agree, else `Scorer.reason` says why the model cannot be run so.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from tokpack.errors import TokpackError
from tokpack.terminal.activity import Advance
from trainer_plugin.evaluation.prefix_tree import Tokens, Tree, grow, rows_of
from trainer_plugin.evaluation.tree_attention import NAME, Branches, along, register_tree_attention
from trainer_plugin.losses.chunked_loss import AGREE
from trainer_plugin.models.strategies import (
    attention_of,
    cache_option,
    inner_model,
    quiet_evaluation,
    strategy_of,
    text_config,
)

ROW_TOKENS = 2048
LOGIT_BYTES = 1 << 28
"""Of the logits of one row."""


class Request(NamedTuple):
    """What is asked: the log-probability of `continuation` after `context`, token ids."""

    context: Sequence[int]
    continuation: Sequence[int]


class Answer(NamedTuple):
    """Summed log-probability, and whether greedy decoding would say just that."""

    log_likelihood: float
    is_greedy: bool


class Scorer:
    """Scores requests with one model, whatever adapter is switched on in it.

    max_length: of an input in tokens; longer ones lose their beginnings, as in lm-eval.
    """

    def __init__(self, model: Any, max_length: int, row_tokens: int = ROW_TOKENS) -> None:
        self.max_length, self.row_tokens = max_length, row_tokens
        self.vocabulary = int(text_config(model).vocab_size)
        self.reason = _obstacle(model)
        self._proven = False

    def score(self, model: Any, requests: Sequence[Request], advance: Advance) -> list[Answer] | None:
        """One answer a request, in order; None where the model cannot be run so (`reason`)."""
        if self.reason is not None:
            return None
        wanted = [self._input(request) for request in requests]
        asked: dict[Tokens, int] = {}
        for request, tokens in zip(requests, wanted, strict=True):
            asked[tokens] = max(asked.get(tokens, 0), len(request.continuation))
        sequences = sorted(asked)
        by_input: dict[Tokens, list[int]] = {tokens: [] for tokens in sequences}
        for number, tokens in enumerate(wanted):
            by_input[tokens].append(number)
        answers: list[Answer | None] = [None] * len(requests)
        most_scored = max(1, LOGIT_BYTES // (4 * self.vocabulary))
        counts = [asked[tokens] for tokens in sequences]
        with quiet_evaluation(model), self._attention(model):
            for low, high in rows_of(sequences, counts, self.row_tokens, most_scored):
                row = sequences[low:high]
                found = self._row(model, row, counts[low:high], [by_input[one] for one in row], requests)
                if found is None:
                    return None
                for number, answer in found:
                    answers[number] = answer
                advance(len(found))
        return [answer for answer in answers if answer is not None]

    def _input(self, request: Request) -> Tokens:
        whole = (*request.context, *request.continuation)
        return tuple(whole[-(self.max_length + 1) :][:-1])

    @contextmanager
    def _attention(self, model: Any) -> Iterator[None]:
        inner = inner_model(model)
        before = attention_of(inner)
        register_tree_attention()
        inner.set_attn_implementation(NAME)
        try:
            yield
        finally:
            inner.set_attn_implementation(before)

    def _row(
        self,
        model: Any,
        sequences: Sequence[Tokens],
        counts: Sequence[int],
        askers: Sequence[list[int]],
        requests: Sequence[Request],
    ) -> list[tuple[int, Answer]] | None:
        tree = grow(sequences)
        ends = [tree.indices(i)[-count:] for i, count in enumerate(counts)]
        kept, places = np.unique(np.concatenate(ends), return_inverse=True)
        logits = self._logits(model, tree, kept)
        if not self._proven and not self._agrees(model, sequences, ends, kept, logits):
            return None
        starts = np.cumsum([0, *counts])
        numbers, rows, targets = [], [], []
        for i, mine in enumerate(askers):
            for number in mine:
                continuation = requests[number].continuation
                numbers.append(number)
                rows.append(places[starts[i + 1] - len(continuation) : starts[i + 1]])
                targets.append(np.asarray(continuation))
        return _answers(logits, numbers, rows, targets)

    def _logits(self, model: Any, tree: Tree, kept: np.ndarray) -> torch.Tensor:
        """fp32[kept, V]"""
        device = next(inner_model(model).parameters()).device
        options: dict[str, Any] = cache_option(model, False)
        places = torch.from_numpy(kept).to(device)
        if _keeps_logits(model):
            options["logits_to_keep"] = places
        with along(Branches(tree, device)):
            logits: torch.Tensor = model(
                input_ids=torch.tensor([tree.ids], device=device),
                position_ids=torch.from_numpy(tree.positions).to(device)[None],
                **options,
            ).logits[0]
        return (logits if "logits_to_keep" in options else logits[places]).float()

    def _agrees(
        self,
        model: Any,
        sequences: Sequence[Tokens],
        ends: Sequence[np.ndarray],
        kept: np.ndarray,
        logits: torch.Tensor,
    ) -> bool:
        """The first and the last sequence alone, each a tree of its own."""
        dtype = next(inner_model(model).parameters()).dtype
        for i in {0, len(sequences) - 1}:
            tokens = sequences[i]
            alone = self._logits(model, grow([tokens]), np.arange(len(tokens) - len(ends[i]), len(tokens)))
            ours = logits[torch.from_numpy(np.searchsorted(kept, ends[i])).to(logits.device)]
            difference = float((ours - alone).abs().max() / alone.abs().max())
            if not difference <= AGREE.get(dtype, 2e-2):
                self.reason = f"shared beginnings change the logits by {difference:.0e}"
                return False
        self._proven = True
        return True


def _answers(
    logits: torch.Tensor, numbers: list[int], rows: list[np.ndarray], targets: list[np.ndarray]
) -> list[tuple[int, Answer]]:
    lengths = [len(one) for one in rows]
    at = torch.from_numpy(np.concatenate(rows)).to(logits.device)
    wanted = torch.from_numpy(np.concatenate(targets).astype(np.int64)).to(logits.device)
    log_sums, greedy = logits.logsumexp(dim=-1), logits.argmax(dim=-1)
    scores = (logits[at, wanted] - log_sums[at]).cpu()
    hits = (greedy[at] == wanted).cpu()
    parts = zip(numbers, scores.split(lengths), hits.split(lengths), strict=True)
    return [(number, Answer(float(score.sum()), bool(hit.all()))) for number, score, hit in parts]


def _keeps_logits(model: Any) -> bool:
    return "logits_to_keep" in inspect.signature(inner_model(model).forward).parameters


def _obstacle(model: Any) -> str | None:
    """Why a model cannot be run along trees."""
    if strategy_of(model) != "tokpack":
        way = attention_of(model) if strategy_of(model) == "native" else strategy_of(model)
        return f"its attention is {way}: only the packed one goes along trees"
    config = text_config(model)
    ropes = getattr(config, "rope_parameters", None) or {}
    kinds = [ropes.get("rope_type"), *(r.get("rope_type") for r in ropes.values() if isinstance(r, dict))]
    if {"dynamic", "longrope"} & set(kinds):
        return "its RoPE depends on the longest sequence of a row"
    try:
        inner_model(model).get_input_embeddings()
    except (NotImplementedError, TokpackError):
        return "it has no input embeddings"
    return None

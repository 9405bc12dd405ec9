"""Cross entropy for large vocabularies: logits of a few tokens at a time, made again in the backward pass.

The logits of a row of 4,096 tokens over 262,000 ids take 4.3 GB in fp32, their gradient as much again. Here
the model runs once up to the states that its head reads; head and loss follow for `CHUNK_BYTES` of logits at
a time, and only where a token is trained. What it costs: the head's forward pass a second time for trained
tokens; untrained ones never meet the head.

    row    -> base model -> states [T, H]               once, as always
    states -> [chunk] -> head -> logits -> loss         per chunk, and again in the backward pass

The head is the model's own forward with the base model's output put in its place: soft caps and scales of
logits, adapters on the head and casts are what they are in the model. Whether that is so is seen at the first
batch: the logits of its last token must come out the same both ways, else the whole logits are used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

from tokpack.cost.memory import CHUNK_BYTES
from trainer_plugin.losses.loss import in_their_places, trained_places
from trainer_plugin.models.strategies import inner_model, text_config

AGREE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 5e-3}
"""Largest difference of the two ways at the first batch, relative to the largest logit."""


class ChunkedLoss:
    """Losses by token of one model, in chunks where it pays and can be done.

    Raises nothing of its own: a model that cannot be cut is run whole, and `reason` says why.
    """

    def __init__(self, model: Any, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        self.vocabulary = int(text_config(model).vocab_size)
        self.chunk_bytes = chunk_bytes
        self.reason = _obstacle(inner_model(model))
        self._proven = False

    def fits(self, tokens: int) -> bool:
        """Whether a row of so many tokens is to be cut."""
        return self.reason is None and tokens * self.vocabulary * 4 > self.chunk_bytes

    def __call__(
        self,
        model: Any,
        batch: dict[str, Any],
        labels: torch.Tensor,
        places: torch.Tensor | None = None,
    ) -> torch.Tensor | None:
        """Cross entropy of each prediction, 0 where there is no label: fp32[T - 1]; None: not to be had.

        `batch` without labels, on the model's device; labels `[1, T]`, unshifted; places: `trained_places` of
        them, where they are known.
        """
        places = trained_places(labels) if places is None else places
        inner = inner_model(model)
        with _last_states(inner.base_model) as seen:
            logits = model(**batch).logits
        states = torch.cat([output.last_hidden_state for output in seen], dim=1)
        head = _head(inner, seen[-1])
        if not self._proven and not self._agrees(head, states, logits):
            return None
        if not len(places):
            return states.sum().float() * 0 + torch.zeros(labels.shape[-1] - 1, device=labels.device)
        chunk = max(1, self.chunk_bytes // (self.vocabulary * 4))
        wanted = labels[0, 1:].index_select(0, places)
        parts = zip(states[0].index_select(0, places).split(chunk), wanted.split(chunk), strict=True)
        losses = [checkpoint(_losses, head, *part, use_reentrant=False) for part in parts]
        return in_their_places(torch.cat(losses), places, labels)

    def _agrees(self, head: Callable[[torch.Tensor], torch.Tensor], states: Any, logits: Any) -> bool:
        try:
            with torch.no_grad():
                ours, wanted = head(states[0, -1:])[0].detach().float(), logits[0, -1].detach().float()
        except Exception as error:  # any error of a model's own code means: not to be cut
            self.reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            return False
        limit = AGREE.get(states.dtype, 2e-2) * wanted.abs().max().item()
        self._proven = ours.shape == wanted.shape and (ours - wanted).abs().max().item() <= limit
        if not self._proven:
            self.reason = "the logits come out otherwise"
        return self._proven


def _obstacle(inner: Any) -> str | None:
    """Why a model's head cannot be run apart from the rest."""
    base = getattr(inner, "base_model", inner)
    if base is inner:
        return f"{type(inner).__name__} has no base model"
    if getattr(text_config(inner), "output_router_logits", False):
        return "the loss has a part for the router of experts"
    return None


@contextmanager
def _last_states(base: Any) -> Iterator[list[Any]]:
    """Outputs of the base model's calls; what comes after it gets the states of each last token alone."""
    seen: list[Any] = []

    def keep(_module: Any, _args: Any, output: Any) -> Any:
        seen.append(output)
        return _with_states(output, output.last_hidden_state[:, -1:])

    handle = base.register_forward_hook(keep)
    try:
        yield seen
    finally:
        handle.remove()


def _head(inner: Any, output: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """States `[N, H]` -> logits `[N, V]`, by the model's own forward around a base model that is not run."""

    def run(states: torch.Tensor) -> torch.Tensor:
        base = inner.base_model
        before = vars(base).get("forward")
        base.forward = lambda *_args, **_kwargs: _with_states(output, states[None])
        try:
            logits: torch.Tensor = inner(inputs_embeds=states[None], use_cache=False).logits[0]
            return logits
        finally:
            if before is None:
                del base.forward
            else:
                base.forward = before

    return run


def _with_states(output: Any, states: torch.Tensor) -> Any:
    return type(output)(**{**output, "last_hidden_state": states})


def _losses(
    head: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    return cross_entropy(head(states).float(), labels, reduction="none")

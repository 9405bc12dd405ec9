"""NEFTune on packed rows: noise on the embeddings, scaled by each document's own length.

NEFTune (arXiv 2310.05914) adds uniform noise of at most alpha / sqrt(tokens x width). transformers takes
the tokens of the whole row, so that a document in a packed row of 4,096 tokens gets a fraction of the noise
that it gets alone. Here every document gets the noise of its own length, wherever it is packed.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from trainer_plugin.models.strategies import inner_model


class DocumentNoise:
    """Noise of NEFTune's `alpha` for the row that `begin` was told of."""

    def __init__(self, alpha: float) -> None:
        self.alpha = alpha
        self._bounds: torch.Tensor | None = None
        self._tokens = 0

    def begin(self, batch: dict[str, Any] | None) -> None:
        """The row that comes next: its `input_ids` `[1, T]` and `cu_seq_lens_q`; None: no noise."""
        self._bounds = None if batch is None else batch["cu_seq_lens_q"]
        self._tokens = 0 if batch is None else batch["input_ids"].shape[-1]

    @contextmanager
    def on(self, model: Any) -> Iterator[None]:
        """Add noise to the embeddings of `model` while it is in training mode."""
        handle = inner_model(model).get_input_embeddings().register_forward_hook(self._add)
        try:
            yield
        finally:
            handle.remove()
            self.begin(None)

    def _add(self, module: Any, _args: Any, output: torch.Tensor) -> torch.Tensor:
        if not module.training or self._bounds is None:
            return output
        noise = torch.empty_like(output).uniform_(-1, 1)
        return output + noise * self._scale(output)[:, None]

    def _scale(self, output: torch.Tensor) -> torch.Tensor:
        """Largest noise of each token: `[T]`. A model that runs document by document embeds one at a time."""
        assert self._bounds is not None
        total, width = output.shape[-2:]
        lengths = self._bounds.to(output.device).diff()
        if total != self._tokens:
            lengths = lengths.new_tensor([total])
        per_token = torch.repeat_interleave(lengths, lengths, output_size=total)
        return (self.alpha / (per_token * width).sqrt()).to(output.dtype)

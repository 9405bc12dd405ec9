"""`attn_implementation="tokpack_tree"`: attention along the branches of a prefix tree.

Every segment sees the segments that lead to it, and itself up to each token: one
`scaled_dot_product_attention` call for a root, for a long segment, and for all short ends of one beginning
together. The tree of the row is set by `along`, for the time of a forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch

from tokpack.errors import UsageError
from trainer_plugin.evaluation.prefix_tree import Tree
from trainer_plugin.models.attention import Scores, _attend_eager, _attend_plain, _chunk_size

NAME = "tokpack_tree"


class Branches:
    """What is attended at once in a row, on one device: queries, the keys they see, and which of them."""

    def __init__(self, tree: Tree, device: torch.device) -> None:
        self.device = device
        self.positions = torch.from_numpy(tree.positions).to(device)
        self.calls = [_call(tree, family) for family in tree.families()]
        self._masks: dict[tuple[int, int | None], torch.Tensor] = {}

    def mask(self, number: int, window: int | None) -> torch.Tensor | None:
        """`bool[queries, keys]`; None for a root that no window cuts: causal as it stands."""
        start, end, keys, labels = self.calls[number]
        if labels is None and (window is None or end - start <= window):
            return None
        if (number, window) not in self._masks:
            self._masks[number, window] = self._seen(start, end, keys, labels, window)
        return self._masks[number, window]

    def _seen(
        self, start: int, end: int, keys: list[tuple[int, int]], labels: np.ndarray | None, window: int | None
    ) -> torch.Tensor:
        queries = self.positions[start:end, None]
        seen = torch.cat([self.positions[a:b] for a, b in keys])[None]
        distance = queries - seen
        mask = distance >= 0
        if window is not None:
            mask &= distance < window
        if labels is not None:  # ends of one beginning do not see each other; label -1: the beginning
            own = torch.from_numpy(labels).to(self.device)
            of_keys = torch.full((mask.shape[1],), -1, device=self.device)
            of_keys[-(end - start) :] = own
            mask &= (of_keys[None] == own[:, None]) | (of_keys[None] == -1)
        return mask


def _call(tree: Tree, family: list[int]) -> tuple[int, int, list[tuple[int, int]], np.ndarray | None]:
    """Start and end of the queries, stretches of keys; with a chain the segment of each query."""
    first, last = tree.segments[family[0]], tree.segments[family[-1]]
    chain = [(tree.segments[i].start, tree.segments[i].end) for i in tree.chain(family[0])]
    labels = None
    if chain:
        lengths = [tree.segments[i].end - tree.segments[i].start for i in family]
        labels = np.repeat(np.arange(len(family)), lengths)
    return first.start, last.end, [*chain, (first.start, last.end)], labels


_BRANCHES: ContextVar[Branches | None] = ContextVar("branches", default=None)


@contextmanager
def along(branches: Branches) -> Iterator[None]:
    """Rows of this tree go through the model while the block lasts."""
    token = _BRANCHES.set(branches)
    try:
        yield
    finally:
        _BRANCHES.reset(token)


def register_tree_attention() -> str:
    """Make `attn_implementation="tokpack_tree"` known to transformers; returns the name."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, tree_attention)
    return NAME


def tree_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query `[1, H, T, D]`, key and value `[1, H_kv, T, D]` -> `[1, T, H, D_v]`.

    Signature as transformers calls it. Raises UsageError for what has no meaning along a tree.
    """
    branches = _BRANCHES.get()
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    odd = attention_mask is not None or position_bias is not None or _chunk_size(module) is not None
    if branches is None or odd or not causal or query.shape[0] != 1 or query.shape[2] != key.shape[2]:
        raise UsageError(
            "this attention is for rows of a prefix tree alone",
            where=type(module).__name__,
            hint="attn=tokpack",
        )
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    scores = Scores(scale, True, dropout, sliding_window, softcap, s_aux)
    attend = _attend_plain if scores.plain else _attend_eager
    attended = []
    for number, (start, end, keys, _) in enumerate(branches.calls):
        k, v = (_stretches(tensor, keys) for tensor in (key, value))
        mask = branches.mask(number, sliding_window)
        attended.append(attend(query[:, :, start:end], k, v, scores, mask).transpose(1, 2))
    return torch.cat(attended, dim=1), None


def _stretches(tensor: torch.Tensor, stretches: list[tuple[int, int]]) -> torch.Tensor:
    if len(stretches) == 1:
        return tensor[:, :, stretches[0][0] : stretches[0][1]]
    return torch.cat([tensor[:, :, a:b] for a, b in stretches], dim=2)

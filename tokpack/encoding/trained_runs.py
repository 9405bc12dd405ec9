"""Tokens as people read them: texts of what is trained, and of what is not."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from tokpack.terminal.printable import printable


def trained_runs(tokenizer: Any, ids: Any, trained: Any) -> list[tuple[str, bool]]:
    """Texts of runs of tokens that are all trained, or all masked: decoded together, so that characters split
    between tokens come out whole. Printable."""
    if not len(ids):
        return []
    edges = [0, *(np.flatnonzero(np.diff(trained.astype(np.int8))) + 1).tolist(), len(ids)]
    texts = tokenizer.decode_rows([ids[start:end].tolist() for start, end in pairwise(edges)])
    return [(printable(text), bool(trained[start])) for text, start in zip(texts, edges, strict=False)]

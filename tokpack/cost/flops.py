"""FLOPs of training on given document lengths: an exact count, two operations a multiply-add.

Counted: every matrix multiplication, attention from the documents' own lengths, LoRA, lm_head. Left out:
norms, activations, softmax (below 1 %), what a kernel recomputes for itself (flash-attention's backward), and
restoring 4-bit weights, which takes time rather than FLOPs (`speed.py`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from tokpack.cost.method import Method
from tokpack.cost.model_shape import ModelShape
from tokpack.frozen import frozen


@frozen(kw_only=True)
class Flops:
    """FLOPs of one pass over the data, by part, all of them counted."""

    tokens: int
    """Tokens that went through the linear layers (slots, when rows are padded)."""
    linear: float
    """Forward through all matrices and lm_head."""
    attention: float
    """Forward: scores and weighted values."""
    adapter: float
    """Forward through LoRA's A and B."""
    backward: float
    recompute: float
    """Gradient checkpointing: the layers' forward once more (lm_head is outside the checkpoints)."""

    @property
    def forward(self) -> float:
        """One forward pass, as an evaluation does."""
        return self.linear + self.attention + self.adapter

    @property
    def total(self) -> float:
        """Forward, backward and recomputation."""
        return self.forward + self.backward + self.recompute


def attention_pairs(seq_lengths: ArrayLike, window: int | None = None, *, causal: bool = True) -> int:
    """Query-key pairs over all documents.

    Causal: token i sees min(i + 1, window) keys, so a document of n tokens has n(n+1)/2 pairs, or
    w(w+1)/2 + (n-w)w when a window of w is shorter. Not causal: n * n, what eager attention computes before
    it masks, window or not.
    """
    lengths = np.asarray(seq_lengths, dtype=np.int64)
    if not causal:
        return int((lengths * lengths).sum())
    seen = lengths if window is None else np.minimum(lengths, window)
    return int((seen * (seen + 1) // 2 + (lengths - seen) * seen).sum())


def flops(
    shape: ModelShape,
    seq_lengths: ArrayLike,
    *,
    method: Method | None = None,
    checkpointing: bool = False,
    causal: bool = True,
    slots: int | None = None,
    micro_batches: int = 1,
) -> Flops:
    """FLOPs of one epoch over documents of `seq_lengths` tokens.

    Padded training: pass the padded widths as lengths. Rows padded after isolated documents: pass `slots`,
    the tokens that the linear layers really work on. `micro_batches` matters for LoRA on experts alone.

    Backward is one forward's work for the gradient of the activations, always, and one more for every weight
    that trains; for frozen weights nothing more. The first layer's input needs no gradient when embeddings
    are frozen: it is counted all the same (under 1 % from ten layers on).
    """
    method = method or Method()
    lengths = np.asarray(seq_lengths, dtype=np.int64)
    tokens = int(lengths.sum()) if slots is None else slots
    layers = 2.0 * (shape.active_params - shape.head_params) * tokens
    linear = layers + 2.0 * shape.head_params * tokens
    attention = _attention(shape, lengths, causal)
    adapter = _adapter(shape, method, tokens, micro_batches) if method.adapts else 0.0
    trained = 2.0 * _weight_gradients(shape, method) * tokens
    backward = linear + trained + 2 * attention + 2 * adapter
    recompute = layers + attention + adapter if checkpointing else 0.0
    return Flops(
        tokens=tokens,
        linear=linear,
        attention=attention,
        adapter=adapter,
        backward=backward,
        recompute=recompute,
    )


def token_cost(
    shape: ModelShape, capacity: int, *, method: Method | None = None, checkpointing: bool = False
) -> int:
    """Work of a token in the weights, in units of what one of n * n pairs of tokens costs in attention.

    A row's work is then `token_cost * tokens + sum(n * n)` over its documents. Attention windows shorter than
    `capacity` make the pair cheaper, as it is in a document that fills the row.
    """
    token = flops(shape, [1], method=method, checkpointing=checkpointing).total
    row = flops(shape, [capacity], method=method, checkpointing=checkpointing).total
    pair = (row - capacity * token) / (capacity * capacity)
    return round(token / pair)


def _attention(shape: ModelShape, lengths: np.ndarray, causal: bool) -> float:
    per_pair = 2.0 * shape.num_heads * (shape.qk_dim + shape.v_dim)
    pairs = {w: attention_pairs(lengths, w, causal=causal) for w in set(shape.windows)}
    return per_pair * sum(pairs[window] for window in shape.windows)


def _adapter(shape: ModelShape, method: Method, tokens: int, micro_batches: int) -> float:
    """Forward through the adapters: A and B a token on linear layers; on expert stacks the product BA, as
    large as the weights themselves, once a micro-batch."""
    work = 0.0
    for m in shape.matrices:
        rank = method.rank * m.lora
        if m.linear:
            work += 2.0 * rank * (m.inputs + m.outputs) * m.layers * m.used * tokens
        else:
            work += 2.0 * rank * m.params * micro_batches
    return work


def _weight_gradients(shape: ModelShape, method: Method) -> int:
    """Base weights whose full gradient is computed: all, or the expert stacks that carry an adapter.

    PEFT adapts a bare parameter as W + BA, formed once a micro-batch, so autograd goes through W's gradient.
    """
    if not method.adapts:
        return shape.active_params
    return sum(m.active for m in shape.matrices if m.lora and not m.linear)

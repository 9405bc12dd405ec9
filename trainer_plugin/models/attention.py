"""`attn_implementation="tokpack"`: attention that runs inside each document and cannot leave it.

The usual way masks a T x T score matrix by blocks and computes it whole. Here queries, keys and values are
cut at `cu_seq_lens_q` and each document is attended alone: work falls from T^2 to the sum of the squared
document lengths, a packed document takes the very same kernel calls as the document alone (so the same
bits), and a batch without `cu_seq_lens_q` raises instead of attending across documents.

- CUDA, fp16 or bf16: one call of `torch.nn.attention.varlen.varlen_attn` (PyTorch's own, no flash-attn).
- CPU, MPS, fp32, older CUDA devices: one `scaled_dot_product_attention` call per document.
- Sliding windows, chunks, soft-capped scores and attention sinks: per document, as the model's eager code
  has it.
- Under `torch.compile`, where the lengths of documents cannot be read, what is not the CUDA call above takes
  one T x T mask of documents instead: slower, and without a graph break.

Registered with transformers' `AttentionInterface` alone: for an attention without a mask function
transformers makes no mask, and does not look for documents itself, which would wait for the device once a
step. Models that do not go through that interface are not reached by it, which is what the isolation probe
is for.
"""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.weak import WeakTensorKeyDictionary

from tokpack.errors import UsageError

NAME = "tokpack"
ONE_DOCUMENT: ContextVar[bool] = ContextVar("one_document", default=False)
"""Set by `trainer_plugin.models.mixers` where a layer is called with the states of a single document."""

_HARMLESS = {"cu_seq_lens_k", "position_ids", "seq_idx", "cache_position", "num_items_in_batch"}
"""Tensors of the batch that say nothing more about who attends to whom; others (sparse indices) would."""

_LENGTHS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


class Scores(NamedTuple):
    """How one layer scores a query against a key, beyond the dot product."""

    scale: float
    causal: bool
    dropout: float
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """True when `scaled_dot_product_attention` knows all of it, but for the window."""
        return self.softcap is None and self.sinks is None


def register_attention() -> str:
    """Make `attn_implementation="tokpack"` known to transformers; returns the name. May be called again."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, packed_attention)
    return NAME


def use_tokpack_attention(model: Any) -> Any:
    """Switch a loaded model to the packed attention; returns the model.

    Raises UsageError when the architecture does not let its attention be exchanged.
    """
    register_attention()
    try:
        model.set_attn_implementation(NAME)
    except (ValueError, AttributeError, KeyError) as error:
        raise UsageError(
            f"{type(model).__name__} does not take another attention: {error}",
            where="attn=tokpack",
            hint="use attn=auto, which probes what the model can do",
        ) from None
    return model


def packed_attention(
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
    cu_seq_lens_q: torch.Tensor | None = None,
    max_length_q: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """query `[1, H, T, D]`, key and value `[1, H_kv, T, D]` -> `[1, T, H, D_v]`, documents apart.

    Signature as transformers calls it. Raises UsageError without `cu_seq_lens_q`, and for what it cannot
    honor: a mask, a batch of more than one row, a position bias, cached keys.
    """
    if cu_seq_lens_q is None and ONE_DOCUMENT.get():
        max_length_q = query.shape[2]
        cu_seq_lens_q = torch.tensor([0, max_length_q], dtype=torch.int32, device=query.device)
    if cu_seq_lens_q is None:
        raise UsageError(
            'attention "tokpack" got no cu_seq_lens_q: it would not know where documents end',
            where=f"{type(module).__name__}",
            hint="make batches with trainer_plugin.PackedCollator; to generate text, first call "
            'model.set_attn_implementation("sdpa")',
        )
    _refuse(module, query, key, attention_mask, position_bias, others)
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    scale = scaling if scaling is not None else query.shape[-1] ** -0.5
    scores = Scores(scale, bool(causal), dropout, sliding_window, softcap, s_aux)
    chunk = _chunk_size(module)
    half = _half_dtype(module, query)
    if chunk is None and half is not None and _varlen_fits(query, value, scores):
        longest = max_length_q if max_length_q is not None else max(document_lengths(cu_seq_lens_q))
        q, k, v = (tensor.to(half) for tensor in (query, key, value))
        return _attend_varlen(q, k, v, cu_seq_lens_q, int(longest), scores).to(query.dtype), None
    if torch.compiler.is_compiling():
        mask = _mask_of_documents(cu_seq_lens_q, query.shape[2], scores, chunk)
        attend = _attend_plain if scores.plain else _attend_eager
        return attend(query, key, value, scores, mask).transpose(1, 2), None
    return _attend_each(query, key, value, document_lengths(cu_seq_lens_q), scores, chunk), None


def document_lengths(cu_seq_lens: torch.Tensor) -> list[int]:
    """Lengths between the bounds; read from the device once per batch, not once per layer."""
    lengths: list[int] | None = _LENGTHS.get(cu_seq_lens)
    if lengths is None:
        lengths = _LENGTHS[cu_seq_lens] = cu_seq_lens.diff().tolist()
    return lengths


def _refuse(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    attention_mask: torch.Tensor | None,
    position_bias: torch.Tensor | None,
    others: dict[str, Any],
) -> None:
    problem = None
    unknown = [name for name, value in others.items() if isinstance(value, torch.Tensor)]
    unknown = [name for name in unknown if name not in _HARMLESS]
    if attention_mask is not None:
        problem = "an attention mask", "give no attention_mask: the collator's batch carries the documents"
    elif position_bias is not None:
        problem = "a position bias (ALiBi or relative positions)", "use attn=auto or attn=eager"
    elif unknown:
        problem = f"{unknown[0]!r}, which it does not know", "use attn=auto or attn=eager"
    elif query.shape[0] != 1:
        problem = f"{query.shape[0]} rows in one batch", "flatten them with trainer_plugin.PackedCollator"
    elif query.shape[2] != key.shape[2]:
        problem = "cached keys", "set use_cache=False"
    if problem is not None:
        raise UsageError(
            f'attention "tokpack" got {problem[0]}', where=f"{type(module).__name__}", hint=problem[1]
        )


def _chunk_size(module: torch.nn.Module) -> int | None:
    """Chunk of a layer with chunked attention (Llama 4): position p sees only its own block of this size."""
    config = getattr(module, "config", None)
    chunk, kinds = getattr(config, "attention_chunk_size", None), getattr(config, "layer_types", None)
    layer = getattr(module, "layer_idx", None)
    if chunk is None or kinds is None or layer is None or kinds[layer] != "chunked_attention":
        return None
    return int(chunk)


def _half_dtype(module: torch.nn.Module, query: torch.Tensor) -> torch.dtype | None:
    """The 16-bit dtype this layer computes in, or None for a true fp32 layer.

    Queries of a quantized or autocast model come out of fp32 norms as fp32, though it computes in 16 bits.
    """
    dtype: Any = query.dtype
    if dtype == torch.float32 and torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
    elif dtype == torch.float32 and getattr(getattr(module, "config", None), "quantization_config", None):
        dtype = module.config.dtype
    return dtype if dtype in (torch.float16, torch.bfloat16) else None


def _varlen_fits(query: torch.Tensor, value: torch.Tensor, scores: Scores) -> bool:
    """True when the flash kernel behind `varlen_attn` computes exactly these scores on this device."""
    return (
        query.device.type == "cuda"
        and _has_flash_units(query.device.index or 0)
        and query.shape[-1] == value.shape[-1] <= 256
        and query.shape[-1] % 8 == 0
        and scores.plain
        and scores.dropout == 0.0
        and _varlen_takes("window_size")
    )


@torch.compiler.assume_constant_result  # torch.compile need not look into it
@cache
def _has_flash_units(index: int) -> bool:
    return torch.cuda.get_device_capability(index) >= (8, 0)


@torch.compiler.assume_constant_result
@cache
def _varlen_takes(option: str) -> bool:
    """Whether this PyTorch has `varlen_attn` with this option; `enable_gqa` came after 2.11."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return option in inspect.signature(varlen_attn).parameters


def varlen_window(scores: Scores) -> tuple[int, int]:
    """A window of W tokens counts the query in transformers; flash kernels count the W - 1 keys before."""
    left = -1 if scores.window is None else scores.window - 1
    return left, 0 if scores.causal else (-1 if scores.window is None else scores.window - 1)


def _attend_varlen(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    bounds: torch.Tensor,
    longest: int,
    scores: Scores,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    groups = query.shape[1] // key.shape[1]
    options: dict[str, Any] = {"scale": scores.scale, "window_size": varlen_window(scores)}
    q, k, v = (tensor[0].transpose(0, 1).contiguous() for tensor in (query, key, value))  # [T, H, D]
    if _varlen_takes("enable_gqa"):
        options["enable_gqa"] = groups > 1
    elif groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    attended: Any = varlen_attn(q, k, v, bounds, bounds, longest, longest, **options)
    row: torch.Tensor = attended[None]
    return row


def _attend_each(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    lengths: list[int],
    scores: Scores,
    chunk: int | None,
) -> torch.Tensor:
    if chunk is not None:
        lengths = [min(chunk, length - start) for length in lengths for start in range(0, length, chunk)]
    parts = [tensor.split(lengths, dim=2) for tensor in (query, key, value)]
    attend = _attend_plain if scores.plain else _attend_eager
    masks = (_visible(length, scores, query.device) for length in lengths)
    attended = [
        attend(q, k, v, scores, mask).transpose(1, 2) for q, k, v, mask in zip(*parts, masks, strict=True)
    ]
    return torch.cat(attended, dim=1)


def _attend_plain(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: Scores, mask: torch.Tensor | None
) -> torch.Tensor:
    groups = q.shape[1] // k.shape[1]
    if groups > 1 and not _kernel_takes_groups(q, v, mask):
        k, v, groups = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1), 1
    return scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        dropout_p=scores.dropout,
        is_causal=scores.causal and mask is None,
        scale=scores.scale,
        enable_gqa=groups > 1,
    )


def _kernel_takes_groups(query: torch.Tensor, value: torch.Tensor, mask: torch.Tensor | None) -> bool:
    """Whether PyTorch has a kernel for grouped heads here; without one it holds the scores of all pairs.

    On CUDA flash attention alone takes them, up to PyTorch 2.13 at least.
    """
    if query.device.type != "cuda":
        return True
    half = query.dtype in (torch.float16, torch.bfloat16)
    flash = mask is None and half and query.shape[-1] == value.shape[-1] <= 256
    return flash and _has_flash_units(query.device.index or 0)


def _attend_eager(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, scores: Scores, visible: torch.Tensor | None
) -> torch.Tensor:
    """Softmax written out, for soft-capped scores (Gemma 2) and attention sinks (gpt-oss)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    logits = (q @ k.transpose(2, 3)) * scores.scale
    if scores.softcap is not None:
        logits = torch.tanh(logits / scores.softcap) * scores.softcap
    length = q.shape[2]
    if visible is None and scores.causal:
        visible = torch.ones(length, length, dtype=torch.bool, device=q.device).tril()
    if visible is not None:
        logits = logits.masked_fill(~visible, torch.finfo(logits.dtype).min)
    if scores.sinks is not None:
        sinks = scores.sinks.reshape(1, -1, 1, 1).expand(1, -1, length, 1).to(logits.dtype)
        logits = torch.cat([logits, sinks], dim=-1)
    weights = torch.softmax(logits, dim=-1, dtype=torch.float32).to(q.dtype)
    if scores.sinks is not None:
        weights = weights[..., :-1]
    return torch.dropout(weights, scores.dropout, train=scores.dropout > 0) @ v


def _visible(length: int, scores: Scores, device: torch.device) -> torch.Tensor | None:
    """`bool[length, length]`, true where query i sees key j; None when no window cuts the document."""
    if scores.window is None or length <= scores.window:
        return None
    distance = _distances(length, device)
    lowest = 0 if scores.causal else 1 - scores.window
    return (distance >= lowest) & (distance < scores.window)


def _distances(length: int, device: torch.device) -> torch.Tensor:
    """How far key j lies before query i: `int64[length, length]`."""
    places = torch.arange(length, device=device)
    return places[:, None] - places[None, :]


def _mask_of_documents(
    cu_seq_lens: torch.Tensor, length: int, scores: Scores, chunk: int | None
) -> torch.Tensor:
    """`bool[length, length]`, true where query i sees key j of the same document; no value is read."""
    places = torch.arange(length, device=cu_seq_lens.device)
    number = torch.bucketize(places, cu_seq_lens[1:], right=True)
    mask = number[:, None] == number[None, :]
    if chunk is not None:
        block = (places - cu_seq_lens[number]) // chunk
        mask &= block[:, None] == block[None, :]
    if scores.causal:
        mask &= _distances(length, cu_seq_lens.device) >= 0
    window = _visible(length, scores, cu_seq_lens.device)
    return mask if window is None else mask & window

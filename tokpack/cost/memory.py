"""GPU memory of a training run before it starts, and the largest micro-batch that fits.

Formulas in docs/cost-model.md. They hold for transformers' decoders with fused attention (flash, sdpa or
variable-length; eager attention also keeps its score matrix) on one GPU, nothing sharded or offloaded.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import replace
from typing import Final, Literal

from tokpack.cost.figure import Figure
from tokpack.cost.gpus import GIB, Gpu, load_gpus
from tokpack.cost.method import Method
from tokpack.cost.model_shape import ModelShape
from tokpack.errors import UsageError
from tokpack.frozen import frozen

NF4_BLOCK: Final = 64
"""Weights that share one scale in bitsandbytes' NF4."""
NF4_SCALES: Final = 256
"""Scales that share one fp32 scale under double quantization."""
OPTIMIZER_BYTES: Final = {"adamw": 8.0, "adamw_8bit": 2 + 8 / 256, "paged_adamw_8bit": 2 + 8 / 256}
"""Two moments a trained parameter: fp32 (AdamW's are bf16 where the parameter is), or one byte each and an
fp32 scale for every 256."""
Loss = Literal["chunked", "whole", "copied", "fused"]
"""How the loss holds its logits.

chunked: `tokpack train`, some tokens at a time where a row's would be large. whole: transformers 5, all at
once. copied: the same with a shifted copy, as transformers before 4.46 and losses written after it. fused:
never in memory (Liger, Cut Cross Entropy).
"""
LOGIT_BYTES: Final = {"fused": 0, "chunked": 12, "whole": 12, "copied": 16}
"""Bytes a logit at the loss's peak, without the 16-bit logits of the model: fp32 log-softmax and two
gradients; the copy."""
CHUNK_BYTES: Final = 1 << 28
"""fp32 logits that the chunked loss makes at a time; a row with no more is not cut."""
MOST_TOKENS: Final = 1 << 28
"""The largest micro-batch that `fits` looks at."""
CONTEXT_BYTES: Final = 0.6 * GIB
"""Assumed: CUDA context, kernels, cuBLAS workspace."""
FRAGMENTATION: Final = 0.05
"""Assumed: share of the GPU that the caching allocator cannot use."""


@frozen(kw_only=True)
class Memory:
    """Bytes at the peak of a training step. `pageable` optimizer states can leave the GPU: not summed."""

    tokens: int
    weights: float
    adapter: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    scratch: float
    """Weights restored from NF4 one matrix at a time; expert weights with their adapter added; new gradients
    of the embeddings before they join earlier ones, beyond the activations and logits then gone."""
    overhead: float
    pageable: float = 0.0

    @property
    def total(self) -> float:
        """Bytes needed on the GPU."""
        return (
            self.weights
            + self.adapter
            + self.gradients
            + self.optimizer
            + self.activations
            + self.logits
            + self.scratch
            + self.overhead
        )

    def figures(self) -> dict[str, Figure]:
        """Each part in GiB with its source."""
        names = ("weights", "adapter", "gradients", "optimizer", "activations", "logits", "scratch")
        out = {name: Figure(getattr(self, name) / GIB, "GiB", "computed") for name in names}
        out["overhead"] = Figure(self.overhead / GIB, "GiB", "assumed", "CUDA context and kernels")
        out["total"] = Figure(self.total / GIB, "GiB", "assumed", f"peak at {self.tokens} tokens")
        return out


@frozen
class Remedy:
    """A change by which a row fits: in words, and the flag that makes it (empty where none does)."""

    do: str
    flag: str = ""


@frozen(kw_only=True)
class Fit:
    """Whether a micro-batch fits a GPU. `max_tokens` is the largest that does (0: not even the weights)."""

    gpu: str
    fits: bool
    max_tokens: int
    memory: Memory
    usable: float
    """`usable_bytes` of the GPU."""
    advice: tuple[Remedy, ...] = ()


def memory(
    shape: ModelShape,
    tokens: int,
    *,
    method: Method | None = None,
    checkpointing: bool = False,
    head_bytes: int | None = None,
    loss: Loss = "copied",
) -> Memory:
    """Peak bytes of a step on micro-batches of `tokens` tokens (all rows of the micro-batch together).

    `head_bytes`: bytes of an embedding or lm_head weight; by default 2 beside 8- and 4-bit layers, but 4
    after PEFT's `prepare_model_for_kbit_training`. `loss`: by default the one that takes most.
    """
    method = method or Method()
    trained = shape.lora_params(method.rank) if method.adapts else shape.total_params
    adapter = float(method.adapter_bytes * trained) if method.adapts else 0.0
    states = OPTIMIZER_BYTES[method.optimizer] * trained
    if _pure(method) and method.optimizer == "adamw":
        states /= 2
    paged = method.optimizer.startswith("paged")
    logits = logit_bytes(shape, tokens, method, loss) + _head_copy(shape, method, head_bytes, loss)
    kept, layer = activation_bytes(shape, method) * tokens, 0.0
    if checkpointing:
        layer = (kept + _layer_gradients(shape, method) * tokens) / shape.num_layers
        # Embeddings in fp32 make the states between layers fp32 as well.
        size = max(method.compute_bytes, head_bytes or 0)
        kept = float(size * shape.hidden_size * shape.num_layers * tokens)
    # The logits are gone before the first layer is computed again: only the larger of the two counts.
    activations = kept + max(0.0, layer - logits)
    cut = loss == "chunked" and _is_cut(shape, tokens)
    beyond = _embedding_gradients(shape, method, kept, layer, logits, cut) - activations - logits
    return Memory(
        tokens=tokens,
        weights=weight_bytes(shape, method, head_bytes),
        adapter=adapter,
        gradients=adapter if method.adapts else float(_dtype_bytes(method) * trained),
        optimizer=0.0 if paged else states,
        pageable=states if paged else 0.0,
        activations=activations,
        logits=logits,
        scratch=_scratch(shape, method, checkpointing) + max(0.0, beyond),
        overhead=CONTEXT_BYTES,
    )


def logit_bytes(shape: ModelShape, tokens: int, method: Method, loss: Loss) -> float:
    """Bytes of logits at the loss's peak.

    The chunked loss never takes more than for a row it does not cut, which is what is counted: the states
    before the head, their selection and their gradient come on top.
    """
    count = float(shape.vocab_size) * tokens
    each = LOGIT_BYTES[loss] + (method.compute_bytes if method.compute_bytes < 4 and loss != "fused" else 0)
    if loss != "chunked" or not _is_cut(shape, tokens):
        return each * count
    return each * CHUNK_BYTES / 4 + 3.0 * method.compute_bytes * shape.hidden_size * tokens


def _head_copy(shape: ModelShape, method: Method, head_bytes: int | None, loss: Loss) -> float:
    """The fp32 head in 16 bits, which autocast makes and the loss's backward pass needs."""
    copied = loss == "chunked" and (head_bytes or 0) > method.compute_bytes
    return float(method.compute_bytes * shape.head_params) if copied else 0.0


def _is_cut(shape: ModelShape, tokens: int) -> bool:
    return 4 * shape.vocab_size * tokens > CHUNK_BYTES


def weight_bytes(shape: ModelShape, method: Method, head_bytes: int | None = None) -> float:
    """Base weights. Under NF4 and int8 only linear layers shrink: embeddings, lm_head and expert stacks stay
    16-bit."""
    if method.base_weights in ("fp32", "bf16"):
        return float(_dtype_bytes(method) * shape.total_params)
    quantized = shape.quantized_params
    experts = shape.matrix_params - quantized
    outside = shape.total_params - shape.matrix_params
    if method.base_weights == "nf4":
        small = quantized * nf4_bytes(double_quant=method.double_quant)
    else:
        small = quantized + 4.0 * sum(m.outputs * m.layers for m in shape.matrices if m.linear)
    return small + 2.0 * experts + float(head_bytes or 2) * outside


def nf4_bytes(*, double_quant: bool) -> float:
    """Bytes of one NF4 weight: half a byte and its share of the scales.

    4 / 64 more with fp32 scales; 1 / 64 + 4 / (64 * 256) with scales quantized to a byte.
    """
    scale = 1 + 4 / NF4_SCALES if double_quant else 4.0
    return 0.5 + scale / NF4_BLOCK


def activation_bytes(shape: ModelShape, method: Method) -> float:
    """Bytes kept for the backward pass, a token, all layers together, without gradient checkpointing."""
    size, hidden, layers = method.compute_bytes, shape.hidden_size, shape.num_layers
    queries, keys = shape.num_heads * shape.qk_dim, shape.num_kv_heads * shape.qk_dim
    values = (shape.num_heads + shape.num_kv_heads) * shape.v_dim
    normed = (shape.norms * hidden + (queries + keys if shape.qk_norm else 0)) * layers
    # An RMS norm keeps its input in fp32, and its output before the scale where that scale trains.
    scaled = 0 if method.adapts else size if _pure(method) else 4
    norms = normed * (4 + scaled if shape.rms_norm else size)
    fused = queries + keys if shape.fused_qkv else 0
    attention = layers * (size * (queries + keys + values + fused) + 4 * shape.num_heads)
    mlp = _state_bytes(method) * _mlp_width(shape) * (3 if shape.gated else 1) + size * 2 * _routed(shape)
    ranks = size * method.rank * sum(m.lora * m.layers * m.used for m in shape.matrices if m.linear)
    return float(norms + attention + mlp + _kept_inputs(shape, method) + (ranks if method.adapts else 0))


def fits(
    shape: ModelShape,
    gpu: Gpu,
    capacity: int,
    *,
    method: Method | None = None,
    checkpointing: bool = False,
    head_bytes: int | None = None,
    loss: Loss = "copied",
    gpus: Mapping[str, Gpu] | None = None,
) -> Fit:
    """Whether one packed row of `capacity` tokens fits, the largest micro-batch that does, what to change.

    The advice is worked out, not canned: each remedy is a change that makes the row fit, or the smallest
    GPU of `gpus` (default: the table) that holds it.
    """
    if capacity < 1:
        raise UsageError(f"capacity must be at least 1 token, not {capacity}", where="capacity")
    method = method or Method()

    def need(tokens: int, how: Method, ckpt: bool) -> Memory:
        return memory(shape, tokens, method=how, checkpointing=ckpt, head_bytes=head_bytes, loss=loss)

    def most(card: Gpu, how: Method, ckpt: bool) -> int:
        room = range(MOST_TOKENS)
        return max(0, bisect_right(room, usable_bytes(card), key=lambda n: need(n, how, ckpt).total) - 1)

    row = need(capacity, method, checkpointing)
    largest = most(gpu, method, checkpointing)
    advice: list[Remedy] = []
    if largest < capacity:
        for words, flag, how, ckpt in _changes(method, checkpointing):
            tokens = most(gpu, how, ckpt)
            if tokens >= capacity:
                advice.append(Remedy(f"{words}: micro-batches up to {tokens} tokens fit", flag))
        if largest >= 256:
            whole = largest // 256 * 256
            advice.append(Remedy(f"a capacity of {whole} tokens fits as it is", f"--max-length {whole}"))
        cards = [card for card in (gpus or load_gpus()).values() if row.total <= usable_bytes(card)]
        if cards:
            card = min(cards, key=lambda g: g.memory_gb)
            advice.append(
                Remedy(f"{card.key} ({card.memory_gb:g} GB) holds it as it is", f"--gpu {card.key}")
            )
        if not advice:
            advice.append(Remedy("no single GPU of the table holds it: shard the model (FSDP, DeepSpeed)"))
    return Fit(
        gpu=gpu.key,
        fits=largest >= capacity,
        max_tokens=largest,
        memory=row,
        usable=usable_bytes(gpu),
        advice=tuple(advice),
    )


def _changes(method: Method, checkpointing: bool) -> list[tuple[str, str, Method, bool]]:
    """What a user can change on the same GPU, in words and as a flag, mildest first; the last is everything
    together."""
    small = replace(method, kind="qlora", weights=None)
    changes: list[tuple[str, str, Method, bool]] = []
    if not checkpointing:
        changes.append(("gradient checkpointing", "tokpack train --gradient-checkpointing", method, True))
    if method.optimizer == "adamw":
        eight = replace(method, optimizer="adamw_8bit")
        changes.append(("an 8-bit optimizer", 'optim = "adamw_8bit" under [trainer]', eight, checkpointing))
    if method.kind == "full":
        lora = replace(method, kind="lora")
        changes.append(("LoRA", "--method lora", lora, checkpointing))
        changes.append(("LoRA with gradient checkpointing", "--method lora", lora, True))
    if method.kind != "qlora":
        changes.append(("QLoRA", "--method qlora", small, checkpointing))
        if not checkpointing:
            changes.append(("QLoRA with gradient checkpointing", "--method qlora", small, True))
    return changes


def usable_bytes(gpu: Gpu) -> float:
    """Bytes of the GPU a run may use: what its driver reports, less the assumed fragmentation."""
    return gpu.reported_bytes * (1 - FRAGMENTATION)


def _dtype_bytes(method: Method) -> int:
    return 4 if method.base_weights == "fp32" else 2


def _pure(method: Method) -> bool:
    """Everything in 16 bits, no autocast."""
    return not method.adapts and method.base_weights == "bf16"


def _mlp_width(shape: ModelShape) -> int:
    """MLP width that one token passes through, summed over layers and chosen experts."""
    return sum(m.inputs * m.layers * m.used for m in shape.matrices if m.name.endswith("down_proj"))


def _routed(shape: ModelShape) -> int:
    """Elements of the hidden states gathered for experts, a token, all layers."""
    return sum(m.inputs * m.layers * m.used for m in shape.matrices if m.name == "experts.gate_up_proj")


def _kept_inputs(shape: ModelShape, method: Method) -> int:
    """Inputs of the matrices whose gradient (or whose adapter's) needs them.

    One tensor serves all readers where it is in the dtype that is computed in. Beside 8- and 4-bit layers,
    whose norms are fp32, every adapted matrix keeps its own 16-bit copy.
    """
    size = method.compute_bytes
    if size == 4 or method.base_weights == "bf16":
        return size * (2 * shape.hidden_size * shape.num_layers + _mlp_width(shape) + _routed(shape))
    sparse = sum(m.inputs * m.layers * m.used for m in shape.matrices if m.name.startswith("experts."))
    dense = sum(
        m.inputs * m.layers
        for m in shape.matrices
        if m.linear and (m.lora if method.adapts else m.name != "o_proj")
    )
    return size * (dense + sparse)


def _layer_gradients(shape: ModelShape, method: Method) -> float:
    """Gradients alive while one layer runs backward, a token, times the layers: MLP widths and two states."""
    states = 2 * shape.hidden_size * shape.num_layers
    return float(_state_bytes(method) * (3 * _mlp_width(shape) + states))


def _state_bytes(method: Method) -> int:
    """Bytes of what linear layers give out: fp32 beside 8 and 4 bits, as the norms before them."""
    return 4 if method.base_weights in ("nf4", "int8") else method.compute_bytes


def _embedding_gradients(
    shape: ModelShape, method: Method, kept: float, layer: float, logits: float, cut: bool
) -> float:
    """Bytes at the peak of the backward pass, earlier gradients aside; 0 for frozen embeddings.

    The head's gradient lies beside the logits' and the `kept` activations; of a `cut` row there are up to
    three: of a chunk, of those before it, their sum. Tied weights hold it while a `layer` is computed again
    and up to the end, where the embeddings' gradient and the sum of both join it.
    """
    if method.adapts:
        return 0.0
    each = float(_dtype_bytes(method) * shape.head_params)
    head = kept + logits / 3 + (3 if cut else 1) * each
    return max(head, kept + layer + each, 3 * each) if shape.tied else head


def _scratch(shape: ModelShape, method: Method, checkpointing: bool) -> float:
    """The matrix being restored from NF4; expert weights with their adapter added, which autograd keeps."""
    size = 0.0
    if method.base_weights == "nf4":
        size = 2.0 * max((m.inputs * m.outputs for m in shape.matrices if m.linear), default=0)
    if method.adapts:
        stacks = [(m.params, m.layers) for m in shape.matrices if m.lora and not m.linear]
        size += method.compute_bytes * sum(p / (n if checkpointing else 1) for p, n in stacks)
    return size

"""Ways to run packed rows through a model, from the fastest to the one that always works.

- `tokpack`: the per-document attention of `trainer_plugin.attention`.
- `native`: the attention the model was loaded with (sdpa, eager, flash, flex); transformers builds the block
  mask from `position_ids`.
- `loop`: the model runs once per document. Nothing can pass between documents, whatever the layers are
  (state-space, linear attention, ALiBi); it costs the parallelism between documents.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MethodType
from typing import Any, Literal

import torch

from tokpack.errors import UsageError
from trainer_plugin.attention import NAME, document_lengths, use_tokpack_attention

Strategy = Literal["tokpack", "native", "loop"]
_DOCUMENT_KEYS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx", "position_ids")


def inner_model(model: Any) -> Any:
    """The transformers model inside PEFT's and accelerate's wrappers."""
    while True:
        if hasattr(model, "get_base_model"):
            model = model.get_base_model()
        elif hasattr(model, "module") and isinstance(model.module, torch.nn.Module):
            model = model.module
        else:
            return model


def attention_of(model: Any) -> str:
    """Name of the attention in use, as `attn_implementation` takes it."""
    return str(getattr(inner_model(model).config, "_attn_implementation", None) or "eager")


def fit_batch(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without the keys that this model's `forward` does not take, on the model's device."""
    inner = inner_model(model)
    parameters = inspect.signature(inner.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    device = next(inner.parameters()).device
    return {
        name: value.to(device) if isinstance(value, torch.Tensor) else value
        for name, value in batch.items()
        if takes_any or name in parameters or name not in _DOCUMENT_KEYS
    }


def apply_strategy(model: Any, strategy: str, native_attn: str) -> None:
    """Set the model up for a strategy; `native_attn` is the attention for `native` and `loop`."""
    inner = inner_model(model)
    stop_looping(inner)
    if strategy == NAME:
        use_tokpack_attention(inner)
        return
    if attention_of(inner) != native_attn:
        try:
            inner.set_attn_implementation(native_attn)
        except (ValueError, ImportError, KeyError) as error:
            raise UsageError(
                f"{type(inner).__name__} cannot use attention {native_attn!r}: {error}",
                where=f"attn={native_attn}",
                hint="use attn=auto, which probes what the model can do",
            ) from None
    if strategy == "loop":
        loop_documents(inner)


def loop_documents(model: Any) -> None:
    """Replace `model.forward` by one that runs document after document and joins the logits.

    The loss is the model's own loss function over the joined logits, so accumulation and label shift are as
    before. Batches without `cu_seq_lens_q` (generation, say) reach the old forward unchanged.
    """
    whole: Callable[..., Any] = model.forward
    parameters = inspect.signature(whole).parameters

    def forward(
        self: Any,
        input_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        cu_seq_lens_q: torch.Tensor | None = None,
        num_items_in_batch: Any = None,
        **kwargs: Any,
    ) -> Any:
        if cu_seq_lens_q is None or input_ids is None:
            extra = {} if num_items_in_batch is None else {"num_items_in_batch": num_items_in_batch}
            return whole(input_ids=input_ids, labels=labels, **extra, **kwargs)
        options = {name: value for name, value in kwargs.items() if name not in _DOCUMENT_KEYS}
        if "use_cache" in parameters:
            options["use_cache"] = False
        pieces = input_ids.split(document_lengths(cu_seq_lens_q), dim=1)
        logits = torch.cat([whole(input_ids=piece, **options).logits for piece in pieces], dim=1)
        return _output(self, logits, labels, num_items_in_batch)

    model._tokpack_whole_forward = whole
    model.forward = MethodType(forward, model)


def stop_looping(model: Any) -> None:
    """Undo `loop_documents`; nothing happens to a model that does not loop."""
    if "_tokpack_whole_forward" in vars(model):
        del model._tokpack_whole_forward
        del model.forward


def _output(model: Any, logits: torch.Tensor, labels: torch.Tensor | None, items: Any) -> Any:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    loss = None
    if labels is not None:
        extra = {} if items is None else {"num_items_in_batch": items}
        loss = model.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **extra)
    return CausalLMOutputWithPast(loss=loss, logits=logits)

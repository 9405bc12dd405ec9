"""Ways to run packed rows through a model, from the fastest to the one that always works.

- `tokpack`: the per-document attention of `trainer_plugin.models.attention`.
- `native`: the attention the model was loaded with. transformers builds the block mask from `position_ids`
  (sdpa, eager, flex), flash-attention reads `cu_seq_lens_q`, state-space kernels `seq_idx`.
- `mixers`: either of them, and the layers that leak run document by document (`mixers.py`): state
  spaces, linear attention, convolutions, sparse indices, ALiBi.
- `loop`: the model runs once per document. Nothing can pass between documents, whatever the layers are; it
  costs the parallelism between documents.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any, Literal, NamedTuple
from weakref import WeakKeyDictionary

import torch

from tokpack.errors import UsageError
from trainer_plugin.models.attention import NAME, document_lengths, use_tokpack_attention
from trainer_plugin.models.mixers import RowDocuments, join_mixers, split_leaking_mixers, split_mixers
from trainer_plugin.models.private_names import attention_in
from trainer_plugin.rows.collator import PackedCollator

Strategy = Literal["tokpack", "native", "mixers", "loop"]
SEARCH_LENGTHS = (21, 40, 18)
"""The row in which leaking layers are looked for; a prime sum, so that no width is taken for its length."""

_REPLACED = "_tokpack_replaced"
_PARAMETERS: WeakKeyDictionary[Callable[..., Any], tuple[frozenset[str], bool]] = WeakKeyDictionary()
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


def text_config(model: Any) -> Any:
    """The configuration of the language model, also inside a multimodal one."""
    config = inner_model(model).config
    return config.get_text_config(decoder=True) if hasattr(config, "get_text_config") else config


def attention_of(model: Any) -> str:
    """Name of the attention in the language model, as `attn_implementation` takes it."""
    return attention_in(text_config(model)) or "eager"


def strategy_of(model: Any) -> Strategy:
    """How the model is set up now."""
    inner = inner_model(model)
    if _REPLACED in vars(inner):
        return "loop" if vars(inner)[_REPLACED].run is _run_documents else "mixers"
    return "tokpack" if attention_of(inner) == NAME else "native"


def split_layers(model: Any) -> tuple[str, ...]:
    """Layers that run document by document, as `("MambaMixer x 2",)`."""
    return split_mixers(inner_model(model))


def fit_batch(model: Any, batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without the keys that this model's `forward` does not take, on the model's device."""
    inner = inner_model(model)
    device = next(inner.parameters()).device
    at_once = device.type == "cuda"  # the host need not wait until numbers have come there
    return {
        name: value.to(device, non_blocking=at_once) if isinstance(value, torch.Tensor) else value
        for name, value in _accepted(inner.forward, batch).items()
    }


def cache_option(model: Any, use_cache: bool) -> dict[str, bool]:
    """`use_cache` for models that know it."""
    inner = inner_model(model)
    forward = vars(inner)[_REPLACED].whole if _REPLACED in vars(inner) else inner.forward
    return {"use_cache": use_cache} if _accepts(forward, "use_cache") else {}


@contextmanager
def quiet_evaluation(model: Any) -> Iterator[None]:
    """No dropout, no gradients; the model's mode comes back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def apply_strategy(model: Any, strategy: str, native_attn: str) -> None:
    """Set the model up for a strategy; `native_attn` is the attention for all but `tokpack`. Caches go off.

    Raises UsageError when the model does not take the attention, or no layer can run document by document.
    """
    inner = inner_model(model)
    restore_forward(inner)
    for config in (inner.config, text_config(inner)):
        config.use_cache = False
    if NAME in (strategy, native_attn):
        use_tokpack_attention(inner)
        if attention_of(inner) != NAME:
            raise UsageError(f"{type(inner).__name__} keeps the attention that it has", where="attn=tokpack")
    elif attention_of(inner) != native_attn:
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
    elif strategy == "mixers":
        mix_by_document(inner)


def loop_documents(model: Any) -> None:
    """Replace `model.forward` by one that runs document after document and joins the logits.

    The loss is the model's own loss function over the joined logits, so accumulation is as before.
    """
    _replace_forward(model, _run_documents, RowDocuments())


def mix_by_document(model: Any) -> None:
    """Find the layers through which documents see each other, and run those document by document."""
    documents = RowDocuments()
    _replace_forward(model, _run_row, documents)
    first, total = SEARCH_LENGTHS[0], sum(SEARCH_LENGTHS)
    generator = torch.Generator().manual_seed(0)
    row, other = torch.randint(1, text_config(model).vocab_size, (2, total), generator=generator)
    other[first:] = row[first:]

    def look(changed: bool) -> None:
        ids = other if changed else row
        batch = PackedCollator()([{"input_ids": ids, "labels": ids, "seq_lengths": list(SEARCH_LENGTHS)}])
        del batch["labels"]
        model(**fit_batch(model, batch), **cache_option(model, False))

    with quiet_evaluation(model):
        split_leaking_mixers(model, documents, look, total, first)


def restore_forward(model: Any) -> None:
    """Undo `loop_documents` and `mix_by_document`; nothing happens to a model that has neither."""
    join_mixers(model)
    if _REPLACED in vars(model):
        delattr(model, _REPLACED)
        del model.forward


class Replaced(NamedTuple):
    """The forward that was there, how it is run on packed rows, and the documents of the row."""

    whole: Callable[..., Any]
    run: Callable[..., Any]
    documents: RowDocuments


def _replace_forward(model: Any, run: Callable[..., Any], documents: RowDocuments) -> None:
    setattr(model, _REPLACED, Replaced(model.forward, run, documents))
    model.forward = MethodType(_packed_forward, model)


def _packed_forward(model: Any, input_ids: torch.Tensor | None = None, **batch: Any) -> Any:
    """Batches without documents (generation, say) reach the old forward unchanged."""
    whole, run, documents = vars(model)[_REPLACED]
    if input_ids is None or batch.get("cu_seq_lens_q") is None:
        _refuse_unbounded_documents(model, batch)
        return whole(input_ids=input_ids, **batch)
    if _accepts(whole, "use_cache"):
        batch["use_cache"] = False
    return run(model, whole, documents, {"input_ids": input_ids, **batch})


def _refuse_unbounded_documents(model: Any, batch: Mapping[str, Any]) -> None:
    """Positions that restart are documents too; left padding restarts as well, but with a mask."""
    positions, mask = batch.get("position_ids"), batch.get("attention_mask")
    restart = isinstance(positions, torch.Tensor) and mask is None and bool((positions.diff() < 0).any())
    if restart or batch.get("seq_idx") is not None:
        raise UsageError(
            "packed documents without cu_seq_lens_q: this model needs their bounds",
            where=type(model).__name__,
            hint="make batches with trainer_plugin.PackedCollator",
        )


def _run_documents(
    model: Any, whole: Callable[..., Any], _documents: RowDocuments, batch: dict[str, Any]
) -> Any:
    labels, items = batch.pop("labels", None), batch.pop("num_items_in_batch", None)
    pieces = batch.pop("input_ids").split(document_lengths(batch["cu_seq_lens_q"]), dim=1)
    options = {name: value for name, value in batch.items() if name not in _DOCUMENT_KEYS}
    logits = torch.cat([whole(input_ids=piece, **options).logits for piece in pieces], dim=1)
    return _output(model, logits, labels, items)


def _run_row(model: Any, whole: Callable[..., Any], documents: RowDocuments, batch: dict[str, Any]) -> Any:
    """With gradient checkpointing, layers run again in the backward pass, perhaps after the forward pass of
    another row: so the backward pass of each row first puts its own bounds back."""
    bounds = batch["cu_seq_lens_q"]
    with documents.opened(bounds):
        outputs = _call_with_loss(model, whole, _accepted(whole, batch))
    for result in (outputs.logits, outputs.loss):
        if result is not None and result.requires_grad:
            result.register_hook(lambda _gradient: documents.open_for_backward(bounds))
    return outputs


def _accepts(forward: Callable[..., Any], name: str, *, by_name: bool = True) -> bool:
    names, takes_any = _parameters(getattr(forward, "__func__", forward))
    return name in names or (takes_any and not by_name)


def _parameters(function: Callable[..., Any]) -> tuple[frozenset[str], bool]:
    """(names, takes any other): asked once of a function, and of it several times a batch."""
    if function not in _PARAMETERS:
        found = inspect.signature(function).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in found.values())
        _PARAMETERS[function] = frozenset(found), takes_any
    return _PARAMETERS[function]


def _accepted(forward: Callable[..., Any], batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without the document keys that `forward` does not take."""
    return {
        name: value
        for name, value in batch.items()
        if name not in _DOCUMENT_KEYS or _accepts(forward, name, by_name=False)
    }


def _call_with_loss(model: Any, whole: Callable[..., Any], batch: dict[str, Any]) -> Any:
    """The model's own output and loss; the loss is put in where forward cannot divide by a given count."""
    if batch.get("num_items_in_batch") is None:
        batch.pop("num_items_in_batch", None)
        return whole(**batch)
    if _accepts(whole, "num_items_in_batch", by_name=False):
        return whole(**batch)
    labels, items = batch.pop("labels", None), batch.pop("num_items_in_batch")
    return _output(model, whole(**batch).logits, labels, items)


def _output(model: Any, logits: torch.Tensor, labels: torch.Tensor | None, items: Any) -> Any:
    from transformers.modeling_outputs import CausalLMOutputWithPast

    loss = None
    if labels is not None:
        extra = {} if items is None else {"num_items_in_batch": items}
        loss = model.loss_function(logits=logits, labels=labels, vocab_size=logits.shape[-1], **extra)
    return CausalLMOutputWithPast(loss=loss, logits=logits)


def reshard(model: Any) -> None:
    """Give back the weights that FSDP2 keeps whole after a forward pass without a backward one.

    An optimizer made of whole weights would train copies that nobody reads.
    """
    for module in _sharded_modules(model):
        module.reshard()


def is_sharded(model: Any) -> bool:
    """Whether FSDP2 spreads the weights."""
    return next(_sharded_modules(model), None) is not None


def _sharded_modules(model: Any) -> Iterator[Any]:
    from torch.distributed.fsdp import FSDPModule

    return (module for module in model.modules() if isinstance(module, FSDPModule))

"""Layers that carry something along the row (a state, a convolution, an index), run document by document.

A Mamba layer knows nothing of documents: its state passes from one to the next. Which modules do that is
not looked up in a table but seen: change the first document, and follow the others through the model. The
smallest modules that get the same states and give other ones are the leak. They, and all of their class, are
called once per document from then on; projections, MLPs, experts and the head still run on the whole row.

    row     [a0 a1 a2 b0 b1]                    hidden states [1, T, C]
    mixer   [a0 a1 a2] and [b0 b1]              what comes with them (masks, rotary tables) cut likewise
    row     [a0 a1 a2 b0 b1]                    joined again

Found on a short random row, so nothing is claimed: the isolation probe has to pass as for any other way.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MethodType
from typing import Any, NamedTuple

import torch

from tokpack.errors import UsageError
from tokpack.terminal.activity import counted
from trainer_plugin.models.attention import ONE_DOCUMENT, document_lengths

LEAK = 1e-3
"""Relative change of a module's output that counts as a leak, when its input changed by less than a tenth."""

ROUNDS = 4
"""Searches in a row: a module behind a leak is only seen once the leak is closed."""

_BOUNDS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "seq_idx")
_SPLIT = "_tokpack_split"


class RowDocuments:
    """The documents of the row that is in the model now; all mixers of a model share one."""

    def __init__(self) -> None:
        self.bounds: torch.Tensor | None = None

    @contextmanager
    def opened(self, bounds: torch.Tensor) -> Iterator[None]:
        self.bounds = bounds
        try:
            yield
        finally:
            self.bounds = None

    def open_for_backward(self, bounds: torch.Tensor) -> None:
        """Call within a backward pass; its end closes them."""
        self.bounds = bounds
        torch.autograd.Variable._execution_engine.queue_callback(lambda: setattr(self, "bounds", None))

    @contextmanager
    def closed(self) -> Iterator[None]:
        """Inside one document nothing is left to split."""
        bounds, self.bounds = self.bounds, None
        token = ONE_DOCUMENT.set(True)
        try:
            yield
        finally:
            ONE_DOCUMENT.reset(token)
            self.bounds = bounds


def split_leaking_mixers(
    model: Any, documents: RowDocuments, run: Callable[[bool], Any], total: int, start: int
) -> None:
    """Find the modules that leak and make them run document by document.

    `run(changed)` runs the model on a packed row of `total` tokens, with the first document changed or not;
    the documents that must not notice begin at `start`. Raises UsageError when no such module is found.
    """
    for _ in range(ROUNDS):
        kinds = {type(model.get_submodule(name)) for name in _leaking(model, run, total, start)}
        if not kinds:
            break
        for module in model.modules():
            if type(module) in kinds and _SPLIT not in vars(module):
                _split(module, documents)
    for module in model.modules():
        if _SPLIT in vars(module):
            for inner in list(module.modules())[1:]:
                _join_module(inner)
    if not split_mixers(model):
        raise UsageError("no layer was found that could run document by document", where=type(model).__name__)


def join_mixers(model: Any) -> None:
    """Undo the splitting."""
    for module in model.modules():
        _join_module(module)


def _join_module(module: Any) -> None:
    if _SPLIT in vars(module):
        delattr(module, _SPLIT)
        del module.forward


def split_mixers(model: Any) -> tuple[str, ...]:
    """Which modules are split, as `("MambaMixer x 2",)`."""
    kinds = Counter(type(module).__name__ for module in model.modules() if _SPLIT in vars(module))
    return tuple(f"{kind} x {count}" for kind, count in kinds.items())


def _leaking(model: Any, run: Callable[[bool], Any], total: int, start: int) -> list[str]:
    """Names of the smallest modules that turn equal states of the later documents into other ones.

    A module that raises on a packed row, for want of a kernel that takes it, is as good as one that leaks.
    """
    before, after = (_Follower(total, start) for _ in range(2))
    for follower, changed in ((before, False), (after, True)):
        try:
            with follower.watch(model):
                run(changed)
        except Exception as error:  # whatever a model's own code raises
            inside = [name for name in follower.inside if _SPLIT not in vars(model.get_submodule(name))]
            if not inside:
                raise UsageError(f"{type(error).__name__}: {error}", where=type(model).__name__) from error
            return [inside[-1]]
    names = [
        name
        for name, calls in before.calls.items()
        if _SPLIT not in vars(model.get_submodule(name)) and _leaks(calls, after.calls.get(name, []))
    ]
    return [name for name in names if not any(other.startswith(f"{name}.") for other in names)]


class _Follower:
    """What every module got and gave at the tokens from `start` on, each state shortened to one number."""

    def __init__(self, total: int, start: int) -> None:
        self.total, self.start = total, start
        self.inside: list[str] = []
        self.calls: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}

    @contextmanager
    def watch(self, model: Any) -> Iterator[None]:
        handles = []
        for name, module in model.named_modules():
            if name:
                handles.append(module.register_forward_pre_hook(self._enter(name), with_kwargs=True))
                handles.append(module.register_forward_hook(self._leave(name), with_kwargs=True))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(self, name: str) -> Any:
        def enter(_module: Any, args: Any, kwargs: Any) -> None:
            if _row_states([*args, *kwargs.values()], self.total):
                self.inside.append(name)

        return enter

    def _leave(self, name: str) -> Any:
        def leave(_module: Any, args: Any, kwargs: Any, output: Any) -> None:
            got = _row_states([*args, *kwargs.values()], self.total)
            if not got:
                return
            self.inside.remove(name)
            pair = [
                torch.stack([_fingerprint(state[0, self.start :]) for state in states])
                for states in (got, _row_states([output], self.total))
                if states
            ]
            if len(pair) == 2:
                self.calls.setdefault(name, []).append((pair[0], pair[1]))

        return leave


def _leaks(before: list[Any], after: list[Any]) -> bool:
    return any(
        _change(gave, gave_then) > LEAK and _change(got, got_then) < LEAK / 10
        for (got, gave), (got_then, gave_then) in zip(before, after, strict=False)
    )


def _row_states(values: Any, total: int) -> list[torch.Tensor]:
    """All floating-point states per token, `[1, T, ...]`, in nested `values`."""
    if isinstance(values, torch.Tensor):
        is_row = values.is_floating_point() and values.ndim >= 3 and values.shape[:2] == (1, total)
        return [values] if is_row else []
    if isinstance(values, Mapping):
        values = list(values.values())
    if isinstance(values, tuple | list):
        return [state for value in values for state in _row_states(value, total)]
    return []


def _fingerprint(states: torch.Tensor) -> torch.Tensor:
    """`[tokens, ...]` -> `[tokens]`: the same random projection of each token's state."""
    flat = states.detach().float().flatten(1)
    generator = torch.Generator().manual_seed(flat.shape[1])
    return flat @ torch.randn(flat.shape[1], generator=generator).to(flat.device)


def _change(before: torch.Tensor, after: torch.Tensor) -> float:
    """Of `[states, tokens]`, the largest, relative to the largest of its state."""
    scale = before.abs().amax(dim=1).clamp(min=1e-30)
    return float(((before - after).abs().amax(dim=1) / scale).max())


class Split(NamedTuple):
    """What a module that runs document by document keeps. Not in a closure, so that models can be copied."""

    whole: Callable[..., Any]
    documents: RowDocuments


def _split(module: Any, documents: RowDocuments) -> None:
    setattr(module, _SPLIT, Split(module.forward, documents))
    module.forward = MethodType(_forward_by_document, module)


def _forward_by_document(module: Any, *args: Any, **kwargs: Any) -> Any:
    whole, documents = vars(module)[_SPLIT]
    if documents.bounds is None:
        return whole(*args, **kwargs)
    lengths = document_lengths(documents.bounds)
    total = sum(lengths)
    if not _row_states([*args, *kwargs.values()], total):
        raise UsageError(
            f"the documents hold {counted(total, 'token')}, the states of this layer another number",
            where=type(module).__name__,
            hint="virtual tokens (prompt tuning) and caches do not go with packed rows",
        )
    with documents.closed():
        parts = [
            whole(*_cut(args, end - length, end, total), **_cut(kwargs, end - length, end, total))
            for end, length in zip(itertools.accumulate(lengths), lengths, strict=True)
        ]
    return _join(parts, lengths)


def _cut(value: Any, start: int, end: int, total: int) -> Any:
    """The part of one document, in everything a module is called with."""
    if isinstance(value, torch.Tensor):
        if value.ndim >= 2 and value.shape[1] == total:
            return value[:, start:end]
        if value.ndim == 4 and value.shape[2] == total:
            value = value[:, :, start:end]
            return value[..., start:end] if value.shape[3] == total else value
        return value
    if isinstance(value, Mapping):
        return {key: None if key in _BOUNDS else _cut(item, start, end, total) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return type(value)(_cut(item, start, end, total) for item in value)
    if hasattr(value, "get_seq_length"):
        raise UsageError("a cache would carry one document into the next", where="use_cache=True")
    return value


def _join(parts: list[Any], lengths: list[int]) -> Any:
    """Parts of the same kind -> the row. Attention weights and states for a cache have no row form: None."""
    first = parts[0]
    if isinstance(first, tuple | list):
        return type(first)(_join(list(items), lengths) for items in zip(*parts, strict=True))
    if isinstance(first, torch.Tensor):
        if all(part.ndim >= 2 and part.shape[1] == n for part, n in zip(parts, lengths, strict=True)):
            return torch.cat(parts, dim=1)
        if first.ndim >= 3:
            return None
        raise UsageError(
            f"a mixer gives a tensor of shape {list(first.shape)}, which is no row", where="mixers"
        )
    if first is None:
        return None
    raise UsageError(f"a mixer gives a {type(first).__name__}, which cannot be joined", where="mixers")

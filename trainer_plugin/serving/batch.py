"""Rows that run in one forward pass: their keys and values are a rectangle, padded on the left.

    new row joins          row ends
    . . . a a a     . . . a a a
    . b b b b b  ─▶ . b b b b b  ─▶  . . a a a       columns that hold padding alone are cut
    c c          ─▶ . . . . c c      . . . c c

A row that joins is read by itself (prefilled) and put beside the others, so nobody waits for the end of a
batch. Each row knows its own positions and sees its own tokens alone, whatever stands in the other rows.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from tokpack.errors import UsageError
from trainer_plugin.adapters.loaded import AdaptedModel
from trainer_plugin.serving.sampling import choose, generator_of, score
from trainer_plugin.serving.text import TextStream
from trainer_plugin.serving.values import MIXED, Job, Score

CHUNK = 512
"""Tokens of each row that a prefill reads at once."""
LOGITS = 1 << 26
"""Most logits that are held at once for scores of prompts."""
BASE = "__base__"
"""PEFT's word for a row without an adapter."""
CLOSE = {torch.bfloat16: 5e-2}
"""Largest difference of logits, relative to the largest logit, that padding may make; 2e-2 where no other is
named. Two kernels of attention in bf16 are 2e-2 apart at the last token of a text, wrong positions 9e-2."""


class Row:
    """One sequence in work."""

    def __init__(self, job: Job, tokenizer: Any) -> None:
        self.job = job
        self.text = TextStream(tokenizer, job.stop, job.prompt if job.after_prompt else ())
        self.generator = generator_of(job)
        self.last = job.prompt[-1]
        self.generated = 0
        self.prompt_scores: tuple[Score, ...] = ()


class Lane:
    """The rows of one forward pass. key: `MIXED`, or the adapter that cannot share one."""

    def __init__(self, loaded: AdaptedModel, key: str = MIXED, chunk: int = CHUNK) -> None:
        self.loaded, self.key, self.chunk = loaded, key, chunk
        self.rows: list[Row] = []
        self._cache: Any = None
        self._mask = torch.zeros(0, 0, dtype=torch.long)

    @torch.inference_mode()
    def join(self, rows: Sequence[Row]) -> list[Score]:
        """Read the prompts of new rows and put them beside the others; their first tokens."""
        logits, cache, mask = self._prefill(rows)
        self._put_beside(rows, cache, mask)
        return self._next(rows, logits)

    @torch.inference_mode()
    def step(self) -> list[Score]:
        """The next token of each row."""
        device = self._mask.device
        ids = torch.tensor([[row.last] for row in self.rows], device=device)
        ones = torch.ones(len(self.rows), 1, dtype=torch.long, device=device)
        self._mask = torch.cat([self._mask, ones], 1)
        logits = self._forward(self.rows, ids, self._mask, self._cache, last=True)[:, -1]
        return self._next(self.rows, logits)

    @torch.inference_mode()
    def keep(self, rows: Sequence[Row]) -> None:
        """Drop all rows but these, and the columns that nobody needs any more."""
        if len(rows) == len(self.rows):
            return
        if not rows:
            self.clear()
            return
        places = torch.tensor([self.rows.index(row) for row in rows], device=self._mask.device)
        self._mask = self._mask[places]
        first = int(self._mask.any(0).int().argmax())
        self._mask = self._mask[:, first:]
        for layer in self._cache.layers:
            if layer.keys is not None and layer.keys.numel():
                layer.keys = layer.keys[places, :, first:].contiguous()
                layer.values = layer.values[places, :, first:].contiguous()
        self.rows = list(rows)

    def clear(self) -> None:
        self.rows, self._cache = [], None
        self._mask = self._mask[:0, :0]

    def _next(self, rows: Sequence[Row], logits: torch.Tensor) -> list[Score]:
        scores = choose(logits, [row.job for row in rows], [row.generator for row in rows])
        for row, chosen in zip(rows, scores, strict=True):
            row.last = chosen.token
            row.generated += 1
        return scores

    def _prefill(self, rows: Sequence[Row]) -> tuple[torch.Tensor, Any, torch.Tensor]:
        """Logits [rows, vocabulary] after the prompts, their keys and values, and the mask of padding."""
        from transformers import DynamicCache

        device = self.loaded.network.device
        prompts = [row.job.prompt for row in rows]
        width = max(map(len, prompts))
        ids = torch.tensor([[p[0]] * (width - len(p)) + list(p) for p in prompts], device=device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
        scored = any(row.job.score_prompt for row in rows)
        cache, chunk = DynamicCache(), self._chunk(len(rows)) if scored else self.chunk
        found: list[list[Score]] = [[] for _ in rows]
        for start in range(0, width, chunk):
            end = min(start + chunk, width)
            logits = self._forward(rows, ids[:, start:end], mask[:, :end], cache, last=not scored)
            if scored:
                _score_chunk(rows, ids, logits, start, found)
        for row, scores in zip(rows, found, strict=True):
            if row.job.score_prompt:
                row.prompt_scores = (Score(row.job.prompt[0], None), *scores)
        return logits[:, -1], cache, mask

    def _chunk(self, rows: int) -> int:
        vocabulary = int(self.loaded.network.get_output_embeddings().weight.shape[0])
        return max(1, min(self.chunk, LOGITS // (vocabulary * rows)))

    def _forward(
        self, rows: Sequence[Row], ids: torch.Tensor, mask: torch.Tensor, cache: Any, *, last: bool
    ) -> torch.Tensor:
        """Logits [rows, places, vocabulary] of the last tokens; of the last place alone where `last`."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        options: dict[str, Any] = {"past_key_values": cache, "use_cache": True}
        with self._adapters(rows) as (network, base):
            if last and "logits_to_keep" in inspect.signature(base.forward).parameters:
                options["logits_to_keep"] = 1
            if network is not base and self.key == MIXED:
                find = self.loaded.find
                names = [row.job.adapter for row in rows]
                options["adapter_names"] = [BASE if name is None else find(name).key for name in names]
            made = network(input_ids=ids, attention_mask=mask, position_ids=positions, **options)
            return made.logits  # type: ignore[no-any-return]

    @contextmanager
    def _adapters(self, rows: Sequence[Row]) -> Iterator[tuple[Any, Any]]:
        """The network as this lane runs it, and the base model inside it."""
        network = self.loaded.network
        base = network.get_base_model() if self.loaded.adapters else network
        if self.key == MIXED:
            with _whole_layers_aside(network):
                yield network, base
        else:
            with self.loaded.using(self.key) as used:
                yield used, base

    def _put_beside(self, rows: Sequence[Row], cache: Any, mask: torch.Tensor) -> None:
        if not self.rows:
            self.rows, self._cache, self._mask = list(rows), cache, mask
            return
        width = max(mask.shape[1], self._mask.shape[1])
        self._mask = torch.cat([_widened(self._mask, width, 1), _widened(mask, width, 1)])
        for layer, new in zip(self._cache.layers, cache.layers, strict=True):
            if layer.keys is not None and layer.keys.numel():
                layer.keys = torch.cat([_widened(layer.keys, width, 2), _widened(new.keys, width, 2)])
                layer.values = torch.cat([_widened(layer.values, width, 2), _widened(new.values, width, 2)])
        self.rows += rows


@contextmanager
def _whole_layers_aside(network: Any) -> Iterator[None]:
    """Layers and tokens that other adapters trained whole: PEFT would look there for the adapter of each row.

    Hooks that a failed forward pass leaves are taken away: they would hand its adapters to the next one.
    """
    from peft.utils.other import AuxiliaryTrainingWrapper

    whole = [module for module in network.modules() if isinstance(module, AuxiliaryTrainingWrapper)]
    for module in whole:
        module.enable_adapters(False)
    try:
        yield
    except Exception:
        for module in network.modules():
            hooks = module._forward_pre_hooks
            for key in [key for key, hook in hooks.items() if _hands_adapters(hook)]:
                del hooks[key]
                module._forward_pre_hooks_with_kwargs.pop(key, None)
        raise
    finally:
        for module in whole:
            module.enable_adapters(True)


def _hands_adapters(hook: Any) -> bool:
    """Whether it is PEFT's for one mixed batch: a partial function with the adapter of each row."""
    return "adapter_names" in (getattr(hook, "keywords", None) or {})


def _widened(tensor: torch.Tensor, width: int, axis: int) -> torch.Tensor:
    """Zeros before the first column, up to `width` columns."""
    missing = width - tensor.shape[axis]
    if not missing:
        return tensor
    shape = list(tensor.shape)
    shape[axis] = missing
    return torch.cat([tensor.new_zeros(shape), tensor], axis)


def _score_chunk(
    rows: Sequence[Row], ids: torch.Tensor, logits: torch.Tensor, start: int, found: list[list[Score]]
) -> None:
    """Add scores of the tokens that follow the places of this chunk, of the rows that want them."""
    width = ids.shape[1]
    for number, row in enumerate(rows):
        first = max(start, width - len(row.job.prompt))  # before it there is padding
        last = min(start + logits.shape[1], width - 1)  # the token after the last place is not known yet
        if row.job.score_prompt and first < last:
            tokens = ids[number, first + 1 : last + 1].tolist()
            found[number] += score(
                logits[number, first - start : last - start], tokens, row.job.likeliest or 0
            )


def prove_batches(loaded: AdaptedModel) -> None:
    """Raise UsageError for a model whose rows are not the same in a batch as alone.

    Models that keep a state instead of keys and values, or count positions their own way, would answer
    wrongly without an error.
    """
    prompts = [
        tuple(5 + (7 * n + number) % 90 for n in range(size)) for number, size in enumerate((11, 3, 6))
    ]
    jobs = [Job(prompt=prompt, max_tokens=3, temperature=0) for prompt in prompts]
    try:
        worst = max(_difference(loaded, jobs, number) for number in range(len(jobs)))
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        what = " ".join(f"{type(error).__name__}: {error}".split())[:200]
    else:
        if worst < CLOSE.get(loaded.dtype.dtype, 2e-2):
            return
        what = f"logits differ by {worst:.1e} of the largest"
    raise UsageError(
        f"this model does not answer the same in a batch as alone ({what})",
        where=loaded.name,
        hint="models with recurrent layers or positions of their own need another server, such as vLLM",
    )


def _difference(loaded: AdaptedModel, jobs: Sequence[Job], number: int) -> float:
    """Largest difference of the logits of one row, alone and among others that join one by one."""
    alone, among = Lane(loaded), Lane(loaded, chunk=4)
    first = Row(jobs[number], loaded.tokenizer)
    others = [Row(job, loaded.tokenizer) for at, job in enumerate(jobs) if at != number]
    same = Row(jobs[number], loaded.tokenizer)
    with torch.inference_mode():
        alone.join([first])
        among.join(others[:1])
        among.step()
        among.join([same, *others[1:]])
        same.last = first.last  # compared after the same tokens
        one, other = (_logits_of(lane, row) for lane, row in ((alone, first), (among, same)))
    difference = float((one - other).abs().max() / one.abs().max())
    return float("inf") if math.isnan(difference) else difference


def _logits_of(lane: Lane, wanted: Row) -> torch.Tensor:
    """Of the next place of one row of the lane."""
    device = lane._mask.device
    ids = torch.tensor([[row.last] for row in lane.rows], device=device)
    ones = torch.ones(len(lane.rows), 1, dtype=torch.long, device=device)
    mask = torch.cat([lane._mask, ones], 1)
    logits = lane._forward(lane.rows, ids, mask, lane._cache, last=True)
    return logits[lane.rows.index(wanted), -1].float()

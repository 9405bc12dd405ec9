"""What only a GPU can show, in one run of eight minutes: one JSON file and one page.

    python benchmarks/gpu.py --out gpu                           on a GPU
    python benchmarks/gpu.py --out gpu --device cpu --tiny       everything but the figures, in a minute

Needs torch, transformers and numpy; tokpack and trainer_plugin come from the checkout that this file is in.
What else is used where it is there (peft, accelerate, bitsandbytes, flash_attn) can come as wheels in a
folder, `--wheels DIR`: they are unpacked, not installed. Each part has a share of `--seconds`; an error or a
part that runs out of time is written down, and the rest goes on. Exit code 1: a check failed or part raised.
"""

from __future__ import annotations

import argparse
import gc
import html
import importlib
import importlib.util
import json
import math
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

OPTIONAL = ("peft", "accelerate", "bitsandbytes", "flash_attn", "mamba_ssm", "pyarrow", "datasets", "trl")
CAPACITY, RANKS = 8192, 8
ONE_B = {"vocab_size": 128256, "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16}
ONE_B |= {"num_attention_heads": 32, "num_key_value_heads": 8, "tie_word_embeddings": True}
TINY = {"vocab_size": 512, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
TINY |= {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen3": {"head_dim": 64},
    "gemma3_text": {"head_dim": 64, "sliding_window": 64},
    "mamba": {},
}


class OutOfTime(BaseException):
    """A part has had its share. No Exception: what catches those must not catch this."""


@dataclass
class Bench:
    """Where and how large; `rows` are the table of the part that runs, `checks` what must hold."""

    device: str
    tiny: bool
    rows: list[dict[str, Any]] = field(default_factory=list)
    checks: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    @property
    def dtype(self) -> Any:
        """bf16, but fp32 on CPUs: few have units for less."""
        import torch

        return torch.bfloat16 if self.cuda else torch.float32

    @property
    def capacity(self) -> int:
        return 256 if self.tiny else CAPACITY

    def check(self, what: str, holds: Any, found: Any = None) -> None:
        """Something that must hold on any device."""
        self.checks.append({"what": what, "ok": bool(holds), "found": plain(found)})

    def row(self, work: Callable[[], dict[str, Any]], **names: Any) -> dict[str, Any] | None:
        """A row of the part's table, with the error where `work` raises one; returns what it gave."""
        row: dict[str, Any] = dict(names)
        self.rows.append(row)
        started = time.perf_counter()
        try:
            found = work()
        except Exception as error:  # the next row may do
            row["error"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return None
        finally:
            row["took_s"] = round(time.perf_counter() - started, 2)
            self.free()
        row |= {name: plain(value) for name, value in found.items()}
        return found

    def free(self) -> None:
        """The card's memory; what a CPU holds is tiny, and looking for it takes longer than a row."""
        import torch

        if self.cuda:
            gc.collect()
            torch.cuda.empty_cache()

    def wait(self) -> None:
        import torch

        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, work: Callable[[], Any], least: int = 3, most: float = 2.0) -> float:
        """Median time of one call, after one that warms up; goes on for `most` seconds."""
        work()
        self.wait()
        taken: list[float] = []
        while len(taken) < (1 if self.tiny else least) or (sum(taken) < most and not self.tiny):
            started = time.perf_counter()
            work()
            self.wait()
            taken.append(time.perf_counter() - started)
        return statistics.median(taken)


# Models, rows and steps


def make_model(bench: Bench, family: str = "llama", attention: str = "sdpa", **sizes: Any) -> Any:
    """A random model on the device; of the 1B shape, or tiny, where no sizes are given."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    values = sizes or (TINY if bench.tiny else ONE_B)
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **values, **special, max_position_embeddings=1 << 16)
    chosen = {} if family == "mamba" else {"attn_implementation": attention}
    with torch.device(bench.device):
        return AutoModelForCausalLM.from_config(config, dtype=bench.dtype, **chosen)


def document_lengths(total: int, seed: int = 0, median: float = 400.0) -> list[int]:
    """Log-normal, as chats are, adding up to `total`."""
    import numpy as np

    rng, lengths = np.random.default_rng(seed), []
    while sum(lengths) < total:
        lengths.append(int(np.clip(rng.lognormal(math.log(median), 0.9), 8, total)))
    lengths[-1] -= sum(lengths) - total
    return [length for length in lengths if length > 0]


def make_row(lengths: list[int], vocabulary: int, seed: int = 0) -> dict[str, Any]:
    """A packed row of random tokens; the first third of each document is not trained."""
    import numpy as np

    ids = np.random.default_rng(seed).integers(3, vocabulary, sum(lengths))
    labels = ids.copy()
    for start, length in zip(np.cumsum([0, *lengths]), lengths, strict=False):
        labels[start : start + max(1, length // 3)] = -100
    return {"input_ids": ids, "labels": labels, "seq_lengths": lengths}


def packed_batch(bench: Bench, row: dict[str, Any], capacity: int | None = None) -> dict[str, Any]:
    import torch

    from trainer_plugin.rows.collator import PackedCollator

    batch = PackedCollator(capacity)([row])
    return {k: v.to(bench.device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}


def padded_batch(bench: Bench, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Documents one a row, padded to the longest, with the mask that says so."""
    import torch

    width = max(len(row["input_ids"]) for row in rows)
    batch = {
        name: torch.full((len(rows), width), fill, device=bench.device)
        for name, fill in (("input_ids", 0), ("labels", -100), ("attention_mask", 0))
    }
    for number, row in enumerate(rows):
        length = len(row["input_ids"])
        batch["attention_mask"][number, :length] = 1
        for name in ("input_ids", "labels"):
            batch[name][number, :length] = torch.as_tensor(row[name], device=bench.device)
    return batch


def loss_of(model: Any, batch: dict[str, Any], chunked: Any = None) -> Any:
    """The loss that `PackedTrainer` takes with `chunked`, a ChunkedLoss; transformers' own without."""
    if chunked is None or not chunked.fits(batch["input_ids"].shape[1]):
        return model(**batch, use_cache=False).loss
    rest = {name: value for name, value in batch.items() if name != "labels"}
    losses = chunked(model, rest, batch["labels"])
    if losses is None:
        raise RuntimeError(f"the loss cannot be cut: {chunked.reason}")
    return losses.sum() / (batch["labels"] != -100).sum()


def step_of(model: Any, optimizer: Any, chunked: Any = None) -> Callable[[dict[str, Any]], Any]:
    def step(batch: dict[str, Any]) -> Any:
        loss = loss_of(model, batch, chunked)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def adamw(model: Any) -> Any:
    import torch

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.optim.AdamW(trained, lr=1e-5, fused=True)


def set_up(model: Any, attention: str = "tokpack") -> Any:
    from trainer_plugin.isolation.verify import prepare_model

    return prepare_model(model, attention, probe=False)


def shape_of(model: Any) -> Any:
    from tokpack.cost import ModelShape
    from trainer_plugin.models.strategies import inner_model

    return ModelShape.from_config(inner_model(model).config.to_dict())


def peak_flops() -> float | None:
    """Dense bf16 peak of this card from tokpack's table; None for one that is not in it."""
    import torch

    from tokpack.cost import load_gpus

    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name().replace(" ", "-").upper()
    fitting = [gpu for key, gpu in load_gpus().items() if key.split("-")[0] in name.split("-")]
    exact = [gpu for gpu in fitting if gpu.key.split("-")[-1].upper() in name] or fitting
    return exact[0].flops if exact else None


def speed(shape: Any, lengths: list[int], seconds: float, **how: Any) -> dict[str, Any]:
    """Real tokens per second and MFU: the work of the documents themselves over the card's peak."""
    from tokpack.cost import flops

    work, peak = flops(shape, lengths, **how).total, peak_flops()
    return {
        "tokens": sum(lengths),
        "seconds": seconds,
        "tokens_per_s": sum(lengths) / seconds,
        "tflops": work / seconds / 1e12,
        "mfu": work / seconds / peak if peak else None,
    }


def full() -> Any:
    from tokpack.cost import Method

    return Method(kind="full")


# Parts


def isolation(bench: Bench) -> None:
    """The probe for every family and attention: does a document in a packed row see its neighbors?"""
    from trainer_plugin.isolation.probe import probe_isolation
    from trainer_plugin.isolation.verify import prepare_model

    small = {**TINY, "hidden_size": 256, "num_hidden_layers": 4} if bench.cuda else TINY
    ways = ["tokpack", "sdpa", "eager", "auto"]
    ways += ["flash_attention_2"] if there("flash_attn") else []
    ways += ["flex_attention"] if bench.cuda else []  # refused on CPUs: no backward pass; compiled: last

    def look(family: str, way: str) -> dict[str, Any]:
        model = make_model(bench, family, **small, **FAMILIES[family])
        if way == "auto":
            report = prepare_model(model)
        else:
            prepare_model(model, way, probe=False)
            report = probe_isolation(model)
        worst = max(report.checks, key=lambda check: check.difference / (check.limit or 1e-30))
        return {
            "ok": report.ok,
            "strategy": report.strategy,
            "attention": report.attn,
            "worst": worst.difference,
            "limit": worst.limit,
            "problem": report.problem,
        }

    for way in ways:
        for family in FAMILIES:
            if family == "mamba" and way != "auto":
                continue
            found = bench.row(partial(look, family, way), family=family, way=way)
            if way in ("tokpack", "auto"):
                bench.check(f"{family}, {way}: documents are isolated", found and found["ok"], found)


def exact(bench: Bench) -> None:
    """Packed against alone (bf16 on a GPU), to the bit: the attention by itself, the model, its gradients."""
    import torch

    lengths = [37, 5, 91, 64, 1, 58] if bench.tiny else [371, 53, 914, 640, 17, 1053]

    def attention() -> dict[str, Any]:
        from trainer_plugin.models.attention import packed_attention

        layer = torch.nn.Module()
        states = [torch.randn(1, heads, sum(lengths), 64, device=bench.device) for heads in (8, 2, 2)]
        states = [state.to(bench.dtype) for state in states]

        def attend(parts: list[Any], sizes: list[int]) -> Any:
            return packed_attention(layer, *parts, None, **bounds_of(bench, sizes))[0]

        pieces = zip(*(state.split(lengths, dim=2) for state in states), strict=True)
        alone = torch.cat([attend(list(p), [n]) for p, n in zip(pieces, lengths, strict=True)], dim=1)
        return differences(attend(states, lengths), alone)

    def model(family: str) -> dict[str, Any]:
        network = make_model(bench, family, **TINY, **FAMILIES[family])
        set_up(network)
        row = make_row(lengths, 512)
        parts = [make_row([n], 512) for n in lengths]
        start = 0
        for part, n in zip(parts, lengths, strict=True):
            part |= {name: row[name][start : start + n] for name in ("input_ids", "labels")}
            start += n
        whole = packed_batch(bench, row)
        with torch.no_grad():
            packed = network(**whole, use_cache=False).logits[0]
            batches = [packed_batch(bench, part) for part in parts]
            alone = torch.cat([network(**batch, use_cache=False).logits[0] for batch in batches])
        items = (whole["labels"] != -100).sum()
        gradients = [
            gradient(network, [whole], items),
            gradient(network, batches, items),
        ]
        moved = float((gradients[0] - gradients[1]).norm() / gradients[1].norm())
        return differences(packed, alone) | {"gradient_relative": moved}

    found = bench.row(attention, what="attention, one layer")
    bench.check(
        "attention: a packed document is its own, to the bit", found and found["different"] == 0, found
    )
    for family in ("llama", "qwen3", "gemma3_text"):
        found = bench.row(partial(model, family), what=family)
        near = found and found["relative"] <= 2e-2 and found["gradient_relative"] <= 5e-2
        bench.check(f"{family}: packed and alone agree to bf16 rounding", near, found)


def gradient(model: Any, batches: list[dict[str, Any]], items: Any) -> Any:
    """Gradient of the token mean over all batches, flat, fp32."""
    import torch

    model.zero_grad(set_to_none=True)
    for batch in batches:
        if (batch["labels"] != -100).any():
            model(**batch, num_items_in_batch=items, use_cache=False).loss.backward()
    return torch.cat([p.grad.float().flatten() for p in model.parameters() if p.grad is not None])


def differences(found: Any, wanted: Any) -> dict[str, Any]:
    moved = (found.float() - wanted.float()).abs()
    return {
        "different": int((moved > 0).sum()),
        "of": moved.numel(),
        "relative": float(moved.max() / wanted.float().abs().max()),
    }


def bounds_of(bench: Bench, lengths: list[int]) -> dict[str, Any]:
    import torch

    bounds = torch.tensor([0, *lengths], device=bench.device).cumsum(0).to(torch.int32)
    return {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": max(lengths)}


def attention(bench: Bench) -> None:
    """One attention layer of the 1B shape, forward and backward, from 1k to 32k tokens in a row."""
    import torch

    heads, kv_heads, width = (4, 2, 16) if bench.tiny else (32, 8, 64)
    for total in (64, 128) if bench.tiny else (1024, 2048, 4096, 8192, 16384, 32768):
        lengths = document_lengths(total, median=20 if bench.tiny else 400)
        torch.manual_seed(0)
        shapes = [(1, total, h, width) for h in (heads, kv_heads, kv_heads)]
        leaves = [torch.randn(s, device=bench.device, dtype=bench.dtype, requires_grad=True) for s in shapes]
        states = [leaf.transpose(1, 2) for leaf in leaves]  # strided as a model's projections give them
        ways, reference = attention_ways(bench, lengths, states), None
        for name, attend in ways.items():
            found = bench.row(
                partial(time_attention, bench, attend, leaves), tokens=total, documents=len(lengths), way=name
            )
            if found is None:
                continue
            output = found.pop("output")
            del bench.rows[-1]["output"]
            if reference is None:
                reference = output
            else:
                relative = float((output - reference).abs().max() / reference.abs().max())
                bench.rows[-1]["relative"] = relative
                bench.check(f"{name} at {total} tokens is the packed attention", relative <= 3e-2, relative)


def time_attention(bench: Bench, attend: Callable[[], Any], leaves: list[Any]) -> dict[str, Any]:
    import torch

    gradient = torch.randn_like(attend())

    def both() -> None:
        torch.autograd.grad(attend(), leaves, gradient)

    seconds = bench.seconds(both, most=0.3)
    return {"ms": seconds * 1e3, "output": attend().detach().float()}


def attention_ways(bench: Bench, lengths: list[int], states: list[Any]) -> dict[str, Callable[[], Any]]:
    """Name -> forward pass that returns `[1, T, H, D]`; the first is ours."""
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    from trainer_plugin.models.attention import packed_attention

    layer, bounds = torch.nn.Module(), bounds_of(bench, lengths)
    q, k, v = states

    def ours() -> Any:
        return packed_attention(layer, q, k, v, None, **bounds)[0]

    number = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(bench.device)

    def masked() -> Any:
        mask = (number[:, None] == number).tril_()[None, None]  # made once a step in a model: counted here
        return scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True).transpose(1, 2)

    ways: dict[str, Callable[[], Any]] = {"tokpack": ours, "sdpa, block mask": masked}
    if bench.cuda:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        def same_document(_b: Any, _h: Any, i: Any, j: Any) -> Any:
            return (i >= j) & (number[i] == number[j])

        compiled = COMPILED.setdefault("flex", torch.compile(flex_attention, dynamic=False))

        def flex() -> Any:
            total = sum(lengths)
            block = create_block_mask(same_document, None, None, total, total, device=bench.device)
            return compiled(q, k, v, block_mask=block, enable_gqa=True).transpose(1, 2)

        ways["FlexAttention, compiled"] = flex
    if there("flash_attn"):
        ways["flash_attn"] = partial(flash, q, k, v, bounds)
    return ways


COMPILED: dict[str, Any] = {}


def flash(q: Any, k: Any, v: Any, bounds: dict[str, Any]) -> Any:
    from flash_attn import flash_attn_varlen_func

    rows = [state[0].transpose(0, 1).contiguous() for state in (q, k, v)]
    cu, longest = bounds["cu_seq_lens_q"], bounds["max_length_q"]
    return flash_attn_varlen_func(*rows, cu, cu, longest, longest, causal=True)[None]


def throughput(bench: Bench) -> None:
    """Full fine-tuning of a random model of the 1B shape: the same documents padded, sorted, packed."""
    from trainer_plugin.losses.chunked_loss import ChunkedLoss

    model = make_model(bench).train()
    shape, optimizer = shape_of(model), adamw(model)
    count, batch_size = (4, 2) if bench.tiny else (6, 4)
    rows = [make_row(lengths_for(bench, seed), shape.vocab_size, seed) for seed in range(count)]
    documents = [document for row in rows for document in cut_apart(row)]
    lengths = [len(document["input_ids"]) for document in documents]
    ordered = sorted(documents, key=lambda document: -len(document["input_ids"]))
    plain = step_of(model, optimizer)
    padded = [
        (name, [padded_batch(bench, part) for part in pieces(which, batch_size)])
        for name, which in (
            (f"padded to the longest of {batch_size}", documents),
            ("sorted, padded", ordered),
        )
    ]
    for name, batches in padded:
        run = partial(train_all, bench, plain, batches, shape, lengths)
        bench.row(run, way=name, slots=sum(batch["input_ids"].numel() for batch in batches))
    del padded
    packed = [packed_batch(bench, row) for row in rows]
    for name, way, chunked in (
        ("packed, sdpa with the block mask", "sdpa", None),
        ("packed, tokpack attention, whole logits", "tokpack", None),
        ("packed, as tokpack train does", "tokpack", ChunkedLoss(model)),
    ):
        set_up(model, way)
        run = partial(train_all, bench, step_of(model, optimizer, chunked), packed, shape, lengths)
        bench.row(run, way=name, slots=sum(lengths))
    del optimizer, plain
    if there("peft"):
        adapted = with_lora(model)
        step = step_of(adapted, adamw(adapted), ChunkedLoss(adapted))

        def lora() -> dict[str, Any]:
            with autocast(bench, adapted, "lora"):
                return train_all(bench, step, packed, shape, lengths, kind="lora")

        bench.row(lora, way="packed, LoRA of rank 16, as tokpack train does", slots=sum(lengths))
    losses = [row["loss"] for row in bench.rows if "loss" in row]
    bench.check("every way trains with a finite loss", losses and all(map(math.isfinite, losses)), losses)


def train_all(
    bench: Bench,
    step: Callable[[Any], Any],
    batches: list[Any],
    shape: Any,
    lengths: list[int],
    kind: Any = "full",
) -> dict[str, Any]:
    from tokpack.cost import Method

    loss = step(batches[0])
    bench.wait()
    started = time.perf_counter()
    for batch in batches:
        loss = step(batch)
    bench.wait()
    found = speed(shape, lengths, time.perf_counter() - started, method=Method(kind=kind))
    return found | {"loss": float(loss)}


def lengths_for(bench: Bench, seed: int) -> list[int]:
    return document_lengths(bench.capacity, seed, median=40 if bench.tiny else 400)


def cut_apart(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The documents of a packed row, a row each."""
    out, start = [], 0
    for length in row["seq_lengths"]:
        cut = {name: row[name][start : start + length] for name in ("input_ids", "labels")}
        out.append({**cut, "seq_lengths": [length]})
        start += length
    return out


def pieces(items: list[Any], size: int) -> Iterator[list[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def sizes(bench: Bench) -> None:
    """Utilization by tokens in a micro-batch: full fine-tuning, packed rows, no optimizer step."""
    model = make_model(bench).train()
    shape = shape_of(model)
    set_up(model)
    for total in (32, 64) if bench.tiny else (256, 512, 1024, 2048, 4096, 8192, 16384):
        lengths = document_lengths(total, median=20 if bench.tiny else 400)
        batch = packed_batch(bench, make_row(lengths, shape.vocab_size))

        def work(batch: Any = batch) -> None:
            loss_of(model, batch).backward()
            model.zero_grad(set_to_none=True)

        def timed(lengths: Any = lengths, work: Any = work) -> dict[str, Any]:
            return speed(shape, lengths, bench.seconds(work, most=0.8), method=full())

        bench.row(timed, micro_batch=total)


def peak_memory(bench: Bench) -> None:
    """Peak of two steps against the memory model: full and LoRA, checkpointing, whole and chunked loss."""
    from tokpack.cost import Method
    from tokpack.cost.memory import memory
    from trainer_plugin.losses.chunked_loss import ChunkedLoss

    tokens = bench.capacity if bench.tiny else 4096

    def steps(kind: str, checkpointing: bool, loss: Any) -> dict[str, Any]:
        before = allocated(bench)
        model = make_model(bench).train()
        shape, method = shape_of(model), Method(kind=kind)  # type: ignore[arg-type]
        set_up(model)
        chunked = None
        if loss == "chunked":
            chunked = ChunkedLoss(model, chunk_bytes=1 << 16) if bench.tiny else ChunkedLoss(model)
        model = with_lora(model) if kind == "lora" else model
        if checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
        step = step_of(model, adamw(model), chunked)
        batch = packed_batch(bench, make_row(document_lengths(tokens), shape.vocab_size))
        with autocast(bench, model, kind):
            losses = [float(step(batch)) for _ in range(2)]
        found = peak(bench) - before if bench.cuda else None
        need = memory(shape, tokens, method=method, checkpointing=checkpointing, loss=loss)
        predicted = need.total - need.overhead
        return {
            "loss_value": losses[-1],
            "predicted_gib": predicted / 2**30,
            "measured_gib": None if found is None else found / 2**30,
            "predicted_over_measured": None if found is None else predicted / found,
        }

    for kind in ("full", "lora"):
        for checkpointing in (False, True):
            for loss in ("whole", "chunked"):
                names = {"method": kind, "checkpointing": checkpointing, "loss": loss, "tokens": tokens}
                if kind == "lora" and not there("peft"):
                    bench.rows.append(names | {"skipped": "peft is not installed: carry its wheel"})
                    continue
                found = bench.row(partial(steps, kind, checkpointing, loss), **names)
                what = f"{kind}, checkpointing {checkpointing}, {loss} loss"
                bench.check(f"{what}: two steps run", found and math.isfinite(found["loss_value"]), found)
                if found and found["predicted_over_measured"]:
                    ratio = found["predicted_over_measured"]
                    bench.check(f"{what}: within the model's memory, which is not twice too large",
                                0.95 <= ratio <= 2, ratio)  # fmt: skip


def with_lora(model: Any) -> Any:
    from trainer_plugin.adapters.qlora import prepare_lora
    from trainer_plugin.recipe import Recipe

    return prepare_lora(model, Recipe(method="lora")).train()


@contextmanager
def autocast(bench: Bench, model: Any, kind: str) -> Iterator[None]:
    """As `tokpack train` has it: mixed precision for adapters, which take their inputs as they are."""
    import torch

    from trainer_plugin.adapters.qlora import adapted_layers, inputs_as_they_are

    on = bench.cuda and kind == "lora"
    with (
        inputs_as_they_are(adapted_layers(model), on),
        torch.autocast(bench.device, torch.bfloat16, enabled=on),
    ):
        yield


def allocated(bench: Bench) -> int:
    import torch

    bench.free()
    if not bench.cuda:
        return 0
    torch.cuda.reset_peak_memory_stats()
    return int(torch.cuda.memory_allocated())


def peak(bench: Bench) -> int:
    import torch

    bench.wait()
    return int(torch.cuda.max_memory_allocated()) if bench.cuda else 0


def large_vocabulary(bench: Bench) -> None:
    """Loss over 262,144 ids: logits of the whole row against chunks. Memory above the model, and time."""
    from trainer_plugin.losses.chunked_loss import ChunkedLoss

    tokens = 256 if bench.tiny else 8192
    sizes = {**TINY, "vocab_size": 1 << (12 if bench.tiny else 18), "hidden_size": 64 if bench.tiny else 640}
    model = make_model(bench, **sizes).train()
    set_up(model)
    batch = packed_batch(bench, make_row(document_lengths(tokens), sizes["vocab_size"]))
    chunked = ChunkedLoss(model, chunk_bytes=1 << (19 if bench.tiny else 28))
    values = {}
    for name, way in (("whole", None), ("chunked", chunked)):

        def run(way: Any = way) -> dict[str, Any]:
            before = allocated(bench)
            loss = loss_of(model, batch, way)
            loss.backward()
            model.zero_grad(set_to_none=True)
            grown = (peak(bench) - before) / 2**20 if bench.cuda else None

            def again() -> None:
                loss_of(model, batch, way).backward()
                model.zero_grad(set_to_none=True)

            return {
                "loss": float(loss.detach()),
                "grown_mib": grown,
                "ms": bench.seconds(again, most=0.5) * 1e3,
            }

        found = bench.row(run, way=name, tokens=tokens, vocabulary=sizes["vocab_size"])
        values[name] = found["loss"] if found else math.nan
    moved = abs(values["whole"] - values["chunked"]) / abs(values["whole"])
    bench.check("the chunked loss is the loss", moved <= 1e-3, moved)


def ranks(bench: Bench) -> None:
    """Measured times of rows, played for 8 ranks: how long they wait, in a random order and balanced."""
    import numpy as np

    from trainer_plugin.rows.balance import BalancedSampler, pair_cost

    model = make_model(bench).train()
    vocabulary, weight = model.config.vocab_size, pair_cost(model)
    set_up(model)
    times, costs = [], []
    for seed in range(8 if bench.tiny else 32):
        median = [30, 60, 120][seed % 3] if bench.tiny else [150, 400, 1500, 6000][seed % 4]
        lengths = document_lengths(bench.capacity, seed, median)
        batch = packed_batch(bench, make_row(lengths, vocabulary, seed))

        def work(batch: Any = batch) -> None:
            loss_of(model, batch).backward()
            model.zero_grad(set_to_none=True)

        times.append(bench.seconds(work, least=2, most=0.2))
        costs.append(sum(lengths) + weight * sum(n * n for n in lengths))
    many = np.random.default_rng(0).integers(0, len(times), 64 * RANKS)  # an epoch of such rows
    seconds, costs = np.array(times)[many], np.array(costs)[many]
    share = {}
    for order in ("random", "balanced"):
        sampler = BalancedSampler(None, RANKS, costs=costs, order=order)  # type: ignore[arg-type]
        steps = seconds[sampler.order(0)].reshape(-1, RANKS)
        share[order] = float(1 - steps.mean() / steps.max(axis=1).mean())
        bench.rows.append({"order": order, "waited_share": share[order], "rows": len(seconds)})
    correlation = float(np.corrcoef(seconds, costs)[0, 1])
    bench.notes.append(f"measured times and costs of {len(times)} rows correlate by {correlation:.3f}")
    if bench.cuda:  # two cores that others use as well say nothing
        bench.check("balanced ranks wait less", share["balanced"] <= share["random"], share)


def nf4(bench: Bench) -> None:
    """QLoRA as `tokpack train` sets it up: does it isolate, learn, and fit the memory model?"""
    missing = [name for name in ("bitsandbytes", "peft", "accelerate") if not there(name)]
    if missing:
        bench.notes.append(f"skipped: {', '.join(missing)} not installed; carry the wheels with --wheels")
        return
    from tokpack.cost import Method
    from tokpack.cost.memory import memory
    from trainer_plugin.adapters.qlora import load_model, prepare_lora
    from trainer_plugin.isolation.verify import prepare_model
    from trainer_plugin.losses.chunked_loss import ChunkedLoss
    from trainer_plugin.recipe import Recipe

    dtype: Any = "bfloat16" if bench.cuda else "float32"
    recipe = Recipe(method="qlora", dtype=dtype, gradient_checkpointing=True)
    tokens = bench.capacity if bench.tiny else 4096

    def run() -> dict[str, Any]:
        before = allocated(bench)
        with tempfile.TemporaryDirectory() as folder:
            make_model(bench).save_pretrained(folder)
            bench.free()
            model = load_model(folder, recipe)
        report = prepare_model(model, recipe.attn)
        model = prepare_lora(model, recipe).train()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        shape = shape_of(model)
        lengths = document_lengths(tokens)
        batch = packed_batch(bench, make_row(lengths, shape.vocab_size))
        chunked = ChunkedLoss(model)
        if bench.cuda:
            allocated(bench)
        with autocast(bench, model, "lora"):
            loss_of(model, batch, chunked).backward()
            zero = sum(
                not p.grad.abs().any()
                for n, p in model.named_parameters()
                if p.requires_grad and "lora_B" in n
            )
            step = step_of(model, adamw(model), chunked)
            loss = float(step(batch))
            seconds = bench.seconds(partial(step, batch), most=3.0)
        how: dict[str, Any] = {"method": Method(kind="qlora"), "checkpointing": True}
        need = memory(shape, tokens, **how, head_bytes=4, loss="chunked")
        measured = (peak(bench) - before) / 2**30 if bench.cuda else None
        return speed(shape, lengths, seconds, **how) | {
            "loss": loss,
            "isolated": report.ok,
            "attention": report.attn,
            "zero_gradients": zero,
            "predicted_gib": (need.total - need.overhead) / 2**30,
            "measured_gib": measured,
        }

    found = bench.row(run, what="NF4, LoRA of rank 16, checkpointing")
    bench.check("NF4: documents are isolated", found and found["isolated"], found)
    bench.check("NF4: every adapter gets a gradient", found and found["zero_gradients"] == 0, found)


def compiled(bench: Bench) -> None:
    """`torch.compile` of a packed row of fixed size: one graph, the same loss, the time of a step."""
    import torch

    sizes = TINY if bench.tiny else {**ONE_B, "num_hidden_layers": 4}
    model = make_model(bench, **sizes).train()
    set_up(model)
    tokens = 256 if bench.tiny else 4096
    shape = shape_of(model)
    lengths = [document_lengths(tokens - 9, seed, median=40 if bench.tiny else 400) for seed in range(2)]
    batches = [packed_batch(bench, make_row(one, shape.vocab_size), tokens) for one in lengths]

    def loss(batch: dict[str, Any]) -> Any:
        return model(**batch, use_cache=False).loss

    one_graph = torch.compile(loss, fullgraph=True, backend="inductor" if bench.cuda else "aot_eager")
    values: dict[str, list[float]] = {}
    for name, forward in (("eager", loss), ("compiled", one_graph)):

        def run(forward: Any = forward, name: str = name) -> dict[str, Any]:
            values[name] = [float(forward(batch).detach()) for batch in batches]

            def both() -> None:
                forward(batches[0]).backward()
                model.zero_grad(set_to_none=True)

            return speed(shape, lengths[0], bench.seconds(both), method=full()) | {"loss": values[name][0]}

        bench.row(run, way=name)
    equal = len(values) == 2 and all(
        abs(a - b) <= 2e-2 * abs(a) for a, b in zip(values["eager"], values["compiled"], strict=True)
    )
    bench.check("one graph, and the loss of the eager model for other documents too", equal, values)


PARTS: dict[str, tuple[Callable[[Bench], None], float]] = {
    "exact": (exact, 10),
    "attention": (attention, 110),
    "throughput": (throughput, 55),
    "sizes": (sizes, 30),
    "peak_memory": (peak_memory, 25),
    "large_vocabulary": (large_vocabulary, 10),
    "ranks": (ranks, 45),
    "nf4": (nf4, 20),
    "compiled": (compiled, 55),
    "isolation": (isolation, 80),
}
"""Part -> what runs, and its share of the time; what compiles longest stands last."""


# Running them


def there(name: str) -> bool:
    return not isinstance(sys.modules.get(name), MagicMock) and importlib.util.find_spec(name) is not None


def plain(value: Any) -> Any:
    """For JSON: tensors and NumPy numbers become Python's, what is not finite a word."""
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, (bool, int, str, type(None))):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):
        return str(type(value).__name__)
    return number if math.isfinite(number) else str(number)


def unpack_wheels(folder: Path) -> list[str]:
    """Put the wheels of a folder on the path; returns their names."""
    target = Path(tempfile.mkdtemp(prefix="wheels-"))
    wheels = sorted(folder.glob("*.whl"))
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(target)
    sys.path.insert(0, str(target))
    return [wheel.name for wheel in wheels]


def stand_in_for_arrow() -> None:
    """tokpack's contracts are written as Arrow schemas; nothing here reads a file of them."""
    if not there("pyarrow"):
        stand_in = MagicMock()
        stand_in.__spec__ = ModuleSpec("pyarrow", None)
        sys.modules["pyarrow"] = stand_in


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises OutOfTime in the main thread after so many seconds."""

    def stop(_signal: int, _frame: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, 2.0)  # again: a destructor swallows what it raises
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def run_part(name: str, device: str, tiny: bool, seconds: float) -> dict[str, Any]:
    """One part: its table, checks and notes, how long it took, the error that ended it."""
    bench, error, started = Bench(device, tiny), None, time.perf_counter()
    work = PARTS[name][0]
    try:
        with limited(seconds):
            work(bench)
    except OutOfTime:
        bench.notes.append(f"stopped after {seconds:.0f} s: what is missing was not reached")
    except Exception:  # the other parts go on
        error = traceback.format_exc(limit=-8)
    bench.free()
    return {
        "about": " ".join((work.__doc__ or "").split()),
        "seconds": round(time.perf_counter() - started, 1),
        "rows": bench.rows,
        "checks": bench.checks,
        "notes": bench.notes,
        "error": error,
    }


def machine(device: str) -> dict[str, Any]:
    import torch
    import transformers

    card = torch.cuda.get_device_properties(0) if device == "cuda" else None
    return {
        "device": card.name if card else platform.processor() or platform.machine(),
        "memory_gib": card.total_memory / 2**30 if card else None,
        "capability": list(torch.cuda.get_device_capability()) if card else None,
        "peak_tflops": (peak_flops() or 0) / 1e12 or None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "transformers": transformers.__version__,
        "missing": [name for name in OPTIONAL if not there(name)],
    }


def write(out: Path, result: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    (out / "gpu.html").write_text(page(result), encoding="utf-8")


def page(result: dict[str, Any]) -> str:
    """All of it as one page that needs nothing else."""
    body = [
        f"<h1>tokpack on {html.escape(str(result['machine']['device']))}</h1>",
        table([result["machine"]]),
    ]
    for name, part in result["parts"].items():
        failed = [check for check in part["checks"] if not check["ok"]]
        body.append(f"<h2>{html.escape(name)}</h2><p>{html.escape(part['about'])}</p>")
        body.append(f"<p>{len(part['checks']) - len(failed)} of {len(part['checks'])} checks hold; "
                    f"{part['seconds']} s.</p>")  # fmt: skip
        body += [f"<p class=bad>does not hold: {html.escape(check['what'])}</p>" for check in failed]
        body += [f"<p>{html.escape(note)}</p>" for note in part["notes"]]
        body += [table(part["rows"])] if part["rows"] else []
        body += [f"<pre class=bad>{html.escape(part['error'])}</pre>"] if part["error"] else []
    style = (
        "body{font:15px system-ui;margin:2em auto;max-width:70em;padding:0 1em;color-scheme:light dark}"
        "div{overflow-x:auto}table{border-collapse:collapse}td,th{padding:.2em .7em;text-align:right;"
        "border-bottom:1px solid #8884;white-space:nowrap}.bad{color:#c33}"
    )
    head = f"<!doctype html><meta charset=utf-8><title>tokpack on a GPU</title><style>{style}</style>"
    return head + "".join(body) + "\n"


def table(rows: list[dict[str, Any]]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["".join(f"<th>{html.escape(name.replace('_', ' '))}</th>" for name in columns)]
    lines += ["".join(f"<td>{html.escape(cell(row.get(name)))}</td>" for name in columns) for row in rows]
    return f"<div><table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table></div>"


def cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    return f"{value:,.4g}" if isinstance(value, float) else str(value)


def warm_up(device: str) -> None:
    """Import what parts import: the first would pay for it, and one stopped in mid-import leaves a torso."""
    import torch

    for name in ("torch._dynamo", "torch._inductor.compile_fx"):
        importlib.import_module(name)
    if device == "cpu":
        torch.set_num_threads(1)
    for family, more in FAMILIES.items():
        make_model(Bench(device, tiny=True), family, **{**TINY, **more})


def watchdog(seconds: float) -> None:
    """Ends the process where native code hangs; what was written so far stays."""
    import os

    timer = threading.Timer(seconds, os._exit, args=(1,))
    timer.daemon = True
    timer.start()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="folder for gpu.json and gpu.html")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes: is the code right?")
    parser.add_argument("--seconds", type=float, default=450.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--wheels", type=Path, help="folder of wheels to use")
    args = parser.parse_args(argv)
    wheels = unpack_wheels(args.wheels) if args.wheels else []
    stand_in_for_arrow()
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device here; --device cpu --tiny shows whether the code runs")
    watchdog(args.seconds + 60)
    warm_up(args.device)
    result: dict[str, Any] = {
        "machine": machine(args.device),
        "wheels": wheels,
        "tiny": args.tiny,
        "parts": {},
    }
    scale = args.seconds / sum(PARTS[name][1] for name in args.parts)
    for name in args.parts:
        result["parts"][name] = part = run_part(name, args.device, args.tiny, PARTS[name][1] * scale)
        write(args.out, result)
        good = sum(check["ok"] for check in part["checks"])
        state = (
            part["error"].splitlines()[-1]
            if part["error"]
            else f"{good} of {len(part['checks'])} checks hold"
        )
        print(f"{name:>17} {part['seconds']:6.1f} s  {state}", flush=True)
    bad = [n for n, p in result["parts"].items() if p["error"] or not all(c["ok"] for c in p["checks"])]
    print(f"written: {args.out / 'gpu.json'}, {args.out / 'gpu.html'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())

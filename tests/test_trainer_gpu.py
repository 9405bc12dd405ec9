"""What only a CUDA device shows. `pytest -m gpu`; each test skips with its reason where there is none."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import polars as pl
import torch
from trainer_rows import (
    LENGTHS,
    make_documents,
    pack_rows,
    packed_pairs,
    save_tiny_model,
    tiny_chat_model,
    tiny_llama,
    trainer_for,
    write_packed,
)
from typer.testing import CliRunner

from trainer_plugin import prepare_model
from trainer_plugin.adapters.merge import merge_dequantized
from trainer_plugin.evaluation.run import EvalSettings, evaluate
from trainer_plugin.losses.chunked_loss import ChunkedLoss
from trainer_plugin.serving.engine import Engine
from trainer_plugin.serving.run import load_served
from trainer_plugin.serving.values import Delta, End, Job, Limits

pytestmark = pytest.mark.gpu
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.fixture
def folders(tmp_path):
    save_tiny_model(tmp_path / "model", num_hidden_layers=8)
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 4), 64)
    write_packed(tmp_path / "packed" / "validation", make_documents(LENGTHS), 64)  # seen in training
    return tmp_path / "packed", tmp_path / "model"


def train(*arguments):
    from trainer_plugin.cli import app

    done = CliRunner().invoke(app, ["train", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stderr


METHODS = [("qlora", "paged_adamw_8bit"), ("lora", "adamw_torch_fused"), ("full", "adamw_8bit")]


@pytest.mark.parametrize(("method", "optimizer"), METHODS)
def test_every_method_lowers_the_held_out_loss_with_documents_isolated(folders, tmp_path, method, optimizer):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(f'method = "{method}"\ndtype = "bfloat16"\n[trainer]\noptim = "{optimizer}"\n')
    flags = ["--epochs", 8, "--learning-rate", 1e-2, "--recipe", recipe]
    shown = train(*folders[:1], "-m", folders[1], "-o", tmp_path / "out", *flags)
    assert "attention tokpack: documents are isolated" in shown
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["loss_after"] < result["loss_before"]


def test_gradient_checkpointing_needs_less_memory_for_the_same_losses(folders, tmp_path):
    peaks, losses = [], []
    for flag in ("--no-gradient-checkpointing", "--gradient-checkpointing"):
        torch.cuda.reset_peak_memory_stats()
        out = tmp_path / flag.strip("-")
        train(folders[0], "-m", folders[1], "-o", out, "--method", "full", "--batch-rows", 8, flag)
        peaks.append(torch.cuda.max_memory_allocated())
        losses.append(json.loads((out / "result.json").read_text())["loss_after"])
    assert peaks[1] < peaks[0]
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merged_adapter_answers_as_the_quantized_model_with_it(folders, tmp_path, dtype):
    """bitsandbytes rounds scales of a GPU's 4 bits otherwise than a CPU's."""
    flags = ["--epochs", 4, "--learning-rate", 1e-2, "--dtype", dtype, "--merge", tmp_path / "merged"]
    shown = train(folders[0], "-m", folders[1], "-o", tmp_path / "out", *flags)
    assert "trained parameters" in shown
    merge_dequantized(tmp_path / "out", tmp_path / "again", check=True)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_train_alike_under_mixed_precision_and_in_fp32_products(folders, tmp_path, checkpointing):
    losses = []
    for name, value in (("mixed", "true"), ("products in fp32", "false")):
        recipe = tmp_path / f"{name}.toml"
        recipe.write_text(
            f'method = "lora"\ndtype = "bfloat16"\ngradient_checkpointing = {str(checkpointing).lower()}\n'
            f"[trainer]\nbf16 = {value}\n"
        )
        out = tmp_path / name
        train(folders[0], "-m", folders[1], "-o", out, "--epochs", 4, "--recipe", recipe)
        losses.append(json.loads((out / "result.json").read_text())["loss_after"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-2)


def test_the_head_that_is_run_by_itself_is_in_mixed_precision_too(tmp_path):
    """fp32 heads beside 4-bit layers: logits in fp32 would not be those of the model, and take long."""
    rows = pack_rows(make_documents(LENGTHS), 64)
    trainer = trainer_for(tiny_llama("tokpack"), rows, tmp_path, max_steps=1, trainer={"bf16": True})
    trainer.chunked_loss = ChunkedLoss(trainer.model, chunk_bytes=1 << 12)
    trainer.train()
    assert trainer.chunked_loss._proven


def test_flex_attention_is_probed_by_rows_that_its_kernel_takes():
    model = tiny_llama("sdpa", hidden_size=256).to("cuda", torch.bfloat16)  # heads of 64: of 8 there is none
    report = prepare_model(model, "flex_attention")
    assert report.ok
    assert report.attn == "flex_attention"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_adapter_is_evaluated_and_answers_in_a_batch(folders, tmp_path, dtype):
    out, flags = tmp_path / "out", ["--method", "lora", "--dtype", dtype, "--learning-rate", 1e-2]
    train(folders[0], "-m", folders[1], "-o", out, "--epochs", 4, *flags)
    found = evaluate(folders[0], folders[1], [f"mine={out}"], settings=EvalSettings(dtype=dtype))
    loss = json.loads((out / "result.json").read_text())["loss_after"]
    assert found.held_out.comparisons[0].loss == pytest.approx(loss, rel=1e-2)
    assert found.held_out.comparisons[0].difference.high < 0
    loaded, limits = load_served(str(folders[1]), [f"mine={out}"], limits=Limits(rows=8), dtype=dtype)
    prompts = [(5, 6, 7), (9, 8, 7, 6, 5), (3, 4)]
    jobs = [
        Job(prompt=prompt, max_tokens=8, adapter=adapter, temperature=0, ignore_end=True)
        for prompt in prompts
        for adapter in ("mine", None)
    ]
    drawn = Job(prompt=prompts[0], max_tokens=8, adapter="mine", temperature=1.0, seed=7, ignore_end=True)
    engine = Engine(loaded, limits).start()
    together = answers_of(engine, [*jobs, drawn])
    assert all(len(tokens) == 8 for tokens in together)
    assert answers_of(engine, [drawn])[0] == together[-1] or dtype == "bfloat16"
    alone = [answers_of(engine, [job])[0] for job in jobs]
    engine.close()
    assert together[:-1] == alone or dtype == "bfloat16"


def answers_of(engine, jobs):
    """Tokens of each answer."""
    events, tokens, left = SimpleQueue(), [[] for _ in jobs], len(jobs)
    jobs = [replace(job, likeliest=0) for job in jobs]
    engine.submit(jobs, lambda number, event: events.put((number, event)))
    while left:
        number, event = events.get(timeout=120)
        if isinstance(event, Delta):
            tokens[number] += [score.token for score in event.scores]
        if isinstance(event, End):
            assert event.reason == "length"
            left -= 1
    return tokens


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_preferences_start_at_ln_2_and_are_learned(tmp_path, dtype):
    model = tiny_chat_model(tmp_path / "model")
    packed = packed_pairs(model, tmp_path / "pairs").folder
    flags = ["--method", "lora", "--dtype", dtype, "--epochs", 4, "--learning-rate", 1e-2]
    train(packed, "-m", model, "-o", tmp_path / "out", *flags)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["loss_before"] == pytest.approx(math.log(2), abs=1e-2)
    assert result["rewards_after"]["accuracy"] > 0.8


def test_layers_are_drawn_and_losses_of_documents_and_sources_written(folders, tmp_path):
    recipe, log = tmp_path / "recipe.toml", tmp_path / "log.parquet"
    recipe.write_text(
        f'method = "full"\ndtype = "bfloat16"\nlisa_layers = 2\nlisa_steps = 2\nloss = "document"\n'
        f'loss_by_source = true\ndocument_log = "{log}"\n[trainer]\nneftune_noise_alpha = 5.0\n'
    )
    flags = ["--epochs", 4, "--learning-rate", 1e-2, "--batch-rows", 2, "--recipe", recipe]
    train(folders[0], "-m", folders[1], "-o", tmp_path / "out", *flags)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["loss_after"] < result["loss_before"]
    table = pl.read_parquet(log)
    assert len(table) == 4 * 4 * len(LENGTHS)
    means = table.group_by("epoch", maintain_order=True).agg(pl.col("loss").mean())["loss"].to_list()
    assert means[-1] < means[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA tells what waits for it")
@pytest.mark.parametrize("chunk_bytes", [1 << 28, 1 << 12], ids=["whole logits", "in chunks"])
def test_micro_batches_wait_for_nothing(tmp_path, recwarn, chunk_bytes):
    rows, waits = pack_rows(make_documents(LENGTHS * 4), 64), []
    for accumulation in (1, 4):
        model = tiny_llama("tokpack").bfloat16()
        flags = {"max_steps": 2, "accumulation": accumulation, "options": {"probe": False}}
        trainer = trainer_for(model, rows, tmp_path, trainer={"use_cpu": False}, log_steps=100, **flags)
        trainer.chunked_loss = ChunkedLoss(trainer.model, chunk_bytes=chunk_bytes)
        trainer.chunked_loss._proven = True
        recwarn.clear()
        torch.cuda.set_sync_debug_mode("warn")
        try:
            trainer.train()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        waits.append(sum("synchronizing CUDA operation" in str(one.message) for one in recwarn))
    assert waits[0] == waits[1]


@TWO_GPUS
@pytest.mark.parametrize("shard", [False, True])
def test_two_gpus_end_where_one_ends(folders, tmp_path, shard):
    script = tmp_path / "train.py"
    script.write_text("from trainer_plugin.cli import app; app()")
    recipe = tmp_path / "recipe.toml"
    rows, results = json.loads((folders[0] / "manifest.json").read_text())["rows"], []
    for ranks in (1, 2):
        recipe.write_text(
            f'method = "full"\ndtype = "float32"\nshard = {str(shard and ranks > 1).lower()}\n'
            f"accumulation = {rows // ranks}\nepochs = 4\n"  # one step is all rows, in whatever order
        )
        out = tmp_path / f"out{ranks}"
        launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), str(script)]
        command = ["train", str(folders[0]), "-m", str(folders[1]), "--recipe", str(recipe), "-o", str(out)]
        done = subprocess.run(
            [sys.executable, "-m", *launcher, *command], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        results.append(json.loads((out / "result.json").read_text()))
    assert results[1]["processes"] == 2
    assert results[1]["tokens"] == results[0]["tokens"]
    assert results[1]["loss_after"] == pytest.approx(results[0]["loss_after"], rel=1e-4)

"""Recipes, LoRA and QLoRA, the commands `train` and `merge-adapter`."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

from trainer_rows import LENGTHS, make_documents, needs_packed_trainer, save_tiny_model, write_packed
from typer.testing import CliRunner

from tokpack.errors import UsageError
from tokpack.terminal.activity import Activity
from trainer_plugin import Recipe, load_recipe
from trainer_plugin.recipe import training_arguments


def test_importing_the_commands_imports_no_heavy_library():
    code = (
        "import sys, trainer_plugin.cli; "
        "print([m for m in ('torch', 'transformers', 'peft', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


BEFORE_LOADING = """
import sys
import trainer_plugin.serving.cli as serving
from typer.testing import CliRunner

def activity(quiet, module, before, first):
    print("torch" in sys.modules)
    raise SystemExit

serving.activity = activity
for arguments in ("serve BASE --adapter a=A", "chat A", "verify-served URL -m a -a A"):
    print(CliRunner().invoke(serving.app, arguments.split()).output)
"""


def test_commands_that_serve_say_that_they_load_before_they_load():
    out = subprocess.run([sys.executable, "-c", BEFORE_LOADING], capture_output=True, text=True, check=True)
    assert out.stdout.split() == ["False"] * 3, out.stdout


def test_a_folder_in_use_is_refused_before_libraries_are_loaded(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    code = (
        "import sys; from trainer_plugin.cli import app; from typer.testing import CliRunner\n"
        "found = CliRunner().invoke(app, sys.argv[1:]); print(found.exception, 'torch' in sys.modules)"
    )
    arguments = ["train", str(tmp_path), "-m", "model", "-o", str(tmp_path / "out")]
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "the output folder is not empty" in run.stdout
    assert run.stdout.split()[-1] == "False"


def test_an_adapter_that_the_weights_cannot_take_is_an_error_of_the_recipe(model_and_packed):
    pytest.importorskip("bitsandbytes")
    from trainer_plugin import prepare_lora
    from trainer_plugin.adapters.qlora import load_model

    recipe = Recipe(lora={"init_lora_weights": "pissa"})
    with pytest.raises(UsageError, match="PEFT does not take this adapter"):
        prepare_lora(load_model(model_and_packed[0], recipe), recipe)
    with pytest.raises(UsageError, match="EVA looks at data"):
        prepare_lora(None, Recipe(lora={"init_lora_weights": "eva"}))


@pytest.fixture
def model_and_packed(tmp_path):
    save_tiny_model(tmp_path / "model")
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 2), 64)
    write_packed(tmp_path / "packed" / "validation", make_documents([20, 30], seed=9), 64)
    return tmp_path / "model", tmp_path / "packed"


def run(*args):
    from trainer_plugin.cli import app

    return CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)


@pytest.mark.slow
def test_train_predicts_the_tokens_exactly_and_writes_adapter_recipe_and_provenance(
    model_and_packed, tmp_path
):
    needs_packed_trainer()
    pytest.importorskip("bitsandbytes")
    model, packed = model_and_packed
    out = tmp_path / "adapter"
    shown = run("train", packed, "-m", model, "-o", out, "--max-steps", 3, "--accumulation", 2, "--seed", 4)
    assert shown.exit_code == 0
    assert shown.stdout.strip() == str(out)
    for text in ("6 rows", "3 steps over 6 rows", "documents are isolated", "(+0.00%)", "held-out loss:"):
        assert text in shown.stderr, text
    result = json.loads((out / "result.json").read_text())
    assert result["tokens"] == result["predicted_tokens"] == 2 * sum(LENGTHS)
    assert tomllib.loads((out / "recipe.toml").read_text())["seed"] == 4
    provenance = json.loads((out / "tokpack.json").read_text())
    manifest = json.loads((packed / "manifest.json").read_text())
    assert provenance["shards"] == manifest["shards"]
    assert (out / "adapter_model.safetensors").is_file()
    with pytest.raises(UsageError, match="not empty"):
        run("train", packed, "-m", model, "-o", out)


@pytest.mark.slow
def test_train_says_what_it_does_before_it_does_it_and_nothing_when_quiet(model_and_packed, tmp_path):
    needs_packed_trainer()
    model, packed = model_and_packed
    command = ["train", packed, "-m", model, "--method", "lora", "--max-steps", 2]
    shown = run(*command, "-o", tmp_path / "a").stderr.splitlines()
    wanted = [
        "loading PyTorch and transformers ...",
        "dtype ",
        f"loading {model} ...",
        "probing the isolation of documents ...",
        "attention tokpack: documents are isolated",
        "training: 2 steps",
        "held-out evaluation: 1 batch",
        "step 0/2  held-out loss",
        "step 1/2  loss",
        "step 2/2  loss",
        f"writing {tmp_path / 'a'} ...",
        "held-out evaluation: 1 batch",
        "step 2/2  held-out loss",
        "2 steps",
    ]
    lines = iter(shown)
    for start in wanted:
        assert any(line.startswith(start) for line in lines), (start, shown)
    quiet = run(*command, "-o", tmp_path / "b", "--quiet")
    assert (quiet.stderr, quiet.stdout.strip()) == ("", str(tmp_path / "b"))
    merged = run("merge-adapter", tmp_path / "a", "-o", tmp_path / "merged")
    assert "merging: 1 file" in merged.stderr
    assert "comparing the logits" in merged.stderr


def test_the_time_to_go_is_of_the_steps_and_not_of_the_evaluation_before_them(monkeypatch):
    from trainer_plugin.training import progress

    now = 20.0
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: now))
    told = progress.RichProgress(Activity(quiet=True))
    state = SimpleNamespace(global_step=0, max_steps=20, is_world_process_zero=False)
    told.on_train_begin(None, state, None)
    now = 200.0
    told.on_step_begin(None, state, None)
    now, state.global_step = 220.0, 2
    told.on_step_begin(None, state, None)
    assert told._times(state) == "  3 min 20 s, 3 min 0 s to go"


@pytest.mark.slow
def test_time_and_money_are_predicted_from_the_gpu_table_and_told_beside_the_actual(
    model_and_packed, tmp_path
):
    needs_packed_trainer()
    model, packed = model_and_packed
    out = tmp_path / "out"
    flags = ["--method", "full", "--dtype", "float32", "--gpu", "rtx 4090", "--gpu-price", 0.5]
    shown = run("train", packed, "-m", model, "-o", out, *flags).stderr
    result = json.loads((out / "result.json").read_text())
    low, high = result["predicted_seconds"]
    assert 0 < low < high
    assert result["predicted_cost"] == pytest.approx([low / 7200, high / 7200])
    assert result["cost"] == pytest.approx(result["seconds"] / 7200, abs=1e-5)
    assert "165.2 TFLOP/s" in result["prediction"]
    assert re.search(r"predicted: 0\.0 s to 0\.\d s, \$", shown)
    assert "of about $" in shown
    assert "to go" in shown
    assert "spent, at $0.5 an hour" in shown


@pytest.mark.slow
def test_without_a_gpu_table_time_is_predicted_from_the_first_steps(model_and_packed, tmp_path):
    needs_packed_trainer()
    model, packed = model_and_packed
    flags = ["--method", "full", "--epochs", 3, "--gpu-price", 2.0, "--document-log", tmp_path / "d.jsonl"]
    run("train", packed, "-m", model, "-o", tmp_path / "out", *flags)
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["prediction"] == "from the speed until step 3"
    assert result["predicted_seconds"][0] > 0
    rows = [json.loads(line) for line in (tmp_path / "d.jsonl").read_text().splitlines()]
    assert {(row["epoch"], row["doc_id"]) for row in rows} == {(e, d) for e in range(3) for d in range(24)}


@pytest.mark.slow
def test_budgets_from_the_command_line_end_the_run_and_say_so(model_and_packed, tmp_path):
    needs_packed_trainer()
    model, packed = model_and_packed
    command = ["train", packed, "-m", model, "--method", "full", "--epochs", 9]
    shown = run(*command, "-o", tmp_path / "a", "--token-budget", 100)
    result = json.loads((tmp_path / "a" / "result.json").read_text())
    assert "(token budget)" in shown.stderr
    assert 100 <= result["tokens"] == result["predicted_tokens"] < 164
    run(*command, "-o", tmp_path / "b", "--max-cost", 1e-9, "--gpu-price", 1)
    result = json.loads((tmp_path / "b" / "result.json").read_text())
    assert (result["steps"], result["ended"]) == (1, "max cost")
    with pytest.raises(UsageError, match="needs a price"):
        run(*command, "-o", tmp_path / "c", "--max-cost", 1)


def test_settings_that_transformers_refuses_are_an_error_of_the_recipe(tmp_path):
    with pytest.raises(UsageError, match="does not take these settings"):
        training_arguments(Recipe(scheduler="cosinus"), tmp_path)
    with pytest.raises(UsageError, match="must not be negative"):
        Recipe(max_cost=-1.0)
    with pytest.raises(UsageError, match="cannot be sharded"):
        Recipe(shard=True)


@pytest.mark.slow
def test_a_run_is_logged_to_tensorboard_with_its_money(model_and_packed, tmp_path, monkeypatch):
    needs_packed_trainer()
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    model, packed = model_and_packed
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "events"))
    recipe = tmp_path / "r.toml"
    recipe.write_text('method = "full"\ngpu_price = 1.0\n[trainer]\nreport_to = "tensorboard"\n')
    run("train", packed, "-m", model, "-o", tmp_path / "out", "--recipe", recipe)
    events = EventAccumulator(str(tmp_path / "events")).Reload()
    names = {"loss", "tokens_per_second", "fill", "tokens", "trained_tokens", "cost_usd", "cost_usd_total"}
    assert {f"train/{name}" for name in names} <= set(events.Tags()["scalars"])
    tokens = [event.value for event in events.Scalars("train/tokens")]
    assert tokens[-1] == 2 * sum(LENGTHS)


@pytest.mark.slow
def test_a_merged_adapter_answers_as_the_quantized_model_with_the_adapter(model_and_packed, tmp_path):
    needs_packed_trainer()
    pytest.importorskip("bitsandbytes")
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from trainer_plugin.adapters.qlora import load_model

    model, packed = model_and_packed
    out, merged_folder = tmp_path / "adapter", tmp_path / "merged"
    flags = ["--max-steps", 4, "--dtype", "float32", "--learning-rate", 1e-2]
    run("train", packed, "-m", model, "-o", out, *flags)
    assert run("merge-adapter", out, "-o", merged_folder).exit_code == 0
    ids = torch.arange(3, 60)[None]
    tuned = PeftModel.from_pretrained(load_model(model, load_recipe(dtype="float32")), str(out)).eval()
    merged = AutoModelForCausalLM.from_pretrained(merged_folder).eval()
    untuned = AutoModelForCausalLM.from_pretrained(model).eval()
    with torch.no_grad():
        expected, got = tuned(ids).logits, merged(ids).logits
        assert (got - expected).abs().max() < 1e-4 * expected.abs().max()
        assert torch.equal(got.argmax(-1), expected.argmax(-1))
        assert (untuned(ids).logits - expected).abs().max() > 1e-2 * expected.abs().max()
    assert "quantization_config" not in json.loads((merged_folder / "config.json").read_text())


@pytest.mark.slow
def test_lora_plus_trains_b_faster_and_merge_writes_the_whole_model(model_and_packed, tmp_path):
    needs_packed_trainer()
    import torch
    from transformers import AutoModelForCausalLM

    from trainer_plugin.cli import app
    from trainer_plugin.output_folder import check_mergeable

    model, packed = model_and_packed
    (tmp_path / "r.toml").write_text(
        'method = "lora"\nlora_plus_ratio = 16.0\nmax_steps = 2\nprobe = false\n'
    )
    out, merged = tmp_path / "adapter", tmp_path / "merged"
    flags = ["--recipe", str(tmp_path / "r.toml"), "--merge", str(merged), "--save-steps", "1"]
    run = CliRunner().invoke(app, ["train", str(packed), "-m", str(model), "-o", str(out), *flags])
    assert run.exit_code == 0, run.output
    state = torch.load(out / "checkpoint-1" / "optimizer.pt", weights_only=True)
    rates = [group["initial_lr"] for group in state["param_groups"] if group["params"]]
    assert max(rates) == pytest.approx(16 * min(rates))
    assert AutoModelForCausalLM.from_pretrained(merged).config.model_type == "llama"
    for recipe, place in (
        (Recipe(method="full"), tmp_path / "new"),
        (Recipe(), merged),
        (Recipe(), out.parent),
    ):
        with pytest.raises(UsageError):
            check_mergeable(recipe, out, place)


def test_lora_plus_is_for_adapters_and_plain_optimizers(model_and_packed, tmp_path):
    with pytest.raises(UsageError, match="for adapters"):
        Recipe(method="full", lora_plus_ratio=16.0)
    from trainer_plugin import prepare_lora
    from trainer_plugin.adapters.qlora import load_model, lora_plus_optimizer

    recipe = Recipe(method="lora", dtype="float32")
    network = prepare_lora(load_model(model_and_packed[0], recipe), recipe)
    arguments = SimpleNamespace(optim="a factory", weight_decay=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("transformers.Trainer.get_optimizer_cls_and_kwargs", lambda *_: (object(), {}))
        with pytest.raises(UsageError, match="does not go with"):
            lora_plus_optimizer(network, arguments, 16.0)


def test_every_lora_gradient_is_alive_after_an_evaluation_of_a_quantized_model(model_and_packed):
    pytest.importorskip("bitsandbytes")
    import torch
    from bitsandbytes.nn import Linear4bit

    from trainer_plugin import prepare_lora
    from trainer_plugin.adapters.qlora import load_model

    model = prepare_lora(load_model(model_and_packed[0], Recipe()), Recipe())
    layers = [module for module in model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    assert not any(layer.support_avx512bf16_for_cpu for layer in layers)
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        model.eval()(ids)
    model.train()(input_ids=ids, labels=ids).loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if "lora_B" in name}
    assert len(gradients) == 14
    dead = [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 0]
    assert dead == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_lora_and_full_fine_tuning_lower_the_loss(model_and_packed, tmp_path, method):
    needs_packed_trainer()
    model, packed = model_and_packed
    flags = ["--method", method, "--dtype", "float32", "--epochs", 8, "--learning-rate", 2e-2]
    shown = run("train", packed, "-m", model, "-o", tmp_path / "out", *flags)
    assert shown.exit_code == 0
    entries = [line.split("loss ")[1].split()[0] for line in shown.stderr.splitlines() if "  loss " in line]
    assert float(entries[-1]) < float(entries[0])


@pytest.mark.slow
def test_a_cut_run_goes_on_and_counts_from_the_start(model_and_packed, tmp_path):
    needs_packed_trainer()
    model, packed = model_and_packed
    command = ["train", packed, "-m", model, "-o", tmp_path / "out", "--method", "full", "--save-steps", 1]
    run(*command, "--max-steps", 2)
    shown = run(*command, "--max-steps", 5, "--resume")
    assert shown.exit_code == 0
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert result["steps"] == 5
    assert result["tokens"] == result["predicted_tokens"]
    run(*command, "--max-steps", 2, "--overwrite")
    assert {path.name for path in (tmp_path / "out").glob("checkpoint-*")} == {"checkpoint-1", "checkpoint-2"}


@pytest.mark.slow
def test_a_wrong_tokenizer_a_missing_model_and_a_missing_checkpoint_say_what_to_do(
    model_and_packed, tmp_path
):
    needs_packed_trainer()
    model, packed = model_and_packed
    manifest = (packed / "manifest.json").read_text()
    with pytest.raises(UsageError, match="no checkpoint"):
        run("train", packed, "-m", model, "-o", tmp_path / "new", "--resume")
    with pytest.raises(UsageError, match="no such folder"):
        run("train", packed, "-m", tmp_path / "nowhere", "-o", tmp_path / "new")
    digest = json.loads(manifest)["tokenizer"]["vocab_sha256"]
    (packed / "manifest.json").write_text(manifest.replace(digest, "0" * 64))
    with pytest.raises(UsageError, match="not the one"):
        run("train", packed, "-m", model, "-o", tmp_path / "new")
    with pytest.raises(UsageError, match="no adapter here"):
        run("merge-adapter", model, "-o", tmp_path / "merged")

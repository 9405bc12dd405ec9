"""`tokpack train` and `tokpack merge-adapter`. Importing this module imports no library of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def train(
    artefact: Annotated[Path, typer.Argument(help="Folder that `tokpack pack -o` wrote.")],
    model: Annotated[str, typer.Option("--model", "-m", help="Model folder, or name on the hub.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the adapter or model.")],
    recipe: Annotated[Path | None, typer.Option(help="TOML file; flags win over it.")] = None,
    method: Annotated[str | None, typer.Option(help="qlora (default), lora or full.")] = None,
    attn: Annotated[
        str | None, typer.Option(help="auto (default), tokpack, loop, sdpa, eager, flash_attention_2, ...")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Mean over each token (default) or each document.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows (default 1).")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of epochs.")] = None,
    batch_rows: Annotated[int | None, typer.Option(help="Packed rows per device and micro-batch.")] = None,
    accumulation: Annotated[int | None, typer.Option(help="Micro-batches per optimizer step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate (default 2e-4).")] = None,
    seed: Annotated[int | None, typer.Option(help="Of row order, adapter and dropout.")] = None,
    eval_steps: Annotated[int | None, typer.Option(help="Held-out loss every so many steps.")] = None,
    save_steps: Annotated[int | None, typer.Option(help="Checkpoint every so many steps.")] = None,
    gradient_checkpointing: Annotated[
        bool | None, typer.Option("--gradient-checkpointing/--no-gradient-checkpointing")
    ] = None,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Skip the isolation probe.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Write into a folder in use.")] = False,
    hourly_price: Annotated[float | None, typer.Option(help="Price per hour, to state the cost.")] = None,
) -> None:
    """Fine-tune a model on packed rows: QLoRA, LoRA or full, with the isolation of documents proven first."""
    from trainer_plugin.recipe import load_recipe

    flags: dict[str, Any] = {
        "method": method,
        "attn": attn,
        "loss": loss,
        "dtype": dtype,
        "epochs": epochs,
        "max_steps": max_steps,
        "batch_rows": batch_rows,
        "accumulation": accumulation,
        "learning_rate": learning_rate,
        "seed": seed,
        "eval_steps": eval_steps,
        "save_steps": save_steps,
        "gradient_checkpointing": gradient_checkpointing,
        "probe": False if no_probe else None,
    }
    settings = load_recipe(recipe, **flags)
    _quiet_libraries()
    from trainer_plugin.run import run_training

    result = run_training(artefact, model, settings, out, resume=resume, overwrite=overwrite, say=_say)
    for line in _summary(result, hourly_price):
        _say(line)
    typer.echo(result.out)


@app.command("merge-adapter")
def merge_adapter(
    adapter: Annotated[Path, typer.Argument(help="Folder that `tokpack train -o` wrote.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the merged model.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="Base, when it has moved.")] = None,
) -> None:
    """Merge an adapter into its base model: a plain model folder that needs neither PEFT nor bitsandbytes."""
    _quiet_libraries()
    from trainer_plugin.qlora import merge_dequantized

    typer.echo(str(merge_dequantized(adapter, out, model=model)))


def _summary(result: Any, hourly_price: float | None) -> list[str]:
    difference = result.tokens / result.predicted_tokens - 1 if result.predicted_tokens else 0.0
    lines = [
        f"{result.steps:,} steps in {result.seconds:,.1f} s, {result.tokens_per_second:,.1f} tokens/s",
        f"tokens: {result.predicted_tokens:,} predicted, {result.tokens:,} trained on ({difference:+.2%}), "
        f"{result.trained_tokens:,} with loss",
    ]
    if result.loss_before is not None and result.loss_after is not None:
        lines.append(f"held-out loss: {result.loss_before:.4f} before, {result.loss_after:.4f} after")
    if hourly_price is not None:
        lines.append(f"cost: {result.seconds / 3600 * hourly_price:,.4f} at {hourly_price:g} an hour")
    lines.append(f"{'model' if result.method == 'full' else 'adapter'}: {result.out}")
    return lines


def _say(line: str) -> None:
    import os

    if os.environ.get("RANK", "0") == "0":
        typer.echo(line, err=True)


def _quiet_libraries() -> None:
    """Loading bars and advice of the libraries would drown our own lines; their errors still show."""
    import logging
    import os
    import warnings

    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")

"""`tokpack train` and `tokpack merge-adapter`. Importing this module imports no library of training."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tokpack.cli.options import FOLDER, GPUS, NAMED, WRITTEN, NoCheck, Packed, completed
from tokpack.terminal import interrupts
from tokpack.terminal.printable import hand_over
from trainer_plugin.evaluation.cli import app as evaluation
from trainer_plugin.processes import is_first_process, leave_processes
from trainer_plugin.serve_config.cli import app as serve_config
from trainer_plugin.serving.cli import app as serving

if TYPE_CHECKING:
    from tokpack.terminal.activity import Activity
    from trainer_plugin.recipe import Recipe

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Only the folder written, on stdout.")]
app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command(rich_help_panel="Training")
def train(
    packed: Packed,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model: its folder or Hub name.", metavar="TEXT", **NAMED)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the adapter or model.", **WRITTEN)],
    recipe: Annotated[Path | None, typer.Option(help="TOML file; flags win over it.")] = None,
    method: Annotated[
        str | None,
        typer.Option(help="qlora (default), lora or full.", **completed("qlora", "lora", "full")),
    ] = None,
    attn: Annotated[
        str | None, typer.Option(help="auto (default), tokpack, mixers, loop, sdpa, eager, ...")
    ] = None,
    loss: Annotated[str | None, typer.Option(help="Mean over each token (default) or each document.")] = None,
    order: Annotated[
        str | None, typer.Option(help="Order of the rows: auto (default), packed, balanced or random.")
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32, bfloat16 or float16.")] = None,
    epochs: Annotated[float | None, typer.Option(help="Passes over the rows (default 1).")] = None,
    max_steps: Annotated[int | None, typer.Option(help="Optimizer steps, instead of epochs.")] = None,
    batch_rows: Annotated[int | None, typer.Option(help="Packed rows per device and micro-batch.")] = None,
    accumulation: Annotated[int | None, typer.Option(help="Micro-batches per optimizer step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate (default 2e-4).")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of row order, adapter and dropout.")] = None,
    eval_steps: Annotated[
        int | None, typer.Option(help="Steps between evaluations of the held-out loss.")
    ] = None,
    patience: Annotated[
        int | None, typer.Option(help="End after this many evaluations without a lower loss; keeps the best.")
    ] = None,
    save_steps: Annotated[int | None, typer.Option(help="Steps between checkpoints.")] = None,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option(
            "--gradient-checkpointing",
            help="Compute activations again in the backward pass: less memory, a third more time.",
        ),
    ] = False,
    no_gradient_checkpointing: Annotated[
        bool, typer.Option("--no-gradient-checkpointing", help="Keep activations: more memory, faster.")
    ] = False,
    token_budget: Annotated[
        int | None, typer.Option(help="End with the packed row that reaches this many tokens.")
    ] = None,
    gpu: Annotated[
        str | None, typer.Option(help="GPU that trains, such as a10: prediction and price.", **GPUS)
    ] = None,
    gpu_price: Annotated[
        float | None, typer.Option(help="Dollars per hour of one GPU; the table's when not given.")
    ] = None,
    gpus: Annotated[Path | None, typer.Option(help="TOML file with GPUs and prices of your own.")] = None,
    max_cost: Annotated[
        float | None, typer.Option(help="End after the step in which this many dollars are spent.")
    ] = None,
    document_log: Annotated[
        str | None, typer.Option(help=".parquet or .jsonl file for each document's loss in each epoch.")
    ] = None,
    loss_by_source: Annotated[
        bool, typer.Option("--loss-by-source", help="Log the loss of each source of a mix as well.")
    ] = False,
    merge: Annotated[
        Path | None, typer.Option(help="Also merge the adapter into its base, in this new folder.", **WRITTEN)
    ] = None,
    no_check: NoCheck = False,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Skip the isolation probe.")] = False,
    compare: Annotated[
        bool,
        typer.Option("--eval", help="At the end compare the adapter with its base, as tokpack eval does."),
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write into a folder in use, without its checkpoints.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Fine-tune a model on packed rows: QLoRA, LoRA or full, with the isolation of documents proven first."""
    given = locals()  # flags named after fields of the recipe say what those are
    from trainer_plugin.extras import need_training
    from trainer_plugin.output_folder import check_mergeable, check_name, check_output_folder, how_to_go_on
    from trainer_plugin.recipe import Recipe, load_recipe

    need_training()
    flags = {field.name: given[field.name] for field in fields(Recipe) if field.name in given}
    flags["gradient_checkpointing"] = False if no_gradient_checkpointing else gradient_checkpointing or None
    flags["loss_by_source"] = loss_by_source or None
    flags["probe"] = False if no_probe else None
    settings = load_recipe(recipe, **flags)
    check_name(out)
    if is_first_process() and not resume:
        check_output_folder(out, overwrite)
    interrupts.go_on(lambda: how_to_go_on(out))
    with _activity(quiet) as tell:
        with tell.doing("looking at what was given"):
            from trainer_plugin.training.run import check_run, run_training

            check_run(packed, model, settings, out, resume=resume, gpus=gpus)
            if merge is not None:
                check_mergeable(settings, out, merge)
            if compare:
                import_module("trainer_plugin.evaluation.asked").check_comparable(packed, settings)
        _load_libraries(tell)
        from trainer_plugin.adapters.merge import merge_dequantized
        from trainer_plugin.models.private_names import require_trainer

        require_trainer("tokpack train")
        result = run_training(
            packed,
            model,
            settings,
            out,
            resume=resume,
            overwrite=overwrite,
            gpus=gpus,
            check=not no_check,
            tell=tell,
        )
        interrupts.go_on(lambda: f"{out} is trained; tokpack eval or merge-adapter does what was left")
        for line in _summary(result):
            tell.say(line)
        if compare:
            _compare(packed, model, settings, out, tell)
        if merge is not None and is_first_process():
            merge_dequantized(out, merge, model=model, tell=tell)
            tell.say(f"merged model: {merge}")
    if is_first_process():
        hand_over(result.out)
    leave_processes()


def _compare(packed: Path, model: str, recipe: Recipe, out: Path, tell: Activity) -> None:
    """The trained adapter with its base, as `--eval` asks."""
    from trainer_plugin.evaluation.after_training import PAGE, evaluate_result

    found = evaluate_result(packed, model, recipe, out, tell)
    if not tell.quiet:
        tell.console.print(found)
    tell.say(f"evaluation: {out / PAGE}")


@app.command("merge-adapter", rich_help_panel="Training")
def merge_adapter(
    adapter: Annotated[Path, typer.Argument(help="Folder that `tokpack train -o` wrote.", **FOLDER)],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the merged model.", **WRITTEN)],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Folder or Hub name of the base, when it has moved.",
            metavar="TEXT",
            **NAMED,
        ),
    ] = None,
    original: Annotated[
        bool,
        typer.Option(
            "--original",
            help="Merge into the original base: answers then differ from those that QLoRA trained.",
        ),
    ] = False,
    no_check: Annotated[bool, typer.Option("--no-check", help="Do not compare the logits.")] = False,
    quiet: Quiet = False,
) -> None:
    """Merge an adapter into its base model: a plain model folder that needs neither PEFT nor bitsandbytes."""
    from trainer_plugin.extras import need_training
    from trainer_plugin.output_folder import check_empty, check_name

    need_training()
    check_name(out)
    check_empty(out)
    with _activity(quiet) as tell:
        with tell.doing("looking at what was given"):
            from trainer_plugin.checkpoints.adapter_folder import check_adapter

            check_adapter(adapter, model, "--model")
        _load_libraries(tell)
        from trainer_plugin.adapters.merge import merge_dequantized

        merged = merge_dequantized(
            adapter, out, model=model, original=original, check=not no_check, tell=tell
        )
    hand_over(str(merged))


@app.command("push-adapter", rich_help_panel="Training")
def push_adapter(
    adapter: Annotated[Path, typer.Argument(help="Folder that `tokpack train -o` wrote.", **FOLDER)],
    url: Annotated[str, typer.Argument(help="hf://USER/NAME, s3://BUCKET/FOLDER, ...")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace another one there.")] = False,
    quiet: Quiet = False,
) -> None:
    """Copy an adapter to the Hugging Face Hub or other storage, with a card made from its records."""
    from trainer_plugin.adapters import publishing

    with _activity(quiet) as tell:
        pushed = publishing.push_adapter(adapter, url, overwrite=overwrite, private=private, tell=tell)
    hand_over(pushed)


def _summary(result: Any) -> list[str]:
    from tokpack.terminal.activity import counted, duration
    from trainer_plugin.words import dollars

    difference = result.tokens / result.predicted_tokens - 1 if result.predicted_tokens else 0.0
    ended = "" if result.ended == "done" else f" ({result.ended})"
    taken = f"{duration(result.seconds)} taken"
    if result.evaluation_seconds:
        taken += f", {duration(result.evaluation_seconds)} of it for evaluation"
    lines = [
        f"{counted(result.steps, 'step')}{ended}, {result.tokens_per_second:,.1f} tokens/s",
        f"tokens: {result.predicted_tokens:,} predicted, {result.tokens:,} trained on ({difference:+.2%}), "
        f"{result.trained_tokens:,} with loss",
        f"time: {_range(result.predicted_seconds, duration)}{taken}"
        + (f" (predicted: {result.prediction})" if result.prediction else ""),
    ]
    if result.cost is not None:
        rate = f"${result.gpu_price:g} an hour" + (f" x {result.processes}" if result.processes > 1 else "")
        spent = f"{_range(result.predicted_cost, dollars)}{dollars(result.cost)} spent"
        lines.append(f"cost: {spent}, at {rate}")
    if result.loss_before is not None and result.loss_after is not None:
        lines.append(f"held-out loss: {result.loss_before:.4f} before, {result.loss_after:.4f} after")
    if result.rewards_after is not None:
        rewards = result.rewards_after
        if "accuracy" in rewards:
            lines.append(
                f"held-out pairs: the chosen answer ahead in {rewards['accuracy']:.1%}, "
                f"by {rewards['margin']:.4f} on average"
            )
        elif "margin" in rewards:
            lines.append(f"held-out answers: good ones ahead of bad ones by {rewards['margin']:.4f}")
    lines.append(f"{'model' if result.method == 'full' else 'adapter'}: {result.out}")
    return lines


def _range(predicted: tuple[float, float] | None, shown: Any) -> str:
    if predicted is None:
        return ""
    ends = list(dict.fromkeys(map(shown, predicted)))
    return " to ".join(ends) + " predicted, "


def _activity(quiet: bool) -> Activity:
    """Tells on stderr, in the first process only."""
    from tokpack.terminal.activity import Activity

    return Activity(quiet=quiet or not is_first_process())


def _load_libraries(tell: Activity) -> None:
    """The first import takes seconds, from a cold disk half a minute."""
    from trainer_plugin.extras import ready_libraries

    with tell.doing("loading PyTorch and transformers"):
        ready_libraries()
        import_module("trainer_plugin.training.trainer")
        import_module("peft")


app.registered_commands += evaluation.registered_commands
app.registered_commands += serving.registered_commands
app.registered_commands += serve_config.registered_commands

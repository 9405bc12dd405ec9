"""`tokpack eval`. Importing this module imports no library of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tokpack.cli.options import NAMED, WRITTEN, Json, NoCheck, NoProgress, Packed, one_of, packed_folder
from tokpack.cli.output import activity, say, show
from tokpack.terminal.printable import hand_over_json
from trainer_plugin.options import ADAPTERS, BaseWeights, Dtype, check_weights

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command("eval", rich_help_panel="Training")
def evaluate(
    packed: Packed,
    adapter: Annotated[list[str], ADAPTERS],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Base; the one that the adapter names when not given.",
            metavar="TEXT",
            **NAMED,
        ),
    ] = None,
    control: Annotated[
        Path | None,
        typer.Option(
            help="Packed dataset of text that the model should not forget.",
            parser=packed_folder,
            metavar="PATH",
        ),
    ] = None,
    split: Annotated[
        str, typer.Option(help="validation, train, or auto: the validation part where there is one.")
    ] = "auto",
    max_rows: Annotated[int, typer.Option(help="Only this many packed rows, drawn by --seed; 0: all.")] = 0,
    tasks: Annotated[
        list[str] | None,
        typer.Option(help="Task of lm-eval, a name or a .yaml file; more than once (extra eval)."),
    ] = None,
    limit: Annotated[int, typer.Option(help="Only the first questions of each task, this many; 0: all.")] = 0,
    num_fewshot: Annotated[
        int | None, typer.Option(help="Examples in each prompt; as the task says when not given.")
    ] = None,
    chat_template: Annotated[
        bool,
        typer.Option("--chat-template", help="Render prompts of tasks by the tokenizer's chat template."),
    ] = False,
    trust_tasks: Annotated[
        bool,
        typer.Option("--trust-tasks", help="Task files may run code of theirs (!function); read them first."),
    ] = False,
    gate: Annotated[
        list[str] | None,
        typer.Option(help='As "heldout < -0.02"; exit code 1 unless the interval meets it.'),
    ] = None,
    base_weights: BaseWeights = "auto",
    dtype: Dtype = "auto",
    attn: Annotated[str, typer.Option(help="auto, tokpack, mixers, loop, sdpa, eager, ...")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed that draws --max-rows.")] = 0,
    html: Annotated[Path | None, typer.Option(help="Also write the figures as a page.", **WRITTEN)] = None,
    no_check: NoCheck = False,
    no_probe: Annotated[bool, typer.Option("--no-probe", help="Skip the isolation probe.")] = False,
    json: Json = False,
    quiet: NoProgress = False,
) -> None:
    """Compare adapters with their base on held-out documents: each document with itself, with intervals.

    With --tasks also on benchmarks, question by question. A --gate is about heldout, improved, control, a
    task's name, and for preference pairs reward_accuracy or reward_margin; the unfavorable end of the
    interval decides.
    """
    from tokpack.errors import check_place, writing
    from trainer_plugin.extras import need_training, ready_libraries

    need_training()
    one_of("--split", split, ("auto", "validation", "train"))
    check_weights(base_weights, dtype)

    def before() -> None:
        from trainer_plugin.evaluation.asked import check_asked

        check_place(html, "--html")
        check_asked(packed, model, adapter, control, gate or ())

    with activity(quiet, "trainer_plugin.evaluation.run", before, ready_libraries) as (tell, run):
        found = run.evaluate(
            packed,
            model,
            adapter,
            control=control,
            tasks=tasks or (),
            gates=gate or (),
            task_settings=run.TaskSettings(
                limit=limit, num_fewshot=num_fewshot, chat_template=chat_template, trusted=trust_tasks
            ),
            settings=run.EvalSettings(
                split=split,
                max_rows=max_rows,
                attn=attn,
                dtype=dtype,
                base_weights=base_weights,
                probe=not no_probe,
                check=not no_check,
                seed=seed,
            ),
            tell=tell,
        )
        if html is not None:
            with tell.doing("drawing the page"), writing(html, resumes=False):
                found.save_html(html)
            tell.say(f"page: {html}")
    _show(found, json)
    if not found.passed:
        raise typer.Exit(1)


def _show(found: Any, json: bool) -> None:
    if json:
        hand_over_json(found.to_dict())
        for gate in found.gates:
            if not gate.passed:
                say(f"gate {gate.sentence}", quiet=False)
    else:
        show(found)

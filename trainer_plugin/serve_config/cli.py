"""`tokpack serve-config` and `tokpack convert-adapter`. Importing this imports no library of training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tokpack.cli.options import FOLDER, NAMED, WRITTEN, NoProgress, one_of
from tokpack.cli.output import activity, say
from tokpack.terminal.printable import hand_over
from trainer_plugin.options import AFTER_TRAINING

app = typer.Typer(no_args_is_help=True, add_completion=False)
MovedBase = Annotated[
    str | None,
    typer.Option(help="Folder or Hub name of the base, when it has moved.", metavar="TEXT", **NAMED),
]


@app.command("serve-config", rich_help_panel=AFTER_TRAINING)
def serve_config(
    adapters: Annotated[
        list[str], typer.Argument(help="Adapter folders, or NAME=FOLDER.", show_default=False, **NAMED)
    ],
    engine: Annotated[
        str, typer.Option("--engine", "-e", help="vllm, sglang, lmdeploy, llamacpp or ollama.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for all that is served.", **WRITTEN)],
    base: MovedBase = None,
    convert: Annotated[
        bool,
        typer.Option("--convert", help="Convert refused adapters to what can be served; merge the others."),
    ] = False,
    context: Annotated[
        int | None, typer.Option(help="Tokens of a prompt and its answer; the model's, up to 8,192.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port that the engine listens on.")] = 8000,
    quiet: NoProgress = False,
) -> None:
    """Write what an engine needs to serve adapters: their base, their form, start command, systemd, Docker.

    What the engine refuses of an adapter (DoRA, changed starts, whole layers, biases) is said first.
    """
    from trainer_plugin.checkpoints.adapter_config import read_config
    from trainer_plugin.checkpoints.adapter_folder import check_adapter
    from trainer_plugin.extras import need_training, ready_libraries
    from trainer_plugin.output_folder import check_empty
    from trainer_plugin.serve_config.asked import named_adapters, refused_adapters
    from trainer_plugin.serve_config.limits import ENGINES

    need_training()
    one_of("--engine", engine, ENGINES)

    def before() -> None:
        check_empty(out)
        named = named_adapters(adapters)
        for folder in named.values():
            check_adapter(folder, base, "--base")
        configs = {name: read_config(folder) for name, folder in named.items()}
        refused_adapters(configs, engine, convert)

    with activity(quiet, "trainer_plugin.serve_config.write", before, ready_libraries) as (tell, write):
        made = write.write_config(
            adapters, engine, out, base=base, convert=convert, context=context, port=port, tell=tell
        )
    for note in made.notes:
        say(f"note: {note}", quiet)
    hand_over(str(made.folder / "start.sh"))


@app.command("convert-adapter", rich_help_panel=AFTER_TRAINING)
def convert_adapter(
    adapter: Annotated[Path, typer.Argument(help="Adapter folder.", show_default=False, **FOLDER)],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="Folder for the adapter, or the merged model.", **WRITTEN),
    ],
    base: MovedBase = None,
    quiet: NoProgress = False,
) -> None:
    """Make plain LoRA of an adapter that servers refuse; what no plain LoRA can say is merged into its base.

    PiSSA and OLoRA become plain by PEFT, rsLoRA and patterns of rank and alpha by their scales; DoRA, whole
    layers and biases are merged. The logits are compared before and after.
    """
    from trainer_plugin.checkpoints.adapter_folder import check_adapter
    from trainer_plugin.extras import need_training, ready_libraries
    from trainer_plugin.output_folder import check_empty

    need_training()

    def before() -> None:
        check_empty(out)
        check_adapter(adapter, base, "--base")

    with activity(quiet, "trainer_plugin.adapters.convert", before, ready_libraries) as (tell, module):
        made = module.convert_adapter(adapter, out, base=base, tell=tell)
    say("merged: a model of its own" if made.way == "merge" else "plain LoRA", quiet)
    hand_over(str(made.folder))

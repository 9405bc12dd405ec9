"""`tokpack serve` and what belongs to it. Importing this module imports no library of training."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from tokpack.cli.options import NAMED, Json, NoProgress
from tokpack.cli.output import activity, say
from tokpack.terminal.printable import hand_over, hand_over_json, printable
from trainer_plugin.options import ADAPTERS, AFTER_TRAINING, Base, BaseWeights, Dtype, check_weights

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command(rich_help_panel=AFTER_TRAINING)
def serve(
    base: Annotated[
        str, typer.Argument(help="Base model: a folder, or a name on the Hub.", show_default=False, **NAMED)
    ],
    adapter: Annotated[list[str] | None, ADAPTERS] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any but loopback needs an API key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8000,
    name: Annotated[
        str | None, typer.Option(help="Name of the base in requests; its own when not given.")
    ] = None,
    adapters_below: Annotated[
        Path | None, typer.Option(help="Adapters below this folder may be loaded and unloaded over HTTP.")
    ] = None,
    max_rows: Annotated[int, typer.Option(help="Requests that are answered at once.")] = 16,
    queue: Annotated[int, typer.Option(help="Requests that wait; more are refused with 429.")] = 64,
    context: Annotated[int, typer.Option(help="Most tokens of a prompt and its answer.")] = 4096,
    cache_tokens: Annotated[
        int, typer.Option(help="Tokens of keys and values in memory, for all requests together.")
    ] = 32768,
    timeout: Annotated[float, typer.Option(help="Seconds from a request to the end of its answer.")] = 600.0,
    base_weights: BaseWeights = "auto",
    dtype: Dtype = "auto",
    quiet: NoProgress = False,
) -> None:
    """Serve a base model and its adapters by OpenAI's HTTP interface; each request chooses one by `model`.

    For one machine, tests and small teams. Requests for different adapters run in one batch. The API key is
    read from TOKPACK_API_KEY. Ctrl-C ends it.
    """
    from trainer_plugin.checkpoints.adapter_folder import check_adapters
    from trainer_plugin.extras import need_training, ready_libraries
    from trainer_plugin.serving.address import KEY, base_name_of, check_key, need_server

    need_training()
    check_weights(base_weights, dtype)
    limits = _limits(
        max_rows=max_rows, queue=queue, context=context, cache_tokens=cache_tokens, timeout=timeout
    )
    key = os.environ.get(KEY) or None

    def before() -> None:
        need_server()
        check_key(host, key)
        check_adapters(adapter or (), base, "BASE")

    with activity(quiet, "trainer_plugin.serving.run", before, ready_libraries) as (tell, _):
        known = base_name_of(base) if name is None else name
        with tell.doing("loading libraries of the server"):
            start = import_module("trainer_plugin.serving.start")
        options: dict[str, Any] = {"host": host, "port": port, "key": key, "adapters_below": adapters_below}
        options |= {"base_weights": base_weights, "dtype": dtype}
        server = start.prepare(base, adapter or (), known, limits=limits, **options, tell=tell)
    hand_over(server.address)
    for line in server.lines():
        say(line, quiet)
    server.run()


def json_object(flag: str, text: str | None) -> dict[str, Any]:
    """Raise UsageError for what is no JSON object."""
    import json

    from tokpack.errors import UsageError

    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError(
            "no JSON object", where=f"{flag} {text}", hint="quote it for the shell, as '{\"key\": 1}'"
        )
    return found


def _limits(**given: float) -> Any:
    from tokpack.errors import UsageError
    from trainer_plugin.serving.values import Limits

    least = {"max_rows": 1, "queue": 0, "context": 2, "cache_tokens": 16, "timeout": 0.001}
    for name, value in given.items():
        if not value >= least[name]:
            raise UsageError(
                f"at least {least[name]:g} is needed", where=f"--{name.replace('_', '-')} {value:g}"
            )
    return Limits(
        rows=int(given["max_rows"]),
        queue=int(given["queue"]),
        context=int(given["context"]),
        slots=int(given["cache_tokens"]),
        seconds=given["timeout"],
    )


@app.command("verify-served", rich_help_panel=AFTER_TRAINING)
def verify_served(
    url: Annotated[str, typer.Argument(help="As http://127.0.0.1:8000/v1.", show_default=False)],
    model: Annotated[str, typer.Option("--model", "-m", help="How the server names the adapter.")],
    adapter: Annotated[
        str, typer.Option("--adapter", "-a", help="The adapter that should answer.", metavar="TEXT", **NAMED)
    ],
    base: Base = None,
    data: Annotated[
        str | None,
        typer.Option(help="Packed dataset: its held-out part is asked about; made texts otherwise."),
    ] = None,
    other: Annotated[
        list[str] | None,
        typer.Option(
            help="An adapter that may be answering instead; more than once.",
            show_default=False,
            metavar="TEXT",
            **NAMED,
        ),
    ] = None,
    documents: Annotated[int, typer.Option(help="Most documents of --data to ask about.")] = 8,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of each document.")] = 512,
    api_key_env: Annotated[str, typer.Option(help="Variable that holds the API key.")] = "TOKPACK_API_KEY",
    timeout: Annotated[float, typer.Option(help="Seconds that one request may take.")] = 120.0,
    extra_body: Annotated[
        str | None,
        typer.Option(help='JSON fields of every request, as \'{"lora": [{"id": 0, "scale": 1}]}\'.'),
    ] = None,
    base_weights: BaseWeights = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
    quiet: NoProgress = False,
) -> None:
    """Prove over HTTP that a server answers with the adapter: exit code 1 unless it does.

    Its log-probabilities are compared with those of base and adapter here, relative to what the adapter
    changes. The base instead, another adapter, another scale or chat template, a truncated context: each is
    named.
    """
    from trainer_plugin.checkpoints.adapter_folder import check_adapters
    from trainer_plugin.extras import need_training, ready_libraries

    need_training()
    check_weights(base_weights, dtype)
    extra = json_object("--extra-body", extra_body)

    def before() -> None:
        check_adapters([adapter, *(other or ())], base, "--base")
        if data is not None:
            import_module("trainer_plugin.rows.dataset").PackedDataset(data)

    with activity(quiet, "trainer_plugin.served_proof.run", before, ready_libraries) as (tell, run):
        settings = run.ProofSettings(
            documents=max(1, documents),
            tokens=max(16, max_tokens),
            base_weights=base_weights,
            dtype=dtype,
            seconds=timeout,
            extra_body=extra,
        )
        found = run.verify_served(
            url,
            model,
            adapter,
            base=base,
            data=data,
            others=other or (),
            key=os.environ.get(api_key_env) or None,
            settings=settings,
            tell=tell,
        )
    if json:
        hand_over_json(found.to_dict(), ensure_ascii=True)
    else:
        for line in found.lines():
            typer.echo(printable(line))
    if not found.passed:
        raise typer.Exit(1)


@app.command(rich_help_panel=AFTER_TRAINING)
def chat(
    adapter: Annotated[
        str, typer.Argument(help="Adapter folder, or NAME=FOLDER.", show_default=False, **NAMED)
    ],
    base: Base = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Most tokens of each answer.")] = 512,
    temperature: Annotated[
        float, typer.Option(min=0, max=2, help="Sampling temperature; 0: the likeliest token.")
    ] = 0.7,
    top_p: Annotated[
        float, typer.Option(min=0, max=1, help="Nucleus sampling: the share of probability to draw from.")
    ] = 0.95,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the sampling: the same seed gives the same answers.")
    ] = None,
    context: Annotated[int, typer.Option(help="Most tokens of the conversation.")] = 4096,
    base_weights: BaseWeights = "auto",
    dtype: Dtype = "auto",
    quiet: NoProgress = False,
) -> None:
    """Talk to an adapter in the terminal; each line of a pipe is a turn. /reset, /base, /adapter and /quit.

    Answers go to stdout, everything else to stderr. Exit code 1 where a turn was not answered.
    """
    from trainer_plugin.checkpoints.adapter_folder import check_adapters
    from trainer_plugin.extras import need_training, ready_libraries
    from trainer_plugin.serving.address import need_server

    need_training()
    check_weights(base_weights, dtype)

    def before() -> None:
        need_server()
        check_adapters([adapter], base, "--base")

    with activity(quiet, "trainer_plugin.serving.talk", before, ready_libraries) as (tell, module):
        options: dict[str, Any] = {"system": system, "max_tokens": max(1, max_tokens), "seed": seed}
        options |= {"temperature": temperature, "top_p": top_p, "context": max(2, context)}
        options |= {"base_weights": base_weights, "dtype": dtype}
        talk = module.open_talk(adapter, base, **options, tell=tell)
    if sys.stdin.isatty():
        say(module.HELP, quiet)
    good = module.converse(talk, sys.stdin, sys.stdout, lambda line: say(line, quiet))
    talk.engine.close()
    if not good:
        raise typer.Exit(1)

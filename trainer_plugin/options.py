"""Flags that several commands have. Importing this module imports no library of training."""

from __future__ import annotations

from typing import Annotated

import typer

from tokpack.cli.options import NAMED, one_of

AFTER_TRAINING = "After training"
"""Where the help of tokpack lists what is done with an adapter."""
ADAPTERS = typer.Option(
    "--adapter",
    "-a",
    help="Adapter folder, or NAME=FOLDER; more than once.",
    show_default=False,
    metavar="TEXT",
    **NAMED,
)
Base = Annotated[
    str | None,
    typer.Option(help="Base; the one that the adapter names when not given.", metavar="TEXT", **NAMED),
]
BaseWeights = Annotated[
    str, typer.Option(help="auto (as the adapters were trained), original, or nf4 (4 bits).")
]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]


def check_weights(base_weights: str, dtype: str) -> None:
    """Raise UsageError for another value of --base-weights or --dtype."""
    one_of("--base-weights", base_weights, ("auto", "original", "nf4"))
    one_of("--dtype", dtype, ("auto", "float32", "bfloat16", "float16"))

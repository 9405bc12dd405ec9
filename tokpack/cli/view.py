"""The command `view`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tokpack.cli.app import PACKED, app
from tokpack.cli.options import Quiet, takes
from tokpack.cli.output import activity, say
from tokpack.cli.prepare import as_keywords
from tokpack.settings.options import CleaningOptions, FormatOptions, ReadOptions, RenderOptions, RowOptions
from tokpack.terminal.printable import hand_over


@app.command(rich_help_panel=PACKED)
@takes(ReadOptions, FormatOptions, CleaningOptions, RenderOptions, RowOptions)
def view(
    data: Annotated[
        list[str],
        typer.Argument(
            help="Folder that `tokpack pack -o` wrote, or raw data with --tokenizer.", show_default=False
        ),
    ],
    *,
    document_log: Annotated[
        Path | None, typer.Option(help="Losses of documents, as `tokpack train --document-log` wrote them.")
    ] = None,
    keep_file: Annotated[
        Path, typer.Option(help="Where the page writes what to keep after all, for `pack --keep`.")
    ] = Path("keep.txt"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback; 0: any free one.")] = 0,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
    quiet: Quiet = False,
    **options: Any,
) -> None:
    """Look at rows, documents and what was left out, on a page that this machine alone can open.

    Nothing leaves the machine. Raw data is packed into a scratch folder first. The page ends with Ctrl-C.
    """
    from tokpack.terminal.interrupts import scratch_folder

    with scratch_folder() as scratch:
        with activity(quiet, "tokpack.view.run") as (tell, run):
            run.need_server()
            packed = run.open_data(data, scratch, tell, as_keywords(options))
        run.serve_page(
            packed,
            keep_file=keep_file,
            log=document_log,
            port=port,
            browser=not no_browser,
            tell=lambda address: _tell(address, quiet),
        )


def _tell(address: str, quiet: bool) -> None:
    hand_over(address)
    say("open it in a browser of this machine; Ctrl-C ends it", quiet)

"""`tokpack view`: open a packed dataset, or pack raw data into a scratch folder first, and serve its page."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError
from tokpack.on_disk.manifest import is_finished
from tokpack.on_disk.sums import need_folder
from tokpack.packed.folder import PackedFolder
from tokpack.packed_urls import local_folder
from tokpack.terminal.activity import Activity
from tokpack.terminal.interrupts import scratch_folder
from tokpack.view.detail import Shown
from tokpack.view.table import DocumentTable
from tokpack.view.texts import Texts
from tokpack.view.wishes import KeepFile

SWITCH_SECONDS = 5e-4
"""For which a thread has the interpreter: an answer takes it hundreds of times, from the thread of texts."""


def need_server() -> None:
    """Raises UsageError where the extra is not installed."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError:
        raise UsageError(
            "the page is served by starlette and uvicorn, which are not installed",
            where="tokpack view",
            hint='pip install "tokpack[view]"',
        ) from None


def open_data(data: list[str], scratch: Path, tell: Activity, options: dict[str, Any]) -> PackedFolder:
    """The packed dataset that was named, or one that is made of raw data in `scratch`."""
    given = {name for name, value in options.items() if value is not None}
    if len(data) == 1 and Path(data[0]).is_dir() and is_finished(Path(data[0])):
        if given:
            raise UsageError(
                "a packed dataset is shown as it is",
                where=f"--{min(given).replace('_', '-')}",
                hint="leave the option out, or give the raw data",
            )
        return PackedFolder(Path(data[0]))
    if len(data) == 1 and "://" in data[0] and not given:
        return PackedFolder(local_folder(data[0], tell))
    if len(data) == 1 and not given and not glob.has_magic(data[0]) and not Path(data[0]).exists():
        need_folder(Path(data[0]))
    if not options.get("tokenizer") and not options.get("config"):
        raise UsageError(
            "raw data is shown as a model would see it, and there is no tokenizer",
            where=", ".join(data) or "DATA",
            hint="give --tokenizer, the folder or Hub name of your model, or the folder of a packed dataset",
        )
    from tokpack.api import pack

    return pack(data, scratch / "packed", tell=tell, **options)


@contextmanager
def shown(packed: PackedFolder, keep_file: Path, log: Path | None = None) -> Iterator[Shown]:
    """All that the page asks for; the texts are made behind it, from its first list on."""
    usual = sys.getswitchinterval()
    with scratch_folder() as folder:
        table = DocumentTable(packed, log)
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            yield Shown(table, Texts(table, folder), KeepFile(keep_file, packed))
        finally:
            sys.setswitchinterval(usual)


def serve_page(
    packed: PackedFolder,
    *,
    keep_file: Path,
    log: Path | None = None,
    port: int = 0,
    browser: bool = True,
    tell: Callable[[str], None],
) -> None:
    """Serve the page until the process is interrupted. `tell` gets its address."""
    from tokpack.view.server import loopback_socket, make_app, new_token, serve

    with loopback_socket(port) as bound, shown(packed, keep_file, log) as found:
        token = new_token()
        address = f"http://127.0.0.1:{bound.getsockname()[1]}/{token}/"
        app = make_app(found, token)
        tell(address)
        if browser:
            _open(address)
        serve(app, bound)


def _open(address: str) -> None:
    """In the user's browser; a machine without one is no error."""
    import threading
    import webbrowser

    threading.Timer(0.3, webbrowser.open, (address,)).start()

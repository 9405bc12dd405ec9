"""Export: a packed dataset in another trainer's layout, with the settings that keep its documents apart.

    tokpack export packed --to trl -o for-trl

An exporter is a function `(packed, folder) -> None`; your own is given as "module:function" or comes from an
entry point of the group `tokpack.exporters`. The folder it writes is moved into place when it is whole.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tokpack.errors import UsageError, writing
from tokpack.export.axolotl import export as to_axolotl
from tokpack.export.common import rows_told_to, splits
from tokpack.export.llamafactory import export as to_llamafactory
from tokpack.export.megatron import export as to_megatron
from tokpack.export.megatron_bridge import export as to_megatron_bridge
from tokpack.export.trl import export as to_trl
from tokpack.files.fresh_folder import fresh_folder
from tokpack.files.own_files import Own, entries_below
from tokpack.on_disk.sums import file_sha256
from tokpack.packed.folder import PackedFolder
from tokpack.packed_urls import local_folder, name_of
from tokpack.plugins import resolve
from tokpack.schema import LOSS_WEIGHTS, PREFERENCE, SUMS, UNPAIRED
from tokpack.stages.write import write_json
from tokpack.terminal.activity import Activity, default_activity

Exporter = Callable[[PackedFolder, Path], None]

EXPORTERS: dict[str, Exporter] = {
    "trl": to_trl,
    "axolotl": to_axolotl,
    "llamafactory": to_llamafactory,
    "megatron-bridge": to_megatron_bridge,
    "megatron": to_megatron,
}
RECORD = "export.json"
"""Marks a folder as an export, and names what tokpack wrote into it."""
COMPILED = re.compile(r"__pycache__/[\w.-]+\.pyc")


def export(
    packed: PackedFolder | str | os.PathLike[str],
    to: str | Exporter,
    out: str | os.PathLike[str],
    *,
    context_parallel: int = 1,
    overwrite: bool = False,
    check: bool = True,
    tell: Activity | None = None,
) -> Path:
    """Write `packed` into the new folder `out` for the trainer `to`, and return the folder.

    `context_parallel`: ranks that share one row, a power of two; for megatron-bridge alone.
    `check`: the sums of its shards are compared first.

    Raises UsageError for an unknown trainer, a packed dataset it cannot take, or an `out` in the way, and
    OutputError where `out` cannot be written.
    """
    packed = packed if isinstance(packed, PackedFolder) else PackedFolder(local_folder(packed))
    out, tell = Path(out), tell or default_activity()
    exporter = resolve("exporter", to, EXPORTERS)
    if exporter in EXPORTERS.values():
        _check_supervised(packed, to)
    if context_parallel != 1:
        exporter = _parallel(to, exporter, context_parallel)
    if packed.folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise UsageError(
            "the output lies in the packed dataset", where=str(out), hint="give -o another folder"
        )
    if check:
        packed.check_sums()
    rows = sum(map(len, splits(packed).values()))
    with writing(out, resumes=False), fresh_folder(out, overwrite, exported_files) as folder:
        with tell.doing(f"exporting to {to}", rows, "rows") as advance, rows_told_to(advance):
            exporter(packed, folder)
        write_json(
            folder / RECORD,
            {
                "to": to if isinstance(to, str) else getattr(to, "__qualname__", repr(to)),
                "packed": name_of(packed.folder),
                "sha256": file_sha256(packed.folder / SUMS),
                "files": [name for name, _ in entries_below(folder)],
            },
        )
    return out


def _check_supervised(packed: PackedFolder, to: str | Exporter) -> None:
    """Raises UsageError for preferences and weighted labels, which no other trainer reads as such."""
    kinds = {PREFERENCE: ("preference pairs", "rejected"), UNPAIRED: ("unpaired preferences", "bad")}
    if packed.manifest.get("kind") in kinds:
        held, wrong = kinds[packed.manifest["kind"]]
        raise UsageError(
            f"{to} trains packed rows as supervised text: it would learn the {wrong} answers as well",
            where=str(packed.folder),
            hint=f"`tokpack train` reads {held}, and datasets.load_from_disk opens them",
        )
    if packed.manifest.get(LOSS_WEIGHTS):
        raise UsageError(
            f"messages have weights (the column {LOSS_WEIGHTS}), and {to} trains every label in full",
            where=str(packed.folder),
            hint="`tokpack train` counts them; or pack again without weights between 0 and 1",
        )


def _parallel(to: str | Exporter, exporter: Exporter, ranks: int) -> Exporter:
    if exporter is not to_megatron_bridge:
        raise UsageError(
            f"--cp is for megatron-bridge, not for {to}",
            hint="axolotl, LLaMA-Factory and TRL divide a row among ranks themselves: export without --cp",
        )
    if ranks < 1 or ranks & (ranks - 1):
        raise UsageError(
            f"--cp {ranks} is no power of two",
            hint="a row is divided among 2, 4, 8, ... ranks",
        )
    return partial(to_megatron_bridge, context_parallel=ranks)


def exported_files(folder: Path) -> Own:
    """What an earlier export wrote into a folder, and what Python keeps of its scripts; nothing for any other
    folder."""
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        files = frozenset(record["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return lambda name: False
    return lambda name: name in files or name == RECORD or COMPILED.fullmatch(name) is not None

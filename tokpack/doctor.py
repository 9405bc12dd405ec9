"""`tokpack doctor`: what of this machine and installation bears on packing and training, and what to change.

A finding is a fact with an advice where something is amiss. Nothing is changed.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from tokpack.errors import TokpackError
from tokpack.files.user_cache import cache_root, own_cache
from tokpack.frozen import frozen
from tokpack.terminal.activity import Activity
from tokpack.version import __version__

State = Literal["ok", "note", "wrong"]
GIB = 2**30
LITTLE_DISK = 5 * GIB
LITTLE_MEMORY = 4 * GIB
MARKS: dict[State, str] = {"ok": "[green]ok[/]", "note": "[yellow]note[/]", "wrong": "[red]wrong[/]"}


@frozen
class Finding:
    """One fact. `advice` says what to do about it; `wrong`: something will not work."""

    what: str
    found: str
    state: State = "ok"
    advice: str = ""

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


@frozen
class Findings:
    """All of them. Prints as a table."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return all(finding.state != "wrong" for finding in self.findings)

    def __rich__(self) -> Any:
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, show_header=False, pad_edge=False)
        table.add_column(no_wrap=True, style="bold")
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")
        for finding in self.findings:
            advice = f"\n[yellow]{escape(finding.advice)}[/]" if finding.advice else ""
            table.add_row(finding.what, MARKS[finding.state], escape(finding.found) + advice)
        return table


def examine(tell: Activity | None = None) -> Findings:
    """Look at everything; a few seconds where PyTorch is installed. `tell` shows at what."""
    parts = {
        "packages": (_python, _packages),
        "PyTorch": (_torch,),
        "bitsandbytes": (_bitsandbytes,),
        "memory, disk and caches": (_machine, _disk, _caches, _hub),
    }
    findings: list[Finding] = []
    for what, looks in parts.items():
        with (tell or Activity(quiet=True)).doing(f"looking at {what}"):
            findings += [finding for look in looks for finding in look()]
    return Findings(tuple(findings))


def _python() -> Iterator[Finding]:
    yield Finding("tokpack", f"{__version__}, Python {platform.python_version()}, {platform.platform()}")


def _packages() -> Iterator[Finding]:
    """Installed versions against those that tokpack asks for."""
    from packaging.requirements import Requirement

    try:
        needed = [Requirement(text) for text in metadata.requires("tokpack") or []]
    except metadata.PackageNotFoundError:
        yield Finding("packages", "tokpack runs from its source, not installed", "note", "pip install -e .")
        return
    present = {need.name: _version(need.name) for need in needed}
    core = [need for need in needed if need.marker is None]
    missing = [need.name for need in core if not present[need.name]]
    other = [
        f"{need.name} {found} (wanted {need.specifier})"
        for need in needed
        if (found := present[need.name]) and not need.specifier.contains(found, prereleases=True)
    ]
    if missing:
        yield Finding("packages", f"missing: {', '.join(missing)}", "wrong", "pip install tokpack again")
    if other:
        yield Finding(
            "packages", f"other versions: {', '.join(sorted(set(other)))}", "note", "pip install -U tokpack"
        )
    if not missing and not other:
        yield Finding("packages", f"{len(core)} of {len(core)} as wanted")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _torch() -> Iterator[Finding]:
    if find_spec("torch") is None:
        advice = 'to train and to verify on a model: pip install "tokpack[train]"'
        yield Finding("PyTorch", "not installed; packing needs none", "note", advice)
        return
    torch = import_module("torch")
    cuda = torch.cuda.is_available()
    built = torch.version.cuda or torch.version.hip
    advice = ""
    if not cuda and shutil.which("nvidia-smi"):
        advice = "there is an NVIDIA driver, but this PyTorch cannot use it: install a build for CUDA"
    yield Finding(
        "PyTorch",
        f"{torch.__version__}, " + (f"built for {built}" if built else "built for CPUs"),
        "wrong" if advice else "ok",
        advice,
    )
    for number in range(torch.cuda.device_count() if cuda else 0):
        free, total = torch.cuda.mem_get_info(number)
        used = total - free > total // 10
        yield Finding(
            f"GPU {number}",
            f"{torch.cuda.get_device_name(number)}: {free / GIB:.1f} of {total / GIB:.1f} GiB free",
            "note" if used else "ok",
            "something else uses its memory: nvidia-smi says what" if used else "",
        )
    if not cuda:
        yield Finding("GPU", "none that PyTorch sees: training runs on the CPU", "note")
    yield _half_precision(torch)


def _half_precision(torch: Any) -> Finding:
    """Measured on a CPU: a bf16 product may take 60 times as long as one in fp32."""
    speed = import_module("trainer_plugin.dtypes").speed(torch.bfloat16)
    advice = (
        "" if speed.fast else "`tokpack train` takes another dtype by itself; do not force --dtype bfloat16"
    )
    return Finding("bf16", speed.reason, "ok" if speed.fast else "note", advice)


def _bitsandbytes() -> Iterator[Finding]:
    if find_spec("torch") is None:
        return
    version = _version("bitsandbytes")
    if not version:
        yield Finding(
            "bitsandbytes", "not installed: no QLoRA", "note", "pip install bitsandbytes, or --method lora"
        )
        return
    try:
        import_module("bitsandbytes")
    except Exception as error:  # it loads libraries of the system, and raises whatever they raise
        first = (str(error).splitlines() or [""])[0]
        yield Finding(
            "bitsandbytes", f"{version} does not load: {first}", "wrong", "python -m bitsandbytes says why"
        )
    else:
        yield Finding("bitsandbytes", version)


def _machine() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding("cores", str(cores))
    free, total = _memory()
    if total:
        little = free < LITTLE_MEMORY
        advice = "pack with fewer --workers, and smaller blocks ([read] block_mb)" if little else ""
        found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
        yield Finding("memory", found, "note" if little else "ok", advice)


def _memory() -> tuple[int, int]:
    """(available, all) in bytes; zeros where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0, 0
    sizes = {name: int(value.split()[0]) << 10 for name, _, value in (line.partition(":") for line in lines)}
    return sizes.get("MemAvailable", 0), sizes.get("MemTotal", 0)


def _disk() -> Iterator[Finding]:
    places = {"here": Path.cwd(), "temporary": Path(tempfile.gettempdir()), "cache": _present(cache_root())}
    for name, place in places.items():
        free = shutil.disk_usage(place).free
        little = free < LITTLE_DISK
        advice = (
            "packing needs about as much as the input holds; TMPDIR and --work-dir move it" if little else ""
        )
        yield Finding(
            f"disk, {name}", f"{free / GIB:,.1f} GiB free in {place}", "note" if little else "ok", advice
        )


def _present(folder: Path) -> Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


def _caches() -> Iterator[Finding]:
    try:
        yield Finding("cache", str(own_cache("tokenizers").parent))
    except TokpackError as error:
        yield Finding("cache", error.what, "wrong", error.hint or "")


def _hub() -> Iterator[Finding]:
    from huggingface_hub import constants

    where = constants.HF_HUB_CACHE
    if constants.HF_HUB_OFFLINE:
        yield Finding(
            "Hub",
            f"offline (HF_HUB_OFFLINE); models from {where}",
            "note",
            "unset it to fetch models by name",
        )
    else:
        yield Finding("Hub", f"models by name go to {where}")

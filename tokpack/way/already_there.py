"""Whether a finished folder is what this run would write, and what differs if not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokpack.errors import DataError, UsageError
from tokpack.on_disk.checked import check_dataset
from tokpack.on_disk.manifest import read_manifest
from tokpack.on_disk.sums import read_limited
from tokpack.run import Run
from tokpack.schema import REPORT
from tokpack.settings.config import CostConfig
from tokpack.stages.read.digests import source_sha256
from tokpack.way.store_record import differences

INPUT = ("name", "size_bytes", "format")


def what_differs(
    run: Run, out: Path, html: bool = False, by: str | None = None, bill: dict[str, Any] | None = None
) -> list[str]:
    """Nothing where settings, tokenizer, template, inputs and report agree: then nothing is done again.

    bill: parts of `cost` in report.json, where they say all that was asked for. An input is read only where
    all that costs less agrees. A manifest records no evaluation texts and no pipes: with those a folder is
    never the same.
    Raises DataError when it is this run's, and the bytes of a shard are no longer what they were.
    """
    try:
        manifest = read_manifest(out)
    except (UsageError, DataError):
        return ["its manifest, which cannot be read"]
    if different := sorted(differences(_settings(manifest), _wanted(run))) or _unrecorded(run, bill):
        return different
    if different := list(_other_report(out, html, by, bill)):
        return different
    for source, entry in zip(run.sources, manifest["inputs"], strict=True):
        if not entry["sha256"] or source_sha256(source) != entry["sha256"]:
            return [f"what is in {source.name}"]
    try:
        check_dataset(out, manifest)
    except DataError as error:
        raise DataError(error.what, where=error.where, hint="give --overwrite to pack it anew") from error
    return []


def _unrecorded(run: Run, bill: dict[str, Any] | None) -> list[str]:
    """What is asked for that neither manifest nor report tells."""
    config = run.config
    asked = {
        "evaluation texts": config.decontaminate.against,
        "a budget of dollars": config.select.budget_usd,
        "a bill": config.cost != CostConfig() and bill is None,
    }
    return [f"{what}, of which no record is kept" for what, wanted in asked.items() if wanted]


def _other_report(out: Path, html: bool, by: str | None, bill: dict[str, Any] | None) -> Iterator[str]:
    if bill is not None:
        yield from _other_bill(out, bill)
    if html and not (out / "report.html").is_file():
        yield "--html, which it has no page for"
    if by is not None and (told := _column_told(out)) != by:
        yield f"--by ({told!r} then, {by!r} now)"


def _other_bill(out: Path, bill: dict[str, Any]) -> list[str]:
    """The parts of the report's bill that are of another run than the one asked for."""
    report = _report(out)
    told = report.get("cost")
    if not isinstance(told, dict):  # preferences have none
        return [] if report.get("kind") else ["a bill, which its report has none of"]
    return [f"the bill, of another {part}" for part, wanted in bill.items() if not _says(told, part, wanted)]


def _says(told: dict[str, Any], part: str, wanted: dict[str, Any] | None) -> bool:
    found = told.get(part)
    if wanted is None or not isinstance(found, dict):
        return found is None and wanted is None
    return {key: found.get(key) for key in wanted} == wanted


def _column_told(out: Path) -> str:
    """The column whose values the report tells apart."""
    by = _report(out).get("by")
    return str(by.get("column", "")) if isinstance(by, dict) else ""


def _report(out: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_limited(out / REPORT))
    except (OSError, ValueError, RecursionError, DataError):
        return {}
    return found if isinstance(found, dict) else {}


def _settings(manifest: dict[str, Any]) -> dict[str, Any]:
    kept = {"keep": manifest["keep"]["sha256"]} if "keep" in manifest else {}
    return kept | {
        "tokpack": manifest["tokpack_version"],
        "config": manifest["config"],
        "tokenizer": manifest["tokenizer"]["sha256"],
        "template": manifest["template"]["sha256"],
        "inputs": [{key: entry.get(key) for key in INPUT} for entry in manifest["inputs"]],
    }


def _wanted(run: Run) -> dict[str, Any]:
    wanted: dict[str, Any] = json.loads(json.dumps(run.fingerprint() | {"config": run.config.portable()}))
    return wanted

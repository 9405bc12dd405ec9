"""Whether a finished folder is what this run would write, and what differs if not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokpack.checked import check_dataset
from tokpack.config import CostConfig
from tokpack.errors import DataError, UsageError
from tokpack.manifest import read_manifest
from tokpack.run import Run
from tokpack.schema import REPORT
from tokpack.stages.read.digests import source_sha256
from tokpack.store import differences
from tokpack.sums import read_limited

INPUT = ("name", "size_bytes", "format")


def what_differs(run: Run, out: Path, html: bool = False, by: str | None = None) -> list[str]:
    """Nothing where settings, tokenizer, template, inputs and report agree: then nothing is done again.

    An input is read only where all that costs less agrees. A manifest records no evaluation texts, no prices
    and no pipes: with those a folder is never the same.
    Raises DataError when it is this run's, and the bytes of a shard are no longer what they were.
    """
    try:
        manifest = read_manifest(out)
    except (UsageError, DataError):
        return ["its manifest, which cannot be read"]
    if different := sorted(differences(_settings(manifest), _wanted(run))) or _unrecorded(run):
        return different
    if html and not (out / "report.html").is_file():
        return ["--html, which it has no page for"]
    if by is not None and (told := _column_told(out)) != by:
        return [f"--by ({told!r} then, {by!r} now)"]
    for source, entry in zip(run.sources, manifest["inputs"], strict=True):
        if not entry["sha256"] or source_sha256(source) != entry["sha256"]:
            return [f"what is in {source.name}"]
    try:
        check_dataset(out, manifest)
    except DataError as error:
        raise DataError(error.what, where=error.where, hint="give --overwrite to pack it anew") from error
    return []


def _unrecorded(run: Run) -> list[str]:
    """What is asked for that no manifest tells."""
    config = run.config
    asked = {
        "evaluation texts": config.decontaminate.against,
        "a budget of dollars": config.select.budget_usd,
        "a bill": config.cost != CostConfig(),
    }
    return [f"{what}, of which no record is kept" for what, wanted in asked.items() if wanted]


def _column_told(out: Path) -> str:
    """The column whose values the report tells apart."""
    try:
        return str(json.loads(read_limited(out / REPORT))["by"]["column"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, DataError):
        return ""


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

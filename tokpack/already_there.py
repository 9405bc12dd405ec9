"""Whether a finished folder is what this run would write: then nothing is done again."""

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
from tokpack.sums import read_limited

INPUT = ("name", "size_bytes", "format")


def is_already_there(run: Run, out: Path, html: bool = False, by: str | None = None) -> bool:
    """By settings, tokenizer, template and inputs; an input is read only where all that costs less agrees.

    False too where the report is another than is asked for, and where the manifest cannot tell: it records no
    evaluation texts, no prices, no pipes.
    Raises DataError when it is this run's, and the bytes of a shard are no longer what they were.
    """
    config = run.config
    if config.decontaminate.against or config.select.budget_usd or config.cost != CostConfig():
        return False
    if (html and not (out / "report.html").is_file()) or (by is not None and _column_told(out) != by):
        return False
    try:
        manifest = read_manifest(out)
    except (UsageError, DataError):
        return False
    if _settings(manifest) != _wanted(run):
        return False
    pairs = zip(run.sources, manifest["inputs"], strict=True)
    if not all(entry["sha256"] and source_sha256(source) == entry["sha256"] for source, entry in pairs):
        return False
    try:
        check_dataset(out, manifest)
    except DataError as error:
        raise DataError(error.what, where=error.where, hint="give --overwrite to pack it anew") from error
    return True


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

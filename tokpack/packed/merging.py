"""Join packed datasets of one tokenizer, chat template, loss and capacity, without reading text again.

    documents   numbered on: those of the second packed dataset follow the last number of the first
    rows        as they were packed, all in a new seeded order (`keep_order`: one after another);
                dealt again where all packed datasets are dealt alike
    record      ledgers added, dropped.parquet and quarantine.jsonl joined; of two inputs of one name, the
                second is called `name#2`
    validation  the parts of those that have one

Duplicates across the packed datasets are not looked for: they were not compared when they were packed.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow.parquet as pq

from tokpack import schema
from tokpack.errors import UsageError, writing
from tokpack.files.fresh_folder import fresh_folder
from tokpack.on_disk.reasons import EXACT_DUPLICATE, NEAR_DUPLICATE, PAIR_DROPPED
from tokpack.on_disk.token_files import is_index
from tokpack.packed.derive import (
    MERGED,
    check_out,
    origin,
    packed_files,
    write_derived,
    write_inputs,
)
from tokpack.packed.folder import PackedFolder
from tokpack.packed.stored_pieces import StoredPieces
from tokpack.packed_urls import local_folder
from tokpack.settings.config import PlanConfig
from tokpack.stages.order import order_rows
from tokpack.stages.plan import with_figures
from tokpack.terminal.activity import Activity, default_activity

log = logging.getLogger("tokpack")

DEALING = ("world_size", "rows_per_step", "token_cost")
"""Settings by which rows are dealt."""


def merge(
    packed_folders: Iterable[PackedFolder | str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    seed: int = 0,
    keep_order: bool = False,
    overwrite: bool = False,
    check: bool = True,
    tell: Activity | None = None,
) -> PackedFolder:
    """Write the rows of all into the new packed dataset `out`. `check`: their shards' sums first.

    Raises UsageError when they differ in what they must share, naming the first difference.
    """
    parts = [
        part if isinstance(part, PackedFolder) else PackedFolder(local_folder(part))
        for part in packed_folders
    ]
    out, tell = Path(out), tell or default_activity()
    _check_alike(parts)
    check_out(out, parts)
    _warn_of_shared_inputs(parts)
    for part in parts if check else []:
        part.check_sums()
    bases = _bases(parts)
    names = _source_names(parts)
    held = [(p.validation, b, n) for p, b, n in zip(parts, bases, names, strict=True) if p.validation]
    with writing(out, resumes=False), fresh_folder(out, overwrite, packed_files) as folder:
        if held:
            inside = folder / schema.VALIDATION
            inside.mkdir()
            validations, held_bases, held_names = (list(column) for column in zip(*held, strict=True))
            _write(inside, validations, held_bases, held_names, seed, keep_order, tell)
        _write(folder, parts, bases, names, seed, keep_order, tell)
        write_inputs(folder, parts)
    return PackedFolder(out)


def _write(
    out: Path,
    parts: list[PackedFolder],
    bases: list[int],
    names: list[dict[str, str]],
    seed: int,
    keep_order: bool,
    tell: Activity,
) -> None:
    stored = StoredPieces.of(parts, bases)
    capacity = parts[0].manifest["capacity"]
    plan = with_figures(stored.row_of_piece(), stored.placement.length, capacity)
    record = _record(parts, names, seed, keep_order)
    settings = PlanConfig(**record["config"]["plan"])
    if record["split"] != "train":
        settings = replace(settings, world_size=0)
    order, dealt = order_rows(settings, plan, stored.placement.length, seed)
    if keep_order:
        order = np.arange(stored.rows)
    parts[0].copy_tokenizer(out)
    _join_dropped(out, parts, bases, names)
    _join_quarantine(out, parts, bases, names)
    write_derived(out, stored, stored.in_rows(order), plan, dealt, record, parts, tell)


def _check_alike(parts: list[PackedFolder]) -> None:
    if len(parts) < 2:
        raise UsageError("merging takes two packed datasets or more", where="PACKED", hint="name them all")
    first = parts[0].manifest
    for part in parts[1:]:
        other = part.manifest
        shared = {
            "kind of documents": [m.get("kind", "supervised") for m in (first, other)],
            "tokenizer": [m["tokenizer"]["name"] for m in (first, other)],
            "chat template": [m["template"]["sha256"] for m in (first, other)],
            "loss": [m["template"]["loss"] for m in (first, other)],
            "loss mask": [m["template"].get("loss_mask", "off") for m in (first, other)],
            "capacity": [m["capacity"] for m in (first, other)],
            "layout": ["an index" if is_index(m) else "whole rows" for m in (first, other)],
        }
        same = {name: values[0] == values[1] for name, values in shared.items()}
        same["tokenizer"] = first["tokenizer"]["sha256"] == other["tokenizer"]["sha256"]
        for name, (ours, theirs) in shared.items():
            if not same[name]:
                hint = {
                    "capacity": f"`tokpack repack {part.folder} --max-length {ours}` may give it the same",
                    "layout": "`tokpack repack --shard-format arrow` or `index` gives both the same",
                    "kind of documents": "preferences are trained in another way: keep them apart",
                }.get(name, "pack one of them again as the other was")
                raise UsageError(
                    f"another {name}: {theirs}, where {parts[0].folder} has {ours}",
                    where=str(part.folder),
                    hint=hint,
                )


def _warn_of_shared_inputs(parts: list[PackedFolder]) -> None:
    """Of each file that two of them were made of, by its digest."""
    seen: dict[str, Path] = {}
    for part in parts:
        sources = part.manifest["inputs"]
        inputs = {source["sha256"]: source["name"] for source in sources if source.get("sha256")}
        for digest in inputs.keys() & seen.keys():
            places = f"{seen[digest]} and in {part.folder}"
            log.warning("%s is in %s: its documents may be trained twice", inputs[digest], places)
        seen |= dict.fromkeys(inputs, part.folder)


def _bases(parts: list[PackedFolder]) -> list[int]:
    """The number that the first document of each gets."""
    return list(accumulate((part.ledger["documents"]["read"] for part in parts[:-1]), initial=0))


def _source_names(parts: list[PackedFolder]) -> list[dict[str, str]]:
    """Per packed dataset: name of an input -> its name in the merged one."""
    taken: set[str] = set()
    result = []
    for part in parts:
        names = {}
        for name in part.ledger["sources"]:
            candidates = [name, *(f"{name}#{number}" for number in range(2, len(taken) + 3))]
            names[name] = next(candidate for candidate in candidates if candidate not in taken)
            taken.add(names[name])
        result.append(names)
    return result


def _record(
    parts: list[PackedFolder], names: list[dict[str, str]], seed: int, keep_order: bool
) -> dict[str, Any]:
    """The first manifest with inputs and ledgers of all."""
    manifests = [part.manifest for part in parts]
    config = json.loads(json.dumps(manifests[0]["config"]))
    config["source"] = [source for m in manifests for source in m["config"]["source"]]
    config["plan"] |= {"planner": MERGED}
    config["plan"].pop("mix_per_step", None)  # rows of all in one order are in no steps
    config["plan"].pop("parts", None)  # nor in parts
    dealing = [[m["config"]["plan"].get(key, 0) for key in DEALING] for m in manifests]
    if keep_order or any(settings != dealing[0] for settings in dealing):
        config["plan"]["world_size"] = 0
    config["seed"] = seed
    inputs = [
        entry | {"name": renamed.get(entry["name"], entry["name"])}
        for m, renamed in zip(manifests, names, strict=True)
        for entry in m["inputs"]
    ]
    sources = {
        renamed[name]: part.ledger["sources"][name]
        for part, renamed in zip(parts, names, strict=True)
        for name in part.ledger["sources"]
    }
    every = [key for key in ("documents", "tokens", "segments") if key in parts[0].ledger]
    ledger = {key: _sum([part.ledger[key] for part in parts]) for key in every}
    made: dict[str, Any] = {"by": "merge", "from": [origin(part) for part in parts]}
    if keep_order:
        made["keep_order"] = True
    columns = (schema.COPIES, schema.LOSS_WEIGHTS)
    extra = {name: True for name in columns if any(m.get(name) for m in manifests)}
    return manifests[0] | {
        **extra,
        "inputs": inputs,
        "ledger": ledger | {"sources": sources},
        "config": config,
        "derived": made,
    }


def _sum(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums key by key, at any depth; keys sorted as far as they name drop reasons."""
    result: dict[str, Any] = {}
    for key in dict.fromkeys(key for part in parts for key in part):
        values = [part[key] for part in parts if key in part]
        nested = isinstance(values[0], dict)
        result[key] = dict(sorted(_sum(values).items())) if nested else sum(values)
    return result


def _join_dropped(
    out: Path, parts: list[PackedFolder], bases: list[int], names: list[dict[str, str]]
) -> None:
    """dropped.parquet of all, one after another; details that name a document follow its new number."""
    names_document = pl.col("reason").is_in([EXACT_DUPLICATE, NEAR_DUPLICATE, PAIR_DROPPED])
    with pq.ParquetWriter(out / schema.DROPPED, schema.DROPPED_SCHEMA, compression="zstd") as writer:
        for part, base, renamed in zip(parts, bases, names, strict=True):
            number = pl.col("detail").str.extract(r"^(\d+)").cast(pl.Int64) + base
            rest = pl.col("detail").str.replace(r"^\d+", "")
            moved = part.dropped.with_columns(
                pl.col("doc_id") + base,
                pl.col("source").replace(renamed),
                pl.when(names_document & number.is_not_null())
                .then(pl.concat_str(number.cast(pl.String), rest))
                .otherwise("detail")
                .alias("detail"),
            )
            writer.write_table(moved.to_arrow().cast(schema.DROPPED_SCHEMA))


def _join_quarantine(
    out: Path, parts: list[PackedFolder], bases: list[int], names: list[dict[str, str]]
) -> None:
    """quarantine.jsonl of all, line by line."""
    with (out / schema.QUARANTINE).open("w", encoding="utf-8", newline="\n") as joined:
        for part, base, renamed in zip(parts, bases, names, strict=True):
            for entry in part.quarantined():
                source = renamed.get(entry["source"], entry["source"])
                moved = entry | {"doc_id": entry["doc_id"] + base, "source": source}
                joined.write(json.dumps(moved, ensure_ascii=False) + "\n")

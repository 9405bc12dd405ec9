"""Plan a packed dataset anew: another capacity or planner, without reading or tokenizing text again.

Documents, and the pieces of split ones, are put into new rows as they are. What was cut or dropped for its
length when they were packed stays so, and a split document keeps its pieces: only packing the raw data again
brings it back.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from tokpack import schema
from tokpack.errors import UsageError, writing
from tokpack.files.fresh_folder import fresh_folder
from tokpack.on_disk.ledger import source_of
from tokpack.on_disk.reasons import OVERLONG
from tokpack.on_disk.token_files import is_index
from tokpack.packed.choosing import NewChoice, choose
from tokpack.packed.derive import (
    MERGED,
    check_out,
    origin,
    packed_files,
    write_derived,
    write_dropped_rows,
    write_inputs,
)
from tokpack.packed.folder import PackedFolder
from tokpack.packed.repeating import check_repeats, with_repeats
from tokpack.packed.stored_pieces import StoredPieces
from tokpack.packed_urls import local_folder
from tokpack.schema import PAIR_WIDTH, SEQUENTIAL
from tokpack.settings.config import PlanConfig, ShardFormat
from tokpack.settings.config_limits import MOST_PARTS, UNMIXED
from tokpack.settings.conversion import convert
from tokpack.stages.order import order_rows
from tokpack.stages.pairs import pair_groups
from tokpack.stages.plan import BUILT_IN, make_plan
from tokpack.stages.planners.mix import Mix
from tokpack.stages.planners.parts import parts_of
from tokpack.stages.write import RowContents
from tokpack.terminal.activity import Activity, counted, default_activity, in_number


def repack(
    packed: PackedFolder | str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    max_length: int | None = None,
    planner: str | Callable[..., Any] | None = None,
    max_docs_per_row: int | None = None,
    world_size: int | None = None,
    rows_per_step: int | None = None,
    mix_per_step: bool | None = None,
    parts: int | None = None,
    repeat: Mapping[str, float] | None = None,
    weight: Mapping[str, float] | None = None,
    budget: int | str | None = None,
    shard_format: str | None = None,
    seed: int | None = None,
    overwrite: bool = False,
    check: bool = True,
    tell: Activity | None = None,
) -> PackedFolder:
    """Write the documents of `packed` into new rows, as the packed dataset `out`.

    What is not given is as it was packed: rows that were dealt are dealt again, unless `planner` keeps input
    order. With nothing changed the shards come out byte for byte. `repeat`: source -> how often its documents
    are packed. `budget`: as "20M" tokens, shared by the `weight` of sources; what is within it stays, as
    `pack` chooses, of a packed dataset with `record_choice`. `check`: the sums of the shards are compared
    first. Raises UsageError when `max_length` is smaller than the longest document.
    """
    source = packed if isinstance(packed, PackedFolder) else PackedFolder(local_folder(packed))
    out, tell = Path(out), tell or default_activity()
    check_out(out, [source])
    if check:
        source.check_sums()
    config = json.loads(json.dumps(source.manifest["config"]))
    plan = {
        "planner": planner,
        "max_docs_per_row": max_docs_per_row,
        "rows_per_step": rows_per_step,
        "world_size": 0 if planner == SEQUENTIAL and world_size is None else world_size,
        "parts": parts,
        "mix_per_step": False if planner in UNMIXED and not mix_per_step else mix_per_step,
    }
    shard_format = shard_format and convert(ShardFormat, shard_format, "--shard-format")
    _set(config, {"seed": seed})
    _set(config["truncate"], {"max_length": max_length})
    _set(config["plan"], plan)
    _set(config["write"], {"shard_format": shard_format})
    _settle_plan(config["plan"], plan, source.folder)
    choice = _choice(source, budget, weight or {}, repeat or {})
    check_repeats(repeat or {}, source.ledger, str(source.folder))
    _check_fits([source, source.validation] if source.validation else [source], config)
    with writing(out, resumes=False), fresh_folder(out, overwrite, packed_files) as folder:
        if source.validation is not None:
            inside = folder / schema.VALIDATION
            inside.mkdir()
            _write(inside, source.validation, config, tell, choice=choice)
        _write(folder, source, config, tell, repeat or {}, choice)
        write_inputs(folder, [source])
    return PackedFolder(out)


def _set(section: dict[str, Any], given: dict[str, Any]) -> None:
    """What is given, None being not given."""
    section.update({key: value for key, value in given.items() if value is not None})


def _settle_plan(plan: dict[str, Any], given: dict[str, Any], folder: Path) -> None:
    """Complete `plan`, of the packed dataset in `folder` with what is `given`. Raises UsageError."""
    if plan["planner"] == MERGED:
        plan["planner"] = PlanConfig().planner
    if given["planner"] is None:
        _check_planner(plan["planner"], folder)
    if plan["world_size"] and plan["planner"] == SEQUENTIAL:
        raise UsageError(
            "the planner `sequential` keeps input order, which dealing would undo",
            where="--world-size",
            hint="leave one of them out",
        )
    mixes = plan.get("mix_per_step", False)
    if mixes:
        _check_mix(plan)
    else:
        plan.pop("mix_per_step", None)
    if not plan["world_size"] and not mixes:
        if (given["rows_per_step"] or 1) > 1:
            raise UsageError(
                "rows per step of no ranks",
                where="--rows-per-step",
                hint="give --world-size or --mix-per-step as well",
            )
        plan["rows_per_step"] = 1
    _check_parts(plan)


def _choice(
    source: PackedFolder, budget: int | str | None, weight: Mapping[str, float], repeat: Mapping[str, float]
) -> NewChoice | None:
    if budget is None and weight:
        raise UsageError(
            "weights share a budget among sources",
            where=f"--weight {next(iter(weight))}",
            hint="give --budget as well; --repeat packs a source more often",
        )
    if budget is not None and repeat:
        raise UsageError(
            "repeats and a budget at once", where="--repeat", hint="repeat first, then repack with --budget"
        )
    return None if budget is None else choose(source, budget, weight)


def _check_parts(plan: dict[str, Any]) -> None:
    count = plan.get("parts", 1)
    if not 1 <= count <= MOST_PARTS:
        raise UsageError(f"no plan has {count} parts", where="--parts", hint=f"give 1 to {MOST_PARTS:,}")
    if count > 1 and (plan["planner"] == SEQUENTIAL or plan.get("mix_per_step")):
        raise UsageError(
            "parts would undo input order, and steps that draw from the whole of each source",
            where="--parts",
            hint="--parts 1, or another planner and --no-mix-per-step",
        )
    if count == 1:
        plan.pop("parts", None)


def _check_mix(plan: dict[str, Any]) -> None:
    if plan["planner"] in UNMIXED:
        raise UsageError(
            f"the planner `{plan['planner']}` makes no steps",
            where="--mix-per-step",
            hint="take another planner",
        )
    if plan["rows_per_step"] * max(1, plan["world_size"]) < 2:
        raise UsageError("one row is no mix", where="--mix-per-step", hint="give --rows-per-step as well")


def _check_planner(name: str, folder: Path) -> None:
    """Raises UsageError for a planner that is not built in: a packed dataset may come from anybody, and names
    no code that runs here."""
    if name not in BUILT_IN:
        raise UsageError(
            f"the manifest names the planner {name[:80]!r}, and code is never taken from a packed dataset",
            where=str(folder / schema.MANIFEST),
            hint=f"give --planner: {', '.join(BUILT_IN)}, or your own module:function if you trust it",
        )


def lost_to_length(packed: PackedFolder) -> str:
    """What the capacity of the first packing cost and repacking does not bring back; empty for nothing."""
    ledger = packed.ledger
    cut = ledger["tokens"]["truncated"]
    dropped = ledger["documents"]["dropped"].get(OVERLONG, 0)
    lost = [
        f"{counted(cut, 'token')} cut from long documents" if cut else "",
        f"{counted(dropped, 'document')} dropped as overlong" if dropped else "",
    ]
    said = " and ".join(part for part in lost if part)
    one = cut + dropped
    return in_number(one, f"{said} stay(s|) out: (it is|they are) not in the packed dataset") if said else ""


def _write(
    out: Path,
    source: PackedFolder,
    config: dict[str, Any],
    tell: Activity,
    repeat: Mapping[str, float] = MappingProxyType({}),
    choice: NewChoice | None = None,
) -> None:
    stored, ledger = StoredPieces.of([source]).by_document(), dict(source.ledger)
    derived: dict[str, Any] = {"by": "repack", "from": [origin(source)]}
    record = dict(source.manifest)
    if choice is not None:
        stored, ledger, config = choice.pieces(stored), choice.ledger(source), choice.settings(config)
        derived |= {"budget": choice.budget} | ({"weight": choice.weight} if choice.weight else {})
    if repeat:
        width = schema.pair_width(source.manifest)
        stored, ledger = with_repeats(stored, ledger, repeat, config["seed"], width)
        derived["repeat"] = dict(repeat)
        record.pop(schema.COPIES, None)
        record |= {schema.COPIES: True} if stored.placement.copy.any() else {}
    capacity, planner = config["truncate"]["max_length"], config["plan"]["planner"]
    limit = config["plan"]["max_docs_per_row"] or None
    pieces = stored.placement
    pairs = pair_groups(pieces.doc_id, pieces.copy) if schema.is_preference(source.manifest) else None
    name = getattr(planner, "__qualname__", repr(planner)) if callable(planner) else planner
    config = config | {"plan": config["plan"] | {"planner": name}}
    settings = PlanConfig(**config["plan"])
    if source.manifest["split"] != "train":  # its rows are in no steps and no parts
        settings = replace(settings, world_size=0, mix_per_step=False, parts=1)
    mix = _mix(source, stored, config) if settings.mix_per_step else None
    numbers = pieces.doc_id // schema.pair_width(source.manifest)
    apart = parts_of(numbers, pieces.length, settings.parts, config["seed"])
    plan = make_plan(
        pieces.length, capacity, planner, config["seed"], limit, pairs=pairs, mix=mix, parts=apart
    )
    order, dealt = order_rows(settings, plan, pieces.length, config["seed"])
    _copy_records(source, out, choice)
    record |= {"config": config, "ledger": ledger, "derived": derived}
    contents = RowContents.of(plan.row_of_doc, order)
    shared = (source.folder, source.manifest["token_files"]) if is_index(source.manifest) else None
    write_derived(out, stored, contents, plan, dealt, record, [source], tell, shared)


def _copy_records(source: PackedFolder, out: Path, choice: NewChoice | None) -> None:
    """The tokenizer, and what is on record of documents in no row."""
    source.copy_tokenizer(out)
    _ = source.dropped, list(source.quarantined())  # what is damaged is not copied
    shutil.copyfile(source.folder / schema.QUARANTINE, out / schema.QUARANTINE)
    if choice is not None:
        write_dropped_rows(out / schema.DROPPED, choice.dropped(source))
        return
    shutil.copyfile(source.folder / schema.DROPPED, out / schema.DROPPED)
    if (source.folder / schema.CHOICE).is_file():
        shutil.copyfile(source.folder / schema.CHOICE, out / schema.CHOICE)


def _mix(source: PackedFolder, stored: StoredPieces, config: dict[str, Any]) -> Mix:
    by_labels = config["select"].get("weight_by", "tokens") == "trained"
    return Mix(
        source_of(stored.placement.doc_id, source.ledger).astype(np.int32),
        stored.trained() if by_labels else stored.placement.length.astype(np.int64),
        config["plan"]["rows_per_step"] * max(1, config["plan"]["world_size"]),
    )


def _check_fits(parts: list[PackedFolder], config: dict[str, Any]) -> None:
    capacity = config["truncate"]["max_length"]
    width, noun = (PAIR_WIDTH, "pair") if schema.is_preference(parts[0].manifest) else (1, "document")
    placements = [StoredPieces.of([part]).by_document().placement for part in parts]
    lengths = np.concatenate([p.length.reshape(-1, width).sum(axis=1) for p in placements])
    if len(lengths) and int(lengths.max()) > capacity:
        longest, too_long = int(lengths.argmax()), int((lengths > capacity).sum())
        number = np.concatenate([p.doc_id[::width] for p in placements])[longest] // width
        raise UsageError(
            f"{noun} {number} has {counted(lengths[longest], 'token')}, more than rows of {capacity:,} hold "
            f"({in_number(too_long, f'{too_long:,} {noun}(|s) do(es|)')})",
            where=f"--max-length {capacity}",
            hint=f"give --max-length {lengths[longest]} or more, or pack the raw data again with --overlong",
        )

"""Prove a finished packed dataset: every byte, row, document and sum; and, with a model, isolation."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from tokpack import schema
from tokpack.arrays import Int64
from tokpack.encoding.other_tokenizer import check_model_tokenizer
from tokpack.engine import default_workers
from tokpack.errors import TokpackError, UsageError, reading
from tokpack.frozen import frozen
from tokpack.hub import check_model
from tokpack.on_disk import ledger as ledgers
from tokpack.on_disk.manifest import differing_sums, is_finished, read_manifest
from tokpack.on_disk.reasons import TRUNCATED
from tokpack.on_disk.sums import CACHE, covered_files, file_sha256, stray_files, sum_lines
from tokpack.on_disk.token_files import TokenFiles, is_index
from tokpack.packed.checked_rows import PLACED, CheckedRows
from tokpack.packed.folder import PackedFolder
from tokpack.packed.preference_checks import LABELED, label_faults
from tokpack.packed_urls import local_folder, place_of
from tokpack.schema import PAIR_WIDTH
from tokpack.stages.read.memory import was_in_memory
from tokpack.terminal.activity import Activity, counted, default_activity

MAX_FAULTS = 20


@dataclass(slots=True)
class Check:
    """One thing that was looked at. `faults` is empty when it holds."""

    name: str
    detail: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults


@frozen
class Verification:
    folder: Path
    checks: list[Check]
    model: Any = None
    """What the trainer plugin's probe returned, when a model was given: has `ok`, prints as a table."""

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks) and (self.model is None or bool(self.model.ok))

    def __rich__(self) -> Any:
        from tokpack.report.checks import checks_view

        return checks_view(self)

    def _repr_html_(self) -> str:
        from tokpack.report.notebook import checks_frame

        return checks_frame(self)


def verify(
    folder: str | Path,
    model: str | None = None,
    *,
    attn: str | None = None,
    device: str | None = None,
    tell: Activity | None = None,
) -> Verification:
    """Check a packed dataset, its validation part included. Raises UsageError when `folder` is none.

    With `model`, the trainer plugin's isolation probe runs on real rows: it needs the extra `train`. `tell`
    shows what is being done.
    """
    tell = tell or default_activity()
    folder = local_folder(folder, tell)
    parts = [folder]
    for flag, given in (("--attn", attn), ("--device", device)):
        if given and not model:
            raise UsageError(f"{flag} needs a model", where=flag, hint="give --model as well")
    if model:
        check_model(model)
    with tell.doing(f"reading {place_of(folder)}"), reading(folder), ThreadPoolExecutor(1) as beside:
        if (folder / schema.VALIDATION).is_dir():
            parts.append(folder / schema.VALIDATION)
        sums = beside.submit(_sums, folder)
        content = [check for part in parts for check in _attempt(part, folder)]
        checks = sums.result() + content
    if model is None or not all(check.ok for check in checks):
        return Verification(folder, checks)
    check_model_tokenizer(model, read_manifest(folder), folder)
    return Verification(folder, checks, _probe(folder, model, attn, device, tell))


def _attempt(part: Path, folder: Path) -> list[Check]:
    """All checks of the content; a damaged file that cannot even be read is a fault, not a crash."""
    label = "" if part == folder else f"{part.name}: "
    try:
        packed = PackedFolder.as_it_is(part)
        rows = CheckedRows(packed)
        rows.faults += differing_sums(part, packed.manifest)
        checks = [_rows(rows), _documents(packed, rows), _ledger(packed, rows)]
        if part == folder:  # the validation part has the same inputs
            checks.append(_inputs(packed))
        if is_index(packed.manifest):
            checks.insert(1, _token_files(packed))
        if schema.is_preference(packed.manifest):
            checks.insert(2, _pairs(rows))
        if schema.is_unpaired(packed.manifest):
            checks.insert(2, _labels(rows))
    except UsageError as error:
        if part == folder:
            raise
        checks = [Check("content", faults=[error.what])]
    except Exception as error:  # whatever a damaged or hostile file leads to is a fault of the file
        what = error.what if isinstance(error, TokpackError) else (str(error).splitlines() or [""])[0]
        checks = [Check("content", faults=[f"cannot be read: {what or type(error).__name__}"])]
    for check in checks:
        check.name = label + check.name
    return checks


# Bytes


def _sums(folder: Path) -> list[Check]:
    """Every covered file against SHA256SUMS, and the sums against what there is."""
    if not is_finished(folder):
        read_manifest(folder)  # raises with the hint for an unfinished folder
    listed, faults = sum_lines(folder)
    check = Check("files", faults=faults)
    stray = stray_files(folder, listed)
    present = [name for name in covered_files(folder) if name not in stray or name not in listed]
    check.faults += [f"{name}: missing" for name in sorted(set(listed) - set(present))]
    check.faults += [f"{name}: {_stray(folder / name)}" for name in stray]
    both = [name for name in present if name in listed]
    with ThreadPoolExecutor(default_workers()) as pool:
        digests = list(pool.map(lambda name: file_sha256(folder / name), both))
    check.faults += [
        f"{name}: its bytes changed, or its line in {schema.SUMS}"
        for name, digest in zip(both, digests, strict=True)
        if digest != listed[name]
    ]
    size = sum((folder / name).stat().st_size for name in both)
    check.detail = f"{counted(len(both), 'file')}, {size / 1e6:,.1f} MB hashed"
    return [check]


def _stray(path: Path) -> str:
    if path.is_symlink():
        return "a link, which no packed dataset holds"
    if path.name.startswith(CACHE):
        return f"not in {schema.SUMS}: take it out, unless `datasets` made it here for you"
    return f"not in {schema.SUMS}: the packed dataset does not hold it"


def _token_files(packed: PackedFolder) -> Check:
    store = TokenFiles.open(packed.folder, packed.manifest)
    detail = f"{counted(len(store.doc_id), 'piece')}, {counted(len(store.input_ids), 'token')}"
    return Check("token files", detail, list(store.faults())[:MAX_FAULTS])


# Rows


def _rows(rows: CheckedRows) -> Check:
    return Check(
        "rows", f"{counted(rows.rows, 'row')}, {counted(rows.tokens, 'token')}", rows.faults[:MAX_FAULTS]
    )


def _pairs(rows: CheckedRows) -> Check:
    """Each pair is in one row, chosen and rejected; that each document is there once is checked beside."""
    documents = len(rows.placed())
    return Check(
        "pairs", f"{documents // PAIR_WIDTH:,} whole, each in one row", rows.pair_faults[:MAX_FAULTS]
    )


def _labels(rows: CheckedRows) -> Check:
    """Each document has one label, all its copies the same one, and is whole."""
    told = pl.concat([pl.DataFrame(schema=LABELED), *rows.good])
    detail, faults = label_faults(told, rows.placed())
    return Check("labels", detail, [*rows.label_faults, *faults][:MAX_FAULTS])


def _documents(packed: PackedFolder, rows: CheckedRows) -> Check:
    """Each document of the input is in the rows, or in the record of what was left out: once."""
    placed = rows.placed()
    distinct = np.unique(placed["doc"].to_numpy())
    manifest = packed.manifest
    check = Check("documents", f"{len(distinct):,} in rows")
    if len(distinct) != manifest["documents"]:
        check.faults.append(
            f"{len(distinct)} documents in the rows, the manifest says {manifest['documents']}"
        )
    if len(placed) != manifest["pieces"]:
        check.faults.append(f"{len(placed)} pieces in the rows, the manifest says {manifest['pieces']}")
    check.faults += _piece_faults(placed)
    left_out = packed.dropped.filter(pl.col("reason") != TRUNCATED)["doc_id"].to_numpy()
    width = schema.pair_width(manifest)
    ids = [entry["doc_id"] + i for entry in packed.quarantined() for i in range(width)]
    quarantined = np.array(ids, dtype=np.int64)
    everything = np.concatenate([distinct, left_out, quarantined])
    if manifest["split"] == "train":
        read = manifest["ledger"]["documents"]["read"]
        there, times = np.unique(everything[(everything >= 0) & (everything < read)], return_counts=True)
        check.faults += [f"document {doc} is nowhere" for doc in _missing(there, read)]
        check.faults += [f"document {doc} is in two places" for doc in there[times > 1][:3]]
        check.detail += f", {len(left_out):,} left out, {len(quarantined):,} quarantined: {read:,} read"
    return check


def _missing(there: Int64, read: int) -> list[int]:
    """The first few numbers below `read` that are not in `there`, which is sorted. `read` may be any number:
    what a manifest says takes no memory here."""
    if len(there) == read:
        return []
    holes = np.flatnonzero(there != np.arange(len(there)))
    first = int(holes[0]) if len(holes) else len(there)
    known = set(there[first : first + 3].tolist())
    return [number for number in range(first, min(first + 4, read)) if number not in known][:3]


def _piece_faults(placed: pl.DataFrame) -> list[str]:
    """The pieces of a document are 0, 1, ... each once; its copies are 0, 1, ... and as long as copy 0."""
    ordered = placed.sort("doc", "copy", "piece")
    doc, copy, piece, length = (ordered[name].to_numpy() for name in PLACED)
    begins = np.append(True, (np.diff(doc) != 0) | (np.diff(copy) != 0))[: len(doc)]
    starts = np.flatnonzero(begins)
    sizes = np.diff(starts, append=len(doc))
    inside = np.arange(len(doc)) - np.repeat(starts, sizes)
    torn = np.unique(doc[piece != inside])
    firsts = np.flatnonzero(np.append(True, np.diff(doc[starts]) != 0)[: len(starts)])
    copies = np.diff(firsts, append=len(starts))
    original = np.repeat(firsts, copies)
    alike = (copy[starts] == np.arange(len(starts)) - original) & (sizes == sizes[original])
    place = np.minimum(np.repeat(starts[original], sizes) + inside, len(doc) - 1)
    unlike = np.union1d(doc[starts][~alike], doc[length[place] != length])
    return [f"document {d} is packed twice, or a piece of it is missing" for d in torn[:3]] + [
        f"document {d}: its copies are not all there, or not alike" for d in np.setdiff1d(unlike, torn)[:3]
    ]


def _ledger(packed: PackedFolder, rows: CheckedRows) -> Check:
    ledger = packed.ledger
    check = Check("ledger", "adds up, and agrees with the rows")
    try:
        ledgers.check(ledger)
    except TokpackError as error:
        check.faults.append(error.what)
    again = rows.placed().filter(pl.col("copy") > 0)
    for name, said, found in (
        ("repeated documents", ledger["documents"].get("repeated", 0), again.n_unique(("doc", "copy"))),
        ("repeated tokens", ledger["tokens"].get("repeated", 0), int(again["length"].sum())),
        ("rows", ledger["slots"]["rows"], rows.rows),
        ("packed tokens", ledger["slots"]["packed"], rows.tokens),
        ("trained tokens", ledger["trained"]["trained"], rows.trained),
    ):
        if said != found:
            check.faults.append(f"{name}: ledger {said}, rows {found}")
    return check


def _inputs(packed: PackedFolder) -> Check:
    """The inputs, where they still are, against the hashes taken while they were read."""
    check = Check("inputs")
    paths = packed.input_paths
    if not paths:
        check.detail = "run.json is not here: nothing to compare"
        return check
    here = 0
    digest = cache(file_sha256)  # merged packed datasets may name an input twice
    for path, entry in zip(paths, packed.manifest["inputs"], strict=False):
        if entry["sha256"] and Path(path).is_file():
            here += 1
            if digest(Path(path)) != entry["sha256"]:
                check.faults.append(f"{path}: changed since it was packed")
    urls, held = sum("://" in path for path in paths), sum(map(was_in_memory, paths))
    beside = f"; {urls} behind URLs, not compared" if urls else ""
    beside += f"; {held} in memory, not compared" if held else ""
    files = len(paths) - urls - held
    check.detail = f"{here} of {files} still there, unchanged{beside}" if not check.faults else ""
    return check


# Isolation


def _probe(folder: Path, model: str, attn: str | None, device: str | None, tell: Activity) -> Any:
    needed = "the trainer plugin"
    try:
        for entry in entry_points(group="tokpack.verifiers"):
            with tell.doing("loading PyTorch and transformers"):
                verify_model = entry.load()
            return verify_model(folder, model, attn=attn, device=device, tell=tell)
    except ImportError as error:
        needed = str(error.name)
    raise UsageError(
        f"the isolation probe needs {needed}", where="--model", hint='pip install "tokpack[train]"'
    )

"""Prove a finished packed dataset: every byte, row, document and sum; and, with a model, isolation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from tokpack import ledger as ledgers
from tokpack import schema
from tokpack.activity import Activity, default_activity
from tokpack.engine.local import default_workers
from tokpack.errors import TokpackError, UsageError
from tokpack.manifest import differing_sums, is_finished, read_manifest
from tokpack.packed.folder import PackedFolder
from tokpack.packed.preference_checks import LABELED, Lists, label_faults, torn_rows
from tokpack.packed_urls import local_folder
from tokpack.ranges import offsets_of
from tokpack.reasons import TRUNCATED
from tokpack.schema import PAIR_WIDTH
from tokpack.sums import CACHE, covered_files, file_sha256, stray_files, sum_lines
from tokpack.token_files import TokenFiles, is_index

MAX_FAULTS = 20
PLACED = {"doc": pl.Int64, "copy": pl.Int32, "piece": pl.Int32, "length": pl.Int32}


@dataclass(slots=True)
class Check:
    """One thing that was looked at. `faults` is empty when it holds."""

    name: str
    detail: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults


@dataclass(frozen=True, slots=True)
class Verification:
    folder: Path
    checks: list[Check]
    model: Any = None
    """What the trainer plugin's probe returned, when a model was given: has `ok`, prints as a table."""

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks) and (self.model is None or bool(self.model.ok))

    def __rich__(self) -> Any:
        from tokpack.report.terminal import checks_table

        return checks_table(self)

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
    if (folder / schema.VALIDATION).is_dir():
        parts.append(folder / schema.VALIDATION)
    with tell.doing(f"reading {folder}"), ThreadPoolExecutor(1) as beside:
        sums = beside.submit(_sums, folder)
        content = [check for part in parts for check in _attempt(part, folder)]
        checks = sums.result() + content
    if model is None or not all(check.ok for check in checks):
        return Verification(folder, checks)
    return Verification(folder, checks, _probe(folder, model, attn, device, tell))


def _attempt(part: Path, folder: Path) -> list[Check]:
    """All checks of the content; a damaged file that cannot even be read is a fault, not a crash."""
    label = "" if part == folder else f"{part.name}: "
    try:
        packed = PackedFolder.as_it_is(part)
        rows = _Rows(packed)
        rows.faults += differing_sums(part, packed.manifest)
        checks = [rows.check(), _documents(packed, rows), _ledger(packed, rows)]
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
    check.detail = f"{len(both)} files, {size / 1e6:,.1f} MB hashed"
    return [check]


def _stray(path: Path) -> str:
    if path.is_symlink():
        return "a link, which no packed dataset holds"
    if path.name.startswith(CACHE):
        return f"not in {schema.SUMS}: take it out, unless `datasets` made it here for you"
    return f"not in {schema.SUMS}: the packed dataset does not hold it"


def _token_files(packed: PackedFolder) -> Check:
    store = TokenFiles.open(packed.folder, packed.manifest)
    detail = f"{len(store.doc_id):,} pieces, {len(store.input_ids):,} tokens"
    return Check("token files", detail, list(store.faults())[:MAX_FAULTS])


# Rows


class _Rows:
    """One pass over all rows, batch by batch: invariants, and the numbers that the other checks compare."""

    def __init__(self, packed: PackedFolder) -> None:
        manifest = packed.manifest
        self.rows = self.tokens = self.trained = 0
        self._found: list[pl.DataFrame] = []
        self.pair_faults: list[str] = []
        self.good: list[pl.DataFrame] = []
        """Of unpaired preferences: documents, and whether their answers are good."""
        self.label_faults: list[str] = []
        self._schema = schema.packed_schema(manifest)
        self.faults: list[str] = []
        self._capacity, self._vocab = manifest["capacity"], manifest["tokenizer"]["vocab_size"]
        for shard in packed.shards(as_they_are=True):
            for batch in shard:
                self._see(batch)
        if self.rows != manifest["rows"]:
            self.faults.append(f"{self.rows} rows, the manifest says {manifest['rows']}")

    def check(self) -> Check:
        return Check("rows", f"{self.rows:,} rows, {self.tokens:,} tokens", self.faults[:MAX_FAULTS])

    def _see(self, batch: pa.RecordBatch) -> None:
        if batch.schema != self._schema:
            self.faults.append(f"columns are {batch.schema.names}")
            return
        columns = {name: _list(batch.column(name)) for name in batch.schema.names}
        ids, labels, lengths, doc_ids, pieces = (columns[name] for name in schema.PACKED_SCHEMA.names)
        copies = columns.get(schema.COPIES, (pieces[0], np.zeros_like(pieces[1])))
        row_sizes = np.diff(ids[0])
        per_row = (
            np.add.reduceat(np.append(lengths[1], 0), lengths[0][:-1]) if len(lengths[1]) else 0 * row_sizes
        )
        starts = offsets_of(lengths[1])[:-1]
        in_place = starts < len(labels[1])
        trained = labels[1] != schema.IGNORE_INDEX
        weights = columns.get(schema.LOSS_WEIGHTS, (ids[0], trained.astype(np.float32)))
        tests: list[tuple[str, Callable[[], Any]]] = [
            ("input_ids and loss_weights differ in length", lambda: np.diff(weights[0]) != row_sizes),
            (
                "a weight without a label, a label without a weight, or one that is no number",
                lambda: self._by_row(ids, (weights[1] > 0) & (weights[1] < np.inf) != trained),
            ),
            ("a weight below 0", lambda: self._by_row(ids, ~(weights[1] >= 0))),
            ("input_ids and labels differ in length", lambda: np.diff(labels[0]) != row_sizes),
            ("seq_lengths do not add up to the row", lambda: per_row != row_sizes),
            ("longer than the capacity, or empty", lambda: (row_sizes > self._capacity) | (row_sizes == 0)),
            ("seq_lengths and doc_ids differ in length", lambda: np.diff(lengths[0]) != np.diff(doc_ids[0])),
            ("doc_ids and pieces differ in length", lambda: np.diff(doc_ids[0]) != np.diff(pieces[0])),
            ("doc_ids and copies differ in length", lambda: np.diff(doc_ids[0]) != np.diff(copies[0])),
            ("a document of no tokens", lambda: self._by_row(lengths, lengths[1] <= 0)),
            (
                "an id outside the vocabulary",
                lambda: self._by_row(ids, ids[1].view(np.uint32) >= self._vocab),  # below 0: very large
            ),
            (
                "a label that is neither its token nor -100",
                lambda: self._by_row(ids, trained & (labels[1] != ids[1])),
            ),
            (
                "the first token of a document has a label",
                lambda: self._by_row(lengths, ~in_place | trained[np.minimum(starts, len(trained) - 1)]),
            ),
        ]
        for text, test in tests:
            try:
                hit = np.flatnonzero(test())
            except (ValueError, IndexError):
                self.faults.append(f"rows from {self.rows}: lists of different shapes")
                continue
            self.faults += [f"row {self.rows + int(row)}: {text}" for row in hit[:3]]
        if schema.IS_DESIRABLE in columns:
            good = columns[schema.IS_DESIRABLE]
            if not np.array_equal(good[0], doc_ids[0]):
                self.label_faults.append(f"rows from {self.rows}: doc_ids and is_desirable differ in length")
            else:
                self.good.append(pl.DataFrame([doc_ids[1].copy(), good[1].copy()], schema=LABELED))
        if "pair_ids" in columns:
            faults = torn_rows(doc_ids, columns["pair_ids"], columns["is_chosen"])
            self.pair_faults += [f"row {self.rows + row}: {text}" for row, text in faults]
        self.rows += batch.num_rows
        self.tokens += len(ids[1])
        self.trained += int(trained.sum())
        if len(doc_ids[1]) == len(pieces[1]) == len(copies[1]) == len(lengths[1]):  # else it is a fault above
            known = zip(PLACED, (doc_ids[1], copies[1], pieces[1], lengths[1]), strict=True)
            self._found.append(pl.DataFrame({name: values.copy() for name, values in known}, schema=PLACED))

    def placed(self) -> pl.DataFrame:
        """Every document, copy and piece in the rows, and its tokens."""
        return pl.concat([pl.DataFrame(schema=PLACED), *self._found])

    @staticmethod
    def _by_row(lists: tuple[Any, Any], hit: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Per row: is any of its values hit?"""
        if not hit.any():
            return np.zeros(len(lists[0]) - 1, dtype=bool)
        running = np.concatenate([[0], np.cumsum(hit)])
        result: npt.NDArray[np.bool_] = running[lists[0][1:]] > running[lists[0][:-1]]
        return result


def _list(column: pa.ListArray) -> Lists:
    """(offsets from 0, values) of a list column, sliced or not."""
    offsets = column.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], column.flatten().to_numpy(zero_copy_only=False)


def _pairs(rows: _Rows) -> Check:
    """Each pair is in one row, chosen and rejected; that each document is there once is checked beside."""
    documents = len(rows.placed())
    return Check(
        "pairs", f"{documents // PAIR_WIDTH:,} whole, each in one row", rows.pair_faults[:MAX_FAULTS]
    )


def _labels(rows: _Rows) -> Check:
    """Each document has one label, all its copies the same one, and is whole."""
    told = pl.concat([pl.DataFrame(schema=LABELED), *rows.good])
    detail, faults = label_faults(told, rows.placed())
    return Check("labels", detail, [*rows.label_faults, *faults][:MAX_FAULTS])


def _documents(packed: PackedFolder, rows: _Rows) -> Check:
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
    width = PAIR_WIDTH if schema.is_preference(manifest) else 1
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


def _missing(there: npt.NDArray[np.int64], read: int) -> list[int]:
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


def _ledger(packed: PackedFolder, rows: _Rows) -> Check:
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
    check.detail = f"{here} of {len(paths)} still there, unchanged" if not check.faults else ""
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

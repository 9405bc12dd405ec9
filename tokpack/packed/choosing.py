"""Choose anew which documents a packed dataset holds, for another budget and other weights of its sources,
without reading them again.

What a choice goes by is the tokens of documents, which rows hold, and how good they are and whether they
repeat others, which rows do not: `pack --record-choice` leaves that in `choice.parquet`. With it the choice
is the one that packing at once makes.
"""

from __future__ import annotations

import copy as copying
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tokpack import schema
from tokpack.arrays import Int64
from tokpack.errors import DataError, UsageError, near_matches
from tokpack.frozen import frozen
from tokpack.on_disk.ledger import source_of
from tokpack.on_disk.reasons import HELD_OUT, OVER_BUDGET, TRUNCATED
from tokpack.packed.folder import PackedFolder, damaged
from tokpack.packed.stored_pieces import StoredPieces
from tokpack.settings.parsing import parse_budget
from tokpack.stages.select import select

BUDGET = "--budget"
AGAIN = "pack the raw data again with `--budget`"


@frozen
class NewChoice:
    """Which documents of a packed dataset, and of its held-out part, are in another one."""

    budget: int
    weight_by: str
    weight: dict[str, float]
    out: pl.DataFrame
    """Those that are not: doc_id, source (its number), row, held (whether held out), packed (tokens of one
    copy), times."""

    def settings(self, config: dict[str, Any]) -> dict[str, Any]:
        """The config of the packed dataset that is made."""
        select = {name: value for name, value in config["select"].items() if name != "recorded"}
        select |= {"budget": self.budget}
        select |= {"weight_by": self.weight_by} if self.weight_by != "tokens" else {}
        sources = [
            source | ({"weight": self.weight[source["path"]]} if source["path"] in self.weight else {})
            for source in config["source"]
        ]
        return config | {"select": select, "source": sources}

    def pieces(self, stored: StoredPieces) -> StoredPieces:
        """What is left of them."""
        gone = np.isin(stored.placement.doc_id, self.out["doc_id"].to_numpy())
        return stored.take(np.flatnonzero(~gone))

    def dropped(self, packed: PackedFolder) -> pl.DataFrame:
        """What was left out before, and now. A held-out part only forgets what it no longer holds."""
        known = packed.dropped
        here = self.out["doc_id"].implode()
        rest = known.filter(~pl.col("doc_id").is_in(here))
        if packed.manifest["split"] != "train":
            return rest
        now = _with_record(self.out, known)
        names = list(packed.ledger["sources"])
        lost = pl.coalesce("whole", pl.col("packed") + pl.col("cut")).cast(pl.Int64)
        record = now.select(
            "doc_id",
            pl.Series("source", [names[number] for number in now["source"].to_list()], dtype=pl.String),
            "row",
            pl.lit(OVER_BUDGET).alias("reason"),
            pl.lit(None, pl.String).alias("detail"),
            lost.alias("tokens_lost"),
        )
        return pl.concat([rest, record]).sort("doc_id")

    def ledger(self, packed: PackedFolder) -> dict[str, Any]:
        """The ledger of `packed`, or of its held-out part, without the documents that are out."""
        made = copying.deepcopy(packed.ledger)
        train = packed.manifest["split"] == "train"
        gone = _with_record(self.out if train else self.out.filter("held"), packed.dropped)
        _leave_out(made, gone, train)
        for number, part in enumerate(made["sources"].values()):
            _leave_out(part, gone.filter(pl.col("source") == number), train)
        return made


def _with_record(out: pl.DataFrame, dropped: pl.DataFrame) -> pl.DataFrame:
    """With what is on record of the documents: tokens `cut` off them, and `whole`, those of held-out ones."""
    cut = dropped.filter(pl.col("reason") == TRUNCATED).select("doc_id", cut="tokens_lost")
    whole = dropped.filter(pl.col("reason") == HELD_OUT).select("doc_id", whole="tokens_lost")
    found = out.join(cut, "doc_id", "left").join(whole, "doc_id", "left")
    return found.with_columns(pl.col("cut").fill_null(0))


def _leave_out(part: dict[str, Any], gone: pl.DataFrame, train: bool) -> None:
    """Take the documents out of a ledger: those of the rows, and of those held out the mark."""
    documents, tokens = part["documents"], part["tokens"]
    rows = gone.filter(~pl.col("held")) if train else gone
    again = rows.select((pl.col("packed") * (pl.col("times") - 1)).sum()).item()
    cut, packed = int(rows["cut"].sum()), int(rows["packed"].sum())
    documents["kept"] -= len(rows)
    tokens["packed"] -= packed + again
    tokens["truncated"] -= cut
    if "repeated" in documents:
        documents["repeated"] -= int((rows["times"] - 1).sum())
        tokens["repeated"] -= again
    if not train:
        documents["read"] -= len(rows)
        tokens["tokenized"] -= packed + cut
        return
    held = gone.filter("held")
    counts = {HELD_OUT: -len(held), OVER_BUDGET: len(gone)}
    sums = {HELD_OUT: -int(held["whole"].sum()), OVER_BUDGET: packed + cut + int(held["whole"].sum())}
    left = {reason: documents["dropped"].get(reason, 0) + n for reason, n in counts.items()}
    for dropped, changes in ((tokens["dropped"], sums), (documents["dropped"], counts)):
        found = dropped | {reason: dropped.get(reason, 0) + n for reason, n in changes.items()}
        dropped.clear()
        dropped.update({reason: found[reason] for reason in sorted(found) if left.get(reason, 1)})


def choose(packed: PackedFolder, budget: int | str, weight: Mapping[str, float]) -> NewChoice:
    """The documents that `pack` keeps within the budget. Raises UsageError for what cannot be known."""
    manifest, ledger = packed.manifest, packed.ledger
    wanted = _parsed(budget)
    weight_by = wanted.get("weight_by", manifest["config"]["select"].get("weight_by", "tokens"))
    names, where = list(ledger["sources"]), str(packed.folder)
    for name, value in weight.items():
        if name not in names:
            raise UsageError(
                f"no source named {name!r}", where=f"--weight {name}", hint=near_matches(name, names)
            )
        if not 0 <= value < float("inf"):
            raise UsageError(
                f"a weight cannot be {value:g}", where=f"--weight {name}={value:g}", hint="give 0 or more"
            )
    _check_known(packed, set(names) <= weight.keys())
    record = _record(packed)
    width = schema.pair_width(manifest)
    held = packed.validation
    numbers = [_documents(part, weight_by) for part in ([packed, held] if held else [packed])]
    documents = pl.concat([found.with_columns(held=pl.lit(n > 0)) for n, found in enumerate(numbers)])
    groups = documents.group_by(pl.col("doc_id") // width * width).agg(pl.col("counted").sum())
    known = record.join(groups, "doc_id", "left")
    if len(known) != len(groups) or known["counted"].null_count():
        raise DataError(
            f"{schema.CHOICE} is of other documents than the rows",
            where=where,
            hint="copy the packed dataset again",
        )
    unread = np.sort([entry["doc_id"] for entry in packed.quarantined()]) // width
    at = known["doc_id"].to_numpy() // width
    at = at - np.searchsorted(np.unique(unread), at)
    total = (ledger["documents"]["read"] - ledger["documents"]["quarantined"]) // width
    chosen = select(
        lengths=_placed(at, known["counted"].to_numpy(), total, np.int64),
        source=_placed(at, source_of(known["doc_id"].to_numpy(), ledger), total, np.int32),
        quality=_placed(at, known["quality"].to_numpy(), total, np.float32),
        repeats=_placed(at, known["repeats"].to_numpy(), total, np.bool_),
        eligible=_placed(at, np.ones(len(at), bool), total, np.bool_),
        budget=int(wanted["budget"]),
        weights=np.array([float(weight.get(name, 0.0)) for name in names]),
        max_tokens=np.zeros(len(names), np.int64),
        seed=manifest["config"]["seed"],
    )[at]
    gone = known.filter(~chosen).select(group=pl.col("doc_id") // width, row="row")
    out = documents.with_columns(group=pl.col("doc_id") // width).join(gone, "group").sort("doc_id")
    return NewChoice(
        int(wanted["budget"]),
        weight_by,
        dict(weight),
        out.with_columns(source=source_of(out["doc_id"].to_numpy(), ledger)),
    )


def _parsed(budget: int | str) -> dict[str, Any]:
    wanted: dict[str, Any] = parse_budget(budget) if isinstance(budget, str) else {"budget": budget}
    if wanted.get("budget_usd"):
        raise UsageError(
            "dollars buy tokens of a bill, which a packed dataset has none of",
            where=f"{BUDGET} {budget}",
            hint=f"give tokens, or {AGAIN}",
        )
    if wanted["budget"] < 1:
        raise UsageError("a budget of no tokens", where=f"{BUDGET} {budget}", hint="give --budget 20M")
    return wanted


def _check_known(packed: PackedFolder, weights_given: bool) -> None:
    manifest, ledger = packed.manifest, packed.ledger
    weights = any(source.get("weight") for source in manifest["config"]["source"])
    repeats = schema.COPIES in manifest and packed.validation is not None
    reasons = [
        (OVER_BUDGET in ledger["documents"]["dropped"], "a budget has left documents out already", AGAIN),
        (
            not (packed.folder / schema.CHOICE).is_file(),
            "it does not say how good its documents are",
            f"pack with --record-choice, or {AGAIN}",
        ),
        (weights and not weights_given, "its sources have weights", "give --weight for each source"),
        ("segments" in ledger, "its ledger tells the segments of answers apart, which rows do not", AGAIN),
        (repeats, "it repeats sources, and not what it holds out", AGAIN),
    ]
    for is_so, why, hint in reasons:
        if is_so:
            what = f"nothing can be chosen from this packed dataset: {why}"
            raise UsageError(what, where=str(packed.folder), hint=hint)


def _record(packed: PackedFolder) -> pl.DataFrame:
    path = packed.folder / schema.CHOICE
    try:
        table = pq.read_table(path).select(schema.CHOICE_SCHEMA.names).cast(schema.CHOICE_SCHEMA)
        table.validate(full=True)
        if any(column.null_count for column in table.columns):
            raise ValueError("nulls")
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise damaged(path, error) from None
    return pl.DataFrame(pl.from_arrow(table.replace_schema_metadata()))


def _documents(part: PackedFolder, weight_by: str) -> pl.DataFrame:
    """doc_id, packed (tokens of one copy), times, counted (against a budget)."""
    stored = StoredPieces.of([part])
    at = stored.placement
    trained = stored.trained() if weight_by == "trained" else at.length
    return (
        pl.DataFrame({"doc_id": at.doc_id, "copy": at.copy, "packed": at.length, "counted": trained})
        .group_by("doc_id")
        .agg(
            pl.col("packed").filter(pl.col("copy") == 0).cast(pl.Int64).sum(),
            times=pl.col("copy").max().cast(pl.Int64) + 1,
            counted=pl.col("counted").cast(pl.Int64).sum(),
        )
        .sort("doc_id")
    )


def _placed(at: Int64, values: npt.NDArray[Any], total: int, dtype: Any) -> npt.NDArray[Any]:
    """Of all documents that were read, by their number; those that are in no row have nothing."""
    found = np.zeros(total, dtype)
    found[at] = values
    return found

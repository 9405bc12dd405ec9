"""All documents of a run as numbers: what the decisions between the passes are made from.

About 45 bytes a document are in memory, 16 of them until equal ones are found; tokens stay in the store,
mapped. Numbers of documents and rows have 32 bits: a run takes some two billion.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import count
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from tokpack import schema
from tokpack.arrays import Bools, Int32, Int64, UInt8
from tokpack.on_disk.reasons import PAIR_DROPPED
from tokpack.stages.dedup import Hashes
from tokpack.stages.keep import KeepList
from tokpack.stages.normalize.passed_over import PassedOver, of_record, together
from tokpack.stages.pairs import torn_pairs
from tokpack.stages.selected_tokens import SelectedTokens
from tokpack.stages.write import FlatBatch
from tokpack.way.columns import REASON, GrowingFrame, check_number
from tokpack.way.figures import MoneyFigures, NearFigures
from tokpack.way.store import Batch, Key, TokenStore, flat_batch

DETAILS = {"position": pl.Int32, "drop_detail": pl.String}
HASHES = ("hash_high", "hash_low")
EXAMPLES = 3
"""Documents shown of each drop reason."""


@dataclass(slots=True)
class Corpus:
    """Numbers of all documents and pieces: what global decisions are made from."""

    docs: pl.DataFrame
    """doc_id, source, row, drop_reason, hash_high, hash_low, drawn (until they are forgotten), tokens, cut,
    variant [, copies, quality]."""
    pieces: pl.DataFrame
    """document (position in docs), length, trained: in the order of the store; see `placed`."""
    quarantined: list[str]
    counters: dict[str, int]
    """What cleaning changed or noticed."""
    paths: dict[str, int]
    """Rows on the fast and slow paths, and proofs made: figures of the run, not of the data."""
    store: TokenStore
    batches: list[Key]
    """Those of the store, in order."""
    starts: Int64
    """Of each batch: its first of `pieces`; then all of them."""
    sha256: dict[int, str]
    """Source -> digest, as far as it is known."""
    rows_before: dict[Key, int]
    """Batch -> rows of those before it."""
    width: int = 1
    """Documents that are decided about together: 2 for preference pairs, side by side in `docs`."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    passed_over: dict[int, PassedOver] = field(default_factory=dict)
    """Source -> what of its rows no document holds."""
    near: NearFigures | None = None
    """Figures of the near duplicates that were dropped."""
    keep: KeepList = field(default_factory=KeepList)
    """Documents that a person wants kept."""
    spared: dict[int, str] = field(default_factory=dict)
    """Those of them that a mark was taken off -> its reason, the first."""
    money: MoneyFigures | None = None
    choice: pl.DataFrame | None = None
    """`schema.CHOICE_SCHEMA`, where it is recorded."""
    details: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=DETAILS))
    """position (in docs), drop_detail: of the documents that have one, in any order."""

    @staticmethod
    def load(store: TokenStore, items: int, width: int = 1) -> Corpus:
        """Read back what pass 1 committed of `items` items, each batch shifted to its place."""
        batches: list[Key] = []
        rows_before: dict[Key, int] = {}
        docs, pieces = GrowingFrame(), GrowingFrame()
        details, quarantined = [], []
        counters: Counter[str] = Counter()
        paths: Counter[str] = Counter()
        examples: dict[str, list[str]] = {}
        spared: dict[int, str] = {}
        passed_over: dict[int, PassedOver] = {}
        sha256: dict[int, str] = {}
        starts = [0]
        documents = rows = 0
        lines: Counter[int] = Counter()
        for item in range(items):
            own: Counter[int] = Counter()
            for number, found in enumerate(_batches(store, item)):
                batch = shifted(found, width * rows, lines)
                starts.append(starts[-1] + len(batch.pieces))
                check_number(width * (rows + batch.rows), "documents")
                check_number(starts[-1], "pieces of documents")
                pieces.add(batch.pieces.select(pl.col("document") + documents, "length", "trained"))
                details.append(details_of(batch.docs, documents))
                docs.add(batch.docs.drop("drop_detail"))
                batches.append((item, number))
                rows_before[item, number] = rows
                documents, rows = documents + len(batch.docs), rows + batch.rows
                quarantined += [json.dumps(record, ensure_ascii=False) for record in batch.quarantined]
                counters.update(batch.counters)
                paths.update(batch.paths)
                own.update(batch.lines)
                spared |= batch.spared
                passed_over = together((passed_over, of_record(batch.over)))
                sha256 |= batch.sha256
                for reason, snippets in batch.examples.items():
                    examples[reason] = (examples.get(reason, []) + snippets)[:EXAMPLES]
            lines.update(own)
            check_number(max(lines.values(), default=0), "lines of one input")
        return Corpus(
            docs.frame(),
            pieces.frame(),
            quarantined,
            dict(counters),
            dict(paths),
            store,
            batches,
            np.array(starts),
            sha256,
            rows_before,
            width,
            examples,
            passed_over=passed_over,
            spared=spared,
            details=pl.concat(details),
        )

    def place_of(self, key: Key, digest: str) -> int | None:
        """Rows before a batch, whose number among all documents begins there; None where its input is another
        by now."""
        known = key in self.rows_before and self.store.is_of(key, digest)
        return self.rows_before[key] if known else None

    def drop(self, positions: Any, reason: str, details: pl.Series | None = None) -> None:
        """Mark documents that are still kept, with a text of each; those that are wanted stay where it can be
        overruled."""
        at = np.asarray(positions, np.int64)
        marks = pl.Series(np.full(len(self.docs), False))
        marks = marks.scatter(at, True)
        self._mark(marks, pl.lit(reason))
        if details is not None:
            self._tell(at, details)
        self.docs, spared = self.keep.spare(self.docs)
        if spared:
            gone = np.searchsorted(self.docs["doc_id"].to_numpy(), sorted(spared))
            self.details = self.details.filter(~np.isin(self.details["position"], gone))
        self.spared = spared | self.spared

    def _mark(self, marks: pl.Series, reason: pl.Expr) -> None:
        marked = pl.when(marks).then(reason.cast(REASON)).otherwise("drop_reason")
        self.docs = self.docs.with_columns(marked.alias("drop_reason"))

    def _tell(self, positions: Int64, details: pl.Series) -> None:
        told = pl.DataFrame({"position": positions, "drop_detail": details}, schema=DETAILS)
        self.details = pl.concat([self.details, told])

    def unwanted(self, positions: Any) -> Int64:
        """Those of the positions whose documents no wish keeps."""
        at = np.asarray(positions, np.int64)
        unwanted: Int64 = at[~self.keep.holds(self.docs["doc_id"].to_numpy()[at])]
        return unwanted

    def drop_partners(self) -> None:
        """After marks on single documents: of a pair, both leave."""
        if self.width > 1:
            torn, details = torn_pairs(self.docs)
            self._mark(torn, pl.lit(PAIR_DROPPED))
            self._tell(torn.arg_true().to_numpy(), details)

    def documents_of(self, groups: npt.NDArray[np.integer[Any]]) -> Int64:
        """Positions of all documents of the groups, group g being the documents that are decided about
        together: `g * width` and on."""
        positions: Int64 = (groups[:, None] * self.width + np.arange(self.width)).ravel()
        return positions

    def kept(self) -> Bools:
        return self.docs["drop_reason"].is_null().to_numpy()

    def hashes(self, width: int = 1) -> Hashes:
        """Of every document, or of every `width`-th."""
        high, low = (self.docs[name].to_numpy()[::width] for name in HASHES)
        return high, low

    def take_drawn(self) -> Bools:
        """Which documents are drawn to be held out; the column leaves."""
        if schema.DRAWN not in self.docs.columns:
            return np.zeros(len(self.docs), np.bool_)
        drawn: Bools = self.docs.drop_in_place(schema.DRAWN).to_numpy()
        return drawn

    def forget_hashes(self) -> None:
        """They are the widest columns, and no step after the decisions asks for them."""
        self.docs = self.docs.drop(HASHES)

    def forget_pieces(self) -> None:
        """Once rows are planned, the plan has those that are packed."""
        self.pieces = self.pieces.clear()

    def quarantined_by_source(self) -> dict[str, int]:
        """Documents that could not be read: an unreadable row of pairs is two."""
        rows = Counter(json.loads(line)["source"] for line in self.quarantined)
        return {name: count * self.width for name, count in rows.items()}

    def mapped(self) -> Callable[[int], FlatBatch]:
        """Batch number -> its mapped arrays; each file is opened once."""
        return lru_cache(maxsize=None)(self.batch)

    def batch(self, number: int) -> FlatBatch:
        """The arrays of a batch, mapped for as long as they are used."""
        return flat_batch(self.store.tokens(self.batches[number]))

    def stored_documents(self, width: int = 1) -> tuple[Int64, StoredBatches]:
        """Positions of the documents that the store holds, and the tokens of their contents, batch by batch.

        The pieces of a document lie next to each other, so a document is one range of tokens; with a `width`
        of 2 a pair is, and has the position of its first document.
        """
        document = self.pieces["document"].to_numpy()
        first = np.flatnonzero(np.diff(document, prepend=-1))
        first = first[document[first] % width == 0]
        firsts = np.split(first, np.searchsorted(first, self.starts[1:-1]))
        index = [(own - start).astype(np.int32) for own, start in zip(firsts, self.starts, strict=False)]
        return document[first], StoredBatches(self.store, self.batches, index if self.batches else [])

    def placed(self, chosen: Bools) -> pl.DataFrame:
        """The pieces of the chosen documents, with their `number` in it, and where they lie: `batch`, `index`
        within it."""
        at = np.flatnonzero(chosen[self.pieces["document"].to_numpy()]).astype(np.int32)
        pieces = self.pieces if len(at) == len(self.pieces) else self.pieces[at]
        each = np.diff(np.searchsorted(at, self.starts.astype(np.int32)))
        at -= np.repeat(self.starts[:-1].astype(np.int32), each)
        own = {
            "number": numbers_within(pieces["document"].to_numpy()),
            "batch": np.repeat(np.arange(len(each), dtype=np.int32), each),
            "index": at,
        }
        del at
        return pieces.with_columns(pl.Series(name, own.pop(name)).shrink_dtype() for name in list(own))

    def tokens_of(self, position: int, start: int = 0, end: int | None = None) -> Int32:
        """Content tokens of one stored document; empty when the store does not hold it.

        `start` and `end` are places among all of its tokens.
        """
        tokens, content = self._stored(position)
        return tokens[start:end][content[start:end]]

    def messages_of(self, position: int, most: int) -> list[Int32]:
        """The first `most` content tokens of one stored document, parted where the template stood between."""
        tokens, content = self._stored(position)
        places = np.flatnonzero(content)[:most]
        return np.split(tokens[places], np.flatnonzero(np.diff(places) > 1) + 1)

    def _stored(self, position: int) -> tuple[Int32, Bools]:
        """All tokens of one document in the store, and which of them are content."""
        tokens, content = [np.empty(0, np.int32)], [np.empty(0, np.bool_)]
        first, last = np.searchsorted(self.pieces["document"].to_numpy(), [position, position + 1])
        if first < last:  # pieces of a document are in one batch
            number = int(np.searchsorted(self.starts, first, side="right")) - 1
            offsets, ids, flags, _ = self.batch(number)
            part = slice(*offsets[[first, last] - self.starts[number]])
            tokens.append(ids[part])
            content.append((flags[part] & schema.CONTENT) != 0)
        return np.concatenate(tokens), np.concatenate(content)


@dataclass(frozen=True, slots=True, eq=False)
class StoredBatches(Sequence[SelectedTokens]):
    """Contents of documents in the store, batch by batch. A batch is mapped when it is asked for, and for as
    long as it is used: what has been read does not count as memory."""

    store: TokenStore
    keys: list[Key]
    first: list[Int32]
    """Of each batch: the records that begin a document."""

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, number: Any) -> Any:
        offsets, ids, flags, _ = flat_batch(self.store.tokens(self.keys[number]))
        places = np.append(offsets[self.first[number]], offsets[-1])
        return SelectedTokens(ids, places, cast(UInt8, flags), schema.CONTENT)


def details_of(docs: pl.DataFrame, before: int = 0) -> pl.DataFrame:
    """The texts of documents that were left out, by their position."""
    told = pl.col("drop_detail")
    position = pl.int_range(before, before + pl.len(), dtype=pl.Int32)
    return docs.select(position.alias("position"), told).filter(told.is_not_null())


def numbers_within(document: Int32) -> Int32:
    """The number of each piece in its document: [4, 4, 4, 7] -> [0, 1, 2, 0]"""
    number = np.arange(len(document), dtype=np.int32)
    first = number.copy()
    first[1:][document[1:] == document[:-1]] = 0
    np.maximum.accumulate(first, out=first)
    number -= first
    return number


def _batches(store: TokenStore, item: int) -> Iterator[Batch]:
    """Those of one item, in order."""
    for number in count():
        batch = store.load((item, number))
        yield batch
        if batch.last:
            return


def shifted(batch: Batch, documents: int, lines: Mapping[int, int]) -> Batch:
    """A batch whose `doc_id`s begin after so many `documents` of the batches before it, and its rows after
    the lines of the same sources in the items before it."""
    docs = batch.docs
    if documents:
        docs = docs.with_columns(pl.col("doc_id") + documents)
        torn = pl.col("drop_reason") == PAIR_DROPPED  # "17 empty_answer": which document left first
        if not docs.filter(torn).is_empty():
            partner, rest = (pl.col("drop_detail").str.extract(r"^(\d+)(.*)$", group) for group in (1, 2))
            moved = pl.concat_str((partner.cast(pl.Int64) + documents).cast(pl.String), rest)
            docs = docs.with_columns(pl.when(torn).then(moved).otherwise("drop_detail").alias("drop_detail"))
    ahead = {source: lines[source] for source in batch.lines if lines.get(source)}  # of one that was cut
    if ahead:
        moved = pl.col("source").replace_strict(ahead, default=0, return_dtype=pl.Int64)
        docs = docs.with_columns(pl.col("row") + moved)
    quarantined = [
        {
            **record,
            "doc_id": record["doc_id"] + documents,
            "row": record["row"] + sum(ahead.values()),
        }
        for record in batch.quarantined
    ]
    spared = {doc_id + documents: reason for doc_id, reason in batch.spared.items()}
    return replace(batch, docs=docs, quarantined=quarantined, spared=spared)

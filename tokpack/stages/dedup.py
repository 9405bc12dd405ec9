"""Dedup: a 128-bit hash of each document in pass 1; the copies are found over all documents at once.

The hash is of what is rendered, and by how much it is trained: documents of equal texts are equal, however
rows spell tools, calls and arguments, and whatever the template leaves out. By default contents are compared
in Unicode NFC without outer whitespace; inner whitespace and compatibility characters stay, since they mean
something in code and mathematics. Memory: 16 bytes a document.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Final, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import xxhash

from tokpack.arrays import Bools, Float32, Float64, Int32, Int64, UInt8, UInt64
from tokpack.encoding.token_places import text_buffers
from tokpack.encoding.unicode import Wide
from tokpack.ranges import offsets_of
from tokpack.schema import TRAINED
from tokpack.stages.messages import Messages
from tokpack.stages.render.pieces import Spans
from tokpack.stages.render.render import Rendered
from tokpack.stages.tokenize import TokenBatch

Hashes = tuple[UInt64, UInt64]
"""Of each document: the high and the low word of its hash."""
Buffer: TypeAlias = "bytes | memoryview"
Bytes = UInt8
WHITE: Final = np.isin(np.arange(256), [*b" \t\n\v\f\r"])
INDENT: Final = 64
"""White space at the ends of a text that is looked through character by character."""
SORTED: Final = 1 << 18
"""Documents that are sorted at once, where that is in no more than 2^MOST_BITS ranges."""
MOST_BITS: Final = 6


def text_hash(rendered: Rendered, key: str = "nfc") -> UInt64:
    """xxh3_128 of every rendered document: uint64[n, 2], high word first.

    A text is cut where contents and trained parts begin and end. Pieces of one kind that follow each other
    are a run, whose kind and length are hashed beside the text, so that no content passes for words of the
    template: <user>Hi</user><bot>, Hello, </bot> is not <user>, Hi</user><bot>Hello, </bot>.
    """
    places, data = text_buffers(rendered.text)
    content, trained = _edges(rendered.content, places), _edges(rendered.trained, places)
    weighed = _edges(rendered.weights.spans, places) if rendered.weights else trained
    cuts = np.sort(np.concatenate([places, *content, *trained, *weighed]))
    cuts = cuts[np.diff(cuts, prepend=-1) > 0]
    first = cuts[:-1]
    each = np.searchsorted(first, places)
    row = np.repeat(np.arange(len(places) - 1), np.diff(each))
    is_content, by = _within(first, content), _within(first, trained).astype(np.float32)
    if rendered.weights is not None:
        last = np.searchsorted(weighed[0], first, "right") - 1
        by = np.where(_within(first, weighed), by * np.append(rendered.weights.values, 1)[last], by)
    changed, texts = _rewritten(data, cuts, np.flatnonzero(is_content), key)
    sizes = np.diff(cuts)
    sizes[changed] = [len(text) for text in texts]
    ends = offsets_of(sizes)[each]
    whole = _replaced(memoryview(data.data), cuts, changed, texts)
    return _digests(_between(whole, ends)) ^ _run_digests(len(places) - 1, row, is_content, by, sizes)


def _run_digests(documents: int, row: Int64, is_content: Bools, by: Float32, sizes: Int64) -> UInt64:
    """Of each document's runs: of what kind and how long they are. The other arrays are of pieces."""
    filled = np.flatnonzero(sizes)
    row, sizes, is_content, by = row[filled], sizes[filled], is_content[filled], by[filled]
    other = np.ones(len(filled), np.bool_)
    other[1:] = (np.diff(row) != 0) | (np.diff(is_content) != 0) | (np.diff(by) != 0)
    begins = np.flatnonzero(other)
    runs = np.empty((len(begins), 3), "<f8")
    runs[:, 0], runs[:, 1] = is_content[begins], by[begins]
    runs[:, 2] = np.add.reduceat(sizes, begins) if len(begins) else 0
    each = np.searchsorted(row[begins], np.arange(documents + 1))
    return _digests(_between(runs.tobytes(), runs.itemsize * runs.shape[1] * each), seed=1)


def _rewritten(data: Bytes, cuts: Int64, contents: Int64, key: str) -> tuple[Int64, list[Buffer]]:
    """The pieces, of those between `cuts` that are contents, which are compared in another form; and that."""
    if key == "raw":
        return contents[:0], []
    stripped, texts = contents[:0], list[Buffer]()
    if key == "nfc":
        starts, ends = cuts[contents], cuts[contents + 1]
        first, last, sure = _without_white_space(data, starts, ends)
        other = sure & ((first != starts) | (last != ends))
        whole, ranges = data.data, zip(first[other].tolist(), last[other].tolist(), strict=True)
        stripped, texts = contents[other], [whole[a:b] for a, b in ranges]
        contents = contents[~sure]
    pieces = pa.LargeStringArray.from_buffers(len(cuts) - 1, pa.py_buffer(cuts), pa.py_buffer(data))
    before = pl.Series(pl.from_arrow(pieces.take(pa.array(contents))))
    after = canonical(before, key)
    changed = (before != after).arg_true()
    texts += after.gather(changed).cast(pl.Binary).to_list()
    which = np.append(stripped, contents[changed.to_numpy()])
    order = np.argsort(which)
    return which[order], [texts[number] for number in order.tolist()]


def _without_white_space(data: Bytes, starts: Int64, ends: Int64) -> tuple[Int64, Int64, Bools]:
    """Where texts begin and end without outer white space, and of which that is sure: of those in ASCII, if
    they have not too much of it."""
    if not len(starts):
        return starts, ends, np.empty(0, np.bool_)
    last = ends - 1
    lowest = np.minimum.reduceat(data.view(np.int8), np.column_stack([starts, last]).ravel())[::2]
    sure = (lowest >= 0) & (data[last] < 0x80)
    for _ in range(INDENT):
        front, back = (WHITE[data[at]] & sure & (starts <= last) for at in (np.minimum(starts, last), last))
        if not (front | back).any():
            return starts, last + 1, sure
        starts, last = starts + front, last - (back & (starts + front <= last))
    return starts, last + 1, sure & ~(front | back)


def _replaced(data: memoryview, cuts: Int64, changed: Int64, texts: list[Buffer]) -> Buffer:
    """All pieces end to end, the changed ones with these texts."""
    if not texts:
        return data[int(cuts[0]) : int(cuts[-1])]
    parts, at = list[Buffer](), int(cuts[0])
    for start, end, text in zip(cuts[changed].tolist(), cuts[changed + 1].tolist(), texts, strict=True):
        parts += data[at:start], text
        at = end
    return b"".join([*parts, data[at : int(cuts[-1])]])


def _edges(spans: Spans, places: Int64) -> tuple[Int64, Int64]:
    """Where spans begin and end in the texts of all documents."""
    before = np.repeat(places[:-1], np.diff(spans.offsets))
    return before + spans.starts, before + spans.ends


def _within(places: Int64, edges: tuple[Int64, Int64]) -> Bools:
    """Which places lie in a span; every edge is a place, or the end."""
    begun, ended = (np.bincount(np.searchsorted(places, edge), minlength=len(places) + 1) for edge in edges)
    inside: Bools = np.cumsum(begun - ended)[:-1] > 0
    return inside


def content_hash(documents: pl.DataFrame, key: str = "nfc") -> UInt64:
    """The same of what the rows say, where no model's template is known."""
    messages = Messages.of(documents)
    contents = canonical(messages.contents.fill_null(""), key)
    # Lengths make the join unambiguous: ["a", "b"] and ["a\x1fb"] must differ.
    parts = pl.DataFrame({"role": messages.roles.fill_null(""), "content": contents}).select(
        pl.concat_str("role", pl.col("content").str.len_bytes().cast(pl.String), "content", separator="\x1f")
    )
    joined = messages.lists(parts.to_series()).list.join("\x1e")
    text = pl.DataFrame({"text": joined, "extra": documents["extra"].fill_null("")}).select(
        pl.concat_str("text", "extra", separator="\x1e")
    )
    places, data = text_buffers(text.to_series().to_arrow().cast(pa.large_string()))
    return _digests(_between(memoryview(data.data), places))


def token_hash(tokens: TokenBatch) -> UInt64:
    """The same of documents that came tokenized: of their ids, and of which ones are trained."""
    marked = tokens.input_ids.astype("<u4") << 1 | (tokens.flags & TRAINED)
    return _digests(_between(marked.tobytes(), 4 * tokens.offsets), seed=1)


def _between(data: Buffer, offsets: Int64) -> Iterator[Buffer]:
    return (data[a:b] for a, b in pairwise(offsets.tolist()))


def _digests(parts: Iterable[Buffer], seed: int = 0) -> UInt64:
    digest = xxhash.xxh3_128_digest
    digests = b"".join([digest(part, seed) for part in parts])
    return np.frombuffer(digests, ">u8").astype(np.uint64).reshape(-1, 2)


def canonical(contents: pl.Series, key: str) -> pl.Series:
    """Contents as they are compared; `key` as `DedupConfig.exact` says."""
    if key == "raw":
        return contents
    contents = contents.str.strip_chars()
    if key == "folded":
        wide = (contents.str.len_bytes() != contents.str.len_chars()).arg_true()
        contents = contents.scatter(wide, contents.gather(wide).str.normalize("NFKC"))
        contents = contents.str.to_lowercase().str.replace_all(r"\s+", " ")
    else:
        contents = contents.scatter(*Wide(contents).nfc())
    return contents


def first_of_equal(hashes: Hashes, eligible: Bools) -> Int32:
    """Position of the first eligible document with the same hash; -1 for that one, and where not eligible.

    Documents are sorted a range of hashes at a time: their order is all the memory that it takes besides the
    result.
    """
    high, low = hashes
    bits = min(MOST_BITS, (len(high) // SORTED).bit_length())
    partner = np.full(len(eligible), -1, dtype=np.int32)
    ranges = np.zeros(len(high), np.uint8)
    for some in _slices(len(high)):
        ranges[some] = high[some] >> np.uint64(64 - bits) if bits else 0
    for number in range(1 << bits):
        positions = np.flatnonzero((ranges == number) & eligible)
        found = _first_of_some(high[positions], low[positions])
        again = found >= 0
        partner[positions[again]] = positions[found[again]]
    return partner


def _first_of_some(high: UInt64, low: UInt64) -> Int64:
    """The same of a few, all of them eligible."""
    order = np.argsort(high)
    same = high[order[1:]] == high[order[:-1]]
    if (low[order[1:]] != low[order[:-1]])[same].any():
        order = np.lexsort((low, high))
        same = (high[order[1:]] == high[order[:-1]]) & (low[order[1:]] == low[order[:-1]])
    begins = np.append(True, ~same)[: len(order)]
    first = np.minimum.reduceat(order, np.flatnonzero(begins)) if len(order) else order
    found = np.empty(len(order), np.int64)
    found[order] = first[np.cumsum(begins) - 1]
    found[first] = -1
    return found


def draw(hashes: Hashes, share: float | Float64, seed: int) -> Bools:
    """Seeded choice of about `share` of all conversations; equal ones fall on the same side."""
    high, low = hashes
    chosen = np.empty(len(high), np.bool_)
    for some in _slices(len(high)):
        mixed = (high[some] ^ np.uint64(seed & 0xFFFFFFFFFFFFFFFF)) * np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(32)) ^ low[some]) * np.uint64(0xD6E8FEB86659FD93)
        wanted = share if isinstance(share, float | int) else share[some]
        chosen[some] = (mixed >> np.uint64(11)).astype(np.float64) / float(1 << 53) < wanted
    return chosen


def _slices(count: int, size: int = 1 << 20) -> list[slice]:
    return [slice(start, start + size) for start in range(0, count, size)]

"""Tokenize: text -> token ids and flags, a whole batch at once.

The masks come from bytes: where each token begins and ends in the text is known (a running sum of token
lengths on the fast path, `tokenizers`' offsets on the slow one), so a span becomes a range of tokens by two
binary searches. A token that crosses a span's edge belongs to the span.

Rows that the fast tokenizer cannot prove (characters that the normalizer rewrites, bytes missing from the
vocabulary) take the slow path; so does everything when it fails a proof.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tokpack.arrays import Bools, Float32, Int32, Int64, UInt8
from tokpack.encoding.fast_proof import shown
from tokpack.encoding.fast_tokenizer import FastTokenizer
from tokpack.encoding.token_places import Encoded, text_buffers
from tokpack.encoding.tokenizer import Tokenizer
from tokpack.ranges import offsets_of, range_indices
from tokpack.schema import CONTENT, SEGMENT, TRAINED
from tokpack.stages.render.pieces import Spans
from tokpack.stages.render.render import Rendered

Flags = UInt8

_PROOF_ROWS = 4
_PROOF_BYTES = 1 << 20
"""So many rows of a batch are proved, and one more for so many bytes of it."""
_PROOF_ROW_BYTES = 8192


@dataclass(frozen=True)
class TokenBatch:
    """Document i has `input_ids[offsets[i]:offsets[i + 1]]`; `flags` are bits of `tokpack.schema`."""

    offsets: Int64
    input_ids: Int32
    flags: Flags
    weights: Float32 | None = None
    """By how much each token counts in the loss; None where all count in full."""
    stats: dict[str, int] = field(default_factory=dict)
    """Rows on the `fast` and on the `slow` path."""


def weights_of(batch: TokenBatch) -> Float32:
    """By how much each token counts in the loss."""
    return np.ones(len(batch.input_ids), np.float32) if batch.weights is None else batch.weights


def weighed(offsets: Int64, flags: npt.NDArray[np.integer[Any]], weights: Float32) -> Bools:
    """Which of the pieces between `offsets` have a label that counts by another weight than 1."""
    running = np.append(0, np.cumsum((weights != 1) & (flags & TRAINED > 0)))
    starts = np.minimum(offsets[:-1] + 1, offsets[1:])  # a first token has no label
    found: Bools = running[offsets[1:]] > running[starts]
    return found


def tokenize(rendered: Rendered, tokenizer: Tokenizer) -> TokenBatch:
    """Encode a rendered batch and mark its trained and content tokens."""
    text = rendered.text
    rows = np.arange(len(text))
    fast = tokenizer.fast
    if fast is not None and (wrong := _prove(rendered, tokenizer, fast)) is not None:
        tokenizer.refuse_fast(f"the fast one differs from `tokenizers` on {shown(wrong)}")
        fast = None
    if fast is None:
        batch = _marked(rendered, tokenizer.encode_reference(text), rows)
        slow = rows
    else:
        encoded, is_slow = fast.encode(text)
        batch = _marked(rendered, encoded, rows)
        slow = np.flatnonzero(is_slow)
        if len(slow):
            again = tokenizer.encode_reference(text.take(pa.array(slow)))
            batch = _replace_rows(batch, slow, _marked(rendered, again, slow))
    stats = {"fast": len(text) - len(slow), "slow": len(slow)}
    return _add_edges(rendered, tokenizer, replace(batch, stats=stats))


def _marked(rendered: Rendered, encoded: Encoded, rows: Int64) -> TokenBatch:
    flags = flag_tokens(rendered, encoded, rows)
    return TokenBatch(encoded.offsets, encoded.ids, flags, _weigh_tokens(rendered, encoded, rows))


def _prove(rendered: Rendered, tokenizer: Tokenizer, fast: FastTokenizer) -> str | None:
    """Compare the fast path with the reference on some rows, or on all; the first that differs.

    The rows depend on the batch alone, so every run proves the same ones. Rows beyond ASCII come first.
    """
    text = rendered.text
    if not rendered.paranoid:
        sizes = pc.binary_length(text).to_numpy()
        short = np.flatnonzero(sizes <= _PROOF_ROW_BYTES)
        count = _PROOF_ROWS + int(sizes.sum()) // _PROOF_BYTES
        rows = np.random.default_rng(len(text)).permutation(short)[: 8 * count]
        wide = pc.utf8_length(text.take(pa.array(rows))).to_numpy() != sizes[rows]
        chosen = np.concatenate([rows[wide][: (count + 1) // 2], rows[:count]])
        text = text.take(pa.array(np.unique(chosen)))
    return tokenizer.disproved(text, fast)


def _replace_rows(batch: TokenBatch, rows: Int64, other: TokenBatch) -> TokenBatch:
    """Put the documents of `other` in the place of `rows`: copies run by run, not row by row."""
    lengths = np.diff(batch.offsets)
    lengths[rows] = np.diff(other.offsets)
    cuts = np.stack([batch.offsets[rows], batch.offsets[rows + 1]], axis=1).ravel()
    kept = [0, *cuts.tolist(), len(batch.input_ids)]

    def joined(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[Any]:
        runs = []
        for number in range(len(rows) + 1):
            runs.append(old[kept[2 * number] : kept[2 * number + 1]])
            if number < len(rows):
                runs.append(new[other.offsets[number] : other.offsets[number + 1]])
        return np.concatenate(runs)

    weights = None
    if batch.weights is not None and other.weights is not None:
        weights = joined(batch.weights, other.weights)
    ids, flags = joined(batch.input_ids, other.input_ids), joined(batch.flags, other.flags)
    return TokenBatch(offsets_of(lengths), ids, flags, weights)


def flag_tokens(rendered: Rendered, encoded: Encoded, rows: Int64) -> Flags:
    """Flags of the encoded rows, `rows[i]` being row i's place in the rendered batch."""
    every, total = np.arange(len(rows)), len(encoded.ids)
    strict = ~rendered.plain[rows] if rendered.reference_masks else np.zeros(len(rows), bool)
    ranges = [
        _token_ranges(rendered, rendered.trained, encoded, rows, every[chosen == strict], chosen)
        for chosen in (False, True)
    ]
    trained = np.concatenate([r[0] for r in ranges]), np.concatenate([r[1] for r in ranges])
    content = _token_ranges(rendered, rendered.content, encoded, rows, every, strict=False)
    flags = _covered(trained, total, TRAINED) | _covered(content, total, CONTENT)
    return flags if rendered.segments is None else _mask_segments(flags, rendered, encoded, rows)


def _mask_segments(flags: Flags, rendered: Rendered, encoded: Encoded, rows: Int64) -> Flags:
    """Flags with the segment of every trained token, and without those that are masked.

    A token belongs to the segment in which it begins. One that reaches into an answer is of the answer, and
    one that reaches into what is trained stays trained.
    """
    valued = rendered.segments
    assert valued is not None
    _, row, at = _spans_of(valued.spans, rows)
    starts, ends, kinds = valued.spans.starts[at], valued.spans.ends[at], valued.values[at].astype(np.int64)
    total = len(encoded.ids)
    begins = encoded.tokens_before(row, starts), encoded.tokens_before(row, ends)
    segment = np.zeros(total, np.uint8)
    for number in np.unique(kinds).tolist():
        segment |= _covered((begins[0][kinds == number], begins[1][kinds == number]), total, number * SEGMENT)
    trained = flags & TRAINED > 0
    everywhere = _covered(_within(encoded, row, starts, ends), total, 1) > 0
    flags |= np.where(trained & everywhere, segment, np.uint8(0))
    chosen = np.isin(kinds, rendered.loss_mask)
    masked = _covered(_within(encoded, row[chosen], starts[chosen], ends[chosen]), total, TRAINED)
    return flags & ~masked


def _spans_of(spans: Spans, rows: Int64) -> tuple[Int64, Int64, Int64]:
    """(how many spans each of the rows has; of each span the place of its row in `rows`, and its own in
    `spans`)."""
    counts = np.diff(spans.offsets)[rows]
    return counts, np.repeat(np.arange(len(rows)), counts), range_indices(spans.offsets[rows], counts)


def _within(encoded: Encoded, row: Int64, starts: Int64, ends: Int64) -> tuple[Int64, Int64]:
    """Ranges of the tokens that lie whole within the spans, which are in order; touching ones are as one."""
    begins = np.ones(len(row), bool)
    begins[1:] = (row[1:] != row[:-1]) | (starts[1:] != ends[:-1])
    last = np.append(begins[1:], True)[: len(row)]
    return encoded.tokens_before(row[begins], starts[begins]), encoded.tokens_within(row[last], ends[last])


def _weigh_tokens(rendered: Rendered, encoded: Encoded, rows: Int64) -> Float32 | None:
    """The weight of every token; that of one that two answers share is the first one's."""
    valued = rendered.weights
    if valued is None:
        return None
    _, row, at = _spans_of(valued.spans, rows)
    start = encoded.token_at(row, valued.spans.starts[at])[0]
    stop = encoded.tokens_before(row, valued.spans.ends[at])
    stop = np.maximum.accumulate(np.maximum(start, stop))
    start = np.maximum(start, np.append(0, stop[:-1])[: len(start)])
    edges = np.stack([start, np.maximum(start, stop)], axis=1).ravel()
    pattern = np.ones(len(edges) + 1, np.float32)
    pattern[1::2] = valued.values[at]
    return np.repeat(pattern, np.diff(np.concatenate([[0], edges, [len(encoded.ids)]])))


def _token_ranges(
    rendered: Rendered, spans: Spans, encoded: Encoded, rows: Int64, chosen: Int64, strict: bool
) -> tuple[Int64, Int64]:
    """Token ranges of all spans of the `chosen` encoded rows: (first token, one past the last).

    They hold every token that shares a byte with its span. `strict` follows transformers'
    `return_assistant_tokens_mask` to the letter instead: the last token is the first one of the span's last
    character; a span whose first character has no token ends the masking of its document; one whose last
    character has none, or the document's first, runs to the document's end.
    """
    counts, number, at = _spans_of(spans, rows[chosen])
    row = chosen[number]
    starts, ends = spans.starts[at], spans.ends[at]
    first, first_hit = encoded.token_at(row, starts)
    if strict:
        last, last_hit = encoded.token_at(row, _last_character(rendered.text, rows[row], ends))
        stop = np.where(last_hit & (last > encoded.offsets[row]), last + 1, encoded.offsets[row + 1])
        broken = np.cumsum(~first_hit)
        before = np.append(0, broken)[np.cumsum(counts) - counts]
        usable = (broken == np.repeat(before, counts)) & (ends > 0)
    else:
        stop = encoded.tokens_before(row, ends)
        usable = starts < ends
    keep = usable & (first < stop)
    return first[keep], stop[keep]


def _last_character(text: pa.LargeStringArray, rows: Int64, ends: Int64) -> Int64:
    """Byte, relative to its document, at which the character that ends at `ends` begins."""
    offsets, data = text_buffers(text)
    place = ends - 1
    if not len(data):
        return place
    base = offsets[rows]
    for _ in range(3):  # a character has at most three continuation bytes, 0b10xxxxxx
        place -= (data[np.maximum(base + place, 0)] & 0xC0) == 0x80
    return place


def _covered(ranges: tuple[Int64, Int64], total: int, bit: int) -> Flags:
    """`bit` for each of `total` tokens that lies in a range, else 0; as runs, which is a memset each."""
    start, stop = ranges
    order = np.argsort(start, kind="stable")
    start, stop = start[order], np.maximum.accumulate(stop[order])
    start = np.maximum(start, np.append(0, stop[:-1]))  # what an earlier range covers already
    edges = np.stack([start, np.maximum(start, stop)], axis=1).ravel()
    runs = np.diff(np.concatenate([[0], edges, [total]]))
    pattern = np.tile(np.array([0, bit], np.uint8), len(start) + 1)[:-1]
    return np.repeat(pattern, runs)


def _add_edges(rendered: Rendered, tokenizer: Tokenizer, batch: TokenBatch) -> TokenBatch:
    """BOS and EOS of plain documents, where they are not there already.

    EOS is trained when the text up to its end is, BOS when the text from its start is (a plain text).
    """
    prefix = np.array(tokenizer.bos_prefix, np.int32)
    suffix = np.array([tokenizer.eos_id] if rendered.eos and tokenizer.eos_id is not None else [], np.int32)
    if not rendered.plain.any() or not len(prefix) + len(suffix):
        return batch
    ids, offsets = batch.input_ids, batch.offsets
    front = rendered.plain & ~_has(ids, offsets[:-1], offsets, prefix)
    back = rendered.plain & ~_has(ids, offsets[1:] - len(suffix), offsets, suffix)
    lengths = np.diff(offsets) + front * len(prefix) + back * len(suffix)
    new = offsets_of(lengths)
    out_ids, out_flags = np.empty(new[-1], np.int32), np.zeros(new[-1], np.uint8)
    shift = new[:-1] + front * len(prefix) - offsets[:-1]
    place = np.arange(len(ids)) + np.repeat(shift, np.diff(offsets))
    out_ids[place], out_flags[place] = ids, batch.flags
    weights = None
    if batch.weights is not None:
        weights = np.ones(new[-1], np.float32)
        weights[place] = batch.weights
        closing = np.flatnonzero(back & (lengths > len(suffix)))  # the EOS is the answer's
        ends = new[1:][closing] - len(suffix)
        weights[ends] = weights[ends - 1]
    whole, closed = _trained_edges(rendered)
    for rows, at, piece, trained in (
        (front, new[:-1], prefix, whole),
        (back, new[1:] - len(suffix), suffix, closed),
    ):
        places = at[rows][:, None] + np.arange(len(piece))
        out_ids[places] = piece
        out_flags[places] = np.where(trained[rows], TRAINED, 0).astype(np.uint8)[:, None]
    return TokenBatch(new, out_ids, out_flags, weights, batch.stats)


def _trained_edges(rendered: Rendered) -> tuple[Bools, Bools]:
    """Per row: is the text trained from its start, and up to its end."""
    spans, rows = rendered.trained, len(rendered.text)
    size = np.diff(text_buffers(rendered.text)[0])
    row = np.repeat(np.arange(rows), np.diff(spans.offsets))
    whole, closed = np.zeros(rows, bool), np.zeros(rows, bool)
    whole[row[spans.starts == 0]] = True
    closed[row[spans.ends == size[row]]] = True
    return whole, closed


def _has(ids: Int32, at: Int64, offsets: Int64, piece: Int32) -> Bools:
    """Which documents have `piece` at the place `at`; every document has an empty piece."""
    fits = (at >= offsets[:-1]) & (at + len(piece) <= offsets[1:])
    places = np.where(fits, at, 0)[:, None] + np.arange(len(piece))
    if not len(ids):
        return fits & (len(piece) == 0)
    same: Bools = fits & (ids[np.minimum(places, len(ids) - 1)] == piece).all(axis=1)
    return same

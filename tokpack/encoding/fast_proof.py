"""Proof that the fast tokenizer gives the ids, and the places of tokens, that `tokenizers` gives."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa

from tokpack.arrays import Bools, Int64
from tokpack.encoding.fast_tokenizer import FastTokenizer
from tokpack.encoding.id_texts import WORD_MARK
from tokpack.encoding.token_places import Encoded, text_buffers

PLAIN = "The quick brown fox's 12345 jumps; over\tthe lazy-dog_name(x) == 3.14!"

AT_ONCE = 1000
"""Rows that are compared at a time."""
USUAL = (PLAIN, "hello world", "The answer is 42", "a")
"""Texts of which a useful fast path is sure of one at least."""

# Texts on which tokenizers are known to differ.
ODD_STRINGS = (
    *("", " ", "\n", "a", " a", "a ", "  a  ", PLAIN, PLAIN.upper(), f" {PLAIN}", f"{PLAIN}\n\n"),
    *("it's we'll I'VE they'd", "don’t", "HTTPServer2xx", "x" * 300, " " * 130 + "x", "\t" * 70, "- " * 90),
    *(
        "a\r\nb\r\n\r\nc",
        "a \n b\n  c\n\n\n d",
        "line\u2028sep\u2029par\x85nel\x0bvt\x0cff",
        "a\u00a0\u3000b",
    ),
    *("e\u0301 é A\u030a \u212b \u1e9b\u0323 가 \u1100\u1161", "\u0958 \ufb2b \u2126 \u212a", "3\u20e3 ½ Ⅷ"),
    *(
        "👨\u200d👩\u200d👧 🇩🇪 ❤\ufe0f",
        "😀" * 40,
        "你好，世界。",
        "日本語のテスト",
        "한국어 시험",
        "สวัสดี",
        "हिन्दी",
    ),
    *("مرحبا بك", "שלום עולם", "\u200fabc\u200e", "\ufeffbom", "\x00nul\x00", "zero\u200bwidth"),
    *("".join(map(chr, range(32))), "".join(map(chr, range(127, 256))), "\ue000\uf8ff\U0010fffd"),
    *("1 12 123 1234 12345678901234567890 ٣٤", "0.5e-10, 1_000", f"{WORD_MARK}mark", f"a{WORD_MARK}"),
    *("<0x0A> <0xFF>", "def f(x):\n    return {'a': [1, 2]}\n", "https://a.b/c?d=e&f=%20#g"),
)


def odd_strings(added: Iterable[str]) -> Iterator[str]:
    """`ODD_STRINGS`, single characters of many scripts, and every added token in running text."""
    yield from ODD_STRINGS
    yield from map(chr, (*range(0x80, 0x800, 7), *range(0x800, 0xD800, 997), *range(0xE000, 0x1FFFF, 997)))
    added = list(added)
    for token in added:
        yield f"{PLAIN[:9]}{token}{PLAIN[3:9]}"
    for token in added[:40]:
        yield from (
            token,
            token * 2,
            f" {token} a",
            f"a\n{token}\n b",
            token[:-1],
            f"a{token}The answer is here",
        )
    yield " a\n".join(added)


def difference(
    reference: Callable[[pa.LargeStringArray], Encoded], fast: FastTokenizer, text: pa.LargeStringArray
) -> str | None:
    """The first row on which ids or places differ, among the rows that the fast path is sure of."""
    got, slow = fast.encode(text)
    want = reference(text)
    sure = np.flatnonzero(~slow)
    for first in range(0, len(sure), AT_ONCE):
        rows = sure[first : first + AT_ONCE]
        if len(wrong := rows[_differ(got, want, rows, text)]):
            return str(text[int(wrong[0])])
    return None


def _differ(got: Encoded, want: Encoded, rows: Int64, text: pa.LargeStringArray) -> Bools:
    """Of some rows: do ids differ, or the token, counted in its row, that holds one of the characters?"""
    counts, others = (one.offsets[rows + 1] - one.offsets[rows] for one in (got, want))
    odd: Bools = counts != others
    alike = np.flatnonzero(~odd)
    which, number = _in_rows(counts[alike])
    mine, theirs = (one.ids[one.offsets[rows[alike]][which] + number] for one in (got, want))
    odd[alike[which[mine != theirs]]] = True
    place, data = text_buffers(text)
    places = place[rows[0] : rows[-1] + 2] - place[rows[0]]
    begins = np.flatnonzero((data[place[rows[0]] : place[rows[-1] + 1]] & 0xC0) != 0x80)
    row = np.repeat(np.arange(len(places) - 1), np.diff(np.searchsorted(begins, places)))
    at = begins - places[row]
    row += rows[0]
    if len(rows) < len(places) - 1:
        asked = np.isin(row, rows)
        row, at = row[asked], at[asked]
    (token, hit), (true_token, true_hit) = got.token_at(row, at), want.token_at(row, at)
    elsewhere = token - true_token != (got.offsets - want.offsets)[row]
    odd |= np.isin(rows, row[(hit != true_hit) | (hit & elsewhere)])
    return odd


def _in_rows(counts: Int64) -> tuple[Int64, Int64]:
    """Counts of 2 and 1: rows 0, 0, 1 and places 0, 1, 0."""
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) - (np.cumsum(counts) - counts)[which]


def shown(text: str) -> str:
    """A text as a message quotes it."""
    return repr(text if len(text) <= 60 else f"{text[:57]}...")

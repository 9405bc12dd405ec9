"""How the tokenizer fits the data, and in which languages the data is: ids in use, scripts, bytes per token.

Counted over the contents of kept documents, without the template around them.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec

import numpy as np
import pyarrow as pa

from tokpack.arrays import Int32, Int64, Integers
from tokpack.encoding.tokenizer import Tokenizer
from tokpack.report.values import (
    Languages,
    LanguageShare,
    Script,
    SourceFit,
    TopToken,
    Vocabulary,
)
from tokpack.schema import CONTENT
from tokpack.stages.rules.language import SAMPLE, language_shares
from tokpack.way.corpus import Corpus

Counts = Int64
TOP = 20
COVERED = 0.9
HEAD_TOKENS = 300
"""Tokens of a document that its language is judged by."""
SPACE, WORD_MARK = "\u0120", "\u2581"
"""A space, as byte-level vocabularies and as SentencePiece write it."""
SCRIPTS = {"CJK": "Han", "HIRAGANA": "Kana", "KATAKANA": "Kana", "FULLWIDTH": "Latin", "HALFWIDTH": "Kana"}
"""First word of a letter's name in Unicode -> its script, where they differ."""
SIGNS, DIGITS, SPACES, OTHER = "signs", "digits", "white space", "other letters"
PARTS, SPECIAL = "parts of characters", "special tokens"


def vocabulary_figures(tokenizer: Tokenizer, corpus: Corpus, names: list[str]) -> Vocabulary:
    """Ids in use, the most frequent ones, tokens by script, and bytes per token of each source."""
    counts = content_counts(corpus, tokenizer.vocab_size)
    used = np.flatnonzero(counts)
    texts = dict(zip(used.tolist(), token_bytes(tokenizer, used), strict=True))
    sizes = np.zeros(len(counts), np.int64)
    sizes[used] = [len(text) for text in texts.values()]
    sums = source_sums(corpus, len(names), sizes)
    added = set(tokenizer.added_tokens.values())
    scripts: Counter[str] = Counter()
    for number, text in texts.items():
        scripts[SPECIAL if number in added else script_of(text)] += int(counts[number])
    total = int(counts.sum())
    ranked = used[np.argsort(-counts[used], kind="stable")]
    covered = int(np.searchsorted(np.cumsum(counts[ranked]), COVERED * total)) + 1 if total else 0
    return Vocabulary(
        size=len(counts),
        used=len(used),
        share=len(used) / len(counts) if len(counts) else 0.0,
        tokens=total,
        bytes=int(counts @ sizes),
        covered=covered,
        top=[
            TopToken(
                id=number, text=texts[number].decode("utf-8", "backslashreplace"), count=int(counts[number])
            )
            for number in ranked[:TOP].tolist()
        ],
        scripts=[Script(script=name, tokens=n) for name, n in scripts.most_common()],
        sources=[
            SourceFit(name=name, tokens=tokens, bytes=size)
            for name, tokens, size in zip(names, *(column.tolist() for column in sums), strict=True)
        ],
    )


def content_counts(corpus: Corpus, size: int) -> Counts:
    """How often each id stands in the contents of kept documents."""
    counts = np.zeros(size, np.int64)
    for ids, _ in _kept_contents(corpus):
        counts = _sum(counts, np.bincount(ids, minlength=size))
    return counts


def source_sums(corpus: Corpus, sources: int, sizes: Counts) -> tuple[Counts, Counts]:
    """Tokens and bytes of each source in the contents of kept documents; `sizes`: bytes of each id."""
    tokens, total = np.zeros(sources, np.int64), np.zeros(sources)
    for ids, source in _kept_contents(corpus):
        tokens += np.bincount(source, minlength=sources)
        total += np.bincount(source, sizes[ids], minlength=sources)
    return tokens, total.astype(np.int64)


def _kept_contents(corpus: Corpus) -> Iterator[tuple[Int32, Int32]]:
    """Batch by batch: the ids of contents, and the source of each."""
    kept, batches = corpus.kept(), corpus.mapped()
    source_of = corpus.docs["source"].to_numpy()
    for number, document in enumerate(np.split(corpus.pieces["document"].to_numpy(), corpus.starts[1:-1])):
        offsets, ids, flags, _ = batches(number)
        lengths = np.diff(offsets)
        chosen = np.repeat(kept[document], lengths) & ((flags & CONTENT) != 0)
        source = np.repeat(source_of[document], lengths)[chosen]
        yield ids[offsets[0] : offsets[-1]][chosen], source


def _sum(a: Counts, b: Counts) -> Counts:
    short, long = sorted((a, b), key=len)
    total = long.copy()
    total[: len(short)] += short
    return total


def token_bytes(tokenizer: Tokenizer, ids: Integers) -> list[bytes]:
    """What each id stands for in a text."""
    texts = tokenizer.id_texts
    if texts is not None and not texts.word_mark:
        known = texts.texts.take(pa.array(ids))
        if not known.null_count:
            return list(known.to_pylist())
    contents = {number: text for text, number in tokenizer.added_tokens.items()}
    reference = tokenizer.reference
    by_bytes = reference.token_to_id(SPACE) is not None
    found = []
    for number in ids.tolist():
        text = contents.get(number)
        if text is not None:
            found.append(text.encode())
            continue
        text = reference.id_to_token(number) or ""
        if by_bytes and all(c in _alphabet() for c in text):
            found.append(bytes(_alphabet()[c] for c in text))
        elif byte := re.fullmatch(r"<0x([0-9A-F]{2})>", text):
            found.append(bytes([int(byte[1], 16)]))
        else:
            found.append(text.replace(WORD_MARK, " ").encode())
    return found


@cache
def _alphabet() -> dict[str, int]:
    """GPT-2's letters for bytes: printable Latin-1 stands for itself, the rest for U+0100 and up."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): byte for i, byte in enumerate(rest)}


def script_of(token: bytes) -> str:
    """Script of the first letter, by its name in Unicode; what a token without letters is made of.

    >>> [script_of(t.encode()) for t in (" the", "Да", "42", "。", "語")]
    ['Latin', 'Cyrillic', 'digits', 'signs', 'Han']
    """
    try:
        text = token.decode()
    except UnicodeDecodeError:
        return PARTS
    for c in text:
        if unicodedata.category(c)[0] == "L":
            return _script(c)
    if not text.strip():
        return SPACES
    return DIGITS if any(c.isdecimal() for c in text) else SIGNS


@cache
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "")
    word = name.partition(" ")[0]
    if word in SCRIPTS:
        return SCRIPTS[word]
    return word.capitalize() if " LETTER " in name or " SYLLABLE " in name else OTHER


def language_figures(tokenizer: Tokenizer, corpus: Corpus, seed: int) -> Languages:
    """Languages of a seeded sample of the kept documents, each share with its sampling error (95 %).

    The identifier's own mistakes come on top: on short or mixed texts it is often wrong. Without the extra
    `lang` there are no shares.
    """
    if find_spec("py3langid") is None:
        return Languages(sample=0, of=0, shares=[])
    positions = np.flatnonzero(corpus.kept())
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(positions, min(SAMPLE, len(positions)), replace=False))
    texts = [text for text in heads(tokenizer, corpus, chosen) if text.strip()]
    if not texts:
        return Languages(sample=0, of=len(positions), shares=[])
    rest = 1 - len(chosen) / len(positions)  # what was looked at in full has no sampling error
    shares = [
        LanguageShare(
            language=code,
            share=share,
            error=1.96 * float(np.sqrt(share * (1 - share) / len(texts) * rest)),
        )
        for code, share in language_shares(texts).items()
    ]
    return Languages(sample=len(texts), of=len(positions), shares=shares)


def heads(tokenizer: Tokenizer, corpus: Corpus, positions: Int64) -> list[str]:
    """The beginning of each document's contents."""
    where, batches = corpus.stored_documents()
    ids: list[list[int]] = []
    first = 0
    for batch in batches:
        here = where[first : first + len(batch)]
        for index in np.flatnonzero(np.isin(here, positions)):
            span = slice(int(batch.offsets[index]), int(batch.offsets[index + 1]))
            selected = batch.flags is None or (batch.flags[span] & batch.bit) != 0
            ids.append(batch.tokens[span][selected][:HEAD_TOKENS].tolist())
        first += len(batch)
    return tokenizer.decode_rows(ids, plain=True)

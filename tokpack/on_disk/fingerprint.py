"""Digests that tie a packed dataset to what made it; shared by `tokpack pack` and the trainer plugin."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping


def vocab_digest(vocab: Mapping[str, int]) -> str:
    """SHA-256 of a tokenizer's full vocabulary, added tokens included, as `tokenizer.get_vocab()` gives it.

    One line `token NUL id LF` per token, UTF-8, ordered by id and then token, so the digest depends neither
    on the order of the mapping nor on the file format that the tokenizer was loaded from.
    """
    digest = hashlib.sha256()
    for token, number in sorted(vocab.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{token}\x00{number}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()

"""Digests that tie a packed dataset to what made it; shared by `tokpack pack` and the trainer plugin."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError


def vocab_digest(vocab: Mapping[str, int]) -> str:
    """SHA-256 of a tokenizer's full vocabulary, added tokens included, as `tokenizer.get_vocab()` gives it.

    One line `token NUL id LF` per token, UTF-8, ordered by id and then token, so the digest depends neither
    on the order of the mapping nor on the file format that the tokenizer was loaded from.
    """
    digest = hashlib.sha256()
    for token, number in sorted(vocab.items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{token}\x00{number}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def check_vocabulary(digest: str, manifest: Mapping[str, Any], folder: Path) -> None:
    """Raises UsageError unless `digest` is that of the vocabulary which the rows were made with.

    Packed datasets whose manifest has no `tokenizer.vocab_sha256` pass.
    """
    written = manifest.get("tokenizer", {})
    if written.get("vocab_sha256") not in (None, digest):
        raise UsageError(
            "the model's tokenizer is not the one this packed dataset was packed with "
            f"({written.get('name', 'unknown')!r}): its ids would mean other text",
            where=str(folder),
            hint="pack again with this model's tokenizer, or train the model these rows were packed for",
        )

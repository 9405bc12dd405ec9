"""A packed dataset's ids are its tokenizer's: a model with another one is refused."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.errors import TokpackError
from tokpack.on_disk.fingerprint import check_vocabulary


def check_model_tokenizer(model: str, manifest: Mapping[str, Any], folder: Path) -> None:
    """`check_vocabulary` of a model by folder or name, before PyTorch is loaded. One that cannot be read so
    passes: what loads the model says why."""
    digest = None
    with suppress(TokpackError):
        digest = load_tokenizer(model).vocab_sha256
    if digest is not None:
        check_vocabulary(digest, manifest, folder)

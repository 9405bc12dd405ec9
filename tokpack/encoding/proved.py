"""What was proved of a tokenizer before: that its fast path gives what `tokenizers` gives on some texts.

Empty files in the user's own cache, named by a digest of all that the proof stands on: the tokenizer, the
code and the versions that encode, and the texts. There is nothing in them that could be wrong.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa

from tokpack.encoding.token_places import text_buffers
from tokpack.errors import OutputError
from tokpack.files.user_cache import own_cache

_CODE = ("fast_forms", "fast_plan", "fast_proof", "fast_tokenizer", "merges", "token_places", "unicode")


class TokenizerProof:
    """One thing to prove of a tokenizer: its digest, and what else the proof stands on."""

    def __init__(self, tokenizer_sha256: str, *about: bytes | memoryview) -> None:
        name = _sha256([tokenizer_sha256.encode(), _code().encode(), *about])
        self._place: Path | None = None
        with suppress(OutputError):
            self._place = own_cache("proved") / name[:40]

    def is_kept(self) -> bool:
        """Whether it was proved before."""
        return self._place is not None and self._place.is_file()

    def keep(self) -> None:
        """It is proved now."""
        if self._place is not None:
            with suppress(OSError):  # proved again the next time
                self._place.touch()


def of_texts(tokenizer_sha256: str, plan: str, text: pa.LargeStringArray) -> TokenizerProof:
    """That places read by this plan, and ids, are those of `tokenizers` on these rows."""
    offsets, data = text_buffers(text)
    inside = data[offsets[0] : offsets[-1]]
    return TokenizerProof(
        tokenizer_sha256, b"texts", plan.encode(), (offsets - offsets[0]).tobytes(), inside.data
    )


def of_inputs(tokenizer_sha256: str, inputs: str) -> TokenizerProof:
    """That a run over these inputs asks `tokenizers` for nothing but proofs, which were kept."""
    return TokenizerProof(tokenizer_sha256, b"inputs", inputs.encode("utf-8", "surrogatepass"))


@cache
def _code() -> str:
    """What encodes and what judges it: versions, this package's code, and the machine that ran it."""
    own = _sha256(Path(__file__).with_name(f"{name}.py").read_bytes() for name in _CODE)
    return f"{version('gigatoken')} {version('tokenizers')} {own} {platform.machine()} {platform.node()}"


def _sha256(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(hashlib.sha256(part).digest())
    return digest.hexdigest()

"""What a tokenizer.json of anybody may ask for: ids up to a limit, and no text that grows without end.

`tokenizers` takes memory for every id up to the largest, and obeys a normalizer that makes 100,000 letters of
one. How much longer a text can get is the product over the steps, read from the file before it is loaded:

    Replace "q" by "xxxx", then "x" by "yy"     4 x 2 = 8
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MOST_GROWTH = 32
"""SentencePiece with NFKC makes up to 18 characters of one; other steps of real ones make one or two."""
LONGEST_TOKEN = 4096
"""Characters of an entry of the vocabulary. The longest of real ones have some hundred."""
_STEPS = ("normalizers", "pretokenizers", "decoders", "processors")
"""Keys under which a step has others."""


def read_backend(path: Path) -> dict[str, Any]:
    """A tokenizer.json; nothing where there is none. Raises ValueError for what is no JSON."""
    data = json.loads(path.read_bytes()) if path.is_file() else {}
    return data if isinstance(data, dict) else {}


def largest_id(backend: dict[str, Any]) -> int:
    ids = [
        *_vocabulary(backend).values(),
        *(token.get("id") for token in _dicts(backend.get("added_tokens"))),
    ]
    return max((number for number in ids if isinstance(number, int)), default=0)


def too_much(backend: dict[str, Any]) -> str:
    """What of it makes texts longer than any use needs; empty when nothing does."""
    for name in ("normalizer", "pre_tokenizer", "decoder"):
        if (growth := math.prod(map(_growth, _steps(backend.get(name))))) > MOST_GROWTH:
            times = f"{growth:,.0f}" if growth < 10**15 else f"{growth:.0e}"
            return f"its {name} can make a text {times} times as long, and {MOST_GROWTH} times is the most"
    around = sum(map(_ids_around, _steps(backend.get("post_processor"))))
    if around > MOST_GROWTH:
        return f"its post_processor puts {around:,} ids around a text, and {MOST_GROWTH} is the most"
    added = [token.get("content") for token in _dicts(backend.get("added_tokens"))]
    longest = max((_length(text) for text in (*_vocabulary(backend), *added)), default=0)
    if longest > LONGEST_TOKEN:
        return f"one of its tokens has {longest:,} characters, and {LONGEST_TOKEN:,} is the most"
    return ""


def _steps(step: Any) -> Iterator[dict[str, Any]]:
    if isinstance(step, dict):
        yield step
        for name in _STEPS:
            for inner in _dicts(step.get(name)):
                yield from _steps(inner)


def _growth(step: dict[str, Any]) -> float:
    """How many times as long a text gets at the most by one step."""
    kind = step.get("type")
    if kind == "Replace":
        pattern = step.get("pattern")
        plain = pattern.get("String") if isinstance(pattern, dict) else None
        return max(1.0, _length(step.get("content")) / max(1, _length(plain)))
    if kind == "Prepend":
        return max(1.0, _length(step.get("prepend")))
    if kind == "ByteLevel":
        return 2.0  # a byte beyond ASCII becomes a letter of two
    return max(1.0, _longest_mapped(step)) if kind == "Precompiled" else 1.0


def _longest_mapped(step: dict[str, Any]) -> int:
    """Of a table of SentencePiece: the size of an index, the index, texts that end with NUL."""
    try:
        table = base64.b64decode(step.get("precompiled_charsmap") or "")
        texts = table[4 + int.from_bytes(table[:4], "little") :].decode("utf-8", "replace")
    except (ValueError, TypeError):
        return 0
    return max(map(len, texts.split("\0")))


def _ids_around(step: dict[str, Any]) -> int:
    pieces = [piece.get("SpecialToken") for piece in _dicts(step.get("single"))]
    known = step.get("special_tokens")
    tokens = known if isinstance(known, dict) else {}
    named = [tokens.get(piece.get("id")) for piece in _dicts(pieces)]
    return sum(len(ids) for token in _dicts(named) if isinstance(ids := token.get("ids"), list))


def _vocabulary(backend: dict[str, Any]) -> dict[str, Any]:
    """Text and id of each entry; Unigram lists texts by id."""
    model = backend.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):
        return {entry[0]: number for number, entry in enumerate(vocab) if isinstance(entry, list) and entry}
    return vocab if isinstance(vocab, dict) else {}


def _dicts(values: Any) -> list[dict[str, Any]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _length(text: Any) -> int:
    return len(text) if isinstance(text, str) else 0

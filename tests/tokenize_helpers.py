"""Texts, batches and small tokenizers for the tests of tokenizing."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
from encode_helpers import (
    CORPUS,
    PIECES,
    byte_level,
    sentencepiece_like,
    small_tokenizer,
)

from tokpack.encoding.fast_proof import ODD_STRINGS
from tokpack.stages.render.pieces import Spans
from tokpack.stages.render.render import Rendered


def large(texts):
    return pa.array(list(texts), pa.large_string())


def plain_batch(texts, trained=None, content=None, strict=False, paranoid=False):
    """Rendered texts with given byte spans, nothing to be added by the tokenizer."""
    none = [[] for _ in texts]
    return Rendered(
        text=large(texts),
        trained=Spans.of_rows(trained or none),
        content=Spans.of_rows(content or none),
        plain=np.zeros(len(texts), bool),
        eos=False,
        reference_masks=strict,
        paranoid=paranoid,
    )


def backends():
    from tokenizers import normalizers

    return {
        "byte_level": byte_level,
        "nfc": lambda: byte_level(normalizer=normalizers.NFC()),
        "nfkc": lambda: byte_level(normalizer=normalizers.NFKC()),
        "trim": lambda: byte_level(trim=True),
        "bytes_missing": lambda: byte_level(drop_bytes=40),
        "gemma": sentencepiece_like,
        "llama2": lambda: sentencepiece_like("sections"),
        "metaspace": lambda: sentencepiece_like("metaspace"),
        "lowercase": lambda: byte_level(normalizer=normalizers.Lowercase()),
    }


def small_tokenizers(root):
    """What makes a tokenizer of a kind, once."""
    made = {}

    def get(kind):
        if kind not in made:
            made[kind] = small_tokenizer(root / kind, backends()[kind]())
        return made[kind]

    return get


KINDS = ["byte_level", "nfc", "trim", "bytes_missing", "gemma", "llama2", "metaspace", "nfkc", "lowercase"]


def odd_texts(seed, number=120):
    rng = random.Random(seed)
    texts = [
        "".join(rng.choices([*PIECES, " the lazy dog", "Sure, here"], k=rng.randint(0, 12)))
        for _ in range(number)
    ]
    return [*texts, *ODD_STRINGS, CORPUS, ""]

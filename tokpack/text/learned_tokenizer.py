"""A tokenizer for data whose own is not known: byte-level BPE, learned from the head of the data itself.

Only for counting, comparing and selecting: no model has these ids. Token counts come within a few percent of
those of current models where the head is like the rest; what is written is text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import polars as pl

from tokpack.encoding.snapshot import BACKEND, SNAPSHOT
from tokpack.encoding.tokenizer import Tokenizer
from tokpack.on_disk.fingerprint import vocab_digest
from tokpack.run import shared
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.blocks import Block, read_blocks
from tokpack.stages.read.sources import Source
from tokpack.way.documents import normalize_blocks

NAME = "learned from the data"
SAMPLE_BYTES = 4 << 20
SOURCES = 256
"""That are read together."""
VOCABULARY = 32_768
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>system\\n' + (tools | tojson) + '<|im_end|>\\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + (message.role or '') + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}
{{- message.content or '' }}
{%- if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}
{{- '<|im_end|>' }}
{%- endgeneration %}
{%- else %}
{{- (message.content or '') + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}"""
"""ChatML: about as many tokens around a message as the services count."""


def learn_tokenizer(sources: list[Source], shapes: list[Shape], folder: Path) -> Tokenizer:
    """Learn from the first SAMPLE_BYTES of all sources together; the same data gives the same tokenizer."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        min_frequency=2,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(SPECIAL),
        show_progress=False,
    )
    backend.train_from_iterator(_texts(sources, shapes), trainer)
    data, vocabulary = backend.to_str().encode(), backend.get_vocab(with_added_tokens=True)
    numbers = {token: vocabulary[token] for token in SPECIAL}
    end_of_text, _, end_of_turn = SPECIAL
    snapshot = {
        "chat_template": TEMPLATE,
        "special_tokens_map": {"eos_token": end_of_turn, "pad_token": end_of_text},
        "special_tokens": sorted(SPECIAL),
        "added_tokens": numbers,
        "ids": {"bos": None, "eos": numbers[end_of_turn], "pad": numbers[end_of_text]},
        "bos_prefix": [],
        "vocab_size": max(vocabulary.values()) + 1,
        "vocab_sha256": vocab_digest(vocabulary),
        "sha256": hashlib.sha256(data).hexdigest(),
        "tokenizer_config": {},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / BACKEND).write_bytes(data)
    (folder / SNAPSHOT).write_text(json.dumps(snapshot), encoding="utf-8")
    return Tokenizer(folder, NAME)


def _texts(sources: list[Source], shapes: list[Shape]) -> Iterator[str]:
    """The head of each source, many sources at a time."""
    each = max(1, SAMPLE_BYTES // len(sources))
    shapes, alike = shared(shapes)
    for start in range(0, len(sources), SOURCES):
        some: list[Block] = []
        for number in range(start, min(start + SOURCES, len(sources))):
            rows = some[-1].first_doc_id + some[-1].rows if some else 0
            for block in islice(read_blocks([replace(sources[number])], each), 1):
                some.append(replace(block, source=number, first_doc_id=rows))
        documents = normalize_blocks(sources, shapes, alike, some).documents
        contents = documents.select("source", "contents").explode("contents").drop_nulls()
        size = pl.col("contents").str.len_bytes().cum_sum().over("source")
        yield from contents.filter(size <= 2 * each)["contents"]

"""Tools in texts: what tools answered between the tags of Hermes, `<tool_response>`, and calls in an answer,
between `<tool_call>` tags or as other templates write them.

    {"role": "tool", "content": "<tool_response>\\n{\\"ducks\\": 3}\\n</tool_response>"}  ->  {"ducks": 3}

Where the chat template writes the tags of an answer by itself, as Qwen's and Hermes' do, they are taken away
before, so that they stand there once. Calls stay as they are: they are counted where the chat template writes
calls in another form.
"""

from __future__ import annotations

import numpy as np
import polars as pl

from tokpack.stages.messages import in_lists
from tokpack.stages.render.left_out import CALLS_AS_TEXT, TAGS_TWICE
from tokpack.stages.render.renderer import Renderer


def without_tags(documents: pl.DataFrame, renderer: Renderer) -> tuple[pl.DataFrame, dict[str, int]]:
    """The documents with the texts that the chat template puts between tags without these; and how many
    messages of documents that are not dropped hold tags, by counter."""
    if renderer.tool_finder is None:
        return documents, {}
    forms, told = renderer.tool_finder.forms, {}
    if (tag := forms.answer_tag) and _holds(documents, f"<{tag}>"):
        between = rf"(?s)\A\s*<{tag}>\s*(.*?)\s*</{tag}>\s*\z"
        told[TAGS_TWICE] = _count(documents, "tool", between)
        documents = _without(documents, between)
    if forms.other_calls and _holds(documents, calls := "|".join(forms.other_calls)):
        told[CALLS_AS_TEXT] = _count(documents, "assistant", calls)
    return documents, {name: count for name, count in told.items() if count}


def _holds(documents: pl.DataFrame, pattern: str) -> bool:
    return bool(_flat(documents, "contents").str.contains(pattern).any())


def _flat(documents: pl.DataFrame, column: str) -> pl.Series:
    return documents[column].list.explode(keep_nulls=True, empty_as_null=False)


def _without(documents: pl.DataFrame, between: str) -> pl.DataFrame:
    of_tools, texts = _flat(documents, "roles") == "tool", _flat(documents, "contents")
    bare = pl.DataFrame({"text": texts.filter(of_tools)}).select(
        pl.coalesce(pl.col("text").str.extract(between), "text")
    )
    texts = texts.scatter(of_tools.arg_true(), bare.to_series())
    offsets = np.append(0, np.cumsum(documents["contents"].list.len().to_numpy(), dtype=np.int64))
    return documents.with_columns(in_lists(texts, offsets).alias("contents"))


def _count(documents: pl.DataFrame, role: str, pattern: str) -> int:
    kept = documents.filter(pl.col("drop_reason").is_null())
    said = _flat(kept, "contents").filter(_flat(kept, "roles") == role)
    return int(said.str.contains(pattern).sum())

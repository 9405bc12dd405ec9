"""Columns of preference data -> both documents of every row at once.

Rows are taken where the completion is one answer: texts, or messages after a prompt, or whole conversations
of equal length that differ in their last message alone. The others are left to `pair_rows`.
"""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa

from tokpack.frozen import frozen
from tokpack.stages.normalize.message_columns import (
    Bools,
    holds_talk,
    message_lists,
    text_column,
)
from tokpack.stages.normalize.shape import Shape

_ROLES = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}


@frozen
class _Turns:
    """A column as turns: a list of roles and a list of contents a row."""

    roles: pl.Series
    contents: pl.Series
    is_text: bool

    @property
    def first_role(self) -> pl.Series:
        return self.roles.list.first()


def pair_lists(table: pa.Table, shape: Shape, slow: Bools) -> tuple[str, pl.Series, pl.Series] | None:
    """(kind, roles, contents) of all documents, chosen and rejected in turn; None when types do not fit.

    Marks in `slow` the rows that `pair_rows` has to read.
    """
    columns: dict[str, _Turns] = {}
    for field, name in shape.columns.items():
        if name in table.column_names:
            turns = _turns(table.column(name), _ROLES[field], slow, shape)
            if turns is None:
                return None
            columns[field] = turns
    if not {"chosen", "rejected"} <= columns.keys():
        return None
    chosen, rejected = columns["chosen"], columns["rejected"]
    roles, contents = _in_turn(chosen.roles, rejected.roles), _in_turn(chosen.contents, rejected.contents)
    alike = _alike(chosen, rejected)
    if "prompt" not in columns:
        slow |= ~alike
        return "chat", roles, contents
    prompt = columns["prompt"]
    if prompt.is_text:
        slow |= prompt.contents.list.first().str.contains(r"^\s*Human:").fill_null(False).to_numpy()
    whole = _all(chosen.first_role.ne_missing("assistant"), rejected.first_role.ne_missing("assistant"))
    # Whether conversations hold a prompt of messages is for `pair_rows` to say.
    slow |= ~np.where(whole, alike & prompt.is_text, _answers(prompt, chosen, rejected))
    after = (
        _in_turn(_joined(prompt.roles, chosen.roles), _joined(prompt.roles, rejected.roles)),
        _in_turn(_joined(prompt.contents, chosen.contents), _joined(prompt.contents, rejected.contents)),
    )
    mask = pl.Series(np.repeat(whole, 2))
    texts = all(column.is_text for column in columns.values())
    return (
        "prompt_completion" if texts else "chat",
        roles.zip_with(mask, after[0]),
        contents.zip_with(mask, after[1]),
    )


def _turns(column: pa.ChunkedArray, role: str, slow: Bools, shape: Shape) -> _Turns | None:
    texts = text_column(column)
    if texts is not None:
        slow |= holds_talk(texts)
        roles = pl.Series([[role]], dtype=pl.List(pl.String)).new_from_index(0, len(texts))
        return _Turns(roles, texts.to_frame("text").select(pl.concat_list("text")).to_series(), True)
    if pa.types.is_struct(column.type):
        struct = column.combine_chunks()
        ends = pa.array(np.arange(len(struct) + 1, dtype=np.int64))
        column = pa.chunked_array([pa.LargeListArray.from_arrays(ends, struct)])
    lists = message_lists(column, slow, shape.reads, speakers=shape.speakers)
    return _Turns(*lists[:2], False) if lists else None


def _alike(chosen: _Turns, rejected: _Turns) -> Bools:
    """Conversations that differ in the last message alone, the assistant's."""
    lists = (chosen.roles, rejected.roles, chosen.contents, rejected.contents)
    frame = pl.DataFrame(dict(zip("abcd", lists, strict=True)))
    length = pl.col("a").list.len()
    a, b, c, d = (pl.col(name).list.head(length.cast(pl.Int64).sub(1).clip(0)) for name in "abcd")
    alike = (
        (length == pl.col("b").list.len())
        & (length >= 2)
        & (pl.col("a").list.first() != "assistant")
        & (pl.col("a").list.last() == "assistant")
        & (pl.col("b").list.last() == "assistant")
        & (a == b)
        & (c == d)
    )
    return _all(frame.select(alike).to_series())


def _answers(prompt: _Turns, chosen: _Turns, rejected: _Turns) -> Bools:
    """A prompt, and either answer one message of the assistant."""
    tests = [prompt.roles.list.len() > 0, prompt.roles.list.last().ne_missing("assistant")]
    if prompt.is_text:
        tests.append(prompt.contents.list.first().is_not_null())
    for answer in (chosen, rejected):
        tests += [answer.roles.list.len() == 1, answer.first_role == "assistant"]
        if answer.is_text:
            tests.append(answer.contents.list.first().is_not_null())
    return _all(*tests)


def _all(*tests: pl.Series) -> Bools:
    result: Bools = np.logical_and.reduce([test.fill_null(False).to_numpy() for test in tests])
    return result


def _joined(first: pl.Series, second: pl.Series) -> pl.Series:
    return pl.DataFrame({"a": first, "b": second}).select(pl.concat_list("a", "b")).to_series()


def _in_turn(chosen: pl.Series, rejected: pl.Series) -> pl.Series:
    """a0 b0 a1 b1 ..."""
    order = np.arange(2 * len(chosen)).reshape(2, -1).T.ravel()
    return pl.concat([chosen, rejected]).gather(pl.Series(order))

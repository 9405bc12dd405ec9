"""Rows of ids: recognized, taken as they are, set aside where they are odd."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tokpack.errors import UsageError
from tokpack.schema import CONTENT, TRAINED
from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.rows import RowError
from tokpack.stages.normalize.shape import Shape
from tokpack.stages.normalize.token_columns import take_tokens
from tokpack.stages.normalize.token_rows import row_to_tokens
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources

VOCAB = 50
SHAPE = Shape.of("tokens", {}, ["input_ids"])


def taken(path: Path, block_bytes: int = 32 << 20, **config: Any):
    """doc_id -> (kind, ids, flags) of what was taken, and doc_id -> reason of the rest."""
    sources = open_sources((SourceConfig(path=str(path), **config),))
    shape = detect_shape(sources[0])
    good, bad = {}, {}
    for block in read_blocks(sources, block_bytes):
        normalized, tokens = take_tokens(block, sources[0], shape, VOCAB)
        for at, (doc_id, kind) in enumerate(normalized.documents.select("doc_id", "kind").rows()):
            part = slice(*tokens.offsets[at : at + 2])
            good[doc_id] = (kind, tokens.input_ids[part].tolist(), tokens.flags[part].tolist())
        bad |= {row.doc_id: row.reason for row in normalized.quarantined}
    return good, bad


def by_the_reference(rows: list[dict[str, Any]]):
    good, bad = {}, {}
    for number, row in enumerate(rows):
        try:
            tokens = row_to_tokens(row, SHAPE, VOCAB)
            good[number] = (tokens.kind, tokens.ids.tolist(), tokens.flags.tolist())
        except RowError as error:
            bad[number] = str(error)
    return good, bad


ids = st.lists(st.integers(0, VOCAB - 1), max_size=8)


odd_ids = st.lists(st.one_of(st.integers(-2, VOCAB + 1), st.just(2**70)), max_size=8)


@st.composite
def token_rows(draw: st.DrawFn, odd: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"input_ids": draw(st.one_of(ids, odd_ids) if odd else ids)}
    length = len(row["input_ids"])
    if draw(st.booleans()):
        row["labels"] = [i if draw(st.booleans()) else -100 for i in row["input_ids"]]
    if draw(st.booleans()):
        left, right = draw(st.integers(0, length)), draw(st.integers(0, length))
        row["attention_mask"] = [int(left <= i < length - right) for i in range(length)]
    if odd and draw(st.booleans()):
        field = draw(st.sampled_from(["input_ids", "labels", "attention_mask"]))
        values = row.get(field) or [1] * length
        change = draw(st.sampled_from(["drop", "null", "text", "inside", "longer", "other"]))
        place = draw(st.integers(0, max(0, len(values) - 1)))
        if change == "inside" and values:
            values = [*values]
            values[place] = draw(st.sampled_from([None, 1.5, "1", True, 2, 0]))
        row[field] = {"null": None, "text": "1 2", "longer": [*values, 1], "other": [7] * length}.get(
            change, values
        )
        if change == "drop":
            del row[field]
    return row


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.lists(token_rows(odd=True), min_size=1, max_size=8), st.integers(20, 400))
@example([{"input_ids": [1, 2], "attention_mask": [True, False]}, {"input_ids": [True]}], 400)
def test_lines_give_what_the_reference_gives_row_by_row(tmp_path_factory, rows, block_bytes):
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert taken(path, block_bytes, format="tokens") == by_the_reference(rows)


TYPES = [pa.list_(pa.int64()), pa.large_list(pa.int32()), pa.list_(pa.uint16()), pa.list_(pa.uint64())]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(token_rows(odd=False), min_size=1, max_size=8),
    st.sampled_from(TYPES),
    st.sampled_from([pa.list_(pa.int8()), pa.list_(pa.bool_())]),
    st.integers(1, 3),
    st.integers(0, 2),
)
def test_columns_of_any_integer_type_sliced_and_chunked_give_the_same(
    tmp_path_factory, rows, kind, mask_kind, chunk, skipped
):
    path = tmp_path_factory.mktemp("rows") / "rows.arrow"
    column_types = {"input_ids": kind, "labels": pa.list_(pa.int64()), "attention_mask": mask_kind}
    padded = [{"input_ids": [9]}] * skipped + rows
    table = pa.Table.from_pydict(
        {name: pa.array([_as(row.get(name), of) for row in padded], of) for name, of in column_types.items()}
    ).slice(skipped)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=chunk)
    assert taken(path) == by_the_reference(rows)


def _as(values: list[int] | None, kind: pa.DataType) -> list[Any] | None:
    return (
        [bool(v) for v in values] if values is not None and pa.types.is_boolean(kind.value_type) else values
    )


def test_padding_goes_and_the_first_token_is_never_trained(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"input_ids": [0, 5, 6, 7], "labels": [-100, 5, -100, 7], "attention_mask": [0, 1, 1, 1]}\n'
        '{"input_ids": [5, 6, 0], "attention_mask": [1, 1, 0], "text": "left alone"}\n'
    )
    good, bad = taken(path, format="tokens")
    both = CONTENT | TRAINED
    assert good == {
        0: ("tokens", [5, 6, 7], [CONTENT, CONTENT, both]),
        1: ("text", [5, 6], [CONTENT, both]),
    }
    assert not bad


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"input_ids": [1, 50]}, "id 50 at input_ids[1] is not in the vocabulary of 50 tokens"),
        ({"input_ids": [-1]}, "id -1 at input_ids[0] is not in the vocabulary of 50 tokens"),
        ({"input_ids": [1, 2], "labels": [2, -100]}, "labels[0] is 2, input_ids[0] is 1"),
        ({"input_ids": [1, 2], "labels": [-100]}, "labels has 1 values, input_ids 2"),
        ({"input_ids": [1, 2], "attention_mask": [1, 2]}, "attention_mask[1] is 2"),
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}, "attention_mask[1] is 0 between ones"),
        ({"input_ids": [1, 2.0]}, "input_ids[1] is 2.0, not an integer"),
        ({"labels": [1]}, "input_ids is missing, not a list"),
        ({"input_ids": "1 2"}, 'input_ids is "1 2", not a list'),
    ],
)
def test_a_row_that_cannot_be_packed_says_why(row, reason):
    with pytest.raises(RowError) as error:
        row_to_tokens(row, SHAPE, VOCAB)
    assert str(error.value).startswith(reason)


def recognized(tmp_path: Path, row: dict[str, Any], **config: Any) -> str:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    return detect_shape(open_sources((SourceConfig(path=str(path), **config),))[0]).format


def test_ids_are_recognized_and_columns_can_be_mapped(tmp_path):
    assert recognized(tmp_path, {"input_ids": [1, 2], "labels": [1, 2], "length": 2}) == "tokens"
    with pytest.raises(UsageError, match="cannot recognize"):
        recognized(tmp_path, {"tokens": [1, 2], "targets": [1, -100]})
    mapping = {"input_ids": "tokens", "labels": "targets"}
    assert recognized(tmp_path, {"tokens": [1, 2], "targets": [1, -100]}, map=mapping) == "tokens"
    good, _ = taken(tmp_path / "rows.jsonl", map=mapping)
    assert good[0][2] == [CONTENT, CONTENT]


def test_labels_that_first_appear_below_the_head_count(tmp_path):
    rows = [{"input_ids": [1, 2]}] * 500 + [{"input_ids": [1, 2, 3], "labels": [-100, -100, 3]}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert taken(tmp_path / "rows.jsonl")[0][500] == (
        "tokens",
        [1, 2, 3],
        [CONTENT, CONTENT, CONTENT | TRAINED],
    )


def test_ids_beside_a_text_are_not_chosen_in_silence(tmp_path):
    row = {"text": "a b", "input_ids": [1, 2]}
    with pytest.raises(UsageError, match="both text and input_ids"):
        recognized(tmp_path, row)
    assert recognized(tmp_path, row, format="text") == "text"
    assert recognized(tmp_path, row, format="tokens") == "tokens"

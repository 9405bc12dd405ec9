"""Arrow's values as a line of JSON would hold them, and the types that the fast paths read."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from tokpack.stages.read.arrow_values import Unwritable, json_values, rows_at, table_rows
from tokpack.stages.read.plain_types import plain_batch

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)
RUNS = pa.RunEndEncodedArray.from_arrays(pa.array([2, 5], pa.int32()), pa.array(["x", "y"]))
MAP = pa.map_(pa.string(), pa.int64())
UNION = pa.UnionArray.from_sparse(pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])])
VIEWS = pa.list_view(pa.struct([("role", pa.dictionary(pa.int8(), pa.string())), ("text", pa.string_view())]))


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pa.array([NOON, None], pa.timestamp("us", "Europe/Berlin")), ["2026-11-25T12:00:00+00:00", None]),
        (pa.array([1, 10**9], pa.timestamp("ns")), ["1970-01-01T00:00:00.000000001", "1970-01-01T00:00:01"]),
        (pa.array([date(2026, 11, 25)]), ["2026-11-25"]),
        (pa.array([time(12, 30)]), ["12:30:00"]),
        (pa.array([timedelta(minutes=1, milliseconds=500)]), ["PT60.5S"]),
        (pa.array([Decimal("2.50"), Decimal("7.00"), Decimal("0.1000000000000000000001")]), [
            2.5, 7, "0.1000000000000000000001",
        ]),
        (pa.array([b"tern", b"\xff"]), ["tern", b"\xff"]),
        (pa.array(["a", "b", None, "a"]).dictionary_encode()[1:], ["b", None, "a"]),
        (RUNS[1:4], ["x", "y", "y"]),
        (pa.array([[1], None, [], [2, None]], pa.large_list_view(pa.int8()))[1:], [None, [], [2, None]]),
        (pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int64(), 2))[1:], [None, [3, 4]]),
        (pa.array([[("a", 1)], None, [("b", None)]], MAP)[1:], [None, {"b": None}]),
        (pa.array([[(1, NOON)]], pa.map_(pa.int64(), pa.timestamp("us"))), [{"1": "2026-11-25T12:00:00"}]),
        (pa.array(['{"a": null}', None, "null", "[1]"], pa.json_()), [{"a": None}, None, None, [1]]),
        (pa.array([b"\0" * 15 + b"\1"], pa.uuid()), ["00000000-0000-0000-0000-000000000001"]),
        (pa.array([{"a": {"b": None, "c": 1}, "d": None}, None]), [{"a": {"c": 1}}, None]),
        (pa.array([{}, None], pa.struct([])), [{}, None]),
        (pa.array([1.5, None], pa.float16()), [1.5, None]),
        (UNION, [1, "b"]),
    ],
)  # fmt: skip
def test_every_type_is_read_as_json_would_write_it(array, values):
    read = json_values(array)
    assert read == values
    assert [type(value) for value in read] == [type(value) for value in values]


@pytest.mark.parametrize(
    "array",
    [
        pa.array([2**62], pa.timestamp("us")),
        pa.array([10**8], pa.int32()).cast(pa.date32()),
        pa.array(["{"], pa.json_()),
        pa.array(["[" * 100_000], pa.json_()),
    ],
)
def test_what_json_cannot_hold_is_a_value_that_nobody_can_write(array):
    rows = table_rows(pa.table({"x": [{"y": 1}], "z": array}))
    assert rows[0]["x"] == {"y": 1}
    assert isinstance(rows[0]["z"], Unwritable)
    with pytest.raises(TypeError):
        json.dumps(rows[0])


@pytest.mark.parametrize("type", [VIEWS, pa.list_view(pa.string()), pa.string_view(), pa.list_(pa.int8(), 1)])
def test_rows_in_the_middle_of_a_table_are_found_whatever_its_types(type):
    values = [[None], None, [None]] if pa.types.is_nested(type) else ["a", None, "b"]
    table = pa.table({"x": pa.array(values, type), "n": [0, 1, 2]})
    assert rows_at(table, np.array([1, 2])) == table_rows(table)[1:]


def test_views_dictionaries_and_list_views_become_what_the_fast_paths_read():
    rows = [[{"role": "user", "text": "a"}], None, [], [{"role": None, "text": None}, None]]
    plain = pa.large_list(pa.struct([("role", pa.string()), ("text", pa.large_string())]))
    roles = pa.array(["user", None, None]).dictionary_encode()
    texts = pa.array(["a", None, None], pa.string_view())
    structs = pa.StructArray.from_arrays(
        [roles, texts], names=["role", "text"], mask=pa.array([False, False, True])
    )
    lists = pa.ListViewArray.from_arrays(
        [0, 1, 1, 1], [1, 0, 0, 2], structs, mask=pa.array([False, True, False, False])
    )
    batch = pa.RecordBatch.from_arrays([lists, pa.array(range(4))], names=["messages", "n"])
    made = plain_batch(batch)
    assert made.schema.field("messages").type == plain
    assert made.column("messages").to_pylist() == rows
    assert plain_batch(made) is made


def test_other_types_stay_as_they_are():
    batch = pa.RecordBatch.from_arrays([RUNS[:2], pa.array(["a", "b"], pa.string_view())], names=["r", "t"])
    made = plain_batch(batch)
    assert made.schema.types == [RUNS.type, pa.large_string()]

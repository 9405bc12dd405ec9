"""Rows give the same documents alone and in a block, by columns and row by row, from every container."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from row_builders import (
    CALL,
    CONTAINERS,
    TOOL,
    Row,
    as_lines,
    assistant,
    read,
    user,
)

from tokpack.stages.normalize.shape import Shape
from tokpack.stages.read.plain_types import plain_batch

FULL = assistant("", tool_calls=[CALL], train=True, name="a", weight=1)
FIRST: dict[str, Row] = {
    "messages": {"messages": [user("q"), FULL], "tools": [TOOL], "system": "Be brief."},
    "sharegpt": {
        "conversations": [
            {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a", "loss": True, "tool_calls": [CALL]},
        ],
        "tools": [TOOL],
        "system": "Be brief.",
    },
    "preference": {
        "prompt": [user("q", name="b")],
        "chosen": [FULL],
        "rejected": [FULL],
        "system": "Be brief.",
    },
    "prompt_completion": {"prompt": [user("q", name="b")], "completion": [FULL], "tools": [TOOL]},
}

text = st.one_of(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), st.just("q"))
arguments = st.fixed_dictionaries({}, optional={"day": st.integers(0, 9), "harbor": text})
call = st.builds(lambda a: {**CALL, "function": {"name": "tide", "arguments": a}}, arguments)
role = st.sampled_from(["user", "assistant", " Model", "HUMAN", "ipython", "developer", "narrator", None])
message = st.fixed_dictionaries(
    {"role": role},
    optional={
        "content": st.one_of(text, st.none()),
        "name": text,
        "train": st.booleans(),
        "weight": st.sampled_from([0, 1, 2]),
        "tool_calls": st.lists(call, max_size=2),
    },
)
turn = st.fixed_dictionaries(
    {"from": st.sampled_from(["human", "gpt", "Bot ", "observation", "function_call", None])},
    optional={
        "value": st.one_of(text, st.just('{"name": "tide", "arguments": {}}')),
        "loss": st.booleans(),
        "tool_calls": st.lists(call, max_size=1),
    },
)
talk = st.lists(message, max_size=3)
plain = st.lists(st.sampled_from([user("q"), assistant("a"), assistant("b")]), min_size=1, max_size=3)
tools = st.lists(st.just(TOOL), max_size=1)
system = st.sampled_from(["Be brief.", "", " "])
ROWS = {
    "messages": st.fixed_dictionaries({"messages": talk}, optional={"tools": tools, "system": system}),
    "sharegpt": st.fixed_dictionaries(
        {"conversations": st.lists(turn, max_size=3)}, optional={"tools": tools, "system": system}
    ),
    "preference": st.fixed_dictionaries(
        {"prompt": plain | talk, "chosen": plain | talk, "rejected": plain | talk},
        optional={"system": system},
    ),
    "prompt_completion": st.fixed_dictionaries(
        {"prompt": plain | talk, "completion": plain | talk}, optional={"tools": tools}
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("format", ROWS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_rows_give_the_same_documents_from_every_container_alone_and_together(format, data):
    first = FIRST[format]
    rows = [first, *data.draw(st.lists(ROWS[format], min_size=1, max_size=4))]
    shape = Shape.of(format, {}, list(first), rows)
    expected = read(as_lines(rows), len(rows), shape)
    alone = [fate for row in rows for fate in read(as_lines([row]), 1, shape)]
    assert [fate[1:] for fate in alone] == [fate[1:] for fate in expected]
    for name, make in CONTAINERS.items():
        batch = make(rows, first).combine_chunks().to_batches()[0]
        table = pa.Table.from_batches([plain_batch(batch)])
        assert read(table, len(rows), shape) == expected, name
        each = [fate for at in range(len(rows)) for fate in read(table.slice(at, 1), 1, shape)]
        assert [fate[1:] for fate in each] == [fate[1:] for fate in expected], name

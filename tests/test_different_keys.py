"""Lines of JSON in which each row has keys of its own: Arrow would make a column of each."""

from __future__ import annotations

import json
import random

import pytest

from tokpack import api
from tokpack.stages.normalize import json_lines
from tokpack.stages.normalize.json_lines import different_keys, read_json_lines


def keys_of(value) -> set[str]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = set(value) if isinstance(value, dict) else set()
    return found.union(*(keys_of(item) for _, item in inside))


@pytest.mark.parametrize("separator", [":", ": ", " : ", " \t: "])
def test_no_key_is_missed_and_none_is_made_up(separator):
    draw = random.Random(0)
    for _ in range(20):
        rows = [
            {
                "text": 'he said "x": y, and "z" : \\',
                draw.choice("abcdef") * draw.randrange(1, 200): [{f"k{draw.randrange(9)}": 1}],
                f"k{draw.randrange(99)}": {"": None},
            }
            for _ in range(draw.randrange(1, 30))
        ]
        data = b"\n".join(json.dumps(row, separators=(",", separator)).encode() for row in rows)
        assert different_keys(data) == len(set().union(*map(keys_of, rows)))


def test_keys_with_quotes_in_them_count_each_time():
    assert different_keys(b'{"a\\"b":1}\n{"c\\"b":1}') >= 2


def test_rows_of_keys_of_their_own_are_read_one_by_one(tmp_path, qwen, monkeypatch):
    rows = [{"text": f"hello {row}", "more": {f"k{row}_{n}": 1 for n in range(50)}} for row in range(60)]
    data = "\n".join(map(json.dumps, rows))
    path = tmp_path / "rows.jsonl"
    path.write_text(data)
    columns = api.pack(path, tmp_path / "columns", tokenizer=qwen)
    monkeypatch.setattr(json_lines, "MOST_CELLS", 60 * 1000)
    assert read_json_lines(data.encode(), [], len(rows)) is None
    assert api.pack(path, tmp_path / "rows", tokenizer=qwen).manifest == columns.manifest

"""What very many small files cost in memory: nothing is held for each that all of them share."""

from __future__ import annotations

import json
import random
import subprocess
import sys

from chats import chat, write_rows

from tokpack.run import Run
from tokpack.settings.config import Config


def test_files_that_are_alike_share_one_shape(qwen, tmp_path):
    other = {"prompt": "say hello", "completion": "hello"}
    for number in range(12):
        lines = (
            [json.dumps(other).encode()] * 2
            if number % 3 == 0
            else [json.dumps(chat(random.Random(number), 2)).encode()] * 2
        )
        write_rows(tmp_path / f"{number:02}.jsonl", lines)
    settings = {"source": [{"path": str(tmp_path)}], "tokenize": {"tokenizer": str(qwen)}}
    run = Run.start(Config.from_dict(settings), workers=1)
    assert run.alike == [0, 1, 1] * 4
    assert len({id(shape) for shape in run.shapes}) == 2
    assert [shape.format for shape in run.shapes] == ["prompt_completion", "messages", "messages"] * 4


MEASURE = """
import json, sys, tracemalloc
from pathlib import Path
from tokpack.stages.write import write_json

data = {f"part-{number:05}.jsonl": {"read": number, "dropped": {}} for number in range(5000)}
data["\\ud800"] = {"a": float("inf")}
tracemalloc.start()
write_json(Path(sys.argv[1]), data)
peak = tracemalloc.get_traced_memory()[1]
wanted = json.dumps(data, ensure_ascii=False, indent=2) + "\\n"
assert Path(sys.argv[1]).read_bytes() == wanted.encode("utf-8", "backslashreplace")
print(peak / len(wanted))
"""


def test_json_is_written_in_little_more_memory_than_its_text(tmp_path):
    """In a process without the threads of other tests, which allocate too."""
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "a.json")]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(ended.stdout) < 3

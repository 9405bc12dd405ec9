"""The process of `tokenizers` answers all who ask it, and ends with the last of them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tokpack.encoding.reference_process import ReferenceProcess
from tokpack.encoding.snapshot import BACKEND
from tokpack.encoding.tokenizer import load_tokenizer

TEXTS = [f"word {number} of a text" for number in range(200)]


@pytest.fixture
def backend(qwen):
    return load_tokenizer(qwen).folder / BACKEND


COPIES = """
import os, sys
from pathlib import Path
from tokpack.encoding.reference_process import ReferenceProcess

process = ReferenceProcess(Path(sys.argv[1]), 3)
texts = [f"word {number} of a text" for number in range(200)]
origin = os.getpid()
for _ in range(3):
    if os.getpid() == origin:
        os.fork()
mine = os.getpid() % 50
try:
    for _ in range(20):
        [(ids, places)] = process.encode([texts[mine]])
        assert process.decode([ids], True) == [texts[mine]]
    print(process._process.pid, flush=True)
except EOFError:
    print("none", flush=True)
if os.getpid() == origin:
    for _ in range(3):
        os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no copies of a process")
def test_copies_have_a_way_each(backend):
    out = subprocess.run(
        [sys.executable, "-c", COPIES, str(backend)], capture_output=True, text=True, timeout=60, check=True
    ).stdout.split()
    assert sorted(map(out.count, set(out))) == [1, 3]  # one copy more than ways
    [number] = {int(word) for word in out if word != "none"}
    deadline = time.monotonic() + 20
    while Path("/proc", str(number)).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path("/proc", str(number)).exists()


def test_one_that_dies_is_told(backend):
    process = ReferenceProcess(backend)
    [(ids, _)] = process.encode(TEXTS[:1])
    assert process.decode([ids], False) == TEXTS[:1]
    process.close()
    with pytest.raises(EOFError):
        process.encode(TEXTS)

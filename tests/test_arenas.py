"""Threads of a command that reads data take memory from few arenas of malloc."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

THREADS = """
import ctypes, threading
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
here = threading.Barrier(8)

def take():
    assert libc.malloc(ctypes.c_size_t(1000))
    here.wait()

threads = [threading.Thread(target=take) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.malloc_stats()
"""
BLOCKS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p

def take():
    blocks = [ctypes.c_void_p(libc.malloc(ctypes.c_size_t(12 << 20))) for _ in range(4)]
    for block in blocks:
        ctypes.memset(block, 1, 12 << 20)
    for block in blocks:
        libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

first = take()
print(take() - first)
"""
COMMAND = """
import sys
from tokpack import __main__
sys.argv = ["tokpack", "{}", "--help"]
try:
    __main__.run()
except SystemExit:
    pass
"""


def arenas(before: str) -> int:
    """How many there are once eight threads took memory."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    command = [sys.executable, "-c", before + THREADS]
    found = subprocess.run(command, env=kept, capture_output=True, text=True, check=False)
    return found.stderr.count("Arena ")


glibc = pytest.mark.skipif(not arenas(""), reason="malloc says nothing of its arenas")


@glibc
@pytest.mark.parametrize(("cores", "expected"), [(1, 1), (2, 1), (7, 1), (12, 3)])
def test_four_threads_share_an_arena(cores, expected):
    assert arenas(f"from tokpack.engine.arenas import share_arenas; share_arenas({cores})\n") == expected


@glibc
def test_what_one_block_frees_the_next_takes_without_the_system():
    before = "from tokpack.engine.arenas import share_arenas; share_arenas()\n"
    found = subprocess.run(
        [sys.executable, "-c", before + BLOCKS], capture_output=True, text=True, check=True
    )
    assert int(found.stdout) < 1000  # of the 12,288 pages that it has


@glibc
def test_commands_that_read_data_share_arenas_and_others_do_not():
    found = {name: arenas(COMMAND.format(name)) for name in ("pack", "train")}
    assert found["pack"] == max(1, (os.cpu_count() or 1) // 4)
    assert found["train"] > found["pack"]

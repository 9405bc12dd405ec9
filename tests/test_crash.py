"""A handful of the crash suite; `make crash` kills far more often."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from encode_helpers import byte_level, template, tokenizer_folder

SUITE = Path(__file__).with_name("crash_suite.py")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_commands_killed_at_random_moments_give_the_same_bytes_when_repeated(tmp_path):
    tokenizer = tokenizer_folder(byte_level(), tmp_path / "tokenizer", template("qwen2_5"))
    arguments = [sys.executable, str(SUITE), "--tries", "2", "--rows", "300", "--tokenizer", str(tokenizer)]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("2 kills (") == 6

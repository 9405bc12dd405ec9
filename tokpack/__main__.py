"""The command `tokpack`, and `python -m tokpack`."""

import gc
import signal
import sys
from typing import NoReturn

from tokpack.engine import COLLECT

DATA_COMMANDS = ("pack", "analyze", "clean")
"""Those whose threads hand large arrays to one another."""

HELPED_COMMANDS = ("pack", "analyze")
"""Those that have helper processes."""


def run() -> NoReturn:
    """Hears signals before it imports the commands: that takes a third of a second, from a cold disk more.

    Ctrl-C before that waits until it is heard."""
    gc.set_threshold(*COLLECT)
    if sys.platform != "win32":
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    command = next((name for name in sys.argv[1:] if not name.startswith("-")), "")
    if command in DATA_COMMANDS:
        from tokpack.engine.arenas import share_arenas

        share_arenas()
    from tokpack.terminal import interrupts

    try:
        interrupts.watch(command)
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        if command in HELPED_COMMANDS:
            from tokpack.engine.early import start_as_typed

            start_as_typed(sys.argv[1:])
        from tokpack.cli import run as commands
    except KeyboardInterrupt:
        interrupts.leave()
    commands()


if __name__ == "__main__":
    run()

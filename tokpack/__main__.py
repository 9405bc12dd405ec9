"""The command `tokpack`, and `python -m tokpack`."""

import sys
from typing import NoReturn


def run() -> NoReturn:
    """Hears signals before it imports the commands: that takes a third of a second, from a cold disk more."""
    from tokpack import interrupts

    interrupts.watch(next((name for name in sys.argv[1:] if not name.startswith("-")), ""))
    try:
        from tokpack.cli import run as commands
    except KeyboardInterrupt:
        interrupts.leave()
    commands()


if __name__ == "__main__":
    run()

"""The command line. Heavy imports happen inside the commands: `tokpack --help` stays light.

Results go to stdout; progress, warnings and errors to stderr. The commands are in `start` (before the first
run), `prepare` (raw data), `packed` (packed datasets) and `view`; their order here is that of `tokpack -h`.
"""

from tokpack.cli import start  # isort: skip
from tokpack.cli import prepare  # isort: skip
from tokpack.cli import packed  # isort: skip
from tokpack.cli import view  # isort: skip
from tokpack.cli.app import app, mount_plugins
from tokpack.cli.entry import main, run

__all__ = ["app", "main", "mount_plugins", "packed", "prepare", "run", "start", "view"]

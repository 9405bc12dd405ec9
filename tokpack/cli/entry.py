"""The entry point: errors as three lines on stderr, each kind with its exit code."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import sys
from contextlib import suppress
from typing import Any, NoReturn

import typer

from tokpack.cli.app import application
from tokpack.cli.options import flag_of
from tokpack.cli.output import Stderr, say
from tokpack.engine import early
from tokpack.errors import FULL, DataError, InternalError, OutputError, SettingError, TokpackError, UsageError
from tokpack.terminal import interrupts
from tokpack.terminal.printable import printable


def run() -> NoReturn:
    """`main` as a process. It ends when Python has ended its threads and run its exit functions: what C++
    does after that can abort a finished process, by a thread of Arrow's that still lives.
    """
    code = 1

    def end() -> None:
        with suppress(OSError, ValueError):  # nobody reads any more
            sys.stdout.flush()
            sys.stderr.flush()
        early.dismiss()
        os._exit(code)

    atexit.register(end)  # the first, so it runs last
    try:
        main()
    except SystemExit as ending:
        code = ending.code if isinstance(ending.code, int) else 0
        raise


def main() -> NoReturn:
    """Entry point: errors as three lines on stderr, each kind with its exit code."""
    # Several blocks are in work at once: threads inside each would be in one another's way. Arrow's own pool
    # asks the system for its pages anew with every block.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # they would look for work that never comes
    try:
        command = next((name for name in sys.argv[1:] if not name.startswith("-")), "")
        interrupts.watch(command)
        logging.basicConfig(level=logging.WARNING, handlers=[Stderr()])
        logging.getLogger("tokpack").setLevel(logging.INFO)
        code = application(command)(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        interrupts.leave()
    except Exception as error:
        if interrupts.heard():  # libraries make errors of their own of it, and ours translate those
            interrupts.leave()
        _explain(error)
    if code == interrupts.EXIT_CODE or (code and interrupts.heard()):  # typer makes a code of the exception
        interrupts.leave()
    sys.exit(code if isinstance(code, int) else 0)


def _explain(error: Exception) -> NoReturn:
    if isinstance(error, TokpackError):
        _fail(error)
    if isinstance(error, OSError):
        what = os.strerror(error.errno) if error.errno else str(error)
        where = str(error.filename2 or error.filename) if error.filename else None
        if where and error.errno == errno.EACCES and os.path.lexists(where) and not os.access(where, os.R_OK):
            _fail(DataError(f"cannot open: {what}", where=where, hint="check path and rights"))
        hint = (
            "free some space and repeat the command"
            if error.errno in FULL
            else "check the path and its rights"
        )
        _fail(OutputError(f"cannot open or write: {what}", where=where, hint=hint))
    if hasattr(error, "format_message"):  # a usage error of the command line itself
        _usage(error)
    if isinstance(error, ValueError) and str(error).startswith("embedded null "):
        _fail(UsageError("a name holds a NUL byte, and no path can", hint="look at the paths given"))
    if isinstance(error, RuntimeError) and str(error).startswith("Symlink loop"):  # Python below 3.13
        _fail(UsageError(f"a link leads to itself: {error}", hint="look at the paths given"))
    import traceback

    typer.echo(printable("".join(traceback.format_exception(error))), err=True)
    _fail(
        InternalError(
            f"{type(error).__name__}: {error}", hint="a bug in tokpack: please report the lines above"
        )
    )


def _usage(error: Any) -> NoReturn:
    """`error` comes from typer; where there was no argument at all, it has just printed the help."""
    if message := error.format_message():
        message = message.replace("Value error, ", "")  # pydantic's, which typer checks choices by
        command = f"tokpack {error.ctx.info_name}" if error.ctx and error.ctx.parent else "tokpack"
        say(f"error: {message}\n  hint: {command} --help", quiet=False)
    sys.exit(2)


def _fail(error: TokpackError) -> NoReturn:
    if isinstance(error, SettingError) and error.option:
        flag = flag_of(error.option)
        error.named(flag, flag)
    say(f"error: {error}", quiet=False)
    sys.exit(error.exit_code)

"""Errors a user can act on: what happened, where, and what to do next."""

from __future__ import annotations

import difflib
import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tokpack.terminal.printable import printable, without_secrets

FULL = (errno.ENOSPC, errno.EDQUOT)
MOST_KNOWN = 30
"""Names that a hint lists."""


class TokpackError(Exception):
    """Base of every error shown to the user without a traceback.

    `what` says what happened, `where` names the file:line, flag or key, `hint` is the next step.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(str(self))

    def __reduce__(self) -> tuple[Any, ...]:
        """From one process to another as it is, whatever its class asks for."""
        return _restored, (type(self), self.args, self.__dict__)

    def __str__(self) -> str:
        parts = [printable(self.what)]
        if self.where:
            place = printable(self.where).replace("\n", "\\n")
            parts.append(f"  at: {place}")
        if self.hint:
            parts.append(f"  hint: {printable(self.hint)}")
        return without_secrets("\n".join(parts))


def _restored(kind: type[TokpackError], args: tuple[Any, ...], state: dict[str, Any]) -> TokpackError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class UsageError(TokpackError):
    """A flag, key or combination of them that cannot work."""

    exit_code = 2


class SettingError(UsageError):
    """A setting that cannot work, by its place in the config, as `plan.planner`.

    `given` puts the name in its stead that was typed: `{name}` in `what`, and `where`.
    """

    option = ""
    """The option that set it, as `max_length`; empty where a file did."""

    def __init__(self, what: str, *, where: str, hint: str | None = None) -> None:
        self.place, self.template = where.removeprefix("config.") if where != "config" else "", what
        super().__init__(what.replace("{name}", where), where=where, hint=hint)

    def named(self, name: str, where: str) -> SettingError:
        self.what, self.where = self.template.replace("{name}", name), where
        return self

    def given(self, options: Mapping[str, str], file: str | None) -> SettingError:
        """Where the value is from: one of the `options` (by their places), else the `file` and its table."""
        place = self.place
        key = next((key for key in options if place == key or place.startswith((f"{key}.", f"{key}["))), None)
        if key is not None:
            self.option = options[key]
            return self.named(self.option, f"{self.option}=")
        if file is None:
            return self
        table, _, key = place.rpartition(".")
        shown = place if table.endswith("]") else f"[{table}] {key}" if table else key
        return self.named(key or "it", f"{file}: {shown}".removesuffix(": "))


class VerifyError(TokpackError):
    """A packed dataset, or a model, that failed its proof."""

    exit_code = 1


class DataError(TokpackError):
    """Input that cannot be read as the run demands."""

    exit_code = 65


class InternalError(TokpackError):
    """A broken invariant: our bug."""

    exit_code = 70


class OutputError(TokpackError):
    """The output cannot be written (permissions, full disk, something in the way)."""

    exit_code = 73


@contextmanager
def reading(where: str | os.PathLike[str], hint: str = "check path and rights") -> Iterator[None]:
    """Turn what the system refuses to open or read (rights, a missing file) into a DataError.

    Arrow's own OSErrors, about what is in a file, carry no number and pass.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise DataError(
            f"cannot open: {os.strerror(error.errno)}", where=str(error.filename or where), hint=hint
        ) from None


def near_matches(name: str, known: Iterable[str]) -> str:
    """`"did you mean 'x'?"` for the nearest known names, else the list of them."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=2, cutoff=0.6)
    if close:
        return "did you mean " + " or ".join(repr(match) for match in close) + "?"
    more = f" and {len(known) - MOST_KNOWN} more" if len(known) > MOST_KNOWN else ""
    return "known: " + ", ".join(known[:MOST_KNOWN]) + more


def check_name(folder: Path) -> None:
    """Raises UsageError for a path that Arrow and `datasets` cannot open."""
    try:
        str(folder).encode("utf-8")
    except UnicodeEncodeError:
        raise UsageError(
            "the name is not UTF-8", where=ascii(str(folder)), hint="rename it, or give another"
        ) from None


def check_new(file: Path, overwrite: bool) -> None:
    """Raises UsageError for a file that is there already, OutputError where its folder is not."""
    if file.exists() and not overwrite:
        raise UsageError("the file is there already", where=str(file), hint="--overwrite, or another -o")
    check_place(file, "-o")


def check_place(file: Path | None, flag: str) -> None:
    """Before the work: raises OutputError where `file` could not be written after it."""
    if file is None:
        return
    if not file.absolute().parent.is_dir():
        raise OutputError(
            "its folder is not there", where=f"{flag} {file}", hint="make it, or give another place"
        )
    if file.is_dir():
        raise OutputError("a folder is there", where=f"{flag} {file}", hint="give the name of a file")


def system_error(error: Exception) -> int:
    """Its number by the system; 0: it is another error. Libraries of Rust say theirs in words, and PyTorch
    says that less was written than it gave, as on a full disk."""
    if isinstance(error, OSError):
        return error.errno or 0
    if re.search(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+", str(error)):
        return errno.ENOSPC
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0


def _again(resumes: bool) -> str:
    """What to do about a full disk."""
    return "free some space and repeat the command" + (": it goes on where it stopped" if resumes else "")


@contextmanager
def writing(
    where: Path, resumes: bool = True, how_to_go_on: Callable[[], str] | None = None
) -> Iterator[None]:
    """Turn a full disk or missing rights into an OutputError. `resumes`: the same command keeps what stands
    already; another way to go on is said by `how_to_go_on`."""
    try:
        yield
    except Exception as error:
        number = system_error(error)
        if not number:
            raise
        full = number in FULL
        raise OutputError(
            f"cannot write: {os.strerror(number)}",
            where=str(getattr(error, "filename2", None) or getattr(error, "filename", None) or where),
            hint=(f"free some space; {how_to_go_on()}" if how_to_go_on else _again(resumes))
            if full
            else "choose another place, or check its rights",
        ) from None

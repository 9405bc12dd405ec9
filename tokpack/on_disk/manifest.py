"""`manifest.json` as anybody may have written it: read once, by form, before anything believes it.

Every key that tokpack reads is checked here for its type, and numbers for their size, so that a foreign
manifest ends in an error that names the key and nowhere else. Names of shards can only be those that tokpack
writes; what the manifest and `SHA256SUMS` say of them must agree; links and special files are refused. Keys
that are not known are left alone: a later version may have written them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from tokpack.errors import DataError, UsageError, check_name, reading
from tokpack.files.own_files import links_in_the_way, special_files
from tokpack.on_disk.sums import need_folder, read_limited, sum_lines
from tokpack.schema import (
    COPIES,
    FORMAT_VERSION,
    KEPT_AFTER_ALL,
    LOSS_WEIGHTS,
    MANIFEST,
    PREFERENCE,
    SEGMENTS,
    SUMS,
    TOKEN_FILES,
    UNPAIRED,
    WORK,
    summed_files,
)
from tokpack.settings.config import PlanConfig, TruncateConfig, WriteConfig
from tokpack.settings.config_limits import MOST_PARTS
from tokpack.settings.conversion import convert

Form = Callable[[Any, str], None]
"""Raises `_WrongFormError` for a value, at a key, that is not of the form."""

MOST_DOCUMENTS = 1 << 36
MOST_TOKENS = 1 << 48
MOST_NUMBER = 1 << 72
INT32 = (1 << 31) - 1
LONGEST_TEXT = 1 << 16
SHARD_NAME = re.compile(r"data-\d{5,}-of-\d{5,}\.(arrow|parquet|index)")
DIGEST = re.compile(r"[0-9a-f]{64}")
SETTING = re.compile(r".{0,1000}")
BLANK = b"\x00 \t\r\n"
"""What is left of a file whose contents a power cut took."""


class _WrongFormError(Exception):
    def __init__(self, key: str, value: Any, wanted: str) -> None:
        super().__init__(key)
        self.key, self.value, self.wanted = key, value, wanted


# Forms


def number(low: int, high: int) -> Form:
    def check(value: Any, key: str) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _WrongFormError(key, value, f"a whole number from {low} to {high}")

    return check


def share(value: Any, key: str) -> None:
    """A finite number, whole or not."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _WrongFormError(key, value, "a number")


def text(form: re.Pattern[str] | None = None, wanted: str = "a text") -> Form:
    def check(value: Any, key: str) -> None:
        if not isinstance(value, str) or len(value) > LONGEST_TEXT or (form and not form.fullmatch(value)):
            raise _WrongFormError(key, value, wanted)

    return check


def one_of(*choices: Any) -> Form:
    def check(value: Any, key: str) -> None:
        if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
            raise _WrongFormError(key, value, " or ".join(str(choice) for choice in choices))

    return check


def maybe(form: Form) -> Form:
    return lambda value, key: None if value is None else form(value, key)


def table(needed: Mapping[str, Form], known: Mapping[str, Form] | None = None) -> Form:
    """An object with the keys `needed`, and of the keys `known` any."""

    def check(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            raise _WrongFormError(key, value, "a table")
        for name, form in needed.items():
            if name not in value:
                raise _WrongFormError(f"{key}.{name}".lstrip("."), None, "there")
            form(value[name], f"{key}.{name}".lstrip("."))
        for name, form in (known or {}).items():
            if name in value:
                form(value[name], f"{key}.{name}".lstrip("."))

    return check


def each(form: Form) -> Form:
    def check(value: Any, key: str) -> None:
        if not isinstance(value, list):
            raise _WrongFormError(key, value, "a list")
        for place, item in enumerate(value):
            form(item, f"{key}[{place}]")

    return check


def by_name(form: Form) -> Form:
    def check(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            raise _WrongFormError(key, value, "a table")
        for name, item in value.items():
            form(item, f"{key}.{name[:80]}")

    return check


def section(kind: type, limits: Mapping[str, int]) -> Form:
    """A section of the config, typed as `config.py` types it; `limits`: key -> largest number, else 1."""

    def check(value: Any, key: str) -> None:
        if not isinstance(value, dict):
            raise _WrongFormError(key, value, "a table")
        try:
            convert(kind, value, key)
        except UsageError as error:
            place = error.where or key
            found = value.get(place.rpartition(".")[2], value)
            raise _WrongFormError(place, found, (error.hint or error.what).removeprefix("give ")) from None
        for name, item in value.items():
            if isinstance(item, str):
                text(SETTING, "a short text")(item, f"{key}.{name}")
            elif isinstance(item, float):
                number(0, 1)(math.ceil(item) if math.isfinite(item) else -1, f"{key}.{name}")
            elif not isinstance(item, bool):
                number(0, limits.get(name, 1))(item, f"{key}.{name}")

    return check


documents, tokens, amount = number(0, MOST_DOCUMENTS), number(0, MOST_TOKENS), number(0, MOST_NUMBER)
digest = text(DIGEST, "64 digits of a SHA-256")
identity = maybe(number(0, INT32))
whole = text()

_DOCUMENT_SUMS = table(
    {"read": documents, "kept": documents, "dropped": by_name(documents), "quarantined": documents},
    {"repeated": documents, KEPT_AFTER_ALL: by_name(documents)},
)
_TOKEN_SUMS = table(
    {"tokenized": tokens, "packed": tokens, "truncated": tokens, "dropped": by_name(tokens)},
    {"repeated": tokens},
)
_LEDGER = table(
    {
        "documents": _DOCUMENT_SUMS,
        "tokens": _TOKEN_SUMS,
        "slots": table(dict.fromkeys(("rows", "capacity", "total", "packed", "free"), amount)),
        "trained": table(dict.fromkeys(("packed", "trained", "masked"), tokens)),
        "sources": by_name(table({"documents": _DOCUMENT_SUMS, "tokens": _TOKEN_SUMS})),
    },
    {
        "segments": table(
            dict.fromkeys(("answer", *SEGMENTS), table(dict.fromkeys(("trained", "masked"), tokens)))
        )
    },
)
_CONFIG = table(
    {
        "truncate": section(TruncateConfig, {"max_length": INT32}),
        "plan": section(
            PlanConfig,
            {
                "max_docs_per_row": INT32,
                "world_size": 1 << 20,
                "rows_per_step": 1 << 20,
                "parts": MOST_PARTS,
                "token_cost": 1 << 40,
            },
        ),
        "write": section(WriteConfig, {"shard_mb": 1 << 20}),
        "source": each(table({})),
        "seed": number(0, MOST_NUMBER),
    }
)
_MIXED = table(
    {
        "rows_per_step": number(1, INT32),
        "steps": documents,
        "leftover_rows": documents,
        "largest_error": share,
    }
)
_MANIFEST = table(
    {
        "tokpack_version": whole,
        "split": one_of("train", "validation"),
        "capacity": number(1, INT32),
        "rows": documents,
        "tokens": tokens,
        "trained_tokens": tokens,
        "documents": documents,
        "pieces": documents,
        "tokenizer": table(
            {
                "name": whole,
                "sha256": digest,
                "vocab_size": number(1, INT32),
                "eos_token_id": identity,
                "pad_token_id": identity,
            },
            {"vocab_sha256": digest},
        ),
        "template": table(
            {"sha256": text(re.compile(f"({DIGEST.pattern})?"), "a SHA-256, or empty"), "loss": whole},
            {"loss_mask": whole},
        ),
        "inputs": each(
            table(
                {
                    "name": whole,
                    "sha256": maybe(digest),
                    "size_bytes": maybe(number(0, MOST_NUMBER)),
                    "format": whole,
                }
            )
        ),
        "shards": each(
            table(
                {
                    "file": text(SHARD_NAME, "a name like data-00000-of-00001.arrow"),
                    "rows": documents,
                    "sha256": digest,
                }
            )
        ),
        "plan": table(
            {
                "planner": whole,
                "rows": documents,
                "bound": documents,
                "bound_kind": whole,
                "gap": share,
                "fill": share,
            },
            {"note": whole, "dealt": by_name(share), "mixed": _MIXED, "parted": by_name(documents)},
        ),
        "ledger": _LEDGER,
        "config": _CONFIG,
    },
    {
        "kind": one_of(PREFERENCE, UNPAIRED),
        "token_files": each(table({"file": one_of(*TOKEN_FILES), "sha256": digest})),
        COPIES: one_of(True),
        LOSS_WEIGHTS: one_of(True),
        "keep": table({"documents": documents, "sha256": digest}),
        "derived": table({}, {"by": whole, "keep_order": one_of(True, False), "from": each(by_name(whole))}),
    },
)


# Reading


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of a finished packed dataset, of this user or of anybody.

    Raises UsageError when the folder is none, DataError that names the key when the manifest is not one that
    tokpack can have written, or is of a newer version.
    """
    manifest = read_form(folder)
    for fault in differing_sums(Path(folder), manifest):
        raise DataError(
            fault,
            where=str(folder),
            hint="the folder was altered or damaged: run `tokpack verify`, or copy it again",
        )
    return manifest


def read_form(folder: str | Path) -> dict[str, Any]:
    """As `read_manifest`, but the sums of shards are not compared."""
    folder = Path(folder)
    check_name(folder)
    with reading(folder):
        need_folder(folder)
        _check_finished(folder)
        _check_plain(folder)
        return _parsed(folder / MANIFEST)


def differing_sums(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Shards and token files of which the manifest and `SHA256SUMS` have different sums."""
    with reading(folder):
        listed, _ = sum_lines(folder)
    return [
        f"{MANIFEST} and {SUMS} have different sums of {file['file']}"
        for file in summed_files(manifest)
        if listed.get(file["file"]) != file["sha256"]
    ]


def is_finished(folder: Path) -> bool:
    """Whether both the manifest and the sums are there and hold something."""
    return not any(is_blank(folder / name) for name in (MANIFEST, SUMS))


def is_blank(path: Path) -> bool:
    """Not there, empty, or nothing but zeros."""
    try:
        with path.open("rb") as file:
            return not file.read(1 << 12).strip(BLANK)
    except OSError:
        return True


def _check_finished(folder: Path) -> None:
    if is_finished(folder):
        return
    for name in (MANIFEST, SUMS):
        if (folder / name).is_file():
            (folder / name).open("rb").close()  # what may not be read is not unfinished
    begun = (folder / WORK).is_dir() or (folder / MANIFEST).is_file() or (folder / SUMS).is_file()
    raise UsageError(
        "not a finished tokpack packed dataset: manifest.json or SHA256SUMS is missing or empty",
        where=str(folder),
        hint="the run that wrote it was cut off: repeat the same `tokpack pack` command to finish it"
        if begun
        else "give the folder that `tokpack pack -o` wrote",
    )


def _check_plain(folder: Path) -> None:
    for what, found in (("a link", links_in_the_way(folder)), ("no regular file", special_files(folder))):
        if found:
            raise DataError(
                f"{found[0]} is {what}: a packed dataset holds files alone",
                where=str(folder),
                hint="copy it again, with what its links point to if you trust them (cp -rL)",
            )


def _parsed(path: Path) -> dict[str, Any]:
    data = read_limited(path)
    try:
        manifest = json.loads(data.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"manifest.json is damaged: {error}", where=str(path), hint="run `tokpack verify`, or pack again"
        ) from None
    version = manifest.get("format_version") if isinstance(manifest, dict) else None
    if isinstance(manifest, dict) and (version != FORMAT_VERSION or isinstance(version, bool)):
        raise DataError(
            f"packed dataset format {str(version)[:40]}, this tokpack reads {FORMAT_VERSION}",
            where=str(path),
            hint="install the tokpack version named in the manifest, or pack again",
        )
    try:
        _MANIFEST(manifest, "")
    except _WrongFormError as wrong:
        raise DataError(
            f"manifest.json: {wrong.key or 'the whole'} cannot be {_shown(wrong.value)}: "
            f"it has to be {wrong.wanted}",
            where=str(path),
            hint="tokpack did not write it so: copy or pack the dataset again",
        ) from None
    if len({file["file"] for file in summed_files(manifest)}) < len(summed_files(manifest)):
        raise DataError("manifest.json: a file is named twice", where=str(path), hint="copy it again")
    return dict(manifest)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, list | dict) else f"a {type(value).__name__}"
    return "missing" if value is None else text if len(text) <= 60 else f"{text[:60]}..."

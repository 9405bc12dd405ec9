"""`run.json` of a token store: the settings of the run that owns it, and how those of another differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

from tokpack.errors import UsageError

RECORD = "run.json"
DIGEST = "digest"
"""Key of the record: the xxh3 of the rest."""


def read_record(path: Path) -> dict[str, Any] | None:
    """The settings in the `run.json` of a token store; None for a file that is not as a run wrote it."""
    try:
        return parsed_record(path.read_bytes())
    except OSError:
        return None


def parsed_record(data: bytes) -> dict[str, Any] | None:
    """The same of its bytes."""
    try:
        found = json.loads(data)
        digest = found.pop(DIGEST)
        return found if digest == digest_of(found) else None
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return None


def record_of(fingerprint: dict[str, Any]) -> bytes:
    """The `run.json` of a token store."""
    return json.dumps(fingerprint | {DIGEST: digest_of(fingerprint)}, indent=1, sort_keys=True).encode()


def not_there(where: str) -> UsageError:
    return UsageError(
        "the token store is not there", where=where, hint="the command that made it may have ended"
    )


def refuse_other(found: dict[str, Any], wanted: dict[str, Any], where: str, other: str) -> None:
    """Raises UsageError where the settings of an unfinished run are not those that are wanted."""
    different = sorted(differences(found, json.loads(json.dumps(wanted))))
    if different:
        raise UsageError(
            f"an unfinished run with other settings is here; different: {', '.join(different)}",
            where=where,
            hint=f"repeat its command to finish it, give --overwrite to start over, or {other}",
        )


def digest_of(fingerprint: dict[str, Any]) -> str:
    return str(xxhash.xxh3_128_hexdigest(json.dumps(fingerprint, sort_keys=True).encode()))


def differences(found: Any, wanted: Any, key: str = "") -> Iterator[str]:
    """Keys whose values are others in JSON `wanted` than in `found`, with both where they are short."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in found.keys() | wanted.keys():
            yield from differences(found.get(name), wanted.get(name), f"{key}.{name}".lstrip("."))
    elif _are_tables(found) and _are_tables(wanted) and len(found) == len(wanted):
        for number, (one, other) in enumerate(zip(found, wanted, strict=True)):
            yield from differences(one, other, f"{key}[{number}]")
    elif found != wanted:
        key = key.removeprefix("config.")
        yield f"{key} ({found!r} then, {wanted!r} now)" if len(f"{found}{wanted}") < 80 else key


def _are_tables(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)

"""What is written in a flag's value, as plain data. Light: the command line imports it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from tokpack.errors import UsageError


def parse_map(text: str) -> dict[str, str]:
    """`"prompt=question,completion=answer"` -> `{"prompt": "question", "completion": "answer"}`."""
    if not re.fullmatch(r"\s*\w+\s*=[^,=]+(,\s*\w+\s*=[^,=]+)*", text):
        raise UsageError(
            f"cannot read the map {text!r}", where="--map", hint="--map prompt=question,completion=answer"
        )
    pairs = (pair.split("=", 1) for pair in text.split(","))
    return {target.strip(): column.strip() for target, column in pairs}


_OF_PYTHON = {"True": True, "False": False, "None": None}


def parse_template_kwargs(given: Sequence[str]) -> dict[str, Any]:
    """`["thinking=false", "date=May"]` -> `{"thinking": False, "date": "May"}`: values are JSON, `False`
    and the like, or texts."""
    arguments: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise UsageError(
                f"cannot read the template argument {text!r}",
                where="--template-kwarg",
                hint="--template-kwarg enable_thinking=false",
            )
        try:
            arguments[name.strip()] = json.loads(value)
        except ValueError:
            arguments[name.strip()] = _OF_PYTHON.get(value, value)
    return arguments


def parse_repeats(given: Sequence[str], what: str = "repeat") -> dict[str, float]:
    """`["code.jsonl=2.5"]` -> `{"code.jsonl": 2.5}`; `what` they are, repeats or weights."""
    numbers = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            numbers[name] = float(number)
        except ValueError:
            name = ""
        if not name:
            raise UsageError(
                f"cannot read the {what} {text!r}", where=f"--{what}", hint=f"--{what} code.jsonl=2.5"
            )
    return numbers


def parse_tokens(text: str) -> int:
    """`"20M"`, `"1.5B"`, `"500k"` or `"20000000"` -> tokens."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKmMbB]?)\s*", text)
    if not match:
        raise UsageError(
            f"cannot read {text!r} as a number of tokens",
            where="--budget",
            hint="--budget 20M, --budget 5M-trained, or dollars: --budget 50usd",
        )
    return round(float(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}[match[2].lower()])


def parse_budget(text: str) -> dict[str, float | str]:
    """Keys of `[select]`: dollars of `"50usd"`, `"$50"`, `"50 USD"`, tokens of `"20M"`, trained ones of
    `"20M-trained"`."""
    number = r"(\d+(?:\.\d+)?|\.\d+)"
    match = re.fullmatch(rf"\s*(?:\$\s*{number}|{number}\s*(?:usd|\$))\s*", text, re.IGNORECASE)
    if match:
        return {"budget": 0, "budget_usd": float(match[1] or match[2])}
    tokens, trained, rest = text.partition("-trained")
    if trained and not rest.strip():
        return {"budget": parse_tokens(tokens), "budget_usd": 0.0, "weight_by": "trained"}
    return {"budget": parse_tokens(text), "budget_usd": 0.0}


def parse_numbers(text: str, where: str) -> list[float]:
    """`"0.25,0.45"` -> `[0.25, 0.45]`."""
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"cannot read the numbers {text!r}", where=where, hint=f"{where} 0.25,0.45"
        ) from None


def parse_length(text: str) -> int:
    """Tokens of a row: `"4096"`, or by the field's habit in steps of 1,024: `"4k"` -> 4096.

    Raises ValueError, which the command line says beside the flag.
    """
    match = re.fullmatch(r"\s*(\d+)\s*([kK]?)\s*", text.replace(",", "").replace("_", ""))
    if not match:
        raise ValueError(f"cannot read {text!r} as a number of tokens: write 4096 or 4k")
    return int(match[1]) * (1024 if match[2] else 1)


def parse_memory(text: str) -> int:
    """Megabytes of `"8G"`, `"8GB"`, `"1.5G"`, `"8000M"` or `"8000"`. Raises ValueError."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([mMgGtT]?)(?:i?[bB])?\s*", text)
    if not match:
        raise ValueError(f"cannot read {text!r} as memory: write 8G")
    return round(float(match[1]) * {"": 1, "m": 1, "g": 10**3, "t": 10**6}[match[2].lower()])

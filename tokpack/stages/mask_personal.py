"""Personal data in contents: counted for the report, or masked as `<EMAIL>`, `<PHONE>` and `<KEY>`.

Patterns, not understanding: names, addresses and numbers without a form of their own are not seen. Left alone
are addresses reserved for examples (`example.com` of RFC 2606, telephone 555-01xx) and `git@host:path`.
"""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import polars as pl

from tokpack.stages.messages import Messages

KINDS = ("email", "phone", "key")

_EMAIL = r"""
    (?: (?<![\w.+%\\-]) | (?<=\\[nrt]) )  # or after a line break in JSON
    (?!git@)
    [A-Za-z0-9][\w.+%-]{0,63} @ (?!(?:[\w-]+\.)*example\.(?:com|org|net)\b)
    (?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})\.)+ (?!(?:test|invalid|localhost|example|local)\b) [A-Za-z]{2,24}
    (?![\w@])
"""
# International with "+", or North American in three groups; plain digits are too often something else.
_PHONE = r"""
    (?<![\w.+)/=*-]) (?!\(?\d{3}\)?[ .-]?555[ .-]?01\d\d)
    (?: \+[1-9]\d{0,2} (?:[ .()/-]{0,2}\d){7,12}
      | \(\d{3}\)[ ]?\d{3}[ .-]\d{4}
      | [2-9]\d{2}(?P<separator>[.-])[2-9]\d{2}(?P=separator)\d{4} )
    (?![\w-]|\.\d)
"""
_KEY = r"""
    -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    | (?<![\w-]) (?:
        (?:AKIA|ASIA)[0-9A-Z]{16}
      | sk-(?=[\w-]*\d)[\w-]{20,}
      | [sr]k_live_[0-9A-Za-z]{16,}
      | gh[pousr]_[0-9A-Za-z]{36,} | github_pat_\w{40,} | glpat-[\w-]{20,}
      | xox[abeoprs]-[\w-]{10,}
      | AIza[\w-]{35} | hf_[A-Za-z0-9]{30,} | npm_[A-Za-z0-9]{36} | pypi-AgE[\w-]{50,}
      | eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}
    ) (?![\w-])
"""
PERSONAL = re.compile(
    f"(?P<key>{_KEY})|(?P<email>{_EMAIL})|(?P<phone>{_PHONE})", re.VERBOSE | re.DOTALL | re.ASCII
)
PREFILTER = (
    r"(?-u)@[A-Za-z0-9]|\+[1-9][\d .()/-]{7}|\d{3}\)? ?[.-]?\d{3}[ .-]\d{4}"
    "|PRIVATE KEY|AKIA|ASIA|sk-|k_live_|gh[pousr]_|github_pat_|glpat-|xox|AIza|hf_|npm_|pypi-AgE|eyJ"
)
"""What a text with personal data matches: told by a vector pass; Python looks at those texts alone."""


def count_personal(documents: pl.DataFrame) -> dict[str, int]:
    """Documents that hold each kind: `with_email`, `with_phone`, `with_key`."""
    return mask_personal(documents)[1]


def mask_personal(documents: pl.DataFrame) -> tuple[pl.DataFrame, dict[str, int]]:
    """Replace personal data in contents and tool calls; counts as `count_personal`."""
    messages = Messages.of(documents)
    owners = np.repeat(np.arange(len(documents)), np.diff(messages.offsets))
    found: dict[str, set[int]] = {kind: set() for kind in KINDS}
    contents = _replace(messages.contents, owners, found)
    extra = _replace(documents["extra"], np.arange(len(documents)), found, in_json=True)
    if any(found.values()):
        documents = documents.with_columns(messages.lists(contents).alias("contents"), extra.alias("extra"))
    return documents, {f"with_{kind}": len(rows) for kind, rows in found.items()}


def _replace(
    texts: pl.Series, owners: np.ndarray[Any, Any], found: dict[str, set[int]], in_json: bool = False
) -> pl.Series:
    """The texts, masked; each one's owner is noted in `found` under the kinds that it holds."""
    suspects = texts.str.contains(PREFILTER).fill_null(False).arg_true()
    if suspects.is_empty():
        return texts
    masked = []
    for place, text in zip(suspects, texts.gather(suspects), strict=True):
        kinds: set[str] = set()
        masked.append(_mask_json(text, kinds) if in_json else _mask(text, kinds))
        for kind in kinds:
            found[kind].add(int(owners[place]))
    return texts.clone().scatter(suspects, masked)  # scatter writes in place


def _mask(text: str, kinds: set[str]) -> str:
    def name(match: re.Match[str]) -> str:
        kind = str(match.lastgroup)
        kinds.add(kind)
        return f"<{kind.upper()}>"

    return PERSONAL.sub(name, text)


def _mask_json(text: str, kinds: set[str]) -> str:
    """Masks inside the strings of a JSON document, so that it stays one."""

    def walk(value: Any) -> Any:
        if isinstance(value, str):
            return _mask(value, kinds)
        if isinstance(value, dict):
            return {key: walk(item) for key, item in value.items()}
        return [walk(item) for item in value] if isinstance(value, list) else value

    data = walk(json.loads(text))
    return json.dumps(data, ensure_ascii=False) if kinds else text

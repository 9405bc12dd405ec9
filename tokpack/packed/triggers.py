"""What in a document made its rule hit: places in its messages, for people to see.

The rules decide over whole batches in vectors; this looks at one document and marks what they look for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from tokpack.frozen import frozen
from tokpack.stages.rules.encoding import BROKEN
from tokpack.stages.rules.html import CODE, PHRASES, TAG
from tokpack.stages.rules.repetition import PROBES, loop_around
from tokpack.stages.rules.wording import HEAD, REFUSALS

Message = tuple[str, str | None]
ANSWERS = ("assistant", "text")
LONG = 200_000
"""Characters of a message that are searched."""
MOST_MARKS = 2000


@frozen
class Mark:
    """Characters `start` to `end` of a message; the whole message where it is empty."""

    message: int
    start: int
    end: int


Finder = Callable[[str], list[tuple[int, int]]]


def find_marks(
    reason: str, detail: str | None, messages: Sequence[Message], special_tokens: Sequence[str] = ()
) -> list[Mark]:
    """Places that the reason is about, in order; none where it is about the whole, or not known."""
    if reason in WHOLE_MESSAGES:
        return [
            Mark(n, 0, len(text or "")) for n in WHOLE_MESSAGES[reason](messages) for text in [messages[n][1]]
        ]
    finder = FINDERS.get(reason)
    if reason == "special_token_in_content" and special_tokens:
        finder = _pattern("|".join(map(re.escape, sorted(special_tokens, key=len, reverse=True))))
    if reason == "contaminated" and detail:
        span = detail.partition(": ")[2].strip()
        finder = _pattern(r"\s+".join(map(re.escape, span.split()))) if span else None
    if finder is None:
        return []
    anywhere = reason in ("mojibake", "special_token_in_content", "contaminated")
    found = [
        Mark(number, start, end)
        for number, (role, text) in enumerate(messages)
        if text and (anywhere or role in ANSWERS)
        for start, end in finder(text[:LONG])
    ]
    return found[:MOST_MARKS]


def _pattern(pattern: str, flags: int = 0) -> Finder:
    compiled = re.compile(pattern, flags)
    return lambda text: [match.span() for match in compiled.finditer(text) if match.end() > match.start()]


def _refusals(text: str) -> list[tuple[int, int]]:
    return _pattern("|".join(map(re.escape, REFUSALS.split("|"))), re.IGNORECASE)(text[:HEAD])


def _page(text: str) -> list[tuple[int, int]]:
    """Tags, and phrases that web sites have, outside of code."""
    bare = re.sub(CODE.replace(r"\z", r"\Z"), lambda match: " " * len(match[0]), text)
    phrases = "|".join(re.escape(phrase) for phrases in PHRASES for phrase in phrases.split("|"))
    return _joined(_pattern(TAG)(bare) + _pattern(phrases, re.IGNORECASE)(bare))


def _loops(text: str) -> list[tuple[int, int]]:
    """The longest stretch that one unit fills, or lines that were said before."""
    inner = text.strip()
    best = (0, 0)
    if len(inner) > 2 * PROBES:
        base = text.find(inner[0])
        letters = np.frombuffer(inner.encode("utf-32-le", "replace"), dtype=np.uint32)
        for part in range(1, PROBES + 1):
            at = max(0, min(len(inner) * part // PROBES, len(inner) - 24))
            start, stop, period = loop_around(inner, letters, at)
            if period and stop - start >= 3 * period and stop - start > best[1] - best[0]:
                best = (start + base, stop + base)
    return [best] if best[1] - best[0] >= 0.3 * len(inner) and best[1] else repeated_lines(text)


def repeated_lines(text: str) -> list[tuple[int, int]]:
    """Lines that stood in the text before."""
    seen: set[str] = set()
    found, place = [], 0
    for line in text.splitlines(keepends=True):
        bare = line.strip()
        if bare and bare in seen:
            start = place + line.index(bare)
            found.append((start, start + len(bare)))
        seen.add(bare)
        place += len(line)
    return found


def _repeated_words(text: str) -> list[tuple[int, int]]:
    """Words in runs of five that stood in the text before."""
    size = 5
    words = [match.span() for match in re.finditer(r"\S+", text)]
    names = [text[start:end] for start, end in words]
    seen: set[tuple[str, ...]] = set()
    found = []
    for place in range(len(words) - size + 1):
        gram = tuple(names[place : place + size])
        if gram in seen:
            found.append((words[place][0], words[place + size - 1][1]))
        seen.add(gram)
    return _joined(found)


def _joined(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Ascending, those that overlap as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


FINDERS: dict[str, Finder] = {
    "mojibake": _pattern(BROKEN),
    "refusal": _refusals,
    "html_boilerplate": _page,
    "html_answer": _pattern(TAG),
    "repetition": _loops,
    "gopher_repetition": lambda text: _joined(repeated_lines(text) + _repeated_words(text)),
    "url_only": _pattern(r"(?:https?://|www\.)\S+"),
    "symbol_share": _pattern(r"[^\w\s]+"),
}


def _last_of_each(messages: Sequence[Message]) -> list[int]:
    """The last prompt and the last answer."""
    answers = [n for n, (role, _) in enumerate(messages) if role in ANSWERS]
    prompts = [n for n, (role, _) in enumerate(messages) if role not in ANSWERS]
    return sorted([*prompts[-1:], *answers[-1:]])


def _where(test: Callable[[str, str | None], bool]) -> Callable[[Sequence[Message]], list[int]]:
    return lambda messages: [n for n, message in enumerate(messages) if test(*message)]


WHOLE_MESSAGES: dict[str, Callable[[Sequence[Message]], list[int]]] = {
    "empty_answer": _where(lambda role, text: role in ANSWERS and not (text or "").strip()),
    "null_content": _where(lambda role, text: text is None),
    "unknown_role": _where(
        lambda role, text: role not in ("system", "developer", "user", "assistant", "tool", "text")
    ),
    "prompt_equals_answer": _last_of_each,
}
"""Reason -> the messages that it is about as wholes."""

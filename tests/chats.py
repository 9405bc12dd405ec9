"""Small messy chat sets for tests, deterministic."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

WORDS = [
    *("the", "quick", "brown", "fox", "jumps", "lazy", "dogs", "x=1;", "def", "f():", "return", "\n", "  "),
    *("über", "你好", "мир", "كتاب", "naïve", "cafe\u0301", "🙂", "👩‍👩‍👧", "Ω", "1234567", "<b>", "|"),
]


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def chat(rng: random.Random, turns: int, words: int = 20) -> dict[str, Any]:
    messages = [{"role": "system", "content": sentence(rng, 4)}] if rng.random() < 0.3 else []
    for _ in range(turns):
        messages.append({"role": "user", "content": sentence(rng, rng.randint(1, words))})
        messages.append({"role": "assistant", "content": "so " + sentence(rng, rng.randint(1, words))})
    return {"messages": messages}


def messy_rows(count: int, seed: int = 0) -> list[bytes]:
    """`count` lines: mostly chats, with copies, empty answers, broken lines, long ones and odd roles."""
    rng = random.Random(seed)
    rows: list[Any] = []
    for number in range(count):
        kind = number % 25
        if kind == 7 and rows:
            rows.append(next(row for row in reversed(rows) if isinstance(row, dict)))
        elif kind == 9:
            rows.append(
                {
                    "messages": [
                        {"role": "user", "content": f"q{number}"},
                        {"role": "assistant", "content": " "},
                    ]
                }
            )
        elif kind == 11:
            rows.append(b'{"messages": [{"role": "user"')
        elif kind == 13:
            rows.append(
                {
                    "messages": [
                        {"role": "alien", "content": f"q{number}"},
                        {"role": "assistant", "content": "a"},
                    ]
                }
            )
        elif kind == 15:
            rows.append(chat(rng, turns=8, words=60))
        elif kind == 17:
            rows.append({"messages": [{"role": "user", "content": f"q{number}"}]})
        else:
            rows.append(chat(rng, turns=rng.randint(1, 3)))
    return [row if isinstance(row, bytes) else json.dumps(row, ensure_ascii=False).encode() for row in rows]


def write_rows(path: Path, rows: list[bytes]) -> Path:
    path.write_bytes(b"\n".join(rows) + b"\n")
    return path

"""What the rows of `layout_cases.py` are made of.

Q is a question, A its answer, B a worse one, S a system message, C a context, R reasoning.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Q, A, B, S, C, R = "How many ducks?", "Three ducks swim.", "No idea.", "Be brief.", "A pond.", "I count them."
Q2, A2 = "And geese?", "None at all."
TOOL = {
    "type": "function",
    "function": {"name": "count", "parameters": {"type": "object", "required": ["pond"]}},
}
BARE = TOOL["function"]
CALL = {"type": "function", "function": {"name": "count", "arguments": {"pond": 1}}}


@dataclass(frozen=True)
class Case:
    """`documents`: of each a list of (role, content), further things by their name."""

    name: str
    row: dict[str, Any]
    documents: list[list[tuple[str, str | None]]]
    more: dict[str, Any] = field(default_factory=dict)
    """`tools`, `reasoning`, `calls`, `arguments` of the first document, `dropped` of all."""
    refused: str = ""
    """Part of the hint, for a layout that is read only when asked to, as `way` says."""
    way: dict[str, Any] = field(default_factory=dict)


def turns(*texts: str, system: str = "") -> list[tuple[str, str]]:
    before = [("system", system)] if system else []
    return before + [("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]


def msgs(*texts: str, system: str = "") -> list[dict[str, str]]:
    return [{"role": role, "content": text} for role, text in turns(*texts, system=system)]


def share(*texts: str, roles: tuple[str, str] = ("human", "gpt")) -> list[dict[str, str]]:
    return [{"from": roles[i % 2], "value": text} for i, text in enumerate(texts)]


def valued(*texts: str, system: str = "") -> list[dict[str, Any]]:
    return [
        {
            "role": role,
            "content": [{"type": "text", "value": text}],
            "loss_weight": float(role == "assistant"),
        }
        for role, text in turns(*texts, system=system)
    ]


def output_text(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": []}


QA, PAIR = [turns(Q, A)], [turns(Q, A), turns(Q, B)]
SQA, SPAIR = [turns(Q, A, system=S)], [turns(Q, A, system=S), turns(Q, B, system=S)]
CQA = [turns(f"{Q}\n{C}", A)]
TURNS4 = [turns(Q, A, Q2, A2)]

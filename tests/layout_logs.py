"""Cases of `layout_cases.py`: chats as services log and export them, a history beside the newest question."""

from __future__ import annotations

from typing import Any

from layout_words import A2, BARE, PAIR, Q2, QA, SQA, TURNS4, A, B, Case, Q, R, S, msgs, turns


def _exported(role: str, text: Any, **more: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": [text]} if isinstance(text, str) else text
    return {"author": {"role": role, "name": None}, "content": content, "recipient": "all", **more}


def _part(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": {"type": "text", "text": text}}


def _tree(*messages: dict[str, Any] | None, aside: dict[str, Any] | None = None) -> dict[str, Any]:
    """Nodes one after another; `aside` answers the first question as well."""
    names = [f"n{i}" for i in range(len(messages))]
    nodes = {
        name: {
            "message": message,
            "parent": names[i - 1] if i else None,
            "children": names[i + 1 : i + 2],
        }
        for i, (name, message) in enumerate(zip(names, messages, strict=True))
    }
    if aside:
        nodes["aside"] = {"message": aside, "parent": names[2], "children": []}
        nodes[names[2]]["children"].append("aside")
    return nodes


def _cohere(*texts: str) -> list[dict[str, str]]:
    return [{"role": "CHATBOT" if i % 2 else "USER", "message": text} for i, text in enumerate(texts)]


_HIDDEN = _exported("system", "", weight=0.0)
_EXPORTED = [
    _exported("user", Q),
    _exported("assistant", A),
    _exported("user", Q2),
    _exported("assistant", A2),
]
_CALLED = {"role": "assistant", "content": "", "tool_calls": [{"function": BARE | {"arguments": "{}"}}]}

LOGS = [
    Case(
        "ChatGPT export",
        {
            "title": "Ducks",
            "mapping": _tree(None, _HIDDEN, *_EXPORTED, aside=_exported("assistant", B)),
            "current_node": "n5",
        },
        TURNS4,
    ),
    Case(
        "ChatGPT export with reasoning and what the user told of himself",
        {
            "mapping": _tree(
                _HIDDEN,
                _exported("user", {"content_type": "user_editable_context", "user_instructions": S}),
                _exported("user", Q),
                _exported("assistant", {"content_type": "thoughts", "thoughts": [{"content": R}]}),
                _exported("assistant", {"content_type": "reasoning_recap", "content": "Thought for 2 s"}),
                _exported("assistant", A),
            )
        },
        SQA,
        {"reasoning": R},
    ),
    Case("ChatGPT messages", {"messages": _EXPORTED}, TURNS4),
    Case(
        "Claude export",
        {
            "name": "Ducks",
            "chat_messages": [
                {"uuid": "a", "sender": "human", "text": Q, "content": [{"type": "text", "text": Q}]},
                {"uuid": "b", "sender": "assistant", "text": A, "content": [{"type": "text", "text": A}]},
            ],
        },
        QA,
    ),
    Case(
        "Open WebUI export",
        {"title": "Ducks", "chat": {"models": ["m"], "history": {"currentId": "2"}, "messages": msgs(Q, A)}},
        QA,
    ),
    Case("One key a turn", {"conversations": [{"user": Q}, {"assistant": A}]}, QA),
    Case("Contents in objects", {"messages": [_part(role, text) for role, text in turns(Q, A)]}, QA),
    Case("Texts in body", {"messages": [{"role": role, "body": text} for role, text in turns(Q, A)]}, QA),
    Case(
        "Authors in objects",
        {"messages": [{"author": {"role": r}, "content": t} for r, t in turns(Q, A)]},
        QA,
    ),
    Case("Authors", {"messages": [{"author": r, "content": t} for r, t in turns(Q, A)]}, QA),
    Case("LangChain", {"messages": [{"type": "human", "content": Q}, {"type": "ai", "content": A}]}, QA),
    Case(
        "Cohere chat, its first API",
        {"preamble": S, "chat_history": _cohere(Q, A), "message": Q2, "text": A2, "generation_id": "g"},
        [turns(Q, A, Q2, A2, system=S)],
    ),
    Case(
        "Cohere chat with the newest turns in its history too",
        {"chat_history": _cohere(Q, A, Q2, A2), "message": Q2, "text": A2},
        TURNS4,
    ),
    Case("Cohere history", {"chat_history": _cohere(Q, A, Q2, A2)}, TURNS4),
    Case("Cohere history and its answer", {"chat_history": _cohere(Q, A, Q2), "response": A2}, TURNS4),
    Case("A history of messages", {"chat_history": msgs(Q, A), "question": Q2, "answer": A2}, TURNS4),
    Case("A history of pairs", {"chat_history": [[Q, A]], "question": Q2, "answer": A2}, TURNS4),
    Case(
        "A history with calls",
        {
            "history": [*msgs(Q), _CALLED, {"role": "tool", "content": "3"}, *msgs(Q, A)[1:]],
            "instruction": Q2,
            "output": A2,
        },
        [[("user", Q), ("assistant", ""), ("tool", "3"), *turns(Q, A, Q2, A2)[1:]]],
        {"calls": [{"type": "function", "function": {"name": "count", "arguments": "{}"}}]},
    ),
    Case(
        "A history before pairs",
        {"chat_history": msgs(Q, A), "question": Q2, "chosen": A2, "rejected": B},
        [turns(Q, A, Q2, A2), turns(Q, A, Q2, B)],
    ),
    Case("Pairs after a history", {"chat_history": msgs(Q), "chosen": A, "rejected": B}, PAIR),
    Case(
        "Channels in columns",
        {"reasoning_language": "French", "developer": S, "user": Q, "analysis": R, "final": A},
        SQA,
        {"reasoning": R},
    ),
]

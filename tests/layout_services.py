"""Cases of `layout_cases.py`: chats whose tools, thoughts and refusals have a form of their own."""

from __future__ import annotations

from typing import Any

from layout_words import CALL, QA, SQA, TOOL, A, Case, Q, R, S, msgs

_TEXT_CALL = {"type": "function", "function": {"name": "count", "arguments": '{"pond": 1}'}}
_CALLED = [[("user", Q), ("assistant", ""), ("tool", "3"), ("assistant", A)]]


def _text(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"type": "text", "text": text}]}


def _said(channel: str, content: str, **more: str) -> dict[str, str]:
    return {"role": "assistant", "channel": channel, "content": content, **more}


SERVICES = [
    Case(
        "gpt-oss channels",
        {"messages": [*msgs(Q, system=S), _said("analysis", R), _said("final", A)]},
        SQA,
        {"reasoning": R},
    ),
    Case(
        "gpt-oss channels with calls",
        {
            "messages": [
                *msgs(Q),
                _said("analysis", R),
                _said("commentary", '{"pond": 1}', recipient="functions.count", content_type="json"),
                {"role": "tool", "name": "functions.count", "recipient": "assistant", "content": "3"},
                _said("final", A),
            ],
            "tools": [TOOL],
        },
        _CALLED,
        {"reasoning": R, "tools": [TOOL], "calls": [_TEXT_CALL]},
    ),
    Case(
        "Multilingual-Thinking",
        {
            "reasoning_language": "French",
            "developer": S,
            "user": Q,
            "analysis": R,
            "final": A,
            "messages": [*msgs(Q, system=S), {"role": "assistant", "content": A, "thinking": R}],
        },
        SQA,
    ),
    Case(
        "Cohere chat with tools, its first API",
        {
            "messages": [
                {"role": "USER", "message": Q},
                {"role": "CHATBOT", "tool_calls": [{"name": "count", "parameters": {"pond": 1}}]},
                {"role": "TOOL", "tool_results": [{"call": {"name": "count"}, "outputs": [{"ducks": 3}]}]},
                {"role": "CHATBOT", "message": A},
            ],
            "tools": [
                {"name": "count", "parameter_definitions": {"pond": {"type": "int", "required": True}}}
            ],
        },
        [[("user", Q), ("assistant", None), ("tool", '[{"ducks": 3}]'), ("assistant", A)]],
        {
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "count",
                        "parameters": {
                            "type": "object",
                            "properties": {"pond": {"type": "integer"}},
                            "required": ["pond"],
                        },
                    },
                }
            ],
            "calls": [CALL],
        },
    ),
    Case(
        "Cohere chat with tools",
        {
            "messages": [
                _text("user", Q),
                {"role": "assistant", "tool_plan": R, "tool_calls": [{"id": "t1", **_TEXT_CALL}]},
                {
                    "role": "tool",
                    "tool_call_id": "t1",
                    "content": [{"type": "document", "document": {"data": "3"}}],
                },
                _text("assistant", A),
            ]
        },
        [[("user", Q), ("assistant", None), ("tool", "3"), ("assistant", A)]],
        {"reasoning": R, "calls": [{"id": "t1", **_TEXT_CALL}]},
    ),
    Case(
        "Anthropic messages, a tool of the service",
        {
            "messages": [
                _text("user", Q),
                {
                    "role": "assistant",
                    "content": [
                        {"type": "server_tool_use", "id": "t1", "name": "count", "input": {"pond": 1}},
                        {"type": "code_execution_tool_result", "tool_use_id": "t1", "content": "3"},
                        {"type": "text", "text": A},
                    ],
                },
            ]
        },
        _CALLED,
        {"calls": [{"id": "t1", **CALL}]},
    ),
    Case(
        "OpenAI chat, a refusal",
        {"messages": [*msgs(Q), {"role": "assistant", "content": None, "refusal": A}]},
        QA,
    ),
    Case(
        "OpenAI Responses, a refusal",
        {
            "input": [{"role": "user", "content": [{"type": "input_text", "text": Q}]}],
            "output": [
                {"type": "message", "role": "assistant", "content": [{"type": "refusal", "refusal": A}]}
            ],
        },
        QA,
    ),
]

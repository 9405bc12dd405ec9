"""Cases of `layout_cases.py`: chats as apps and libraries keep them."""

from __future__ import annotations

from layout_words import CALL, QA, SQA, A, Case, Q, R, S

_USED = {"toolCallId": "c1", "state": "output-available", "input": {"pond": 1}, "output": "3"}
_INVOKED = {"state": "result", "toolCallId": "c1", "toolName": "count", "args": {"pond": 1}, "result": "3"}
_ASKED = {"role": "user", "parts": [{"type": "text", "text": Q}]}
_READ = [[("user", Q), ("assistant", ""), ("tool", "3"), ("assistant", A)]]
_CALLS = {"calls": [{"id": "c1", **CALL}]}

APPS = [
    Case(
        "LM Studio",
        {
            "name": "Ducks",
            "messages": [
                {
                    "versions": [
                        {"type": "singleStep", "role": "user", "content": [{"type": "text", "text": "Old?"}]},
                        {"type": "singleStep", "role": "user", "content": [{"type": "text", "text": Q}]},
                    ],
                    "currentlySelected": 1,
                },
                {
                    "versions": [
                        {
                            "type": "multiStep",
                            "role": "assistant",
                            "steps": [
                                {
                                    "type": "contentBlock",
                                    "style": {"type": "thinking"},
                                    "content": [{"type": "text", "text": R}],
                                },
                                {"type": "contentBlock", "content": [{"type": "text", "text": A}]},
                                {"type": "debugInfoBlock", "debugInfo": "x"},
                            ],
                        }
                    ],
                    "currentlySelected": 0,
                },
            ],
        },
        QA,
        {"reasoning": R},
    ),
    Case(
        "Google AI Studio",
        {
            "runSettings": {"temperature": 1.0},
            "systemInstruction": {"text": S},
            "chunkedPrompt": {
                "chunks": [
                    {"text": Q, "role": "user", "tokenCount": 4},
                    {"text": R, "role": "model", "isThought": True},
                    {"text": A, "role": "model", "finishReason": "STOP"},
                ]
            },
        },
        SQA,
        {"reasoning": R},
    ),
    Case(
        "Vercel's AI SDK, its page",
        {
            "messages": [
                _ASKED,
                {
                    "role": "assistant",
                    "parts": [
                        {"type": "step-start"},
                        {"type": "reasoning", "text": R},
                        {"type": "tool-count", **_USED},
                        {"type": "step-start"},
                        {"type": "text", "text": A, "state": "done"},
                    ],
                },
            ]
        },
        _READ,
        {**_CALLS, "reasoning": R},
    ),
    Case(
        "Vercel's AI SDK, its page, a dynamic tool",
        {
            "messages": [
                _ASKED,
                {
                    "role": "assistant",
                    "parts": [
                        {"type": "dynamic-tool", "toolName": "count", **_USED},
                        {"type": "text", "text": A},
                    ],
                },
            ]
        },
        _READ,
        _CALLS,
    ),
    Case(
        "Vercel's AI SDK, its fourth version",
        {
            "messages": [
                {"role": "user", "content": Q},
                {"role": "assistant", "content": A, "toolInvocations": [_INVOKED]},
            ]
        },
        _READ,
        _CALLS,
    ),
    Case(
        "Vercel's AI SDK, its fourth version with parts",
        {
            "messages": [
                {"role": "user", "content": Q, **_ASKED},
                {
                    "role": "assistant",
                    "content": A,
                    "toolInvocations": [_INVOKED],
                    "parts": [
                        {"type": "step-start"},
                        {"type": "tool-invocation", "toolInvocation": _INVOKED},
                        {"type": "text", "text": A},
                    ],
                },
            ]
        },
        _READ,
        _CALLS,
    ),
    Case(
        "LlamaIndex",
        {
            "messages": [
                {"role": "user", "blocks": [{"block_type": "text", "text": Q}]},
                {
                    "role": "assistant",
                    "additional_kwargs": {"tool_calls": [{"id": "c1", **CALL}]},
                    "blocks": [],
                },
                {
                    "role": "tool",
                    "additional_kwargs": {"tool_call_id": "c1", "name": "count"},
                    "blocks": [{"block_type": "text", "text": "3"}],
                },
                {"role": "assistant", "blocks": [{"block_type": "text", "text": A}]},
            ]
        },
        _READ,
        _CALLS,
    ),
    Case(
        "AutoGen",
        {
            "messages": [
                {"source": "user", "type": "TextMessage", "content": Q},
                {"source": "assistant", "type": "TextMessage", "content": A},
            ]
        },
        QA,
    ),
    Case(
        "Gemini CLI",
        {
            "sessionId": "s",
            "messages": [
                {"id": "1", "type": "info", "content": "Welcome."},
                {"id": "2", "type": "user", "content": Q},
                {
                    "id": "3",
                    "type": "gemini",
                    "content": "",
                    "thoughts": [{"subject": "Counting", "description": R}],
                    "toolCalls": [
                        {
                            "id": "c1",
                            "name": "count",
                            "args": {"pond": 1},
                            "result": [{"functionResponse": {"id": "c1", "response": {"output": "3"}}}],
                        }
                    ],
                },
                {"id": "4", "type": "gemini", "content": A, "thoughts": [], "toolCalls": []},
            ],
        },
        _READ,
        {**_CALLS, "reasoning": f"Counting\n{R}"},
    ),
    Case(
        "Texts in two fields",
        {
            "messages": [
                {"role": "system", "system_prompt": S, "text": ""},
                {"role": "user", "system_prompt": "", "text": Q},
                {"role": "ai", "system_prompt": "", "text": A},
            ]
        },
        SQA,
    ),
    Case(
        "PIPPA",
        {
            "bot_name": "Pond",
            "conversation": [{"message": Q, "is_human": True}, {"message": A, "is_human": False}],
        },
        QA,
    ),
    Case(
        "SillyTavern",
        {
            "messages": [
                {"name": "Ann", "is_user": True, "mes": Q},
                {"name": "Bot", "is_user": False, "mes": A},
            ]
        },
        QA,
    ),
]

"""Cases of `layout_cases.py`: requests and their responses, as logs of services hold them."""

from __future__ import annotations

import json
from typing import Any

from layout_words import (
    A2,
    BARE,
    CALL,
    PAIR,
    Q2,
    QA,
    SQA,
    TOOL,
    TURNS4,
    A,
    B,
    Case,
    Q,
    R,
    S,
    msgs,
    output_text,
)

_TOOLS = {"tools": [TOOL]}


def _answer(text: str = A) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _choices(*texts: str) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": i, "message": _answer(text)} for i, text in enumerate(texts)]}


def _langchain(kind: str, text: str) -> dict[str, Any]:
    """A message as LangSmith writes it."""
    name = ["langchain", "schema", "messages", f"{kind}Message"]
    return {"lc": 1, "type": "constructor", "id": name, "kwargs": {"content": text}}


def _said(role: str, text: str, **more: Any) -> list[dict[str, Any]]:
    return [{"role": role, "parts": [{"type": "text", "content": text}], **more}]


EXCHANGES = [
    Case(
        "OpenAI requests and responses, as a log holds them",
        {"request": {"messages": msgs(Q), "tools": [TOOL]}, "response": _choices(A)},
        QA,
        _TOOLS,
    ),
    Case(
        "Anthropic requests and responses",
        {
            "request": {"model": "m", "system": S, "messages": msgs(Q)},
            "response": {"type": "message", "role": "assistant", "content": [{"type": "text", "text": A}]},
        },
        SQA,
    ),
    Case(
        "Responses requests and responses",
        {
            "request": {"instructions": S, "input": msgs(Q), "tools": [{"type": "function", **BARE}]},
            "response": {"output": [{"type": "message", "role": "assistant", "content": [output_text(A)]}]},
        },
        SQA,
        _TOOLS,
    ),
    Case(
        "Gemini requests and responses",
        {
            "request": {
                "contents": [{"role": "user", "parts": [{"text": Q}]}],
                "systemInstruction": {"parts": [{"text": S}]},
                "tools": [{"functionDeclarations": [BARE]}],
            },
            "response": {"candidates": [{"content": {"role": "model", "parts": [{"text": A}]}}]},
        },
        SQA,
        _TOOLS,
    ),
    Case(
        "Bedrock's log",
        {
            "input": {
                "inputBodyJson": {
                    "system": [{"text": S}],
                    "messages": [{"role": "user", "content": [{"text": Q}]}],
                }
            },
            "output": {
                "outputBodyJson": {
                    "output": {"message": {"role": "assistant", "content": [{"text": A}]}},
                    "stopReason": "end_turn",
                }
            },
        },
        SQA,
    ),
    Case("OpenAI's stored completions", {"messages": msgs(Q), **_choices(A)}, QA),
    Case(
        "LiteLLM's log",
        {"model": "m", "messages": json.dumps(msgs(Q)), "response": json.dumps(_choices(A)), "spend": 0.1},
        QA,
    ),
    Case("Helicone's log", {"request_body": {"messages": msgs(Q)}, "response_body": _choices(A)}, QA),
    Case(
        "Ollama's requests and responses",
        {"request": {"messages": msgs(Q)}, "response": {"message": _answer(), "done": True}},
        QA,
    ),
    Case(
        "Langfuse's generations",
        {"id": "g", "input": {"messages": msgs(Q), "tools": [TOOL]}, "output": _answer()},
        QA,
        _TOOLS,
    ),
    Case(
        "Langfuse's generations, a text as answer",
        {"id": "g", "input": {"messages": msgs(Q), "tools": [TOOL]}, "output": A},
        QA,
        _TOOLS,
    ),
    Case(
        "LangSmith's runs",
        {
            "run_type": "llm",
            "inputs": {"messages": [[_langchain("System", S), _langchain("Human", Q)]]},
            "outputs": {"generations": [[{"text": A, "message": _langchain("AI", A)}]]},
        },
        SQA,
    ),
    Case(
        "LangSmith's examples",
        {
            "inputs": {"messages": [{"type": "human", "content": Q}]},
            "outputs": {"messages": [{"type": "ai", "content": A}]},
        },
        QA,
    ),
    Case("Braintrust's log", {"input": msgs(Q), "output": _choices(A)["choices"], "metadata": {"m": 1}}, QA),
    Case(
        "The state of a graph before and after a run",
        {
            "inputs": {"messages": [{"type": "human", "content": Q}]},
            "outputs": {"messages": [{"type": "human", "content": Q}, {"type": "ai", "content": A}]},
        },
        QA,
    ),
    Case(
        "OpenTelemetry's spans",
        {
            "gen_ai.input.messages": [
                {"role": "user", "parts": [{"type": "text", "content": Q}]},
                {
                    "role": "assistant",
                    "parts": [
                        {"type": "reasoning", "content": R},
                        {"type": "tool_call", "id": "t1", "name": "count", "arguments": {"pond": 1}},
                    ],
                },
                {"role": "tool", "parts": [{"type": "tool_call_response", "id": "t1", "result": "3"}]},
            ],
            "gen_ai.output.messages": [
                {"role": "assistant", "parts": [{"type": "text", "content": A}], "finish_reason": "stop"}
            ],
        },
        [[("user", Q), ("assistant", ""), ("tool", "3"), ("assistant", A)]],
        {"reasoning": R, "calls": [{"id": "t1", **CALL}]},
    ),
    Case(
        "OpenTelemetry's spans, their attributes as JSON",
        {
            "name": "chat",
            "attributes": {
                "gen_ai.system": "openai",
                "gen_ai.system_instructions": json.dumps([{"type": "text", "content": S}]),
                "gen_ai.tool.definitions": json.dumps([TOOL]),
                "gen_ai.input.messages": json.dumps(_said("user", Q)),
                "gen_ai.output.messages": json.dumps(_said("assistant", A, finish_reason="stop")),
            },
        },
        SQA,
        {"tools": [TOOL]},
    ),
    Case(
        "OpenTelemetry's spans, their attributes in a list",
        {
            "name": "chat",
            "attributes": [
                {"key": "gen_ai.input.messages", "value": {"stringValue": json.dumps(_said("user", Q))}},
                {
                    "key": "gen_ai.output.messages",
                    "value": {"stringValue": json.dumps(_said("assistant", A))},
                },
                {"key": "gen_ai.usage.input_tokens", "value": {"intValue": "4"}},
            ],
        },
        QA,
    ),
    Case(
        "OpenInference's spans",
        {
            "span_kind": "LLM",
            "attributes": {
                "llm.tools": [{"tool.json_schema": json.dumps(TOOL)}],
                "llm.input_messages": [
                    {"message.role": "system", "message.content": S},
                    {
                        "message.role": "user",
                        "message.contents": [{"message_content.type": "text", "message_content.text": Q}],
                    },
                ],
                "llm.output_messages": [
                    {
                        "message.role": "assistant",
                        "message.tool_calls": [
                            {
                                "tool_call.id": "t1",
                                "tool_call.function.name": "count",
                                "tool_call.function.arguments": '{"pond": 1}',
                            }
                        ],
                    }
                ],
            },
        },
        [[("system", S), ("user", Q), ("assistant", "")]],
        {
            "tools": [TOOL],
            "calls": [
                {"id": "t1", "type": "function", "function": {"name": "count", "arguments": '{"pond": 1}'}}
            ],
        },
    ),
    Case(
        "Phoenix' spans",
        {
            "attributes.llm.input_messages": [{"message.role": "user", "message.content": Q}],
            "attributes.llm.output_messages": [{"message.role": "assistant", "message.content": A}],
            "attributes.input.value": json.dumps({"messages": msgs(Q)}),
        },
        QA,
    ),
    Case(
        "OpenInference's spans, numbered",
        {
            "name": "x",
            "attributes": {
                **{f"llm.input_messages.0.message.{key}": value for key, value in msgs(Q)[0].items()},
                "llm.output_messages.0.message.role": "assistant",
                "llm.output_messages.0.message.content": A,
            },
        },
        QA,
    ),
    Case(
        "OpenLLMetry's spans",
        {
            "name": "openai.chat",
            "gen_ai.system": "OpenAI",
            **{f"gen_ai.prompt.{i}.{key}": v for i, m in enumerate(msgs(Q, A, Q2)) for key, v in m.items()},
            "gen_ai.prompt.3.content": None,
            "gen_ai.completion.0.role": "assistant",
            "gen_ai.completion.0.content": A2,
            "gen_ai.completion.0.finish_reason": "stop",
        },
        TURNS4,
    ),
]

EXCHANGES_ASKED = [
    Case(
        "Vertex preference",
        {
            "contents": [{"role": "user", "parts": [{"text": Q}]}],
            "completions": [
                {"score": score, "completion": {"role": "model", "parts": [{"text": text}]}}
                for score, text in ((0.0, B), (1.0, A))
            ],
        },
        PAIR,
        {},
        "--format ranked",
        {"format": "ranked"},
    ),
    Case(
        "Requests whose messages hold the answer",
        {"request": {"messages": msgs(Q, A), "tools": [TOOL]}},
        QA,
        _TOOLS,
        "--map messages=request.messages,tools=request.tools",
        {"map": {"messages": "request.messages", "tools": "request.tools"}},
    ),
    Case(
        "Requests with a text",
        {"request": {"input": Q}, "response": {"output": [{**_answer(), "type": "message"}]}},
        QA,
        {},
        "completion=response.output",
        {"map": {"prompt": "request.input", "completion": "response.output"}},
    ),
]

"""Cases of `layout_cases.py`: requests and their responses, as logs of services hold them."""

from __future__ import annotations

import json
from typing import Any

from layout_words import BARE, CALL, PAIR, QA, SQA, TOOL, A, B, Case, Q, R, S, msgs, output_text

_TOOLS = {"tools": [TOOL]}


def _answer(text: str = A) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


def _choices(*texts: str) -> dict[str, Any]:
    return {"id": "c", "choices": [{"index": i, "message": _answer(text)} for i, text in enumerate(texts)]}


def _langchain(kind: str, text: str) -> dict[str, Any]:
    """A message as LangSmith writes it."""
    name = ["langchain", "schema", "messages", f"{kind}Message"]
    return {"lc": 1, "type": "constructor", "id": name, "kwargs": {"content": text}}


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

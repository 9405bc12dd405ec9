"""Cases of `layout_cases.py`: chats."""

from __future__ import annotations

import json

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
    share,
    turns,
    valued,
)

CHATS = [
    Case("OpenAI chat", {"messages": msgs(Q, A, system=S)}, SQA),
    Case(
        "OpenAI chat with tools",
        {
            "messages": [
                *msgs(Q),
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "tool", "content": "3"},
                *msgs(Q, A)[1:],
            ],
            "tools": [TOOL],
        },
        [[("user", Q), ("assistant", ""), ("tool", "3"), ("assistant", A)]],
        {"tools": [TOOL], "calls": [CALL]},
    ),
    Case("Mistral, Together, Fireworks chat", {"messages": msgs(Q, A, Q2, A2)}, TURNS4),
    Case(
        "Anthropic messages",
        {
            "system": S,
            "tools": [{"name": "count", "input_schema": BARE["parameters"]}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": Q}]},
                {
                    "role": "assistant",
                    "content": [
                        {"type": "text", "text": "Wait."},
                        {"type": "tool_use", "id": "t1", "name": "count", "input": {"pond": 1}},
                    ],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "3"}]},
                {"role": "assistant", "content": [{"type": "text", "text": A}]},
            ],
        },
        [[("system", S), ("user", Q), ("assistant", "Wait."), ("tool", "3"), ("assistant", A)]],
        {"tools": [TOOL], "calls": [{"id": "t1", **CALL}]},
    ),
    Case(
        "OpenAI Responses",
        {
            "instructions": S,
            "input": [{"role": "user", "content": [{"type": "input_text", "text": Q}]}],
            "output": [
                {"id": "m1", "type": "message", "role": "assistant", "content": [output_text(A)]},
            ],
        },
        SQA,
    ),
    Case(
        "OpenAI Responses with calls",
        {
            "input": [
                {"role": "user", "content": Q},
                {"type": "reasoning", "summary": [{"type": "summary_text", "text": R}]},
                {"type": "function_call", "call_id": "t1", "name": "count", "arguments": '{"pond": 1}'},
                {"type": "function_call_output", "call_id": "t1", "output": "3"},
            ],
            "output": [{"type": "message", "role": "assistant", "content": [output_text(A)]}],
            "tools": [{"type": "function", **BARE, "strict": True}],
        },
        [[("user", Q), ("assistant", ""), ("tool", "3"), ("assistant", A)]],
        {
            "reasoning": R,
            "tools": [TOOL],
            "calls": [
                {
                    "id": "t1",
                    "type": "function",
                    "function": {"name": "count", "arguments": '{"pond": 1}'},
                }
            ],
        },
    ),
    Case(
        "Gemini, Vertex",
        {
            "systemInstruction": {"role": "system", "parts": [{"text": S}]},
            "contents": [
                {"role": "user", "parts": [{"text": Q}]},
                {"role": "model", "parts": [{"text": A}]},
            ],
        },
        SQA,
    ),
    Case(
        "Gemini with tools",
        {
            "contents": [
                {"role": "user", "parts": [{"text": Q}]},
                {"role": "model", "parts": [{"functionCall": {"name": "count", "args": {"pond": 1}}}]},
                {"role": "user", "parts": [{"functionResponse": {"name": "count", "response": {"n": 3}}}]},
                {"role": "model", "parts": [{"text": A}]},
            ],
            "tools": [{"functionDeclarations": [BARE]}],
        },
        [[("user", Q), ("assistant", ""), ("tool", '{"n": 3}'), ("assistant", A)]],
        {"tools": [TOOL], "calls": [CALL]},
    ),
    Case("LLaMA-Factory v1", {"messages": valued(Q, A, system=S)}, SQA),
    Case(
        "LLaMA-Factory v1 with calls",
        {
            "messages": [
                *valued(Q),
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "value": R},
                        {
                            "type": "tool_call",
                            "value": json.dumps({"name": "count", "arguments": {"pond": 1}}),
                        },
                    ],
                },
                {"role": "tool", "content": [{"type": "text", "value": "3"}]},
                *valued(Q, A)[1:],
            ],
        },
        [[("user", Q), ("assistant", ""), ("tool", "3"), ("assistant", A)]],
        {"reasoning": R, "calls": [CALL]},
    ),
    Case(
        "LLaMA-Factory v1, pairs",
        {"chosen_messages": valued(Q, A), "rejected_messages": valued(Q, B)},
        PAIR,
    ),
    Case("Gemini API tuning", {"text_input": Q, "output": A}, QA),
    Case("Vertex PaLM text", {"input_text": Q, "output_text": A}, QA),
    Case(
        "Vertex PaLM chat",
        {"context": S, "messages": [{"author": "user", "content": Q}, {"author": "assistant", "content": A}]},
        SQA,
    ),
    Case(
        "Bedrock Converse",
        {
            "schemaVersion": "bedrock-conversation-2024",
            "system": [{"text": S}],
            "messages": [
                {"role": "user", "content": [{"text": Q}]},
                {"role": "assistant", "content": [{"text": A}]},
            ],
        },
        SQA,
    ),
    Case(
        "Bedrock Converse with tools",
        {
            "messages": [
                {"role": "user", "content": [{"text": Q}]},
                {
                    "role": "assistant",
                    "content": [{"toolUse": {"toolUseId": "t1", "name": "count", "input": {"pond": 1}}}],
                },
                {
                    "role": "user",
                    "content": [{"toolResult": {"toolUseId": "t1", "content": [{"text": "3"}]}}],
                },
                {"role": "assistant", "content": [{"text": A}]},
            ],
            "toolConfig": {
                "tools": [{"toolSpec": {"name": "count", "inputSchema": {"json": BARE["parameters"]}}}]
            },
        },
        [[("user", Q), ("assistant", ""), ("tool", "3"), ("assistant", A)]],
        {"tools": [TOOL], "calls": [{"id": "t1", **CALL}]},
    ),
    Case("Bedrock, Cohere, Together prompts", {"prompt": Q, "completion": A}, QA),
    Case("OpenHermes 2.5", {"conversations": share(Q, A), "system_prompt": S, "id": "x", "views": 3}, SQA),
    Case(
        "SlimOrca",
        {
            "conversations": [
                {"from": "system", "value": S, "weight": None},
                {"from": "human", "value": Q, "weight": 0.0},
                {"from": "gpt", "value": A, "weight": 1.0},
            ]
        },
        SQA,
    ),
    Case("UltraChat 200k", {"prompt": Q, "prompt_id": "x", "messages": msgs(Q, A, Q2, A2)}, TURNS4),
    Case("No Robots", {"prompt": Q, "prompt_id": "x", "messages": msgs(Q, A), "category": "QA"}, QA),
    Case("Tulu 3 SFT", {"id": "x", "messages": msgs(Q, A), "source": "made up"}, QA),
    Case("smoltalk", {"messages": msgs(Q, A), "source": "made up"}, QA),
    Case(
        "smoltalk2",
        {
            "messages": msgs(Q, A),
            "chat_template_kwargs": {"custom_instructions": "Quack.", "enable_thinking": False},
            "source": "made up",
        },
        QA,
        {"arguments": {"custom_instructions": "Quack.", "enable_thinking": False}},
    ),
    Case(
        "Template arguments in columns",
        {"messages": msgs(Q, A), "custom_instructions": "Quack."},
        QA,
        {
            "arguments": {"custom_instructions": "Quack."},
        },
    ),
    Case(
        "WildChat",
        {
            "conversation_hash": "h",
            "model": "m",
            "conversation": [
                {**message, "country": "X", "timestamp": "2024-01-02T03:04:05", "toxic": False}
                for message in msgs(Q, A)
            ],
            "turn": 1,
            "language": "English",
        },
        QA,
    ),
    Case(
        "LMSYS-Chat-1M",
        {
            "conversation_id": "c",
            "model": "m",
            "conversation": msgs(Q, A),
            "turn": 1,
            "redacted": False,
        },
        QA,
    ),
    Case(
        "Capybara",
        {
            "source": "x",
            "conversation": [
                {"input": Q, "output": A},
                {"input": Q2, "output": A2},
            ],
        },
        TURNS4,
    ),
    Case(
        "ShareGPT-Chinese",
        {
            "conversation_id": "1",
            "conversation": [
                {"human": Q, "assistant": A},
                {"human": Q2, "assistant": A2},
            ],
        },
        TURNS4,
    ),
    Case("BELLE 3.5M", {"id": "1", "conversations": share(Q, A, roles=("human", "assistant"))}, QA),
    Case("LIMA", {"conversations": [Q, A], "source": "x"}, QA),
    Case(
        "Bespoke-Stratos, OpenThoughts",
        {
            "system": S,
            "conversations": share(Q, A, roles=("user", "assistant")),
        },
        SQA,
    ),
    Case("Chats of from and value in messages", {"messages": share(Q, A)}, QA),
    Case("Chats as JSON text", {"messages": json.dumps(msgs(Q, A))}, QA),
    Case(
        "Hermes function calling",
        {
            "id": "x",
            "conversations": [
                {"from": "system", "value": f"<tools> {json.dumps([TOOL])} </tools>"},
                *share(Q, A),
            ],
            "tools": json.dumps([TOOL]),
        },
        [[("system", f"<tools> {json.dumps([TOOL])} </tools>"), *turns(Q, A)]],
    ),
    Case("ToolACE", {"system": S, "conversations": share(Q, A, roles=("user", "assistant"))}, SQA),
    Case(
        "Nemotron post-training",
        {
            "uuid": "u",
            "reasoning": "on",
            "messages": msgs(Q, A),
            "metadata": json.dumps({"tools": [TOOL]}),
        },
        QA,
        {"tools": [TOOL]},
    ),
    Case(
        "xLAM, APIGen",
        {
            "id": 0,
            "query": Q,
            "answers": json.dumps([CALL["function"]]),
            "tools": json.dumps([BARE]),
        },
        [turns(Q, "")],
        {"tools": [TOOL], "calls": [CALL]},
    ),
]

CHATS += [
    Case(
        "Cohere chat",
        {
            "messages": [
                {"role": "System", "content": S},
                {"role": "User", "content": Q},
                {"role": "Chatbot", "content": A},
            ]
        },
        SQA,
    ),
    Case("Roles in capitals", {"conversations": share(Q, A, roles=("User", "Assistant"))}, QA),
    Case("Developer messages", {"messages": [{"role": "developer", "content": S}, *msgs(Q, A)]}, SQA),
    Case(
        "OpenAI functions, the older form",
        {
            "messages": [
                *msgs(Q),
                {"role": "assistant", "content": None, "function_call": CALL["function"]},
                {"role": "function", "name": "count", "content": "3"},
                *msgs(Q, A)[1:],
            ],
            "functions": [BARE],
        },
        [[("user", Q), ("assistant", None), ("tool", "3"), ("assistant", A)]],
        {"tools": [TOOL], "calls": [CALL]},
    ),
    Case(
        "APIGen-MT, LLaMA-Factory tools",
        {
            "system": S,
            "tools": json.dumps([TOOL]),
            "conversations": [
                *share(Q),
                {"from": "function_call", "value": json.dumps(CALL["function"])},
                {"from": "observation", "value": "3"},
                *share(Q, A)[1:],
            ],
        },
        [[("system", S), ("user", Q), ("assistant", ""), ("tool", "3"), ("assistant", A)]],
        {
            "tools": [TOOL],
            "calls": [CALL],
        },
    ),
    Case("XTuner", {"conversation": [{"system": S, "input": Q, "output": A}]}, SQA),
    Case("Dolphin-R1", {"messages": msgs(Q), "reasoning": R, "answer": A}, QA, {"reasoning": R}),
    Case(
        "Guanaco, as plain text",
        {"text": f"### Human: {Q}### Assistant: {A}"},
        [
            [("text", f"### Human: {Q}### Assistant: {A}")],
        ],
    ),
]

"""Made-up rows in the layouts of public sets and services, and the documents that they are.

`docs/make_layout_table.py` writes them into docs/input-formats.md, `test_layouts.py` reads each as JSONL and
as Parquet. Q is a question, A its answer, B a worse one, S a system message, C a context, R reasoning.
"""

from __future__ import annotations

import json
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

ANSWERS = [
    Case("Alpaca", {"instruction": Q, "input": C, "output": A}, CQA),
    Case(
        "Alpaca with the prompt written out",
        {
            "instruction": Q,
            "input": "",
            "output": A,
            "prompt": f"### Instruction:\n{Q}\n### Response:\n{A}",
        },
        QA,
    ),
    Case(
        "Alpaca with system and tools",
        {
            "instruction": Q,
            "input": "",
            "output": A,
            "system": S,
            "tools": json.dumps([TOOL]),
        },
        SQA,
        {"tools": [TOOL]},
    ),
    Case(
        "Alpaca with history",
        {
            "instruction": Q2,
            "input": "",
            "output": A2,
            "history": [[Q, A]],
        },
        TURNS4,
    ),
    Case("Alpaca with reasoning", {"instruction": Q, "reasoning": R, "output": A}, QA, {"reasoning": R}),
    Case("Dolly", {"instruction": Q, "context": C, "response": A, "category": "closed_qa"}, CQA),
    Case("GPTeacher", {"instruction": Q, "input": "", "response": A}, QA),
    Case("Evol-Instruct, CodeAlpaca", {"instruction": Q, "output": A}, QA),
    Case("Magicoder OSS-Instruct", {"lang": "python", "index": 3, "problem": Q, "solution": A}, QA),
    Case("OpenOrca", {"id": "x", "system_prompt": S, "question": Q, "response": A}, SQA),
    Case("MetaMath", {"type": "GSM", "query": Q, "original_question": "?", "response": A}, QA),
    Case("GSM8K, Orca-Math", {"question": Q, "answer": A}, QA),
    Case("NuminaMath 1.5", {"problem": Q, "solution": A, "answer": "3", "problem_type": "x"}, QA),
    Case("LIMO", {"question": Q, "solution": A, "answer": "3"}, QA),
    Case("OpenMathInstruct", {"problem": Q, "generated_solution": A, "expected_answer": "3"}, QA),
    Case("OpenR1-Math", {"problem": Q, "solution": B, "messages": msgs(Q, A), "generations": [A]}, QA),
    Case("CodeFeedback", {"query": Q, "answer": A, "lang": "python"}, QA),
    Case("SQL create context", {"question": Q, "context": C, "answer": A}, CQA),
    Case(
        "Llama-Nemotron",
        {
            "input": msgs(Q),
            "output": A,
            "reasoning": "on",
            "system_prompt": S,
            "category": "math",
        },
        SQA,
    ),
    Case("medical-o1", {"Question": Q, "Complex_CoT": R, "Response": A}, QA, {"reasoning": R}),
    Case(
        "s1K",
        {
            "question": Q,
            "solution": B,
            "attempt": A,
            "thinking_trajectories": [R],
            "source_type": "x",
        },
        QA,
        {"reasoning": R},
    ),
    Case(
        "s1K-1.1",
        {
            "question": Q,
            "solution": B,
            "deepseek_thinking_trajectory": R,
            "deepseek_attempt": A,
            "gemini_attempt": B,
        },
        QA,
        {"reasoning": R},
    ),
    Case(
        "OpenThoughts metadata",
        {
            "problem": Q,
            "deepseek_reasoning": R,
            "deepseek_solution": A,
            "ground_truth_solution": B,
        },
        QA,
        {"reasoning": R},
    ),
    Case("CoT Collection", {"source": Q, "target": A, "rationale": R, "task": "x"}, QA, {"reasoning": R}),
    Case("FLAN, Aya, xP3", {"inputs": Q, "targets": A, "language": "English"}, QA),
    Case(
        "P3",
        {
            "inputs": [1, 2],
            "inputs_pretokenized": Q,
            "targets": [3],
            "targets_pretokenized": A,
        },
        QA,
    ),
    Case("Natural Instructions", {"definition": Q, "inputs": C, "targets": A, "task_name": "x"}, CQA),
    Case("firefly", {"kind": "x", "input": Q, "target": A}, QA),
    Case("COIG, BELLE", {"instruction": Q, "input": "", "output": A, "domain": ["x"]}, QA),
    Case("Columns in capitals", {"INSTRUCTION": Q, "RESPONSE": A, "SOURCE": "x"}, QA),
    Case("HelpSteer", {"prompt": Q, "response": A, "helpfulness": 4, "correctness": 4}, QA),
    Case("TRL conversational", {"prompt": msgs(Q), "completion": msgs(Q, A)[1:]}, QA),
    Case(
        "TRL conversational with tools and system",
        {
            "system": S,
            "prompt": msgs(Q),
            "completion": msgs(Q, A)[1:],
            "tools": [TOOL],
        },
        SQA,
        {"tools": [TOOL]},
    ),
    Case("Messages and a text as answer", {"prompt": msgs(Q), "answer": A}, QA),
    Case(
        "Texts with tools", {"prompt": Q, "completion": A, "tools": json.dumps([TOOL])}, QA, {"tools": [TOOL]}
    ),
]

PAIRS = [
    Case(
        "UltraFeedback binarized",
        {
            "prompt": Q,
            "prompt_id": "x",
            "chosen": msgs(Q, A),
            "rejected": msgs(Q, B),
            "messages": msgs(Q, A),
            "score_chosen": 8.0,
            "score_rejected": 2.0,
        },
        PAIR,
    ),
    Case("Orca DPO pairs", {"system": S, "question": Q, "chosen": A, "rejected": B}, SPAIR),
    Case(
        "distilabel Orca pairs",
        {
            "system": S,
            "input": Q,
            "chosen": A,
            "rejected": B,
            "rating": [9.0, 3.0],
            "rationale": "r",
            "generations": [A, B],
        },
        SPAIR,
    ),
    Case(
        "HH-RLHF",
        {
            "chosen": f"\n\nHuman: {Q}\n\nAssistant: {A}",
            "rejected": f"\n\nHuman: {Q}\n\nAssistant: {B}",
        },
        PAIR,
    ),
    Case("RewardBench", {"prompt": Q, "chosen": A, "chosen_model": "m", "rejected": B, "subset": "x"}, PAIR),
    Case("UltraInteract pairs", {"trajectory": share(Q), "chosen": A, "rejected": B}, PAIR),
    Case(
        "OpenAI, Together, Fireworks preference",
        {
            "input": {"messages": msgs(Q), "tools": [TOOL], "parallel_tool_calls": True},
            "preferred_output": msgs(Q, A)[1:],
            "non_preferred_output": msgs(Q, B)[1:],
        },
        PAIR,
        {"tools": [TOOL]},
    ),
    Case(
        "LLaMA-Factory preference",
        {
            "conversations": share(Q),
            "chosen": share(Q, A)[1],
            "rejected": share(Q, B)[1],
        },
        PAIR,
    ),
    Case("ms-swift rejected_response", {"messages": msgs(Q, A), "rejected_response": B}, PAIR),
    Case("ms-swift rejected_messages", {"messages": msgs(Q, A), "rejected_messages": msgs(Q, B)}, PAIR),
    Case(
        "PKU-SafeRLHF",
        {
            "prompt": Q,
            "response_0": B,
            "response_1": A,
            "better_response_id": 1,
            "safer_response_id": 0,
        },
        PAIR,
    ),
    Case(
        "HelpSteer2 preference",
        {
            "prompt": Q,
            "response_1": B,
            "response_2": A,
            "preference_strength": 2,
        },
        PAIR,
    ),
    Case(
        "HelpSteer3",
        {
            "context": msgs(Q),
            "response1": A,
            "response2": B,
            "overall_preference": -2,
            "domain": "general",
        },
        PAIR,
    ),
    Case("AlpacaFarm", {"instruction": Q, "input": "", "output_1": B, "output_2": A, "preference": 2}, PAIR),
    Case(
        "SHP",
        {
            "history": Q,
            "human_ref_A": B,
            "human_ref_B": A,
            "labels": 0,
            "score_A": 3,
            "score_B": 9,
        },
        PAIR,
    ),
    Case(
        "WebGPT comparisons",
        {
            "question": {"full_text": Q, "id": "x"},
            "answer_0": B,
            "answer_1": A,
            "score_0": -1.0,
            "score_1": 1.0,
        },
        PAIR,
    ),
    Case("StackExchange paired", {"qid": 1, "question": Q, "response_j": A, "response_k": B}, PAIR),
    Case(
        "Chatbot Arena",
        {
            "conversation_a": msgs(Q, B),
            "conversation_b": msgs(Q, A),
            "winner": "model_b",
            "model_a": "x",
        },
        PAIR,
    ),
    Case(
        "Chatbot Arena, a tie",
        {
            "conversation_a": msgs(Q, B),
            "conversation_b": msgs(Q, A),
            "winner": "tie (bothbad)",
        },
        [turns(Q, B), turns(Q, A)],
        {"dropped": "tied_pair"},
    ),
    Case(
        "Arena 55k",
        {
            "prompt": json.dumps([Q, Q2]),
            "response_a": json.dumps([B, A2]),
            "response_b": json.dumps([A, A2]),
            "winner_model_a": 0,
            "winner_model_b": 1,
            "winner_tie": 0,
        },
        [turns(Q, A, Q2, A2), turns(Q, B, Q2, A2)],
    ),
]

ASKED = [
    Case(
        "KTO texts",
        {"prompt": Q, "completion": B, "label": False},
        [turns(Q, B)],
        {
            "dropped": "labelled_bad",
        },
        "--map label=label",
        {"map": {"label": "label"}},
    ),
    Case(
        "KTO chats",
        {"conversations": share(Q, B), "kto_tag": False},
        [turns(Q, B)],
        {
            "dropped": "labelled_bad",
        },
        "--map label=kto_tag",
        {"map": {"label": "kto_tag"}},
    ),
    Case(
        "UltraFeedback",
        {
            "instruction": Q,
            "models": ["m", "n"],
            "completions": [{"response": B, "overall_score": 2.0}, {"response": A, "overall_score": 9.0}],
        },
        PAIR,
        {},
        "--format ranked",
        {"format": "ranked"},
    ),
    Case(
        "Nectar",
        {
            "prompt": f"\n\nHuman: {Q}\n\nAssistant: ",
            "answers": [{"answer": B, "rank": 7.0}, {"answer": A, "rank": 1.0}],
        },
        PAIR,
        {},
        "--format ranked",
        {"format": "ranked"},
    ),
    Case(
        "UltraChat",
        {"id": "0", "data": [Q, A, Q2, A2]},
        TURNS4,
        {},
        "--map messages=data",
        {
            "map": {"messages": "data"},
        },
    ),
    Case(
        "MOSS",
        {
            "meta_instruction": S,
            "num_turns": 1,
            "chat": {
                "turn_1": {
                    "Human": f"<|Human|>: {Q}<eoh>\n",
                    "Inner Thoughts": "<|Inner Thoughts|>: None<eot>\n",
                    "MOSS": f"<|MOSS|>: {A}<eom>\n",
                }
            },
        },
        SQA,
        {},
        "--map messages=chat",
        {"map": {"messages": "chat"}},
    ),
    Case(
        "glaive v2",
        {"system": S, "chat": f"USER: {Q}\n\n\nASSISTANT: {A}\n\n\n"},
        SQA,
        {},
        "--map messages=chat",
        {"map": {"messages": "chat"}},
    ),
    Case(
        "glaive v1",
        {"sample": f"SYSTEM: {S}\nUSER: {Q}\nASSISTANT: {A}"},
        SQA,
        {},
        "--map messages=sample",
        {"map": {"messages": "sample"}},
    ),
    Case(
        "BELLE turns in one text",
        {
            "instruction": f"Human:{Q}\nAssistant:{A}\nHuman:{Q2}\nAssistant:",
            "input": "",
            "output": A2,
        },
        TURNS4,
        {},
        "--map messages=instruction,completion=output",
        {
            "map": {"messages": "instruction", "completion": "output"},
        },
    ),
    Case(
        "Math-Step-DPO",
        {
            "prompt": Q,
            "initial_reason_steps": "Step 1.",
            "chosen": "Step 2: good.",
            "rejected": "Step 2: bad.",
            "full_chosen": A,
            "full_rejected": B,
        },
        PAIR,
        {},
        "--map chosen=full_chosen,rejected=full_rejected",
        {
            "map": {"chosen": "full_chosen", "rejected": "full_rejected"},
        },
    ),
    Case(
        "Two answers, none the better",
        {"question": Q, "answer_a": A, "answer_b": B},
        QA,
        {},
        "--map prompt=question,completion=answer_a",
        {"map": {"prompt": "question", "completion": "answer_a"}},
    ),
    Case(
        "SQuAD",
        {"title": "x", "context": C, "question": Q, "answers": {"text": [A], "answer_start": [3]}},
        CQA,
        {},
        "--map prompt=question,input=context,completion=answers.text.0",
        {
            "map": {"prompt": "question", "input": "context", "completion": "answers.text.0"},
        },
    ),
    Case(
        "OPUS, WMT",
        {"translation": {"de": Q, "en": A}},
        QA,
        {},
        "--map prompt=translation.de,completion=translation.en",
        {"map": {"prompt": "translation.de", "completion": "translation.en"}},
    ),
    Case(
        "CNN, XSum",
        {"article": f"{Q} {C}", "highlights": A, "id": "x"},
        [turns(f"{Q} {C}", A)],
        {},
        "--map prompt=article,completion=highlights",
        {"map": {"prompt": "article", "completion": "highlights"}},
    ),
    Case(
        "HC3",
        {"question": Q, "human_answers": [B], "chatgpt_answers": [A]},
        QA,
        {},
        "completion=chatgpt_answers.0",
        {"map": {"prompt": "question", "completion": "chatgpt_answers.0"}},
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
ANSWERS += [
    Case(
        "DeepSeek distilled in Chinese",
        {
            "input": Q,
            "reasoning_content": R,
            "content": A,
            "repo_name": "x",
            "score": 10,
        },
        QA,
        {"reasoning": R},
    ),
    Case("distilabel generations", {"problem": Q, "generation": A, "model_name": "m"}, QA),
    Case(
        "ms-swift query and response",
        {
            "system": S,
            "query": Q2,
            "response": A2,
            "history": [[Q, A]],
        },
        [turns(Q, A, Q2, A2, system=S)],
    ),
]
PAIRS += [
    Case(
        "Capybara DPO",
        {
            "source": "x",
            "conversation": [{"input": Q, "output": A}],
            "chosen": msgs(Q, A),
            "rejected": msgs(Q, B),
            "rating_chosen": 5,
        },
        PAIR,
    ),
    Case(
        "full HH-RLHF",
        {
            "prompt": f"\n\nHuman: {Q}\n\nAssistant: {A}\n\nHuman: {Q2}\n\nAssistant:",
            "chosen": A2,
            "rejected": B,
        },
        [turns(Q, A, Q2, A2), turns(Q, A, Q2, B)],
    ),
]
ASKED += [
    Case(
        "Guanaco, its answers",
        {"turns": f"### Human: {Q}### Assistant: {A}"},
        QA,
        {},
        "--map messages=turns",
        {"map": {"messages": "turns"}},
    ),
    Case(
        "Anthropic prompts",
        {"prompt": f"\n\nHuman: {Q}\n\nAssistant:", "completion": A},
        QA,
        {},
        "--map messages=prompt,completion=completion",
        {"map": {"messages": "prompt", "completion": "completion"}},
    ),
    Case(
        "distilabel ratings",
        {"input": Q, "generations": [B, A], "ratings": [1.0, 5.0]},
        PAIR,
        {},
        "--format ranked",
        {"format": "ranked"},
    ),
    Case(
        "ELI5",
        {"q_id": "x1", "title": Q, "answers": {"a_id": ["y"], "text": [A], "score": [3]}},
        QA,
        {},
        "--map prompt=title,completion=answers.text.0",
        {"map": {"prompt": "title", "completion": "answers.text.0"}},
    ),
    Case(
        "summarize from feedback",
        {
            "info": {"id": "x", "post": Q},
            "summaries": [{"text": A, "policy": "p"}],
            "choice": 0,
        },
        QA,
        {},
        "--map prompt=info.post,completion=summaries.0.text",
        {"map": {"prompt": "info.post", "completion": "summaries.0.text"}},
    ),
]
CASES = [*CHATS, *ANSWERS, *PAIRS, *ASKED]

"""Cases of `layout_cases.py`: prompts with answers, and pairs of answers."""

from __future__ import annotations

import json

from layout_words import (
    A2,
    BARE,
    CQA,
    PAIR,
    Q2,
    QA,
    SPAIR,
    SQA,
    TOOL,
    TURNS4,
    A,
    B,
    C,
    Case,
    Q,
    R,
    S,
    msgs,
    share,
    turns,
)

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
    Case("Source and target", {"source": Q, "target": A, "lang": "en"}, QA),
    Case(
        "The Stack, files of code",
        {"hexsha": "a1", "ext": "py", "max_stars_repo_path": "a.py", "content": "a = 1\n"},
        [[("text", "a = 1\n")]],
    ),
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
    Case(
        "Pairs with reasoning",
        {"prompt": Q, "chosen": A, "rejected": B, "chosen_reasoning": R, "rejected_reasoning": "None."},
        PAIR,
        {"reasoning": R},
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
    Case(
        "When2Call, pairs",
        {
            "tools": [json.dumps(BARE)],
            "messages": msgs(Q),
            "chosen_response": {"role": "assistant", "content": A},
            "rejected_response": {"role": "assistant", "content": B},
        },
        PAIR,
        {"tools": [BARE]},
    ),
    Case("HelpSteer3, principles", {"context": msgs(Q), "response": A, "principle": "clear"}, QA),
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

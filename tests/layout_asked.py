"""Cases of `layout_cases.py`: layouts that are read when asked to."""

from __future__ import annotations

from layout_words import A2, CQA, PAIR, Q2, QA, SQA, TURNS4, A, B, C, Case, Q, S, share, turns

ASKED = [
    Case(
        "KTO texts",
        {"prompt": Q, "completion": B, "label": False},
        [turns(Q, B)],
        {},
        "--format unpaired",
        {"format": "unpaired"},
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
        "Answers and their ranks",
        {"prompt": Q, "answers": [B, A], "ranking": [2, 1]},
        PAIR,
        {},
        "--format ranked",
        {"format": "ranked"},
    ),
    Case(
        "Pairs with several rejected answers",
        {"prompt": Q, "chosen": A, "rejected": [B, "Go away."]},
        PAIR,
        {},
        "--map rejected=rejected.0",
        {"map": {"rejected": "rejected.0"}},
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

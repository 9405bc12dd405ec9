"""Chats in one text, as prompt styles and chat templates write them -> their turns.

"USER: Hi\\n\\nASSISTANT: Hello."                       also in one line, behind a system message: Vicuna
"Below is ...\\n\\n### Instruction:\\nHi\\n\\n### Response:\\nHello."    Alpaca, with an input too
"[INST] Hi [/INST] Hello."                           and the marks of Zephyr, ChatML, Llama 3, Gemma, ...
"""

from __future__ import annotations

import re
from typing import Any

Message = dict[str, Any]

_MARK = re.compile(
    r"(?:\A|\n|(?<=<eo[ah]>)|(?=###|<start_of_turn>|<\|start_header_id\|>|\[/?INST\]|<\|(?:prompter|user|assistant)\|>))\s*"
    r"(?:<\|im_start\|>(\w+)\n|<\|start_header_id\|>(\w+)<\|end_header_id\|>\s*|<start_of_turn>(\w+)\n"
    r"|<\|(\w+)\|>:?|###\s*([A-Za-z ]+?):|[<\[](human|bot|user|assistant|Human|MOSS)[>\]]:|\[(/?INST)\]"
    r"|\[\|(Human|AI)\|\]"
    r"|(Human|User|USER|Assistant|ASSISTANT|SYSTEM|System|FUNCTION RESPONSE|GPT|Bot|MOSS):)[ \t]*"
)
_IN_LINE = re.compile(r"(?:\A|\s|(?<=[.>]))(USER|ASSISTANT):[ \t]*")
"""Vicuna's marks, which stand within a line."""
_TASK, _MORE, _LONGEST_BEFORE = "### Instruction:", "### Input:", 600
"""Alpaca's first mark, its second, and how many characters of a preamble may stand before such."""
_BAIZE = "[|"
"""How its marks begin; before the first it says who speaks, and behind the last a user who says nothing."""
_BEGIN = re.compile(r"\s*(?:<s>|<bos>|<\|begin_of_text\|>)?\s*\Z")
_END = re.compile(
    r"\s*(?:</s>\s*(?:<s>)?|<\|im_end\|>|<\|eot_id\|>|<end_of_turn>|<\|endoftext\|>|<\|end\|>|<eo[ahmtcr]>)\s*\Z"
)
"""What chat templates write before the first turn, and after one."""
_SYSTEM = re.compile(r"\A\s*<<SYS>>(.*?)<</SYS>>\s*", re.DOTALL)
_MARKED_ROLES = {
    "human": "user",
    "prompter": "user",
    "user": "user",
    "instruction": "user",
    "input": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "ai": "assistant",
    "moss": "assistant",
    "response": "assistant",
    "system": "system",
    "function response": "tool",
    "model": "assistant",
    "tool": "tool",
    "inst": "user",
    "/inst": "assistant",
}


def text_turns(text: str) -> list[Message]:
    """`"USER: Hi\\n\\nASSISTANT: Hello."` as messages; none for a text that does not begin so."""
    marks = _marks(text)
    if not marks:
        return []
    before = "" if _BEGIN.match(text[: marks[0].start()]) else text[: marks[0].start()].strip()
    if before and not (_told_before(marks) and len(before) <= _LONGEST_BEFORE):
        return []
    ends = [mark.start() for mark in marks[1:]] + [len(text)]
    turns: list[Message] = [
        {"role": _role_of(mark), "content": said(text[mark.end() : end])}
        for mark, end in zip(marks, ends, strict=True)
    ]
    for place in reversed(range(1, len(turns))):
        if marks[place][0].strip() == _MORE and turns[place - 1]["role"] == "user":
            turns[place - 1]["content"] += "\n" + turns.pop(place)["content"]
    if told := _SYSTEM.match(turns[0]["content"]):
        turns[0]["content"] = turns[0]["content"][told.end() :]
        turns = [{"role": "system", "content": told[1].strip()}, *turns]
    if before:
        turns = [{"role": "system", "content": before}, *turns]
    if not turns[-1]["content"] and (
        turns[-1]["role"] == "assistant" or marks[-1][0].strip().startswith(_BAIZE)
    ):
        turns.pop()
    return turns if any(turn["role"] == "user" for turn in turns) else []


def _marks(text: str) -> list[re.Match[str]]:
    marks = [mark for mark in _MARK.finditer(text) if _role_of(mark) is not None]
    if all(_role_of(mark) != "assistant" for mark in marks):
        in_line = list(_IN_LINE.finditer(text))
        if len(in_line) > 1 and [mark[1] for mark in in_line[:2]] == ["USER", "ASSISTANT"]:
            return in_line
    return marks


def _told_before(marks: list[re.Match[str]]) -> bool:
    """Whether what stands before the first mark is of the chat: Baize, Vicuna and Alpaca begin so."""
    first = marks[0][0].strip()
    whole = first == _TASK and any(_role_of(mark) == "assistant" for mark in marks)
    return first.startswith(_BAIZE) or whole or marks[0].re is _IN_LINE


def said(text: str) -> str:
    return _END.sub("", text).strip()


def is_open(text: str) -> bool:
    """Whether it ends on a mark of the assistant, for the answer to follow."""
    marks = _marks(text)
    return bool(marks) and not text[marks[-1].end() :].strip() and _role_of(marks[-1]) == "assistant"


def _role_of(mark: re.Match[str]) -> str | None:
    return _MARKED_ROLES.get(next(filter(None, mark.groups())).strip().lower())


_ELSE = {
    "gpt-oss": re.compile(r"<\|start\|>(?:user|system|developer|assistant)\b.*?<\|message\|>", re.DOTALL),
    "Cohere": re.compile(r"<\|START_OF_TURN_TOKEN\|><\|(?:USER|CHATBOT|SYSTEM)_TOKEN\|>"),
    "DeepSeek": re.compile("<｜(?:User|Assistant)｜>"),
}
"""Model whose chat template writes a text that is not taken apart -> its marks."""


def marks_in(text: str) -> str:
    """The first marks of a user and an assistant in a text that holds a chat; empty in another."""
    if len(text_turns(text)) < 2:
        return ""
    marks = {_role_of(mark): " ".join(mark[0].split()) for mark in reversed(_marks(text))}
    return " and ".join(marks[role] for role in ("user", "assistant") if role in marks)


def template_in(text: str) -> str:
    """Whose chat template wrote a text that is not taken apart; empty where none is known."""
    return next((name for name, mark in _ELSE.items() if mark.match(text.lstrip().removeprefix("<s>"))), "")

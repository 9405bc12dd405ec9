"""What goes wrong in real sets: each function makes a document with a single, known fault."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable
from typing import Any

from demo_text import Document, Writer
from demo_text.draw import Draw, words
from demo_text.words import MONTHS, NAMES, PLACES, TOWNS, brand, company, date, person

Message = dict[str, Any]
END_OF_TEXT = "<|endoftext|>"


def with_answer(document: Document, answer: str | None) -> list[Message]:
    """The first question with another answer: nothing else is left to train on."""
    head = [message for message in document.messages if message["role"] == "system"]
    question = next(message for message in document.messages if message["role"] == "user")
    return [*head, question, {"role": "assistant", "content": answer}]


# Copies


def exact_copy(writer: Writer, original: list[Message]) -> list[Message]:
    return [dict(message) for message in original]


def padded_copy(writer: Writer, original: list[Message]) -> list[Message]:
    """The same contents but for white space around at least one of them."""
    draw, copy = writer.draw, exact_copy(writer, original)
    for message in [message for message in copy if draw.chance(0.6)] or copy[-1:]:
        before, after = draw.pick(["", "", " ", "\n"]), draw.pick([" ", "\n", "\n\n", "  \n", "\t"])
        message["content"] = before + message["content"] + after
    return copy


def decomposed_copy(writer: Writer, original: list[Message]) -> list[Message]:
    """The same contents in Unicode form NFD: "é" as two code points."""
    return [{**message, "content": unicodedata.normalize("NFD", message["content"])} for message in original]


def can_decompose(document: Document) -> bool:
    text = "".join(message["content"] for message in document.messages)
    return unicodedata.normalize("NFC", text) == text != unicodedata.normalize("NFD", text)


def word_grams(messages: list[Message], size: int = 5) -> set[tuple[str, ...]]:
    """The distinct runs of `size` words of all contents, one after the other."""
    words = " ".join(message["content"] for message in messages).split()
    return set(zip(*(words[start:] for start in range(size)), strict=False))


def jaccard(left: set[Any], right: set[Any]) -> float:
    return len(left & right) / len(left | right)


NEAR_FLOOR = 0.92
"""Least Jaccard similarity of word 5-grams between an edited copy and its original; tokens come out alike."""


def can_edit(document: Document) -> bool:
    """Long enough that one changed word leaves the copy well above NEAR_FLOOR, and English prose."""
    return (
        document.language == "en"
        and document.source not in ("python", "extraction")
        and len(word_grams(document.messages)) >= 180
    )


def edited_copy(writer: Writer, original: list[Message]) -> list[Message]:
    """A few words changed, or a polite line added: never equal, always above NEAR_FLOOR."""
    before = word_grams(original)
    copy = edit_once(writer.draw, original)
    for _ in range(writer.draw.integer(0, 4)):
        further = edit_once(writer.draw, copy)
        if jaccard(before, word_grams(further)) < NEAR_FLOOR:
            break
        copy = further
    return copy


def edit_once(draw: Draw, original: list[Message]) -> list[Message]:
    copy = [dict(message) for message in original]
    message = max(copy, key=lambda message: len(message["content"]))
    words = message["content"].split(" ")
    place = draw.integer(1, len(words) - 2)
    kind = draw.pick(["swap", "drop", "insert", "farewell"])
    if kind == "swap":
        words[place] = draw.pick([name for name in (*NAMES, *TOWNS) if name != words[place]])
    elif kind == "drop":
        del words[place]
    elif kind == "insert":
        words.insert(place, draw.pick(["indeed", "really", "perhaps", "however,", "of course", "(sic)"]))
    else:
        words.append(
            draw.pick(["Good luck!", "I hope this helps.", "Thanks!", "Have a nice day!", "Cheers."])
        )
    message["content"] = " ".join(words)
    return copy if message["content"] not in [m["content"] for m in original] else edit_once(draw, original)


# Faulty conversations


def empty_answer(writer: Writer) -> list[Message]:
    return with_answer(writer.document(), "")


def blank_answer(writer: Writer) -> list[Message]:
    return with_answer(
        writer.document(), writer.draw.pick([" ", "\n", "\n\n", "   ", " \t ", "\u00a0", "\u3000"])
    )


def only_end_of_text(writer: Writer) -> list[Message]:
    return with_answer(writer.document(), writer.draw.pick(["", "", " ", "\n"]) + END_OF_TEXT)


def literal_end_of_text(writer: Writer) -> list[Message]:
    messages: list[Message] = list(writer.document().messages)
    messages[-1] = {
        **messages[-1],
        "content": messages[-1]["content"] + writer.draw.pick(["", "", "\n"]) + END_OF_TEXT,
    }
    return messages


def null_content(writer: Writer) -> list[Message]:
    """The answer is null; in one of four the question is instead."""
    document = writer.document()
    if writer.draw.chance(0.25):
        return [
            {**message, "content": None} if message["role"] == "user" else message
            for message in document.messages
        ]
    return with_answer(document, None)


def no_assistant_turn(writer: Writer) -> list[Message]:
    return with_answer(writer.document(), None)[:-1]


def unknown_role(writer: Writer) -> list[Message]:
    messages: list[Message] = list(writer.document().messages)
    role = writer.draw.pick(["moderator", "narrator", "critic", "reviewer"])
    text = f"Note by {person(writer.draw)}, {date(writer.draw)}: please keep to the topic."
    messages.insert(writer.draw.integer(1, len(messages)), {"role": role, "content": text})
    return messages


def mojibake(writer: Writer) -> list[Message]:
    """UTF-8 bytes read as Latin-1, all through the conversation."""
    while True:
        messages = writer.foreign().messages
        if sum(ord(letter) > 127 for message in messages for letter in message["content"]) >= 8:
            return [{**m, "content": m["content"].encode("utf-8").decode("latin-1")} for m in messages]


def html_page(writer: Writer) -> list[Message]:
    """The answer is a scraped page: menu, script, cookie banner, footer, and the text somewhere between."""
    draw, document = writer.draw, writer.document()
    site, topic = company(draw), f"{draw.pick(PLACES)} in {draw.pick(TOWNS)}"
    answer = document.messages[-1]["content"].replace("\n", "<br>\n")
    menu = "".join(
        f'<li><a href="/{item.lower()}">{item}</a></li>' for item in draw.sample(MENU, draw.integer(3, 7))
    )
    script = f"window.{brand(draw)} = []; track('{brand(draw)}', {draw.integer(1, 99999)});"
    links = " | ".join(
        f'<a href="/p/{draw.integer(1, 9999)}">{draw.pick(TOWNS)}</a>' for _ in range(draw.integer(2, 8))
    )
    page = (
        f'<!DOCTYPE html>\n<html lang="{document.language}">\n<head><meta charset="utf-8">'
        f"<title>{topic} - {site}</title>\n"
        f'<script>{script}</script></head>\n<body class="page-{draw.integer(1, 999)}">\n'
        f"<nav><ul>{menu}</ul></nav>\n"
        f'<div class="cookie">{site} uses cookies &amp; similar techniques. <button>Accept</button></div>\n'
        f"<p>{answer}</p>\n<footer>{links}<br>&copy; {draw.integer(2005, 2026)} {site}. All rights "
        "reserved.</footer>\n"
        "</body>\n</html>"
    )
    return with_answer(document, page)


MENU = words("Home Shop News About Contact Jobs Help Login Cart Blog Press Imprint Search Archive")


def repeated_characters(writer: Writer) -> list[Message]:
    document, draw = writer.document(), writer.draw
    return with_answer(document, draw.pick("aeo!?.-=_*#") * draw.integer(200, 1500))


def repeated_words(writer: Writer) -> list[Message]:
    """A good beginning that gets stuck on a word or two."""
    document, draw = writer.document(), writer.draw
    words = document.messages[-1]["content"][:200].split()[: draw.integer(3, 12)]
    stuck = " ".join(words[-draw.integer(1, 2) :])[-12:]  # Chinese and Japanese have no spaces
    return with_answer(document, " ".join([*words, *[stuck] * draw.integer(60, 300)]))


def repeated_lines(writer: Writer) -> list[Message]:
    document, draw = writer.document(), writer.draw
    name, town = draw.pick(NAMES), draw.pick(TOWNS)
    line = draw.pick(
        [
            f"{name} went to {town} in {draw.pick(MONTHS)} and came back.",
            f"As {name} said in {town}, it is what it is.",
            f"Step {draw.integer(1, 9)}: ask {name} at {draw.pick(PLACES)}.",
        ]
    )
    return with_answer(document, "\n".join([line] * draw.integer(25, 90)))


# Lines that are no document at all


def cut_short(writer: Writer, line: str) -> str:
    """The line ends in the middle, as after a crash or a full disk."""
    return line[: len(line) * writer.draw.integer(30, 90) // 100]


def missing_comma(writer: Writer, line: str) -> str:
    return line.replace('", "content"', '" "content"', 1)


def bare_string(writer: Writer, line: str) -> str:
    return json.dumps(json.loads(line)["messages"][-1]["content"], ensure_ascii=False)


def bare_array(writer: Writer, line: str) -> str:
    return json.dumps(json.loads(line)["messages"], ensure_ascii=False)


def wrong_shape(writer: Writer, line: str) -> str:
    """Valid JSON, an object even, but `messages` is no list of messages with text."""
    row, draw = json.loads(line), writer.draw
    texts = [message["content"] for message in row["messages"]]
    row["messages"] = draw.pick(
        [
            draw.integer(1, 9999),
            draw.pick(texts),
            texts,
            {"role": "user", "content": texts[0]},
            [[text] for text in texts],
            [{"role": "user", "content": draw.integer(1, 99)}, {"role": "assistant", "content": True}],
        ]
    )
    return json.dumps(row, ensure_ascii=False)


COPIES: dict[
    str, tuple[float, Callable[[Writer, list[Message]], list[Message]], Callable[[Document], bool]]
] = {
    "exact_duplicate": (0.05, exact_copy, lambda document: True),
    "whitespace_duplicate": (0.01, padded_copy, lambda document: True),
    "unicode_duplicate": (0.006, decomposed_copy, can_decompose),
    "near_duplicate": (0.035, edited_copy, can_edit),
}
"""Category -> (share of all lines, how the copy is made, whether a document may be copied so)."""

FAULTS: dict[str, tuple[float, Callable[[Writer], list[Message]]]] = {
    "empty_answer": (0.008, empty_answer),
    "blank_answer": (0.004, blank_answer),
    "only_end_of_text": (0.003, only_end_of_text),
    "literal_end_of_text": (0.03, literal_end_of_text),
    "null_content": (0.004, null_content),
    "no_assistant_turn": (0.006, no_assistant_turn),
    "unknown_role": (0.003, unknown_role),
    "mojibake": (0.01, mojibake),
    "html_page": (0.01, html_page),
    "repeated_characters": (0.004, repeated_characters),
    "repeated_words": (0.004, repeated_words),
    "repeated_lines": (0.004, repeated_lines),
    "very_long": (0.001, lambda writer: list(writer.very_long().messages)),
}
BROKEN: dict[str, tuple[float, Callable[[Writer, str], str]]] = {
    "truncated_json": (0.002, cut_short),
    "missing_comma": (0.001, missing_comma),
    "bare_string": (0.0005, bare_string),
    "bare_array": (0.0005, bare_array),
    "wrong_shape": (0.0015, wrong_shape),
}

"""Documents that were left out: their text again, what triggered the rule, and what they repeat."""

from __future__ import annotations

import gzip
import io
import json
import shutil
from pathlib import Path

import pytest
from chats import messy_rows, write_rows
from rich.console import Console

import tokpack
from tokpack.errors import DataError, UsageError
from tokpack.packed.differences import differences, same_answer
from tokpack.packed.folder import PackedFolder
from tokpack.packed.left_out import ShownLeftOut, find_left_out, marks_of
from tokpack.packed.originals import Originals
from tokpack.packed.triggers import find_marks
from tokpack.stages.rules import RULES

SEA = "The sea is a long story of ships that sail on it day by day and never come to rest, "


def chat(prompt: str, answer: str | None) -> bytes:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages}, ensure_ascii=False).encode()


ROWS = [
    chat("Tell me of the sea.", SEA * 3 + "fin"),
    chat("Tell me of the sea.", SEA * 3 + "end"),
    b"",
    chat("Say nothing.", " "),
    b'{"broken \xff',
    chat("Who?", "As an AI language model, I am nobody."),
    chat("Tell me of the sea.", SEA * 3 + "fin"),
]
SETTINGS = {"max_length": 256, "clean": "default,+refusal", "near_dup": 0.7, "allow_bad": 0.5}


def pack(rows: Path, out: Path, tokenizer: Path) -> PackedFolder:
    return tokpack.pack(rows, out, tokenizer=str(tokenizer), **SETTINGS)


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> PackedFolder:
    folder = tmp_path_factory.mktemp("left-out")
    return pack(write_rows(folder / "sea.jsonl", ROWS), folder / "packed", qwen)


def printed(shown: object, color: bool = False) -> str:
    console = Console(width=100, file=io.StringIO(), force_terminal=color, no_color=not color)
    console.print(shown)
    return console.file.getvalue()


def test_the_text_of_a_document_that_was_left_out_is_that_of_its_row(packed):
    assert packed.dropped_text(1) == f"[user]\nTell me of the sea.\n\n[assistant]\n{SEA * 3}end"
    found = find_left_out(packed, 4)
    assert (found.reason, found.row) == ("refusal", 6)
    assert "As an AI language model" in found.text
    assert packed.dropped_text(3) == '{"broken \\xff'
    assert find_left_out(packed, 3).reason == "unreadable"


def test_marks_are_what_the_rule_looked_for(packed):
    found = find_left_out(packed, 4)
    [mark] = marks_of(found, [])
    assert found.original.contents[mark.message][mark.start : mark.end] == "As an AI language model"
    assert ">>As an AI language model<<, I am" in printed(ShownLeftOut(found))
    assert ">>" not in printed(ShownLeftOut(found), color=True)


def test_a_near_duplicate_stands_beside_what_it_repeats_with_the_difference(packed):
    found = find_left_out(packed, 1)
    assert (found.reason, found.twin.doc_id) == ("near_duplicate", 0)
    [mark] = marks_of(found, [])
    assert found.original.contents[1][mark.start : mark.end] == "end"
    text = printed(ShownLeftOut(found))
    assert "the document that it repeats, 0: another answer" in text
    assert ">>fin<<" in text
    exact = printed(ShownLeftOut(find_left_out(packed, 5)))
    assert "the document that it repeats, 0: same answer" in exact


@pytest.mark.parametrize("doc", [0, 99])
def test_documents_that_were_not_left_out_have_an_error_with_a_hint(packed, doc):
    with pytest.raises(UsageError) as caught:
        packed.dropped_text(doc)
    assert caught.value.hint in ("it is in row 0", "documents are 0 to 5")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda path: path.unlink(), "is no longer at"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\n{}"), "changed since it was packed"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"Who", b"Whu")), "changed since"),
    ],
)
def test_without_the_same_input_there_is_no_text_and_it_says_why(packed, tmp_path, qwen, change, why):
    rows = write_rows(tmp_path / "sea.jsonl", ROWS)
    record = json.loads((packed.folder / "run.json").read_text())
    copy = tmp_path / "packed"
    shutil.copytree(packed.folder, copy)
    (copy / "run.json").write_text(json.dumps(record | {"inputs": [str(rows)]}))
    assert "sea" in PackedFolder(copy).dropped_text(1)
    change(rows)
    with pytest.raises(DataError, match=why):
        PackedFolder(copy).dropped_text(1)
    assert "no text: sea.jsonl" in printed(ShownLeftOut(find_left_out(PackedFolder(copy), 1)))


def test_an_input_elsewhere_is_not_fetched(packed):
    originals = Originals(packed)
    originals.inputs[0]._config = None
    assert originals.fault(1) == "where sea.jsonl was is not recorded"


@pytest.mark.slow
def test_every_text_left_out_of_several_inputs_is_found_again(qwen, tmp_path):
    names = ("a.jsonl", "b.jsonl.gz")
    rows = {name: messy_rows(60, seed=n) for n, name in enumerate(names)}
    write_rows(tmp_path / names[0], rows[names[0]])
    (tmp_path / names[1]).write_bytes(gzip.compress(b"\n".join(rows[names[1]]) + b"\n"))
    paths = [str(tmp_path / name) for name in names]
    packed = tokpack.pack(paths, tmp_path / "packed", tokenizer=str(qwen), max_length=256, allow_bad=0.5)
    for doc, source, row, reason in packed.dropped.select("doc_id", "source", "row", "reason").rows():
        if reason != "truncated":
            said = json.loads(rows[source][row - 1])["messages"]
            assert find_left_out(packed, doc).original.contents == [m["content"] for m in said]


def test_differences_are_words_of_one_side():
    assert differences("a red fox", "a grey fox") == ([(2, 5)], [(2, 6)])
    assert differences("same", "same") == ([], [])
    assert differences("", "new words") == ([], [(0, 9)])
    long = " ".join(map(str, range(9000)))
    assert differences(f"x {long} y", f"z {long[::-1]} w")[0][0][0] == 0
    assert same_answer([("assistant", "a ")], [("user", "?"), ("assistant", "a")])
    assert not same_answer([("assistant", "fewer")], [("assistant", "more")])


@pytest.mark.parametrize(
    ("reason", "answer", "marked"),
    [
        ("mojibake", "caf\u00c3\u00a9 is broken", ["\u00c3\u00a9"]),
        ("url_only", "https://a.example/b www.c.example", ["https://a.example/b", "www.c.example"]),
        ("symbol_share", "a ### b", ["###"]),
        ("repetition", "no no no " * 30, ["no no no " * 29 + "no no no"]),
        ("gopher_repetition", "said before\nnew\nsaid before\n", ["said before"]),
        ("html_boilerplate", "<nav>x</nav> Accept every cookie `<b>`", ["<nav>", "</nav>", "cookie"]),
        ("html_answer", "<p>x</p>", ["<p>", "</p>"]),
        ("empty_answer", "", [""]),
        ("prompt_equals_answer", "q", ["q", "q"]),
        ("too_short", "a", []),
    ],
)
def test_each_rule_marks_what_it_is_about(reason, answer, marked):
    assert reason in RULES
    messages = [("user", "q"), ("assistant", answer)]
    found = [messages[m.message][1][m.start : m.end] for m in find_marks(reason, None, messages)]
    assert found == marked


def test_special_tokens_and_evaluation_text_are_marked_too():
    messages = [("user", "a <|im_end|> b"), ("assistant", "one  two\nthree four")]
    [mark] = find_marks("special_token_in_content", None, messages, ["<|im_end|>", "<|im"])
    assert messages[0][1][mark.start : mark.end] == "<|im_end|>"
    [mark] = find_marks("contaminated", "eval.jsonl:3, tokens 0 to 3: two three", messages)
    assert messages[1][1][mark.start : mark.end] == "two\nthree"

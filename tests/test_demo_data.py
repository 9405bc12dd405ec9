"""The demo set: what its truth file says is so, and what its answers claim is right."""

from __future__ import annotations

import doctest
import hashlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import make_demo_data
import pytest
from demo_text.draw import Draw, Scene
from demo_text.mess import BROKEN, COPIES, END_OF_TEXT, FAULTS, NEAR_FLOOR, jaccard, word_grams
from demo_text.translation import FRAMES, LANGUAGES

DOCUMENTS = 3000
GOLDEN = "d6daa4cdfab977fb6dc3e0f78208e06b992fd40b75124061c041959a1303c886"
"""SHA-256 of 400 documents, seed 0. Whoever changes a text on purpose notes the new digest."""


@dataclass
class Demo:
    path: Path
    lines: list[str]
    truth: dict[str, Any]

    def of(self, category: str) -> list[int]:
        return list(self.truth["categories"][category]["lines"])

    def row(self, number: int) -> Any:
        return json.loads(self.lines[number - 1])

    def messages(self, number: int) -> list[dict[str, Any]]:
        return list(self.row(number)["messages"])

    def clean(self) -> list[int]:
        faulty = {number for entry in self.truth["categories"].values() for number in entry["lines"]}
        return [n for n, line in enumerate(self.lines, 1) if line.strip() and n not in faulty]


def make(path: Path, *options: str) -> Demo:
    assert make_demo_data.main([str(path), *options]) == 0
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    return Demo(path, lines, json.loads(path.with_suffix(".truth.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    return make(tmp_path_factory.mktemp("demo") / "chat.jsonl", "--documents", str(DOCUMENTS))


@pytest.fixture(scope="module")
def clean_messages(demo: Demo) -> list[list[dict[str, str]]]:
    return [demo.messages(number) for number in demo.clean()]


def contents(messages: list[dict[str, Any]]) -> list[str]:
    return [message["content"] for message in messages]


# The file and its truth


@pytest.mark.slow
def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        make(tmp_path / f"{name}.jsonl", "--documents", "400", "--seed", seed)
        for name, seed in [("first", "5"), ("again", "5"), ("other", "6")]
    )
    assert first.path.read_bytes() == again.path.read_bytes()
    assert first.truth == again.truth
    assert first.path.read_bytes() != other.path.read_bytes()


def test_the_bytes_are_the_same_on_every_machine_and_python_version(tmp_path: Path) -> None:
    data = make(tmp_path / "chat.jsonl", "--documents", "400").path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == GOLDEN


def test_every_line_is_clean_or_of_exactly_one_category(demo: Demo) -> None:
    filled = [number for number, line in enumerate(demo.lines, 1) if line.strip()]
    faulty = [number for entry in demo.truth["categories"].values() for number in entry["lines"]]
    assert len(faulty) == len(set(faulty))
    assert set(faulty) <= set(filled)
    assert demo.truth["lines"] == len(filled) == DOCUMENTS
    assert demo.truth["clean"] == len(filled) - len(faulty)
    assert len(filled) < len(demo.lines), "some lines are blank"


def test_every_category_has_its_share_of_the_lines(demo: Demo) -> None:
    for name, (share, *_) in [*COPIES.items(), *FAULTS.items(), *BROKEN.items()]:
        entry = demo.truth["categories"][name]
        assert entry["count"] == len(entry["lines"]) == max(1, round(share * DOCUMENTS))


def test_traits_describe_clean_lines(demo: Demo) -> None:
    clean, traits = set(demo.clean()), demo.truth["traits"]
    languages = {name: entry["count"] for name, entry in traits.items() if name.startswith("language_")}
    assert set(languages) == {f"language_{code}" for code in LANGUAGES}
    assert sum(languages.values()) == len(clean)
    for number in traits["multi_turn"]["lines"]:
        assert number in clean
        assert sum(message["role"] == "assistant" for message in demo.messages(number)) > 1
    assert all(demo.messages(number)[0]["role"] == "system" for number in traits["system_prompt"]["lines"])


def test_a_hundred_lines_hold_every_category(tmp_path: Path) -> None:
    demo = make(tmp_path / "tiny.jsonl", "--documents", "100")
    assert demo.truth["lines"] == 100
    assert all(entry["count"] >= 1 for entry in demo.truth["categories"].values())


def test_fewer_lines_than_categories_can_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        make_demo_data.main([str(tmp_path / "none.jsonl"), "--documents", "20"])


def test_the_summary_goes_to_stderr_and_the_path_to_stdout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "chat.jsonl"
    make(out, "--documents", "100")
    written = capsys.readouterr()
    assert written.out == f"{out}\n"
    assert all(name in written.err for name in (*COPIES, *FAULTS, *BROKEN))


# Clean lines


def test_clean_conversations_are_well_formed(clean_messages: list[list[dict[str, str]]]) -> None:
    for messages in clean_messages:
        roles = [message["role"] for message in messages]
        if roles[0] == "system":
            roles = roles[1:]
        assert roles == ["user", "assistant"] * (len(roles) // 2)
        for text in contents(messages):
            assert text == text.strip() != ""
            assert text == unicodedata.normalize("NFC", text)
            assert END_OF_TEXT not in text
            assert not re.search(r"[{}]\w+\+?}|\.\.\d+}", text), f"a slot was left open: {text}"


def test_clean_conversations_are_pairwise_distinct(clean_messages: list[list[dict[str, str]]]) -> None:
    keys = Counter(make_demo_data.normalized(messages) for messages in clean_messages)
    assert keys.most_common(1)[0][1] == 1


# Copies


@pytest.mark.parametrize("category", COPIES)
def test_copies_name_a_clean_original_further_up(demo: Demo, category: str) -> None:
    pairs, clean = demo.truth["pairs"][category], set(demo.clean())
    assert sorted(copy for copy, _ in pairs) == sorted(demo.of(category))
    assert all(original in clean and original < copy for copy, original in pairs)


def test_exact_copies_are_equal(demo: Demo) -> None:
    for copy, original in demo.truth["pairs"]["exact_duplicate"]:
        assert demo.messages(copy) == demo.messages(original)


def test_whitespace_copies_differ_by_outer_whitespace_alone(demo: Demo) -> None:
    for copy, original in demo.truth["pairs"]["whitespace_duplicate"]:
        left, right = contents(demo.messages(copy)), contents(demo.messages(original))
        assert left != right
        assert [text.strip() for text in left] == right


def test_unicode_copies_differ_by_the_unicode_form_alone(demo: Demo) -> None:
    for copy, original in demo.truth["pairs"]["unicode_duplicate"]:
        left, right = contents(demo.messages(copy)), contents(demo.messages(original))
        assert left != right
        assert [unicodedata.normalize("NFC", text) for text in left] == right


def test_near_copies_are_edited_but_little(demo: Demo) -> None:
    originals = [original for _, original in demo.truth["pairs"]["near_duplicate"]]
    assert len(originals) == len(set(originals))
    for copy, original in demo.truth["pairs"]["near_duplicate"]:
        left, right = demo.messages(copy), demo.messages(original)
        assert make_demo_data.normalized(left) != make_demo_data.normalized(right)
        assert NEAR_FLOOR <= jaccard(word_grams(left), word_grams(right)) < 1


# Faults


def last(messages: list[dict[str, Any]]) -> Any:
    return messages[-1]["content"]


def most_common_share(items: list[str]) -> float:
    return Counter(items).most_common(1)[0][1] / len(items)


def is_mojibake(messages: list[dict[str, Any]]) -> bool:
    repaired = [text.encode("latin-1").decode("utf-8") for text in contents(messages)]
    return repaired != contents(messages)


IS_FAULTY = {
    "empty_answer": lambda messages: last(messages) == "",
    "blank_answer": lambda messages: last(messages) != "" and not last(messages).strip(),
    "only_end_of_text": lambda messages: last(messages).strip() == END_OF_TEXT,
    "literal_end_of_text": lambda messages: len(last(messages).removesuffix(END_OF_TEXT).strip()) > 3,
    "null_content": lambda messages: None in contents(messages),
    "no_assistant_turn": lambda messages: all(message["role"] != "assistant" for message in messages),
    "unknown_role": lambda messages: any(m["role"] not in ("system", "user", "assistant") for m in messages),
    "mojibake": is_mojibake,
    "html_page": lambda messages: last(messages).startswith("<!DOCTYPE html>"),
    "repeated_characters": lambda messages: len(set(last(messages))) == 1 and len(last(messages)) >= 200,
    "repeated_words": lambda messages: most_common_share(last(messages).split()) > 0.4,
    "repeated_lines": lambda messages: most_common_share(last(messages).split("\n")) == 1,
    "very_long": lambda messages: len(" ".join(contents(messages)).split()) >= 7000,
}


@pytest.mark.parametrize("category", FAULTS)
def test_faulty_conversations_have_their_fault(demo: Demo, category: str) -> None:
    assert all(IS_FAULTY[category](demo.messages(number)) for number in demo.of(category))


@pytest.mark.parametrize("category", ["truncated_json", "missing_comma"])
def test_broken_lines_are_no_json(demo: Demo, category: str) -> None:
    for number in demo.of(category):
        with pytest.raises(json.JSONDecodeError):
            demo.row(number)


def test_bare_values_are_json_but_no_objects(demo: Demo) -> None:
    assert all(isinstance(demo.row(number), str) for number in demo.of("bare_string"))
    assert all(isinstance(demo.row(number), list) for number in demo.of("bare_array"))


def test_rows_of_the_wrong_shape_are_objects_without_a_list_of_texts(demo: Demo) -> None:
    for number in demo.of("wrong_shape"):
        messages = demo.row(number)["messages"]
        assert not isinstance(messages, list) or not all(
            isinstance(message, dict) and isinstance(message["content"], str) for message in messages
        )


# Answers


def turns(conversations: list[list[dict[str, str]]]) -> Iterator[tuple[str, str]]:
    for messages in conversations:
        for question, answer in pairwise(messages):
            if question["role"] == "user":
                yield question["content"], answer["content"]


NUMBER = r"-?\$?\d[\d,]*(?:\.\d+)?"
EQUATION = re.compile(rf"({NUMBER}(?: [+−×÷] {NUMBER})+) = ({NUMBER})")


def value(expression: str) -> Fraction:
    """The value of "a × b + c", times and divided-by before plus and minus."""
    total, sign, product, operator = Fraction(0), 1, Fraction(1), "×"
    for part in expression.replace("$", "").replace(",", "").split(" "):
        if part in ("+", "−"):
            total += sign * product
            sign, product, operator = (1 if part == "+" else -1), Fraction(1), "×"
        elif part in ("×", "÷"):
            operator = part
        else:
            product = product * Fraction(part) if operator == "×" else product / Fraction(part)
    return total + sign * product


def test_every_equation_in_an_answer_holds(clean_messages: list[list[dict[str, str]]]) -> None:
    checked = 0
    for _, answer in turns(clean_messages):
        for left, right in EQUATION.findall(answer):
            places = len(right.partition(".")[2])
            tolerance = Fraction(1, 200) if places and "$" not in left else Fraction(0)
            if abs(value(left) - value(right)) > tolerance:
                # A whole result may be rounded too, in a conversion with a long factor.
                assert re.search(r"\.\d{6,}", left), f"{left} = {right}"
                assert abs(value(left) - value(right)) <= Fraction(1, 200), f"{left} = {right}"
            checked += 1
    assert checked > 1000


def test_every_function_in_an_answer_passes_its_doctest(clean_messages: list[list[dict[str, str]]]) -> None:
    parser, checked = doctest.DocTestParser(), 0
    for _, answer in turns(clean_messages):
        for block in re.findall(r"```python\n(.*?)```", answer, re.DOTALL):
            scope: dict[str, Any] = {}
            exec(block, scope)
            (function,) = [item for name, item in scope.items() if name != "__builtins__"]
            test = parser.get_doctest(function.__doc__, scope, function.__name__, None, None)
            assert test.examples
            assert doctest.DocTestRunner(verbose=False).run(test).failed == 0, block
            checked += 1
    assert checked > 100


def test_extracted_facts_stand_in_the_text(clean_messages: list[list[dict[str, str]]]) -> None:
    checked = 0
    for question, answer in turns(clean_messages):
        if "JSON" not in question or "```python" in answer:
            continue
        facts = json.loads(answer.removeprefix("```json\n").removesuffix("\n```"))
        assert all(key in question and str(fact) in question for key, fact in facts.items())
        checked += 1
    assert checked > 50


def test_percentages_in_a_summary_fit_the_report(clean_messages: list[list[dict[str, str]]]) -> None:
    changes = (
        r"(?:rose|fell|went) from (?P<before>\d+) to (?P<after>\d+)"
        r"(?:, (?:up|down) |\. That is )(?P<percent>\d+)%",
        r"At (?P<after>\d+), .*? is (?:up|down) (?P<percent>\d+)% from (?P<before>\d+)",
    )
    checked = 0
    for question, _ in turns(clean_messages):
        for match in (found for pattern in changes for found in re.finditer(pattern, question)):
            before, after, percent = (int(match[name]) for name in ("before", "after", "percent"))
            assert abs(after - before) * 100 == before * percent
            checked += 1
    assert checked > 300


def test_translations_say_the_same_numbers(clean_messages: list[list[dict[str, str]]]) -> None:
    asks = re.compile(r"Translate into|How do you say this in|Please put these|^\w+, please:")
    checked = 0
    for question, answer in turns(clean_messages):
        if asks.search(question):
            asked = question.split("\n\n", 1)[1]
            assert sorted(re.findall(r"\d+", asked)) == sorted(re.findall(r"\d+", answer))
            checked += 1
    assert checked > 50
    assert all(len(frame) == len(LANGUAGES) for frame in FRAMES)


# Templates


def test_a_slot_is_kept_and_a_fresh_one_does_not_repeat() -> None:
    scene = Scene(Draw(1), {"city": ["Rome", "Oslo", "Bern"]}, n=4)
    assert scene("{city}") == scene("{city}")
    rest = [scene("{city+}") for _ in range(5)]
    assert len(set(rest[2:5])) == 3
    assert re.fullmatch(r"4 (a|b) [5-7] (10|20)", scene("{n} [a|b] {5..7} {10..20/10}"))


# With real tokenizers


def token_grams(tokenizer: Any, messages: list[dict[str, Any]]) -> frozenset[tuple[int, ...]]:
    ids = tokenizer.encode("\n".join(contents(messages)), add_special_tokens=False).ids
    return frozenset(zip(*(ids[start:] for start in range(5)), strict=False)) or frozenset([tuple(ids)])


def load(folder: Path) -> Any:
    return pytest.importorskip("tokenizers").Tokenizer.from_file(str(folder / "tokenizer.json"))


@pytest.mark.slow
def test_near_copies_share_most_token_grams_and_long_documents_are_long(demo: Demo, whole_qwen: Path) -> None:
    tokenizer = load(whole_qwen)
    for copy, original in demo.truth["pairs"]["near_duplicate"]:
        left, right = (token_grams(tokenizer, demo.messages(number)) for number in (copy, original))
        assert jaccard(left, right) > 0.87
    for number in demo.of("very_long"):
        assert 8000 <= len(tokenizer.encode(" ".join(contents(demo.messages(number)))).ids) <= 30000

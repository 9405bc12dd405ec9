"""The cleaning rules, one by one: what each drops, what it leaves alone, and that it is documented."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import polars as pl
import pytest
from clean_cases import CASES, Doc, ask, documents

from tokpack.settings.config import CleanConfig
from tokpack.stages.clean import clean, clean_by_tokens
from tokpack.stages.rules import PRESETS, RULES
from tokpack.stages.rules.repetition import repeated_lines
from tokpack.stages.rules.vectors import among

DOCS = Path(__file__).resolve().parent.parent / "docs" / "cleaning.md"
IN_TOKENS = {"too_short", "too_long"}
OF_PAIRS = {"chosen_equals_rejected"}
"""Tested with the pairs, in test_preference.py."""


def reasons(docs: list[Doc], rules: str, options: dict[str, object] | None = None) -> list[str | None]:
    if rules == "language":
        pytest.importorskip("py3langid")
    config = CleanConfig(rules=rules, options={rules: options} if options else {})
    return clean(documents(docs), config).documents["drop_reason"].to_list()


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_drops_what_it_is_for(rule: str) -> None:
    cases = CASES[rule]
    for doc, reason in zip(cases.drop, reasons(cases.drop, rule, cases.options), strict=True):
        assert reason == rule, doc


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_leaves_sound_text_alone(rule: str) -> None:
    cases = CASES[rule]
    for doc, reason in zip(cases.keep, reasons(cases.keep, rule, cases.options), strict=True):
        assert reason is None, doc


@pytest.mark.parametrize("rule", sorted(set(CASES) - {"language"}))
def test_a_rule_judges_each_document_by_itself(rule: str) -> None:
    docs = [doc for cases in CASES.values() for doc in (*cases.drop, *cases.keep)]
    together = reasons(docs, rule)
    apart = [reasons([doc], rule)[0] for doc in docs[::7]]
    assert together[::7] == apart


def test_sound_text_of_every_rule_passes_the_default_preset() -> None:
    sound = [doc for rule in PRESETS["default"][4:] if rule in CASES for doc in CASES[rule].keep]
    assert [doc for doc, reason in zip(sound, reasons(sound, "default"), strict=True) if reason] == []


def test_rules_in_tokens_compare_lengths() -> None:
    docs = documents([ask("Hi", str(n)) for n in range(4)])
    config = CleanConfig(rules="too_short,too_long", options={"too_long": {"max_tokens": 100}})
    marked = clean_by_tokens(docs, pl.Series([15, 16, 100, 101]).to_numpy(), config)
    assert marked["drop_reason"].to_list() == ["too_short", None, None, "too_long"]
    assert marked.columns == docs.columns


def test_every_rule_is_tested_and_has_a_docstring() -> None:
    assert set(CASES) | IN_TOKENS | OF_PAIRS == set(RULES)
    assert all(cases.drop and cases.keep for cases in CASES.values())
    assert all(len(inspect.getdoc(rule) or "") > 40 for rule in RULES.values())


def test_every_rule_and_option_is_in_the_documentation() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+|by name) \| (.*?) \|", DOCS.read_text(encoding="utf-8"), re.MULTILINE
    )
    presets = dict.fromkeys(PRESETS["default"], "default")
    wanted = []
    for name, rule in RULES.items():
        options = ", ".join(f"`{p.name}` {p.default}" for p in inspect.signature(rule).parameters.values())
        preset = presets.get(name, "strict" if name in PRESETS["strict"] else "by name")
        wanted.append((name, preset, options.replace("('en',)", '["en"]') or "none"))
    assert rows == wanted


def test_presets_name_rules_and_strict_contains_default() -> None:
    assert set(PRESETS["strict"]) > set(PRESETS["default"])
    assert set(PRESETS["strict"]) <= set(RULES)
    assert PRESETS["off"] == ()


def test_among_works_the_check_out_for_suspects_alone() -> None:
    seen: list[str] = []

    def look(texts: pl.Series) -> pl.Series:
        seen.extend(texts)
        return texts == "yes"

    check = pl.col("a").map_batches(look, return_dtype=pl.Boolean, is_elementwise=True)
    frame = pl.DataFrame({"a": ["yes", "no", None, "yes"], "b": [True, True, None, False]})
    assert frame.select(among(pl.col("b"), check)).to_series().to_list() == [True, False, False, False]
    assert seen == ["yes", "no"]


def test_lines_said_before_are_counted_by_their_characters() -> None:
    assert repeated_lines("\n".join(["abcd"] * 15 + ["xy"] * 5)) == pytest.approx(1 - 6 / 70)
    assert repeated_lines("abcd\n" * 19) == 0.0


@pytest.mark.parametrize("share", [0.2, 0.29, 0.31, 0.9])
def test_a_loop_counts_by_its_share_of_the_answer(share: float) -> None:
    words = " ".join(f"w{n}" for n in range(400))[:1000]
    stuck = words[: int(1000 * (1 - share))] + "and then " * int(1000 * share / 9 + 1)
    expected = "repetition" if share > 0.3 else None
    assert reasons([ask("Hi", stuck)], "repetition") == [expected]
    assert reasons([ask("Hi", stuck + words[:50])], "repetition") == ["repetition" if share > 0.5 else None]


LOOP = "I should look at this once more, from the beginning. " * 40
LIVELY = " ".join(f"Step {n} turns {n * 7} into {n * n}." for n in range(200))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
@pytest.mark.parametrize(
    ("thought", "said", "expected"),
    [
        (LOOP, "Done.", "repetition"),
        (LOOP, LIVELY, "repetition"),
        (LOOP.replace(". ", ".\n") + '"\u00e9"', "Done.", "repetition"),
        (LIVELY, LOOP, "repetition"),
        (LIVELY, "Done.", None),
        (LIVELY + LOOP[:200], "Done.", None),
    ],
)
def test_reasoning_that_got_stuck_is_judged_alike_in_a_field_and_in_a_think_block(
    field, thought, said, expected
):
    inline = ask("Hi", f"<think>\n{thought}\n</think>\n\n{said}")
    held = [
        ask("Hi", said)._replace(extra=json.dumps({"messages": [{}, {field: thought}]}, ensure_ascii=a))
        for a in (0, 1)
    ]
    tools = [{"function": {"name": "f", "description": LIVELY}}]
    more = json.dumps({"tools": tools, "messages": [{}, {field: thought, "tool_calls": [{}]}]})
    docs = [inline, *held, ask("Hi", said)._replace(extra=more)]
    assert reasons(docs, "repetition") == [expected] * 4

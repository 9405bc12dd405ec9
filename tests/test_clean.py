"""The cleaning stage: presets and their edits, options, special tokens, rules of one's own."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl
import pytest
from chats import write_rows
from clean_cases import PAGE, Doc, ask, documents

import tokpack
from tokpack.errors import UsageError
from tokpack.settings.config import CleanConfig, Config
from tokpack.stages.clean import clean, clean_by_tokens, rules_of
from tokpack.stages.rules import PRESETS
from tokpack.stages.special_tokens import SpecialTokens

END, START = "<|endoftext|>", "<|im_start|>"
TAGS = ("<think>", "</think>", "<repo_name>")
SPECIAL = SpecialTokens(every=(END, START, *TAGS), ends=(END,), openers=(START,))


def reasons(docs: list[Doc], **config: Any) -> list[str | None]:
    return clean(documents(docs), CleanConfig(**config), SPECIAL).documents["drop_reason"].to_list()


@pytest.fixture
def own_rules() -> Any:
    """A module of the user's, importable as `my_rules`."""

    def shouting(min_share: float = 0.5) -> pl.Expr:
        answer = pl.col("answer")
        return answer.str.count_matches(r"\p{Lu}") > min_share * answer.str.len_chars()

    def long(limit: int = 10) -> pl.Expr:
        return pl.col("tokens") > limit

    module = ModuleType("my_rules")
    module.shouting, module.long, module.mojibake = shouting, long, shouting  # type: ignore[attr-defined]
    module.wrong, module.no_column = (lambda: True), (lambda: pl.col("anwser") == "x")  # type: ignore[attr-defined]
    module.raises, module.text = (lambda: 1 / 0), (lambda: pl.col("answer"))  # type: ignore[attr-defined]
    module.number = lambda: pl.col("answer") > 3  # type: ignore[attr-defined]
    sys.modules["my_rules"] = module
    yield module
    del sys.modules["my_rules"]


def test_the_first_rule_that_hits_is_the_reason() -> None:
    docs = [Doc([("narrator", None)]), Doc([("user", None)]), ask("Hi", "Hello")]
    assert reasons(docs) == ["unknown_role", "null_content", None]


def test_a_reason_once_set_stays() -> None:
    marked = documents([ask("Hi", "")]).with_columns(drop_reason=pl.lit("earlier"))
    assert clean(marked, CleanConfig()).documents["drop_reason"].to_list() == ["earlier"]


def test_rows_and_their_order_stay() -> None:
    docs = documents([ask("Hi", ""), ask("Hi", "a"), ask("Hi", PAGE)])
    cleaned = clean(docs, CleanConfig()).documents
    assert cleaned.drop("drop_reason").equals(docs.drop("drop_reason"))
    assert cleaned.schema == docs.schema


def test_an_empty_batch_stays_empty() -> None:
    for rules in ("default", "strict", "off"):
        assert clean(documents([]), CleanConfig(rules=rules, mask_personal=True)).documents.is_empty()


@pytest.mark.parametrize(
    ("rules", "names"),
    [
        ("off", []),
        ("", []),
        ("default", [*PRESETS["default"]]),
        ("mojibake, no_answer", ["mojibake", "no_answer"]),
        ("default,+refusal,-mojibake", [*(n for n in PRESETS["default"] if n != "mojibake"), "refusal"]),
        ("-mojibake", [n for n in PRESETS["default"] if n != "mojibake"]),
        ("+url_only", [*PRESETS["default"], "url_only"]),
        ("off,+url_only", ["url_only"]),
        ("default,mojibake", [*PRESETS["default"]]),
        ("strict,-refusal,+too_long", [*(n for n in PRESETS["strict"] if n != "refusal"), "too_long"]),
    ],
)
def test_presets_can_be_edited(rules: str, names: list[str]) -> None:
    assert list(rules_of(CleanConfig(rules=rules))) == names


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"rules": "mojibak"}, ["no filter named 'mojibak'", "did you mean 'mojibake'"]),
        ({"rules": "default,-mojibak"}, ["-mojibak: the rule is not on", "clean.rules", "'mojibake'"]),
        ({"options": {"mojibak": {}}}, ["no rule named 'mojibak'", "clean.options.mojibak"]),
        ({"options": {"mojibake": {"min_cuont": 1}}}, ["no option 'min_cuont'", "did you mean 'min_count'"]),
        (
            {"options": {"mojibake": {"min_count": "1"}}},
            ["'1' is not a whole number", "clean.options.mojibake.min_count"],
        ),
        ({"options": {"mojibake": {"min_share": 5}}}, ["min_share cannot be 5", "between 0 and 1"]),
        ({"options": {"no_answer": {"x": 1}}}, ["no_answer has no option 'x'", "this rule has no options"]),
        ({"rules": "my_rules:nothing"}, ["cannot load filter 'my_rules:nothing'"]),
        ({"rules": "my_rules:wrong"}, ["it returned bool, not a polars expression", "rule wrong"]),
        ({"rules": "my_rules:no_column"}, ["no column 'anwser'", "rule no_column", "'answer'"]),
        ({"rules": "my_rules:raises"}, ["it failed: ZeroDivisionError", "rule raises"]),
        ({"rules": "default,my_rules:text"}, ["it gives String, not true or false", "rule text"]),
        ({"rules": "default,my_rules:number"}, ["it failed: ", "rule number"]),
        ({"rules": "defalt"}, ["did you mean 'default'"]),
        ({"rules": "default,my_rules:mojibake"}, ["two rules are named 'mojibake'"]),
    ],
)
def test_mistakes_are_named_with_their_place(
    config: dict[str, Any], words: list[str], own_rules: ModuleType
) -> None:
    with pytest.raises(UsageError) as error:
        reasons([ask("Hi", "Hello")], **config)
    assert [word for word in words if word not in str(error.value)] == []


def test_options_come_from_the_config_file() -> None:
    table = {
        "rules": "default",
        "options": {"repetition": {"min_repeats": 200}, "too_short": {"min_tokens": 3}},
    }
    config = Config.from_dict({"clean": table}).clean
    stuck = ask("Hi", "no " * 90)
    assert reasons([stuck]) == ["repetition"]
    assert reasons([stuck], rules=config.rules, options=config.options) == [None]
    with pytest.raises(UsageError, match="not a table"):
        Config.from_dict({"clean": {"options": {"repetition": 3}}})


def test_a_rule_of_ones_own_gets_options_and_gives_its_name_as_reason(own_rules: ModuleType) -> None:
    docs = [ask("Hi", "HELLO"), ask("Hi", "Hello"), ask("Hi", "")]
    assert reasons(docs, rules="default,my_rules:shouting") == ["shouting", None, "empty_answer"]
    options = {"shouting": {"min_share": 0.1}}
    assert reasons(docs, rules="my_rules:shouting", options=options) == ["shouting", "shouting", None]


def test_the_rule_in_the_documentation_works(own_rules: ModuleType) -> None:
    page = (Path(__file__).resolve().parent.parent / "docs" / "cleaning.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    exec(code, own_rules.__dict__)
    (table,) = re.findall(r"```toml\n(.*?)```", page, re.DOTALL)
    config = Config.from_dict(tomllib.loads(table)).clean
    assert config.options["language"] == {"keep": ["en", "de"]}
    docs = [ask("Hi", "HELLO"), ask("Hi", "Hello")]
    assert reasons(docs, rules="default,my_rules:too_loud") == ["too_loud", None]


def test_rules_that_read_tokens_wait_for_them(own_rules: ModuleType) -> None:
    docs = documents([ask("Hi", "one"), ask("Hi", "")])
    config = CleanConfig(rules="default,my_rules:long")
    cleaned = clean(docs, config).documents
    assert cleaned["drop_reason"].to_list() == [None, "empty_answer"]
    marked = clean_by_tokens(cleaned, pl.Series([11, 12]).to_numpy(), config)
    assert marked["drop_reason"].to_list() == ["long", "empty_answer"]
    assert clean_by_tokens(cleaned, pl.Series([11, 12]).to_numpy(), CleanConfig()) is cleaned


def test_special_tokens_are_stripped_from_the_ends_before_rules_look() -> None:
    docs = documents([ask("Hi", f"Hello {END}\n{END}"), ask("Hi", END), ask("Hi", f"a {END} b")])
    cleaned = clean(docs, CleanConfig(), SPECIAL)
    assert [c[-1] for c in cleaned.documents["contents"].to_list()] == ["Hello", "", f"a {END} b"]
    assert cleaned.documents["drop_reason"].to_list() == [None, "empty_answer", None]
    assert cleaned.counters == {
        "special_token_stripped": 2,
        "special_token_inside": 1,
        "end_token_inside": 1,
    }


def test_special_tokens_can_be_kept_or_drop_the_document() -> None:
    docs = [ask("Hi", f"Hello{END}"), ask("Hi", f"a {END} b"), ask("Hi", "a")]
    assert reasons(docs, special_in_content="keep") == [None, None, None]
    assert reasons(docs, special_in_content="drop") == ["special_token_in_content"] * 2 + [None]


@pytest.mark.parametrize("more", [{"reasoning_content": END}, {"tool_calls": [{"name": END}]}])
def test_special_tokens_in_reasoning_and_calls_count_as_well(more: dict[str, Any]) -> None:
    extra = json.dumps({"messages": [{}, more]})
    docs = documents([ask("Hi", "a"), ask("Ho", "a")]).with_columns(extra=pl.Series([extra, None]))
    for mode, reason in (("strip", None), ("keep", None), ("drop", "special_token_in_content")):
        cleaned = clean(docs, CleanConfig(special_in_content=mode), SPECIAL)
        assert cleaned.documents["drop_reason"].to_list() == [reason, None]
        assert cleaned.counters["special_token_inside"] == 1


def test_tags_that_mean_something_stay_at_the_ends() -> None:
    answers = ["<think>hm</think>", f"<think>hm</think>{END}", f"{END} <repo_name>demo"]
    cleaned = clean(documents([ask("Hi", answer) for answer in answers]), CleanConfig(), SPECIAL)
    assert [c[-1] for c in cleaned.documents["contents"].to_list()] == [
        "<think>hm</think>",
        "<think>hm</think>",
        "<repo_name>demo",
    ]


def test_text_rows_keep_their_special_tokens() -> None:
    text = f"{END}a{END}"
    docs = [Doc([("text", text)], kind="text"), Doc([("user", "q"), ("assistant", text)])]
    cleaned = clean(documents(docs), CleanConfig(), SPECIAL)
    assert cleaned.documents["contents"].to_list() == [[text], ["q", "a"]]


def test_documents_that_are_rendered_already_are_left_as_they_are_and_counted() -> None:
    pair = ask(f"{START}user\nq{END}\n{START}assistant\n", f"a{END}\n")
    text = Doc([("text", f" {START}user\nq{END}\n")], kind="text")
    docs = documents([pair, text, ask("q", f"a{START}"), ask("q", f"a{END}")])
    cleaned = clean(docs, CleanConfig(), SPECIAL)
    assert cleaned.documents["contents"].to_list()[:3] == docs["contents"].to_list()[:3]
    assert cleaned.documents["contents"].to_list()[3] == ["q", "a"]
    assert cleaned.counters["rendered_already_text"] == 1
    assert cleaned.counters["rendered_already_chat"] == 1
    assert cleaned.counters["special_token_stripped"] == 1


def test_answers_in_html_are_counted_where_no_rule_drops_them(qwen, tmp_path, caplog):
    row = {
        "conversations": [
            {"from": "human", "value": "Ducks?"},
            {"from": "gpt", "value": "<div><p>3</p></div>"},
        ]
    }
    path = write_rows(tmp_path / "a.jsonl", [json.dumps(row).encode()])
    report = tokpack.analyze(path, tokenizer=str(qwen))
    assert report.data["counters"]["html_answers"] == 1
    assert (
        "1 document holds an answer that is HTML throughout, and is trained on it as it stands" in caplog.text
    )
    dropped = tokpack.analyze(path, tokenizer=str(qwen), clean="+html_answer").data
    assert dropped["ledger"]["documents"]["dropped"] == {"html_answer": 1}
    assert "html_answers" not in dropped["counters"]

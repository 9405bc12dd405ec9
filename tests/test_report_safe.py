"""Text from data must not steer a terminal or reorder a line."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokpack.terminal.printable import one_line, printable, snippet


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain [red]text[/red] <b>", "plain [red]text[/red] <b>"),
        ("\x1b[31mred", "\\u001b[31mred"),
        ("\r\x00\x7f", "\\u000d\\u0000\\u007f"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("\ud800", "\\ud800"),
        ("\ufeff\u200b", "\\ufeff\\u200b"),
        ("\U000e0041", "\\U000e0041"),
        ("a\tb\nc", "a\tb\nc"),
        (
            "caf\u00e9 \u0639\u0631\u0628\u064a \u4e2d\u6587 \U0001f600",
            "caf\u00e9 \u0639\u0631\u0628\u064a \u4e2d\u6587 \U0001f600",
        ),
        ("non\u00a0breaking\u3000space", "non\u00a0breaking\u3000space"),
    ],
)
def test_steering_characters_are_shown_and_all_others_stay(text: str, shown: str) -> None:
    assert printable(text) == shown


@given(st.text(st.characters(), max_size=80))
def test_nothing_printable_returns_can_steer(text: str) -> None:
    shown = printable(text)
    assert all(c.isprintable() or c in "\n\t" or unicodedata.category(c) == "Zs" for c in shown)
    assert printable(shown) == shown
    shown.encode("utf-8")


@given(st.text(st.characters(), max_size=400))
def test_one_line_is_one_line_and_not_much_longer_than_its_limit(text: str) -> None:
    line = one_line(text, 40)
    assert line.isprintable() or all(unicodedata.category(c) == "Zs" for c in line if not c.isprintable())
    assert len(line) <= 40 * len("\\U00000000")


def test_one_line_keeps_both_ends_of_a_long_name() -> None:
    assert one_line("data/" + "x" * 500 + "/train.jsonl", 40).startswith("data/x")
    assert one_line("data/" + "x" * 500 + "/train.jsonl", 40).endswith("/train.jsonl")
    assert len(one_line("x" * 500, 41)) == 41
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_a_snippet_says_that_it_is_cut() -> None:
    assert snippet("  short \n") == "short"
    assert snippet("word " * 200, 20) == "word word word word …"

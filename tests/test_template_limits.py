"""Templates are programs of strangers: each ends, whatever it does, with an error that names the document."""

from __future__ import annotations

import json

import polars as pl
import pytest

import tokpack
from tokpack.errors import DataError, UsageError
from tokpack.stages.render import pieces
from tokpack.stages.render.template import template_limits
from tokpack.stages.render.template.chat_template import ChatTemplate, RenderError, check_template

CHAT = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]
BIG = "{% set x = 'a' * 3000000 %}"
DOUBLING = (
    "{{% set n = namespace(x={x}) %}}{{% for i in range(99) %}}{{% set n.x = n.x {sign} n.x %}}{{% endfor %}}"
)
BOMBS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a macro that calls itself in loops": (
        "{% macro m(n) %}{% for i in range(9) %}{{ m(n - 1) if n }}{% endfor %}{% endmacro %}{{ m(40) }}"
    ),
    "a text that doubles": DOUBLING.format(x="'ab'", sign="~"),
    "a text that doubles by plus": DOUBLING.format(x="'ab'", sign="+"),
    "a list that doubles": DOUBLING.format(x="[1]", sign="+"),
    "a long text": "{{ 'a' * 10 ** 12 }}",
    "a long text turned round": "{{ 10 ** 12 * 'a' }}",
    "a long number": "{{ 9 ** (9 ** 9) }}",
    "a number that grows by itself": DOUBLING.format(x="9", sign="*"),
    "a long number by its digits": "{{ ('f' * 3000000)|int(base=16) // 7 }}",
    "a sum of lists": "{{ ([[1] * 999] * 999)|sum(start=[])|length }}",
    "much output": BIG + "{{ x }}{{ x }}",
    "a wide field": "{{ '%1000000000d' % 1 }}",
    "a wide field by its method": "{{ '{:1000000000}'.format(1) }}",
    "a wide field by an argument": "{{ '{:{}}'.format(1, 10 ** 9) }}",
    "filling": "{{ 'a'.ljust(10 ** 10) }}",
    "the filter center": "{{ 'a'|center(1000000000) }}",
    "the filter batch": "{{ [1]|batch(1000000000, 2)|list|length }}",
    "the filter round": "{{ 1.5|round(1000000000, 'ceil') }}",
    "wide JSON": "{{ {'a': [1]}|tojson(indent=1000000000) }}",
    "a long date": "{{ strftime_now('%Y' * 1000) }}",
    "JSON indented by a text": BIG + "{{ [[[1]]]|tojson(indent=x) }}",
    "JSON with much between": BIG + "{{ [1, 2]|tojson(separators=(x, x)) }}",
    "replacing": BIG + "{{ x.replace('a', 'aaaaaaaa') }}",
    "the filter replace": BIG + "{{ x|replace('a', 'aaaaaaaa') }}",
    "joining": BIG + "{{ [x, x, x, x]|join('') }}",
    "joining by its method": BIG + "{{ ''.join([x, x, x, x]) }}",
    "ticks taken away": (
        "{% set tick = 1 %}{% set environment = 1 %}"
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_template_that_does_too_much_ends(bomb, monkeypatch):
    monkeypatch.setattr(template_limits, "MOST_CHARACTERS", 1 << 22)
    with pytest.raises(UsageError, match="the chat template does not end: the template "):
        check_template(BOMBS[bomb])
    with pytest.raises(RenderError, match=r"the template (takes|makes|fills) "):
        ChatTemplate(BOMBS[bomb]).render(CHAT)


def test_a_step_that_takes_long_is_ended_by_the_clock(monkeypatch):
    monkeypatch.setattr(template_limits, "MOST_SECONDS", 0.0)
    with pytest.raises(RenderError, match="more than 0 seconds"):
        ChatTemplate("{% for i in range(999) %}{% endfor %}").render(CHAT)


def test_many_documents_beyond_a_limit_end_the_run():
    template = ChatTemplate("{{ 'a' * 10 ** 12 }}")
    for _ in range(template_limits.MANY - 1):
        with pytest.raises(RenderError):
            template.render(CHAT)
    with pytest.raises(UsageError, match="the chat template does not end"):
        template.render(CHAT)


def test_a_long_chat_is_far_from_the_limits():
    template = ChatTemplate(
        "{% for m in messages %}{% set t = m.content ~ '\n' %}{{ t + m.role.replace('s', 'ss') }}{% endfor %}"
    )
    text, _ = template.render(CHAT * 5000)
    assert text.startswith("hi\nusserhello\nassssisstant")


@pytest.mark.slow
def test_a_template_that_looks_through_all_messages_at_each_of_them_has_steps_for_it():
    template = ChatTemplate(
        "{% for m in messages %}{% for n in messages %}{% endfor %}{{ m.content }}{% endfor %}"
    )
    assert template.render(CHAT * 520)[0] == "hihello" * 520
    bomb = "{% for m in messages %}{% for n in messages %}{% for i in range(99) %}{% endfor %}{% endfor %}"
    with pytest.raises(RenderError, match="the template takes more than 1,320,000 steps"):
        ChatTemplate(bomb + "{% endfor %}").render(CHAT * 100)


def test_the_document_that_a_template_does_not_end_on_is_named(tmp_path, smollm2):
    rows = [{"messages": [*CHAT[:1], {"role": "assistant", "content": f"{i}"}]} for i in (5, 99, 7)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = (
        "{% for m in messages %}{{ m.content }}\n"
        "{% for i in range(9 ** (m.content|int)) if m.content == '99' %}{% endfor %}"
        "{% if m.content == '99' %}{{ 'a' * 10 ** 12 }}{% endif %}{% endfor %}"
    ).replace("{% for i in range(9 ** (m.content|int)) if m.content == '99' %}{% endfor %}", "")
    options = {"tokenizer": str(smollm2), "chat_template": str(tmp_path / "t.jinja"), "clean": "off"}
    (tmp_path / "t.jinja").write_text(template)
    tokpack.pack(str(tmp_path / "a.jsonl"), tmp_path / "out", max_length=64, **options)
    dropped = pl.read_parquet(tmp_path / "out" / "dropped.parquet").select("row", "reason", "detail").rows()
    assert [(row, reason) for row, reason, _ in dropped] == [(2, "template_error")]
    assert "the template makes more than" in dropped[0][2]


@pytest.mark.parametrize("turns", [1, 2, 5], ids=["written in columns", "a few shapes", "one by one"])
def test_a_template_that_writes_much_for_each_document_is_stopped_before_the_memory_is_taken(
    tmp_path, smollm2, monkeypatch, turns
):
    monkeypatch.setattr(pieces, "MOST_WRITTEN", 1_000_000)
    rows = [{"messages": CHAT * (1 + number % turns)} for number in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    looked = "{% if messages|length > 9 %}{{ messages[9].content|length * 'ab ' }}{% endif %}"
    template = "{% for m in messages %}{{ m.content }}{{ 'ab ' * 30000 }}{% endfor %}" + looked
    (tmp_path / "t.jinja").write_text(template)
    options = {"tokenizer": str(smollm2), "chat_template": str(tmp_path / "t.jinja"), "max_length": 64}
    with pytest.raises(DataError, match=r"the chat template makes [0-9,]+ bytes and more") as error:
        tokpack.pack(str(tmp_path / "a.jsonl"), tmp_path / "out", clean="off", **options)
    assert error.value.where.startswith("a.jsonl, row ")

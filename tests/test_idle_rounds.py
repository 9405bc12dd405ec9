"""Loops that only look for something end when it is found; loops that may do more do not."""

from __future__ import annotations

import pytest
from jinja2 import nodes

from tokpack.stages.render.template.chat_template import ENVIRONMENT, ChatTemplate

USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
LOOK_BACK = (
    "{%- for m in messages -%}{%- set ns = namespace(found=false, role='none') -%}"
    "{%- for j in range(loop.index0 - 1, -1, -1) -%}{%- if not ns.found -%}"
    "{%- if messages[j].role != 'tool' -%}{%- set ns.role = messages[j].role -%}"
    "{%- set ns.found = true -%}{%- endif -%}{%- endif -%}{%- endfor -%}"
    "<{{ m.role }} after {{ ns.role }}>{%- endfor -%}"
)


def breaks(source):
    return len([*ENVIRONMENT.parse(source).find_all(nodes.Break)])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (LOOK_BACK, 1),
        ("{% for m in messages[1:] %}{% if ns.done %}{% elif m.a %}x{% else %}y{% endif %}{% endfor %}", 1),
        ("{% for m in messages[1:] %}{% if m.a %}x{% endif %}{% endfor %}", 0),
        ("{% for m in messages[1:] %}{% if loop.first %}x{% endif %}{% endfor %}", 0),
        ("{% for m in messages[1:] %}{% if f() %}x{% endif %}{% endfor %}", 0),
        ("{% for m in messages[1:] %}{% if a %}x{% else %}y{% endif %}{% endfor %}", 0),
        ("{% for m in messages[1:] %}{% if a %}x{% endif %}-{% endfor %}", 0),
        ("{% for m in messages[1:] if m %}{% if a %}x{% endif %}{% endfor %}", 0),
        ("{% for m in messages|map('f') %}{% if a %}x{% endif %}{% endfor %}", 0),
    ],
)
def test_a_break_comes_where_no_later_round_does_anything(source, expected):
    assert breaks(source) == expected


def test_what_is_looked_for_is_found_as_without_the_break():
    chat = [USER, ANSWER, {"role": "tool", "content": "r"}, ANSWER]
    text, _ = ChatTemplate(LOOK_BACK).render(chat)
    assert text == "<user after none><assistant after user><tool after assistant><assistant after assistant>"


ANY = (
    "{% for m in messages %}{% set ns = namespace(found=false) %}"
    "{% for later in messages[loop.index:] %}"
    "{% if later.role == 'assistant' and 'calls' not in later %}{% set ns.found = true %}{% endif %}"
    "{% endfor %}{{ m.role }} {{ ns.found }};{% endfor %}"
)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", 1),
        ("set ns.found = true", "set ns.found = later.role", 0),
        ("later.role ==", "later.a.b ==", 0),
        ("'calls' not in later", "'calls' not in later.content", 0),
        ("'calls' not in later", "not loop.first", 0),
        ("{% endif %}{% endfor %}", "{% endif %}-{% endfor %}", 0),
        ("messages[loop.index:]", "messages|map('f')", 0),
    ],
)
def test_whether_any_later_message_is_of_a_kind_is_asked_from_the_end(old, new, expected):
    assert breaks(ANY.replace(old, new) if old else ANY) == expected


def test_whether_any_later_message_is_of_a_kind_is_answered_the_same():
    for chat in ([USER, ANSWER, USER], [USER, {**ANSWER, "calls": 1}, USER, ANSWER, USER, USER], [USER]):
        kinds = [m["role"] == "assistant" and "calls" not in m for m in chat]
        said = [f"{m['role']} {any(kinds[i + 1 :])};" for i, m in enumerate(chat)]
        assert ChatTemplate(ANY).render(chat)[0] == "".join(said)


def test_asking_for_the_answer_at_the_end_takes_steps_that_grow_with_the_chat_alone(monkeypatch):
    monkeypatch.setattr("tokpack.stages.render.template.template_limits.MOST_STEPS", 6000)
    monkeypatch.setattr("tokpack.stages.render.template.template_limits.STEPS_OF_PAIR", 0)
    assert ChatTemplate(ANY).render([USER, {**ANSWER, "calls": 1}] * 500 + [ANSWER])[0].count(";") == 1001


def test_looking_back_takes_steps_that_grow_with_the_chat_alone(monkeypatch):
    monkeypatch.setattr("tokpack.stages.render.template.template_limits.MOST_STEPS", 6000)
    monkeypatch.setattr("tokpack.stages.render.template.template_limits.STEPS_OF_PAIR", 0)
    assert ChatTemplate(LOOK_BACK).render([USER, ANSWER] * 500)[0].count("<") == 1000

"""The Jinja environment against transformers': the same text, or an error in both."""

from __future__ import annotations

import datetime

import pytest
from encode_helpers import NAMES, random_chats, template
from packaging.version import Version

from tokpack.errors import UsageError
from tokpack.stages.render.template.chat_template import ChatTemplate, RenderError

VARIABLES = {"bos_token": "<s>", "eos_token": "</s>"}

FEATURES = {
    "tojson": "{{ messages | tojson }}{{ messages[0] | tojson(indent=2, sort_keys=true) }}"
    "{{ messages[0] | tojson(ensure_ascii=true, separators=(',', ':')) }}",
    "loop controls": "{% for m in messages %}{% if loop.index == 2 %}{% continue %}{% endif %}{{ m.role }}"
    "{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}",
    "whitespace": "  {% if true %}\n  a\n  {% endif %}\n{{ 1 }}\n  {%- set x = 2 %}\n{{ x }}\n",
    "namespace": "{% set ns = namespace(n=0, self='s') %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}{{ ns.self }}",
    "dict": "{{ dict(a=1, b='c') | tojson }}{{ dict([['x', 2]]) }}{{ dict.fromkeys('ab', 1) }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}{{ m }}{% endfor %}",
    "undefined": "{{ messages[0].nothing }}{{ nothing is defined }}{{ messages[9] is undefined }}",
    "variables": "{{ bos_token }}{{ eos_token }}{{ tools }}{{ documents }}{{ add_generation_prompt }}",
    "macro": "{% macro f(x, y=1) %}[{{ x }}{{ y }}]{% endmacro %}{{ f(1) }}{{ f(2, y=3) | trim }}",
    "no html escaping": "{{ '<b>&' }}{{ {'a': '<b>&\\u00e9'} | tojson }}",
    "generation in a macro": "{% macro f(x) %}{% generation %}{{ x }}{% endgeneration %}{% endmacro %}"
    "a{{ f(messages[0].role) }}b{% generation %}c{% endgeneration %}",
    "generation in a block": "ab{% set x %}{% generation %}{{ messages[0].role }}{% endgeneration %}"
    "{% endset %}{{ x }}",
}
FAILURES = {
    "raise_exception": "{{ raise_exception('no, ' + messages[0].role) }}",
    "private name in a namespace": "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "private name at once": "{% set ns = namespace(__class__=1) %}",
    "sandbox": "{{ ''.__class__.__mro__ }}",
    "changing the messages": "{{ messages.append(1) }}",
    "undefined attribute": "{{ nothing.more }}",
    "adding nothing": "{{ 'a' + messages[0].nothing }}",
}
SINCE = {
    **dict.fromkeys(("tojson", "reasoning"), "5.21"),
    **dict.fromkeys(("private name in a namespace", "private name at once"), "5.22"),
}
"""The transformers that brought reasoning under each of its names, and a narrower sandbox."""
MESSAGES = [
    {"role": "user", "content": "é <b>", "name": None},
    {"role": "assistant", "content": None, "reasoning": "why", "tool_calls": [{"function": {"name": "f"}}]},
    {"role": "tool", "content": "1"},
    {"role": "assistant", "content": "done", "thinking": "", "reasoning_content": None},
]


def by_transformers(source, messages, tools=None, add_generation_prompt=False):
    from transformers.utils.chat_template_utils import render_jinja_template

    present = [{k: v for k, v in message.items() if v is not None} for message in messages]
    texts, spans = render_jinja_template(
        conversations=[present],
        tools=tools,
        chat_template=source,
        return_assistant_tokens_mask=True,
        add_generation_prompt=add_generation_prompt,
        **VARIABLES,
    )
    return texts[0], spans[0]


def skip_before(name):
    """What a later transformers brought."""
    import transformers

    if Version(transformers.__version__) < Version(SINCE.get(name, "0")):
        pytest.skip(f"transformers does so from {SINCE[name]} on")


@pytest.mark.parametrize("name", FEATURES)
def test_templates_see_what_transformers_shows_them(name):
    skip_before(name)
    ours = ChatTemplate(FEATURES[name], VARIABLES).render(MESSAGES)
    assert ours == by_transformers(FEATURES[name], MESSAGES)


@pytest.mark.parametrize("name", FAILURES)
def test_what_fails_in_transformers_is_a_render_error(name):
    with pytest.raises(RenderError):
        ChatTemplate(FAILURES[name], VARIABLES).render(MESSAGES)
    skip_before(name)
    with pytest.raises(Exception):  # noqa: B017  each fails in its own way
        by_transformers(FAILURES[name], MESSAGES)


def test_the_message_of_an_error_is_the_template_s_own():
    with pytest.raises(RenderError, match=r"^no, user$"):
        ChatTemplate(FAILURES["raise_exception"]).render(MESSAGES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("prompt", [False, True])
def test_known_templates_render_as_in_transformers(name, prompt):
    ours = ChatTemplate(template(name), VARIABLES)
    for messages, tools in [*random_chats(20, 1), *random_chats(25, 2, tools=True)]:
        try:
            expected = by_transformers(template(name), messages, tools, prompt)
        except Exception:
            with pytest.raises(RenderError):
                ours.render(messages, tools, add_generation_prompt=prompt)
        else:
            assert ours.render(messages, tools, add_generation_prompt=prompt) == expected


def test_the_date_is_the_one_given_and_known_to_be_used():
    dated = ChatTemplate("{{ strftime_now('%d %B %Y') }}", date=datetime.date(2024, 7, 26))
    assert dated.render([])[0] == "26 July 2024"
    assert dated.uses_date
    assert not ChatTemplate("{{ messages }}").uses_date


def test_a_template_that_does_not_compile_names_its_line():
    with pytest.raises(UsageError, match="line 2") as error:
        ChatTemplate("a\n{% for %}").render([])
    assert "--chat-template" in str(error.value)


def test_generation_tags_are_recognized_however_they_are_written():
    assert ChatTemplate("{%-generation-%}a{%+ endgeneration %}").has_generation
    assert not ChatTemplate("{# {% generation %} #}{{ 'generation' }}").has_generation

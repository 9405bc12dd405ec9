"""The template compiler: the same as Jinja row by row, and Jinja wherever that is not certain."""

from __future__ import annotations

import re
from functools import cache
from types import SimpleNamespace

import families
import numpy as np
import polars as pl
import pytest
from chat_ways import by_compiler, by_jinja, differences
from encode_helpers import (
    NAMES,
    byte_level,
    document,
    frame,
    open_here,
    random_chats,
    small_tokenizer,
    template,
    tokenizer_folder,
)

from tokpack.stages.render.compiled.shape_keys import chat_key
from tokpack.stages.render.compiled.symbolic_template import SymbolicTemplate
from tokpack.stages.render.compiled.symbols import WHITESPACE, Observed, Opaque, Slot, Symbol
from tokpack.stages.render.compiled.template_compiler import TemplateCompiler
from tokpack.stages.render.pieces import Spans, write_slot
from tokpack.stages.render.reference import chat_reference, to_messages
from tokpack.stages.render.render import Renderer, RenderSettings, _failed_shapes, render
from tokpack.stages.render.spans.chat_spans import SpanFinder
from tokpack.stages.render.template.chat_template import ChatTemplate, RenderError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("compiler") / "tokenizer"


@cache
def opened(folder, source):
    return small_tokenizer(folder, chat_template=source)


def spans(where: Spans, row: int):
    return [span for span in where.of_row(row) if span[0] < span[1]]


def assert_as_by_jinja(documents, rendered, renderer):
    for row, (roles, contents, extra) in enumerate(
        documents.select("roles", "contents", "extra").iter_rows()
    ):
        if row in rendered.errors:
            continue
        text, trained, written, *_ = renderer.reference(*to_messages(roles, contents, extra))
        assert rendered.text[row].as_py() == text
        assert spans(rendered.trained, row) == [s for s in trained if s[0] < s[1]]
        assert spans(rendered.content, row) == [s for s in written if s[0] < s[1]]


@pytest.mark.parametrize("loss", ["assistant", "last", "all"])
@pytest.mark.parametrize("name", NAMES)
def test_compiled_chats_are_those_of_jinja(folder, name, loss):
    documents = frame(document(*chat) for chat in random_chats(80, seed=7))
    renderer = Renderer(opened(folder, template(name, tagged=False)), RenderSettings(loss=loss))
    rendered = render(documents, renderer)
    assert_as_by_jinja(documents, rendered, renderer)
    assert not any("differed" in warning for warning in renderer.warnings)
    assert rendered.counters["compiled"] + rendered.counters["jinja"] == 80
    # What has no odd content and no error is compiled. Most of these contents are odd.
    assert rendered.counters["compiled"] >= (8 if name == "qwen3" else 20)


def test_shapes_that_would_write_too_much_are_left_to_jinja(folder, monkeypatch):
    monkeypatch.setattr("tokpack.stages.render.compiled.template_compiler.MOST_WRITTEN", 200)
    documents = frame(document(*chat) for chat in random_chats(80, seed=7))
    renderer = Renderer(opened(folder, template("llama3")), RenderSettings())
    rendered = render(documents, renderer)
    assert_as_by_jinja(documents, rendered, renderer)
    assert min(rendered.counters["compiled"], rendered.counters["jinja"]) > 0


def test_simple_templates_compile_every_chat(folder):
    chats = random_chats(100, seed=8)
    for name in ("smollm2", "llama3", "mistral_v3", "llama2", "alpaca", "parts"):
        renderer = Renderer(opened(folder, template(name)), RenderSettings())
        assert render(frame(document(*chat) for chat in chats), renderer).counters["compiled"] == 100


def test_every_row_is_proved_when_paranoid_and_some_otherwise(folder):
    documents = frame(document(*chat) for chat in random_chats(120, seed=9))
    tokenizer = opened(folder, template("llama3"))
    some = render(documents, Renderer(tokenizer, RenderSettings()))
    all_of_them = render(documents, Renderer(tokenizer, RenderSettings(paranoid=True)))
    shapes = documents["roles"].list.join(" ").n_unique()
    assert shapes <= some.counters["proofs"] <= shapes + 16
    assert all_of_them.counters["proofs"] == 120
    assert some.text == all_of_them.text


def test_a_failed_proof_leaves_the_shape_to_jinja_with_a_warning(folder, monkeypatch):
    body = "{{ m.role }}: {{ m.content | replace('three', '3') }}."
    tokenizer = opened(folder, "{% for m in messages %}" + body + "{% endfor %}")
    monkeypatch.setattr(Observed, "lacks", lambda self, slot, constant: None)
    renderer = Renderer(tokenizer, RenderSettings(loss="all"))
    documents = frame([document([{"role": "user", "content": "longer than three"}])])
    rendered = render(documents, renderer)
    assert rendered.text[0].as_py() == "user: longer than 3."
    assert rendered.counters["jinja"] == 1
    assert "differed" in renderer.warnings[0]


def test_the_first_chats_of_a_shape_with_more_than_texts_go_to_jinja(folder):
    renderer = Renderer(opened(folder, template("qwen3")), RenderSettings())
    plain = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    chats = [
        document(plain),
        document([plain[0], {"role": "assistant", "content": "<think>x</think>y"}]),
        document([{"role": "user", "content": "<tool_response>"}, plain[1]]),
        document(plain, tools=[]),
        document([plain[0], {**plain[1], "reasoning_content": "r"}]),
        {"roles": ["user", "assistant"], "contents": ["a", None], "extra": None},
        {"roles": ["user\x1fassistant"], "contents": ["a"], "extra": None},
    ]
    for row, chat in enumerate(chats):
        assert render(frame([chat]), renderer).counters["compiled"] == (row == 0), chat
    documents = frame(chats[:5] * 6)
    rendered = render(documents, renderer)
    assert rendered.counters["compiled"] >= 22
    assert_as_by_jinja(documents, rendered, renderer)


SPACED = [
    {"role": "user", "content": "Both? "},
    {**families.calling(families.call()), "content": "I look."},
    {**families.answer_of(), "content": "\t\n21 degrees\r\n"},
    {"role": "assistant", "content": "It is fine."},
]


@pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
@pytest.mark.parametrize("name", ["llama3_1", "gemma4"])  # as JSON; before what the call says
def test_white_space_around_tools_answers_is_theirs_on_both_ways(folder, name):
    renderer = Renderer(opened(folder, families.stock(name)), RenderSettings(paranoid=True))
    rendered = render(frame([document(SPACED, tools=families.TOOLS)] * 3), renderer)
    assert renderer.warnings == []
    text = rendered.text[0].as_py().encode()
    said = [text[start:end].decode() for start, end in rendered.content.of_row(0)]
    assert any(re.fullmatch(r"(\\[tn]|\s){2}21 degrees(\\[rn]|\s){2}", one) for one in said), said


def test_roles_are_not_confused_by_their_separator(folder):
    tokenizer = opened(folder, "{% for m in messages %}[{{ m.role }}|{{ m.content }}]{% endfor %}")
    renderer = Renderer(tokenizer, RenderSettings(loss="all"))
    roles = [["a\x1fb", "c"], ["a", "b\x1fc"], ["a", "b"]]
    rendered = render(frame({"roles": r, "contents": ["1", "2"]} for r in roles), renderer)
    assert rendered.text.to_pylist() == [f"[{a}|1][{b}|2]" for a, b in roles]


STRIPS = {
    "message.content | trim": (WHITESPACE, WHITESPACE),
    "message.content.lstrip()": (WHITESPACE, ""),
    "message.content.rstrip('\\n')": ("", "\n"),
    "message.content.strip(' \\n')": (" \n", " \n"),
    "message.content.strip('\\r')": ("\r", "\r"),
    "message.content.strip().strip('\\n')": (WHITESPACE, WHITESPACE),
    "message.content": ("", ""),
}
PLAIN_JSON = (("ensure_ascii", False), ("indent", None), ("separators", None), ("sort_keys", False))
ODD_TEXTS = ["\x1f\u3000 \n", "\n\n", " \t", "\u200b", "\xa0\r\n", '"', "\\", "\x00", "\x7f\x85", "é\u2028"]


@pytest.mark.parametrize("expression", STRIPS)
def test_stripping_is_found_out_and_done_as_python_does_it(expression):
    body = "{{ '<' + message.role + '>' }}{{ " + expression + " }}{{ '</s>' }}"
    source = "{% for message in messages %}" + body + "{% endfor %}"
    finder = SpanFinder(ChatTemplate(source), ("</s>",))
    compiler = TemplateCompiler(finder.template, lambda *chat: chat_reference(finder, *chat, "assistant"))
    left, right = STRIPS[expression]
    slots = compiler.shape(chat_key(("user", "assistant"))).slots
    assert slots == (Slot(0, left, right), Slot(1, left, right))
    texts = [left + "x y" + right for left in ODD_TEXTS for right in ODD_TEXTS] + ODD_TEXTS
    cleaned = write_slot(slots[0], pl.Series(texts)).to_list()
    python = [chat_reference(finder, [{"role": "user", "content": t}], None, "all")[0] for t in texts]
    assert [f"<user>{text}</s>" for text in cleaned] == python
    assert cleaned == [slots[0].fill(text) for text in texts]


def test_texts_become_json_as_python_writes_it():
    slot = Slot(0, WHITESPACE, "", PLAIN_JSON)
    texts = [left + "x y" + right for left in ODD_TEXTS for right in ODD_TEXTS]
    assert write_slot(slot, pl.Series(texts)).to_list() == [slot.fill(text) for text in texts]


def test_stripping_with_two_sets_of_characters_is_left_to_jinja():
    source = "{% for m in messages %}{{ m.content.strip('\\r').strip('\\n') + '</s>' }}{% endfor %}"
    finder = SpanFinder(ChatTemplate(source), ("</s>",))
    compiler = TemplateCompiler(finder.template, lambda *chat: chat_reference(finder, *chat, "all"))
    assert compiler.shape(chat_key(("user",))) is None
    assert compiler.opaque


def traced(body):
    """What a template asks about the contents of two messages."""
    seen = Observed()
    roles = ("user", "assistant")
    chat = [{"role": role, "content": Symbol.of([Slot(i)], seen)} for i, role in enumerate(roles)]
    parts = SymbolicTemplate(ChatTemplate("{% for m in messages %}" + body + "{% endfor %}")).run(chat, None)
    return parts, seen


@pytest.mark.parametrize(
    ("body", "constants", "empty"),
    [
        ("{{ m.content }}", set(), False),
        ("{{ m['role'] + m['content'] | trim ~ 'x' }}", set(), False),
        ("{{ m.content.strip() }}{{ m.get('content') }}", set(), False),
        ("{% if '</think>' in m.content %}x{% endif %}", {"</think>"}, False),
        ("{% set c = m.content %}{% if c.startswith('a') or 'b' not in c %}x{% endif %}", {"a", "b"}, False),
        ("{% set c = m.content.split('</t>')[-1] %}{{ c.lstrip('\\n') }}", {"</t>"}, False),
        ("{{ (m.content.split('q') | last) }}{{ m.content | replace('a', 'b') }}", {"q", "a"}, False),
        ("{{ 1 if m.content == 'x' }}{% if m.content in ['y', ''] %}2{% endif %}", {"x", "y"}, True),
        ("{% if m.content %}x{% endif %}", set(), True),
        ("{{ m.content or 'nothing' }}", set(), True),
        ("{% if m.content | length > 0 %}x{% endif %}", set(), True),
        ("{{ m.content if m.content is string else m.content[0].text }}", set(), False),
        ("{% if m.content is not string %}{{ m.content[0] }}{% elif m.role %}x{% endif %}", set(), False),
        ("{% if m.tool_calls %}{{ m.content | upper }}{% endif %}", set(), False),
        ("{% for call in m.tool_calls %}{{ m | tojson }}{% endfor %}", set(), False),
        ("{% macro f(c) %}{{ 'x' if 'z' in c }}{{ c }}{% endmacro %}{{ f(m.content) }}", {"z"}, False),
        ("{% set ns = namespace(s='') %}{% set ns.s = m.content %}{{ ns.s }}", set(), False),
        ("{% if loop.previtem and loop.previtem.content == 'k' %}x{% endif %}", {"k"}, False),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", set(), False),
        ("{{ tools | tojson }}{{ messages | map(attribute='role') | join | upper }}", set(), False),
        ("{{ m | tojson }}{{ messages | map(attribute='content') | join(', ') }}", set(), False),
        ("{% set x %}-{{ m.content }}-{% endset %}{{ x.split('-')[1] }}{{ x | trim }}", {"-"}, False),
        ("{% set x = '<t>' + m.content %}{{ 'y' if '<t>' in x }}{{ x.removeprefix('<t>') }}", {"<t>"}, False),
        (
            "{% for part in m.content.split('a') %}{{ 'y' if 'b' in part }}{{ part }}{% endfor %}",
            {"a", "b"},
            False,
        ),
        ("{% if m.content == messages[loop.index0].content %}x{% endif %}", set(), False),
    ],
)
def test_a_run_on_symbols_shows_what_contents_are_compared_with(body, constants, empty):
    parts, seen = traced(body)
    assert set().union(*seen.constants.values()) == constants
    assert bool(seen.visible) == empty
    assert all(isinstance(part, str | Slot) for part in parts)


@pytest.mark.parametrize(
    "body",
    [
        "{{ m.content[:10] }}",
        "{{ m.content | upper }}",
        "{{ m.content.lower() }}",
        "{{ m.content | tojson | tojson }}",
        "{{ m | tojson(indent=2) }}",
        "{% for c in m.content %}{{ c }}{% endfor %}",
        "{% if m.content > 'a' %}x{% endif %}",
        "{% if messages[1].content == messages[0].content %}x{% endif %}",
        "{% if m.content | length > 5 %}x{% endif %}",
        "{{ (m.content | length) + 1 }}",
        "{% if 'ab' in m.content + 'b' %}x{% endif %}",
        "{% if 'ab' in messages[0].content + messages[1].content %}x{% endif %}",
        "{% if m.content in 'abc' %}x{% endif %}",
        "{{ 'y' if 'abc'.startswith(m.content) }}",
        "{{ {'a': 1}[m.content] }}",
        "{{ {m.content: 1} }}",
        "{{ [m.content] }}",
        "{{ '%s' | format(m.content) }}",
        "{{ '%s' % m.content }}",
        "{{ '{}'.format(m.content) }}",
        "{{ m.content.format('a') }}",
        "{{ 'x' * (m.content | length) }}",
        "{{ m.content * 2 }}",
        "{% set c = m.content %}{% set d = c %}{{ d | title }}",
        "{% set ns = namespace(s=m.content) %}{{ ns.s | reverse }}",
        "{% set x %}{{ m.content }}{% endset %}{{ x[0] }}",
        "{% filter upper %}{{ m.content }}{% endfilter %}",
        "{{ m.content.split() }}",
        "{{ m.content.strip('<') }}",
        "{{ m.content | safe }}",
        "{{ messages | groupby('content') | list }}",
        "{{ m.content | default('x') | int }}",
    ],
)
def test_what_looks_into_contents_otherwise_is_not_compiled(body):
    with pytest.raises(Opaque):
        traced(body)


def test_batches_of_odd_layout_are_rendered_alike(folder):
    """Sliced, chunked and filtered frames, empty ones and single rows."""
    chats = [document(*chat) for chat in random_chats(40, seed=10)]
    renderer = Renderer(opened(folder, template("llama3")), RenderSettings())
    whole = frame(chats)
    expected = render(whole, renderer)
    for documents, rows in [
        (whole[7:19], range(7, 19)),
        (pl.concat([whole[:5], whole[5:40]], rechunk=False), range(40)),
        (whole.filter(pl.col("doc_id") % 3 == 1), range(1, 40, 3)),
        (whole[39:], [39]),
        (whole[:0], []),
    ]:
        rendered = render(documents, renderer)
        assert rendered.text.to_pylist() == [expected.text[row].as_py() for row in rows]
        for part in ("trained", "content"):
            got, want = getattr(rendered, part), getattr(expected, part)
            assert [spans(got, i) for i in range(len(documents))] == [spans(want, row) for row in rows]
            assert len(got.offsets) == len(documents) + 1


@pytest.mark.slow
def test_threads_share_a_renderer(folder):
    from concurrent.futures import ThreadPoolExecutor

    documents = frame(document(*chat) for chat in random_chats(60, seed=11, tools=True))
    renderer = Renderer(opened(folder, template("qwen2_5")), RenderSettings())
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: render(documents, renderer), range(16)))
    assert all(result.text == results[0].text for result in results)
    assert all(np.array_equal(result.trained.starts, results[0].trained.starts) for result in results)


def test_trained_spans_are_those_of_the_reference_with_its_loss():
    finder = SpanFinder(ChatTemplate(template("smollm2", tagged=False)), ("<|im_end|>",))
    compiler = TemplateCompiler(finder.template, lambda *chat: chat_reference(finder, *chat, "last"))
    shape = compiler.shape(chat_key(("user", "assistant", "user", "assistant"))).shape
    header = len("<|im_end|>\n<|im_start|>assistant\n")
    assert shape.trained == ((6, header, 8, len("<|im_end|>")),)
    assert sum(literal.count("<|im_end|>") for literal in shape.literals) == 5


def test_a_warning_about_chats_names_roles_that_are_null(folder, monkeypatch):
    renderer = Renderer(opened(folder, template("smollm2", tagged=False)), RenderSettings())

    def refuse(*_messages, **_options):
        raise RenderError("no")

    monkeypatch.setattr(renderer, "reference", refuse)
    documents = frame([document([{"role": None, "content": "a"}])])
    plan = SimpleNamespace(shape_of_row=np.zeros(1, np.int32), compiled=[None])
    assert _failed_shapes(documents, np.arange(1), None, plan, renderer) == [0]
    assert renderer.warnings == ["chats of the roles None are rendered by Jinja: a compiled one differed"]


@pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
def test_tools_that_a_template_cannot_write_make_no_others_refused(folder):
    called = document([families.MORE, families.calling(families.call())])
    told = [families.ASK, families.TELL]
    bad, good = document(told, tools=[{"about": "nothing"}]), document(told, tools=families.TOOLS)
    renderer = Renderer(opened(folder, families.stock("gemma4")), RenderSettings())
    render(frame([called] * 4), renderer)  # its arguments are looked into
    rendered = render(frame([bad, *[good] * 4]), renderer)
    assert set(rendered.errors) == {0}
    assert rendered.counters["compiled"] == 4


ANSWERED = {"role": "assistant", "content": "\u2028", "reasoning_content": "Why not?\n"}
BLOCK = {"content": "<think>\na\n</think>\n\n"}
SPECIAL = {"content": "<think>\n<|channel>thought\n"}
ALIKE = {
    "reasoning that ends in a line break": ("nemotron_3_ultra", [families.ASK, ANSWERED], ()),
    "a mark that is taken away behind a think block": (
        "gemma4",
        [families.ASK, {"role": "assistant", "content": "<think>\nWhy?\n</think>\n\n<channel|>"}],
        (),
    ),
    "a letter in a think block that is taken away": (
        "nemotron_3_5_lightning",
        [families.ASK, {**families.calling(families.call({"a b": 1})), **BLOCK}, families.ASK, families.TELL],
        (),
    ),
    "a special token at the end": ("gemma4", [families.ASK, {**families.TELL, **SPECIAL}], ()),
    "an answer without words, closed twice": (
        "phi3",
        [families.ASK, {**families.TELL, "content": ""}],
        ("template",),
    ),
}


@pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
@pytest.mark.parametrize("name", ALIKE)
def test_both_ways_find_the_same(folder, name):
    family, chat, masked = ALIKE[name]
    place, seen = folder.with_name("markers"), folder.with_name("markers-snapshot")
    if not place.is_dir():
        tokenizer_folder(byte_level(), place, additional_special_tokens=list(families.markers()))
    tokenizer = open_here(place, seen, families.stock(family))
    documents = frame([document(chat)] * 3)
    one, other = (Renderer(tokenizer, RenderSettings(loss_mask=masked)) for _ in range(2))
    fast, slow = by_compiler(documents, one), by_jinja(documents, other)
    assert differences(documents, fast, slow) == []
    assert fast.told == slow.told

"""Shapes of chats are compiled and proved once for many processes, for the templates and settings that they
came from."""

from __future__ import annotations

import pytest
from encode_helpers import document, frame, random_chats, small_tokenizer, template
from test_render_compiler import assert_as_by_jinja

from tokpack.stages.render.compiled import kept_shapes
from tokpack.stages.render.compiled.template_compiler import TemplateCompiler
from tokpack.stages.render.render import Renderer, RenderSettings, render


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    kept_shapes._kept.cache_clear()
    yield tmp_path / "cache" / "templates"
    kept_shapes._kept.cache_clear()


@pytest.fixture
def compiled(monkeypatch):
    """What is compiled, each time."""
    found = []
    trace = TemplateCompiler._trace

    def traced(self, key, tools):
        found.append((key, tools))
        return trace(self, key, tools)

    monkeypatch.setattr(TemplateCompiler, "_trace", traced)
    return found


def rendered_by(renderer):
    documents = frame(document(*chat) for chat in random_chats(60, seed=7, tools=True))
    rendered = render(documents, renderer)
    assert_as_by_jinja(documents, rendered, renderer)
    return rendered


@pytest.mark.parametrize("name", ["qwen3", "llama3"])
def test_shapes_are_compiled_once(tmp_path, compiled, name):
    tokenizer = small_tokenizer(tmp_path / "tokenizer", chat_template=template(name))
    first = Renderer(tokenizer, RenderSettings())
    first.take_kept()
    before = rendered_by(first)
    shapes = list(compiled)
    assert first.proven
    first.keep()
    compiled.clear()
    kept_shapes._kept.cache_clear()
    second = Renderer(tokenizer, RenderSettings())
    second.take_kept()
    assert len(second.proven) == len(first.proven)
    after = rendered_by(second)
    assert after.text.equals(before.text)
    assert len(compiled) == len(shapes) - len(first.proven)
    assert len(compiled) < len(shapes)


def test_other_settings_templates_and_days_have_shapes_of_their_own(tmp_path):
    tokenizer = small_tokenizer(tmp_path / "tokenizer", chat_template=template("qwen3"))
    first = Renderer(tokenizer, RenderSettings(date="2026-01-02"))
    rendered_by(first)
    first.keep()
    other = small_tokenizer(tmp_path / "other", chat_template=template("llama3"))
    for of, settings in (
        (tokenizer, {"loss": "last"}),
        (tokenizer, {"date": "2026-01-03"}),
        (tokenizer, {"loss_mask": ("thinking",)}),
        (tokenizer, {"template_kwargs": {"enable_thinking": False}}),
        (other, {}),
    ):
        renderer = Renderer(of, RenderSettings(**{"date": "2026-01-02"} | settings))
        renderer.take_kept()
        assert not renderer.proven
    same = Renderer(tokenizer, RenderSettings(date="2026-01-02"))
    same.take_kept()
    assert len(same.proven) == len(first.proven) > 0


def test_nothing_is_written_twice_nor_more_than_a_run_may_keep(tmp_path, folder, monkeypatch):
    tokenizer = small_tokenizer(tmp_path / "tokenizer", chat_template=template("qwen3"))
    renderer = Renderer(tokenizer, RenderSettings())
    rendered_by(renderer)
    with monkeypatch.context() as few:
        few.setattr(kept_shapes, "MOST_SHAPES", 0)
        renderer.keep()
    assert not list(folder.glob("*.shapes"))
    again = Renderer(tokenizer, RenderSettings())
    rendered_by(again)
    again.keep()
    [kept] = folder.glob("*.shapes")
    kept.unlink()
    again.keep()
    assert not kept.exists()


def test_what_cannot_be_read_is_learned_anew(tmp_path, monkeypatch):
    tokenizer = small_tokenizer(tmp_path / "tokenizer", chat_template=template("qwen3"))
    first = Renderer(tokenizer, RenderSettings())
    rendered_by(first)
    monkeypatch.setattr(kept_shapes.pickle, "dumps", lambda *_: b"c" + b"tokpack\nNoSuchClass\n.")
    first.keep()
    monkeypatch.undo()
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    second = Renderer(tokenizer, RenderSettings())
    second.take_kept()
    assert not second.proven
    rendered_by(second)
    assert second.proven

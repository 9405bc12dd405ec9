"""The code of long templates is kept for the next process, and nothing but that code is run."""

from __future__ import annotations

import marshal
from functools import partial

import pytest

from tokpack.stages.render.compiled import symbolic_template
from tokpack.stages.render.template import chat_template, kept_code
from tokpack.stages.render.template.chat_template import ChatTemplate

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
TEMPLATE = (
    "{% for m in messages %}{% for c in m.content %}<{{ c }}>{% endfor %}{% endfor %}{# "
    + "long " * 300
    + "#}"
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "templates"


def code(text):
    return compile(text, "<text>", "eval")


def kept(text, source="a" * 2000, kind="plain"):
    """What the code gives that is used where `text` would be made."""
    return eval(kept_code.kept_code(kind, source, partial(code, text)))


def test_code_is_made_once():
    assert [kept("1"), kept("2"), kept("3", kind="traced"), kept("4", source="b" * 2000)] == [1, 1, 3, 4]


def test_short_templates_are_not_kept(folder):
    assert [kept("1", source="a"), kept("2", source="a")] == [1, 2]
    assert not folder.exists()


@pytest.mark.parametrize("data", [b"", b"a" * 100, marshal.dumps(code("5"))])
def test_a_file_of_something_else_is_made_again(folder, data):
    kept("1")
    [path] = folder.iterdir()
    path.write_bytes(data)
    assert [kept("2"), kept("3")] == [2, 2]


def test_code_under_the_name_of_another_is_made_again(folder):
    kept("1")
    [first] = folder.iterdir()
    kept("2", source="b" * 2000)
    [second] = set(folder.iterdir()) - {first}
    first.replace(second)
    assert kept("3", source="b" * 2000) == 3


def test_a_file_that_others_can_write_is_not_run(folder):
    kept("1")
    [path] = folder.iterdir()
    path.chmod(0o666)
    assert kept("2") == 2
    path.chmod(0o600)
    path.rename(folder / "elsewhere")
    path.symlink_to(folder / "elsewhere")
    assert kept("3") == 3


def test_without_a_folder_of_the_users_own_code_is_made(folder):
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    assert [kept("1"), kept("2")] == [1, 2]


def test_templates_do_the_same_with_kept_code(folder):
    def written():
        chat_template._code.cache_clear()
        symbolic_template._code.cache_clear()
        template = ChatTemplate(TEMPLATE)
        traced = template.render_traced(CHAT, None, "\ue000")
        symbolic = symbolic_template.SymbolicTemplate(template).run(CHAT, None)
        return template.render(CHAT), traced[0], [*map(str, traced[1].notes)], symbolic

    first = written()
    kinds = list(folder.iterdir())
    assert len(kinds) == 3
    times = {path.stat().st_mtime_ns for path in kinds}
    assert repr(written()) == repr(first)
    assert {path.stat().st_mtime_ns for path in folder.iterdir()} == times

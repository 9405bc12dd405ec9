"""Arguments of the chat template, from columns, rows and flags; those that it does not read are named."""

from __future__ import annotations

import json

import pytest
from layout_words import A, Q, msgs
from rows_read import documents

from tokpack.run import Run
from tokpack.settings.config import Config, RenderConfig, SourceConfig, TokenizeConfig
from tokpack.settings.parsing import parse_template_kwargs


def test_template_arguments_that_the_template_does_not_read_are_named(tmp_path, qwen, caplog):
    row = {
        "messages": msgs(Q, A),
        "chat_template_kwargs": {"enable_thinking": False, "moods": ["calm"], "no": []},
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    template = tmp_path / "template.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.role }}:{{ m.content }}{{ enable_thinking }}{% endfor %}"
    )
    config = Config(
        source=(SourceConfig(path=str(path)),),
        tokenize=TokenizeConfig(tokenizer=str(qwen)),
        render=RenderConfig(chat_template=str(template)),
    )
    Run.start(config)
    said = [record.getMessage() for record in caplog.records if "rows bring" in record.getMessage()]
    assert said == ["not read by the chat template, though rows bring them: moods"]


SWITCHED = (
    "{% for m in messages %}{{ m.role }}:{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and enable_thinking is false %}-{% endif %}"
)


@pytest.mark.parametrize("given", [{"enable_thinkin": False}, {"enable_thinkin": False, "mood": "calm"}])
def test_arguments_of_the_flag_that_the_template_does_not_read_are_named(given, tmp_path, qwen, caplog):
    path, template = tmp_path / "rows.jsonl", tmp_path / "template.jinja"
    path.write_text(json.dumps({"messages": msgs(Q, A)}) + "\n", encoding="utf-8")
    template.write_text(SWITCHED)
    config = Config(
        source=(SourceConfig(path=str(path)),),
        tokenize=TokenizeConfig(tokenizer=str(qwen)),
        render=RenderConfig(chat_template=str(template), template_kwargs=given | {"enable_thinking": True}),
    )
    Run.start(config)
    [said] = [r.getMessage() for r in caplog.records if "--template-kwarg" in r.getMessage()]
    assert said.startswith(f"not read by the chat template: {', '.join(given)} (--template-kwarg)")
    assert "did you mean 'enable_thinking'?" in said


@pytest.mark.parametrize("value", ["false", "False", " FALSE ", False])
@pytest.mark.parametrize("container", ["jsonl", "csv"])
def test_a_switch_of_the_template_may_be_a_text(value, container, tmp_path):
    rows = [{"prompt": Q, "completion": A, "enable_thinking": value, "reasoning_effort": "high"}]
    [(_, _, extra, _)], _, _ = documents(tmp_path, rows, container)
    given = json.loads(extra)["chat_template_kwargs"]
    assert given == {"enable_thinking": False, "reasoning_effort": "high"}


def test_a_switch_of_the_flag_may_be_written_as_in_python():
    given = parse_template_kwargs(["enable_thinking=False", "a=True", "b=None", "c=false", "d=May", "e=1"])
    assert given == {"enable_thinking": False, "a": True, "b": None, "c": False, "d": "May", "e": 1}

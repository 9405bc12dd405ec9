"""lm-eval's tasks on base and adapters: as lm-eval's own model has them, paired; no code of task files."""

from __future__ import annotations

import json
import random
import sys
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("lm_eval")
sys.path.insert(0, str(Path(__file__).parent))

from adapter_files import save_adapter
from commands import run
from trainer_rows import make_documents, save_tiny_model, write_packed

from tokpack.errors import DataError, UsageError
from tokpack.terminal.activity import Activity
from trainer_plugin import prepare_model
from trainer_plugin.adapters.loaded import load_adapted
from trainer_plugin.checkpoints.adapter_folder import read_adapters
from trainer_plugin.evaluation import tasks
from trainer_plugin.evaluation.tasks import (
    Samples,
    TaskSettings,
    _run,
    compare_samples,
    read_tasks,
    run_tasks,
)

QUESTIONS = 14
CHOICES = """\
task: words
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - {metric: acc}
  - {metric: acc_norm}
"""
GENERATED = """\
task: told
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{choices[answer]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 4, do_sample: false}
metric_list:
  - {metric: exact_match}
"""
ROLLING = """\
task: texts
dataset_path: json
dataset_kwargs: {data_files: {test: words.jsonl}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{question}}"
metric_list:
  - {metric: word_perplexity}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A base, two adapters, three task files beside their data, a packed dataset."""
    folder = tmp_path_factory.mktemp("tasks")
    save_tiny_model(folder / "base")
    save_adapter(folder / "base", folder / "a", seed=1)
    save_adapter(folder / "base", folder / "b", seed=2)
    write_packed(folder / "packed", make_documents(), 64)
    rng = random.Random(0)

    def words(count: int) -> str:
        return " ".join(f"w{rng.randrange(3, 128)}" for _ in range(count))

    rows = [
        {"question": words(rng.randrange(5, 40)), "choices": [words(3) for _ in range(4)], "answer": i % 4}
        for i in range(QUESTIONS)
    ]
    (folder / "words.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("words", CHOICES), ("told", GENERATED), ("texts", ROLLING)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def loaded(place):
    model = load_adapted(place / "base", read_adapters([place / "a", place / "b"]), dtype="float32")
    prepare_model(model.network, probe=False)
    return model


@pytest.fixture(scope="module")
def compared(place, loaded):
    tasks = read_tasks([str(place / f"{name}.yaml") for name in ("words", "told", "texts")])
    return run_tasks(loaded, tasks, TaskSettings(), Activity(quiet=True))


def plain_samples(place: Path, adapter: str | None, task: str) -> list[dict]:
    """Samples of lm-eval's `hf` model, with the adapter loaded by it."""
    from lm_eval.models.huggingface import HFLM

    (spec,) = read_tasks([str(place / f"{task}.yaml")])
    options = {} if adapter is None else {"peft": str(place / adapter)}
    model = HFLM(str(place / "base"), dtype="float32", device="cpu", batch_size=4, **options)
    return _run(model, spec, TaskSettings()).by_task[task]


@pytest.mark.slow
def test_choices_and_texts_are_scored_as_by_lm_evals_own_model(place, loaded, compared):
    from trainer_plugin.evaluation.lm import TokpackLM

    model = TokpackLM(loaded.network, tokenizer=loaded.tokenizer, batch_size=1)
    assert model.scorer.reason is None
    for task in ("words", "texts"):
        for adapter in (None, "a"):
            expected = plain_samples(place, adapter, task)
            with loaded.using(adapter):
                (spec,) = read_tasks([str(place / f"{task}.yaml")])
                samples = _run(model, spec, TaskSettings()).by_task[task]
            for ours, theirs in zip(samples, expected, strict=True):
                assert ours["doc_hash"] == theirs["doc_hash"]
                if task == "texts":
                    assert ours["word_perplexity"][0] == pytest.approx(theirs["word_perplexity"][0], abs=1e-4)
                    continue
                assert ours["acc"] == theirs["acc"]
                for mine, other in zip(ours["filtered_resps"], theirs["filtered_resps"], strict=True):
                    assert mine[0] == pytest.approx(other[0], abs=1e-4)
                    assert mine[1] == other[1]


@pytest.mark.slow
def test_base_and_adapters_are_compared_question_by_question(place, compared):
    one = next(c for c in compared if (c.adapter, c.task, c.metric) == ("a", "words", "acc"))
    base, ours = ([s["acc"] for s in plain_samples(place, name, "words")] for name in (None, "a"))
    assert one.primary
    assert one.questions == QUESTIONS
    assert one.base.value == pytest.approx(sum(base) / QUESTIONS)
    assert one.value.value == pytest.approx(sum(ours) / QUESTIONS)
    assert one.only_base == sum(x > y for x, y in zip(base, ours, strict=True))
    assert one.only_adapter == sum(y > x for x, y in zip(base, ours, strict=True))
    assert 0 < one.p_value <= 1
    assert one.difference.low <= one.difference.value <= one.difference.high
    texts = next(c for c in compared if (c.adapter, c.task) == ("b", "texts"))
    assert not texts.higher_is_better
    assert texts.p_value is None
    told = [c for c in compared if c.task == "told"]
    assert {c.metric for c in told} == {"exact_match"}
    assert {c.adapter for c in told} == {"a", "b"}


def test_generated_texts_are_those_of_lm_evals_own_model(place, loaded):
    from trainer_plugin.evaluation.lm import TokpackLM
    from trainer_plugin.models.strategies import attention_of

    model = TokpackLM(loaded.network, tokenizer=loaded.tokenizer, batch_size=1)
    (spec,) = read_tasks([str(place / "told.yaml")])
    with loaded.using("b"):
        ours = _run(model, spec, TaskSettings(limit=3)).by_task["told"]
    theirs = plain_samples(place, "b", "told")[:3]
    assert [one["resps"] for one in ours] == [one["resps"] for one in theirs]
    assert attention_of(loaded.network) == "tokpack"
    assert loaded.network.config.use_cache is False


def test_the_command_has_tasks_in_json_gates_and_on_the_page(place, tmp_path):
    page = tmp_path / "e.html"
    options = ["--dtype", "float32", "--no-probe", "--limit", 5, "--gate", "words > 2", "--html", page]
    ended = run(
        "eval", place / "packed", "-a", place / "a", "--tasks", place / "words.yaml", "--json", *options
    )
    assert ended.returncode == 1
    assert "words > 2 failed: the lower end" in ended.stderr
    data = json.loads(ended.stdout)
    assert [(one["metric"], one["questions"], one["limit"]) for one in data["tasks"]] == [
        ("acc", 5, 5),
        ("acc_norm", 5, 5),
    ]
    assert "the first 5 questions" in "".join(data["notes"])
    assert "words: acc, a" in page.read_text()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("process_docs: !function code.clean\n", "!function code.clean"),
        ("doc_to_target: !function code.target\n", "!function code.target"),
        ("include: other.yaml\n", "include"),
        ("class: !function code.Task\n", "class"),
        ("metric_list: [{metric: somebody/metric}]\n", "metric somebody/metric"),
        ("unsafe_code: true\n", "unsafe_code"),
    ],
)
def test_a_task_file_that_would_run_code_is_refused(tmp_path, text, what):
    path = tmp_path / "t.yaml"
    key = text.partition(":")[0]
    lines = [line for line in CHOICES.splitlines(True) if not line.startswith((f"{key}:", "  -"))]
    path.write_text("".join(lines).replace("metric_list:\n", "") + text)
    with pytest.raises(UsageError, match="can run code") as error:
        read_tasks([str(path)])
    assert what in error.value.what
    assert "--trust-tasks" in error.value.hint
    assert read_tasks([str(path)], trusted=True)[0].spec == str(path)


def test_templates_of_a_task_file_reach_nothing_but_their_question(place, loaded):
    path = place / "sly.yaml"
    sly = "{{ question.__class__.__mro__[1].__subclasses__() }}"
    path.write_text(CHOICES.replace("{{question}}", sly).replace("task: words", "task: sly"))
    with pytest.raises(Exception, match="unsafe"):
        run_tasks(loaded, read_tasks([str(path)]), TaskSettings(limit=1), Activity(quiet=True))


def test_files_that_are_no_task_are_said(tmp_path):
    (tmp_path / "a.yaml").write_text("- 1\n")
    (tmp_path / "b.yaml").write_text("a: [\n")
    (tmp_path / "c.yaml").write_text("output_type: multiple_choice\n")
    for name, what in (
        ("a", "holds no table"),
        ("b", "not YAML"),
        ("c", "has no name"),
        ("d", "no such task file"),
    ):
        with pytest.raises(UsageError, match=what):
            read_tasks([str(tmp_path / f"{name}.yaml")])


def test_a_name_that_lm_eval_does_not_know_is_said(loaded, monkeypatch):
    import lm_eval.tasks

    whole = lm_eval.tasks.TaskManager
    arc = Path(lm_eval.tasks.__file__).parent / "arc"

    def manager(include_defaults):
        """Its thousands of files take a quarter of a minute to read: those of one folder stand for them."""
        assert include_defaults
        return whole(include_path=str(arc), include_defaults=False)

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)
    monkeypatch.setattr(tasks, "_index", cache(tasks._index.__wrapped__))
    with pytest.raises(UsageError, match="lm-eval knows no task 'arc_eas'") as error:
        run_tasks(loaded, read_tasks(["arc_eas"]), TaskSettings(), Activity(quiet=True))
    assert "arc_easy" in error.value.hint


def test_other_questions_are_not_compared():
    def samples(digest: str) -> Samples:
        one = {
            "doc_id": 0,
            "filter": "none",
            "doc_hash": digest,
            "prompt_hash": "p",
            "metrics": ["acc"],
            "acc": 1,
        }
        return Samples({"t": [one]}, {"acc": True}, ["acc"])

    assert compare_samples("t", "a", samples("x"), samples("x"), 0)[0].difference.value == 0
    with pytest.raises(DataError, match="same questions"):
        compare_samples("t", "a", samples("x"), samples("y"), 0)


def test_the_example_asks_for_no_code_and_its_data_lies_beside_it(tmp_path, loaded):
    text = (Path(__file__).parent.parent / "examples" / "tasks" / "gsm8k_local.yaml").read_text()
    (tmp_path / "gsm8k_local.yaml").write_text(text.replace("max_gen_toks: 256", "max_gen_toks: 3"))
    row = {"question": "w5 w6", "answer": "w7 #### 8"}
    (tmp_path / "gsm8k_question_answer.jsonl").write_text(json.dumps(row) + "\n")
    (task,) = read_tasks([str(tmp_path / "gsm8k_local.yaml")])
    found = run_tasks(loaded, [task], TaskSettings(), Activity(quiet=True))
    assert {(one.metric, one.questions) for one in found} == {("exact_match", 1)}

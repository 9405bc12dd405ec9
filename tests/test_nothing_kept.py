"""Runs that leave out everything: an error with the reasons, a record, and nothing that looks finished."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import families
import polars as pl
import pytest
from rows_read import with_jq

import tokpack
from tokpack.errors import DataError, UsageError
from tokpack.on_disk.reasons import PROMPTS_ONLY
from tokpack.stages.normalize.layouts.hints import way_out

GOOD = [
    {"messages": [{"role": "user", "content": f"What is {i}?"}, {"role": "assistant", "content": f"A {i}."}]}
    for i in range(8)
]
NO_ANSWER = [{"messages": []}, {"messages": [{"role": "user", "content": "Hello?"}]}]
UNREADABLE = [{"messages": [{"role": "user", "content": 3}]}]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("rows", "options", "told", "way"),
    [
        (
            NO_ANSWER,
            {},
            "of 2 documents 2 no_answer; the first no_answer: a.jsonl:1",
            f"rows of {PROMPTS_ONLY}; where there is one, check --format and --map; "
            "--clean default,-no_answer --loss all trains on the prompts themselves",
        ),
        (
            UNREADABLE,
            {"allow_bad": 1.0},
            "of 1 document 1 unreadable; the first unreadable: a.jsonl:1, "
            "messages[1].content is a number, not a string",
            "--format and --map",
        ),
        (
            GOOD,
            {"budget": "2"},
            "of 8 documents 8 over_budget; the first over_budget: a.jsonl:1",
            "--budget",
        ),
        (
            GOOD,
            {"max_length": 4},
            "of 8 documents 8 overlong; the first overlong: a.jsonl:1, 21 tokens, capacity 4",
            "--max-length",
        ),
        (GOOD, {"val": 0.99999}, "of 8 documents 8 held_out; the first held_out: a.jsonl:1", "--val"),
        (
            [*NO_ANSWER, *UNREADABLE, *GOOD],
            {"allow_bad": 1.0, "max_length": 4},
            "of 11 documents 8 overlong, 2 no_answer, 1 unreadable; the first overlong: a.jsonl:4, "
            "21 tokens, capacity 4; the first unreadable: a.jsonl:3, "
            "messages[1].content is a number, not a string",
            "--max-length",
        ),
    ],
)
def test_a_run_that_keeps_no_document_names_the_reasons_and_records_each(
    tmp_path, qwen, rows, options, told, way
):
    data, out = write(tmp_path / "a.jsonl", rows), tmp_path / "out"
    with pytest.raises(DataError, match="nothing is left") as error:
        tokpack.pack(data, out, tokenizer=str(qwen), **options)
    assert error.value.what == f"nothing is left to train on: {told}"
    assert way in error.value.hint
    dropped = pl.read_parquet(out / "dropped.parquet")["doc_id"].to_list()
    unreadable = [json.loads(line)["doc_id"] for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert sorted(dropped + unreadable) == list(range(len(rows)))
    named = {name for name, ids in (("dropped.parquet", dropped), ("quarantine.jsonl", unreadable)) if ids}
    assert {Path(place).name for place in error.value.where.split(", ")} == named
    report = json.loads((out / "report.json").read_text())
    assert report["ledger"]["documents"]["kept"] == 0


def test_what_it_leaves_is_no_packed_dataset_no_input_and_in_nobodys_way(tmp_path, qwen):
    data, out, work = write(tmp_path / "a.jsonl", GOOD), tmp_path / "out", tmp_path / "work"
    work.mkdir()
    with pytest.raises(DataError, match="8 overlong"):
        tokpack.pack(data, out, tokenizer=str(qwen), max_length=4, work_dir=work)
    assert not any(work.iterdir())
    with pytest.raises(UsageError):
        tokpack.open_packed(out)
    again = tokpack.pack(tmp_path, out, tokenizer=str(qwen))
    alone = tokpack.pack(data, tmp_path / "alone", tokenizer=str(qwen))
    assert [source["name"] for source in again.manifest["inputs"]] == ["a.jsonl"]
    assert again.manifest["shards"] == alone.manifest["shards"]
    assert sorted(path.name for path in again.folder.iterdir()) == sorted(
        path.name for path in alone.folder.iterdir()
    )
    assert tokpack.verify(out).ok


def test_clean_that_keeps_no_document_writes_no_rows(tmp_path):
    data, out = write(tmp_path / "a.jsonl", [*NO_ANSWER, *UNREADABLE]), tmp_path / "kept.jsonl"
    with pytest.raises(DataError, match="of 3 documents 2 no_answer, 1 unreadable") as error:
        tokpack.clean(data, out, allow_bad=1.0)
    assert error.value.where == f"{tmp_path / 'kept.dropped.parquet'}, {tmp_path / 'kept.quarantine.jsonl'}"
    assert {path.name for path in tmp_path.iterdir()} == {
        *("a.jsonl", "kept.dropped.parquet", "kept.quarantine.jsonl", "kept.report.json")
    }
    tokpack.clean(write(tmp_path / "b.jsonl", GOOD), out)  # what was left is in nobody's way
    assert len(out.read_text().splitlines()) == len(GOOD)
    assert not (tmp_path / "kept.quarantine.jsonl").exists()
    with pytest.raises(UsageError, match="exists already"):
        tokpack.clean(data, out, allow_bad=1.0)
    with pytest.raises(DataError, match="nothing is left"):
        tokpack.clean(data, out, allow_bad=1.0, overwrite=True)
    assert not out.exists()


def test_clean_names_a_shape_that_holds_no_document(tmp_path):
    with pytest.raises(DataError, match="8 not_in_format") as error:
        tokpack.clean(write(tmp_path / "a.jsonl", GOOD), tmp_path / "kept.jsonl", to="text")
    assert "--to" in error.value.hint


@pytest.mark.parametrize("report", ["{}", "no JSON", '{"ledger": {"documents": {"kept": 3}}}'])
def test_clean_takes_no_report_of_others_for_one_that_kept_nothing(tmp_path, report):
    (tmp_path / "kept.report.json").write_text(report)
    with pytest.raises(UsageError, match="exists already"):
        tokpack.clean(write(tmp_path / "a.jsonl", GOOD), tmp_path / "kept.jsonl")


@pytest.mark.parametrize(
    ("rows", "told"), [(NO_ANSWER, "2 documents none is kept: 2 no_answer"), (UNREADABLE, "1 unreadable")]
)
def test_analyze_reports_that_nothing_would_be_kept(tmp_path, qwen, rows, told):
    from rich.console import Console

    report = tokpack.analyze(write(tmp_path / "a.jsonl", rows), tokenizer=str(qwen), allow_bad=1.0)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(report)
    text = console.export_text()
    assert "Nothing is left to train on" in text
    assert f"{told}. `pack` would write nothing." in text
    assert ("These are prompts only" in text) == (rows is NO_ANSWER)


ASKED = {"role": "user", "content": "What is two and two?"}


@pytest.mark.parametrize(
    ("prompt", "beside", "way"),
    [
        ("What is two and two?", {"id": "a7"}, "; --map text=prompt trains on the prompts themselves"),
        ([ASKED], {"source": "a b"}, ""),
        ([{"role": "system", "content": "Be short."}, ASKED], {}, ""),
    ],
)
def test_a_column_of_prompts_alone_is_no_answer_to_itself(prompt, beside, way):
    rows = [{"prompt": prompt, **beside}] * 2
    assert way_out(list(rows[0]), rows) == f"rows of {PROMPTS_ONLY}{way}"
    for other in (
        {"prompt": [ASKED, {"role": "assistant", "content": "It is four."}]},
        {"notes": "It is four."},
    ):
        row = rows[0] | other
        assert "prompts only" not in way_out(list(row), [row])


def test_more_unreadable_rows_are_allowed_to_an_unfinished_run(tmp_path, qwen):
    data = write(tmp_path / "a.jsonl", [*GOOD, *UNREADABLE])
    with pytest.raises(DataError, match=r"--allow-bad 0\.12"):
        tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen))
    packed = tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen), allow_bad=0.12)
    assert packed.ledger["documents"] == {"read": 9, "kept": 8, "dropped": {}, "quarantined": 1}


def test_a_hold_out_that_draws_nothing_is_told(tmp_path, qwen, caplog):
    tokpack.pack(write(tmp_path / "a.jsonl", GOOD), tmp_path / "out", tokenizer=str(qwen), val=1e-9)
    assert any("no conversation is held out" in message for message in caplog.messages)


def test_documents_without_a_trained_token_name_their_roles(tmp_path, qwen):
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "train": False}]
    data = write(tmp_path / "a.jsonl", [{"messages": messages}])
    with pytest.raises(DataError, match="none with a label; its roles: user, assistant"):
        tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen))


@with_jq
@pytest.mark.skipif(families.folder() is None, reason="trl is not installed")
@pytest.mark.parametrize("others", [0, 1])
def test_reasoning_and_a_text_beside_a_call_that_gpt_oss_refuses_are_told_with_what_helps(
    tmp_path, qwen, caplog, others
):
    (tmp_path / "chat.jinja").write_text(families.stock("gptoss"))
    options = {"tokenizer": str(qwen), "chat_template": str(tmp_path / "chat.jinja")}
    call = {**families.calling(families.call()), "content": "I look.", **families.THOUGHT}
    empty = {**call, "content": ""}
    rows = [{"messages": [families.ASK, call]}, {"messages": [families.ASK, empty]}][: 1 + others]
    data, lines = write(tmp_path / "a.jsonl", rows), tmp_path / "lines.jsonl"
    if others:
        tokpack.pack(data, tmp_path / "out", **options)
        [said] = [message for message in caplog.messages if "jq -c" in message]
        assert said.startswith("1 document left out as template_error: ")
    else:
        with pytest.raises(DataError, match="both content and thinking") as error:
            tokpack.pack(data, tmp_path / "out", **options)
        said = error.value.hint
    program = re.search(r"jq -c '(.*)' FILE", said)[1]
    with lines.open("w") as out:
        subprocess.run(["jq", "-c", program, str(data)], stdout=out, check=True)
    again = [json.loads(line)["messages"][1] for line in lines.read_text().splitlines()]
    assert again == [families.calling(families.call()) | {"content": "I look."}, empty][: 1 + others]
    packed = tokpack.pack(lines, tmp_path / "all", **options)
    assert packed.ledger["documents"]["kept"] == 1 + others


def test_a_reason_that_takes_over_a_twentieth_of_the_documents_is_told_at_the_end(tmp_path, qwen, caplog):
    def chat(question, answer):
        return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}

    rows = [chat(f"question {n}", "" if n < 2 else f"answer {n}") for n in range(20)]
    rows.append(rows[-1])  # one of 21 is less than a twentieth
    tokpack.pack(write(tmp_path / "a.jsonl", rows), tmp_path / "out", tokenizer=str(qwen))
    said = [message for message in caplog.messages if "of the documents" in message]
    assert len(said) == 1
    assert "9.5% of the documents, 2 of 21, are left out as empty_answer" in said[0]
    assert said[0].endswith("dropped.parquet names each")


def test_what_a_template_says_cannot_look_like_lines_of_tokpack(tmp_path, qwen):
    forged = "no\nerror: forged\n  hint: run this\x1b[31m"
    template = tmp_path / "chat.jinja"
    template.write_text("{{ raise_exception(" + json.dumps(forged) + ") }}")
    data = str(write(tmp_path / "a.jsonl", GOOD))
    with pytest.raises(DataError, match=r"first template_error: a\.jsonl:1, no") as error:
        tokpack.pack(data, tmp_path / "out", tokenizer=str(qwen), chat_template=str(template))
    lines = str(error.value).splitlines()
    assert [line.partition(":")[0] for line in lines[1:]] in (["  hint"], ["  at", "  hint"])
    assert "run this" in lines[0]

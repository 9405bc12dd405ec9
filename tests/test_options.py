"""Options: the same in Python and on the command line; a mistake names what was typed."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
from typer.testing import CliRunner

import tokpack
from tokpack.cli import app, mount_plugins, prepare
from tokpack.cli.app import application, name_of
from tokpack.cli.options import NAMES, WITHOUT, flag_of, packed_folder
from tokpack.errors import SettingError, UsageError
from tokpack.settings import options
from tokpack.settings.options import OPTIONS, AnalyzeOptions, CleanOptions, PackOptions, make_config, meaning
from tokpack.settings.parsing import parse_length

COMMANDS = [("analyze", AnalyzeOptions), ("pack", PackOptions), ("clean", CleanOptions)]


def flags(name: str) -> set[str]:
    return set(inspect.signature(getattr(prepare, name)).parameters)


@pytest.mark.parametrize(("name", "group"), COMMANDS)
def test_each_keyword_of_python_is_a_flag_and_each_flag_a_keyword(name, group):
    python = set(inspect.signature(getattr(tokpack, name)).parameters) - {"tell"}
    renamed = {NAMES.get(option, option) for option in python - WITHOUT}
    # a part is `tokpack.pack_part`; index_only is short for a value of shard_format
    only_there = {"json", "quiet", "html", "report", "full", "part", "index_only"}
    assert renamed - only_there == flags(name) - only_there
    assert set(get_type_hints(group)) <= python


@pytest.mark.parametrize(("name", "group"), COMMANDS)
def test_the_docstring_says_each_keyword_with_the_sentence_of_the_flag(name, group):
    text = inspect.getdoc(getattr(tokpack, name)) or ""
    for option, hint in get_type_hints(group, include_extras=True).items():
        assert f"{option}: {meaning(hint)}" in text


def test_each_option_but_the_sources_own_sets_a_key_of_the_config():
    known = set(get_type_hints(PackOptions)) | set(get_type_hints(CleanOptions))
    assert known - {"config", "format", "map", "seed"} == set(OPTIONS)
    assert len(set(OPTIONS.values())) == len(OPTIONS)


def test_choices_of_an_option_are_those_of_its_key():
    from tokpack.settings.config import Config

    config = get_type_hints(Config)
    for option, hint in get_type_hints(PackOptions).items():
        section, key = OPTIONS.get(option, ("", ""))
        if section and get_origin(get_args(hint)[0]) is get_origin(Annotated) is not None:
            kind = get_type_hints(config[section])[key]
            assert get_args(hint)[0] == kind, option


@pytest.mark.parametrize(
    ("text", "tokens"), [("4096", 4096), ("1k", 1024), ("32K", 32_768), ("4,096", 4096), (" 8k ", 8192)]
)
def test_a_length_may_be_written_with_a_k(text, tokens):
    assert parse_length(text) == tokens
    assert make_config("x", {"max_length": text}).truncate.max_length == tokens


@pytest.mark.parametrize("text", ["", "k", "4m", "1.5k", "-1"])
def test_a_length_that_cannot_be_read_is_an_error_at_the_flag(text):
    with pytest.raises(SettingError, match="cannot read") as caught:
        make_config("x", {"max_length": text})
    assert caught.value.option == "max_length"
    result = CliRunner().invoke(app, ["analyze", "x", f"--max-length={text}"])
    assert result.exit_code == 2
    assert "--max-length" in result.output


def fail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """What the command says on stderr as it ends with code 2."""
    from tokpack.cli import main

    monkeypatch.setattr("sys.argv", ["tokpack", *map(str, arguments)])
    monkeypatch.setattr("tokpack.terminal.interrupts.watch", lambda command: None)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--max-length", 1], ["--max-length cannot be 1", "at: --max-length", "2 to 2147483647"]),
        (["--near-dup", 2], ["--near-dup cannot be 2.0", "at: --near-dup"]),
        (["--val", 1], ["--val cannot be 1.0", "at: --val"]),
        (["--rows-per-step", 4], ["at: --rows-per-step"]),
        (["--seed", -1], ["--seed cannot be -1", "at: --seed"]),
        (["--mfu", "0.5,0.2"], ["--mfu cannot be", "at: --mfu"]),
        (["--gpu-count", 0], ["at: --gpu-count"]),
        (["--workers", -1], ["--workers cannot be -1"]),
        (["--planner", "bdf"], ["no planner named 'bdf'", "at: --planner", "did you mean 'bfd'"]),
        (["--clean", "strikt"], ["at: --clean", "did you mean 'strict'"]),
        (["--overlong", "trun"], ["Invalid value for '--overlong': 'trun' is not one of 'auto'"]),
    ],
)
def test_a_mistake_names_the_flag_that_was_typed(capsys, monkeypatch, given, said):
    text = fail(capsys, monkeypatch, "analyze", "x.jsonl", "-t", "m", *given).replace(",", "")
    assert not [part for part in said if part.replace(",", "") not in text], text


def test_a_file_of_evaluation_text_that_is_not_there_is_said_before_any_work(capsys, monkeypatch, tmp_path):
    data = tmp_path / "x.jsonl"
    data.write_text('{"text": "a"}\n')
    text = fail(capsys, monkeypatch, "analyze", data, "-t", tmp_path, "--against", tmp_path / "none.jsonl")
    assert "none.jsonl" in text
    assert "tokenizer" not in text


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("[truncate]\nmax_length = 1\n", ["max_length cannot be 1", "run.toml: [truncate] max_length"]),
        ("[plan]\nplaner = 'bfd'\n", ["unknown key 'planer'", "run.toml: plan", "'planner'"]),
        ("[truncate]\noverlong = 'cut'\n", ["'cut' is not a choice", "run.toml: [truncate] overlong"]),
        ("max_length = 4096\n", ["'max_length' stands outside its table", "below the line [truncate]"]),
        ("near_dup = 0.8\n", ["0.8 is not a table", "run.toml: near_dup", "threshold"]),
        ("maxlength = 1\n", ["unknown key 'maxlength'", "run.toml"]),
        ("seed = -1\n", ["seed cannot be -1", "run.toml: seed"]),
        ("[[source]]\npath = 'x'\nrepeat = 0.5\n", ["cannot be 0.5", "run.toml: source[0].repeat"]),
    ],
)
def test_a_mistake_in_the_file_names_its_table_and_key(capsys, monkeypatch, tmp_path, toml, said):
    file = tmp_path / "run.toml"
    file.write_text(toml)
    text = fail(capsys, monkeypatch, "analyze", "--config", file)
    assert not [part for part in said if part not in text], text


def test_a_flag_over_a_file_is_named_and_in_python_the_keyword(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text("[truncate]\nmax_length = 4096\n")
    with pytest.raises(SettingError, match=r"max_length cannot be 1\n  at: max_length="):
        make_config("x", {"config": file, "max_length": 1})
    assert make_config("x", {"config": Path(file)}).truncate.max_length == 4096
    with pytest.raises(UsageError, match="unknown option 'max_lenght'"):
        make_config("x", {"max_lenght": 1})


def test_version_help_and_panels():
    run = CliRunner().invoke
    assert run(app, ["--version"]).output == f"tokpack {tokpack.__version__}\n"
    for command in ("analyze", "pack", "clean", "verify"):
        assert run(app, [command, "-h"]).output == run(app, [command, "--help"]).output
    text = run(app, ["pack", "-h"]).output
    for group in (options.ReadOptions, options.CleaningOptions, options.RenderOptions, options.BillOptions):
        assert f"─ {group.__doc__} ─" in text
    assert "--install-completion" in run(app, ["-h"]).output


def test_help_fits_80_columns_no_flag_or_word_is_cut(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    mount_plugins()
    for command in map(name_of, app.registered_commands):
        lines = CliRunner().invoke(application(command), [command, "-h"]).output.splitlines()
        assert [line for line in lines if "…" in line] == []
    text = " ".join(CliRunner().invoke(app, ["pack", "-h"]).output.split())
    assert "<auto|preference" not in text
    flat = re.sub(r"[│ ]+", " ", text)
    assert "One of auto, drop, right, left, turns, split." in flat


@pytest.mark.parametrize("quiet", [True, False])
def test_fetching_a_url_is_said_but_with_quiet(quiet, tmp_path, monkeypatch, capsys):
    def fetched(url, tell):
        tell.say(f"fetching {url}")
        return tmp_path

    monkeypatch.setattr("tokpack.packed_urls.local_folder", fetched)
    monkeypatch.setattr("sys.argv", ["tokpack", "verify", "file:///packed", *(["-q"] if quiet else [])])
    assert packed_folder("file:///packed") == tmp_path
    assert capsys.readouterr().err == ("" if quiet else "fetching file:///packed\n")


def test_a_flag_is_made_of_the_option():
    assert [flag_of(name) for name in ("max_length", "eos", "template_kwargs")] == [
        "--max-length",
        "--no-eos",
        "--template-kwarg",
    ]


@pytest.mark.parametrize(("model", "tokenizer"), [("here/llama", "here/llama"), ("here/config.json", "here")])
def test_the_tokenizer_is_that_of_the_model_where_none_is_given(model, tokenizer):
    assert make_config("chats.jsonl", {"model": model}).tokenize.tokenizer == tokenizer
    assert make_config(make_config("chats.jsonl", {"model": model}), {}).tokenize.tokenizer == tokenizer
    other = make_config("chats.jsonl", {"model": model, "tokenizer": "other"})
    assert other.tokenize.tokenizer == "other"

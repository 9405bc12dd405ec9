"""Names, numbers, templates and tokenizers that cannot work: an error that says so, never a traceback."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import commands
import pytest

import tokpack
from tokpack.cost.hf_config import read_shape
from tokpack.encoding.backend_limits import largest_id, read_backend, too_much
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.errors import DataError, TokpackError, UsageError
from tokpack.settings.config import Config, SourceConfig
from tokpack.settings.config_limits import check_limits
from tokpack.stages.read.sources import open_sources
from tokpack.stages.render.template.chat_template import check_template

ROW = '{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}]}\n'
ODD = os.fsdecode(b"caf\xe9\x1b[31m\xe2\x80\xae.jsonl")
"""A name that is not UTF-8, steers a terminal, and reorders a line."""


def mapped_to(text: str) -> str:
    """A table of SentencePiece that writes this in some character's place."""
    return base64.b64encode((8).to_bytes(4, "little") + bytes(8) + f"a\0{text}\0".encode()).decode()


def pack(data: str, out: Path, tokenizer: Path):
    return tokpack.pack(data, out, tokenizer=str(tokenizer), max_length=64)


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("truncate", "max_length", 2**31),
        ("truncate", "max_length", 10**30),
        ("plan", "world_size", 10**9),
        ("plan", "world_size", -1),
        ("plan", "rows_per_step", 10**30),
        ("plan", "max_docs_per_row", 10**30),
        ("plan", "token_cost", 10**30),
        ("write", "shard_mb", 10**30),
        ("select", "budget", 10**30),
    ],
)
def test_numbers_beyond_all_measure_are_refused_by_their_key(section, key, value):
    with pytest.raises(UsageError, match=f"{section}.{key} cannot be {value}"):
        Config.from_dict({section: {key: value}})


@pytest.mark.parametrize("seed", [-1, 10**30])
def test_a_seed_is_a_number_that_generators_take(seed):
    with pytest.raises(UsageError, match="seed cannot be"):
        Config.from_dict({"seed": seed})


@pytest.mark.parametrize(
    "template",
    ["{% for x %}", "{{ x|nosuch }}", "{{ 1 + }}", "{% if %}", "{{ " + "(" * 500 + ")" * 500 + " }}"],
)
def test_a_template_that_does_not_compile_is_told_before_any_work(template):
    with pytest.raises(UsageError, match="the chat template does not compile"):
        check_template(template)


def test_inputs_may_have_any_name_and_errors_show_it_harmless(tmp_path, smollm2):
    path = tmp_path / ODD
    path.write_text(ROW)
    (source,) = open_sources((SourceConfig(path=str(path)),))
    assert source.name.encode("utf-8").startswith(b"caf\\xe9")
    packed = tokpack.pack(str(path), tmp_path / "out", tokenizer=str(smollm2), max_length=64)
    assert packed.manifest["documents"] == 1
    path.write_bytes(b"\xff\xff")
    with pytest.raises(TokpackError) as error:
        tokpack.pack(str(path), tmp_path / "out2", tokenizer=str(smollm2))
    assert all(line.isprintable() for line in str(error.value).splitlines())


@pytest.mark.slow
def test_what_the_command_line_says_is_printable(tmp_path):
    path = tmp_path / ODD
    path.write_text('{"nothing": 1}\n')
    for arguments in (
        ["pack", path, "-t", tmp_path / ODD, "-o", tmp_path / "out"],
        ["verify", path],
        ["\x1b[31m"],
    ):
        command = [sys.executable, "-m", "tokpack", *map(os.fsencode, map(str, arguments))]
        result = subprocess.run(command, capture_output=True, check=False, cwd=tmp_path)
        assert result.returncode == 2, result.stderr
        assert all(line.isprintable() for line in result.stderr.decode("utf-8").splitlines()), result.stderr


@pytest.mark.parametrize("command", ["pack", "verify"])
def test_outputs_of_names_that_are_not_utf8_are_refused(tmp_path, smollm2, command):
    (tmp_path / "a.jsonl").write_text(ROW)
    arguments = {
        "pack": (str(tmp_path / "a.jsonl"), tmp_path / ODD, smollm2),
        "verify": (tmp_path / ODD,),
    }
    if command == "verify":
        (tmp_path / ODD).mkdir()
    with pytest.raises(UsageError, match="the name is not UTF-8"):
        {"pack": pack, "verify": tokpack.verify}[command](*arguments[command])


def test_links_that_lead_nowhere_are_left_out_of_a_folder(tmp_path, caplog):
    (tmp_path / "a.jsonl").write_text(ROW)
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing")
    (tmp_path / "self.jsonl").symlink_to(tmp_path / "self.jsonl")
    assert [source.name for source in open_sources((SourceConfig(path=str(tmp_path)),))] == ["a.jsonl"]
    assert [name in caplog.text for name in ("a.jsonl is", "gone.jsonl is", "self.jsonl is")] == [
        False,
        True,
        True,
    ]
    for name in ("gone.jsonl", "self.jsonl"):
        with pytest.raises(DataError, match="cannot open"):
            open_sources((SourceConfig(path=str(tmp_path / name)),))


@pytest.mark.parametrize("size", [239, 240, 241, 249, 250, 255])
def test_names_as_long_as_the_file_system_takes(tmp_path, smollm2, size):
    source = tmp_path / ("a" * (size - 6) + ".jsonl")
    source.write_text(ROW)
    packed = tokpack.pack(str(source), tmp_path / ("o" * size), tokenizer=str(smollm2), max_length=64)
    assert packed.manifest["documents"] == 1


def test_a_name_that_is_too_long_is_an_error(tmp_path, smollm2):
    (tmp_path / "a.jsonl").write_text(ROW)
    for data, out in (("b" * 256, "out"), ("a.jsonl", "o" * 256)):
        with pytest.raises(TokpackError) as error:
            tokpack.pack(str(tmp_path / data), tmp_path / out, tokenizer=str(smollm2))
        assert error.value.exit_code in (2, 65, 73)


def test_a_tokenizer_of_ids_beyond_int32_is_refused(tmp_path, smollm2):
    folder = shutil.copytree(smollm2, tmp_path / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
    path = Path(folder, "tokenizer.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    data["model"]["vocab"]["beyond"] = 2**31
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(UsageError, match=r"it has the id 2,147,483,648, and ids are int32"):
        load_tokenizer(folder, cache_dir=tmp_path / "cache")


def replace_by(content: str, **pattern: str) -> dict:
    return {"type": "Replace", "pattern": pattern or {"String": "q"}, "content": content}


def sequence(kind: str, steps: list[dict]) -> dict:
    return {"type": "Sequence", kind: steps}


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
TWICE = {
    "type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}] * 2,
    "pair": [],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [1] * 50, "tokens": ["<s>"]}},
}


@pytest.mark.parametrize(
    ("part", "value", "what"),
    [
        ("normalizer", replace_by("x" * 100_000), "its normalizer can make a text 100,000 times as long"),
        ("normalizer", sequence("normalizers", [replace_by("xx", Regex="x|q")] * 60), r"text 1e\+18 times"),
        (
            "normalizer",
            {"type": "Prepend", "prepend": "x" * 33},
            "33 times as long, and 32 times is the most",
        ),
        (
            "pre_tokenizer",
            sequence("pretokenizers", [BYTES] * 9),
            "its pre_tokenizer can make a text 512 times",
        ),
        ("decoder", replace_by("x" * 1000), "its decoder can make a text 1,000 times as long"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": mapped_to("x" * 99)}, "text 99 times"),
        ("post_processor", TWICE, "its post_processor puts 100 ids around a text"),
        ("model", {"vocab": {"x" * 5000: 1}}, "one of its tokens has 5,000 characters"),
        ("model", {"vocab": [["x" * 5000, 0.0]]}, "one of its tokens has 5,000 characters"),
    ],
)
def test_a_tokenizer_that_makes_endless_texts_of_short_ones_is_refused(part, value, what):
    assert re.search(what, too_much({part: value}))


@pytest.mark.parametrize(
    "odd",
    [None, [], "x", 7, {"type": "Sequence", "normalizers": {}}, {"type": "Replace"}, {"type": ["Replace"]}]
    + [{"type": "Precompiled", "precompiled_charsmap": value} for value in ("", "A", 7, "////", None)],
)
def test_a_tokenizer_of_odd_form_is_left_to_tokenizers(odd):
    for part in ("normalizer", "decoder", "post_processor", "model", "added_tokens"):
        assert too_much({part: odd}) == ""
        assert largest_id({part: odd}) == 0


@pytest.mark.slow
def test_tokenizers_of_real_models_make_no_endless_texts(smollm2, whole_qwen):
    cache = Path(os.environ["TOKPACK_CACHE"], "npm-tokenizers")
    for folder in (smollm2, whole_qwen, *cache.glob("*/")):
        for path in folder.rglob("tokenizer.json"):
            assert too_much(read_backend(path)) == "", path


def test_a_pack_with_a_normalizer_that_explodes_says_so_at_once(tmp_path, smollm2):
    folder = shutil.copytree(smollm2, tmp_path / "tokenizer", ignore=shutil.ignore_patterns("*.safetensors"))
    path = Path(folder, "tokenizer.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(data | {"normalizer": replace_by("x" * 100_000)}), encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    rows.write_text(ROW.replace("hi", "q" * 5000) * 20)
    with pytest.raises(UsageError, match="its normalizer can make a text 100,000 times as long"):
        pack(str(rows), tmp_path / "out", folder)


def test_a_nul_in_a_name_is_an_error_of_the_user(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    for arguments in (
        ("clean", "rows.jsonl", "-o", "a\0b"),
        ("clean", "a\0b", "-o", "out.jsonl"),
        ("clean", "rows.jsonl", "-o", "out.jsonl", "--config", "a\0b"),
    ):
        ended = commands.run(*arguments)
        assert ended.returncode == 2, ended.stderr
        assert "hint:" in ended.stderr


def test_a_token_store_in_a_folder_whose_name_is_not_utf_8_is_refused(tmp_path):
    from tokpack.way.output import work_folder

    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="not UTF-8"):
        work_folder(tmp_path / "out", tmp_path / ODD)


@pytest.mark.parametrize(
    "text",
    [b"a = " + b"[" * 9999, b"a = " + b"9" * 9999, b"a = '\xff'"],
    ids=["deep", "long number", "no UTF-8"],
)
def test_a_file_of_settings_is_refused_whatever_stands_in_it(text, tmp_path):
    from tokpack.cost.gpus import load_gpus
    from tokpack.settings.config_file import load_toml
    from trainer_plugin.recipe import load_recipe

    file = tmp_path / "settings"
    file.write_bytes(text)
    for read in (load_toml, load_recipe, load_gpus):
        with pytest.raises(UsageError, match="TOML") as error:
            read(file)
        assert error.value.where == str(file)
    file.write_bytes(text.removeprefix(b"a = "))
    with pytest.raises(UsageError, match="not JSON"):
        read_shape(file)


@pytest.mark.parametrize("number", [-1.0, float("inf"), float("nan")])
def test_a_weight_a_rate_and_a_number_of_epochs_are_numbers_that_can_be(number):
    from trainer_plugin.recipe import Recipe

    with pytest.raises(UsageError, match="cannot be"):
        check_limits(Config(source=(SourceConfig(path="a", weight=number),)))
    for name in ("learning_rate", "epochs"):
        with pytest.raises(UsageError, match="must be above 0"):
            Recipe(**{name: number})

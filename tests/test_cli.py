"""The command line: light start, exit codes, three-part errors, plain output."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from itertools import zip_longest
from pathlib import Path

import pytest
from chats import messy_rows, write_rows
from commands import run
from hypothesis import given, settings
from hypothesis import strategies as st

import tokpack
from tokpack.cli.app import application, name_of
from tokpack.on_disk.sums import covered_files

TOKPACK = [sys.executable, "-c", "from tokpack.cli import main; main()"]


def run_apart(*arguments, **options):
    """In a process of its own."""
    environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "100"}
    return subprocess.run(
        [*TOKPACK, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        **options,
    )


@pytest.fixture(scope="module")
def chats(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", messy_rows(200))


@pytest.fixture(scope="module")
def packed(chats, qwen, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("out") / "packed"
    result = run_apart("pack", chats, "--tokenizer", qwen, "--max-length", 256, "--val", 0.1, "-o", out)
    assert result.returncode == 0, result.stderr
    return out


@pytest.mark.slow
def test_a_process_ends_with_its_code_all_its_output_and_its_exit_functions(tmp_path):
    code = (
        "import atexit, sys, threading, time\nfrom tokpack.cli import app, run\n"
        "@app.command()\ndef many():\n"
        "    atexit.register(lambda: print('exit function'))\n"
        "    threading.Thread(target=lambda: (time.sleep(0.3), print('thread'))).start()\n"
        "    print('line\\n' * 20_000)\n"
        "    sys.exit(7)\n"
        "sys.argv = ['tokpack', 'many']\nrun()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 7, done.stderr
    assert done.stdout.split() == ["line"] * 20_000 + ["thread", "exit", "function"]
    assert (
        subprocess.run(
            [sys.executable, "-m", "tokpack", "verify"], capture_output=True, check=False
        ).returncode
        == 2
    )


@pytest.mark.parametrize("command", ["serve", "eval"])
def test_paragraphs_of_a_help_text_are_broken_by_the_terminal_alone(command):
    (found,) = application(command).registered_commands
    first, *rest = inspect.getdoc(found.callback).split("\n\n")
    assert any("\n" in paragraph for paragraph in rest)
    assert found.help.split("\n\n") == [" ".join(paragraph.split()) for paragraph in (first, *rest)]


@pytest.mark.parametrize("arguments", [["--help"], ["pack", "--help"], ["verify", "--help"]])
def test_help_imports_no_heavy_library(arguments):
    code = (
        "import sys\nfrom tokpack.cli import main\n"
        f"sys.argv = ['tokpack', *{arguments}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = ('polars', 'pyarrow', 'transformers', 'torch', 'numpy', 'datasets', 'numba', 'altair')\n"
        "print('LOADED', [name for name in heavy if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "LOADED []" in out


def test_of_the_commands_only_the_one_that_is_asked_for_is_built():
    for command in ("pack", "merge-adapter"):
        assert [name_of(one) for one in application(command).registered_commands] == [command]
    for command in ("", "pakc"):
        assert {"pack", "merge-adapter"} <= {name_of(one) for one in application(command).registered_commands}
    fail(run("pakc"), 2, "No such command 'pakc'", "Did you mean 'pack'")


def test_the_packed_folder_that_was_probably_meant_is_named(tmp_path):
    (tmp_path / "packed-1k").mkdir()
    (tmp_path / "chats.jsonl").write_text("{}\n")
    for command in ("verify", "view"):
        fail(run(command, tmp_path / "packed-k1"), 2, "no such folder", "did you mean", "packed-1k?")
    fail(run("verify", tmp_path / "chats.jsonl"), 2, "a file is no packed dataset", "tokpack pack")


def test_without_arguments_there_is_help_and_no_empty_error():
    alone = run_apart()
    assert (alone.returncode, "Usage:" in alone.stdout + alone.stderr) == (2, True)
    assert "error" not in alone.stderr
    assert "hint: tokpack pack --help" in run("pack").stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "command",
    [
        pytest.param("verify {} --model model", marks=pytest.mark.slow),
        "train {} --model m -o out",
        "merge-adapter {} -o out",
    ],
)
def test_without_the_extra_for_training_the_hint_says_how_to_get_it(packed, tmp_path, command):
    arguments = [word.format(packed) for word in command.split()]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    code = f"import sys; sys.modules['torch'] = None; sys.argv = ['tokpack', *{arguments}]; "
    code += "from tokpack.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert result.returncode == 2, result.stderr
    assert "torch" in result.stderr
    assert 'hint: pip install "tokpack[train]"' in result.stderr


def test_warnings_go_to_what_stderr_is_now(monkeypatch):
    import io
    import logging

    from tokpack.cli.output import Stderr

    handler = Stderr()
    bar = io.StringIO()
    monkeypatch.setattr(sys, "stderr", bar)
    monkeypatch.setattr(Stderr, "quiet", False)
    handler.emit(logging.makeLogRecord({"msg": "compiled", "levelno": logging.WARNING}))
    handler.emit(logging.makeLogRecord({"msg": "read as text", "levelno": logging.INFO}))
    forged = "a.jsonl\nwarning: nothing is wrong\x1b[2K.jsonl"
    handler.emit(logging.makeLogRecord({"msg": "%s: text", "args": (forged,), "levelno": logging.INFO}))
    told = "a.jsonl\\nwarning: nothing is wrong\\u001b[2K.jsonl"
    assert bar.getvalue() == f"warning: compiled\nnote: read as text\nnote: {told}: text\n"
    monkeypatch.setattr(Stderr, "quiet", True)
    handler.emit(logging.makeLogRecord({"msg": "not said", "levelno": logging.INFO}))
    assert "not said" not in bar.getvalue()


@pytest.mark.slow
def test_packing_imports_neither_torch_nor_altair_nor_numba_nor_what_draws(chats, qwen, tmp_path):
    run("pack", chats, "--tokenizer", qwen, "-o", tmp_path / "first", "-q")  # fills the tokenizer cache
    call = f"tokpack.pack({str(chats)!r}, {str(tmp_path / 'out')!r}, tokenizer={str(qwen)!r})"
    heavy = ("torch", "transformers", "altair", "numba", "datasets", "rich")
    code = f"import sys, tokpack; {call}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_pack_prints_the_ledger_and_json_is_the_manifest(packed, chats, qwen, tmp_path):
    result = run("pack", chats, "--tokenizer", qwen, "--max-length", 256, "-o", tmp_path / "out", "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "out" / "manifest.json").read_text())
    plain = run("pack", chats, "--tokenizer", qwen, "-o", tmp_path / "out", "--overwrite")
    assert "200 read" in plain.stdout
    assert "\x1b" not in plain.stdout + plain.stderr
    quiet = run("pack", chats, "--tokenizer", qwen, "-o", tmp_path / "out", "--overwrite", "-q")
    assert (quiet.stdout.strip(), quiet.stderr) == (str(tmp_path / "out"), "")


def test_in_a_pipe_each_phase_is_a_line_on_stderr_and_none_on_stdout(chats, qwen, tmp_path):
    options = ("--tokenizer", qwen, "--max-length", 256, "--val", 0.1)
    done = run("pack", chats, *options, "-o", tmp_path / "out")
    phases = [
        "loading libraries ...",
        "loading the tokenizer ...",
        "looking at the inputs ...",
        f"reading and tokenizing: {chats.stat().st_size:,} bytes",
        "planning rows of ",
        "writing held-out rows: ",
        "planning rows of ",
        "writing rows: ",
        "writing the report ...",
        "packed dataset: ",
    ]
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("note: ", "warning: ", " "))]
    assert [line[: len(phase)] for line, phase in zip_longest(lines, phases, fillvalue="")] == phases, lines
    assert not any(phase in done.stdout for phase in phases)
    assert run("repack", tmp_path / "out", "-o", tmp_path / "more", "-q").stderr == ""
    assert "merging 2 packed" in run("merge", *[tmp_path / "out"] * 2, "-o", tmp_path / "both").stderr


@pytest.mark.slow
def test_standard_input_is_an_input(chats, qwen, packed, tmp_path):
    with chats.open("rb") as stdin:
        result = run_apart(
            "pack",
            "-",
            "--tokenizer",
            qwen,
            "--max-length",
            256,
            "--val",
            0.1,
            "-o",
            tmp_path / "o",
            stdin=stdin,
        )
    assert result.returncode == 0, result.stderr
    ours, theirs = (tokpack.open_packed(p).manifest["shards"] for p in (tmp_path / "o", packed))
    assert [s["sha256"] for s in ours] == [s["sha256"] for s in theirs]


def fail(result, code, *parts):
    assert result.returncode == code, (result.returncode, result.stderr)
    assert "Traceback" not in result.stderr
    assert "error: " in result.stderr
    assert "hint: " in result.stderr
    for part in parts:
        assert part in result.stderr


@pytest.mark.slow
def test_mistakes_have_their_exit_code_and_say_what_where_and_what_next(chats, qwen, packed, tmp_path):
    out = tmp_path / "out"
    tokenizer = ("--tokenizer", qwen)
    fail(run("pack", tmp_path / "chat.jsonl", *tokenizer, "-o", out), 2, "no such file", "chat.jsonl")
    fail(run("pack", chats, "-o", out), 2, "no tokenizer")
    fail(run("pack", chats, "--tokenizer", "./no-such-folder", "-o", out), 2, "no-such-folder")
    fail(run("pack", chats, "--tokenizer", "nobody/no-such-model", "-o", out), 2, "nobody/no-such-model")
    fail(run("pack", chats, *tokenizer, "-o", packed), 2, "--overwrite")
    fail(run("pack", chats, *tokenizer, "--planner", "bdf", "-o", out), 2, "did you mean 'bfd'")
    fail(run("pack", chats, *tokenizer, "--overlong", "cut", "-o", out), 2, "'--overlong'", "drop")
    fail(run("pack", chats, *tokenizer, "--max-lenght", 5, "-o", out), 2)
    (tmp_path / "empty.jsonl").write_text("")
    fail(run("pack", tmp_path / "empty.jsonl", *tokenizer, "-o", out), 65, "empty")
    (tmp_path / "not.json").write_text("no")
    fail(run("pack", tmp_path / "not.json", *tokenizer, "-o", out), 65, "the first is not JSON", "not.json")
    write_rows(tmp_path / "bad.jsonl", [b"{", *messy_rows(100)])
    fail(run("pack", tmp_path / "bad.jsonl", *tokenizer, "--strict", "-o", out), 65, "bad.jsonl:1")
    fail(run("verify", tmp_path), 2, "packed dataset")
    fail(run("verify", tmp_path / "nowhere"), 2, "no such folder", "nowhere")
    fail(run("inspect", packed, "--row", 10_000), 2, "rows are 0 to")
    (tmp_path / "run.toml").write_text("[plan]\nplaner = 'bfd'\n")
    fail(run("pack", chats, *tokenizer, "--config", tmp_path / "run.toml", "-o", out), 2, "'planner'")


@pytest.mark.slow
def test_an_unwritable_output_is_exit_code_73(chats, qwen, tmp_path):
    (tmp_path / "file").write_text("")
    fail(run("pack", chats, "--tokenizer", qwen, "-o", tmp_path / "file" / "out"), 73, "cannot write")


@pytest.mark.slow
def test_a_report_that_cannot_be_written_is_exit_code_73_and_named(chats, qwen, tmp_path):
    place = tmp_path / "file" / "page.html"
    place.parent.write_text("")
    result = run("analyze", chats, "--tokenizer", qwen, "--html", place)
    fail(result, 73, "its folder is not there", f"at: --html {place}", "give another place")


@pytest.mark.slow
def test_flags_without_what_they_belong_to_are_refused(chats, qwen, packed, tmp_path):
    fail(run("verify", packed, "--attn", "eager"), 2, "--attn", "--model")
    fail(run("verify", packed, "--device", "cpu"), 2, "--device", "--model")
    flags = ("--rows-per-step", 4, "-o", tmp_path / "out")
    fail(run("pack", chats, "--tokenizer", qwen, *flags), 2, "at: --rows-per-step", "world_size")


@pytest.mark.slow
def test_inspect_shows_boundaries_and_what_became_of_a_document(packed):
    shown = run("inspect", packed, "--row", 1)
    assert "document" in shown.stdout
    assert "<|im_start|>user" in shown.stdout
    left_out = run("inspect", packed, "--doc", 9)
    assert left_out.returncode == 0
    assert "left out: empty_answer" in left_out.stdout
    assert "row 10" in left_out.stdout
    kept = int(tokpack.open_packed(packed)[2]["doc_ids"][0])
    assert f"document {kept}:" in run("inspect", packed, "--doc", kept).stdout


def faults_with_flipped(folder, name, position, bit):
    """What `verify` finds with one bit of one file changed; the file is restored."""
    path = folder / name
    original = path.read_bytes()
    flipped = bytearray(original)
    flipped[position] ^= 1 << bit
    path.write_bytes(bytes(flipped))
    try:
        result = tokpack.verify(folder)
    finally:
        path.write_bytes(original)
    assert not result.ok, (name, position, bit)
    return "\n".join(fault for check in result.checks for fault in check.faults)


@pytest.mark.slow
def test_verify_names_each_file_with_its_first_middle_or_last_byte_changed(packed):
    assert run("verify", packed).returncode == 0
    names = [*covered_files(packed), "SHA256SUMS"]
    assert "validation/manifest.json" in names
    for name in names:
        size = (packed / name).stat().st_size
        for position in {0, size // 2, size - 1} if size else set():
            assert name in faults_with_flipped(packed, name, position, position % 7)
    assert tokpack.verify(packed).ok


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_verify_finds_and_names_any_flipped_bit(packed, data):
    names = [name for name in (*covered_files(packed), "SHA256SUMS") if (packed / name).stat().st_size]
    name = data.draw(st.sampled_from(names))
    position = data.draw(st.integers(0, (packed / name).stat().st_size - 1))
    assert name in faults_with_flipped(packed, name, position, data.draw(st.integers(0, 7)))


@pytest.mark.slow
def test_no_flipped_bit_of_the_record_of_what_was_left_out_ends_the_process(packed, tmp_path):
    import shutil
    from contextlib import suppress

    from tokpack.errors import DataError

    shutil.copytree(packed, tmp_path / "copy")
    path = tmp_path / "copy" / "dropped.parquet"
    original = path.read_bytes()
    for position in range(0, len(original), 3):
        flipped = bytearray(original)
        flipped[position] ^= 1 << position % 8
        path.write_bytes(bytes(flipped))
        with suppress(DataError):
            assert tokpack.open_packed(tmp_path / "copy").dropped.rows() is not None


@pytest.mark.parametrize("name", ["manifest.json", "SHA256SUMS"])
def test_verify_names_what_makes_the_validation_part_a_packed_dataset_when_it_is_missing(
    packed, tmp_path, name
):
    import shutil

    shutil.copytree(packed, tmp_path / "copy")
    (tmp_path / "copy" / "validation" / name).unlink()
    result = run("verify", tmp_path / "copy")
    assert result.returncode == 1
    assert f"validation/{name}: missing" in result.stdout


def test_verify_names_a_file_that_is_not_in_the_sums(packed):
    (packed / "extra.txt").write_text("x")
    assert "extra.txt" in run("verify", packed).stdout
    (packed / "extra.txt").unlink()


def test_verify_finds_rows_that_break_the_contract_though_the_sums_fit(packed, tmp_path):
    import shutil

    import pyarrow as pa

    from tokpack.on_disk.sums import write_sums

    def broken(name, change):
        folder = tmp_path / name
        shutil.copytree(packed, folder)
        shard = folder / tokpack.open_packed(folder).manifest["shards"][0]["file"]
        with pa.memory_map(str(shard)) as file:
            table = pa.ipc.open_stream(file).read_all()
        rows = table.to_pylist()
        change(rows)
        with pa.OSFile(str(shard), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(pa.Table.from_pylist(rows, schema=table.schema))
        write_sums(folder, {})
        return "\n".join(fault for check in tokpack.verify(folder).checks for fault in check.faults)

    assert "first token of a document has a label" in broken(
        "a", lambda r: r[3]["labels"].__setitem__(0, r[3]["input_ids"][0])
    )
    assert "do not add up" in broken("b", lambda r: r[2]["seq_lengths"].__setitem__(0, 1))
    assert "outside the vocabulary" in broken("c", lambda r: r[1]["input_ids"].__setitem__(4, 10**7))
    assert "neither its token nor -100" in broken("d", lambda r: r[1]["labels"].__setitem__(3, 5))
    assert "packed twice" in broken("e", lambda r: r[0]["doc_ids"].__setitem__(0, r[1]["doc_ids"][0]))
    assert "rows" in broken("f", lambda r: r.pop())

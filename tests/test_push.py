"""Packed datasets behind URLs: pushed with a card, fetched once with every sum compared."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import fsspec
import numpy as np
import pytest
from chats import messy_rows, write_rows
from fake_hub import FakeHub, run_with
from kill_steps import with_tests
from typer.testing import CliRunner

import tokpack
from tokpack.cli import app
from tokpack.errors import DataError, OutputError, UsageError
from tokpack.on_disk.card import make_card
from tokpack.on_disk.sums import covered_files
from tokpack.packed import push as pushing
from tokpack.packed.push import push
from tokpack.packed_urls import local_folder
from tokpack.terminal.activity import Activity
from tokpack.view.run import open_data, shown
from trainer_plugin.cli import app as training
from trainer_plugin.evaluation.run import measure
from trainer_plugin.rows.dataset import PackedDataset

MEMORY = "memory://store/packed"


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("push")
    data = write_rows(folder / "a|b_<i>.jsonl", messy_rows(120))
    tokpack.pack(data, folder / "packed", tokenizer=qwen, max_length=256, val=0.1)
    return folder / "packed"


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    (tmp_path / "cache").mkdir(mode=0o700)
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def memory():
    fs = fsspec.filesystem("memory")
    yield fs
    if fs.exists("/store"):
        fs.rm("/store", recursive=True)


def same_files(folder: Path, other: Path) -> bool:
    names = [name for name in covered_files(folder) if name != "README.md"]
    return all((other / name).read_bytes() == (folder / name).read_bytes() for name in names)


@pytest.mark.parametrize(
    "command",
    [
        ["export", "{packed}", "--to", "trl"],
        ["repack", "{packed}"],
        ["merge", "{packed}", "{packed}"],
        ["train", "{packed}", "--model", "m"],
        ["merge-adapter", "adapter"],
        ["clean", "chats.jsonl"],
        ["init", "chats.jsonl", "--model", "m"],
    ],
    ids=lambda command: command[0],
)
def test_a_url_is_no_folder_to_write(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word.replace("{packed}", str(tmp_path)) for word in command]
    commands = training if command[0] in ("train", "merge-adapter") else app
    refused = CliRunner().invoke(commands, [*words, "-o", "s3://bucket/out"])
    assert isinstance(refused.exception, UsageError)
    assert "push" in str(refused.exception.hint)
    assert not (tmp_path / "s3:").exists()


def test_nor_a_place_for_a_report():
    refused = CliRunner().invoke(app, ["analyze", "chats.jsonl", "--html", "s3://bucket/report.html"])
    assert isinstance(refused.exception, UsageError)
    assert refused.exception.where == "s3://bucket/report.html"


def test_what_is_pushed_is_opened_again_from_its_url(packed, memory):
    assert push(packed, MEMORY + "/") == MEMORY
    opened = tokpack.open_packed(MEMORY)
    assert opened.folder != packed
    assert same_files(packed, opened.folder)
    assert list(opened[0]["input_ids"]) == list(tokpack.open_packed(packed)[0]["input_ids"])
    assert opened.validation is not None
    assert len(PackedDataset(MEMORY)) == len(opened)
    assert tokpack.verify(MEMORY).ok
    assert tokpack.open_packed(f"{MEMORY}/validation").manifest["split"] == "validation"


def test_it_is_called_by_its_url_and_not_by_its_place_in_the_cache(packed, memory, tmp_path):
    url = "memory://store/of-mine"
    push(packed, f"{url}/")
    compared = CliRunner().invoke(app, ["compare", url, str(packed), "--json"])
    assert [json.loads(compared.stdout)[side]["name"] for side in "ab"] == ["of-mine", "packed"]
    assert f"\nverify {url} " in CliRunner().invoke(app, ["verify", url]).output
    with shown(open_data([url], tmp_path, Activity(quiet=True), {}), tmp_path / "keep.txt") as page:
        assert page.summary()["name"] == "of-mine"
    nothing = SimpleNamespace(adapters={}, tokenizer=None, using=lambda name: nullcontext())
    part = measure(nothing, lambda *_: np.zeros(1), PackedDataset(url), "", Activity(quiet=True))
    assert part.name == "of-mine"


def test_it_is_fetched_once_and_anew_when_it_changed(packed, memory, tmp_path):
    push(packed, MEMORY)
    first = local_folder(MEMORY)
    memory.rm("/store/packed/manifest.json")
    assert local_folder(MEMORY) == first
    tokpack.repack(packed, tmp_path / "other", max_length=512)
    with pytest.raises(UsageError, match="another packed dataset is there"):
        push(tmp_path / "other", MEMORY)
    push(tmp_path / "other", MEMORY, overwrite=True)
    assert local_folder(MEMORY) != first
    assert tokpack.open_packed(MEMORY).manifest["capacity"] == 512


def test_shards_of_what_is_replaced_do_not_stay(packed, memory, tmp_path):
    push(packed, MEMORY)
    tokpack.repack(packed, tmp_path / "other", shard_format="parquet")
    memory.pipe("/store/packed/data-of-mine.txt", b"mine")
    push(tmp_path / "other", MEMORY, overwrite=True)
    shards = [name for name in memory.find("/store/packed") if "/data-" in name]
    assert "/store/packed/data-of-mine.txt" in shards
    assert not [name for name in shards if name.endswith(".arrow")]
    assert tokpack.verify(MEMORY).ok


def test_a_changed_byte_is_found_while_fetching_and_leaves_nothing(packed, memory, tmp_path):
    push(packed, MEMORY)
    memory.pipe("/store/packed/dropped.parquet", b"other")
    with pytest.raises(DataError, match=r"dropped.parquet is damaged"):
        local_folder(MEMORY)
    assert not list((tmp_path / "cache" / "packed").iterdir())


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/outside", "a/../../outside", "..\\outside", "SHA256SUMS"]
)
def test_names_in_foreign_sums_lead_nowhere_else(name, memory, tmp_path):
    memory.pipe("/store/packed/SHA256SUMS", f"{'0' * 64}  {name}\n".encode())
    with pytest.raises(DataError, match="leads elsewhere"):
        local_folder(MEMORY)
    assert not list(tmp_path.rglob("outside"))


def test_what_is_no_packed_dataset_is_said(memory, packed, tmp_path):
    with pytest.raises(UsageError, match="no packed dataset there") as caught:
        local_folder("memory://store/nothing")
    assert "tokpack push" in str(caught.value.hint)
    with pytest.raises(DataError, match=r"not known|cannot open"):
        local_folder("nosuch://place")
    for place in ("folder", "hf://me/chats"):  # the second is a repository of models
        with pytest.raises(UsageError, match="no place for a packed dataset"):
            push(packed, place)
    copy = shutil.copytree(packed, tmp_path / "copy")
    (copy / "dropped.parquet").write_bytes(b"")
    with pytest.raises(DataError, match="damaged"):
        push(copy, MEMORY)


@pytest.mark.slow
def test_the_command_pushes_to_a_folder_that_verifies_as_it_is(packed, tmp_path):
    url = f"file://{tmp_path}/pushed"
    result = CliRunner().invoke(app, ["push", str(packed), url, "-q"])
    assert (result.exit_code, result.output.strip()) == (0, url)
    assert tokpack.verify(tmp_path / "pushed").ok
    assert "row 0" in CliRunner().invoke(app, ["inspect", url]).output
    again = CliRunner().invoke(app, ["push", str(packed), url])
    assert again.exit_code == 0
    assert "already there" in again.output


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
@pytest.mark.parametrize("over", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_push_killed_at_any_step_is_repeated_as_if_nothing_was(over, packed, qwen, tmp_path):
    small = tmp_path / "small"
    data = write_rows(tmp_path / "rows.jsonl", messy_rows(20))
    tokpack.pack(data, small, tokenizer=qwen, max_length=256)
    code = """if True:
        import shutil, sys
        from pathlib import Path
        from kill_steps import each_step
        from tokpack.packed.push import push

        packed, other, top, over = *map(Path, sys.argv[1:4]), sys.argv[4] == "True"
        url = f"file://{top}/out"

        def begin():
            shutil.rmtree(top, ignore_errors=True)
            if over:
                push(other, url)

        def left():
            return {p: p.read_bytes() for p in top.rglob("*") if p.is_file()}

        act = lambda: push(packed, url, overwrite=over)
        begin()
        act()
        whole = left()
        for step in each_step(act, begin):
            act()
            assert left() == whole, step
    """
    arguments = [sys.executable, "-c", code, str(small), str(packed), str(tmp_path / "top"), str(over)]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False, env=with_tests())
    assert ran.returncode == 0, ran.stderr


def test_a_full_disk_behind_a_url_is_told_as_such(packed, tmp_path, monkeypatch):
    def full(*given, **options):
        raise OSError(28, "No space left on device", "one file", None, "another")

    monkeypatch.setattr("fsspec.implementations.local.LocalFileSystem.put_file", full)
    with pytest.raises(OutputError, match="cannot write it: No space left on device") as caught:
        push(packed, f"file://{tmp_path}/out")
    assert caught.value.hint == "free some space and repeat the command"


def test_the_card_says_what_is_in_it_and_no_name_of_a_file_is_markup(packed):
    manifest = tokpack.open_packed(packed).manifest
    card = make_card(manifest, "hf://datasets/me/chats", validation=True)
    assert card.startswith("---\ntags: [tokpack, packed]\nsize_categories: [n<1K]\n")
    assert "path: validation/data-*.arrow" in card
    assert 'tokpack.open_packed("hf://datasets/me/chats")' in card
    assert f"| read | {manifest['ledger']['documents']['read']:,} |" in card
    assert "a\\|b\\_&lt;i>.jsonl" in card
    for reason, number in manifest["ledger"]["documents"]["dropped"].items():
        assert f"| left out: {reason} | {number:,} |".replace("_", "\\_") in card


@pytest.mark.slow
def test_a_run_writes_to_a_url_and_the_same_one_finds_it_there(qwen, memory, tmp_path, monkeypatch):
    data = write_rows(tmp_path / "a.jsonl", messy_rows(60))

    def pack(out: str | Path, **options) -> tokpack.PackedFolder:
        return tokpack.pack(data, out, tokenizer=qwen, max_length=options.pop("length", 256), **options)

    with monkeypatch.context() as patch:
        patch.setattr(pushing, "push", None)
        with pytest.raises(TypeError):
            pack(MEMORY)  # written, not pushed
    [made] = (tmp_path / "cache" / "outputs").iterdir()
    assert not memory.exists("/store/packed/SHA256SUMS")
    with monkeypatch.context() as patch:
        patch.setattr("tokpack.pipeline.decided", None)  # it goes on
        packed = pack(MEMORY)
    alone = pack(tmp_path / "alone")
    assert same_files(alone.folder, packed.folder)
    assert memory.cat("/store/packed/SHA256SUMS") == (alone.folder / "SHA256SUMS").read_bytes()
    assert tokpack.open_packed(MEMORY).folder == packed.folder  # nothing is fetched
    assert not any((tmp_path / "cache" / "outputs").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(pushing, "push", None)
        assert pack(MEMORY).folder == packed.folder
        with pytest.raises(UsageError, match="a finished packed dataset is here") as caught:
            pack(MEMORY, length=512)
    assert caught.value.where == MEMORY
    packed.folder.rename(made)  # killed before it had its place
    assert pack(MEMORY).folder == packed.folder
    assert not any((tmp_path / "cache" / "outputs").iterdir())
    assert len(pack(MEMORY, length=512, overwrite=True)) < len(packed)
    assert tokpack.open_packed(MEMORY).manifest["capacity"] == 512
    with pytest.raises(UsageError, match="a token store that all of them see"):
        tokpack.pack_part(data, MEMORY, part="1/2", tokenizer=qwen)


@pytest.mark.slow
def test_pushed_to_s3_and_opened_from_there(packed, monkeypatch):
    server = pytest.importorskip("moto.server", reason='pip install "moto[server]"')
    pytest.importorskip("s3fs", reason='pip install "tokpack[s3]"')
    import s3fs

    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    try:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        fsspec.filesystem("s3").mkdir("pushed")
        push(packed, "s3://pushed/sets/packed")
        assert same_files(packed, tokpack.open_packed("s3://pushed/sets/packed").folder)
        assert push(packed, "s3://pushed/sets/packed") == "s3://pushed/sets/packed"
    finally:
        running.stop()
        s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.slow
def test_pushed_to_the_hub_in_one_commit_and_opened_from_there(packed, tmp_path):
    hub = FakeHub()
    code = (
        "import sys, tokpack\n"
        "url = tokpack.push(sys.argv[1], 'hf://datasets/me/chats', private=True)\n"
        "assert tokpack.push(sys.argv[1], url) == url\n"
        "print(tokpack.open_packed(url).folder)\n"
    )
    opened = run_with(hub, tmp_path / "hf", code, packed)
    assert (hub.repo, hub.private, len(hub.commits)) == ("me/chats", True, 1)
    assert {*covered_files(packed), "SHA256SUMS", "README.md"} == set(hub.files)
    assert hub.files["README.md"].startswith(b"---\ntags: [tokpack, packed]")
    assert same_files(packed, Path(opened))


def test_a_card_names_no_keys(packed):
    card = make_card(tokpack.open_packed(packed).manifest, "s3://me:s3cret@bucket/data")
    assert "s3cret" not in card
    assert "s3://***@bucket/data" in card

"""Parts: in any order, twice, killed or at once, they leave what one run would have left."""

from __future__ import annotations

import errno
import gzip
import threading

import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.cli import app
from tokpack.errors import DataError, OutputError, UsageError
from tokpack.stages.read import items
from tokpack.way.store import TokenStore

OPTIONS = {"max_length": 128, "allow_bad": 0.2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files that are cut, shared, and read as a stream."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "a.jsonl", messy_rows(260, seed=1))
    for number in range(6):
        write_rows(folder / f"b{number}.jsonl", messy_rows(4, seed=10 + number))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"\n".join(messy_rows(120, seed=3))))
    return folder


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("tokpack.run.Run.block_bytes", 20_000)


@pytest.fixture(scope="module")
def alone(data, qwen, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tokpack.run.Run.block_bytes", 20_000)
        out = tmp_path_factory.mktemp("alone") / "out"
        tokpack.pack(data, out, tokenizer=str(qwen), **OPTIONS)
    return (out / "SHA256SUMS").read_bytes()


def finished(data, out, qwen):
    tokpack.pack(data, out, tokenizer=str(qwen), **OPTIONS)
    assert not (out / ".work").exists()
    assert tokpack.verify(out).ok
    return (out / "SHA256SUMS").read_bytes()


@pytest.mark.slow
def test_parts_in_any_order_one_twice_and_one_cut_off_give_the_same_bytes(
    data, alone, qwen, tmp_path, monkeypatch
):
    out, publish, begun, made = tmp_path / "out", TokenStore._publish, [], []

    def cut_off(store, parts, paths):
        begun.append(paths)
        if len(begun) == 2:
            parts[0].replace(paths[0])  # the tokens have their name, the documents do not
            raise KeyboardInterrupt
        publish(store, parts, paths)

    def part(text):
        return tokpack.pack_part(data, out, part=text, tokenizer=str(qwen), **OPTIONS)

    done = part("3/3")
    assert 1 <= done.items < done.of
    with monkeypatch.context() as patch:
        patch.setattr(TokenStore, "_publish", cut_off)
        with pytest.raises(KeyboardInterrupt):
            part("1/3")
    assert list((out / ".work").glob("*.part"))
    commit = TokenStore.commit
    monkeypatch.setattr(
        TokenStore, "commit", lambda store, key, *rest: made.append(key) or commit(store, key, *rest)
    )
    part("3/3")
    assert not made
    part("2/3")
    assert {item % 3 for item, _ in made} == {1}
    made.clear()
    assert finished(data, out, qwen) == alone
    assert {item % 3 for item, _ in made} == {0}  # what the part that was cut off had left
    assert part("2/3").of == 0  # finished meanwhile
    assert (out / "SHA256SUMS").read_bytes() == alone


@pytest.mark.slow
def test_parts_and_the_run_that_finishes_may_work_at_the_same_time(data, alone, qwen, tmp_path):
    out, errors = tmp_path / "out", []

    def part(text):
        try:
            tokpack.pack_part(data, out, part=text, tokenizer=str(qwen), workers=1, **OPTIONS)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=part, args=(text,)) for text in ("1/2", "2/2", "2/2")]
    for thread in threads:
        thread.start()
    while not (out / ".work").is_dir():
        threads[0].join(0.01)
    tokpack.pack(data, out, tokenizer=str(qwen), workers=1, **OPTIONS)
    for thread in threads:
        thread.join()
    assert not errors
    assert (out / "SHA256SUMS").read_bytes() == alone
    assert not (out / ".work").exists()


@pytest.mark.slow
def test_a_finishing_run_reads_no_file_again_that_is_as_the_parts_read_it(
    data, alone, qwen, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    tokpack.pack_part(data, out, part="1/1", tokenizer=str(qwen), **OPTIONS)
    for kind in ("lines", "stream"):
        monkeypatch.setitem(items._READERS, kind, None)
    assert finished(data, out, qwen) == alone


def test_a_file_that_changed_since_its_part_is_an_error(data, qwen, tmp_path):
    path = tmp_path / "a.jsonl"
    rows = messy_rows(260, seed=1)
    write_rows(path, rows)
    tokpack.pack_part(path, tmp_path / "out", part="1/2", tokenizer=str(qwen), **OPTIONS)
    path.write_bytes(path.read_bytes().replace(b"user", b"resu"))
    with pytest.raises(DataError, match="changed since") as caught:
        tokpack.pack(path, tmp_path / "out", tokenizer=str(qwen), **OPTIONS)
    assert caught.value.where == str(path)


def test_a_part_names_the_store_and_a_full_one_is_named_too(data, qwen, tmp_path, monkeypatch):
    options = {"work_dir": tmp_path / "work", "tokenizer": str(qwen), **OPTIONS}
    done = tokpack.pack_part(data, tmp_path / "out", part="1/2", **options)
    [store] = (tmp_path / "work").iterdir()
    assert f"in the token store {store};" in str(done)

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tokpack.way.store.sync_file", full)
    with pytest.raises(OutputError, match="No space left") as caught:
        tokpack.pack_part(data, tmp_path / "out", part="2/2", **options)
    assert caught.value.where == str(store)


@pytest.mark.parametrize("part", ["", "0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_what_is_no_part_is_told(part, data, qwen, tmp_path):
    with pytest.raises(UsageError, match="is no part"):
        tokpack.pack_part(data, tmp_path / "out", part=part, tokenizer=str(qwen))
    assert not (tmp_path / "out").exists()


def test_the_command_takes_a_part_and_refuses_what_only_the_last_command_does(data, qwen, tmp_path, capsys):
    arguments = ["pack", str(data), "-o", str(tmp_path / "out"), "-t", str(qwen), "--allow-bad", "0.2"]
    with pytest.raises(UsageError, match="--overwrite is for the command that finishes"):
        app([*arguments, "--part", "1/2", "--overwrite"], standalone_mode=False)
    app([*arguments, "--part", "1/2"], standalone_mode=False)
    assert "the same command without --part finishes" in capsys.readouterr().err
    assert not (tmp_path / "out" / "manifest.json").exists()

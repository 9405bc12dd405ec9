"""After a power cut, whatever is left of an unfinished run, the same command gives the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from chats import messy_rows, write_rows

import tokpack
from tokpack.errors import UsageError
from tokpack.way import output

OPTIONS = {"max_length": 256, "block_mb": 1}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def zero(path: Path) -> None:
    path.write_bytes(b"\x00" * path.stat().st_size)


def zero_a_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    pages = [place for place in range(0, len(data), 512) if any(data[place : place + 512])]
    middle = pages[len(pages) // 2]
    data[middle : middle + 512] = b"\x00" * len(data[middle : middle + 512])
    path.write_bytes(bytes(data))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 1
    path.write_bytes(bytes(data))


SAID = ["the unfinished run was damaged or cut off: batch 1 made again"]
DAMAGES = (truncate, empty, zero, zero_a_page, flip, Path.unlink)


def bytes_of(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.json")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "chats.jsonl", messy_rows(2400, seed=5))


@pytest.fixture(scope="module")
def whole(data, qwen, tmp_path_factory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("whole") / "out"
    return bytes_of(tokpack.pack(data, out, tokenizer=str(qwen), **OPTIONS).folder)


@pytest.fixture(scope="module")
def unfinished(data, qwen, tmp_path_factory) -> Path:
    """A run that was cut off before its last file."""
    out = tmp_path_factory.mktemp("unfinished") / "out"

    def crash(*args):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "finish", crash)
        with pytest.raises(KeyboardInterrupt):
            tokpack.pack(data, out, tokenizer=str(qwen), **OPTIONS)
    assert len(list((out / ".work").glob("*.docs.arrow"))) > 1
    return out


def go_on(unfinished, data, qwen, out, damage, names) -> dict[str, bytes]:
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(unfinished, out)
    for name in names:
        damage(out / name)
    return bytes_of(tokpack.pack(data, out, tokenizer=str(qwen), **OPTIONS).folder)


@pytest.mark.slow
def test_any_file_of_an_unfinished_run_may_be_damaged_in_any_way(unfinished, data, qwen, whole, tmp_path):
    files = [path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file()]
    store = [name for name in files if name.startswith(".work/")]
    assert len(store) > 4
    others = [name for name in files if name not in store]
    for number, damage in enumerate(DAMAGES):
        for names in (store if number % 2 else [store[number % len(store)]], others):
            assert go_on(unfinished, data, qwen, tmp_path / "out", damage, names) == whole, (damage, names)


@pytest.mark.slow
def test_a_damaged_batch_is_made_again_and_one_line_says_so(unfinished, data, qwen, whole, tmp_path, caplog):
    tries = ((".work/batch-00001.arrow", DAMAGES[::2]), (".work/batch-00001.docs.arrow", DAMAGES[1::2]))
    for name, damages in tries:
        for damage in damages:
            caplog.clear()
            assert go_on(unfinished, data, qwen, tmp_path / "out", damage, [name]) == whole
            lines = [record.getMessage() for record in caplog.records if "made again" in record.getMessage()]
            assert lines == (SAID if damage != Path.unlink or "docs" not in name else []), (name, damage)


def test_an_empty_manifest_or_sums_is_an_unfinished_folder_that_the_same_command_finishes(qwen, tmp_path):
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(50))
    out = tmp_path / "out"
    before = bytes_of(tokpack.pack(data, out, tokenizer=str(qwen)).folder)
    for name in ("manifest.json", "SHA256SUMS"):
        for damage in (empty, zero):
            damage(out / name)
            for read in (tokpack.open_packed, tokpack.verify):
                with pytest.raises(UsageError, match="not a finished") as error:
                    read(out)
                assert "repeat the same `tokpack pack`" in error.value.hint
            assert bytes_of(tokpack.pack(data, out, tokenizer=str(qwen)).folder) == before


@pytest.mark.slow
def test_a_store_of_other_settings_is_not_gone_on_with_when_its_record_is_lost(
    unfinished, data, qwen, tmp_path
):
    out = tmp_path / "out"
    shutil.copytree(unfinished, out)
    other = OPTIONS | {"max_length": 128}
    with pytest.raises(UsageError, match="other settings"):
        tokpack.pack(data, out, tokenizer=str(qwen), **other)
    (out / ".work" / "run.json").unlink()
    packed = tokpack.pack(data, out, tokenizer=str(qwen), **other)
    alone = tokpack.pack(data, tmp_path / "alone", tokenizer=str(qwen), **other)
    assert bytes_of(packed.folder) == bytes_of(alone.folder)

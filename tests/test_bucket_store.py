"""Parts on machines without a shared folder: blocks in a bucket, and in the end the bytes of one machine."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading

import fsspec
import pytest
from chats import messy_rows, write_rows
from commands import run

import tokpack
from tokpack.errors import OutputError, UsageError
from tokpack.stages.read import items
from tokpack.way.bucket_store import BucketStore
from tokpack.way.store import TokenStore

pytestmark = pytest.mark.slow

OPTIONS = {"max_length": 128, "allow_bad": 0.2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Files that are cut, and read as a stream."""
    folder = tmp_path_factory.mktemp("data")
    write_rows(folder / "a.jsonl", messy_rows(130, seed=1))
    (folder / "c.jsonl.gz").write_bytes(gzip.compress(b"\n".join(messy_rows(60, seed=3))))
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


@pytest.fixture(params=["memory", "s3"])
def work(request):
    if request.param == "s3":
        yield f"{request.getfixturevalue('s3_bucket')}/store/chats"
        return
    yield "memory://store/chats"
    fsspec.filesystem("memory").rm("/store", recursive=True)


def names(url):
    fs, root = fsspec.core.url_to_fs(url)
    fs.invalidate_cache()
    return sorted(path.rpartition("/")[2] for path in fs.find(root))


def made_by(monkeypatch, kind=TokenStore):
    made, commit = [], kind.commit
    monkeypatch.setattr(
        kind, "commit", lambda store, key, *rest: made.append(key) or commit(store, key, *rest)
    )
    return made


def test_parts_in_any_order_one_twice_and_one_cut_off_give_the_same_bytes(
    data, alone, qwen, work, tmp_path, monkeypatch
):
    made, put, begun = made_by(monkeypatch), BucketStore._put_now, []

    def cut_off(store, key, tokens, digest, docs):
        begun.append(key)
        if len(begun) == 2:  # the tokens are there, of the documents a part where a store shows such
            store._fs.pipe_file(f"{store._root}/batch-{key[0]:05}.{digest}.arrow", tokens)
            if work.startswith("memory"):
                store._fs.pipe_file(f"{store._root}/batch-{key[0]:05}.docs.arrow", docs[: len(docs) // 2])
            raise KeyboardInterrupt
        put(store, key, tokens, digest, docs)

    def part(number, text):
        out = tmp_path / f"node{number}"
        return tokpack.pack_part(data, out, part=text, work_dir=work, tokenizer=str(qwen), **OPTIONS)

    assert part(0, "3/3").items >= 1
    with monkeypatch.context() as patch:
        patch.setattr(BucketStore, "_put_now", cut_off)
        with pytest.raises(KeyboardInterrupt):
            part(1, "1/3")
    made.clear()
    part(2, "3/3")
    assert not made
    part(2, "2/3")
    assert {item % 3 for item, _ in made} == {1}
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("node")]
    with pytest.raises(UsageError, match=r"other settings is here; different: truncate\.max_length"):
        tokpack.pack_part(
            data, tmp_path, part="1/3", work_dir=work, tokenizer=str(qwen), **OPTIONS | {"max_length": 99}
        )
    made.clear()
    finish(data, qwen, work, tmp_path / "out", alone)
    assert {item % 3 for item, _ in made} == {0}  # what the part that was cut off had left


def finish(data, qwen, work, out, alone, **settings):
    tokpack.pack(data, out, work_dir=work, tokenizer=str(qwen), **OPTIONS, **settings)
    assert (out / "SHA256SUMS").read_bytes() == alone
    assert not (out / ".work").exists()
    assert names(work) == []


def test_a_part_that_was_damaged_is_made_again(data, alone, qwen, work, tmp_path, monkeypatch, caplog):
    tokpack.pack_part(data, tmp_path, part="1/1", work_dir=work, tokenizer=str(qwen), **OPTIONS)
    fs, root = fsspec.core.url_to_fs(work)
    docs, tokens = (
        next(n for n in names(work) if n.startswith(f"batch-0000{i}.") and (".docs." in n) == (not i))
        for i in (0, 1)
    )
    for name in (docs, tokens):
        fs.pipe_file(f"{root}/{name}", fs.cat_file(f"{root}/{name}")[:-9])
    made = made_by(monkeypatch)
    tokpack.pack_part(data, tmp_path, part="1/1", work_dir=work, tokenizer=str(qwen), **OPTIONS)
    assert made == [(0, 0)]
    made.clear()
    finish(data, qwen, work, tmp_path / "out", alone)
    assert made == [(1, 0)]
    assert "batch 1 made again" in caplog.text


def test_twins_at_the_same_piece_and_a_late_one_do_no_harm(data, alone, qwen, work, tmp_path):
    errors = []

    def part(text):
        try:
            tokpack.pack_part(
                data, tmp_path, part=text, work_dir=work, tokenizer=str(qwen), workers=1, **OPTIONS
            )
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=part, args=(text,)) for text in ("1/2", "2/2", "2/2", "1/1")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    found = names(work)
    assert len([name for name in found if ".docs." in name]) * 2 + 1 == len(found)
    finish(data, qwen, work, tmp_path / "out", alone)


def test_a_part_that_works_while_the_run_is_finished_leaves_nothing(
    data, alone, qwen, work, tmp_path, monkeypatch
):
    put, first, finished = BucketStore._put_now, threading.Lock(), threading.Event()

    def finish_first(store, *rest):
        if first.acquire(blocking=False):
            finish(data, qwen, work, tmp_path / "out", alone)
            finished.set()
        assert finished.wait(60)
        put(store, *rest)

    monkeypatch.setattr(BucketStore, "_put_now", finish_first)
    options = {"tokenizer": str(qwen), "workers": 1, **OPTIONS}
    tokpack.pack_part(data, tmp_path / "elsewhere", part="1/1", work_dir=work, **options)
    assert finished.is_set()
    assert names(work) == []
    assert tokpack.pack_part(data, tmp_path / "out", part="1/1", work_dir=work, **options).of == 0


def test_a_finishing_command_that_was_killed_goes_on_and_removes_the_store(
    data, alone, qwen, work, tmp_path, monkeypatch
):
    options = {"work_dir": work, "tokenizer": str(qwen), **OPTIONS}
    tokpack.pack_part(data, tmp_path, part="1/1", **options)
    out, take, taken = tmp_path / "out", TokenStore.take, []

    def cut_off(store, key, *rest):
        taken.append(key)
        if len(taken) == 3:
            raise KeyboardInterrupt
        return take(store, key, *rest)

    monkeypatch.setattr("tokpack.way.bucket_store.THREADS", 1)
    with monkeypatch.context() as patch:
        patch.setattr(TokenStore, "take", cut_off)
        with pytest.raises(KeyboardInterrupt):
            tokpack.pack(data, out, **options)
    monkeypatch.setattr(
        TokenStore, "take", lambda store, key, *rest: taken.append(key) or take(store, key, *rest)
    )
    first, made = set(taken[:2]), made_by(monkeypatch)
    taken.clear()
    with monkeypatch.context() as patch:
        patch.setattr(BucketStore, "remove", lambda store: None)
        tokpack.pack(data, out, **options)
    assert not made
    assert not first & set(taken)
    assert names(work)
    finish(data, qwen, work, out, alone)  # already there


def test_input_store_and_output_lie_in_a_bucket(data, qwen, s3_bucket, tmp_path, monkeypatch):
    fs = fsspec.filesystem("s3")
    names_here = ["a.jsonl", "c.jsonl.gz"]
    for name in names_here:
        fs.put_file(str(data / name), f"{s3_bucket}/in/{name}")
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    options = {"tokenizer": str(qwen), **OPTIONS}
    local = tokpack.pack([data / name for name in names_here], tmp_path / "local", **options)
    inputs = [f"{s3_bucket}/in/{name}" for name in names_here]
    url, options = f"{s3_bucket}/out", options | {"work_dir": f"{s3_bucket}/work"}
    assert [tokpack.pack_part(inputs, url, part=f"{n}/2", **options).items for n in (1, 2)] == [1, 1]
    monkeypatch.setitem(items._READERS, "stream", None)  # what the parts read is not read again
    packed = tokpack.pack(inputs, url, **options)
    assert (packed.folder / "SHA256SUMS").read_bytes() == (local.folder / "SHA256SUMS").read_bytes()
    assert fs.cat_file(f"{url}/SHA256SUMS") == (local.folder / "SHA256SUMS").read_bytes()
    assert names(f"{s3_bucket}/work") == []


def refused(*args, **kwargs):
    raise PermissionError("Access Denied")


def test_blocks_that_may_not_be_read_are_no_damaged_ones(data, qwen, work, tmp_path, monkeypatch):
    options = {"work_dir": work, "tokenizer": str(qwen), **OPTIONS}
    tokpack.pack_part(data, tmp_path, part="1/1", **options)
    fs, _ = fsspec.core.url_to_fs(work)
    cat = fs.cat_file

    def no_blocks(path, *args, **kwargs):
        return (refused if path.endswith(".arrow") else cat)(path, *args, **kwargs)

    monkeypatch.setattr(fs, "cat_file", no_blocks)
    made = made_by(monkeypatch)
    for again in (
        lambda: tokpack.pack_part(data, tmp_path, part="1/1", **options),
        lambda: tokpack.pack(data, tmp_path / "out", **options),
    ):
        with pytest.raises(OutputError, match="Access Denied") as caught:
            again()
        assert caught.value.where == work
    assert not made


def test_a_bucket_that_lets_nothing_be_deleted_ends_no_run(
    data, alone, qwen, s3_bucket, tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("s3fs.S3FileSystem.rm", refused)
    options = {"work_dir": f"{s3_bucket}/w", "tokenizer": str(qwen), **OPTIONS}
    for _ in range(2):  # the second finds it finished
        tokpack.pack(data, f"{s3_bucket}/out", **options)
        assert fsspec.filesystem("s3").cat_file(f"{s3_bucket}/out/SHA256SUMS") == alone
        assert f"the token store {s3_bucket}/w is left" in caplog.text
        caplog.clear()


def test_overwrite_starts_over_in_the_bucket_too(data, alone, qwen, work, tmp_path):
    options = {"work_dir": work, "tokenizer": str(qwen)}
    tokpack.pack_part(data, tmp_path, part="1/2", **options, **OPTIONS | {"max_length": 99})
    finish(data, qwen, work, tmp_path / "out", alone, overwrite=True)


@pytest.mark.parametrize(
    ("url", "error", "what"),
    [
        ("s3://no-such-bucket-here/work", OutputError, "bucket does not exist"),
        ("hf://datasets/a/b", UsageError, "a commit of the repository"),
        ("file:///tmp/work", UsageError, "by its path"),
        ("nothing://a", OutputError, "not known"),
    ],
)
def test_what_can_be_no_store_is_told(url, error, what, s3_bucket, data, qwen, tmp_path):
    with pytest.raises(error, match=what) as caught:
        tokpack.pack_part(data, tmp_path, part="1/1", work_dir=url, tokenizer=str(qwen), **OPTIONS)
    assert url in str(caught.value.where)
    assert caught.value.hint


def test_keys_that_are_missing_are_told(s3_bucket, data, qwen, tmp_path, monkeypatch):
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(OutputError, match="credentials") as caught:
        tokpack.pack_part(
            data, tmp_path, part="1/1", work_dir=f"{s3_bucket}/w", tokenizer=str(qwen), **OPTIONS
        )
    assert "AWS_" in caught.value.hint


def test_the_command_takes_a_bucket(data, alone, qwen, s3_bucket, tmp_path):
    """Parts in processes of their own, as nodes have them."""
    script = "from tokpack.run import Run; Run.block_bytes = 20_000; from tokpack.cli import main; main()"
    command = ["pack", str(data), "-o", str(tmp_path / "out"), "-t", str(qwen)]
    command += ["--work-dir", f"{s3_bucket}/w", "--max-length", "128", "--allow-bad", "0.2"]
    parts = [subprocess.Popen([sys.executable, "-c", script, *command, "--part", f"{n}/2"]) for n in (1, 2)]
    assert [part.wait() for part in parts] == [0, 0]
    ended = run(*command)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "SHA256SUMS").read_bytes() == alone
    assert names(f"{s3_bucket}/w") == []

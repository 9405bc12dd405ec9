"""Nothing is deleted but what tokpack wrote, whatever a folder says; no link is followed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from chats import messy_rows, write_rows
from kill_steps import with_tests

import tokpack
from tokpack.errors import UsageError
from tokpack.export import export
from tokpack.files.fresh_folder import fresh_folder
from tokpack.files.locks import beside, only_writer
from tokpack.files.own_files import is_packed_file, remove_own
from tokpack.on_disk.manifest import read_manifest
from tokpack.way import output
from tokpack.way.store import TokenStore

FINGERPRINT = {"tokpack": "0", "config": {}, "inputs": []}


def snapshot(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below, with its bytes or its target."""
    found: dict[str, bytes | str] = {}
    for inside, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(inside, name)
            key = path.relative_to(folder).as_posix()
            found[key] = (
                str(path.readlink()) if path.is_symlink() else path.read_bytes() if path.is_file() else ""
            )
    return found


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("packed")
    data = write_rows(folder / "chats.jsonl", messy_rows(60))
    tokpack.pack(data, folder / "out", tokenizer=str(qwen), max_length=256, val=0.1)
    return data, folder / "out"


@pytest.fixture
def home(tmp_path) -> Path:
    """A folder with things that must never be lost, among them files named like ours."""
    home = tmp_path / "home"
    (home / "deep").mkdir(parents=True)
    for name in (
        "thesis.txt",
        "run.json",
        "batch-00000.arrow",
        "manifest.json",
        "deep/batch-00000.docs.arrow",
    ):
        (home / name).write_text("mine")
    return home


def begun(out: Path, elsewhere: str) -> None:
    (out / ".work").mkdir(parents=True)
    (out / ".work" / "elsewhere").write_text(elsewhere)


def test_a_pointer_to_any_folder_deletes_nothing_there(home, tmp_path, caplog):
    out = tmp_path / "out"
    named = home / output.store_name(out)
    targets = [str(home), f"{home}/", str(home / "deep"), "..", ".", "", "/", str(named), "\x00", "a" * 5000]
    for overwrite in (False, True):
        for target in targets:
            named.mkdir(exist_ok=True)  # the right name, but no record of a run in it
            (named / "thesis.txt").write_text("mine")
            begun(out, target)
            before = snapshot(home)
            with output.claim(out, overwrite):
                output.leave_work(out)
            assert snapshot(home) == before, target
            assert not (out / ".work").exists()
    assert "no token store of this output" in caplog.text


def test_a_store_elsewhere_of_this_output_goes_and_what_else_is_in_it_stays(home, tmp_path):
    out = tmp_path / "out"
    with output.claim(out, False):
        store = output.work_folder(out, home)
        TokenStore(store, FINGERPRINT)
        (store / "batch-00000.arrow").write_text("tokens")
        (store / "batch-00000.docs.arrow").symlink_to(home / "thesis.txt")
        (store / "notes.txt").write_text("mine")
        output.leave_work(out)
    assert sorted(path.name for path in store.iterdir()) == ["batch-00000.docs.arrow", "notes.txt"]
    assert (home / "thesis.txt").read_text() == "mine"


def test_a_store_behind_a_link_or_one_that_others_can_write_into_is_refused(home, tmp_path):
    out = tmp_path / "out"
    place = tmp_path / "scratch" / output.store_name(out)
    place.parent.mkdir()
    place.symlink_to(home)
    before = snapshot(home)
    with output.claim(out, False), pytest.raises(UsageError, match="a link, or others can write"):
        output.work_folder(out, place.parent)
    begun(tmp_path / "theirs", str(place))
    output.leave_work(tmp_path / "theirs")
    place.unlink()
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    with output.claim(out, False), pytest.raises(UsageError, match="others can write"):
        output.work_folder(out, place.parent)
    assert snapshot(home) == before


@pytest.mark.parametrize(
    "name", [".work", "tokenizer", "validation", "data-00000-of-00001.arrow", "manifest.json"]
)
def test_a_link_where_tokpack_writes_is_refused_and_its_target_untouched(name, packed, home, qwen, tmp_path):
    data, _ = packed
    before = snapshot(home)
    for overwrite in (False, True):
        out = tmp_path / f"out-{overwrite}"
        (out / ".work").mkdir(parents=True)
        if name == ".work":
            (out / ".work").rmdir()
        (out / name).symlink_to(home if name in (".work", "tokenizer", "validation") else home / "thesis.txt")
        with pytest.raises(UsageError, match="a link is where tokpack writes"):
            tokpack.pack(data, out, tokenizer=str(qwen), overwrite=overwrite)
    assert snapshot(home) == before


def test_overwriting_keeps_what_lies_deep_in_the_folder(packed, qwen, tmp_path):
    data, source = packed
    out = tmp_path / "out"
    tokpack.pack(data, out, tokenizer=str(qwen), max_length=256, val=0.1)
    mine = [out / name for name in ("tokenizer/notes.md", "validation/deep/thesis.pdf", "empty/x")]
    for path in mine:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    tokpack.pack(data, out, tokenizer=str(qwen), max_length=128, overwrite=True)
    assert [path.read_text() for path in mine] == ["mine"] * 3
    for again in (
        lambda: tokpack.repack(source, out, max_length=512, overwrite=True),
        lambda: tokpack.merge([source, source], out, overwrite=True),
    ):
        with pytest.raises(UsageError, match="did not write"):
            again()
    assert [path.read_text() for path in mine] == ["mine"] * 3


def test_names_of_ours_are_those_that_a_run_writes(packed):
    _, out = packed
    for path in (p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()):
        assert is_packed_file(path), path
    for path in (
        "thesis.json",
        "data-x.arrow",
        "tokenizer/a/b.json",
        "validation/validation/state.json",
        "x/",
    ):
        assert not is_packed_file(path), path
    for path in (
        "../manifest.json",
        "/manifest.json",
        "tokenizer/../../x.json",
        ".work/x",
        "manifest.json\n",
    ):
        assert not is_packed_file(path), path


def test_remove_own_follows_no_link_and_leaves_what_is_not_ours(home, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "manifest.json").write_text("ours")
    (folder / "state.json").symlink_to(home / "thesis.txt")
    (folder / "tokenizer").symlink_to(home)
    before = snapshot(home)
    assert remove_own(folder, is_packed_file) == ["state.json", "tokenizer"]
    assert sorted(path.name for path in folder.iterdir()) == ["state.json", "tokenizer"]
    (tmp_path / "link").symlink_to(home)
    assert remove_own(tmp_path / "link", lambda name: True) == ["link"]
    assert snapshot(home) == before


# One writer an output, and what is left of one that was cut off


def nothing(folder: Path):
    return lambda name: name == "rows"


def test_what_a_killed_command_left_is_cleaned_up_and_the_old_output_comes_back(tmp_path):
    out = tmp_path / "out"
    code = (
        "import os, sys; from pathlib import Path; from tokpack.files.fresh_folder import fresh_folder\n"
        "with fresh_folder(Path(sys.argv[1]), True, lambda folder: lambda name: name == 'rows') as new:\n"
        "    (new / 'rows').write_text('half')\n"
        "    os.kill(os.getpid(), 9)"
    )
    with fresh_folder(out, False, nothing) as new:
        (new / "rows").write_text("whole")
    subprocess.run([sys.executable, "-c", code, str(out)], check=False)
    assert (out / "rows").read_text() == "whole"
    assert beside(out, "part").is_dir()
    out.rename(beside(out, "part") / "old")  # cut off while the two change places
    with pytest.raises(UsageError, match="exists already"), fresh_folder(out, False, nothing):
        pass
    assert (out / "rows").read_text() == "whole"
    with fresh_folder(out, True, nothing) as new:
        (new / "rows").write_text("new")
    assert snapshot(tmp_path) == {"out": "", "out/rows": b"new"}


def test_what_a_command_left_that_was_killed_at_its_very_end_goes_though_the_output_is_there(tmp_path):
    out = tmp_path / "out"
    code = (
        "import os, sys; from pathlib import Path; from tokpack.files import fresh_folder as room\n"
        "room.sync_folder = lambda at: os._exit(9)\n"
        "with room.fresh_folder(Path(sys.argv[1]), False, lambda folder: lambda name: False) as new:\n"
        "    (new / 'rows').write_text('whole')"
    )
    assert subprocess.run([sys.executable, "-c", code, str(out)], check=False).returncode == 9
    assert beside(out, "part").is_dir()
    with pytest.raises(UsageError, match="exists already"), fresh_folder(out, False, nothing):
        pass
    assert snapshot(tmp_path) == {"out": "", "out/rows": b"whole"}


def test_a_command_killed_while_it_removes_the_output_before_is_repeated_as_if_nothing_was(tmp_path):
    out = tmp_path / "out"
    code = (
        "import os, sys; from pathlib import Path; from tokpack.files import fresh_folder as room\n"
        "room.remove_own = lambda at, own: at.name == 'old' and (os.unlink(at / 'a'), os._exit(9))\n"
        "with room.fresh_folder(Path(sys.argv[1]), True, lambda folder: lambda name: name in 'ab') as new:\n"
        "    (new / 'a').write_text('new')"
    )

    def known_by_a(folder: Path):  # as an export is known by its record
        return lambda name: (folder / "a").exists() and name in ("a", "b")

    with fresh_folder(out, False, known_by_a) as new:
        for name in ("a", "b"):
            (new / name).write_text("old")
    assert subprocess.run([sys.executable, "-c", code, str(out)], check=False).returncode == 9
    assert [path.name for path in (beside(out, "part") / "old").iterdir()] == ["b"]
    with fresh_folder(out, True, known_by_a) as new:
        (new / "a").write_text("newer")
    assert snapshot(tmp_path) == {"out": "", "out/a": b"newer"}


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_command_killed_at_any_step_on_disk_is_repeated_as_if_nothing_was(tmp_path):
    code = """if True:
        import os, shutil, sys
        from contextlib import suppress
        from pathlib import Path
        from tokpack.errors import UsageError
        from tokpack.files.fresh_folder import fresh_folder

        def write(out, what, overwrite=True):
            with fresh_folder(out, overwrite, lambda folder: lambda name: name in ("a", "in/b")) as new:
                (new / "in").mkdir()
                for name in ("a", "in/b"):
                    (new / name).write_text(what)

        def killed(out, step):
            def count(event, arguments):
                nonlocal step
                if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"):
                    step -= 1
                    if step < 0:
                        os.kill(os.getpid(), 9)

            overwrite = out.exists()
            if not (child := os.fork()):
                sys.addaudithook(count)
                write(out, "new", overwrite)
                os._exit(0)
            return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

        def all_steps(place, older):
            step, ended = 0, 9
            while ended:
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                if older:
                    write(place / "out", "old")
                ended = killed(place / "out", step)
                with suppress(UsageError):
                    write(place / "out", "new", older)
                left = sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
                assert left == ["out", "out/a", "out/in", "out/in/b"], (step, left)
                assert (place / "out" / "a").read_text() == "new"
                step += 1
            return step

        print(all_steps(Path(sys.argv[1], "fresh"), False), all_steps(Path(sys.argv[1], "over"), True))
    """
    arguments = [sys.executable, "-c", code, str(tmp_path)]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert all(int(steps) > 15 for steps in ran.stdout.split())


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_run_killed_while_it_clears_the_output_before_is_repeated_as_if_nothing_was(packed, tmp_path):
    code = """if True:
        import shutil, sys
        from pathlib import Path
        from kill_steps import each_step
        from tokpack.way import output

        source, top = map(Path, sys.argv[1:])
        out, mine = top / "out", top / "out" / "tokenizer" / "notes.md"

        def begin():
            shutil.rmtree(top, ignore_errors=True)
            shutil.copytree(source, out)
            mine.write_text("mine")

        def overwrite(again=True):
            with output.claim(out, again):
                output.work_folder(out, top)  # the next thing that a run does

        for step in each_step(overwrite, begin):
            overwrite((out / "manifest.json").is_file() and (out / "SHA256SUMS").is_file())
            left = sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())
            assert left == ["out/.work/elsewhere", "out/tokenizer/notes.md"], (step, left)
    """
    arguments = [sys.executable, "-c", code, str(packed[1]), str(tmp_path / "top")]
    ran = subprocess.run(arguments, capture_output=True, text=True, check=False, env=with_tests())
    assert ran.returncode == 0, ran.stderr


def test_a_folder_of_another_with_our_scratch_name_is_left_alone(home, tmp_path):
    out = tmp_path / "out"
    home.rename(beside(out, "part"))
    before = snapshot(tmp_path)
    with pytest.raises(UsageError, match="in the way"), fresh_folder(out, False, nothing):
        pass
    assert snapshot(tmp_path) == before
    beside(out, "part").rename(home)
    beside(out, "part").symlink_to(home)
    with pytest.raises(UsageError, match="link"), fresh_folder(out, False, nothing):
        pass
    assert (home / "thesis.txt").read_text() == "mine"


@pytest.mark.skipif(sys.platform == "win32", reason="no locks")
def test_one_of_two_commands_with_one_output_says_that_the_other_writes(packed, qwen, tmp_path):
    data, source = packed
    out = tmp_path / "out"
    with only_writer(out):
        for command in (
            lambda: tokpack.pack(data, out, tokenizer=str(qwen)),
            lambda: tokpack.repack(source, out),
            lambda: tokpack.merge([source, source], out),
            lambda: export(source, "trl", out),
            lambda: tokpack.clean(data, out),
        ):
            with pytest.raises(UsageError, match="another run is writing here"):
                command()
    assert list(tmp_path.iterdir()) == []
    tokpack.repack(source, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert read_manifest(out)


def test_clean_writes_through_no_link_that_was_planted_beside_its_output(packed, home, tmp_path):
    data, _ = packed
    before = snapshot(home)
    out = tmp_path / "kept.jsonl"
    for name in ("kept.jsonl", "kept.dropped.parquet", "kept.report.json", "kept.quarantine.jsonl"):
        beside(tmp_path / name, "part").symlink_to(home / "thesis.txt")
    tokpack.clean(data, out)
    assert snapshot(home) == before
    assert out.stat().st_size
    assert not list(tmp_path.glob(".*"))


def test_names_as_long_as_a_file_system_allows_have_a_place_beside_them(tmp_path):
    for length in (239, 250, 255):
        out = tmp_path / ("x" * length)
        with only_writer(out):
            assert beside(out, "lock").is_file()
        assert not beside(out, "lock").exists()
    assert beside(tmp_path / ("x" * 250), "part") != beside(tmp_path / ("y" * 250), "part")


def test_the_root_is_no_output():
    with pytest.raises(UsageError, match="the root is no output"):
        beside(Path("/"), "lock")

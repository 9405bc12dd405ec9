"""The folder that a training writes: checked before libraries are loaded, which takes seconds."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from shutil import rmtree

from tokpack.errors import UsageError, writing
from tokpack.files.fresh_folder import fresh_folder
from tokpack.files.own_files import entries_below
from trainer_plugin.recipe import Recipe

CHECKPOINT = re.compile(r"checkpoint-(\d+)")
"""What transformers calls its folders."""
STATE = "trainer_state.json"
"""What it writes last into them."""
RESULT = "result.json"
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
MODEL = ("config.json", "model.safetensors", "model.safetensors.index.json")
OURS = re.compile(r"checkpoint-\d|document-losses")
"""Folders that training writes."""


def last_checkpoint(out: Path) -> Path | None:
    """The last one that was written to its end; None where there is none."""
    ended = [path.parent for path in out.glob(f"*/{STATE}") if path.stat().st_size]
    steps = {int(found[1]): folder for folder in ended if (found := CHECKPOINT.fullmatch(folder.name))}
    return steps[max(steps)] if steps else None


def forget_result(out: Path, method: str) -> None:
    """What an earlier training's result is known by, or its weights are read from, goes."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (RESULT, *(MODEL if method == "full" else ADAPTER)):
        (out / name).unlink(missing_ok=True)


def remove_checkpoints(out: Path) -> None:
    """Those of another training: `--resume` would take them for this one's."""
    for state in out.glob(f"*/{STATE}"):
        if CHECKPOINT.fullmatch(state.parent.name):
            state.unlink()  # what is half removed is none
            rmtree(state.parent)


def how_to_go_on(out: Path) -> str:
    """What an interrupted training says."""
    if last_checkpoint(out) is not None:
        return "with --resume the same command goes on from its last checkpoint"
    used = out.is_dir() and any(out.iterdir())
    again = "repeat the command with --overwrite" if used else "repeat the command"
    return f"there is no checkpoint yet (--save-steps writes them); {again}"


def saving_in(out: Path) -> AbstractContextManager[None]:
    """A full disk, or missing rights, as an OutputError that says how to go on."""
    return writing(out, how_to_go_on=lambda: how_to_go_on(out))


def check_name(out: Path) -> None:
    """Raises UsageError for a name that is not UTF-8: safetensors and tokenizers write to none."""
    if (name := str(out)) != name.encode("utf-8", "ignore").decode():
        raise UsageError("the output's name is not UTF-8", where=name, hint="give -o another name")


def check_empty(out: Path) -> None:
    """Raises UsageError for what is there already: nothing of it is replaced."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError("the output is not empty", where=str(out), hint="give another folder")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder to write into; it becomes `out` when the block ends well. Raises UsageError where one is."""
    check_empty(out)
    with fresh_folder(out, False, lambda _: lambda name: False) as folder:
        yield folder


def check_mergeable(recipe: Recipe, adapter: Path, out: Path) -> None:
    """Before training: what would stop the merge after it. Raises UsageError."""
    if recipe.method == "full":
        raise UsageError(
            "a full run trains the model itself", where="--merge", hint="the folder of -o holds it: no merge"
        )
    check_empty(out)
    if out.resolve() in (adapter.resolve(), *adapter.resolve().parents):
        raise UsageError(
            "the merged model lies over the adapter", where=f"--merge {out}", hint="another folder"
        )


def take_output_folder(out: Path, resume: bool, overwrite: bool) -> str | None:
    """The checkpoint to resume from; None for a training from its beginning.

    Raises UsageError for a folder with links in it, one in use, and one to resume from without a checkpoint.
    """
    if link := next(_links_in_the_way(out), ""):
        raise UsageError(
            f"a link or a pipe is where training writes: {link}",
            where=str(out),
            hint="take it out, or give another -o",
        )
    if resume:
        return str(checkpoint_to_resume(out))
    check_output_folder(out, overwrite)
    return None


def checkpoint_to_resume(out: Path) -> Path:
    """Raises UsageError where there is none."""
    found = last_checkpoint(out)
    if found is None:
        raise UsageError(
            "no checkpoint to resume from",
            where=str(out),
            hint="checkpoints are written when the recipe has save_steps (or --save-steps)",
        )
    return found


def _links_in_the_way(out: Path) -> Iterator[str]:
    """Links, pipes and devices in a folder of results or checkpoints, which may be a stranger's.

    Links to other folders pass.
    """
    if not out.is_dir():
        return
    for name, entry in entries_below(out):
        special = not entry.is_file() and not entry.is_dir()
        if special or (entry.is_symlink() and (entry.is_file() or OURS.match(name) or "/" in name)):
            yield name


def check_output_folder(out: Path, overwrite: bool) -> None:
    """Raises UsageError for a file, and for a folder in use; of a training from its beginning."""
    if out.exists() and not out.is_dir():
        raise UsageError("the output is a file", where=str(out), hint="give a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(
            "the output folder is not empty", where=str(out), hint="--resume, --overwrite, or another folder"
        )

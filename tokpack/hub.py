"""Models by their names: a folder here, else a repository on the Hugging Face Hub, with errors of our own."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError, reading

CONFIG = "config.json"
LONGEST = 500
"""Folders that are looked through for a name like the one that was typed."""


def no_url(text: str, by_name: bool = True) -> str:
    """The name of a model or adapter as it was given. Raises UsageError for a URL.

    `by_name`: the Hub's names are taken, too.
    """
    _, mark, rest = text.partition("://")
    if not mark:
        return text
    hint = "copy its folder to this machine, and give that"
    if by_name and (text.startswith("hf://") or "=hf://" in text):
        hint = f"give {rest}, its name on the Hub"
    raise UsageError("models and adapters are not opened from URLs", where=text, hint=hint)


def check_model(name: str, flag: str = "--model") -> None:
    """Raises UsageError for a model that is neither a folder here nor on the Hub, DataError for one that may
    not be read: before libraries are loaded, which takes seconds."""
    if not Path(name).is_dir():
        from_hub(name, flag, lambda hub: str(hub.hf_hub_download(name, CONFIG)))
        return
    with reading(f"{flag} {name}"):
        os.scandir(name).close()


def from_hub(name: str, flag: str, fetch: Callable[[Any], str]) -> Path:
    """What `fetch` downloads with `huggingface_hub`, which it is given, or finds in the Hub's local cache.

    Raises UsageError that names the folder which was probably meant, or why the Hub does not give it.
    """
    no_url(name)
    beside = folder_like(name)
    meant = f"did you mean {beside}?" if beside else ""
    if name.count("/") > 1 or name.startswith((".", "/", "~")):
        raise UsageError("no such folder", where=f"{flag} {name}", hint=meant or "check the spelling")
    import huggingface_hub

    try:
        return Path(fetch(huggingface_hub))
    except Exception as error:  # the hub client raises its own, its transport's and OS errors alike
        what, hint = _why(error)
        raise UsageError(f"no such folder, and {what}", where=f"{flag} {name}", hint=meant or hint) from None


def folder_like(name: str) -> str:
    """The folder beside it whose name is nearest to the one given; empty where none is near."""
    path = Path(name).expanduser()
    with suppress(OSError):
        known = [entry.name for entry in os.scandir(path.parent) if entry.is_dir()][:LONGEST]
        by_small = {known_name.lower(): known_name for known_name in known}
        close = difflib.get_close_matches(path.name.lower(), by_small, n=1, cutoff=0.75)
        if close:
            return str(path.parent / by_small[close[0]])
    return ""


def _why(error: Exception) -> tuple[str, str]:
    """What the Hub's refusal means, and the next step."""
    from huggingface_hub import errors

    if isinstance(error, errors.HFValidationError):
        return "not a name on the Hugging Face Hub", "give a folder, or a name like OWNER/MODEL"
    if isinstance(error, errors.GatedRepoError):
        return "gated on the Hugging Face Hub", "ask for access on its page, then `hf auth login`"
    if isinstance(error, errors.RepositoryNotFoundError):
        return "not on the Hugging Face Hub", "check the spelling; a private model needs `hf auth login`"
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return "its repository on the Hugging Face Hub lacks the file", "check the name of the model"
    return (
        "not in the local cache of the Hugging Face Hub, which cannot be reached",
        "check the spelling and HF_HUB_OFFLINE; offline, give a folder",
    )

"""`tokpack push-adapter`: an adapter to the Hub or other storage, with a card that says what it was made of.

hf://USER/NAME                     a model repository on the Hugging Face Hub, in one commit
s3:// gs:// file:// ...            any file system of fsspec, `adapter_config.json` last
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError
from tokpack.on_disk.card import CARD, what_became
from tokpack.packed_urls import explained, file_system, is_url
from tokpack.terminal.activity import Activity, counted, default_activity
from tokpack.terminal.printable import one_line, without_secrets
from trainer_plugin.checkpoints.adapter_config import CONFIG
from trainer_plugin.checkpoints.adapter_folder import PROVENANCE

KINDS = {".json", ".jinja", ".model", ".safetensors", ".toml", ".txt"}
"""What is pushed of the folder's own files; no pickles, no checkpoints."""
HUB = re.compile(r"hf://([\w.-]+/[\w.-]+)")


def push_adapter(
    adapter: str | Path,
    url: str,
    *,
    overwrite: bool = False,
    private: bool = False,
    tell: Activity | None = None,
) -> str:
    """Copy an adapter that `tokpack train` wrote to `url`, with a model card. Returns the URL.

    `overwrite`: also where an adapter lies already. `private`: of a new repository on the Hub. Raises
    UsageError for a folder without an adapter or another kind of URL, OutputError when it cannot be written.
    """
    folder, url, tell = Path(adapter), url.rstrip("/"), tell or default_activity()
    if not (folder / CONFIG).is_file():
        raise UsageError(
            f"no adapter here: {CONFIG} is missing",
            where=str(folder),
            hint="give the folder that `tokpack train -o` wrote",
        )
    hub = HUB.fullmatch(url)
    if not is_url(url) or (url.startswith("hf://") and hub is None):
        raise UsageError(
            "no place for an adapter", where=url, hint="hf://USER/NAME, s3://BUCKET/FOLDER, file:///..."
        )
    files = sorted(
        (
            path
            for path in folder.iterdir()
            if path.suffix in KINDS and path.is_file() and not path.is_symlink()
        ),
        key=lambda path: (path.name == CONFIG, path.name),
    )
    card = adapter_card(folder, url).encode()
    with explained(url, writes=True), tell.doing(f"pushing to {url}", len(files), "files") as advance:
        if hub is not None:
            _to_hub(hub[1], files, card, overwrite, private)
            return url
        fs, root = file_system(url)
        if fs.exists(f"{root}/{CONFIG}") and not overwrite:
            raise _in_the_way(url)
        fs.makedirs(root, exist_ok=True)
        fs.pipe_file(f"{root}/{CARD}", card)
        for path in files:
            fs.put_file(str(path), f"{root}/{path.name}")
            advance(1)
    return url


def _to_hub(repo: str, files: list[Path], card: bytes, overwrite: bool, private: bool) -> None:
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    if CONFIG in api.list_repo_files(repo) and not overwrite:
        raise _in_the_way(f"hf://{repo}")
    adds = [CommitOperationAdd(path.name, str(path)) for path in files]
    adds.append(CommitOperationAdd(CARD, card))
    api.create_commit(repo, adds, commit_message="Adapter, by tokpack push-adapter")


def _in_the_way(url: str) -> UsageError:
    return UsageError("an adapter is there", where=url, hint="--overwrite, or another URL")


def adapter_card(folder: Path, url: str) -> str:
    """Markdown with the Hub's header: base, method, figures, and the fingerprint of the data.

    Raises UsageError where the records are of other types than `tokpack train` writes.
    """
    try:
        return _card(folder, without_secrets(url))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UsageError(
            f"{PROVENANCE} or result.json is not as tokpack writes it: {error}",
            where=str(folder),
            hint="take these files away: the card then does without them",
        ) from None


def _card(folder: Path, url: str) -> str:
    config, made, result = (_read(folder / name) for name in (CONFIG, PROVENANCE, "result.json"))
    base = one_line(str(made.get("base", {}).get("name") or config.get("base_model_name_or_path", "")))
    name = Path(base).name if Path(base).is_absolute() else base
    title = one_line(url.rpartition("/")[2])
    on_hub = url.startswith("hf://")  # PEFT opens that, and folders
    lines = [
        "---",
        "library_name: peft",
        *([f"base_model: {json.dumps(name)}"] if name and not Path(base).is_absolute() else []),
        "tags: [tokpack, lora]",
        "---",
        "",
        f"# {_cell(title)}",
        "",
        f"An adapter for {_cell(name or 'a base that its record does not name')}, trained on packed rows by "
        "[tokpack](https://pypi.org/project/tokpack/).",
        "",
        "| | |",
        "|---|---|",
        *(f"| {label} | {_cell(value)} |" for label, value in _facts(config, made, result) if value),
        "",
        "## Use",
        "",
        "```python",
        "from peft import AutoPeftModelForCausalLM",
        "",
        *([] if on_hub else ["# with a copy of this folder"]),
        "model = AutoPeftModelForCausalLM.from_pretrained("
        f"{json.dumps(url.removeprefix('hf://') if on_hub else title)})",
        "```",
        "",
    ]
    shards = made.get("shards") or []
    if shards:
        lines += ["## Data", "", "Shards of the packed dataset, by SHA-256:", ""]
        lines += [
            f"- {_cell(shard['file'])}, {counted(shard['rows'], 'row')}: `{_cell(shard['sha256'])}`"
            for shard in shards
        ]
        lines.append("")
    if ledger := made.get("ledger"):
        lines.append(what_became(ledger))
    return "\n".join(lines)


def _facts(config: dict[str, Any], made: dict[str, Any], result: dict[str, Any]) -> list[tuple[str, str]]:
    before, after = result.get("loss_before"), result.get("loss_after")
    held_out = f"{before:.4f} before, {after:.4f} after" if before is not None and after is not None else ""
    versions = ", ".join(f"{name} {version}" for name, version in made.get("versions", {}).items())
    return [
        ("method", f"{made.get('method', 'lora')}, rank {config.get('r')}"),
        ("digest of the base", str(made.get("base", {}).get("digest", ""))),
        ("steps", f"{result['steps']:,}" if "steps" in result else ""),
        ("tokens trained on", f"{result['tokens']:,}" if "tokens" in result else ""),
        ("rows", f"{made['rows']:,} of up to {made['capacity']:,} tokens" if "rows" in made else ""),
        ("held-out loss", held_out),
        ("versions", versions),
    ]


def _read(path: Path) -> dict[str, Any]:
    """A record of the folder; empty where there is none, or none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _cell(text: str) -> str:
    """In a table or a line: no markup, one line."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", one_line(str(text)))

"""What `AutoTokenizer` knows about a tokenizer folder, asked once and kept as plain files.

`AutoTokenizer` is the truth, but importing transformers costs seconds and pulls in torch. So a subprocess
(`python -m tokpack.encoding.tokenizer FOLDER OUT`) asks it once per folder; later runs read

    <cache>/tokenizers/<key>/tokenizer.json   the backend, as `tokenizers` serializes it
    <cache>/tokenizers/<key>/snapshot.json    chat template, special tokens, vocabulary size and digest

where the key is a SHA-256 over the folder's tokenizer files and the transformers version.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tokpack.encoding.backend_limits import largest_id, read_backend, too_much
from tokpack.errors import OutputError, UsageError, reading
from tokpack.files.durable import sync_tree
from tokpack.files.kept_digests import kept_sha256
from tokpack.files.user_cache import cache_root, own_cache, scratch_in

LARGEST_ID = 2**31 - 2
"""The vocabulary's size is an int32 too."""
BACKEND = "tokenizer.json"
SNAPSHOT = "snapshot.json"
LAYOUT = 5
"""Raised whenever the content of a snapshot changes, or what is refused, so that old ones are made again."""

TOKENIZER_FILES = (
    "*token*.json",
    "*.model",
    "*.tiktoken",
    "*.jinja",
    "additional_chat_templates/*.jinja",
    "vocab*",
    "merges*",
    "config.json",
    "chat_template.json",
)
"""Files of a model folder that can change what `AutoTokenizer` makes of it."""

PLAIN_CLASS = "TokenizersBackend"
_LOCAL_KEYS = ("is_local", "local_files_only", "name_or_path")


def snapshot_folder(folder: Path, cache_dir: str | Path | None = None) -> Path:
    """The snapshot of a tokenizer folder; made now when the cache has none. About 4 s the first time."""
    target = _place(folder, cache_dir)
    if _is_whole(target):
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = scratch_in(target.parent)
    except OSError as error:
        raise OutputError(
            f"cannot write the tokenizer cache: {error.strerror}",
            where=str(target.parent),
            hint="set TOKPACK_CACHE to a folder that can be written",
        ) from None
    try:
        _ask_transformers(folder, scratch)
        _publish(scratch, target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


def kept_snapshot(folder: Path) -> Path | None:
    """The snapshot of a tokenizer folder, if the cache has one."""
    target = _place(folder)
    return target if _is_whole(target) else None


def _place(folder: Path, cache_dir: str | Path | None = None) -> Path:
    """In the cache; where it cannot be written and has none, in the one among the temporary files."""
    place = cache_root(cache_dir) / "tokenizers" / _key(folder)
    if cache_dir is None and not _is_whole(place):
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(place.parent, os.W_OK):
            return own_cache("tokenizers") / place.name
    return place


def _is_whole(snapshot: Path) -> bool:
    """Whether it is there as it was written: a cache outlives crashes, and programs that clean up."""
    try:
        said = json.loads((snapshot / SNAPSHOT).read_text(encoding="utf-8"))
        return bool(kept_sha256(snapshot / BACKEND).hex() == said["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _publish(scratch: Path, target: Path) -> None:
    """Move into place at once; another process that was faster has written the same files."""
    scratch.chmod(0o755)
    sync_tree(scratch)
    if target.exists() and not _is_whole(target):
        shutil.rmtree(target, ignore_errors=True)
    try:
        scratch.rename(target)
    except OSError:
        if not _is_whole(target):
            raise


def _key(folder: Path) -> str:
    with reading(folder, hint="check --tokenizer, and the rights of the folder"):
        os.scandir(folder).close()  # a pattern finds nothing where it may not look
        files = sorted({path for name in TOKENIZER_FILES for path in folder.glob(name) if path.is_file()})
    if not files:
        raise UsageError(
            "no tokenizer in this folder", where=str(folder), hint="give a folder that holds tokenizer.json"
        )
    digest = hashlib.sha256(f"{LAYOUT} {_transformers()} {version('tokenizers')}\n".encode())
    for path in files:
        digest.update(f"{path.relative_to(folder).as_posix()}\x00".encode())
        with reading(path, hint="check --tokenizer, and the rights of its files"):
            digest.update(kept_sha256(path))
    return digest.hexdigest()[:32]


def _transformers() -> str:
    """Its version."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        raise UsageError(
            "transformers is not installed, and it alone says what a tokenizer's files mean",
            hint="pip install transformers (no PyTorch is needed)",
        ) from None


def _ask_transformers(folder: Path, out: Path) -> None:
    quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    # -P: a folder of the user's that happens to be named like a package must not shadow it.
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tokpack.encoding.tokenizer", str(folder.resolve()), str(out)],
        env={**os.environ, **quiet},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode == 0:
        return
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == OutputError.exit_code:
        raise OutputError(
            f"cannot write the tokenizer cache: {lines[-1]}",
            where=str(out.parent),
            hint="free some space, or set TOKPACK_CACHE to another folder",
        )
    if done.returncode == UsageError.exit_code:
        raise UsageError(
            f"the tokenizer is refused: {lines[-1]}",
            where=str(folder),
            hint="take the files of the model's own repository",
        )
    raise UsageError(
        f"AutoTokenizer cannot load it: {lines[-1] if lines else 'no message'}",
        where=str(folder),
        hint="check that transformers' AutoTokenizer.from_pretrained(FOLDER) loads it",
    )


def write_snapshot(folder: str, out: str) -> None:
    """Ask `AutoTokenizer` for everything tokpack needs. Runs in the subprocess; imports transformers."""
    from tokpack.on_disk.fingerprint import vocab_digest

    _check(read_backend(Path(folder, BACKEND)))
    auto = auto_tokenizer(folder)
    backend = getattr(auto, "backend_tokenizer", None)
    if backend is None:
        raise SystemExit(f"{type(auto).__name__} has no `tokenizers` backend, and tokpack needs one")
    backend.no_padding()
    backend.no_truncation()
    dropout = getattr(backend.model, "dropout", None) or 0.0
    if dropout:
        backend.model.dropout = None  # same input, same ids
    data = backend.to_str().encode("utf-8")
    _check(json.loads(data))  # what was made of other files
    vocab = backend.get_vocab(with_added_tokens=True)
    snapshot = {
        "chat_template": auto.chat_template,
        "special_tokens_map": auto.special_tokens_map,
        "special_tokens": sorted({t.content for t in auto.added_tokens_decoder.values() if t.special}),
        "added_tokens": {t.content: number for number, t in auto.added_tokens_decoder.items()},
        "ids": {name: getattr(auto, f"{name}_token_id") for name in ("bos", "eos", "pad")},
        "bos_prefix": _bos_prefix(backend),
        "dropout": round(dropout, 4),
        "vocab_size": max(vocab.values(), default=-1) + 1,
        "vocab_sha256": vocab_digest(vocab),
        "sha256": hashlib.sha256(data).hexdigest(),
        "tokenizer_config": _tokenizer_config(auto),
    }
    Path(out, BACKEND).write_bytes(data)
    text = json.dumps(snapshot, ensure_ascii=False, indent=1, sort_keys=True)
    Path(out, SNAPSHOT).write_text(text, encoding="utf-8")


def auto_tokenizer(folder: str) -> Any:
    """What `AutoTokenizer` loads. transformers 5 calls the class without rules of its own TokenizersBackend,
    and lists further special tokens; 4.57 has the same class, and the list, under their old names."""
    import transformers

    options: dict[str, Any] = {"trust_remote_code": False}
    if hasattr(transformers, PLAIN_CLASS):
        return transformers.AutoTokenizer.from_pretrained(folder, **options)
    settings = _settings(Path(folder))
    if isinstance(extra := settings.get("extra_special_tokens"), list):
        options |= {"extra_special_tokens": {}, "additional_special_tokens": extra}
    plain = settings.get("tokenizer_class") == PLAIN_CLASS
    kind = transformers.PreTrainedTokenizerFast if plain else transformers.AutoTokenizer
    return kind.from_pretrained(folder, **options)


def _settings(folder: Path) -> dict[str, Any]:
    file = folder / "tokenizer_config.json"
    settings = json.loads(file.read_bytes()) if file.is_file() else {}
    return settings if isinstance(settings, dict) else {}


def _check(backend: dict[str, Any]) -> None:
    """Ids beyond int32 are refused before `tokenizers` reserves memory for as many, and texts without end."""
    if (largest := largest_id(backend)) > LARGEST_ID:
        raise UsageError(f"it has the id {largest:,}, and ids are int32, up to {LARGEST_ID:,}")
    if excess := too_much(backend):
        raise UsageError(excess)


def _bos_prefix(backend: Any) -> list[int]:
    """Ids that the post-processor puts in front of a text: [bos], nothing, or GLM's pair."""
    bare = backend.encode("a", add_special_tokens=False).ids
    full = backend.encode("a", add_special_tokens=True).ids
    if not bare:
        return []
    start = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
    return list(full[:start])


def _tokenizer_config(auto: Any) -> dict[str, Any]:
    """tokenizer_config.json as transformers writes it, without what ties it to this machine."""
    with tempfile.TemporaryDirectory() as scratch:
        auto.save_pretrained(scratch)
        config: dict[str, Any] = json.loads(
            Path(scratch, "tokenizer_config.json").read_text(encoding="utf-8")
        )
    return {key: value for key, value in config.items() if key not in (*_LOCAL_KEYS, "chat_template")}

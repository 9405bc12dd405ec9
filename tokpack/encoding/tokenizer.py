"""The model's tokenizer and chat template, loaded without transformers or torch.

`load_tokenizer` is the way in. `Tokenizer.reference` is the `tokenizers` object whose ids are the truth;
`Tokenizer.fast` encodes whole batches and is used as far as it is proved equal.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokpack.encoding.fast_plan import load_fast
from tokpack.encoding.fast_proof import difference
from tokpack.encoding.fast_tokenizer import FastTokenizer
from tokpack.encoding.id_texts import IdTexts, kept_texts
from tokpack.encoding.proved import of_inputs, of_texts
from tokpack.encoding.reference_process import ReferenceProcess, started_early
from tokpack.encoding.snapshot import BACKEND, SNAPSHOT, TOKENIZER_FILES, snapshot_folder, write_snapshot
from tokpack.encoding.token_places import Encoded, encode_reference, encode_with
from tokpack.errors import FULL, OutputError, UsageError, check_name
from tokpack.hub import from_hub

_SPECIALS_OF_MAP = ("bos_token", "eos_token", "pad_token")


class Tokenizer:
    """A tokenizer as `AutoTokenizer` would load it. Safe to share between threads.

    `chat_template` is the template for ordinary chats; `tool_template` the one for chats with tools, which
    differs only where the model publishes several. Digests: `sha256` of the serialized backend,
    `vocab_sha256` of the vocabulary, `template_sha256` of the templates (empty without one).
    """

    def __init__(self, folder: Path, name: str, chat_template: str | None = None) -> None:
        snapshot: dict[str, Any] = json.loads((folder / SNAPSHOT).read_text(encoding="utf-8"))
        self.folder, self.name = folder, name
        self.special_tokens_map: dict[str, str] = snapshot["special_tokens_map"]
        self.bos_token, self.eos_token, self.pad_token = map(self.special_tokens_map.get, _SPECIALS_OF_MAP)
        ids = snapshot["ids"]
        self.eos_id: int | None = ids["eos"]
        self.pad_id: int | None = ids["pad"]
        self.bos_prefix: list[int] = snapshot["bos_prefix"]
        self.special_tokens: list[str] = snapshot["special_tokens"]
        self.added_tokens: dict[str, int] = snapshot["added_tokens"]
        self.vocab_size: int = snapshot["vocab_size"]
        self.sha256: str = snapshot["sha256"]
        self.vocab_sha256: str = snapshot["vocab_sha256"]
        self._given_template = chat_template
        templates = snapshot["chat_template"] if chat_template is None else chat_template
        self.chat_template, self.tool_template = _choose_templates(templates, name)
        self._config: dict[str, Any] = snapshot["tokenizer_config"]
        self.warnings: list[str] = []
        if snapshot.get("dropout"):
            self.warnings.append(
                f"BPE dropout of {snapshot['dropout']:g} in {name} is switched off: it splits a text in "
                "another way each time"
            )
        self._lock = threading.RLock()
        self._process: ReferenceProcess | None = None
        self._starts_late = False
        self.inputs = ""
        self.asked = False
        self._id_texts: IdTexts | None = None
        self._fast: FastTokenizer | None = None
        self._fast_refused: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process it is loaded there."""
        return Tokenizer, (self.folder, self.name, self._given_template), {"inputs": self.inputs}

    @cached_property
    def template_sha256(self) -> str:
        parts = dict.fromkeys(part for part in (self.chat_template, self.tool_template) if part is not None)
        return (
            hashlib.sha256("\x00".join(parts).encode("utf-8", "surrogatepass")).hexdigest() if parts else ""
        )

    @property
    def reference(self) -> Any:
        """The `tokenizers.Tokenizer`; loaded at first use."""
        with self._lock:
            return self._reference

    @cached_property
    def _reference(self) -> Any:
        import tokenizers

        return tokenizers.Tokenizer.from_buffer((self.folder / BACKEND).read_bytes())

    @property
    def fast(self) -> FastTokenizer | None:
        """The tokenizer of the fast path, loaded at first use; None when it cannot serve this one."""
        with self._lock:
            if self._fast is None and self._fast_refused is None:
                self._fast, refused = load_fast(self.folder, self.added_tokens, lambda: self._reference)
                if self._fast is None:
                    self.refuse_fast(refused)
            return self._fast

    @property
    def fast_refused(self) -> str:
        """Why there is no fast path; empty while there is one."""
        return self._fast_refused or ""

    def refuse_fast(self, reason: str) -> None:
        """Serve everything by the slow path from now on."""
        with self._lock:
            if self._fast_refused is None:
                self.warnings.append(f"the slow path of tokenizing serves {self.name}: {reason}")
            self._fast, self._fast_refused = None, reason

    def encode_reference(self, text: pa.LargeStringArray) -> Encoded:
        """Ids and places as `tokenizers` gives them."""
        self.asked = True
        return self._encode_reference(text)

    def disproved(self, text: pa.LargeStringArray, fast: FastTokenizer) -> str | None:
        """The first row on which the fast path differs from `tokenizers`. Of inputs that `prepare` was told
        about, rows that were proved before are not proved again."""
        proof = of_texts(self.sha256, repr(fast.plan), text) if self.inputs else None
        if proof is not None and proof.is_kept():
            return None
        wrong = difference(self._encode_reference, fast, text)
        if proof is not None and wrong is None:
            proof.keep()
        return wrong

    def _encode_reference(self, text: pa.LargeStringArray) -> Encoded:
        with self._other_process() as process:
            if process is not None:
                return encode_with(process.encode, text)
        return encode_reference(self.reference, text)

    @contextlib.contextmanager
    def _other_process(self) -> Iterator[ReferenceProcess | None]:
        """The process to ask. One that died is given up: asked here, the cause will show."""
        if self._starts_late:
            self.start_reference()
        try:
            yield self._process
        except (OSError, EOFError, pickle.UnpicklingError):
            self._process = None

    def prepare(self, inputs: str = "", later: bool = False) -> None:
        """Begin to load what encoding needs, in the background; what goes wrong shows at the first use.

        `inputs` names what will be encoded, as it is now: where an earlier run over it asked `tokenizers` for
        nothing but proofs, it is not loaded before it is asked. `later`: nothing is, others may do the work.
        """
        self.inputs, self.asked = inputs, False
        self._starts_late = later or (bool(inputs) and of_inputs(self.sha256, inputs).is_kept())
        if not self._starts_late:
            self.start_reference()
        if not later:
            threading.Thread(target=self._load_fast, name="load tokenizer").start()

    def settle(self) -> None:
        """The run over the inputs named to `prepare` is done."""
        if self.inputs and not self.asked and not self.fast_refused:
            of_inputs(self.sha256, self.inputs).keep()

    def start_reference(self) -> None:
        """Begin to load `tokenizers`, in a process of its own; nothing where that was done."""
        with self._lock:
            if self._process is None:
                with contextlib.suppress(OSError):
                    backend = self.folder / BACKEND
                    self._process = started_early(backend) or ReferenceProcess(backend)
            self._starts_late = False

    def _load_fast(self) -> None:
        with contextlib.suppress(Exception):
            _ = self.fast

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids, special tokens written out."""
        return self.decode_rows([[int(i) for i in ids]])[0]

    def decode_rows(self, rows: list[list[int]], plain: bool = False) -> list[str]:
        """Text of each row of ids, special tokens written out, or with `plain` left out."""
        known = self.id_texts
        texts = known.decode(rows, self._special_ids if plain else ()) if known is not None else None
        if texts is not None:
            return texts
        self.asked = True
        with self._other_process() as process:
            if process is not None:
                return process.decode(rows, plain)
        return list(self.reference.decode_batch(rows, skip_special_tokens=plain))

    @property
    def id_texts(self) -> IdTexts | None:
        """Texts of ids without `tokenizers`, where they are known by now."""
        if self._id_texts is None:
            self._id_texts = kept_texts(self.folder)
        return self._id_texts

    @cached_property
    def _special_ids(self) -> set[int]:
        special = set(self.special_tokens)
        return {number for content, number in self.added_tokens.items() if content in special}

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and chat_template.jinja for AutoTokenizer."""
        out = Path(folder)
        out.mkdir(parents=True, exist_ok=True)
        (out / BACKEND).write_bytes((self.folder / BACKEND).read_bytes())
        text = json.dumps(self._config, ensure_ascii=False, indent=2, sort_keys=True)
        (out / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")
        if self.chat_template is not None:
            (out / "chat_template.jinja").write_text(self.chat_template, encoding="utf-8")
        if self.tool_template not in (None, self.chat_template):
            extra = out / "additional_chat_templates"
            extra.mkdir(exist_ok=True)
            (extra / "tool_use.jinja").write_text(str(self.tool_template), encoding="utf-8")


def load_tokenizer(
    name_or_folder: str | Path,
    cache_dir: str | Path | None = None,
    chat_template: str | Path | None = None,
) -> Tokenizer:
    """Load a tokenizer from a local folder or by its Hugging Face Hub name.

    `chat_template`, a file or the Jinja text itself, replaces the tokenizer's own.
    Raises UsageError when the folder, the name or the template file cannot be used.
    """
    template = None if chat_template is None else _read_template(chat_template)
    local = Path(name_or_folder)
    if local.name == BACKEND and local.is_file():
        local = local.parent
    if local.is_dir():
        check_name(local)
        folder, name = local, local.resolve().name
    else:
        folder, name = _from_hub(str(name_or_folder)), str(name_or_folder)
    return Tokenizer(snapshot_folder(folder, cache_dir), name, template)


def _choose_templates(templates: Any, name: str) -> tuple[str | None, str | None]:
    """(template of plain chats, template of chats with tools) by transformers' rule for several templates."""
    if not isinstance(templates, dict):
        return templates, templates
    default = templates.get("default")
    if default is None and templates:
        raise UsageError(
            f"the tokenizer has several chat templates and no default: {', '.join(sorted(templates))}",
            where=name,
            hint="choose one with --chat-template FILE",
        )
    return default, templates.get("tool_use", default)


def _read_template(given: str | Path) -> str:
    if isinstance(given, str) and ("{{" in given or "{%" in given):
        return given
    path = Path(given)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot read the chat template: {why}", where=str(path), hint="check --chat-template"
        ) from None


def _from_hub(name: str) -> Path:
    """Folder of the tokenizer files of a Hub repository, from the local Hub cache when it has them."""
    patterns = [*TOKENIZER_FILES, "*.txt"]
    return from_hub(name, "--tokenizer", lambda hub: hub.snapshot_download(name, allow_patterns=patterns))


if __name__ == "__main__":
    sys.modules["torch"] = None  # type: ignore[assignment]  # as if not installed: tokenizers need none of it
    try:
        write_snapshot(*sys.argv[1:])
    except UsageError as refused:
        print(refused.what, file=sys.stderr)
        sys.exit(UsageError.exit_code)
    except OSError as full:
        if full.errno not in FULL:
            raise
        print(os.strerror(full.errno), file=sys.stderr)
        sys.exit(OutputError.exit_code)

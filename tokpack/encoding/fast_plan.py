"""Find out whether and how the fast path serves a tokenizer, by proof against `tokenizers`."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import Any

import pyarrow as pa

from tokpack.encoding.fast_forms import (
    BYTE_ALPHABET,
    JSON,
    RANKS,
    as_ranks,
    from_json,
    from_ranks,
    kept_encoder,
    kept_merges,
    plan_file,
)
from tokpack.encoding.fast_proof import USUAL, difference, odd_strings, shown
from tokpack.encoding.fast_tokenizer import FastPlan, FastTokenizer
from tokpack.encoding.id_texts import WORD_MARK, IdTexts, bytes_by_id, file_of, kept_texts, texts_of
from tokpack.encoding.snapshot import BACKEND
from tokpack.encoding.token_places import Encoded, encode_reference
from tokpack.files.durable import part_of, write_durably
from tokpack.files.kept_digests import kept_sha256

_loading = Lock()


def load_fast(folder: Path, added: dict[str, int], reference: Any) -> tuple[FastTokenizer | None, str]:
    """(fast tokenizer, or None, why not). The plan is read from the snapshot folder, or measured and kept.

    `reference` is a callable that gives the `tokenizers` object: it is not needed when the plan is there.
    """
    plan, sha256 = _kept_plan(folder)
    if plan is not None and plan.refused:
        return None, plan.refused
    with suppress(OSError, ValueError):
        if plan is not None and kept_sha256(_made_of(folder, plan)).hex() == sha256:
            with _loading:
                return _kept(folder, plan, tuple(added.items())), ""
    fast, plan, data, texts = measure((folder / BACKEND).read_bytes(), added, reference())
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        if fast is not None:
            _write(_made_of(folder, plan), data)
        if texts is not None:
            _write(file_of(folder), texts.to_bytes())
        said = {"plan": asdict(plan), "sha256": hashlib.sha256(data).hexdigest()}
        _write(plan_file(folder), json.dumps(said, ensure_ascii=False, indent=1).encode())
    return fast, plan.refused


def is_served(folder: Path) -> bool:
    """Whether an earlier run found that the fast path serves the tokenizer of a snapshot folder."""
    plan, _ = _kept_plan(folder)
    return plan is not None and not plan.refused


def _kept_plan(folder: Path) -> tuple[FastPlan | None, str]:
    """(plan, digest of what the tokenizer is made of)."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        said = json.loads(plan_file(folder).read_text(encoding="utf-8"))
        return FastPlan(**said["plan"]), said["sha256"]
    return None, ""


def _made_of(folder: Path, plan: FastPlan) -> Path:
    return folder / (RANKS if plan.scheme else JSON)


def _write(path: Path, data: bytes) -> None:
    write_durably(path, data, part_of(path))


@lru_cache(maxsize=1)
def _kept(folder: Path, plan: FastPlan, added: tuple[tuple[str, int], ...]) -> FastTokenizer:
    """Of a snapshot folder, whose name is a digest: made once for all runs of a process."""
    encoder = kept_encoder(folder, plan.scheme, dict(added))
    return _of_texts(encoder, plan, dict(added), kept_texts(folder))


def _of_texts(encoder: Any, plan: FastPlan, added: dict[str, int], texts: IdTexts | None) -> FastTokenizer:
    """`texts` of its ids, where they are kept."""
    if texts is not None and texts.word_mark == plan.word_mark and len(texts.texts) >= encoder.vocab_size:
        return FastTokenizer(encoder, plan, added, texts.texts)
    known = bytes_by_id(encoder.vocab, added, plan.first_sentinel, plan.word_mark)
    return FastTokenizer(encoder, plan, added, known)


def measure(
    data: bytes, added: dict[str, int], reference: Any
) -> tuple[FastTokenizer | None, FastPlan, bytes, IdTexts | None]:
    """(fast tokenizer or None, its plan, the tokenizer.json or ranks that it was made of, texts of ids)."""
    config = json.loads(data)
    try:
        nfc = _is_nfc(config.get("normalizer"))
        merges = kept_merges(config)
        encoder, first_sentinel, data = _load_encoder(config)
    except Exception as error:  # gigatoken raises its own and Rust errors for what it does not know
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return None, FastPlan(refused=reason), data, None
    strings = pa.array(list(odd_strings(added)), pa.large_string())
    true = encode_reference(reference, strings)
    best, unsure, first = None, len(strings) + 1, ""
    texts = texts_of(encoder.vocab, added, first_sentinel, config.get("decoder") or {})
    for plan in _candidates(FastPlan(first_sentinel=first_sentinel, nfc=nfc), config):
        fast = _of_texts(encoder, plan, added, texts)
        wrong = difference(lambda _: true, fast, strings)
        first = first or (f"it differs from `tokenizers` on {shown(wrong)}" if wrong is not None else "")
        slow = int(fast.encode(strings)[1].sum())
        if wrong is None and slow < unsure:
            best, unsure = fast, slow
    if best is None or best.encode(pa.array(USUAL, pa.large_string()))[1].all():
        why = first or "the places of its tokens cannot be read from the ids"
        return None, FastPlan(refused=why), data, None
    if texts is not None and not _makes(texts, true, added, config, reference):
        texts = None
    if merges and not first_sentinel and (ranks := as_ranks(config, merges)):
        by_ranks = _read_by_ranks(best.plan, ranks, added, texts)
        if by_ranks is not None and difference(lambda _: true, by_ranks, strings) is None:
            return by_ranks, by_ranks.plan, ranks[0], texts
    return best, best.plan, data, texts


def _read_by_ranks(
    plan: FastPlan, ranks: tuple[bytes, str], added: dict[str, int], texts: IdTexts | None
) -> FastTokenizer | None:
    data, scheme = ranks
    with tempfile.TemporaryDirectory() as scratch, suppress(OSError, RuntimeError, ValueError):
        path = Path(scratch, RANKS)
        path.write_bytes(data)
        return _of_texts(from_ranks(path, scheme, added), replace(plan, scheme=scheme), added, texts)
    return None


def _makes(
    texts: IdTexts, true: Encoded, added: dict[str, int], config: dict[str, Any], reference: Any
) -> bool:
    """Whether texts of ids are those of `tokenizers`, in trials with every added token."""
    special = {token["id"] for token in config["added_tokens"] if token["special"]}
    rows = [true.ids[low:high].tolist() for low, high in pairwise(true.offsets.tolist())]
    rows += [[number] for number in added.values()]
    rows += [[number, *row[:1:-1], number] for number, row in zip(added.values(), rows, strict=False)]
    rows = [row for row in rows if texts.decode([row]) is not None]
    return bool(rows) and all(
        texts.decode(rows, skipped) == reference.decode_batch(rows, skip_special_tokens=bool(skipped))
        for skipped in (set(), special)
    )


def _candidates(base: FastPlan, config: dict[str, Any]) -> Iterator[FastPlan]:
    """Plans to try."""
    before = json.dumps([config.get("normalizer"), config.get("pre_tokenizer")], ensure_ascii=False)
    if WORD_MARK in before:
        marks = "Prepend" in before or "Metaspace" in before
        base = replace(base, word_mark=True, compares=marks or not _knows_all_bytes(config["model"]))
        yield base
        for front in ("sections", "first") if marks else ():
            for spares in (False, True):
                yield replace(base, mark_in_front=front, spares_spaces=spares)
    else:
        for trim in ("never", "not_first", "always"):
            yield replace(base, trim=trim)


def _knows_all_bytes(model: dict[str, Any]) -> bool:
    """Whether what is not in the vocabulary is written as bytes, whatever it is."""
    return bool(model.get("byte_fallback")) and all(
        f"<0x{byte:02X}>" in model["vocab"] for byte in range(256)
    )


def _is_nfc(normalizer: Any) -> bool:
    """Whether a normalizer is NFC, or changes nothing. Raises ValueError for one that does anything else."""
    if normalizer is None:
        return False
    kind = normalizer.get("type")
    if kind == "Sequence":
        return True in [_is_nfc(part) for part in normalizer["normalizers"]]
    if kind == "NFC":
        return True
    if kind == "Prepend" and normalizer.get("prepend") == WORD_MARK:
        return False
    spaces = normalizer.get("pattern") == {"String": " "}
    if kind == "Replace" and spaces and normalizer.get("content") == WORD_MARK:
        return False
    raise ValueError(f"its normalizer {kind} changes the text, so that places cannot be read from the ids")


def _load_encoder(config: dict[str, Any]) -> tuple[Any, int, bytes]:
    """(gigatoken tokenizer, first sentinel id or 0, its tokenizer.json), missing bytes given sentinel ids."""
    data = _as_json(config)
    try:
        return from_json(data), 0, data
    except RuntimeError:
        vocab = config["model"].get("vocab")
        missing = [c for c in BYTE_ALPHABET if c not in vocab] if isinstance(vocab, dict) else []
        if not 0 < len(missing) < 256:
            raise
    first = max(*vocab.values(), *(token["id"] for token in config["added_tokens"])) + 1
    vocab.update({character: first + i for i, character in enumerate(missing)})
    data = _as_json(config)
    return from_json(data), first, data


def _as_json(config: dict[str, Any]) -> bytes:
    return json.dumps(config, ensure_ascii=False, separators=(",", ":")).encode()

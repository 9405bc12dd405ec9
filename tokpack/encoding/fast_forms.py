"""The forms in which gigatoken loads a tokenizer soonest, with the ids that its tokenizer.json gives."""

from __future__ import annotations

from base64 import b64encode
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokpack.encoding.merges import AppliedMerges, Pair

# The characters that byte-level BPE writes for the 256 bytes: printable Latin-1 stands for itself, the other
# bytes follow from U+0100 on (GPT-2).
_SELF = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = [byte for byte in range(256) if byte not in _SELF]
BYTE_ALPHABET = [chr(b) if b in _SELF else chr(0x100 + _OTHERS.index(b)) for b in range(256)]

LAYOUT = 6
"""Raised whenever plans change, so that old ones are made again."""
JSON = "tokenizer-fast.json"
RANKS = "tokenizer-fast.tiktoken"

_SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen2",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+": "qwen35",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "o200k",
}
"""What splits a text into words -> gigatoken's name for it."""
_PLAIN = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")
_MATCHES = ("lstrip", "rstrip", "single_word", "normalized")


def kept_merges(config: dict[str, Any]) -> AppliedMerges | None:
    """Leave in a tokenizer.json, in place, those merges alone that can be applied; None where all stay."""
    from tokpack.encoding.merges import applied_merges

    model = config["model"]
    if any(model.get(key) for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix")):
        return None
    merges = [_pair(merge) for merge in model.get("merges") or ()]
    found = applied_merges(model["vocab"], merges) if merges else None
    if found is not None:
        model["merges"] = found.merges
    return found


def as_ranks(config: dict[str, Any], kept: AppliedMerges) -> tuple[bytes, str] | None:
    """(the vocabulary as tiktoken writes one, gigatoken's name for how it splits texts) where they give the
    same ids: the merges of the ranks that can be applied are those of the tokenizer, in the same order."""
    from tokpack.encoding.merges import all_merges, applied_merges

    model, added = config["model"], config["added_tokens"]
    scheme = _scheme(config.get("pre_tokenizer") or {})
    names = {token["content"] for token in added}
    vocab = {token: number for token, number in model["vocab"].items() if token not in names}
    dense = sorted(vocab.values()) == list(range(len(vocab)))
    odd = any(model.get(key) for key in _PLAIN) or any(token.get(key) for token in added for key in _MATCHES)
    if not scheme or odd or not dense or not kept.by_rank:
        return None
    ranked = applied_merges(vocab, all_merges(vocab))
    longer = sum(len(token) > 1 for token in vocab)
    if ranked is None or ranked != kept or len(ranked.merges) != longer:
        return None
    if not set(BYTE_ALPHABET) >= set("".join(vocab)):
        return None
    to_bytes = {ord(character): byte for byte, character in enumerate(BYTE_ALPHABET)}
    written = (
        b"%s %d\n" % (b64encode(token.translate(to_bytes).encode("latin-1")), number)
        for token, number in sorted(vocab.items(), key=lambda item: item[1])
    )
    return b"".join(written), scheme


def from_json(data: bytes) -> Any:
    """The gigatoken tokenizer of a tokenizer.json."""
    import gigatoken

    return gigatoken.Tokenizer.from_json(data)


def from_ranks(path: Path, scheme: str, added: dict[str, int]) -> Any:
    """The gigatoken tokenizer of a vocabulary that `as_ranks` wrote."""
    import gigatoken

    return gigatoken.Tokenizer.from_tiktoken(path, scheme, added)


def plan_file(folder: Path) -> Path:
    """Where a snapshot folder keeps how the fast path serves it."""
    return folder / f"fast-{LAYOUT}-{version('gigatoken')}-{version('tokenizers')}.json"


def kept_encoder(folder: Path, scheme: str, added: dict[str, int]) -> Any:
    """The gigatoken tokenizer that a snapshot folder keeps."""
    if scheme:
        return from_ranks(folder / RANKS, scheme, added)
    return from_json((folder / JSON).read_bytes())


def _pair(merge: str | list[str]) -> Pair:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _scheme(pre_tokenizer: dict[str, Any]) -> str:
    parts = pre_tokenizer.get("pretokenizers") or []
    if [part.get("type") for part in parts] != ["Split", "ByteLevel"]:
        return ""
    split, by_bytes = parts
    if split.get("behavior") != "Isolated" or split.get("invert"):
        return ""
    if by_bytes.get("add_prefix_space") or by_bytes.get("use_regex"):
        return ""
    return _SPLITS.get(split.get("pattern", {}).get("Regex", ""), "")

"""Templates, tokenizers and chats for the tests of rendering and tokenizing; transformers as the judge."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from tokpack.encoding import snapshot
from tokpack.encoding.tokenizer import Tokenizer
from tokpack.stages.normalize.documents import DOCUMENT_SCHEMA

TEMPLATES = Path(__file__).parent / "templates"
NAMES = sorted(path.stem for path in TEMPLATES.glob("*.jinja"))
SPECIALS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"),
    *("<|eot_id|>", "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "[TOOL_CALLS]"),
    *("<｜User｜>", "<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
)
DOCUMENTS = {name: kind for name, kind in DOCUMENT_SCHEMA.items() if name not in ("source", "row")}
CORPUS = (
    "The quick brown fox jumps over the lazy dog. How can I help you today? Sure, here is the answer: 42.\n"
    "def main():\n    print('hello world')\n\nWhat is the capital of France? It is Paris, on the Seine. "
    "<think> reasoning </think> ünïcödé 你好 世界 émigré naïve 😀 привет мир "
) * 4


def template(name: str, tagged: bool = True) -> str:
    """A test template; without its generation tags, which leave the text as it is, when not `tagged`."""
    text = (TEMPLATES / f"{name}.jinja").read_text(encoding="utf-8")
    return text if tagged else re.sub(r"\{%-? (end)?generation %\}", "", text)


def frame(rows: Iterable[dict[str, Any]]) -> pl.DataFrame:
    """Documents as the pipeline hands them on; what a row leaves out is null, its kind `chat`."""
    full = [{"kind": "chat", **row, "doc_id": i} for i, row in enumerate(rows)]
    return pl.DataFrame([{name: row.get(name) for name in DOCUMENTS} for row in full], schema=DOCUMENTS)


def document(messages: Sequence[dict[str, Any]], tools: Any = None, **columns: Any) -> dict[str, Any]:
    """One row from messages in their usual form; what is more than role and text goes to `extra`."""
    plain = [m["content"] if isinstance(m.get("content"), str) else None for m in messages]
    told = [{"role", "content"} if text is not None else {"role"} for text in plain]
    more = [
        {key: value for key, value in message.items() if key not in known and value is not None}
        for message, known in zip(messages, told, strict=True)
    ]
    extra = json.dumps({"tools": tools, "messages": more}) if tools is not None or any(more) else None
    return {"roles": [m["role"] for m in messages], "contents": plain, "extra": extra, **columns}


@lru_cache
def _trained_merges(word_mark: bool) -> tuple[dict[str, int], list[tuple[str, str]]]:
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    if word_mark:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
        alphabet = []
    else:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([CORPUS], trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(pair) for pair in model["merges"]]


def byte_level(trim: bool = False, normalizer: Any = None, drop_bytes: int = 0) -> Any:
    """A byte-level BPE of 600 tokens; `trim` as Llama 3 has it, `drop_bytes` bytes missing from it."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors

    vocab, merges = _trained_merges(word_mark=False)
    used = {part for pair in merges for part in pair}
    lost = [token for token in vocab if len(token) == 1 and token not in used][:drop_bytes]
    vocab = {token: i for i, token in enumerate(token for token in vocab if token not in lost)}
    backend = Backend(models.BPE(vocab, merges))
    backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    if trim:
        backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return backend


def sentencepiece_like(front: str = "never") -> Any:
    """A BPE with word marks and byte fallback: Gemma's way (`never`), Llama 2's as it was (`sections`),
    and as transformers makes it now (`metaspace`: no mark before a space)."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    learned, merges = _trained_merges(word_mark=True)
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    vocab = {token: number for number, token in enumerate(tokens)}
    backend = Backend(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    prepend = [normalizers.Prepend("▁")] if front == "sections" else []
    if front == "metaspace":
        backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    else:
        backend.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps)
    return backend


def tokenizer_folder(backend: Any, folder: Path, chat_template: str | None = None, **special: Any) -> Path:
    """Save a backend as a model folder with `<s>`, `</s>` and the templates' special tokens."""
    from transformers import PreTrainedTokenizerFast

    special = {"bos_token": "<s>", "eos_token": "</s>", "additional_special_tokens": list(SPECIALS)} | special
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=4096, **special)
    fast.chat_template = chat_template
    fast.save_pretrained(folder)
    return folder


def small_tokenizer(folder: Path, backend: Any = None, chat_template: str | None = None) -> Tokenizer:
    """A byte-level BPE, or another backend, as tokpack opens it."""
    if not (folder / "tokenizer.json").is_file():
        tokenizer_folder(byte_level() if backend is None else backend, folder)
    return open_here(folder, folder.with_name(f"{folder.name}-snapshot"), chat_template)


def open_here(folder: Path, scratch: Path, chat_template: str | None = None) -> Tokenizer:
    """`load_tokenizer` without the subprocess: the tests have imported transformers anyway."""
    if not (scratch / snapshot.SNAPSHOT).is_file():
        scratch.mkdir(parents=True, exist_ok=True)
        snapshot.write_snapshot(str(folder), str(scratch))
    return Tokenizer(scratch, folder.name, chat_template)


PIECES = (
    *(
        "hello",
        "What is it?",
        "  ",
        " ",
        "\n",
        "\n\n",
        "a",
        "é",
        "e\u0301",
        "你好",
        "😀",
        "👨\u200d👩\u200d👧",
    ),
    *("\u00a0", "\u3000", "\x1f", "<|im_end|>", "<|im_start|>", "<|endoftext|>", "</s>", "<s>", "<|eot_id|>"),
    *("[/INST]", "<end_of_turn>", "<think>", "</think>", "<tool_response>", "</tool_response>", "\t", "\r\n"),
    *("x" * 50, "12345", "▁", "\u2028"),
    *("{{ x }}", "{% y %}", "\\n", '"quoted"', "<｜end▁of▁sentence｜>", "\u0130", "ﬁ", "\u212b", "\x00"),
)


def random_chats(number: int, seed: int, tools: bool = False) -> list[tuple[list[dict[str, Any]], Any]]:
    """Chats of many shapes with odd contents: (messages, tools)."""
    rng = random.Random(seed)
    chats = []
    for _ in range(number):
        messages: list[dict[str, Any]] = []
        if rng.random() < 0.4:
            messages.append({"role": "system", "content": _odd_text(rng)})
        for _ in range(rng.randint(1, 3)):
            messages.append({"role": "user", "content": _odd_text(rng)})
            if tools and rng.random() < 0.6:
                messages += _tool_exchange(rng)
            messages.append({"role": "assistant", "content": _odd_text(rng)})
            if tools and rng.random() < 0.3:
                messages[-1]["reasoning_content"] = _odd_text(rng)
        if rng.random() < 0.2:
            messages.pop()
        chats.append((messages, [TOOL] if tools and rng.random() < 0.5 else None))
    return chats


TOOL = {
    "type": "function",
    "function": {"name": "find", "description": "Finds <b>things</b>", "parameters": {"type": "object"}},
}


def _tool_exchange(rng: random.Random) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "find", "arguments": {"what": _odd_text(rng), "n": 3}}}
    said = rng.choice([None, "", _odd_text(rng)])
    return [
        {"role": "assistant", "content": said, "tool_calls": [call] * rng.choice([1, 1, 2])},
        {"role": "tool", "content": _odd_text(rng), "name": "find"},
    ]


def _odd_text(rng: random.Random) -> str:
    return "".join(rng.choices(PIECES, k=rng.choice([0, 1, 1, 2, 3, 6])))


def expected(auto: Any, messages: Any, tagged: str, tools: Any = None) -> tuple[list[int], list[int]]:
    """(ids, assistant mask) by transformers. Raises what the template raises."""
    options = {"return_dict": True, "return_assistant_tokens_mask": True}
    out = auto.apply_chat_template(messages, tools=tools, chat_template=tagged, **options)
    return out["input_ids"], out["assistant_masks"]

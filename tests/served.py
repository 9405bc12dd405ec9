"""Servers of tests: a tiny base with adapters, answering in a thread of the test's process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from adapter_files import save_adapter
from trainer_rows import save_tiny_model

TEMPLATE = (
    "{% for message in messages %}{{ 'w100' if message.role == 'user' else 'w101' }} "
    "{{ message.content }} w102 {% endfor %}{% if add_generation_prompt %}w101 {% endif %}"
)


def save_chat_model(folder: Path, **changes: Any) -> Path:
    """A tiny Llama whose words are w3 to w127, with a chat template of three of them."""
    from transformers import AutoTokenizer

    save_tiny_model(folder, max_position_embeddings=1024, **changes)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return folder


def save_place(folder: Path) -> Path:
    """A base, two plain adapters, and one that PEFT does not mix with others."""
    save_chat_model(folder / "base")
    save_adapter(folder / "base", folder / "math", seed=1)
    save_adapter(folder / "base", folder / "code", seed=2, target_modules=["q_proj", "down_proj"], r=8)
    save_adapter(folder / "base", folder / "dora", seed=3, use_dora=True)
    return folder


@contextmanager
def running(place: Path, adapters: Sequence[str] = (), limits: Any = None, **options: Any) -> Iterator[Any]:
    """A server over `place`; its `address` ends in /v1."""
    from trainer_plugin.serving.start import prepare
    from trainer_plugin.serving.values import Limits

    served = prepare(
        str(place / "base"),
        [str(place / name) for name in adapters],
        "base",
        limits=limits or Limits(),
        dtype="float32",
        **options,
    )
    thread = Thread(target=served.run, daemon=True)
    thread.start()
    try:
        yield served
    finally:
        served.server.should_exit = True
        thread.join(20)


def client(served: Any, **options: Any) -> Any:
    """OpenAI's own client, which tries nothing twice."""
    return openai().OpenAI(
        base_url=served.address, **{"api_key": "none", "max_retries": 0, "timeout": 60, **options}
    )


def refused(kind: str, match: str | None = None) -> Any:
    """Expects the error of that name, as OpenAI's client raises it."""
    return pytest.raises(getattr(openai(), kind), match=match)


def openai() -> Any:
    """Loads in a second or more, which only processes that ask a server pay."""
    return pytest.importorskip("openai", reason="no openai: pip install openai")

"""tokpack turns raw fine-tuning data into packed shards in one fast pass, says before training what every
token costs, and proves that no token was lost and no document leaks into another.

    import tokpack
    tokpack.analyze("chats.jsonl", tokenizer="Qwen/Qwen2.5-0.5B", max_length=4096)
    packed = tokpack.pack("chats.jsonl", "packed", tokenizer="Qwen/Qwen2.5-0.5B", max_length=4096)
    packed[0]["input_ids"]

Names load on first use: importing tokpack imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tokpack.version import __version__

if TYPE_CHECKING:
    from tokpack.api import analyze, open_packed, pack, pack_part
    from tokpack.errors import TokpackError
    from tokpack.packed.folder import PackedFolder
    from tokpack.packed.merging import merge
    from tokpack.packed.push import push
    from tokpack.packed.repacking import repack
    from tokpack.packed.verification import verify
    from tokpack.report.figures import Report
    from tokpack.settings.config import Config
    from tokpack.text.cleaning import clean

_HOME = {
    "PackedFolder": "tokpack.packed.folder",
    "Config": "tokpack.settings.config",
    "Report": "tokpack.report.figures",
    "TokpackError": "tokpack.errors",
    "analyze": "tokpack.api",
    "clean": "tokpack.text.cleaning",
    "merge": "tokpack.packed.merging",
    "open_packed": "tokpack.api",
    "pack": "tokpack.api",
    "pack_part": "tokpack.api",
    "push": "tokpack.packed.push",
    "repack": "tokpack.packed.repacking",
    "verify": "tokpack.packed.verification",
}

__all__ = [
    "Config",
    "PackedFolder",
    "Report",
    "TokpackError",
    "__version__",
    "analyze",
    "clean",
    "merge",
    "open_packed",
    "pack",
    "pack_part",
    "push",
    "repack",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'tokpack' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

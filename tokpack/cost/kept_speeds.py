"""Speeds that `--calibrate` measured on cards of the table, kept for the next bill in ~/.config/tokpack."""

from __future__ import annotations

import json
import logging
import os
import tomllib
from dataclasses import asdict, fields
from datetime import date
from operator import attrgetter
from pathlib import Path

from tokpack.cost import Calibration, Gpu, Method, ModelShape
from tokpack.files.durable import write_durably
from tokpack.frozen import frozen

log = logging.getLogger("tokpack")

HEAD = """\
# Measured by `tokpack analyze --calibrate`; the next bill for the same card, model and method takes them.
# Delete what no longer holds. `--mfu LOW,HIGH` passes over them.
"""


@frozen(kw_only=True)
class KeptSpeed:
    """One measurement: a [[speed]] of the file."""

    card: str
    model: str
    """For readers; the three numbers below say which model it is."""
    parameters: int
    layers: int
    hidden_size: int
    method: str
    rank: int
    tokens: int
    """Slots of a micro-batch."""
    flops_per_second: float
    note: str
    read: date

    def is_of(self, gpu: Gpu, shape: ModelShape, method: Method) -> bool:
        """Whether it was measured on this card with this model and method; adapters of any rank."""
        here = (gpu.key, shape.total_params, shape.num_layers, shape.hidden_size, method.kind)
        return here == (self.card, self.parameters, self.layers, self.hidden_size, self.method)


def speeds_file() -> Path:
    """`tokpack/speeds.toml` of XDG_CONFIG_HOME, else of ~/.config."""
    root = os.environ.get("XDG_CONFIG_HOME")
    return (Path(root) if root else Path.home() / ".config") / "tokpack" / "speeds.toml"


def kept_speed(gpu: Gpu, shape: ModelShape, method: Method) -> Calibration | None:
    """The newest kept speed of this card, model and method."""
    found = [speed for speed in _read() if speed.is_of(gpu, shape, method)]
    if not found:
        return None
    newest = max(found, key=lambda speed: speed.read)
    note = f"on {newest.read.isoformat()} in micro-batches of {newest.tokens:,} tokens ({speeds_file()})"
    return Calibration(flops_per_second=newest.flops_per_second, note=note)


def keep_speed(speed: KeptSpeed) -> Path | None:
    """Write it into the file, in place of an older one of the same micro-batch. None where that cannot be."""
    same = attrgetter("card", "parameters", "layers", "method", "rank", "tokens")
    others = [old for old in _read() if same(old) != same(speed)]
    path = speeds_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, (HEAD + "".join(map(_entry, [*others, speed]))).encode())
    except OSError as error:
        log.warning("the speed is not kept: %s: %s", path, error.strerror)
        return None
    return path


def _read() -> list[KeptSpeed]:
    """What can be read of the file; a warning names what cannot."""
    path = speeds_file()
    try:
        entries = tomllib.loads(path.read_text(encoding="utf-8")).get("speed", [])
        return [_speed(entry) for entry in entries]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, RecursionError) as error:
        log.warning("kept speeds are passed over: %s: %s", path, error)
        return []


def _speed(entry: dict[str, object]) -> KeptSpeed:
    speed = KeptSpeed(**entry)  # type: ignore[arg-type]
    for field in fields(KeptSpeed):
        value = getattr(speed, field.name)
        if type(value).__name__ != field.type:
            raise TypeError(f"{field.name} must be of type {field.type}, not {value!r}")
    if not speed.flops_per_second > 0:
        raise ValueError(f"flops_per_second must be positive, not {speed.flops_per_second!r}")
    return speed


def _entry(speed: KeptSpeed) -> str:
    lines = [f"{name} = {_toml(value)}" for name, value in asdict(speed).items()]
    return "\n[[speed]]\n" + "\n".join(lines) + "\n"


def _toml(value: str | float | date) -> str:
    if isinstance(value, str):
        return json.dumps(value.encode("utf-8", "replace").decode())
    return value.isoformat() if isinstance(value, date) else repr(value)

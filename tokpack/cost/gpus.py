"""The tables gpus.toml and apis.toml, with a user's own file laid over them."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields
from datetime import date
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from tokpack.cost.figure import Figure
from tokpack.errors import UsageError, near_matches
from tokpack.frozen import frozen

GIB = 2**30
REPORTED = 0.98
"""Assumed share of the memory as sold that a driver reports, where the table has no figure of its own."""


@frozen(kw_only=True)
class Gpu:
    """One GPU: `tflops` is the dense tensor peak in `dtype`, `memory_gb` as sold (counted in GiB).

    `tflops` is 0 for a device whose speed was measured. `reported_gib`: memory as its driver reports it.
    """

    key: str
    tflops: float
    memory_gb: float
    reported_gib: float | None = None
    name: str = ""
    dtype: str = "bf16"
    bandwidth_gb_s: float | None = None
    power_w: float | None = None
    price_usd_h: float | None = None
    price_note: str = ""
    sources: tuple[str, ...] = ()
    read: date | None = None

    @property
    def memory_bytes(self) -> int:
        """Memory as sold, in bytes."""
        return int(self.memory_gb * GIB)

    @property
    def reported_bytes(self) -> int:
        """Memory that the driver reports, in bytes."""
        return int((self.reported_gib or self.memory_gb * REPORTED) * GIB)

    @property
    def flops(self) -> float:
        """Dense peak in FLOP/s."""
        return self.tflops * 1e12


@frozen(kw_only=True)
class ApiPrice:
    """A managed fine-tuning price, in dollars per million trained tokens."""

    key: str
    usd_per_million: float
    provider: str = ""
    model: str = ""
    max_params_b: float | None = None
    source: str = ""
    read: date | None = None
    note: str = ""


Row = TypeVar("Row", Gpu, ApiPrice)


def load_gpus(user_file: str | Path | None = None) -> dict[str, Gpu]:
    """GPUs by key. `user_file` (TOML, same layout) adds some, or replaces single figures of known ones.

    Raises UsageError with file and key for a missing, unknown or wrong entry.
    """
    return _load("gpus.toml", Gpu, ("tflops", "memory_gb"), user_file)


def load_apis(user_file: str | Path | None = None) -> dict[str, ApiPrice]:
    """Managed fine-tuning prices by key, `user_file` laid over them as in `load_gpus`."""
    return _load("apis.toml", ApiPrice, ("usd_per_million",), user_file)


def find_gpu(name: str, gpus: Mapping[str, Gpu] | None = None) -> Gpu:
    """A GPU by its key, whatever the case and whether written with `-`, `_` or blanks ("rtx 4090").

    Raises UsageError with the nearest names.
    """
    return _find("GPU", "--gpu", name, load_gpus() if gpus is None else gpus)


def find_api(name: str, apis: Mapping[str, ApiPrice] | None = None) -> ApiPrice:
    """A managed fine-tuning price by its key, found as `find_gpu` finds a GPU."""
    return _find("service", "--api", name, load_apis() if apis is None else apis)


def _find(kind: str, flag: str, name: str, table: Mapping[str, Row]) -> Row:
    by_name = {spelled_alike(key): row for key, row in table.items()}
    row = by_name.get(spelled_alike(name))
    if row is None:
        starts = [key for key in table if spelled_alike(key).startswith(spelled_alike(name))]
        near = near_matches(name.upper() if kind == "GPU" else name.lower(), table)
        hint = "did you mean " + " or ".join(map(repr, starts)) + "?" if starts else near
        raise UsageError(f"unknown {kind} {name!r}", where=flag, hint=f"{hint} ({flag}s FILE adds yours)")
    return row


def gpu_price(gpu: Gpu, price_usd_h: float | None = None) -> Figure:
    """Dollars per GPU-hour: the price given, else the table's. Raises UsageError when there is neither."""
    if price_usd_h is not None:
        if price_usd_h < 0:
            raise UsageError(f"a price cannot be negative: {price_usd_h}", where="--gpu-price")
        return Figure(price_usd_h, "USD/GPU-hour", "assumed", "given by the user")
    if gpu.price_usd_h is None:
        raise UsageError(
            f"no price known for {gpu.key}",
            where="--gpu-price",
            hint=f"give --gpu-price USD_PER_HOUR, or price_usd_h under [{gpu.key}] in a --gpus FILE",
        )
    return Figure(gpu.price_usd_h, "USD/GPU-hour", "assumed", gpu.price_note or "price of the table")


def spelled_alike(name: str) -> str:
    """Names that differ only in case, `-`, `_` and blanks are one."""
    return name.lower().replace("-", "").replace("_", "").replace(" ", "")


def _load(
    table: str, row: type[Row], required: tuple[str, ...], user_file: str | Path | None
) -> dict[str, Row]:
    text = files("tokpack.cost").joinpath(table).read_text(encoding="utf-8")
    entries: dict[str, dict[str, Any]] = tomllib.loads(text)
    if user_file is not None:
        for key, values in _read_user(Path(user_file)).items():
            _check(row, values, f"{user_file}: [{key}]")
            entries[key] = {**entries.get(key, {}), **values}
            missing = [name for name in required if name not in entries[key]]
            if missing:
                raise UsageError(
                    f"{key} has no {missing[0]}",
                    where=f"{user_file}: [{key}] {missing[0]}",
                    hint="a new entry needs " + " and ".join(required),
                )
    return {key: row(key=key, **_tuples(values)) for key, values in entries.items()}


def _read_user(path: Path) -> dict[str, dict[str, Any]]:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(
            f"cannot read: {error.strerror}", where=str(path), hint="check path and rights"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not TOML: {error}", where=str(path), hint="mend it there") from None
    for key, entry in values.items():
        if not isinstance(entry, dict):
            raise UsageError(
                f"{key!r} stands outside a table",
                where=str(path),
                hint="one table an entry: [MY-GPU] and its figures below",
            )
    return values


def _check(row: type[Row], values: Mapping[str, Any], where: str) -> None:
    kinds = {f.name: str(f.type) for f in fields(row) if f.name != "key"}
    for name, value in values.items():
        if name not in kinds:
            raise UsageError(f"unknown key {name!r}", where=where, hint=near_matches(name, kinds))
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if "float" in kinds[name] and not (number and value >= 0):
            raise UsageError(f"{name} must be a number from 0 up, not {value!r}", where=f"{where} {name}")


def _tuples(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}

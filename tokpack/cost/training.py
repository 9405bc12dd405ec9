"""The run that is planned, ready to be costed: model, GPU, method, and the lengths of its documents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field, fields, replace
from pathlib import Path
from typing import Any

from tokpack.arrays import Bools, Int64, Integers
from tokpack.cost import (
    ApiPrice,
    Calibration,
    Estimate,
    Fit,
    Gpu,
    Method,
    ModelShape,
    estimate,
    find_api,
    find_gpu,
    fits,
    gpu_price,
    load_apis,
    load_gpus,
    memory,
)
from tokpack.cost.capacity import fit_lengths
from tokpack.cost.hf_config import max_positions
from tokpack.cost.kept_speeds import kept_speed
from tokpack.cost.memory import Loss, usable_bytes
from tokpack.errors import UsageError
from tokpack.frozen import frozen
from tokpack.hub import from_hub
from tokpack.settings.config import CostConfig

Lengths = Integers
KBIT_HEAD_BYTES = 4
"""`prepare_model_for_kbit_training`, which QLoRA trainers call, keeps embeddings and lm_head in fp32."""


@frozen(kw_only=True)
class Training:
    """The planned run: settings, model and GPU, all of them known to be good."""

    settings: CostConfig
    name: str
    shape: ModelShape
    max_positions: int | None
    method: Method
    gpu: Gpu | None
    gpus: dict[str, Gpu]
    apis: dict[str, ApiPrice] = field(default_factory=load_apis)
    api: ApiPrice | None = None
    """The service that the user asked for."""
    calibration: Calibration | None = None
    """Speed measured on `gpu`."""

    def fit(self, capacity: int, gpu: Gpu, checkpointing: bool) -> Fit:
        """Memory of one row of `capacity` tokens, with the loss of `tokpack train`."""
        return fits(self.shape, gpu, capacity, gpus=self.gpus, **self._step(checkpointing, "chunked"))

    def holds(self, capacity: int, gpu: Gpu, checkpointing: bool, loss: Loss = "chunked") -> bool:
        """Whether one row of `capacity` tokens fits."""
        return memory(self.shape, capacity, **self._step(checkpointing, loss)).total <= usable_bytes(gpu)

    def _step(self, checkpointing: bool, loss: Loss) -> dict[str, Any]:
        """What the memory of a training step is counted by."""
        return {
            "method": self.method,
            "checkpointing": checkpointing,
            "head_bytes": self.head_bytes,
            "loss": loss,
        }

    def checkpointing(self, capacity: int, gpu: Gpu | None = None) -> bool:
        """Gradient checkpointing as set; `auto` turns it on where a row does not fit without."""
        gpu = gpu or self.gpu
        if self.settings.checkpointing != "auto" or gpu is None:
            return self.settings.checkpointing == "on"
        return not self.holds(capacity, gpu, False)

    @property
    def head_bytes(self) -> int | None:
        return KBIT_HEAD_BYTES if self.method.kind == "qlora" else None

    def run(
        self, widths: Lengths, micro_batches: int, checkpointing: bool, gpu: Gpu | None = None
    ) -> Estimate | None:
        """Hours and money; None without a GPU. Price and speed of the user's hold for the GPU
        of the user's."""
        card = gpu or self.gpu
        if card is None:
            return None
        settings = self.settings
        own_price = settings.gpu_price if self.priced else 0.0
        run = estimate(
            self.shape,
            widths,
            card,
            method=self.method,
            epochs=settings.epochs,
            checkpointing=checkpointing,
            micro_batches=micro_batches,
            mfu=(settings.mfu[0], settings.mfu[1]) if settings.mfu else None,
            gpu_count=settings.gpu_count,
            price_usd_h=own_price if gpu is None else None,
            calibration=self.calibration if gpu is None else None,
        )
        return run if gpu is not None or self.priced else replace(run, money=None)

    @property
    def priced(self) -> bool:
        """Whether hours on `gpu` have a price."""
        if self.gpu is None:
            return False
        return self.settings.gpu_price is not None or self.gpu.price_usd_h is not None


@frozen(kw_only=True)
class CostedDocuments:
    """Lengths in tokens, and the plan."""

    raw: Lengths
    """Every document as it came, but those held out."""
    whole: Lengths
    """Documents before truncation: those kept, and those that are too long for a row. Of preference pairs,
    both documents together."""
    split: Bools
    """Which of `whole` are kept in pieces where they are longer than a row."""
    uncut: Bools
    """Which of `whole` are left out where they are longer than a row."""
    pieces: Lengths
    """What is packed."""
    rows: int
    """Rows of the plan."""
    capacity: int
    rows_for: Callable[[Lengths, int], int]
    """Rows that the planner makes of other lengths, at another capacity."""

    def fit(self, capacity: int) -> Int64:
        """What would be packed in rows of another capacity."""
        return fit_lengths(self.whole, capacity, self.split, self.uncut)


def load_training(settings: CostConfig, measured: bool = False) -> Training | None:
    """Read the model's config and find the GPU; None when no model is given.

    `measured`: the speed of the present device will be measured, which needs no GPU of the table.
    Raises UsageError before any work is done: unknown GPU, no price for it, a model that cannot be read, or
    a setting that needs a model when there is none.
    """
    if not settings.model:
        given = [f.name for f in fields(settings) if getattr(settings, f.name) != f.default]
        given += ["calibrate"] if measured else []
        if given:
            raise UsageError(
                "a cost needs the model that is trained",
                where="--" + given[0].replace("_", "-"),
                hint="add --model: a folder with config.json, the file, or a name on the Hugging Face Hub",
            )
        return None
    path = model_config(settings.model)
    gpus = load_gpus(settings.gpus or None)
    gpu = find_gpu(settings.gpu, gpus) if settings.gpu else None
    if gpu is not None:
        gpu_price(gpu, settings.gpu_price)
    elif settings.gpu_price is not None and not measured:
        raise UsageError("a price without a GPU", where="--gpu-price", hint="add --gpu NAME")
    shape = ModelShape.from_config(path)
    apis = load_apis(settings.apis or None)
    method = Method(kind=settings.method, rank=settings.rank)
    return Training(
        settings=settings,
        name=model_name(settings.model),
        shape=shape,
        max_positions=max_positions(path),
        method=method,
        gpu=gpu,
        gpus=gpus,
        apis=apis,
        api=_service(settings.api, apis, shape) if settings.api else None,
        calibration=kept_speed(gpu, shape, method) if gpu and not (measured or settings.mfu) else None,
    )


def _service(name: str, apis: dict[str, ApiPrice], shape: ModelShape) -> ApiPrice:
    """The service of that name. Raises UsageError when it does not take models of this size."""
    price, size = find_api(name, apis), shape.total_params / 1e9
    if price.max_params_b is not None and size > price.max_params_b:
        others = [p.key for p in apis.values() if p.max_params_b is not None and size <= p.max_params_b]
        raise UsageError(
            f"{price.key} is for models of up to {price.max_params_b:g}B, this one has {size:.3g}B",
            where="--api",
            hint="for this size: " + (", ".join(others) or "none in the table; add yours with --apis FILE"),
        )
    return price


def model_config(name: str) -> Path:
    """The config.json of a folder, a file, or a name on the Hub (from its local cache when it is there)."""
    path = Path(name).expanduser()
    if path.exists() or name.endswith(".json"):
        return path
    return from_hub(name, "--model", lambda hub: hub.hf_hub_download(name, "config.json"))


def model_place(name: str) -> str:
    """What `tokpack train --model` takes for it on this machine: a folder, or the name on the Hub."""
    path = Path(name).expanduser()
    return str(path.parent if path.is_file() else path) if path.exists() else name


def model_name(name: str) -> str:
    """The name to show: a Hub name as it is, of a path the folder's or the file's name."""
    path = Path(name)
    if path.exists():
        path = path.absolute()
        if path.is_file():
            return path.parent.name if path.name == "config.json" else path.stem
        return path.name
    return name

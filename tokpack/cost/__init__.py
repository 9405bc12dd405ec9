"""Cost before training: FLOPs, hours, money, memory and the run plan. What is named here needs numpy alone.

Some functions bear their module's name: `from tokpack.cost import estimate` is the function.
"""

from __future__ import annotations

from tokpack.cost.capacity import CapacityCurve, CapacityPoint, capacity_curve
from tokpack.cost.estimate import Calibration, Estimate, api_cost, compare, estimate
from tokpack.cost.figure import Figure
from tokpack.cost.flops import Flops, attention_pairs, flops, token_cost
from tokpack.cost.gpus import ApiPrice, Gpu, find_api, find_gpu, gpu_price, load_apis, load_gpus
from tokpack.cost.memory import Fit, Memory, Remedy, fits, memory
from tokpack.cost.method import Method
from tokpack.cost.model_shape import Matrix, ModelShape
from tokpack.cost.run_plan import RunPlan, TrainerSettings, run_plan
from tokpack.cost.slots import SlotRow, slot_table

__all__ = [
    "ApiPrice",
    "Calibration",
    "CapacityCurve",
    "CapacityPoint",
    "Estimate",
    "Figure",
    "Fit",
    "Flops",
    "Gpu",
    "Matrix",
    "Memory",
    "Method",
    "ModelShape",
    "Remedy",
    "RunPlan",
    "SlotRow",
    "TrainerSettings",
    "api_cost",
    "attention_pairs",
    "capacity_curve",
    "compare",
    "estimate",
    "find_api",
    "find_gpu",
    "fits",
    "flops",
    "gpu_price",
    "load_apis",
    "load_gpus",
    "memory",
    "run_plan",
    "slot_table",
    "token_cost",
]

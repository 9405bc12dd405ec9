"""How the model is trained: which weights move, in what format the others lie, which optimizer."""

from __future__ import annotations

from typing import Literal, get_args

from tokpack.errors import UsageError, near_matches
from tokpack.frozen import frozen

Kind = Literal["full", "lora", "qlora"]
Weights = Literal["fp32", "bf16", "int8", "nf4"]
Optimizer = Literal["adamw", "adamw_8bit", "paged_adamw_8bit"]


@frozen(kw_only=True)
class Method:
    """Training method. `qlora` is LoRA over 4-bit NF4 weights; LoRA sits on all linear layers.

    Raises UsageError for a combination that cannot be trained (full fine-tuning of 4-bit weights).
    """

    kind: Kind = "lora"
    rank: int = 16
    """LoRA rank r; unused by `full`."""
    weights: Weights | None = None
    """Format of the base weights; None is nf4 for qlora, bf16 for the rest."""
    compute_bytes: int = 2
    """Bytes of one activation: 2 under bf16 autocast, 4 in fp32."""
    adapter_bytes: int = 4
    """Bytes of one adapter weight: PEFT keeps adapters in fp32."""
    optimizer: Optimizer = "adamw"
    double_quant: bool = True
    """NF4 block constants quantized once more (`bnb_4bit_use_double_quant`)."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("method", self.kind, get_args(Kind)),
            ("weights", self.weights, (None, *get_args(Weights))),
            ("optimizer", self.optimizer, get_args(Optimizer)),
        ):
            if value not in known:
                hint = near_matches(str(value), [k for k in known if k])
                raise UsageError(f"unknown {name} {value!r}", where=name, hint=hint)
        if self.kind == "full" and self.base_weights in ("int8", "nf4"):
            raise UsageError(
                f"full fine-tuning cannot train {self.base_weights} weights",
                where="weights",
                hint="use weights bf16 or fp32, or the qlora method",
            )
        if self.kind == "qlora" and self.base_weights != "nf4":
            raise UsageError(
                f"qlora means nf4 weights, not {self.weights}", where="weights", hint="use the lora method"
            )
        if self.rank < 1:
            raise UsageError(f"LoRA rank must be at least 1, not {self.rank}", where="rank")

    @property
    def base_weights(self) -> Weights:
        """The format of the base weights, with the default filled in."""
        return self.weights or ("nf4" if self.kind == "qlora" else "bf16")

    @property
    def adapts(self) -> bool:
        """True when only adapters train."""
        return self.kind != "full"

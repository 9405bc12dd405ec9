"""The loss of a preference pair, from the log-probabilities of its two documents.

s: log-probability of a document's trained tokens, summed; r: the same by the reference; n: how many they are;
l = s / n. Chosen is w, rejected l.

    dpo     -log sigmoid(beta ((s_w - r_w) - (s_l - r_l)))                       Rafailov et al. 2023
    ipo     ((s_w - r_w) / n_w - (s_l - r_l) / n_l - 1 / (2 beta))^2             Azar et al. 2023, per token
    orpo    -l_w - beta log sigmoid(log odds(l_w) - log odds(l_l))               Hong et al. 2024
    simpo   -log sigmoid(beta (l_w - l_l) - gamma)                               Meng et al. 2024

Of an unpaired answer, good or bad, with the weight w of its kind, and kl, by how much policy and reference
differ on answers to other prompts (at least 0, no gradient):

    kto                 good  w (1 - sigmoid(beta (s - r - kl)))                 Ethayarajh et al. 2024
                        bad   w (1 - sigmoid(beta (kl - (s - r))))
    apo_zero_unpaired   the same without kl                                      D'Oosterlinck et al. 2024

with log odds(l) = l - log(1 - exp l). ORPO's first term is over the completion alone, and a mean over its
tokens: a pair weighs the same whatever the length of its answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

from tokpack.errors import UsageError, near_matches

if TYPE_CHECKING:
    import torch

Name = Literal["dpo", "ipo", "orpo", "simpo", "kto", "apo_zero_unpaired"]
BETA: dict[str, float] = {"simpo": 2.0}
UNPAIRED = ("kto", "apo_zero_unpaired")
"""Losses of answers that stand alone."""


class PairLosses(NamedTuple):
    """Per pair, fp32[P]: the loss, and the rewards of both answers, detached."""

    loss: torch.Tensor
    chosen: torch.Tensor
    rejected: torch.Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class PreferenceLoss:
    """Which loss, and how strong. Raises UsageError for what makes no loss."""

    loss: Name = "dpo"
    beta: float = 0.0
    """dpo, ipo, kto: pull to the reference; orpo: weight of the odds ratio; simpo: scale of the margin. 0:
    0.1, and 2.0 for simpo."""
    gamma: float = 1.0
    """simpo: margin that the chosen answer should have."""
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0
    """kto, apo_zero_unpaired: by how much good and bad answers count, against unequal numbers of them."""

    def __post_init__(self) -> None:
        if self.loss not in get_args(Name):
            raise UsageError(
                f"no preference loss {self.loss!r}",
                where="loss",
                hint=near_matches(self.loss, get_args(Name)),
            )
        if self.beta < 0 or self.gamma < 0:
            raise UsageError("beta and gamma cannot be negative", where=f"{self.beta}, {self.gamma}")
        weights = self.desirable_weight, self.undesirable_weight
        if not (all(0 <= weight < float("inf") for weight in weights) and any(weights)):
            raise UsageError(
                "the weights of good and bad answers are 0 or more, one of them more",
                where=f"desirable_weight={weights[0]}, undesirable_weight={weights[1]}",
            )
        if weights != (1, 1) and not self.is_unpaired:
            raise UsageError(
                f"{self.loss} is of pairs, whose answers have no weights",
                where="desirable_weight, undesirable_weight",
                hint=f"they are for {' and '.join(UNPAIRED)}",
            )

    @staticmethod
    def of(table: Mapping[str, Any], where: str = "[preference]") -> PreferenceLoss:
        """From a recipe's table. Raises UsageError naming an unknown key or a value of the wrong type."""
        known = {field.name for field in fields(PreferenceLoss)}
        for name, value in table.items():
            if name not in known:
                raise UsageError(f"unknown key {name!r}", where=where, hint=near_matches(name, known))
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not (isinstance(value, str) if name == "loss" else number):
                wanted = "a name" if name == "loss" else "a number"
                raise UsageError(f"{name} = {value!r} is not {wanted}", where=f"{where} {name}")
        return PreferenceLoss(**table)

    @property
    def strength(self) -> float:
        return self.beta or BETA.get(self.loss, 0.1)

    @property
    def is_unpaired(self) -> bool:
        """Whether it is of answers that are labeled one by one."""
        return self.loss in UNPAIRED

    @property
    def needs_reference(self) -> bool:
        return self.loss in ("dpo", "ipo", *UNPAIRED)

    @property
    def needs_divergence(self) -> bool:
        """Whether answers to other prompts are looked at."""
        return self.loss == "kto"

    def __call__(
        self, sums: torch.Tensor, tokens: torch.Tensor, reference: torch.Tensor | None = None
    ) -> PairLosses:
        """Losses of P pairs; sums, tokens, reference: `[P, 2]`, chosen first."""
        from torch.nn.functional import logsigmoid

        beta = self.strength
        if self.needs_reference:
            assert reference is not None
            scores = sums - reference
            scores = scores / tokens if self.loss == "ipo" else scores
        else:
            scores = sums / tokens
        chosen, rejected = scores.unbind(1)
        margin = chosen - rejected
        if self.loss == "dpo":
            loss = -logsigmoid(beta * margin)
        elif self.loss == "ipo":
            loss = (margin - 1 / (2 * beta)) ** 2
        elif self.loss == "simpo":
            loss = -logsigmoid(beta * margin - self.gamma)
        else:
            loss = -chosen - beta * logsigmoid(log_odds(chosen) - log_odds(rejected))
        return PairLosses(loss, beta * chosen.detach(), beta * rejected.detach())

    def unpaired(
        self, ratios: torch.Tensor, desirable: torch.Tensor, kl: torch.Tensor | float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses of N answers, and their rewards, detached: fp32[N] each.

        ratios: s - r; desirable: bool[N]; kl: the divergence as it was measured, 0 without one.
        """
        good = desirable.to(ratios.dtype)
        sign, weights = 2 * good - 1, self.desirable_weight * good + self.undesirable_weight * (1 - good)
        losses = weights * (1 - (self.strength * sign * (ratios - kl)).sigmoid())
        return losses, self.strength * ratios.detach()


def log_odds(logp: torch.Tensor) -> torch.Tensor:
    """log(p / (1 - p)) of p = exp(logp), logp <= 0; exact where p is near 0, finite where it is 1."""
    import torch

    half = -0.6931472
    near_zero = torch.log1p(-torch.exp(logp.clamp(max=half)))
    near_one = torch.log(-torch.expm1(logp.clamp(min=half, max=-1e-7)))
    return logp - torch.where(logp < half, near_zero, near_one)

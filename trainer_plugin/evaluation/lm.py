"""`TokpackLM`: lm-eval's model of Hugging Face, with log-likelihood requests answered in packed rows.

    from lm_eval import simple_evaluate
    from trainer_plugin.evaluation.lm import TokpackLM

    simple_evaluate(model=TokpackLM(network, tokenizer=tokenizer), tasks=["arc_easy"])

Importing this module registers it with lm-eval as `tokpack`. Generation is lm-eval's own, and so is the
scoring of models that cannot be run along trees (`trainer_plugin.evaluation.scoring`), with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from tokpack.terminal.activity import Activity
from trainer_plugin.evaluation.scoring import Request, Scorer
from trainer_plugin.isolation.probe import reference_attention
from trainer_plugin.isolation.verify import prepare_model
from trainer_plugin.models.strategies import (
    apply_strategy,
    attention_of,
    inner_model,
    restore_forward,
    strategy_of,
    text_config,
)

log = logging.getLogger("tokpack")


@register_model("tokpack")
class TokpackLM(HFLM):
    """HFLM whose `_loglikelihood_tokens` shares beginnings and packs rows; all else is HFLM's.

    pretrained: a model folder or name, or a loaded model, PEFT's too; what is switched on in it when a
    request comes is asked. tell: shows the progress.
    """

    batch_size_per_gpu: int

    def __init__(self, pretrained: Any, *args: Any, tell: Activity | None = None, **kwargs: Any) -> None:
        eval_log = logging.getLogger("lm_eval.models.huggingface")
        before = eval_log.level
        eval_log.setLevel(logging.ERROR)  # it warns of loaded models, which are the point here
        try:
            super().__init__(pretrained, *args, **kwargs)
        finally:
            eval_log.setLevel(before)
        if strategy_of(self._model) == "native":
            prepare_model(self._model)
        self.tell = tell or Activity(quiet=True)
        self.scorer = Scorer(self._model, self.max_length)

    def _loglikelihood_tokens(
        self, requests: list[Any], disable_tqdm: bool = False, override_bs: int | None = None
    ) -> list[tuple[float, bool]]:
        """requests: ((context, continuation) as text or None, and both as token ids)."""
        asked = [Request(context, continuation) for _, context, continuation in requests]
        with self.tell.doing("log-likelihoods", len(asked), "requests") as advance:
            answers = self.scorer.score(self._model, asked, advance)
        if answers is None:
            log.warning("log-likelihoods are made by lm-eval itself: %s", self.scorer.reason)
            with _as_it_came(self._model):
                found: list[tuple[float, bool]] = super()._loglikelihood_tokens(
                    requests, disable_tqdm, override_bs
                )
            return found
        for (text, _, _), answer in zip(requests, answers, strict=True):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, tuple(answer))
        return [(answer.log_likelihood, answer.is_greedy) for answer in answers]

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """All windows of all texts in one call: HFLM hands over `batch_size` at a time."""
        before = self.batch_size_per_gpu
        self.batch_size_per_gpu = 1 << 30
        try:
            sums: list[float] = super().loglikelihood_rolling(requests, disable_tqdm=True)
        finally:
            self.batch_size_per_gpu = before
        return sums

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        with _as_it_came(self._model), self.tell.doing("generating", len(requests), "texts"):
            texts: list[str] = super().generate_until(requests, disable_tqdm=True)
        return texts


@contextmanager
def _as_it_came(model: Any) -> Iterator[None]:
    """The attention that the model was loaded with, and its cache, while the block lasts."""
    inner = inner_model(model)
    strategy, attention = strategy_of(inner), attention_of(inner)
    native = reference_attention(inner) if attention == "tokpack" else attention
    restore_forward(inner)
    inner.set_attn_implementation(native)
    configs = (inner.config, text_config(inner))
    for config in configs:
        config.use_cache = True
    try:
        yield
    finally:
        apply_strategy(inner, strategy, attention if strategy != "tokpack" else native)

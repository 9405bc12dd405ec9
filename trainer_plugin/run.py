"""One training run from an artefact to a saved adapter; what `tokpack train` calls.

open artefact ─▶ compare tokenizers ─▶ load model ─▶ prove isolation ─▶ adapter ─▶ held-out loss
─▶ train ─▶ held-out loss ─▶ save adapter, recipe, provenance, result.json
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tokpack.errors import UsageError
from trainer_plugin.balance import BalancedSampler
from trainer_plugin.dataset import PackedDataset
from trainer_plugin.recipe import Recipe, training_arguments

RESULT = "result.json"


@dataclass(frozen=True)
class Plan:
    """What a run will do. `order` holds the rows it trains on, all ranks, repeats included: int64[n]."""

    rows: int
    tokens: int
    trained_share: float
    steps: int
    order: np.ndarray
    tokens_to_train: int


@dataclass(frozen=True)
class Result:
    """What a run did. `loss_before` and `loss_after` are held-out, None without a validation artefact.

    Tokens count from the first step, over every resume; `seconds` and the rate are of this session.
    """

    out: str
    method: str
    attn: str
    steps: int
    predicted_tokens: int
    tokens: int
    trained_tokens: int
    seconds: float
    tokens_per_second: float
    loss_before: float | None
    loss_after: float | None


def plan_run(dataset: PackedDataset, arguments: Any, sampler: BalancedSampler) -> Plan:
    """Steps as Trainer counts them: the last step of an epoch may be smaller, no row is left out."""
    tokens, trained = dataset.row_tokens(), dataset.row_trained()
    accumulation = arguments.gradient_accumulation_steps
    micro = math.ceil(len(dataset) / (sampler.batch_rows * sampler.ranks))
    steps = arguments.max_steps
    if steps <= 0:
        steps = math.ceil(arguments.num_train_epochs * math.ceil(micro / accumulation))
    order = sampler.rows_of(steps, accumulation)
    return Plan(
        rows=len(dataset),
        tokens=int(tokens.sum()),
        trained_share=float(trained.sum() / max(tokens.sum(), 1)),
        steps=steps,
        order=order,
        tokens_to_train=int(tokens[order].sum()),
    )


def run_training(
    artefact: str | Path,
    model: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    say: Callable[[str], None] = print,
) -> Result:
    """Train `model` on `artefact` as `recipe` says, write the result to `out`; `say` gets lines to show.

    Raises UsageError for settings that cannot work, VerifyError when documents would see each other.
    """
    out = Path(out)
    checkpoint = _checkpoint(out, resume, overwrite)
    dataset = PackedDataset(artefact)
    held_out = dataset.validation()

    from transformers import set_seed

    from trainer_plugin.collator import PackedCollator
    from trainer_plugin.isolation import prepare_model
    from trainer_plugin.qlora import load_model, prepare_lora, save_result
    from trainer_plugin.trainer import PackedTrainer, balanced_sampler

    tokenizer = _tokenizer(model)
    dataset.check_tokenizer(tokenizer)
    network = load_model(model, recipe)
    report = prepare_model(network, recipe.attn, dataset=dataset, probe=recipe.probe)
    say(_isolation_line(report, recipe.probe))
    set_seed(recipe.seed)
    if recipe.method != "full":
        network = prepare_lora(network, recipe)
    say(_parameters_line(network))
    arguments = training_arguments(recipe, out)
    plan = plan_run(dataset, arguments, balanced_sampler(dataset, arguments, network))
    say(
        f"{plan.rows:,} rows, {plan.tokens:,} tokens, {plan.trained_share:.1%} of them trained; "
        f"{plan.steps:,} steps over {len(plan.order):,} rows, {plan.tokens_to_train:,} tokens"
    )
    pad = dataset.manifest["tokenizer"].get("pad_token_id") or 0
    trainer = PackedTrainer(
        network,
        arguments,
        PackedCollator(dataset.capacity if recipe.pad_to_capacity else None, pad_token_id=pad),
        train_dataset=dataset,
        eval_dataset=held_out,
        loss=recipe.loss,
        probe=False,
    )
    before = trainer.evaluate()["eval_loss"] if held_out is not None else None
    started = time.perf_counter()
    trainer.train(resume_from_checkpoint=checkpoint)
    seconds = time.perf_counter() - started
    after = trainer.evaluate()["eval_loss"] if held_out is not None else None
    counts = trainer.counts()
    result = Result(
        out=str(out),
        method=recipe.method,
        attn=report.attn,
        steps=trainer.state.global_step,
        predicted_tokens=plan.tokens_to_train,
        tokens=counts["tokens"],
        trained_tokens=counts["trained_tokens"],
        seconds=round(seconds, 2),
        tokens_per_second=round(trainer.session_tokens / seconds, 1),
        loss_before=before,
        loss_after=after,
    )
    if trainer.is_world_process_zero():
        save_result(trainer, out, recipe, artefact=dataset, tokenizer=tokenizer)
        (out / RESULT).write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    return result


def _checkpoint(out: Path, resume: bool, overwrite: bool) -> str | None:
    """The checkpoint to resume from; refuses an output folder with something in it otherwise."""
    if resume:
        from transformers.trainer_utils import get_last_checkpoint

        found = get_last_checkpoint(str(out)) if out.is_dir() else None
        if found is None:
            raise UsageError(
                "no checkpoint to resume from",
                where=str(out),
                hint="checkpoints are written when the recipe has save_steps (or --save-steps)",
            )
        return str(found)
    if out.exists() and not out.is_dir():
        raise UsageError("the output is a file", where=str(out), hint="give a folder")
    if out.is_dir() and any(out.iterdir()) and not overwrite:
        raise UsageError(
            "the output folder is not empty", where=str(out), hint="--resume, --overwrite, or another folder"
        )
    return None


def _tokenizer(model: str | Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(model))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the model's tokenizer cannot be loaded: {str(error).splitlines()[0]}",
            where=f"--model {model}",
            hint="give a folder with config.json, tokenizer and weights, or a model name on the hub",
        ) from None


def _isolation_line(report: Any, probed: bool) -> str:
    if not probed:
        return f"attention {report.attn}; isolation of documents NOT probed"
    return (
        f"attention {report.attn}: documents are isolated "
        f"(largest difference to documents alone {report.max_difference:.0e} of the largest logit)"
    )


def _parameters_line(model: Any) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{trained:,} trained parameters"

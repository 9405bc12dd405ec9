"""One training run from a packed dataset to a saved adapter; what `tokpack train` calls.

open packed dataset ─▶ compare tokenizers ─▶ load model ─▶ prove isolation ─▶ adapter ─▶ predict
─▶ train, held-out loss before and after ─▶ save adapter, recipe, provenance, result.json
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokpack.encoding.other_tokenizer import check_model_tokenizer
from tokpack.errors import UsageError
from tokpack.hub import check_model
from tokpack.on_disk.checked import check_dataset
from tokpack.terminal.activity import Activity, counted, duration
from trainer_plugin.output_folder import (
    RESULT,
    checkpoint_to_resume,
    remove_checkpoints,
    saving_in,
    take_output_folder,
)
from trainer_plugin.processes import is_first_process
from trainer_plugin.recipe import Recipe, training_arguments
from trainer_plugin.rows.dataset import PackedDataset
from trainer_plugin.training.document_log import check_log_name
from trainer_plugin.training.preference_run import preference_lines, preference_of, trainer_of
from trainer_plugin.training.price import card_here, price_of
from trainer_plugin.words import dollars

if TYPE_CHECKING:
    from tokpack.cost import Figure, Gpu
    from trainer_plugin.isolation.report import IsolationReport
    from trainer_plugin.rows.balance import Order
    from trainer_plugin.training.forecast import RunForecast


@dataclass(frozen=True, kw_only=True)
class Result:
    """What a run did, beside what was predicted.

    Tokens, seconds and dollars count from the first step, over every resume; the rate is of this session.
    Ranges are (low, high). `loss_before`, `loss_after` and `held_out` (step, loss) are held-out losses.
    """

    out: str
    method: str
    attn: str
    processes: int
    steps: int
    ended: str
    """`done`, `token budget`, `max cost`, or `no better` where the held-out loss no longer fell."""
    predicted_tokens: int
    tokens: int
    trained_tokens: int
    predicted_seconds: tuple[float, float] | None
    prediction: str
    """Where the predicted seconds come from."""
    seconds: float
    evaluation_seconds: float
    """Part of the seconds of this session; predictions are without."""
    tokens_per_second: float
    gpu_price: float | None
    """Dollars an hour of one GPU (process)."""
    predicted_cost: tuple[float, float] | None
    cost: float | None
    loss_before: float | None
    loss_after: float | None
    held_out: tuple[tuple[int, float], ...]
    rewards_before: dict[str, float] | None = None
    """Of preferences held out: margin, chosen, rejected, and accuracy of pairs."""
    rewards_after: dict[str, float] | None = None


def check_run(
    packed: str | Path, model: str, recipe: Recipe, out: Path, *, resume: bool, gpus: str | Path | None
) -> None:
    """Raises UsageError for what cannot be trained, before libraries are loaded, which takes seconds."""
    dataset = PackedDataset(packed)
    check_model(model)
    _held_out(dataset, recipe)
    preference_of(dataset, recipe)
    price_of(recipe, gpus)
    if recipe.document_log:
        check_log_name(recipe.document_log)
    if resume:
        checkpoint_to_resume(out)
    check_model_tokenizer(model, dataset.manifest, dataset.folder)


def run_training(
    packed: str | Path,
    model: str | Path,
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    gpus: str | Path | None = None,
    check: bool = True,
    tell: Activity | None = None,
) -> Result:
    """Train `model` on `packed` as `recipe` says, write the result to `out`; `tell` shows what happens.

    gpus: a TOML file laid over the GPU table. check: compare the sums of the shards first. Raises UsageError
    for settings that cannot work, DataError for shards that were altered or damaged, VerifyError when
    documents would see each other.
    """
    out, tell = Path(out), tell or Activity()
    if recipe.document_log:
        check_log_name(recipe.document_log)
    checkpoint = take_output_folder(out, resume, overwrite)
    dataset = PackedDataset(packed)
    if check and is_first_process():
        with tell.doing("checking the sums of the shards"):
            check_dataset(dataset.folder, dataset.manifest)
    held_out = _held_out(dataset, recipe)
    preference = preference_of(dataset, recipe)

    from trainer_plugin.adapters.qlora import save_result
    from trainer_plugin.checkpoints.model_files import load_tokenizer
    from trainer_plugin.dtypes import settle_dtype
    from trainer_plugin.extras import check_extras
    from trainer_plugin.rows.balance import balanced_sampler
    from trainer_plugin.training.forecast import larger_micro_batch, plan_run, predicted_hours

    check_extras(recipe.trainer)
    gpu, price = price_of(recipe, gpus)
    recipe, dtype = settle_dtype(recipe, model)
    arguments = training_arguments(recipe, out, eval_on_start=held_out is not None and checkpoint is None)
    tell.say(f"dtype {dtype}{_precision_line(arguments)}")
    with tell.doing("loading the tokenizer"):
        dataset.check_tokenizer(tokenizer := load_tokenizer(model))
    network, report = _model_to_train(model, recipe, dataset, held_out, tell)
    if preference is not None:
        for line in preference_lines(preference, dataset, recipe):
            tell.say(line)
    sampler = balanced_sampler(dataset, arguments, network, recipe.row_order)
    plan = plan_run(dataset, arguments, sampler, recipe.token_budget or None)
    hours = None
    if gpu is not None and not (preference and preference.needs_reference):  # which takes time, uncounted
        config = network.config.to_dict()
        hours = predicted_hours(config, dataset, plan, recipe, gpu, arguments.world_size)
    for line in _plan_lines(plan, hours, price, arguments.world_size, sampler.row_order):
        tell.say(line)
    if (card := gpu or card_here(gpus)) is not None and preference is None:
        config = network.config.to_dict()
        if found := larger_micro_batch(config, dataset, plan, recipe, card, arguments.world_size):
            tell.say(_micro_batch_line(*found, recipe, card))
    make = trainer_of(preference, model, recipe, report.attn)
    make = partial(make, gpu_price=price, progress=tell)
    trainer = _trainer(make, network, arguments, recipe, dataset, held_out)
    if checkpoint is None and trainer.is_world_process_zero():
        remove_checkpoints(out)
    trainer.train(resume_from_checkpoint=checkpoint)
    with tell.doing(f"writing {out}"), saving_in(out):
        save_result(trainer, out, recipe, packed=dataset, tokenizer=tokenizer)
    result = _result(trainer, recipe, report.attn, plan, hours)
    if trainer.is_world_process_zero():
        (out / RESULT).write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
    return result


def _held_out(dataset: PackedDataset, recipe: Recipe) -> PackedDataset | None:
    """The validation part. Raises UsageError where the recipe looks at its loss and there is none."""
    found = dataset.validation()
    if found is None and recipe.eval_steps:
        raise UsageError(
            "there is no held-out loss: nothing is held out",
            where=f"eval_steps={recipe.eval_steps}",
            hint="pack with --val 0.01",
        )
    return found


def _model_to_train(
    model: str | Path,
    recipe: Recipe,
    dataset: PackedDataset,
    held_out: PackedDataset | None,
    tell: Activity,
) -> tuple[Any, IsolationReport]:
    """The model with the adapter that is to be trained, set up so that documents of a row do not see each
    other, and the proof."""
    from transformers import set_seed

    from trainer_plugin.adapters.qlora import load_model, prepare_lora
    from trainer_plugin.isolation.verify import prepare_model
    from trainer_plugin.models.private_names import require_trainer
    from trainer_plugin.models.strategies import reshard

    require_trainer("training from a recipe")
    with tell.doing(f"loading {model}"):
        network = load_model(model, recipe)
    with tell.doing("checking the ids of the rows"):
        for part in filter(None, (dataset, held_out)):
            part.check_values(network)
    with tell.doing("probing the isolation of documents" if recipe.probe else "setting the attention up"):
        report = prepare_model(network, recipe.attn, dataset=dataset, probe=recipe.probe)
    reshard(network)  # whole after the probe, tied weights count twice: in the line, and in the row order
    tell.say(_isolation_line(report, recipe.probe))
    set_seed(recipe.seed)
    if recipe.method != "full":
        network = prepare_lora(network, recipe)
    tell.say(_parameters_line(network))
    return network, report


def _trainer(
    make: Callable[..., Any],
    network: Any,
    arguments: Any,
    recipe: Recipe,
    dataset: PackedDataset,
    held_out: PackedDataset | None,
) -> Any:
    """What `make` makes of the model, the rows and the recipe."""
    from trainer_plugin.adapters.qlora import lora_plus_optimizer
    from trainer_plugin.models.layer_sampling import LayerSampling
    from trainer_plugin.rows.collator import PackedCollator
    from trainer_plugin.training.patience import Patience

    collator = PackedCollator(
        dataset.capacity if recipe.pad_to_capacity else None,
        pad_token_id=dataset.manifest["tokenizer"].get("pad_token_id") or 0,
    )
    optimizer = lora_plus_optimizer(network, arguments, recipe.lora_plus_ratio)
    callbacks: list[Any] = [Patience(recipe.patience)] if recipe.patience else []
    if recipe.lisa_layers:
        callbacks.append(LayerSampling(network, recipe.lisa_layers, recipe.lisa_steps, recipe.seed))
    return make(
        network,
        arguments,
        collator,
        train_dataset=dataset,
        eval_dataset=held_out,
        loss=recipe.loss,
        order=recipe.row_order,
        probe=False,
        token_budget=recipe.token_budget or None,
        max_cost=recipe.max_cost or None,
        document_log=recipe.document_log or None,
        loss_by_source=recipe.loss_by_source,
        optimizers=(optimizer, None),
        callbacks=callbacks,
    )


def _result(trainer: Any, recipe: Recipe, attn: str, plan: RunForecast, hours: Figure | None) -> Result:
    """What the run did."""
    evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    after = _last_evaluation(trainer, evaluations)
    before: dict[str, Any] = next((entry for entry in evaluations if entry["step"] == 0), {})
    return Result(
        out=trainer.args.output_dir,
        method=recipe.method,
        attn=attn,
        loss_before=before.get("eval_loss"),
        loss_after=after.get("eval_loss"),
        held_out=_held_out_losses(evaluations, trainer.state.global_step, after.get("eval_loss")),
        rewards_before=_rewards(before),
        rewards_after=_rewards(after),
        **_measured(trainer, plan, hours),
    )


def _last_evaluation(trainer: Any, evaluations: list[dict[str, Any]]) -> dict[str, Any]:
    """Of the model as it is at the end: a new one, where the last step was not evaluated already."""
    if trainer.eval_dataset is None:
        return {}
    done = evaluations and evaluations[-1]["step"] == trainer.state.global_step
    return evaluations[-1] if done and not trainer.args.load_best_model_at_end else dict(trainer.evaluate())


def _held_out_losses(
    evaluations: list[dict[str, Any]], step: int, after: float | None
) -> tuple[tuple[int, float], ...]:
    """(step, loss); the last evaluation may be of an earlier checkpoint, the best, and then has no step."""
    losses = {entry["step"]: entry["eval_loss"] for entry in evaluations}
    if after is not None:
        losses.setdefault(step, after)
    return tuple(losses.items())


def _rewards(metrics: dict[str, float]) -> dict[str, float] | None:
    prefix = "eval_rewards/"
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)} or None


def _measured(trainer: Any, plan: RunForecast, hours: Figure | None) -> dict[str, Any]:
    """Tokens, time and money, predicted and real, by the names of `Result`."""
    counts, meter, ranks = trainer.counts(), trainer.meter, trainer.args.world_size
    seconds, prediction = None, ""
    if hours is not None:
        seconds, prediction = (hours.value * 3600, (hours.high or hours.value) * 3600), hours.note
    elif trainer.forecast is not None:
        step, guess = trainer.forecast
        seconds, prediction = (guess, guess), f"from the speed until step {step}"
    price = meter.price
    cost = None if price is None or seconds is None else tuple(s / 3600 * price for s in seconds)
    return {
        "processes": ranks,
        "steps": trainer.state.global_step,
        "ended": _ending(trainer),
        "predicted_tokens": plan.tokens_to_train,
        "tokens": counts["tokens"],
        "trained_tokens": counts["trained_tokens"],
        "predicted_seconds": seconds,
        "prediction": prediction,
        "seconds": round(meter.seconds, 2),
        "evaluation_seconds": round(meter.evaluation, 2),
        "tokens_per_second": round(trainer.session_tokens / max(meter.session - meter.evaluation, 1e-9), 1),
        "gpu_price": None if price is None else price / ranks,
        "predicted_cost": cost,
        "cost": None if price is None else round(meter.dollars, 6),
    }


def _ending(trainer: Any) -> str:
    if trainer.state.global_step < trainer.state.max_steps:
        return "max cost" if trainer.meter.spent else "no better" if _lost_patience(trainer) else "stopped"
    return "token budget" if trainer.sampler is not None and trainer.sampler.stop is not None else "done"


def _lost_patience(trainer: Any) -> bool:
    from trainer_plugin.training.patience import Patience

    stoppers = (one for one in trainer.callback_handler.callbacks if isinstance(one, Patience))
    return any(one.early_stopping_patience_counter >= one.early_stopping_patience for one in stoppers)


def _plan_lines(
    plan: RunForecast, hours: Figure | None, price: float | None, ranks: int, order: Order
) -> list[str]:
    lines = ["rows are trained on in the order in which they were packed"] if order == "packed" else []
    lines += [
        f"{counted(plan.rows, 'row')}, {counted(plan.tokens, 'token')}, "
        f"{plan.trained_share:.1%} of them trained; "
        f"{counted(plan.steps, 'step')} over {counted(len(plan.order), 'row')}, "
        f"{counted(plan.tokens_to_train, 'token')}"
    ]
    if hours is not None:
        low, high = hours.value, hours.high or hours.value
        money = ""
        if price is not None:
            money = f", {dollars(low * price * ranks)} to {dollars(high * price * ranks)}"
        lines.append(f"predicted: {duration(low * 3600)} to {duration(high * 3600)}{money} ({hours.note})")
    return lines


def _micro_batch_line(larger: Recipe, hours: Figure, recipe: Recipe, card: Gpu) -> str:
    shortest, longest = duration(hours.value * 3600), duration((hours.high or hours.value) * 3600)
    flags = f"--batch-rows {larger.batch_rows}"
    how = f"larger steps, fewer of them, in {shortest} to {longest}"
    if recipe.accumulation > 1:
        how = f"the same steps in {shortest} to {longest}"
        flags += f" --accumulation {larger.accumulation}"
    return f"note: micro-batches of {larger.batch_rows} rows fit {card.key}'s memory and make {how}: {flags}"


def _isolation_line(report: Any, probed: bool) -> str:
    if not probed:
        return f"attention {report.attn}; isolation of documents NOT probed"
    return (
        f"attention {report.attn}: documents are isolated "
        f"(largest difference to documents alone {report.max_difference:.0e} of the largest logit)"
    )


def _precision_line(arguments: Any) -> str:
    """A warning of mixed precision, which `[trainer]` or accelerate may ask for, where it is slow."""
    from trainer_plugin.dtypes import slow_note

    name = {"bf16": "bfloat16", "fp16": "float16"}.get(arguments.mixed_precision)
    note = slow_note(name) if name else ""
    return f"; mixed precision {arguments.mixed_precision}{note}" if note else ""


def _parameters_line(model: Any) -> str:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"{trained:,} trained parameters"

"""What one process does and what two do together under torchrun, for test_trainer_ranks.py.

python tests/rank_runs.py ROWS MODEL PAIRS PAIRS_MODEL ANSWERS OUT
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from rank_processes import gloo_threads
from transformers import AutoModelForCausalLM

from tokpack.terminal.activity import Activity
from trainer_plugin import (
    BalancedSampler,
    PackedDataset,
    PackedDPOTrainer,
    PackedKTOTrainer,
    PackedTrainer,
    PreferenceLoss,
    leave_processes,
    load_model,
    load_recipe,
    prepare_lora,
    prepare_model,
)
from trainer_plugin.recipe import training_arguments
from trainer_plugin.rows.balance import pair_cost
from trainer_plugin.training.run import _model_to_train, run_training

LOSSES = ("token", "document")
ANSWER_LOSSES = ("kto", "apo_zero_unpaired")


def ranks() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def train(packed: Path, model: Path, out: Path, loss: str, *, shard: bool = False) -> None:
    """Full training; `OUT.LOSS.pt` are the weights at its end, `.json` its figures."""
    dataset = PackedDataset(packed)
    recipe = load_recipe(
        **{"method": "full", "dtype": "float32", "loss": loss, "epochs": 2.0, "shard": shard},
        **{"accumulation": 4 // ranks(), "learning_rate": 1e-2, "trainer": {"optim": "sgd", "use_cpu": True}},
    )
    network = load_model(str(model), recipe)
    sampler = BalancedSampler(dataset, 2, accumulation=2, pair_cost=pair_cost(network))
    prepare_model(network, "tokpack")
    trainer = PackedTrainer(
        network,
        training_arguments(recipe, Path(f"{out}.run")),
        train_dataset=dataset,
        eval_dataset=dataset.select(range(7)),
        loss=loss,
        progress=False,
        document_log=f"{out}.{loss}.parquet",
    )
    if ranks() == 1:
        trainer._get_train_sampler = lambda *args: sampler
    trainer.evaluate()  # must not leave the processes to train alone
    trainer.train()
    if shard:
        check_shards(trainer)
    full = [p.detach().full_tensor() if shard else p.detach() for p in trainer.model.parameters()]
    names = [name for name, _ in trainer.model.named_parameters()]
    metrics = trainer.evaluate()
    trainer.save_model(f"{out}.{loss}.model")
    if trainer.is_world_process_zero():
        torch.save(torch.cat([p.flatten() for p in full]), f"{out}.{loss}.pt")
        steps = trainer.state.global_step
        predicted = int(dataset.row_tokens()[sampler.rows_of(steps, 2)].sum())
        figures = {"loss": metrics["eval_loss"], "predicted": predicted, **trainer.counts()}
        Path(f"{out}.{loss}.json").write_text(json.dumps(figures))
        saved = AutoModelForCausalLM.from_pretrained(f"{out}.{loss}.model").state_dict()
        for name, weight in zip(names, full, strict=True):
            assert torch.equal(saved[name], weight), name


def count_tied_weights(packed: Path, model: Path) -> None:
    """Before the first step a sharded model has the weights that it was loaded with, tied ones once.

    The row order is made from their number, before the trainer is made and again in it.
    """
    recipe = load_recipe(method="full", dtype="float32", shard=True)
    loaded = load_model(str(model), recipe).num_parameters()
    network, _ = _model_to_train(model, recipe, PackedDataset(packed), None, Activity(quiet=True))
    assert network.config.tie_word_embeddings
    assert network.num_parameters() == loaded


def check_shards(trainer: Any) -> None:
    """Weights and states of the optimizer lie on the ranks in equal parts."""
    from torch.distributed.tensor import DTensor

    for name, weight in trainer.model.named_parameters():
        assert isinstance(weight, DTensor), name
        assert weight.to_local().numel() * ranks() == weight.numel(), name
        for state in trainer.optimizer.state[weight].values():
            assert state is None or isinstance(state, DTensor), name


def prefer(packed: Path, model: Path, out: Path) -> None:
    """DPO of an adapter; `OUT` are its weights, metrics and rewards."""
    from transformers import set_seed

    dataset = PackedDataset(packed).select(range(16))  # as many rows for each rank
    recipe = load_recipe(
        **{"method": "lora", "dtype": "float32", "epochs": 2.0, "accumulation": 4 // ranks()},
        **{"learning_rate": 2e-2, "trainer": {"optim": "sgd", "use_cpu": True}},
    )
    network = load_model(str(model), recipe)
    prepare_model(network, "tokpack")
    sampler = BalancedSampler(dataset, 2, pair_cost=pair_cost(network))
    set_seed(0)
    trainer = PackedDPOTrainer(
        prepare_lora(network, recipe),
        training_arguments(recipe, Path(f"{out}.run")),
        train_dataset=dataset,
        eval_dataset=dataset,
        progress=False,
    )
    if ranks() == 1:
        trainer._get_train_sampler = lambda *args: sampler
    trainer.train()
    metrics = trainer.evaluate()
    if trainer.is_world_process_zero():
        rewards = [entry for entry in trainer.state.log_history if "rewards/margin" in entry]
        weights = {name: p.detach() for name, p in trainer.model.named_parameters() if p.requires_grad}
        torch.save({"weights": weights, "metrics": metrics, "rewards": rewards}, out)


def prefer_answers(answers: Path, model: Path, out: Path, loss: str) -> None:
    """Unpaired preferences, of the rows in a JSON file; `OUT` are weights, metrics and the log."""
    recipe = load_recipe(
        **{"method": "full", "dtype": "float32", "epochs": 2.0, "accumulation": 4 // ranks()},
        **{"learning_rate": 1e-2, "trainer": {"optim": "sgd", "use_cpu": True}},
    )
    network, reference = (load_model(str(model), recipe) for _ in range(2))
    prepare_model(network, "tokpack")
    prepare_model(reference, "tokpack")
    rows = json.loads(answers.read_text())
    trainer = PackedKTOTrainer(
        network,
        training_arguments(recipe, Path(f"{out}.run")),
        train_dataset=rows,
        eval_dataset=rows,
        progress=False,
        preference=PreferenceLoss(loss=loss),
        ref_model=reference,
    )
    trainer.train()
    metrics = trainer.evaluate()
    weights = torch.cat([p.detach().flatten() for p in trainer.model.parameters()])
    if ranks() > 1:
        of_all = [torch.empty_like(weights) for _ in range(ranks())]
        torch.distributed.all_gather(of_all, weights)
        assert torch.equal(*of_all)
    if trainer.is_world_process_zero():
        torch.save({"weights": weights, "metrics": metrics, "log": trainer.state.log_history}, out)


def lose_patience(packed: Path, model: Path, out: Path) -> None:
    """Trains on random tokens until the held-out loss no longer falls."""
    recipe = load_recipe(
        **{"method": "lora", "dtype": "float32", "max_steps": 40, "learning_rate": 1e-1, "probe": False},
        **{"eval_steps": 2, "patience": 2, "scheduler": "constant"},
    )
    run_training(packed, model, recipe, out, tell=Activity(quiet=True))


def main(rows: Path, model: Path, pairs: Path, pairs_model: Path, answers: Path, out: Path) -> None:
    for loss in LOSSES:
        train(rows, model, out / "two", loss)
    prefer(pairs, pairs_model, out / "two.pairs")
    for loss in ANSWER_LOSSES:
        prefer_answers(answers, model, out / f"two.{loss}", loss)
    lose_patience(rows, model, out / "patience")
    leave_processes()
    assert not gloo_threads()  # one that meets the end of the interpreter aborts it
    rank = int(os.environ["RANK"])  # and together again: the addresses of the first time are spent
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{out / 'meet'}", rank=rank, world_size=ranks()
    )
    for loss in LOSSES:
        train(rows, model, out / "sharded", loss, shard=True)
    count_tied_weights(rows, model.parent / "tied")
    leave_processes()


if __name__ == "__main__":
    gc.freeze()  # each training looks for garbage, and torch's objects are many
    main(*map(Path, sys.argv[1:]))

"""What a GPU would wait for in training: looks at its numbers, and walks through modules on the host.

Some operations return once the device is done with all before them. A CPU runs the same operations, so they
are counted here; copies to the host are none there, and are counted as the methods that make them.
"""

from __future__ import annotations

import collections
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from trainer_rows import LENGTHS, make_documents, pack_rows, tiny_llama, trainer_for, write_packed
from transformers import TrainerCallback

from tokpack.errors import VerifyError
from trainer_plugin import PackedDataset, PackedDPOTrainer, PackedKTOTrainer, pack_pairs
from trainer_plugin.adapters.qlora import prepare_lora
from trainer_plugin.evaluation.losses import TOGETHER, DocumentLosses
from trainer_plugin.losses.chunked_loss import ChunkedLoss
from trainer_plugin.losses.source_losses import SourceLosses
from trainer_plugin.recipe import Recipe, load_recipe, training_arguments

WAITS = {
    *("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal"),
    *("bincount", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave.Tensor"),
}
"""Operations of ATen whose result, or its shape, is known only when the device is done."""


COPIES = ("cpu", "numpy", "tolist")


class Waits(TorchDispatchMode):
    """Counts them, indexing by a mask, forward and backward, and copies to the host."""

    def __init__(self):
        super().__init__()
        self.found = collections.Counter()
        self.patch = pytest.MonkeyPatch()

    def __enter__(self):
        for name in COPIES:
            self.patch.setattr(torch.Tensor, name, self._counted(name, getattr(torch.Tensor, name)))
        return super().__enter__()

    def __exit__(self, *error):
        self.patch.undo()
        return super().__exit__(*error)

    def _counted(self, name, method):
        def copy(tensor, *args, **kwargs):
            self.found[name] += tensor.dtype != torch.int32  # bounds of documents, for a CPU's attention
            return method(tensor, *args, **kwargs)

        return copy

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).removeprefix("aten.")
        waits = {name, name.partition(".")[0]} & WAITS
        if name == "repeat_interleave.Tensor":  # the number of results may be told
            waits = (kwargs or {}).get("output_size") is None
        if "index" in name and len(args) > 1 and isinstance(args[1], list | tuple):
            waits = any(one is not None and one.dtype == torch.bool for one in args[1])
        self.found[name] += bool(waits)
        return func(*args, **(kwargs or {}))


def waits_of(trainer):
    with Waits() as waits:
        trainer.train()
    return +waits.found


def supervised(tmp_path, rows, **flags):
    return trainer_for(tiny_llama("tokpack"), rows, tmp_path, options={"probe": False}, **flags)


def preferring(kind):
    def make(tmp_path, rows, **flags):
        model = prepare_lora(tiny_llama("tokpack"), Recipe(method="lora"))
        recipe = load_recipe(method="full", trainer={"use_cpu": True}, **flags)
        arguments = training_arguments(recipe, tmp_path)
        return kind(model, arguments, train_dataset=rows, progress=False, probe=False)

    return make


def pairs():
    made = make_documents(LENGTHS * 4)
    return pack_pairs(list(zip(made[::2], made[1::2], strict=True)), 64)


def unpaired():
    rows = pack_rows(make_documents(LENGTHS * 4), 64)
    return [row | {"is_desirable": [number % 2 == 0 for number in row["doc_ids"]]} for row in rows]


@pytest.mark.parametrize("cut", [False, True], ids=["whole logits", "in chunks"])
@pytest.mark.parametrize(
    ("make", "rows"),
    [(supervised, pairs), (preferring(PackedDPOTrainer), pairs), (preferring(PackedKTOTrainer), unpaired)],
    ids=["supervised", "dpo", "kto"],
)
def test_micro_batches_wait_for_nothing(tmp_path, make, rows, cut):
    found = []
    for accumulation in (1, 4):
        trainer = make(tmp_path, rows(), max_steps=2, accumulation=accumulation, log_steps=100)
        trainer.chunked_loss = ChunkedLoss(trainer.model, chunk_bytes=1 << (12 if cut else 28))
        trainer.chunked_loss._proven = True
        found.append(waits_of(trainer))
    assert found[0] == found[1]


def test_losses_of_documents_and_sources_noise_and_weights_wait_for_nothing(tmp_path):
    write_packed(tmp_path / "packed", make_documents(LENGTHS * 4), 64)
    dataset, found = PackedDataset(tmp_path / "packed"), []
    for accumulation in (1, 4):
        trainer = trainer_for(
            tiny_llama("tokpack"),
            dataset,
            tmp_path / "out",
            options={"probe": False, "document_log": tmp_path / "log.parquet", "loss_by_source": True},
            trainer={"neftune_noise_alpha": 5.0},
            max_steps=2,
            accumulation=accumulation,
            log_steps=100,
            loss="document",
        )
        found.append(waits_of(trainer))
    assert found[0] == found[1]


def test_an_evaluation_looks_at_its_losses_once(tmp_path):
    found = []
    for times in (1, 3):
        rows = pack_rows(make_documents(LENGTHS * times), 64)
        trainer = supervised(tmp_path, rows, eval_dataset=rows)
        with Waits() as waits:
            trainer.evaluate()
        found.append(+waits.found)
    assert found[0] == found[1]


@pytest.mark.parametrize("cut", [False, True], ids=["whole logits", "in chunks"])
def test_losses_of_documents_are_copied_when_many_rows_are_through(tmp_path, monkeypatch, cut):
    rows = write_packed(tmp_path / "packed", make_documents(LENGTHS * 4), 64)
    model, done = tiny_llama("tokpack"), []
    losses = DocumentLosses(model)
    losses.chunked = ChunkedLoss(model, chunk_bytes=1 << (12 if cut else 28))
    losses.chunked._proven = True
    model.register_forward_hook(lambda *_: done.append("row"))
    copy = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: (done.append("copy"), copy(tensor))[1])
    found = losses(model, PackedDataset(tmp_path / "packed"), lambda amount: None)
    assert len(rows) <= TOGETHER
    assert done.index("copy") == len(done) - len(rows)
    assert len(found) == len(LENGTHS) * 4


class Seen(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_sources_are_added_up_when_they_are_logged(tmp_path):
    """Numbers that go to a GPU wait for what is in work there."""
    write_packed(tmp_path / "packed", make_documents(LENGTHS), 64)
    losses = SourceLosses(PackedDataset(tmp_path / "packed"))
    sums = torch.tensor([3.0, 4.0])
    with Seen() as seen:
        losses.add(np.array([[0, 0, 3], [1, 0, 2]]), sums)
    assert seen.names == []
    assert list(losses.take(lambda one: one).values()) == [1.4]
    assert losses.take(lambda one: one) == {}


class EachStep(TrainerCallback):
    def __init__(self, look):
        self.look = look

    def on_step_end(self, *_args, **_kwargs):
        self.look()


def adapted(tmp_path, accumulation=1, **flags):
    model = prepare_lora(tiny_llama("tokpack").bfloat16(), Recipe(method="lora", dtype="bfloat16"))
    rows = pack_rows(make_documents(LENGTHS * 4), 64)
    options = {"max_steps": 3, "accumulation": accumulation, "options": {"probe": False}, **flags}
    return trainer_for(model, rows, tmp_path, trainer={"bf16": True}, **options)


def test_micro_batches_walk_through_no_modules(tmp_path, monkeypatch):
    """PEFT's casts, Trainer's `train()` and its count of operations each went through all of them."""
    walks, found = [], []
    for name in ("named_modules", "children"):
        real = getattr(torch.nn.Module, name)
        monkeypatch.setattr(
            torch.nn.Module,
            name,
            lambda module, *args, real=real, **kwargs: (walks.append(0), real(module, *args, **kwargs))[1],
        )
    for accumulation in (1, 4):
        trainer, counts = adapted(tmp_path, accumulation), []
        trainer.add_callback(EachStep(lambda counts=counts: counts.append(len(walks))))
        trainer.train()
        found.append(counts[-1] - counts[-2])
    assert found[1] - found[0] < 20  # a few each to its first parameter, of 140 modules


def test_inputs_of_adapters_are_cast_again_after_each_step(tmp_path):
    trainer, seen = adapted(tmp_path), []
    layer = trainer._walks.adapted[0]
    layer.register_forward_hook(lambda *_: seen.append(layer.cast_input_dtype_enabled))
    trainer.train()
    assert seen == [False] * 3
    assert layer.cast_input_dtype_enabled


def test_a_module_that_somebody_puts_in_evaluation_mode_is_trained_in_the_next_step(tmp_path):
    trainer, seen = adapted(tmp_path), []
    layer = trainer._walks.adapted[0]
    layer.register_forward_hook(lambda *_: seen.append(layer.training))
    trainer.add_callback(EachStep(layer.eval))
    trainer.train()
    assert seen == [True] * 3
    assert "train" not in vars(trainer.model)


def test_operations_are_counted_as_trainer_counts_them(tmp_path):
    trainer = adapted(tmp_path, accumulation=2)
    trainer.train()
    tokens = trainer.counts()["tokens"]
    parameters = trainer.model.num_parameters(exclude_embeddings=True)
    assert trainer.state.total_flos == 6 * tokens * parameters


def test_a_step_that_diverges_in_mid_accumulation_names_its_row_and_changes_no_weight(tmp_path):
    rows = pack_rows(make_documents(LENGTHS), 64)
    trainer = trainer_for(
        tiny_llama("tokpack"),
        rows,
        tmp_path,
        options={"probe": False},
        trainer={"train_sampling_strategy": "sequential"},
        accumulation=len(rows),
    )
    compute, losses = trainer.compute_loss, []

    def broken(*args, **kwargs):
        losses.append(compute(*args, **kwargs))
        return losses[-1] * (float("nan") if len(losses) == 2 else 1.0)

    trainer.compute_loss = broken
    before = [weight.clone() for weight in trainer.model.parameters()]
    with pytest.raises(VerifyError, match="loss is nan in step 1") as raised:
        trainer.train()
    assert raised.value.where == f"documents {', '.join(map(str, rows[1]['doc_ids']))}"
    assert len(losses) == len(rows)
    for weight, old in zip(trainer.model.parameters(), before, strict=True):
        assert torch.equal(weight, old)

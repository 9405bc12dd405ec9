"""Weights of messages: a column of the rows, counted by the trainer, refused or carried by all else."""

from __future__ import annotations

import json

import numpy as np
import pytest
from encode_helpers import byte_level, template, tokenizer_folder
from trainer_rows import WITH_ONE, make_documents, pack_rows, tiny_llama, trainer_for

from tokpack import merge, pack, repack, verify
from tokpack.errors import DataError, UsageError
from tokpack.export import export

ASK = {"role": "user", "content": "Who?"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "tokenizer"
    return tokenizer_folder(byte_level(), folder, template("qwen3", False))


def packed_of(answers, model, folder):
    path = folder / "chats.jsonl"
    folder.mkdir()
    rows = [
        {
            "messages": [
                ASK,
                {"role": "assistant", "content": "First one.", **first},
                ASK,
                {"role": "assistant", **last},
            ]
        }
        for first, last in answers
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return pack(path, folder / "packed", tokenizer=model, max_length=128, clean="off")


def test_weights_are_a_column_that_follows_the_rows(model, tmp_path):
    answers = [
        (
            {"weight": 0.25},
            {"content": f"Said {i}.", "loss_scale": 2, "loss_weight": 1.5}
            if i % 2
            else {"content": f"Said {i}."},
        )
        for i in range(12)
    ]
    packed = packed_of(answers, model, tmp_path / "a")
    assert packed.manifest["loss_weights"] is True
    assert packed.ledger["documents"]["quarantined"] == 0
    seen = set()
    for row in (packed[i] for i in range(len(packed))):
        assert row["loss_weights"].dtype == np.float32
        assert np.array_equal(row["loss_weights"] > 0, row["labels"] != -100)
        for start, length in zip(
            np.cumsum(row["seq_lengths"]) - row["seq_lengths"], row["seq_lengths"], strict=True
        ):
            part = row["loss_weights"][start : start + length]
            number = int(
                row["doc_ids"][list(np.cumsum(row["seq_lengths"]) - row["seq_lengths"]).index(start)]
            )
            turns = [part[i] for i in np.flatnonzero((part > 0) & (np.roll(part, 1) == 0))]
            assert turns == [0.25, 3.0 if number % 2 else 1.0]
            seen.add(number)
    assert len(seen) == 12
    assert verify(packed.folder).ok
    again = repack(packed, tmp_path / "again", max_length=256)
    assert again.manifest["loss_weights"] is True
    plain = packed_of([({}, {"content": f"Plain {i}."}) for i in range(3)], model, tmp_path / "b")
    assert "loss_weights" not in plain.manifest
    assert "loss_weights" not in plain[0]
    both = merge([plain, packed], tmp_path / "both")
    total = sum(float(packed[i]["loss_weights"].sum()) for i in range(len(packed)))
    counted = sum(float(both[i]["loss_weights"].sum()) for i in range(len(both)))
    assert counted == pytest.approx(total + plain.ledger["trained"]["trained"])
    assert sum(float(again[i]["loss_weights"].sum()) for i in range(len(again))) == pytest.approx(total)
    assert verify(tmp_path / "both").ok
    assert verify(tmp_path / "again").ok
    with pytest.raises(UsageError, match="trains every label in full"):
        export(packed, "trl", tmp_path / "trl")


def test_a_weight_too_small_to_be_stored_is_0(model, tmp_path):
    small = {"weight": 1e-20, "loss_weight": 1e-20}
    packed = packed_of([(small, {"content": f"Said {i}."}) for i in range(3)], model, tmp_path / "a")
    assert "loss_weights" not in packed[0]
    without = packed_of([({"weight": 0}, {"content": f"Said {i}."}) for i in range(3)], model, tmp_path / "b")
    assert packed.ledger["trained"] == without.ledger["trained"]
    assert verify(packed.folder).ok


def test_weights_of_0_and_1_are_no_column(model, tmp_path):
    packed = packed_of(
        [({"weight": 0}, {"content": f"Said {i}.", "weight": 1}) for i in range(3)], model, tmp_path / "a"
    )
    assert "loss_weights" not in packed[0]


@pytest.mark.slow
@pytest.mark.parametrize("loss", ["token", "document"])
def test_the_loss_is_the_weighted_mean_also_in_chunks_and_accumulated(loss, tmp_path):
    torch = pytest.importorskip("torch")
    from test_trainer_chunked_loss import small_chunks

    from trainer_plugin import PackedCollator

    documents = make_documents(WITH_ONE)
    rng = np.random.default_rng(1)
    weights = [
        np.where(np.array(labels) == -100, 0, rng.choice([0.3, 1, 2], len(labels))) for _, labels in documents
    ]
    rows = pack_rows(documents, 64)
    for row in rows:
        row["loss_weights"] = np.concatenate([weights[number] for number in row["doc_ids"]]).astype(
            np.float32
        )
    model = tiny_llama("tokpack")
    top = bottom = 0.0
    for (ids, _), weight in zip(documents, weights, strict=True):
        here = torch.tensor([ids])
        logits = model(
            input_ids=here,
            cu_seq_lens_q=torch.tensor([0, len(ids)], dtype=torch.int32),
            cu_seq_lens_k=torch.tensor([0, len(ids)], dtype=torch.int32),
            max_length_q=len(ids),
            max_length_k=len(ids),
            use_cache=False,
        ).logits[0, :-1]
        each = torch.nn.functional.cross_entropy(logits.float(), here[0, 1:], reduction="none")
        share = torch.tensor(weight[1:]) / (weight[1:].sum() if loss == "document" else 1)
        top, bottom = top + float((each * share).sum().detach()), bottom + float(share.sum())
    trainer = trainer_for(model, rows, tmp_path / loss, trainer={"report_to": []})
    with pytest.raises(DataError, match="a plain Trainer would ignore"):
        PackedCollator(loss=loss)(rows)
    assert loss == "document" or "loss_weights" not in PackedCollator(loss_weights=False)(rows)
    assert trainer.data_collator.loss_weights is True
    collator = PackedCollator(loss=loss, loss_weights=True)
    for chunks in (None, small_chunks(model)):
        if chunks is not None:
            trainer.chunked_loss = chunks
        halves = [collator(rows[: len(rows) // 2]), collator(rows[len(rows) // 2 :])]
        items = trainer._get_num_items_in_batch(halves, torch.device("cpu"))
        found = sum(
            float(trainer.compute_loss(model, dict(half), num_items_in_batch=items)) for half in halves
        )
        assert found == pytest.approx(top / bottom, abs=1e-6)


# Weights of whole rows

ROWS = {
    "messages": lambda n: {"messages": [ASK, {"role": "assistant", "content": f"Said {n}."}]},
    "sharegpt": lambda n: {
        "conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": f"Said {n}."}]
    },
    "prompt_completion": lambda n: {"prompt": "Who?", "completion": f"Said {n}."},
    "alpaca": lambda n: {"instruction": "Who?", "output": f"Said {n}."},
}


def packed_rows(rows, model, folder, **options):
    folder.mkdir(exist_ok=True)
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    options = {"max_length": 128, "clean": "off"} | options
    return pack(path, folder / "packed", tokenizer=model, **options)


def weights_by_document(packed):
    """doc_id -> the weights of its trained tokens, each once."""
    found = {}
    for row in (packed[i] for i in range(len(packed))):
        ends = np.cumsum(row["seq_lengths"])
        for doc_id, start, end in zip(row["doc_ids"].tolist(), ends - row["seq_lengths"], ends, strict=True):
            here = row["loss_weights"][start:end]
            assert np.array_equal(here > 0, row["labels"][start:end] != -100)
            found[doc_id] = sorted(set(here[here > 0].tolist()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("render", ["chat", "plain"])
@pytest.mark.parametrize(
    ("column", "shape"),
    [
        ("weight", "messages"),
        ("loss_weight", "sharegpt"),
        ("sample_weight", "alpaca"),
        ("weight", "prompt_completion"),
    ],
)
def test_a_weight_of_a_row_is_that_of_all_its_trained_tokens(column, shape, render, model, tmp_path):
    values = [0.25, 1, 0, None, 3, "0.5", 1000]
    rows = [ROWS[shape](n) | {column: value} for n, value in enumerate(values)] + [ROWS[shape](7)]
    packed = packed_rows(rows, model, tmp_path, render=render)
    wanted = {0: [0.25], 1: [1.0], 3: [1.0], 4: [3.0], 5: [0.5], 6: [1000.0], 7: [1.0]}
    assert weights_by_document(packed) == wanted
    assert packed.ledger["documents"]["dropped"] == {"labelled_bad": 1}
    assert verify(packed.folder).ok


def test_weights_of_rows_and_messages_multiply(model, tmp_path):
    rows = [
        {
            "messages": [
                ASK,
                {"role": "assistant", "content": "First one.", "weight": 0.5},
                ASK,
                {"role": "assistant", "content": "Not this.", "train": False},
                ASK,
                {"role": "assistant", "content": f"Said {n}."},
            ],
            "weight": 0.5,
        }
        for n in range(3)
    ]
    packed = packed_rows(rows, model, tmp_path)
    assert weights_by_document(packed) == {n: [0.25, 0.5] for n in range(3)}


@pytest.mark.parametrize("value", [float("nan"), -1, 1001, "1e9", float("inf"), "nan"])
def test_what_is_no_weight_of_a_row_is_set_aside_with_the_reason(value, model, tmp_path):
    rows = [ROWS["prompt_completion"](n) | {"weight": 0.5} for n in range(30)]
    rows.append(ROWS["prompt_completion"](30) | {"weight": value})
    packed = packed_rows(rows, model, tmp_path)
    (entry,) = packed.quarantined()
    assert entry["doc_id"] == 30
    assert "a weight is from 0, not trained, to 1000" in entry["reason"] or "JSON" in entry["reason"]


def test_preferences_have_no_weights_of_rows(model, tmp_path):
    pairs = [{"prompt": "Who?", "chosen": f"Said {n}.", "rejected": "No.", "weight": 0.5} for n in range(3)]
    with pytest.raises(UsageError, match="preference pairs all weigh the same"):
        packed_rows(pairs, model, tmp_path / "a")
    even = packed_rows([pair | {"weight": 1.0} for pair in pairs], model, tmp_path / "b")
    assert even.ledger["documents"]["kept"] == 6
    odd = [pair | {"weight": weight} for pair, weight in zip(pairs, (1, 1, -(2**70)), strict=True)]
    odd = packed_rows(odd, model, tmp_path / "d", allow_bad=0.5)
    assert [entry["reason"][:22] for entry in odd.quarantined()] == ["its weight is -1180591"]
    rows = [ROWS["messages"](n) | {"label": n % 2 == 0, "weight": 1 if n else 0.5} for n in range(4)]
    unpaired = packed_rows(rows, model, tmp_path / "c", format="unpaired", allow_bad=0.5)
    (entry,) = unpaired.quarantined()
    assert (entry["doc_id"], "compared whole" in entry["reason"]) == (0, True)

"""Exports, read back: ids, labels and documents of the packed dataset; settings agree; nothing half done."""

from __future__ import annotations

import errno
import importlib.util
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from chats import messy_rows, write_rows
from commands import run

import tokpack
from tokpack import schema
from tokpack.errors import OutputError, UsageError
from tokpack.export import EXPORTERS, export
from tokpack.packed.folder import PackedFolder

CAPACITY = 250
SCRIPTS = Path(tokpack.__file__).parent / "export" / "scripts"


@pytest.fixture(scope="module")
def packed(qwen, tmp_path_factory) -> PackedFolder:
    folder = tmp_path_factory.mktemp("data")
    data = write_rows(folder / "chats.jsonl", messy_rows(300))
    return tokpack.pack(data, folder / "packed", tokenizer=str(qwen), max_length=CAPACITY, val=0.1)


@pytest.fixture(scope="module")
def texts(qwen, tmp_path_factory) -> PackedFolder:
    """Plain texts, every token trained, long ones split into pieces."""
    folder = tmp_path_factory.mktemp("texts")
    rows = [
        json.dumps({"text": " ".join(f"w{i * j % 89}" for j in range(3 + i * 7 % 500))}) for i in range(60)
    ]
    data = write_rows(folder / "texts.jsonl", [row.encode() for row in rows])
    return tokpack.pack(data, folder / "packed", tokenizer=str(qwen), max_length=64)


@pytest.fixture(scope="module")
def exports(packed, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exports")
    return {to: export(packed, to, folder / to) for to in EXPORTERS if to != "megatron"}


def test_a_curriculum_is_exported_with_the_setting_that_keeps_its_order(qwen, tmp_path, exports):
    settings = {
        "trl": "sequential",
        "axolotl": "curriculum_sampling: true",
        "llamafactory": "disable_shuffling: true",
    }
    files = {"trl": "settings.json", "axolotl": "config.yaml", "llamafactory": "train.yaml"}
    files["megatron-bridge"], settings["megatron-bridge"] = "README.md", "the order will be\nlost"
    data = write_rows(tmp_path / "chats.jsonl", messy_rows(30))
    packed = tokpack.pack(
        data, tmp_path / "packed", tokenizer=str(qwen), max_length=CAPACITY, planner="sequential"
    )
    for to, wanted in settings.items():
        export(packed, to, tmp_path / to)
        assert wanted in (tmp_path / to / files[to]).read_text()
        assert wanted not in (exports[to] / files[to]).read_text()


def parts_of(packed: PackedFolder) -> list[tuple[str, PackedFolder]]:
    assert packed.validation is not None
    return [("train", packed), ("validation", packed.validation)]


def positions_of(lengths: np.ndarray) -> list[int]:
    return [position for length in lengths for position in range(length)]


def load_script(name: str, path: Path | None = None) -> Any:
    spec = importlib.util.spec_from_file_location(name, path or SCRIPTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# What was written


def test_the_trl_export_holds_every_row(packed, exports):
    datasets = pytest.importorskip("datasets")

    opened = datasets.load_from_disk(str(exports["trl"]))
    for split, part in parts_of(packed):
        assert opened[split].column_names == ["input_ids", "labels", "seq_lengths"]
        assert len(opened[split]) == len(part)
        for number, row in enumerate(opened[split]):
            assert row == {name: part[number][name].tolist() for name in row}


def test_the_axolotl_export_counts_positions_in_every_document_and_has_no_mask(packed, exports):
    datasets = pytest.importorskip("datasets")

    opened = datasets.load_from_disk(str(exports["axolotl"] / "data"))
    for split, part in parts_of(packed):
        assert len(opened[split]) == len(part)
        for number, row in enumerate(opened[split]):
            expected = part[number]
            assert row == {
                "input_ids": expected["input_ids"].tolist(),
                "labels": expected["labels"].tolist(),
                "position_ids": positions_of(expected["seq_lengths"]),
            }


def test_the_llamafactory_export_numbers_documents_from_1_and_pads_to_a_multiple_of_8(packed, exports):
    datasets = pytest.importorskip("datasets")

    padding = packed.manifest["tokenizer"]["pad_token_id"]
    opened = datasets.load_from_disk(str(exports["llamafactory"] / "data"))
    fills = set()
    for split, part in parts_of(packed):
        assert len(opened[split]) == len(part)
        for number, row in enumerate(opened[split]):
            expected = part[number]
            size = len(expected["input_ids"])
            tail = -size % 8
            fills.add(tail)
            numbers = np.repeat(np.arange(len(expected["seq_lengths"])) + 1, expected["seq_lengths"])
            assert row == {
                "input_ids": expected["input_ids"].tolist() + [padding] * tail,
                "labels": expected["labels"].tolist() + [-100] * tail,
                "position_ids": positions_of(expected["seq_lengths"]) + [0] * tail,
                "attention_mask": numbers.tolist() + [0] * tail,
            }
    assert len(fills) > 1


def test_the_megatron_bridge_export_predicts_exactly_the_trained_tokens(packed, exports):
    for split, part in parts_of(packed):
        (file,) = (exports["megatron-bridge"] / split).glob("*.idx.parquet")
        table = pq.read_table(file)
        assert [str(field.type.value_type) for field in table.schema] == ["int32", "int32", "int8"]
        assert table.num_rows == len(part)
        for number, row in enumerate(table.to_pylist()):
            expected = part[number]
            ends = np.cumsum(expected["seq_lengths"])
            assert row["input_ids"] == expected["input_ids"].tolist()
            assert row["seq_start_id"] == [0, *ends[:-1].tolist()]
            targets = np.flatnonzero(row["loss_mask"]) + 1
            assert targets.tolist() == np.flatnonzero(expected["labels"] != -100).tolist()
            assert not np.array(row["loss_mask"])[ends - 1].any()


def test_megatron_bridge_leaves_out_documents_of_one_token_and_rows_of_nothing_else():
    import pyarrow as pa

    from tokpack.export.common import Rows
    from tokpack.export.megatron_bridge import _convert

    columns = [
        [[1, 2, 3, 4], [5], [6, 7]],
        [[-100, -100, 3, -100], [-100], [-100, 7]],
        [[1, 2, 1], [1], [2]],
        [[0, 1, 2], [3], [4]],
        [[0, 0, 0], [0], [0]],
    ]
    arrays = [
        pa.array(column, field.type) for column, field in zip(columns, schema.PACKED_SCHEMA, strict=True)
    ]
    record = pa.record_batch(arrays, schema=schema.PACKED_SCHEMA)
    for rows in (record, pa.concat_batches([record, record]).slice(3)):
        assert _convert(Rows.of(rows)).to_pylist() == [
            {"input_ids": [2, 3], "seq_start_id": [0], "loss_mask": [1, 0]},
            {"input_ids": [6, 7], "seq_start_id": [0], "loss_mask": [1, 0]},
        ]


def test_the_megatron_export_joins_split_documents_again(texts, tmp_path):
    check = load_script("megatron_check")
    found = list(check.read_documents(export(texts, "megatron", tmp_path / "out") / "train_text_document"))
    pieces: dict[tuple[int, int], np.ndarray] = {}
    for row in range(len(texts)):
        record = texts[row]
        cuts = np.cumsum(record["seq_lengths"])[:-1]
        for doc, piece, ids in zip(
            record["doc_ids"], record["pieces"], np.split(record["input_ids"], cuts), strict=True
        ):
            pieces[int(doc), int(piece)] = ids
    assert max(piece for _, piece in pieces) > 3
    documents: dict[int, list[int]] = {}
    for (doc, _), ids in sorted(pieces.items()):
        documents.setdefault(doc, []).extend(ids.tolist())
    assert [ids.tolist() for ids in found] == list(documents.values())
    ran = subprocess.run(
        [sys.executable, tmp_path / "out" / "check.py"], capture_output=True, text=True, check=True
    )
    assert (
        f"right: train_text_document: {len(documents)} documents, {texts.manifest['tokens']:,}" in ran.stdout
    )


def test_megatron_refuses_masked_tokens(packed, tmp_path):
    with pytest.raises(UsageError, match="have no label") as caught:
        export(packed, "megatron", tmp_path / "out")
    assert "megatron-bridge" in str(caught.value.hint)
    assert list(tmp_path.iterdir()) == []


def test_megatron_bridge_fills_documents_up_for_the_ranks_that_share_a_row(packed, tmp_path):
    out = export(packed, "megatron-bridge", tmp_path / "out", context_parallel=4)
    eos, longest = packed.manifest["tokenizer"]["eos_token_id"], 0
    for split, part in parts_of(packed):
        (file,) = (out / split).glob("*.idx.parquet")
        for row, expected in zip(pq.read_table(file).to_pylist(), part, strict=True):
            starts = [*row["seq_start_id"], len(row["input_ids"])]
            longest = max(longest, len(row["input_ids"]) - len(starts) + 1)
            ends = np.cumsum(expected["seq_lengths"])
            for n, (start, end) in enumerate(pairwise(starts)):
                places, last = end - start - 1, expected["seq_lengths"][n]
                assert places % 8 == 0
                assert 0 <= places - (last - 1) < 8
                ids, mask = row["input_ids"][start:end], row["loss_mask"][start:end]
                own = slice(ends[n] - last, ends[n])
                assert ids == [*expected["input_ids"][own].tolist(), *[eos] * (len(ids) - last)]
                trained = expected["labels"][own] != -100
                assert mask == [*trained[1:].astype(int).tolist(), *[0] * (len(ids) - last + 1)]
    settings = (out / "dataset_config.py").read_text()
    compile(settings, "dataset_config.py", "exec")
    assert "pad_seq_to_mult=8," in settings
    assert f"packed_sequence_size={longest + -longest % 16}," in settings
    assert "context_parallel_size = 4" in (out / "README.md").read_text()


@pytest.mark.parametrize(("to", "ranks", "words"), [("trl", 2, "for trl"), ("megatron-bridge", 6, "power")])
def test_a_row_is_divided_where_the_trainer_can(to, ranks, words, packed, tmp_path):
    with pytest.raises(UsageError, match=words):
        export(packed, to, tmp_path / "out", context_parallel=ranks)
    assert list(tmp_path.iterdir()) == []


# Settings


def test_the_settings_name_what_packed_rows_need(packed, exports):
    import yaml

    settings = json.loads((exports["trl"] / "settings.json").read_text())
    assert settings["packing"] is False
    assert settings["padding_free"] is True
    assert settings["dataset_kwargs"] == {"skip_prepare_dataset": True}
    axolotl = yaml.safe_load((exports["axolotl"] / "config.yaml").read_text())
    assert axolotl["skip_prepare_dataset"] is True
    assert axolotl["sample_packing"] is False
    assert axolotl["test_datasets"] == [{"path": "./data", "split": "validation"}]
    factory = yaml.safe_load((exports["llamafactory"] / "train.yaml").read_text())
    assert factory["neat_packing"] is True
    assert factory["per_device_train_batch_size"] == 1
    compile((exports["megatron-bridge"] / "dataset_config.py").read_text(), "dataset_config.py", "exec")


def test_every_export_has_its_tokenizer_a_readme_and_a_check(packed, exports):
    for to, folder in exports.items():
        assert (folder / "tokenizer" / "tokenizer.json").read_bytes() == (
            packed.folder / "tokenizer" / "tokenizer.json"
        ).read_bytes()
        readme = (folder / "README.md").read_text()
        assert f"{packed.manifest['tokens']:,} tokens" in readme
        assert "check.py" in readme
        assert "{" not in readme
        compile((folder / "check.py").read_text(), "check.py", "exec")
        assert json.loads((folder / "export.json").read_text())["to"] == to


def test_the_llamafactory_check_sees_a_mask_that_lets_documents_meet():
    torch = pytest.importorskip("torch")
    path = SCRIPTS / "llamafactory_check.py"
    functions = {"torch": torch}
    source = path.read_text()
    exec(compile(source[source.index("def faults") : source.index("def main")], str(path), "exec"), functions)
    row = {"attention_mask": [1, 1, 2, 0]}
    open_mask = torch.zeros(1, 1, 4, 4)
    assert list(functions["mask_faults"]({"attention_mask": open_mask}, row))
    numbers = torch.tensor([1, 1, 2, 0])
    allowed = (numbers[:, None] == numbers) & (numbers > 0) & torch.ones(4, 4, dtype=torch.bool).tril()
    right = torch.where(allowed, 0.0, -1e9)[None, None]
    assert not list(functions["mask_faults"]({"attention_mask": right}, row))


# The folder


def test_an_export_is_replaced_only_when_asked_and_never_takes_other_files_along(packed, tmp_path):
    out = export(packed, "trl", tmp_path / "out")
    with pytest.raises(UsageError, match="exists already"):
        export(packed, "axolotl", out)
    export(packed, "axolotl", out, overwrite=True)
    assert (out / "config.yaml").is_file()
    assert not (out / "train.py").exists()
    (out / "checkpoint").mkdir()
    with pytest.raises(UsageError, match="checkpoint"):
        export(packed, "trl", out, overwrite=True)
    assert (out / "config.yaml").is_file()


def test_an_export_does_not_go_into_the_packed_dataset_or_over_another_folder(packed, tmp_path):
    for out in (packed.folder, packed.folder / "trl"):
        with pytest.raises(UsageError, match="lies in the packed dataset"):
            export(packed, "trl", out, overwrite=True)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"mine\.txt"):
        export(packed, "trl", tmp_path, overwrite=True)
    assert tokpack.verify(packed.folder).ok


def test_an_exporter_that_fails_leaves_nothing(packed, tmp_path):
    def half(packed: PackedFolder, folder: Path) -> None:
        (folder / "half").write_text("half")
        raise RuntimeError("no space")

    with pytest.raises(RuntimeError, match="no space"):
        export(packed, half, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_with_its_place_and_what_to_do(packed, tmp_path):
    def full(packed: PackedFolder, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    with pytest.raises(OutputError, match="cannot write: No space left on device\n") as caught:
        export(packed, full, tmp_path / "out")
    assert caught.value.where == str(tmp_path / "out")
    assert caught.value.hint == "free some space and repeat the command"


def test_a_full_disk_is_told_with_the_place_of_the_copy_and_not_of_what_was_copied(packed, tmp_path):
    def full(packed: PackedFolder, folder: Path) -> None:
        raise OSError(errno.ENOSPC, "full", str(packed.folder / "a"), None, str(folder / "a"))

    with pytest.raises(OutputError, match="No space left") as caught:
        export(packed, full, tmp_path / "out")
    assert str(caught.value.where).startswith(str(tmp_path))


def test_an_unknown_trainer_is_named_with_near_matches(packed, tmp_path):
    with pytest.raises(UsageError, match="no exporter named 'trll'") as caught:
        export(packed, "trll", tmp_path / "out")
    assert "'trl'" in str(caught.value.hint)


def test_the_command_exports(packed, tmp_path):
    ran = run("export", packed.folder, "--to", "trl", "-o", tmp_path / "out")
    assert ran.stdout.strip() == str(tmp_path / "out")
    assert (tmp_path / "out" / "train.py").is_file()

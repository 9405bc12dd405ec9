"""Models and rows of strangers: no code of theirs runs, nothing is made that their weights do not fill."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))

from adapter_files import save_adapter
from foreign_folders import alter
from trainer_rows import make_documents, save_tiny_model, write_packed

from tokpack.errors import DataError, UsageError
from tokpack.on_disk.sums import file_sha256
from trainer_plugin.adapters.loaded import load_adapted
from trainer_plugin.adapters.merge import merge_dequantized
from trainer_plugin.checkpoints import model_files
from trainer_plugin.rows.dataset import PackedDataset

CODE = "from pathlib import Path\nPath({!r}).touch()\nclass Theirs: pass\n"
CLASSES = {"AutoConfig": "theirs.Theirs", "AutoModelForCausalLM": "theirs.Theirs"}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    save_tiny_model(folder)
    return folder


@pytest.fixture
def model(plain, tmp_path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "model"))


def change(model: Path, name: str = "config.json", **keys) -> Path:
    path = model / name
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return model


def load(model: Path):
    return load_adapted(model, dtype="float32")


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_no_answer_on_standard_input_runs_code_of_a_model(model, file, tmp_path, monkeypatch):
    (model / "theirs.py").write_text(CODE.format(str(tmp_path / "ran")))
    theirs = {"model_type": "theirs", "auto_map": CLASSES}
    if file != "config.json":
        theirs = {"tokenizer_class": "Theirs", "auto_map": {"AutoTokenizer": ["theirs.Theirs"] * 2}}
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with pytest.raises(UsageError, match="custom code"):
        load(change(model, file, **theirs))
    assert not (tmp_path / "ran").exists()


def test_an_adapter_inside_a_model_folder_is_not_handed_to_peft(model, plain, tmp_path):
    adapter = save_adapter(plain, tmp_path / "adapter")
    for path in adapter.glob("adapter_*"):
        shutil.copy(path, model)
    with pytest.raises(UsageError, match="it holds an adapter"):
        load(model)


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"num_hidden_layers": 10**9}, "asks for too much"),
        ({"num_labels": 10**9}, "asks for too much"),
        ({"hidden_size": 10**6}, "asks for 1,413,000,016 weights"),
        ({"vocab_size": 10**9}, "weights, and its files have"),
        ({"num_hidden_layers": 3}, "9 of the model's weights are in none of its files"),
        ({"intermediate_size": 32}, "6 of the model's weights have another shape"),
        ({"attn_implementation": "theirs/kernel"}, "code on the Hub"),
        ({"to_dict": 1}, "a method of transformers"),
        ({"hidden_size": -64}, "cannot be loaded: RuntimeError"),
        ({"num_attention_heads": 0}, "cannot be loaded"),
        ({"auto_map": 5}, "cannot be loaded: TypeError"),
        ({"dtype": "load"}, "cannot be loaded"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_a_config_that_lies_is_an_error_of_the_user(model, keys, what):
    with pytest.raises(UsageError, match=what) as found:
        load(change(model, **keys))
    assert found.value.hint


def test_a_regular_expression_without_end_leaves_no_module_unquantized(model, monkeypatch):
    monkeypatch.setattr("trainer_plugin.checkpoints.adapter_config.SECONDS", 0.5)
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_skip_modules": ["(.*.*.*)*_"]}
    with pytest.raises(UsageError, match="regular expression in quantization_config takes more than"):
        load(change(model, quantization_config=settings))


def test_pickled_weights_run_nothing(model, tmp_path):
    class Opened:
        def __reduce__(self):
            return Path.touch, (tmp_path / "opened",)

    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(pickle.dumps({"lm_head.weight": Opened()}))
    with pytest.raises(UsageError, match="cannot be loaded"):
        load(model)
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer.json", "vocab.json"])
def test_a_pipe_in_a_model_folder_is_not_waited_for(model, name):
    (model / name).unlink(missing_ok=True)
    os.mkfifo(model / name)
    with pytest.raises(UsageError, match=f"{name} is no regular file"):
        load(model)


@pytest.mark.parametrize("size", [0, 7, 1000])
def test_damaged_weights_of_a_base_are_said_by_a_merge(model, plain, size, tmp_path):
    adapter = save_adapter(plain, tmp_path / "adapter")
    weights = model / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:size])
    with pytest.raises(UsageError, match="cannot be loaded"):
        merge_dequantized(adapter, tmp_path / "merged", model=model)


def test_what_is_no_exception_of_python_is_said_too():
    class PanicException(BaseException):  # as `tokenizers` raises it
        pass

    with pytest.raises(UsageError, match="PanicException: gone"), model_files.explained("there"):
        raise PanicException("gone")
    with pytest.raises(KeyboardInterrupt), model_files.explained("there"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("column", "value", "what"),
    [
        ("input_ids", 128, "ids from 3 to 128, where it has 128"),
        ("input_ids", -1, "ids from -1 to"),
        ("labels", 127, "neither its token nor -100"),
        ("labels", -1, "neither its token nor -100"),
    ],
)
def test_rows_that_a_model_cannot_read_are_said_before_it_does(plain, tmp_path, column, value, what):
    import pyarrow as pa

    folder = tmp_path / "packed"
    write_packed(folder, make_documents(), 64)
    path = sorted(folder.glob("data-*.arrow"))[0]
    with path.open("rb") as file:
        table = pa.ipc.open_stream(file).read_all()
    rows = table.to_pylist()
    rows[1][column][5] = value
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(pa.Table.from_pylist(rows, schema=table.schema))
    digest = file_sha256(path)
    alter(folder, lambda manifest: manifest["shards"][0].update(sha256=digest))
    network = load(plain).network
    with pytest.raises(DataError, match=what):
        PackedDataset(folder).check_values(network)


def test_rows_as_tokpack_packs_them_pass(plain, tmp_path):
    write_packed(tmp_path / "packed", make_documents(), 64)
    PackedDataset(tmp_path / "packed").check_values(load(plain).network)


def test_a_tokenizer_with_a_giant_id_is_refused_before_memory_is_taken(model):
    path = model / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    tokenizer["model"]["vocab"]["giant"] = 10**9
    path.write_text(json.dumps(tokenizer))
    with pytest.raises(UsageError, match="has the id 1,000,000,000"):
        load(model)
    del tokenizer["model"]["vocab"]["giant"]
    grows = {"type": "Replace", "pattern": {"String": "q"}, "content": "x" * 100_000}
    path.write_text(json.dumps(tokenizer | {"normalizer": grows}))
    with pytest.raises(UsageError, match="is refused: its normalizer can make a text 100,000 times"):
        load(model)

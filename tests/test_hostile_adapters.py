"""Adapters of strangers: nothing in their files is obeyed that costs more than their weights."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
sys.path.insert(0, str(Path(__file__).parent))

from adapter_files import save_adapter
from trainer_rows import save_tiny_model

from tokpack.errors import UsageError
from trainer_plugin.adapters.convert import convert_adapter
from trainer_plugin.adapters.loaded import load_adapted
from trainer_plugin.adapters.merge import merge_dequantized
from trainer_plugin.checkpoints import adapter_config
from trainer_plugin.checkpoints.adapter_folder import read_adapter
from trainer_plugin.serve_config.write import write_config
from trainer_plugin.serving.errors import ApiError
from trainer_plugin.serving.prompts import Prompts

ENDLESS = r"(.*.*.*)*_"


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_tiny_model(folder)
    return folder


@pytest.fixture
def adapter(base, tmp_path) -> Path:
    return save_adapter(base, tmp_path / "adapter")


def change(adapter: Path, **keys) -> Path:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | keys))
    return adapter


@pytest.mark.slow
@pytest.mark.parametrize(
    "keys",
    [
        {"target_modules": ENDLESS},
        {"exclude_modules": ENDLESS},
        {"modules_to_save": [ENDLESS]},
        {"layers_to_transform": [0], "layers_pattern": [ENDLESS], "target_modules": ["q_proj"]},
        {"rank_pattern": {ENDLESS: 4}},
        {"alpha_pattern": {"q_proj": 8, ENDLESS: 4}},
        {"alpha_pattern": {"(": 4}},
    ],
    ids=lambda keys: next(iter(keys)),
)
def test_a_regular_expression_that_does_not_end_is_refused_by_all_that_load_it(
    base, adapter, keys, tmp_path, monkeypatch
):
    monkeypatch.setattr(adapter_config, "SECONDS", 0.5)
    change(adapter, **keys)
    loaded = load_adapted(base, dtype="float32")
    with pytest.raises(UsageError, match="regular expression"):
        loaded.load(read_adapter(adapter))
    with pytest.raises(UsageError, match="regular expression"):
        convert_adapter(change(adapter, use_rslora=True), tmp_path / "plain", base=str(base))
    if any("pattern" in key and "layers" not in key for key in keys):  # what the others look at
        with pytest.raises(UsageError, match="regular expression"):
            merge_dequantized(adapter, tmp_path / "merged")
        with pytest.raises(UsageError, match="regular expression"):
            write_config([str(adapter)], "vllm", tmp_path / "served", convert=True)
    assert not loaded.adapters


@pytest.mark.parametrize("chosen", [r".*\.[qv]_proj", r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|v_proj).*?)"])
def test_regular_expressions_as_people_write_them_are_taken(base, tmp_path, chosen):
    adapter = save_adapter(
        base, tmp_path / "adapter", target_modules=chosen, alpha_pattern={r".*\.0\..*q_proj": 2}
    )
    load_adapted(base, [read_adapter(adapter)], dtype="float32")


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"megatron_config": {"a": 1}, "megatron_core": "os"}, "megatron_config"),
        ({"corda_config": {"cache_file": "/tmp/x"}}, "corda_config"),
        ({"layer_replication": [[0, 1]] * 1000}, "layer_replication"),
        ({"peft_type": "XLORA", "adapters": {"a": "/tmp"}}, "adapters"),
        ({"peft_type": "PROMPT_TUNING", "tokenizer_kwargs": {"trust_remote_code": True}}, "tokenizer_kwargs"),
        ({"init_lora_weights": "pissa_niter_1000000000"}, "starts as"),
        ({"init_lora_weights": {"a": []}}, "starts as"),
        ({"target_modules": 5}, "target_modules is no text"),
        ({"rank_pattern": {"q_proj": "9"}}, "rank_pattern is no text"),
        ({"rank_pattern": {"q_proj": 10**9}}, "a rank of 1000000000"),
        ({"r": 10**30}, "a rank of"),
        ({"r": -1}, "a rank of -1"),
        ({"target_modules": [f"m{n}" for n in range(5000)]}, "too many names"),
        ({"target_modules": "a|" * 20_000}, "too long"),
        ({"auto_mapping": "x" * (1 << 20)}, "no JSON object"),
    ],
    ids=lambda each: next(iter(each)) if isinstance(each, dict) else "",
)
def test_what_no_adapter_needs_is_refused_by_name(adapter, keys, what):
    with pytest.raises(UsageError, match=what):
        read_adapter(change(adapter, **keys))


def test_a_rank_that_only_other_weights_have_makes_nothing(base, adapter):
    from safetensors.torch import load_file, save_file

    path = adapter / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"x": next(iter(tensors.values())).new_zeros(10**7, 1)}, path)
    loaded = load_adapted(base, dtype="float32")
    with pytest.raises(UsageError, match="does not fit this base"):
        loaded.load(read_adapter(change(adapter, r=10**7)))
    assert not hasattr(loaded.network, "peft_config")


def test_pickled_weights_are_not_opened(base, adapter, tmp_path):
    class Opened:
        def __reduce__(self):
            return Path.touch, (tmp_path / "opened",)

    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Opened()))
    for read in (read_adapter, lambda folder: merge_dequantized(folder, tmp_path / "m", model=base)):
        with pytest.raises(UsageError, match=r"safetensors is missing"):
            read(adapter)
    assert not (tmp_path / "opened").exists()


def test_a_record_of_other_types_is_said(adapter):
    (adapter / "tokpack.json").write_text('{"shards": [1]}')
    with pytest.raises(UsageError, match=r"tokpack\.json"):
        read_adapter(adapter)


def test_names_in_an_index_of_weights_lead_nowhere_else(base, adapter, tmp_path):
    import shutil

    other = tmp_path / "models" / "base"
    shutil.copytree(base, other)
    (other / "model.safetensors").rename(tmp_path / "weights.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "../../weights.safetensors"}}
    (other / "model.safetensors.index.json").write_text(json.dumps(index))
    before = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "out").mkdir()
    with pytest.raises(UsageError, match="weights"):
        merge_dequantized(adapter, tmp_path / "out" / "merged", model=other)
    assert (tmp_path / "weights.safetensors").read_bytes() == before


def test_an_endless_chat_template_beside_the_weights_is_ended(base, adapter):
    (adapter / "chat_template.jinja").write_text(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    )
    prompts = Prompts(load_adapted(base, dtype="float32"), 64)
    with pytest.raises(ApiError, match="the template takes more than"):
        prompts.of_messages([{"role": "user", "content": "a"}], {}, read_adapter(adapter))


@pytest.mark.parametrize(
    "keys",
    [{"peft_type": 1.5}, {"peft_type": "x"}, {"lora_alpha": {}}, {"lora_dropout": "x"}, {"bias": 5}],
    ids=lambda keys: next(iter(keys)),
)
def test_what_peft_does_not_take_is_an_error_of_the_user(base, adapter, keys, tmp_path):
    change(adapter, use_rslora=True, **keys)
    with pytest.raises(UsageError):
        load_adapted(base, [read_adapter(adapter)], dtype="float32")
    with pytest.raises(UsageError):
        merge_dequantized(adapter, tmp_path / "merged", model=base)
    with pytest.raises(UsageError):
        convert_adapter(adapter, tmp_path / "plain", base=str(base))

"""Adapters pushed with their card: what is copied, what is not, what the card says."""

from __future__ import annotations

import json
from pathlib import Path

import fsspec
import pytest
from fake_hub import FakeHub, run_with

from tokpack.errors import UsageError
from trainer_plugin.adapters.publishing import adapter_card, push_adapter

MEMORY = "memory://store/adapter"


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    (folder / "checkpoint-1").mkdir(parents=True)
    (folder / "checkpoint-1" / "optimizer.pt").write_bytes(b"states")
    for name in ("adapter_model.safetensors", "training_args.bin", "chat_template.jinja"):
        (folder / name).write_bytes(name.encode())
    (folder / "secret.json").symlink_to("/etc/hostname")
    records = {
        "adapter_config.json": {"base_model_name_or_path": "me/base<b>", "r": 8},
        "tokpack.json": {
            "method": "qlora",
            "rows": 12,
            "capacity": 1024,
            "base": {"name": "me/base<b>", "digest": "abc"},
            "shards": [{"file": "data-0.arrow", "rows": 12, "sha256": "0" * 64}],
            "versions": {"peft": "0.21"},
            "ledger": {
                "documents": {"read": 90, "kept": 80, "dropped": {"refusal|": 10}, "quarantined": 0},
                "tokens": {"tokenized": 9000, "packed": 8000, "dropped": {"refusal|": 1000}},
            },
        },
        "result.json": {"steps": 30, "tokens": 4000, "loss_before": 2.5, "loss_after": 2.25},
    }
    for name, record in records.items():
        (folder / name).write_text(json.dumps(record))
    return folder


@pytest.fixture
def memory():
    found = fsspec.filesystem("memory")
    found.store.clear()
    return found


PUSHED = {
    "adapter_config.json",
    "adapter_model.safetensors",
    "chat_template.jinja",
    "tokpack.json",
    "result.json",
}


def test_the_adapter_is_copied_with_its_card_and_nothing_else(adapter: Path, memory) -> None:
    assert push_adapter(adapter, MEMORY + "/") == MEMORY
    there = {name.rpartition("/")[2] for name in memory.find("/store/adapter")}
    assert there == PUSHED | {"README.md"}
    with pytest.raises(UsageError, match="an adapter is there"):
        push_adapter(adapter, MEMORY)
    assert push_adapter(adapter, MEMORY, overwrite=True) == MEMORY


def test_the_card_tells_base_figures_and_data_and_no_name_is_markup(adapter: Path) -> None:
    card = adapter_card(adapter, "hf://me/math")
    assert card.startswith('---\nlibrary_name: peft\nbase_model: "me/base<b>"\n')
    assert "An adapter for me/base\\<b\\>" in card
    assert 'from_pretrained("me/math")' in card
    assert '# with a copy of this folder\nmodel = AutoPeftModelForCausalLM.from_pretrained("math")' in (
        adapter_card(adapter, "s3://bucket/math")
    )
    assert "| held-out loss | 2.5000 before, 2.2500 after |" in card
    assert "0" * 64 in card
    assert "| kept | 80 |\n| left out: refusal\\| | 10 |" in card
    assert "| packed | 8,000 |" in card
    (adapter / "tokpack.json").write_text("[]")
    (adapter / "result.json").unlink()
    assert "held-out" not in adapter_card(adapter, "hf://me/math")


def test_a_base_in_a_folder_of_this_machine_is_named_by_its_last_part(adapter: Path) -> None:
    record = {"base_model_name_or_path": "/home/me/models/base", "r": 8}
    (adapter / "adapter_config.json").write_text(json.dumps(record))
    (adapter / "tokpack.json").unlink()
    assert "/home" not in adapter_card(adapter, "hf://me/math")


@pytest.mark.parametrize("url", ["folder", "hf://me", "hf://datasets/me/math"])
def test_other_places_are_refused(adapter: Path, url: str) -> None:
    with pytest.raises(UsageError, match="no place for an adapter"):
        push_adapter(adapter, url)


def test_a_folder_without_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter here"):
        push_adapter(tmp_path, MEMORY)


@pytest.mark.slow
def test_pushed_to_the_hub_in_one_commit(adapter: Path, tmp_path: Path) -> None:
    hub = FakeHub()
    code = (
        "import sys; from trainer_plugin.adapters import publishing; publishing.push_adapter(*sys.argv[1:])"
    )
    run_with(hub, tmp_path / "hf", code, adapter, "hf://me/math")
    assert (hub.repo, hub.kind, len(hub.commits)) == ("me/math", "models", 1)
    assert PUSHED | {"README.md"} <= set(hub.files)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("tokpack.json", '{"base": 5}'),
        ("tokpack.json", '{"shards": [1]}'),
        ("tokpack.json", '{"ledger": {"documents": {"read": "many"}, "tokens": {}}}'),
        ("result.json", '{"steps": "x"}'),
    ],
)
def test_records_of_other_types_are_said(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    with pytest.raises(UsageError, match="not as tokpack writes it"):
        adapter_card(tmp_path, "s3://bucket/adapter")


def test_a_card_names_no_keys(tmp_path):
    assert "s3cret" not in adapter_card(tmp_path, "s3://me:s3cret@bucket/adapter")

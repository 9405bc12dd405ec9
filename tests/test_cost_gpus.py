"""The shipped tables, and a user's file over them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tokpack.cost import Gpu, find_api, find_gpu, gpu_price, load_apis, load_gpus
from tokpack.errors import UsageError


def test_every_gpu_names_its_sources_and_the_day_they_were_read() -> None:
    gpus = load_gpus()
    assert len(gpus) == 15
    for gpu in gpus.values():
        assert gpu.sources, gpu.key
        assert all(url.startswith("https://") for url in gpu.sources)
        assert gpu.read is not None
        assert 50 < gpu.tflops < 3000
        assert (gpu.price_usd_h is None) == (gpu.price_note == "")
        assert gpu.price_usd_h is None or "https://" in gpu.price_note


def test_only_cards_without_bf16_are_marked_fp16() -> None:
    assert {key for key, gpu in load_gpus().items() if gpu.dtype == "fp16"} == {
        "T4",
        "V100",
        "V100-32GB",
    }


def test_every_api_price_names_its_source() -> None:
    for price in load_apis().values():
        assert price.source.startswith("https://")
        assert price.read is not None
        assert 0 < price.usd_per_million < 100


@pytest.mark.parametrize("name", ["RTX-4090", "rtx 4090", "rtx_4090", "rtx4090"])
def test_a_gpu_is_found_however_it_is_written(name: str) -> None:
    assert find_gpu(name).key == "RTX-4090"


def test_an_unknown_gpu_lists_what_it_may_be() -> None:
    with pytest.raises(UsageError, match="'H100-SXM' or 'H100-PCIe'"):
        find_gpu("h100")
    with pytest.raises(UsageError, match="known: A10"):
        find_gpu("zzz")


def test_a_service_is_found_however_it_is_written_and_near_names_are_listed() -> None:
    assert find_api("Together LoRA 16B").key == "together-lora-16b"
    with pytest.raises(UsageError, match="'fireworks-lora-16b' or") as error:
        find_api("fireworks")
    assert error.value.where == "--api"
    assert "--apis FILE" in str(error.value.hint)


def test_a_user_file_overrides_figures_and_adds_gpus(tmp_path: Path) -> None:
    file = tmp_path / "gpus.toml"
    file.write_text("[H200]\nprice_usd_h = 2.5\n[MINE]\ntflops = 10\nmemory_gb = 8\n")
    gpus = load_gpus(file)
    assert gpus["H200"].price_usd_h == 2.5
    assert gpus["H200"].tflops == load_gpus()["H200"].tflops
    assert gpus["MINE"] == Gpu(key="MINE", tflops=10, memory_gb=8)
    assert gpus["MINE"].memory_bytes == 8 * 2**30


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[X]\ntflops = 10\n", "X has no memory_gb"),
        ("[H200]\nprise_usd_h = 1\n", "did you mean 'price_usd_h'"),
        ("[H200]\ntflops = 'fast'\n", "must be a number"),
        ("[H200]\nprice_usd_h = -1\n", "from 0 up"),
        ("tflops = 10\n", "outside a table"),
        ("[H200\n", "not TOML"),
    ],
)
def test_a_wrong_user_file_is_an_error_that_names_file_and_key(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=words) as error:
        load_gpus(file)
    assert "mine.toml" in str(error.value)


def test_a_missing_user_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot read"):
        load_apis(tmp_path / "none.toml")


def test_a_gpu_without_a_price_asks_for_the_flag() -> None:
    gpu = load_gpus()["V100-32GB"]
    with pytest.raises(UsageError, match="--gpu-price USD_PER_HOUR"):
        gpu_price(gpu)
    assert gpu_price(gpu, 1.5).value == 1.5
    assert gpu_price(load_gpus()["H100-SXM"]).source == "assumed"
    with pytest.raises(UsageError, match="negative"):
        gpu_price(gpu, -1)

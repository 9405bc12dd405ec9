"""`tokpack init`: a commented `run.toml`, from a look at the first documents, the model and the card."""

from __future__ import annotations

import json
import logging
import os
import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import field, replace
from pathlib import Path
from typing import get_args

import numpy as np
import polars as pl

from tokpack.arrays import Int64
from tokpack.cost.training import Training, load_training
from tokpack.errors import DataError, UsageError, check_new, writing
from tokpack.files.durable import write_durably
from tokpack.frozen import frozen
from tokpack.on_disk.reasons import TEMPLATE_ERROR
from tokpack.run import Run
from tokpack.settings.config import CostConfig, Method
from tokpack.settings.options import make_config
from tokpack.stages.normalize.formats import TOKENS
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.token_columns import take_tokens
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.streams import looked_at
from tokpack.stages.render import left_out
from tokpack.terminal.activity import Activity
from tokpack.way.documents import encode

log = logging.getLogger("tokpack")

LOOK_BYTES = 4 << 20
"""Of each input."""
LENGTHS = tuple(2**power for power in range(9, 18))
"""Capacities that are proposed: 512 to 131,072 tokens."""
ENOUGH_TO_HOLD_OUT = 200
LIGHTEST: tuple[Method, ...] = ("lora", "qlora")
"""Methods to propose, the better first."""
MOST_REASONS = 3
"""Reasons for which documents cannot be used that are named."""
PREFERENCE_RATE = "1e-5"
"""Learning rate of DPO, KTO and the others, as in examples/recipes: a twentieth of the default."""


@frozen
class Look:
    """What the first documents of an input are."""

    path: str
    format: str
    lengths: Int64
    """Tokens of each document that no rule left out."""
    left_out: Counter[str]
    """Documents that cannot be used, by reason, with what a chat template says of those it refuses."""
    told: Counter[str] = field(default_factory=Counter)
    """What the chat template leaves out of the others; see `tokpack.stages.render.left_out`."""


def first_recipe(
    data: list[str],
    model: str,
    out: Path,
    *,
    gpu: str = "",
    format: str | None = None,
    map: Mapping[str, str] | None = None,
    tell: Activity | None = None,
) -> str:
    """The text of a recipe for these inputs that runs as it is; `out` is where it will lie.

    format, map: of all inputs, as in `analyze`; the recipe then insists on them.

    Raises UsageError and DataError as `analyze` would.
    """
    config = make_config(data, {"tokenizer": model, "format": format, "map": map})
    run = Run.start(config, tell=tell)
    with run.tell.doing("looking at documents"):
        looks = [_look(run, number) for number in range(len(run.sources))]
    lengths = np.concatenate([look.lengths for look in looks])
    lost = sum((look.left_out for look in looks), Counter())
    if not len(lengths):
        said = f"no document is left to look at: {_unusable(lost)}" if lost else "no document to look at"
        raise DataError(said, where=", ".join(data), hint="tokpack analyze says why")
    unwritten = left_out.warnings(sum((look.told for look in looks), Counter()))
    for sentence in unwritten:
        log.warning("of the documents looked at, %s", sentence)
    if lost:
        log.warning("of the documents looked at, %s", _unusable(lost))
    training = _training(model, gpu)
    capacity, why = choose_length(lengths, training)
    parts = [
        _head(out, len(lengths), run.config.seed, _train_line(run, training, model, capacity, out)),
        _inputs(data, looks, out, format, map or {}),
        _tokens(run, model, out, unwritten),
        _rows(lengths, capacity, why),
        _kept(len(lengths), lost),
    ]
    if training is not None:
        parts.append(NO_BILL if run.kind else _bill(training, model, capacity, out))
    return "\n".join(parts)


def write_recipe(text: str, out: Path, overwrite: bool = False) -> None:
    """Raises UsageError for a file that is there already."""
    check_new(out, overwrite)
    with writing(out, resumes=False):
        write_durably(out, text.encode())


def choose_length(lengths: Int64, training: Training | None) -> tuple[int, str]:
    """The smallest capacity that holds 99 % of the documents whole, within model and card; and why."""
    wanted = int(np.quantile(lengths, 0.99, method="inverted_cdf"))
    capacity, why = next((c for c in LENGTHS if c >= wanted), LENGTHS[-1]), "holds 99 % of them whole"
    if training is None:
        return capacity, why
    if training.max_positions and capacity > training.max_positions:
        capacity, why = training.max_positions, "the longest that the model was made for"
    fitting = [c for c in LENGTHS if c <= capacity and method_for(training, c) is not None]
    if training.gpu is not None and fitting and fitting[-1] < capacity and capacity in LENGTHS:
        capacity, why = fitting[-1], f"the longest row that fits {training.gpu.key}"
    return capacity, why


def method_for(training: Training, capacity: int) -> Method | None:
    """The first of LoRA and QLoRA with which a row fits the card, checkpointing allowed; None: neither."""
    from tokpack.cost import Method as CostMethod

    if training.gpu is None:
        return "qlora"
    for kind in LIGHTEST:
        planned = replace(training, method=CostMethod(kind=kind, rank=training.settings.rank))
        if planned.holds(capacity, training.gpu, True):
            return kind
    return None


def _look(run: Run, number: int) -> Look:
    source, shape = run.sources[number], run.shapes[number]
    with looked_at(source):
        block = next(iter(read_blocks([source], LOOK_BYTES)), None)
    if block is None:
        return Look(source.path, shape.format, np.zeros(0, np.int64), Counter())
    block = replace(block, source=number)
    told: Counter[str] = Counter()
    if shape.format == TOKENS:
        normalized, tokens = take_tokens(block, source, shape, run.tokenizer.vocab_size)
        documents = normalized.documents
    else:
        documents, rendered, tokens = encode(run, normalize(block, source, shape).documents)
        told = Counter(rendered.told)
    kept = documents["drop_reason"].is_null().to_numpy()
    why = documents.filter(pl.col("drop_reason").is_not_null()).select("drop_reason", "drop_detail").rows()
    unusable = Counter(f"{reason} ({said})" if reason == TEMPLATE_ERROR else reason for reason, said in why)
    return Look(source.path, shape.format, np.diff(tokens.offsets)[kept], unusable, told)


def _training(model: str, gpu: str) -> Training | None:
    """The run to cost; None where there is a tokenizer alone."""
    try:
        return load_training(CostConfig(model=model, gpu=gpu))
    except UsageError:
        if gpu:
            raise
        return None


# The text


NO_BILL = """\
# No [cost]: the bill counts supervised training, and preferences are trained beside a reference.
# What `tokpack train` does with them is in docs/training.md.
"""


def _train_line(run: Run, training: Training | None, model: str, capacity: int, out: Path) -> str:
    """Empty for a tokenizer alone, which nothing trains."""
    if training is None:
        return ""
    method = method_for(training, capacity) or "qlora"
    rate = f" --learning-rate {PREFERENCE_RATE}" if run.kind else ""
    model = shlex.quote(_seen(model, out))
    return f"#   tokpack train packed --model {model} --method {method}{rate} -o adapter\n"


def _head(out: Path, documents: int, seed: int, train: str) -> str:
    looked_at = f"the first {documents:,} documents" if documents > 1 else "one document"
    return f"""\
# Made by `tokpack init` from {looked_at}. Change what you like, then:
#   tokpack analyze --config {out.name} --html report.html
#   tokpack pack --config {out.name} -o packed
{train}\
# Every key is in docs/configuration.md; a flag wins over the file. Paths are relative to this file.

seed = {seed}
"""


def _inputs(data: list[str], looks: list[Look], out: Path, format: str | None, map: Mapping[str, str]) -> str:
    formats = {look.path: look.format for look in looks}
    found = ", ".join(sorted({look.format for look in looks}))
    lines = [f"# Recognized: {found}. `format` insists on one, `map` names columns."]
    columns = ", ".join(f"{name} = {_text(column)}" for name, column in map.items())
    for path in data:
        seen = formats.get(path, "auto" if "," in found else found)
        shape = f'format = "{format}"' if format else f'# format = "{seen}"'
        lines += ["[[source]]", f"path = {_path(path, out)}", shape]
        lines += [f"map = {{ {columns} }}", ""] if columns else [""]
    return "\n".join(lines)


def _tokens(run: Run, model: str, out: Path, unwritten: list[str]) -> str:
    template = (
        "Chats are rendered by the model's own chat template."
        if run.tokenizer.chat_template is not None
        else "It has no chat template: documents are rendered plain. [render] chat_template = FILE gives one."
    )
    more = [f"# Of the documents looked at, {sentence}.\n" for sentence in unwritten]
    if more:
        more.append("# docs/templates.md has the templates that write these.\n")
    return f"# {template}\n{''.join(more)}[tokenize]\ntokenizer = {_path(model, out)}\n"


def _rows(lengths: Int64, capacity: int, why: str) -> str:
    half, most, nearly = (int(np.quantile(lengths, q, method="inverted_cdf")) for q in (0.5, 0.95, 0.99))
    longer = int((lengths > capacity).sum())
    longer_words = "1 is longer" if longer == 1 else f"{longer:,} are longer"
    return f"""\
# Tokens a document: half have up to {half:,}, 95 % up to {most:,}, 99 % up to {nearly:,}; the
# longest has {lengths.max():,}.
# {capacity:,} {why}; {longer_words}. `overlong` says what becomes of those:
# "auto" drops the oldest turns of a chat and splits a text; also drop, right, left, turns, split.
[truncate]
max_length = {capacity}
overlong = "auto"
"""


def _kept(documents: int, lost: Counter[str]) -> str:
    val = 0.02 if documents >= ENOUGH_TO_HOLD_OUT else 0.0
    unusable = f"\n# Of those looked at, {_unusable(lost)}." if lost else ""
    return f"""\
# Rules that leave documents out (docs/cleaning.md).{unusable}
[clean]
rules = "default"

# Near duplicates: 0 keeps them; 0.8 drops those whose prompt and answer are both nearly said before.
[near_dup]
threshold = 0.0

# `val` of the conversations are held out, into packed/validation.
[write]
val = {val}
"""


def _unusable(lost: Counter[str]) -> str:
    named = [f"{count:,} {reason}" for reason, count in lost.most_common(MOST_REASONS)]
    more = [*named, *(["others"] if len(lost) > MOST_REASONS else [])]
    return f"{lost.total():,} could not be used at all: {', '.join(more)}"


def _bill(training: Training, model: str, capacity: int, out: Path) -> str:
    card = training.gpu.key if training.gpu else ""
    method = method_for(training, capacity)
    others = ", ".join(kind for kind in get_args(Method) if kind != method)
    if training.gpu is None:
        fit = "Name a card for hours and money: `tokpack gpus` lists them."
    elif method is None:
        fit = f"No method fits {card} at {capacity:,} tokens: take a larger card, or shorter rows."
    else:
        fit = f"{method} fits {card} at {capacity:,} tokens."
    return f"""\
# The training run, for the bill. {fit} Other methods: {others}.
[cost]
model = {_path(model, out)}
{f'gpu = "{card}"' if card else '# gpu = "a10"'}
method = "{method or "qlora"}"
epochs = 1.0
batch_size = 8           # documents a GPU and micro-batch before packing
accumulation = 1         # micro-batches an optimizer step
learning_rate = 2e-4
"""


def _path(name: str, out: Path) -> str:
    return _text(_seen(name, out))


def _seen(name: str, out: Path) -> str:
    """A relative path seen from the recipe, any other name as it is."""
    here = any(sign in name for sign in "*?[") or Path(name).exists()
    if here and "://" not in name and not Path(name).is_absolute():
        name = os.path.relpath(name, out.absolute().parent)
    return name


def _text(value: str) -> str:
    """A TOML string."""
    return json.dumps(value, ensure_ascii=False)

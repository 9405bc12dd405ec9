"""`tokpack train --eval`: the adapter that was just trained against its base, in the files of its folder."""

from __future__ import annotations

import gc
import json
from pathlib import Path

from tokpack.terminal.activity import Activity
from trainer_plugin.evaluation.run import EvalSettings, Evaluation, evaluate
from trainer_plugin.recipe import Recipe

JSON, PAGE = "evaluation.json", "evaluation.html"


def evaluate_result(
    packed: str | Path, model: str | Path, recipe: Recipe, out: str | Path, tell: Activity
) -> Evaluation:
    """Compares, and writes `evaluation.json` and `evaluation.html` into OUT. The isolation was proven when
    the training began."""
    import torch

    gc.collect()  # the model that was trained
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    settings = EvalSettings(attn=recipe.attn, dtype=recipe.dtype, probe=False, check=False, seed=recipe.seed)
    found = evaluate(packed, model, [out], settings=settings, tell=tell)
    text = json.dumps(found.to_dict(), ensure_ascii=False, indent=2)
    (Path(out) / JSON).write_text(text + "\n", encoding="utf-8")
    with tell.doing("drawing the page"):
        found.save_html(Path(out) / PAGE)
    return found

"""Writes docs/held-out-loss.svg from the `result.json` of a run.

python docs/make_loss_curve.py adapter/result.json
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import altair as alt
import polars as pl

OUT = Path(__file__).parent / "held-out-loss.svg"


def main(result: str) -> None:
    curve = json.loads(Path(result).read_text(encoding="utf-8"))["held_out"]
    points = pl.DataFrame(curve, schema=["step", "loss"], orient="row")
    base = alt.Chart(points, width=420, height=200).encode(
        alt.X("step:Q", title="optimizer step"),
        alt.Y("loss:Q", title="held-out loss", scale=alt.Scale(zero=False)),
    )
    labels = base.mark_text(dy=-10).encode(alt.Text("loss:Q", format=".2f"))
    chart = base.mark_line(point=True) + labels
    chart.configure(background="white", font="sans-serif").save(OUT)


if __name__ == "__main__":
    main(sys.argv[1])

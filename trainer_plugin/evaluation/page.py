"""An evaluation as one page that needs no network and no script.

All text from data is escaped by Jinja after `printable`, and the page's policy lets nothing run or load.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import FileSystemLoader

from tokpack.cost.training import model_name
from tokpack.report.charts import Chart
from tokpack.report.html import environment, style
from tokpack.terminal.activity import counted, in_number
from tokpack.terminal.printable import one_line
from tokpack.version import __version__
from trainer_plugin.evaluation.forest import ForestLine, forest
from trainer_plugin.evaluation.held_out import AdapterComparison, Group
from trainer_plugin.evaluation.words import (
    ends,
    forgetting,
    pairs_words,
    percent,
    signed,
    task_difference,
    task_ends,
    task_value,
    verdict,
)

if TYPE_CHECKING:
    from trainer_plugin.evaluation.run import EvaluatedPart, Evaluation
    from trainer_plugin.evaluation.tasks import TaskComparison

HERE = Path(__file__).parent
NAME = 48


def page(found: Evaluation) -> str:
    """HTML, self-contained; equal evaluations give equal pages."""
    ours = environment().overlay(loader=FileSystemLoader(HERE))
    ours.filters = {**environment().filters, "signed": signed}
    template = ours.get_template("page.html.j2")
    held_out = found.held_out
    return template.render(
        style=style(),
        version=__version__,
        headline=headline(found),
        lead=_lead(held_out.comparisons),
        model=one_line(model_name(found.model), 80),
        weights=found.base_weights,
        dtype=found.dtype,
        attn=found.attn,
        part=held_out,
        kind="held out" if held_out.split == "validation" else "evaluated",
        trained=held_out.comparisons[0].trained_tokens,
        whole=overall(held_out),
        comparisons=[_comparison(one) for one in held_out.comparisons],
        control=None if found.control is None else _control(found.control),
        tasks=None if not found.tasks else _tasks(found.tasks),
        gates=found.gates,
        notes=found.notes,
        versions=", ".join(f"{name} {number}" for name, number in found.versions.items()),
    )


def _lead(comparisons: list[AdapterComparison]) -> list[str]:
    """A sentence about each adapter; the headline has named one that stands alone."""
    if len(comparisons) == 1:
        words = verdict(comparisons[0])
        return [f"{words[:1].upper()}{words[1:]}."]
    return [f"{one_line(one.adapter, NAME)}: {verdict(one)}." for one in comparisons]


def headline(found: Evaluation) -> str:
    """What the held-out documents say, in one line."""
    comparisons = found.held_out.comparisons
    better = [one for one in comparisons if one.difference.sure and one.difference.value < 0]
    if len(comparisons) > 1:
        return in_number(
            len(better), f"{len(better)} of {len(comparisons)} adapters (is|are) better than (its|their) base"
        )
    one = comparisons[0]
    name = one_line(one.adapter, NAME)
    if better:
        return f"{name} is better than its base"
    if one.difference.sure:
        return f"{name} is worse than its base"
    return in_number(one.documents, f"{one.documents:,} document(|s) show(s|) no difference")


def overall(part: EvaluatedPart) -> Chart:
    lines = [
        ForestLine(one_line(one.adapter, NAME), _figures(one), one.difference, strong=True)
        for one in part.comparisons
    ]
    return forest(lines, "Difference in loss per trained token, adapter minus base")


def _figures(one: AdapterComparison | Group) -> str:
    return f"{signed(one.difference.value)} ({ends(one.difference)})"


def _comparison(one: AdapterComparison) -> dict[str, Any]:
    groups = {"source": one.by_source, "length": one.by_length}
    charts = {
        name: _groups(found, f"Difference in loss by {name}")
        for name, found in groups.items()
        if len(found) > 1
    }
    return {
        "name": one_line(one.adapter, NAME),
        "figures": one,
        "verdict": verdict(one),
        "improved": percent(one.improved.value),
        "charts": charts,
        "pairs": None if one.pairs is None else pairs_words(one.pairs),
        "extremes": [("Worse than the base", one.worst), ("Better than the base", one.best)],
    }


def _groups(groups: list[Group], title: str) -> Chart:
    lines = [
        ForestLine(
            f"{one_line(group.name or 'unknown', 40)}, {counted(group.documents, 'document')}",
            _figures(group),
            group.difference,
        )
        for group in groups[:40]
    ]
    return forest(lines, title)


def _control(part: EvaluatedPart) -> dict[str, Any]:
    return {
        "part": part,
        "chart": overall(part),
        "words": [f"{one_line(one.adapter, NAME)}: {forgetting(one)}." for one in part.comparisons],
    }


def _tasks(tasks: list[TaskComparison]) -> dict[str, Any]:
    """Forest plots of the metrics where more is better, and of those where less is; and the figures."""
    charts = []
    for higher, title in ((True, "right of the dashed line is better"), (False, "left of it is better")):
        for shares in (True, False):
            mine = [
                one for one in tasks if one.higher_is_better == higher and (one.p_value is not None) == shares
            ]
            if mine:
                lines = [
                    ForestLine(_task_name(one), f"{task_difference(one)} ({task_ends(one)})", one.difference)
                    for one in mine[:40]
                ]
                charts.append((title, forest(lines, "Difference on tasks", less_is_better=not higher)))
    rows = [
        {
            "name": _task_name(one),
            "questions": one.questions,
            "base": task_value(one, one.base.value),
            "adapter": task_value(one, one.value.value),
            "only": "" if one.p_value is None else f"{one.only_base:,} / {one.only_adapter:,}",
            "p": "" if one.p_value is None else f"{one.p_value:.3g}",
        }
        for one in tasks
    ]
    return {"charts": charts, "lines": rows}


def _task_name(one: TaskComparison) -> str:
    filtered = "" if one.filter in ("none", "") else f" ({one.filter})"
    return one_line(f"{one.task}: {one.metric}{filtered}, {one.adapter}", 100)

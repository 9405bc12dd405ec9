"""An evaluation on one screen of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.text import Text

from tokpack.cost.training import model_name
from tokpack.report.terminal_tables import BAD, GOOD, QUIET, plain_table
from tokpack.terminal.activity import counted
from tokpack.terminal.printable import one_line
from trainer_plugin.evaluation import held_out
from trainer_plugin.evaluation.words import (
    ends,
    forgetting,
    pairs_words,
    percent,
    signed,
    task_ends,
    task_value,
    verdict,
)

if TYPE_CHECKING:
    from trainer_plugin.evaluation.run import EvaluatedPart, Evaluation
    from trainer_plugin.evaluation.tasks import TaskComparison

MOST_GROUPS, MOST_EXTREMES, NAME, ANSWER = 5, 3, 24, 54


def view(found: Evaluation) -> RenderableType:
    """Verdict of each adapter, the figures behind it, and where one adapter alone differs most."""
    parts: list[RenderableType] = [_head(found), _verdicts(found.held_out)]
    parts.append(_table(found.held_out, "Loss per trained token"))
    only = found.held_out.comparisons[0] if len(found.adapters) == 1 else None
    if only is not None:
        groups = only.by_source if len(only.by_source) > 1 else only.by_length
        if len(groups) > 1:
            parts.append(_groups(groups, "By source" if only.by_source else "By length of the document"))
        if only.worst:
            parts.append(_extremes(only.worst, "Worse than the base"))
    if found.control is not None:
        parts.append(_table(found.control, f"Control text: {one_line(found.control.name, 40)}"))
        parts += [Text(f"{one_line(o.adapter, NAME)}: {forgetting(o)}") for o in found.control.comparisons]
    if found.tasks:
        parts.append(_tasks(found.tasks))
    spaced = [line for part in parts for line in (part, Text())]
    spaced += [Text(f"note: {one_line(note, 300)}", style=QUIET) for note in found.notes]
    spaced += [
        Text(f"gate {one_line(gate.sentence, 300)}", style=GOOD if gate.passed else BAD)
        for gate in found.gates
    ]
    return Group(*spaced)


def _head(found: Evaluation) -> Text:
    part = found.held_out
    trained = part.comparisons[0].trained_tokens
    kind = "held-out documents" if part.split == "validation" else "documents"
    text = f"{counted(part.documents, 'document').replace('documents', kind)} of {one_line(part.name, 24)}, "
    return Text(
        text + f"{trained:,} trained tokens; base {one_line(model_name(found.model), 24)}", style="bold"
    )


def _verdicts(part: EvaluatedPart) -> RenderableType:
    lines = []
    for one in part.comparisons:
        style = "" if not one.difference.sure else GOOD if one.difference.value < 0 else BAD
        lines.append(Text(f"{one_line(one.adapter, NAME)}: {verdict(one)}", style=style))
        if one.pairs is not None:
            lines.append(Text(pairs_words(one.pairs)))
    return Group(*lines)


def _table(part: EvaluatedPart, title: str) -> RenderableType:
    table = plain_table(title, "", "base", "adapter", "difference", "95 % interval", "improved")
    for one in part.comparisons:
        table.add_row(
            Text(one_line(one.adapter, NAME)),
            f"{one.base_loss:.4f}",
            f"{one.loss:.4f}",
            signed(one.difference.value),
            ends(one.difference),
            percent(one.improved.value),
        )
    return table


def _groups(groups: list[held_out.Group], title: str) -> RenderableType:
    table = plain_table(title, "", "documents", "base", "difference", "95 % interval")
    for group in groups[:MOST_GROUPS]:
        table.add_row(
            Text(one_line(group.name or "unknown", NAME)),
            f"{group.documents:,}",
            f"{group.base_loss:.4f}",
            signed(group.difference.value),
            ends(group.difference),
        )
    if (more := len(groups) - MOST_GROUPS) > 0:
        return Group(table, Text(f"and {more:,} more; --json has all", style=QUIET))
    return table


def _tasks(tasks: list[TaskComparison]) -> RenderableType:
    """The first metric of each task; with one adapter all of them."""
    adapters = {one.adapter for one in tasks}
    shown = [one for one in tasks if one.primary or len(adapters) == 1]
    table = plain_table("Tasks", "", "questions", "base", "adapter", "95 % interval", "p")
    for one in shown:
        label = f"{one.task} {one.metric}" + (f", {one.adapter}" if len(adapters) > 1 else "")
        table.add_row(
            Text(one_line(label, NAME + 8)),
            f"{one.questions:,}",
            task_value(one, one.base.value),
            task_value(one, one.value.value),
            task_ends(one),
            "" if one.p_value is None else f"{one.p_value:.3f}",
        )
    return table


def _extremes(extremes: list[held_out.Extreme], title: str) -> RenderableType:
    table = plain_table(title, "document", "difference", "answer")
    table.columns[0].no_wrap, table.columns[2].justify = True, "left"
    for one in extremes[:MOST_EXTREMES]:
        answer = " ".join(one.answer.split())
        answer = answer if len(answer) <= ANSWER else answer[: ANSWER - 1] + "…"
        table.add_row(str(one.doc_id), signed(one.difference), Text(one_line(answer, ANSWER)))
    return table

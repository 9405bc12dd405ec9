"""Sets of questions about a text that keep them in lists: of paragraphs, of answers, of the words of a page.
They are refused with what writes a question, or a conversation, a row.
"""

from __future__ import annotations

from typing import Any

from tokpack.stages.normalize.fields import as_json
from tokpack.stages.normalize.layouts.commands import ROWS, at
from tokpack.stages.normalize.layouts.layouts import Layout, Rows, first_value

_QUESTIONS = (
    '.context as $context | .qas[] | select(.answers[0]) | {prompt: "\\($context)\\n\\(.question)", '
    "completion: .answers[0].text}"
)
_STORIES = ("story", "context", "passage", "article", "background")
_ANSWERS = ("answers.input_text", "answers.texts", "answers", "responses")


def _of_paragraphs(path: str, before: str) -> Layout:
    return Layout(
        name="questions of paragraphs",
        needs=(f"{path}qas.0.question",),
        reason=f"{path}qas are the questions to a paragraph, each with its answers",
        hint=ROWS.format(before + _QUESTIONS)
        + " writes a question a row, after its paragraph, and leaves out "
        "those without an answer",
    )


READINGS: tuple[Layout, ...] = (
    _of_paragraphs("data.0.paragraphs.0.", ".data[].paragraphs[] | "),
    _of_paragraphs("paragraphs.0.", ".paragraphs[] | "),
    _of_paragraphs("", ""),
    Layout(
        name="Natural Instructions, its files",
        needs=("Definition", "Instances.0.input", "Instances.0.output"),
        reason="Instances are the rows of a task, with inputs and outputs, and Definition says what to do",
        hint=ROWS.format(
            '(.Definition | if type == "array" then .[0] else . end) as $task | .Instances[] | {instruction: '
            '$task, input, output: (.output | if type == "array" then .[0] else . end)}'
        )
        + " writes a row for each, with the first of its outputs",
    ),
    Layout(
        name="Natural Questions",
        needs=("question.text", "annotations.short_answers", "document"),
        reason="answers stand in annotations.short_answers, and the page as its words",
        hint=ROWS.format(
            "first(.annotations.short_answers[].text[0] | values) as $answer "
            "| {prompt: .question.text, completion: $answer}"
        )
        + " writes questions and short answers, without the page, and leaves out questions without one",
    ),
    Layout(
        name="Natural Questions, simplified",
        needs=("question_text", "document_text", "annotations"),
        reason="annotations say which words of document_text answer the question",
        hint=ROWS.format(
            'first(.annotations[].short_answers[0] | values) as $at | (.document_text | split(" ")) '
            "as $words | {prompt: .question_text, "
            'completion: ($words[$at.start_token:$at.end_token] | join(" "))}'
        )
        + " writes questions and short answers, without the page, and leaves out questions without one",
    ),
)


def find_lists_of_questions(rows: Rows) -> Layout | None:
    """A list of questions and one of their answers, in one row: a conversation about a text, or many rows."""
    questions = as_json(first_value(rows, "questions"))
    if not _are_texts(questions):
        return None
    for path in _ANSWERS:
        answers = as_json(first_value(rows, path))
        nested = _are_texts([one[0] if isinstance(one, list) and one else one for one in answers or ()])
        if not isinstance(answers, list) or len(answers) != len(questions) or not nested:
            continue
        story = next((name for name in _STORIES if isinstance(first_value(rows, name), str)), "")
        answer = f".{path}[$i]{'[0]' if isinstance(answers[0], list) else ''}"
        turns = (
            f'[range(.questions | length) as $i | {{role: "user", content: .questions[$i]}}, '
            f'{{role: "assistant", content: {answer}}}]'
        )
        first = f' | .messages[0].content |= "\\($row{at(story)})\\n\\(.)"' if story else ""
        row = ". as $row | " if story else ""
        return Layout(
            name="questions and answers in lists",
            reason=f"questions and {path} hold what is asked and answered one after another",
            hint=f"{ROWS.format(f'{row}{{messages: {turns}}}{first}')} writes them as a conversation"
            f"{f' about {story}' if story else ''}",
        )
    return None


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(value, str) for value in values)

"""Layouts of sets that are no conversations as they stand: benchmarks, exams, steps with labels, pairs of
sentences with a class, code with a gap to fill, files, sources and targets. Most are refused, with what
writes their rows as prompts and answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tokpack.stages.normalize.fields import CHATS, COMPLETIONS, PROMPTS, as_json, is_filled
from tokpack.stages.normalize.layouts.commands import ROWS
from tokpack.stages.normalize.layouts.exams import find_exam
from tokpack.stages.normalize.layouts.layouts import Layout, Rows, first_value
from tokpack.stages.normalize.layouts.readings import READINGS, find_lists_of_questions
from tokpack.stages.normalize.layouts.spans import OF_FILE

_WHO_IS_WHO = "then --map user=NAME,assistant=NAME says whose answers are trained"
_GROK = "{messages: [.responses[].response | {role: .sender, content: .message}]}"
NLI = (("premise", "hypothesis"), ("sentence1", "sentence2"))
SOURCES = (("source", "target"), ("src", "tgt"), ("source_text", "target_text"))
FILES = ("content", "code")
OF_FILES = {
    *(
        "path",
        "repo_name",
        "repo_path",
        "file_path",
        "filepath",
        "filename",
        "file_name",
        "hexsha",
        "blob_id",
    ),
    *("max_stars_repo_path", "ext"),
}
"""Columns that are told of files of code."""
OF_CODE = re.compile(r"doc(string|umentation)|descri|summar|comment|explan|intent|\bnl\b|commit|diff|tests?$")
"""Columns of what is said about a piece of code, or done to it: with one, the code may be an answer."""
BEFORE = ("prefix", "fim_prefix", "left_context", "prompt")
AFTER = ("suffix", "fim_suffix", "right_context")
MIDDLE = ("middle", "fim_middle", "infill", "canonical_solution", "groundtruth", *COMPLETIONS)


def find_task(rows: Rows) -> Layout | None:
    """The layout of rows that are a task of another kind; None for all others."""
    known = next(
        (layout for layout in (*TASKS, *READINGS, OF_FILE) if layout.fits(rows, _columns(rows))), None
    )
    return known or find_lists_of_questions(rows) or find_exam(rows) or _gap(rows) or _plain(rows)


def _columns(rows: Rows) -> dict[str, None]:
    return dict.fromkeys(column for row in rows for column in row)


def _are_steps(rows: Rows) -> bool:
    steps, labels = (first_value(rows, name) for name in ("completions", "labels"))
    lists = isinstance(steps, list) and isinstance(labels, list) and len(steps) == len(labels)
    return lists and all(isinstance(step, str) for step in steps) and all(_is_verdict(one) for one in labels)


def _is_verdict(label: Any) -> bool:
    return isinstance(label, bool | int | float)


def _are_marked_steps(rows: Rows) -> bool:
    """Math-Shepherd: the label is the input again, with a sign behind each step."""
    asked, label = (first_value(rows, name) for name in ("input", "label"))
    if not (isinstance(asked, str) and isinstance(label, str) and "Step 1" in asked):
        return False
    return asked.split("Step 1")[0] == label.split("Step 1")[0] and label.strip()[-1:] in "+-"


def _are_questions(rows: Rows) -> bool:
    turns = first_value(rows, "turns")
    return isinstance(turns, list) and all(isinstance(turn, str) for turn in turns)


def _is_class(rows: Rows) -> bool:
    label = first_value(rows, "label")
    return isinstance(label, int) or (isinstance(label, str) and len(label.split()) == 1)


def _is_persona(rows: Rows) -> bool:
    return all(isinstance(first_value(rows, name), list) for name in ("personality", "candidates"))


def _holds_files(rows: Rows) -> bool:
    files = as_json(first_value(rows, "files"))
    return isinstance(files, list) and all(
        isinstance(file, Mapping) and isinstance(file.get("content"), str) for file in files
    )


def _sentences(first: str, second: str) -> Layout:
    made = f'{{prompt: "\\(.{first})\\n\\(.{second})", completion: [...][.label]}}'
    return Layout(
        name="sentences with a class",
        needs=(first, second, "label"),
        test=_is_class,
        reason=f"label is a class of {first} and {second}",
        hint=f"--map prompt={first},input={second},completion=label where it is a word; of numbers "
        f"{ROWS.format(made)} writes the words, which stand for ...",
    )


TASKS: tuple[Layout, ...] = (
    Layout(
        name="steps with labels",
        needs=("completions", "labels"),
        test=_are_steps,
        reason="completions are the steps of an answer, and labels say of each whether it is right",
        hint="labels of steps are for process reward models, which tokpack does not train; "
        + ROWS.format('select(.labels | all) | {prompt, completion: (.completions | join("\\n"))}')
        + " keeps the answers whose steps are all right",
    ),
    Layout(
        name="steps with signs",
        needs=("input", "label"),
        test=_are_marked_steps,
        reason="label is input again, with a sign behind each step of the answer",
        hint="labels of steps are for process reward models, which tokpack does not train; --map text=input "
        "trains on question and steps as they stand, wrong ones too",
    ),
    Layout(
        name="rated steps",
        needs=("label.steps", "question"),
        reason="label.steps are the steps of an answer, each with its ratings",
        hint="labels of steps are for process reward models, which tokpack does not train; write the steps "
        'that were chosen as one answer: {"prompt": ..., "completion": ...}',
    ),
    Layout(
        name="questions of a benchmark",
        needs=("turns", "question_id"),
        test=_are_questions,
        reason="turns are what a user says one after another, without answers",
        hint="have a model answer them, and write both as messages; where questions and answers take turns, "
        "--map messages=turns reads them so",
    ),
    Layout(
        name="Persona-Chat",
        needs=("personality", "candidates", "history"),
        test=_is_persona,
        reason="the answer is the last of candidates, and history is what was said before",
        hint=ROWS.format(
            '{system: (.personality | join(" ")), messages: ([.history | to_entries[] '
            '| {role: ["user", "assistant"][.key % 2], content: .value}] '
            '+ [{role: "assistant", content: .candidates[-1]}])}'
        )
        + " writes them as messages",
    ),
    Layout(
        name="COIG exams",
        needs=("textbox_question", "textbox_answer"),
        reason="textbox_answer is the answer, and textbox_answer_analysis explains it",
        hint="--map system=textbox_q_instruction,prompt=textbox_question,"
        "completion=textbox_answer_analysis trains the explanations, completion=textbox_answer the answers; "
        "input=textbox_q_context adds the text that a question is about",
    ),
    *(_sentences(first, second) for first, second in NLI),
    *(
        Layout(
            name="commits",
            needs=("old_contents", "new_contents", said),
            reason=f"new_contents is old_contents after the change that {said} names",
            hint=f"--map prompt=old_contents,input={said},completion=new_contents trains the changed file; "
            "--map text=new_contents packs it as a text",
        )
        for said in ("inst", "subject", "message")
    ),
    Layout(
        name="Grok export",
        needs=("conversations.0.responses.0.response.message",),
        reason="conversations are all chats of an export, each with its responses",
        hint=ROWS.format(".conversations[] | " + _GROK) + " writes a chat a row",
    ),
    Layout(
        name="a chat of Grok's",
        needs=("responses.0.response.message",),
        reason="responses are the turns of a chat, each in a response",
        hint=ROWS.format(_GROK) + " writes them as messages",
    ),
    Layout(
        name="Discord export",
        needs=("messages.0.author.name", "messages.0.timestamp"),
        test=lambda rows: first_value(rows, "messages.0.author.role") is None,
        reason="messages are what people said in a channel, and none of them is an assistant",
        hint=ROWS.format('{messages: [.messages[] | select(.content != "") | {role: .author.name, content}]}')
        + f" writes their names as roles; {_WHO_IS_WHO}",
    ),
    Layout(
        name="Slack export",
        needs=("user", "text", "ts", "type"),
        test=lambda rows: first_value(rows, "type") == "message" and not first_value(rows, "messages"),
        reason="each row is what somebody said in a channel, and none of them is an assistant",
        hint="jq -cs 'map(arrays[], objects) | group_by(.thread_ts // .ts)[] "
        "| {messages: [.[] | {role: .user, content: .text}]}' FILE > rows.jsonl writes a thread a row, its "
        f"speakers as roles; {_WHO_IS_WHO}; --format text trains each message whole",
    ),
    Layout(
        name="Claude Code log",
        needs=("sessionId", "message.role"),
        reason="each row is one step of a session: alone it is no conversation",
        hint="jq -cs '{messages: (reduce (.[] | select(.message.role and (.isSidechain | not)) | .message) "
        "as $m ([]; if $m.id and .[-1].id == $m.id then .[-1].content += $m.content else . + [$m] end))}' "
        "FILE > rows.jsonl writes the messages of a session into one row, without those of its helpers",
    ),
    Layout(
        name="Codex log",
        needs=("payload.type", "timestamp"),
        test=lambda rows: any(row.get("type") == "response_item" for row in rows),
        reason="each row is one step of a session: alone it is no conversation",
        hint="jq -cs '{messages: [.[] | select(.type == \"response_item\") | .payload]}' FILE > rows.jsonl "
        "writes the items of a session into one row",
    ),
    Layout(
        name="Copilot chat",
        needs=("requests.0.message.text", "requests.0.response"),
        reason="requests are what was asked, each with its response",
        hint=ROWS.format(
            '{messages: [.requests[] | {role: "user", content: .message.text}, {role: "assistant", '
            'content: ([.response[] | select(has("kind") | not) | .value] | join(""))}]}'
        )
        + " writes them as messages, without the calls of tools",
    ),
    Layout(
        name="Gemini Takeout",
        needs=("safeHtmlItem.0.html", "title"),
        reason="title says what was asked, and the answer in safeHtmlItem is HTML",
        hint=ROWS.format(
            "select(.safeHtmlItem) "
            '| {prompt: (.title | ltrimstr("Prompted ")), completion: .safeHtmlItem[0].html}'
        )
        + " writes prompts and answers; take the tags out of the latter",
    ),
    *(
        Layout(
            name="answers of a batch",
            needs=("custom_id", answer),
            test=lambda rows: not any(row.get("body") or row.get("params") for row in rows),
            reason=f"{answer} answers a request that another file holds, under the same custom_id",
            hint="jq -c --slurpfile asked REQUESTS '. as $row | ($asked[] | select(.custom_id == "
            f"$row.custom_id).{request}) as $request | {{request: $request, response: $row.{response}}}' "
            "FILE > rows.jsonl joins the two",
        )
        for answer, request, response in (
            ("response.body.choices", "body", "response.body"),
            ("response.body.output", "body", "response.body"),
            ("result.message", "params", "result.message"),
        )
    ),
    Layout(
        name="files of a repository",
        needs=("files",),
        test=_holds_files,
        reason="files are the files of a repository, each with its content",
        hint=ROWS.format(".files[] | {text: .content}")
        + " writes a file a row; "
        + ROWS.format('{text: ([.files[].content] | join("\\n"))}')
        + " all of a repository as one text",
    ),
)


def _gap(rows: Rows) -> Layout | None:
    """Fill in the middle: a text before, one after, and what stands between them."""
    columns = {column.casefold(): column for column in _columns(rows)}
    texts = [name for name in columns if isinstance(first_value(rows, columns[name]), str)]
    found = [next((name for name in names if name in texts), "") for names in (BEFORE, AFTER, MIDDLE)]
    if not all(found):
        return None
    before, after, middle = (columns[name] for name in found)
    marks = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"
    made = "".join(f"{mark}\\(.{name})" for mark, name in zip(marks, (before, after, middle), strict=True))
    return Layout(
        name="fill in the middle",
        reason=f"{middle} fills the gap between {before} and {after}",
        hint=ROWS.format(f'{{text: "{made}"}}')
        + " writes the three with the marks that the model was taught, here those of Qwen's coders; "
        f"--map prompt={before},completion={middle} leaves {after} out",
    )


def _plain(rows: Rows) -> Layout | None:
    """Columns that say all by their names: sources with their targets, files of code."""
    names = {name.casefold() for name in _columns(rows)}
    if names & {*PROMPTS, *CHATS, "text", "chosen", "rejected"}:
        return None
    for source, target in SOURCES:
        if {source, target} <= names and _are_sentences(rows, source) and _are_texts(rows, target):
            fields = {"prompt": source, "completion": target}
            return Layout(name="source and target", format="prompt_completion", fields=fields)
    if not names & OF_FILES or names & set(COMPLETIONS) or any(map(OF_CODE.search, names)):
        return None
    for column in FILES:
        if column in names and _are_texts(rows, column):
            note = f"{column} of each file is trained whole, as a text"
            return Layout(name="files", format="text", fields={"text": column}, note=note)
    return None


def _are_texts(rows: Rows, column: str) -> bool:
    values = [value for row in rows if is_filled(value := row.get(column))]
    return bool(values) and all(isinstance(value, str) for value in values)


def _are_sentences(rows: Rows, column: str) -> bool:
    """Whether a column holds texts of several words, mostly different ones, and no names of sets."""
    texts = [value for row in rows if is_filled(value := row.get(column))]
    said = {text for text in texts if isinstance(text, str) and len(text.split()) > 1}
    return 2 * len(said) > len(texts)

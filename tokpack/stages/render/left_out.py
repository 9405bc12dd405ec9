"""What a template leaves out of a chat: told with counts, or a reason to refuse the chat.

Contents must appear in what is rendered; a message whose text is gone is an error of its document. Calls and
reasoning are what templates leave out by design (Qwen3 drops the reasoning of earlier turns, ChatML knows no
calls): they are counted. A turn that is left with nothing of its message would teach the model to say
nothing, so it is not trained.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from tokpack.stages.render.spans.chat_marks import TAG, Marked, visible_texts
from tokpack.stages.render.spans.own_words import CLOSE, OPEN, TAGS, OwnWords, stands_in
from tokpack.stages.render.template.chat_template import REASONING_KEYS, CharSpan, Message, RenderError
from tokpack.terminal.activity import in_number

LEFT_OUT_CALLS = "tool_calls_not_rendered"
LEFT_OUT_REASONING = "reasoning_not_rendered"
LEFT_OUT_ARGUMENTS = "call_arguments_not_rendered"
TEXT_ARGUMENTS = "call_arguments_no_object"
LEFT_OUT_UNREAD = "reasoning_not_read"
TWO_REASONINGS = "reasoning_rendered_twice"
LEFT_OUT_CONTENT = "contents_beside_calls_not_rendered"
EMPTY_TURNS = "turns_left_empty"
UNCLOSED_TURNS = "turns_not_closed"
TAGS_TWICE = "tool_answers_in_tags"
CALLS_AS_TEXT = "tool_calls_as_text"
UNKNOWN_SEGMENTS = "turns_of_unknown_segments"
TEMPLATE_ARGUMENTS, OVERRULED = "with_template_arguments", "template_arguments_overruled"
WAY_OUT = "--chat-template FILE takes one that writes (it|them)"
LEFT_OUT = {
    LEFT_OUT_CALLS: f"tool call(|s) (is|are) left out by the chat template; {WAY_OUT}",
    LEFT_OUT_ARGUMENTS: f"tool call(|s) (has|have) arguments that the chat template leaves out; {WAY_OUT}",
    TEXT_ARGUMENTS: "tool call(|s) (has|have) no object in JSON as arguments: the chat template writes a "
    "text in quotes",
    LEFT_OUT_REASONING: "turn(|s) (has|have) reasoning that the chat template leaves out",
    LEFT_OUT_UNREAD: "turn(|s) (has|have) reasoning that is not read: it is encrypted, or another is there",
    TWO_REASONINGS: "turn(|s) (has|have) reasoning in a field and in a think block, and the chat template "
    "writes both",
    LEFT_OUT_CONTENT: f"turn(|s) (has|have) a text beside calls that the chat template leaves out; {WAY_OUT}",
    EMPTY_TURNS: "turn(|s) (is|are) left empty by the chat template and (is|are) not trained",
    UNCLOSED_TURNS: "answer(|s) (is|are) not closed by the chat template: nothing trains the model to stop",
    TAGS_TWICE: "answer(|s) of tools (stands|stand) between tags that the chat template writes by itself: "
    "(it is|they are) written once",
    CALLS_AS_TEXT: "answer(|s) (holds|hold) calls as text, as <tool_call> or <functioncall>, and the chat "
    "template writes calls in another form: (it is|they are) trained as (it stands|they stand)",
    UNKNOWN_SEGMENTS: "turn(|s) (is|are) trained whole: --loss-mask cannot tell (its|their) segments apart, "
    "since the chat template writes (its text|their texts) in another form",
    OVERRULED: "document(|s) bring(s|) other arguments of the chat template than --template-kwarg gives, "
    "and (is|are) rendered with (its|their) own",
}
"""Counters in words."""
_PIECES = re.compile(f"({TAG.pattern})")
_EMPTY = re.compile(rf"{OPEN}\s*{CLOSE}")
_HEAD = re.compile(rf"{TAG.pattern}|\S[^\s<]?")
"""With what a text begins: a tag, which templates write by themselves, or two characters."""


def warnings(counters: Mapping[str, int]) -> list[str]:
    """What the template left out of a run's documents, a sentence each."""
    found = ((counters.get(name, 0), words) for name, words in LEFT_OUT.items())
    return [f"{count:,} {in_number(count, words)}" for count, words in found if count]


@dataclass
class Unwritten:
    counts: Counter[str] = field(default_factory=Counter)
    empty: set[int] = field(default_factory=set)
    """Assistant messages of which nothing was written."""
    without_content: set[int] = field(default_factory=set)
    """Those of which calls or reasoning alone were."""


def left_out(
    text: str,
    messages: Sequence[Message],
    marked: Marked,
    extents: Sequence[CharSpan],
    words: OwnWords,
    *,
    wants_objects: bool = False,
) -> Unwritten:
    """Look for every message's data; `extents[i]` is where that of message i may stand. `wants_objects`: what
    the arguments of calls should be.

    Raises RenderError with role and turn where a content is gone that no call stands for.
    """
    found = Unwritten()
    for index, message in enumerate(messages):
        texts, thoughts = visible_texts(message), _reasonings(message)
        answers = message.get("role") == "assistant"
        cut = answers and index not in marked.starts
        parts = _think_block(message) if cut else _taken_away(message, marked, index) if answers else None
        rest = _cut_off(message, marked, index) if answers and parts is None else None
        beheaded = parts is not None or rest is not None or (cut and index in marked.ends)
        if parts is not None:
            texts, thoughts = [parts[1]] if parts[1] else [], _different([*thoughts, *parts[0]])
        elif rest is not None:
            texts = [rest] if rest else []
            found.without_content |= set() if rest else {index}
        shown = index in marked.ends or _begins(text, marked.starts.get(index), texts)
        gone = index in marked.absent or index in marked.starts  # of the latter the end is gone
        found_in = not gone and all(stands_in(part, text) for part in texts)
        written = bool(texts) and (shown or found_in)
        calls = message.get("tool_calls") or []
        if not answers or not (calls or thoughts or beheaded):
            if texts and not written:
                role = message.get("role")
                raise RenderError(f"the template leaves out the content of message {index + 1} ({role})")
            continue
        segment = text[slice(*extents[index])]
        said = texts if written else []
        kept = []
        for thought in thoughts:
            count = words.thoughts(index, thought, extents[index])
            if _is_kept(thought, segment, said) if count is None else count:
                kept.append(thought)
        missing = 0
        if isinstance(calls, list):
            written_calls = partial(words.calls, index, extent=extents[index])
            missing = _missing_calls(calls, segment, [*said, *kept], written_calls)
        found.counts[LEFT_OUT_CALLS] += missing
        if calls and not missing:
            there = [call for call in calls if _has_arguments(call, segment)]
            found.counts[LEFT_OUT_ARGUMENTS] += len(calls) - len(there)
            found.counts[TEXT_ARGUMENTS] += wants_objects and sum(map(_is_text_alone, there))
        found.counts[LEFT_OUT_REASONING] += len(kept) < len(thoughts) or rest is not None
        found.counts[TWO_REASONINGS] += bool(kept) and any(CLOSE in _EMPTY.sub("", part) for part in said)
        kept_call = len(calls) > missing
        if texts and not written:
            if not (kept_call or kept):
                raise RenderError(f"the template leaves out the content of message {index + 1} (assistant)")
            found.counts[LEFT_OUT_CONTENT] += 1
            found.without_content.add(index)
        if not (written or kept_call or kept):
            found.counts[EMPTY_TURNS] += 1
            found.empty.add(index)
    return found


def _begins(text: str, start: int | None, texts: Sequence[str]) -> bool:
    """Whether a content begins there: of one that the template takes away the mark before it may be left."""
    head = _HEAD.match(texts[0].strip()) if texts else None
    return start is not None and (head is None or text.startswith(head.group(), start))


def _reasonings(message: Message) -> list[str]:
    values = (message.get(key) for key in REASONING_KEYS)
    return _different([value for value in values if isinstance(value, str)])


def _different(texts: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(core for text in texts if (core := text.strip())))


def _is_kept(thought: str, segment: str, said: Sequence[str]) -> bool:
    """Whether reasoning is in the text, and not only because the answer repeats it."""
    again = sum(part.count(thought) for part in said)
    return segment.count(thought) > again if again else stands_in(thought, segment)


def _think_block(message: Message) -> tuple[list[str], str] | None:
    """(reasoning, the rest) of a content that begins with a think block, or with several."""
    content = message.get("content")
    if not isinstance(content, str) or CLOSE not in content:
        return None
    block, _, rest = content.rpartition(CLOSE)
    return TAGS.split(block)[::2], rest.strip()


def _taken_away(message: Message, marked: Marked, index: int) -> tuple[list[str], str] | None:
    """(what the template takes from the beginning of a content that it begins to write, the rest): Gemma 4
    looks for its own marks of reasoning there."""
    content, start, end = message.get("content"), marked.starts.get(index), marked.ends.get(index)
    if not isinstance(content, str) or start is None or end is None:
        return None
    core, kept = content.strip(), marked.text[start:end].strip()
    if len(kept) >= len(core) or not core.endswith(kept):
        return None
    return TAG.split(core[: len(core) - len(kept)]), kept


def _cut_off(message: Message, marked: Marked, index: int) -> str | None:
    """What the template keeps of a content of which it leaves out what stands behind a tag, the end too, as
    Gemma 4 does where its own reasoning has no end; nothing where that is no more than tags."""
    texts, at = visible_texts(message), marked.starts.get(index)
    if len(texts) != 1 or at is None or index in marked.ends:
        return None
    kept, gone = "", False
    for piece in _PIECES.split(texts[0].strip()):
        forms = (piece, piece.strip()) if not (gone and TAG.match(piece)) else ()
        shown = next((form for form in forms if form and marked.text.startswith(form, at)), "")
        kept, at, gone = kept + shown, at + len(shown), gone or (bool(piece.strip()) and not shown)
    return (kept if TAGS.sub("", kept).strip() else "") if gone else None


def _missing_calls(
    calls: Sequence[Any], segment: str, said: Sequence[str], count: Callable[[str], int | None]
) -> int:
    """How many of the calls are not in the text, by the names of their functions outside of what is said."""
    functions = [call.get("function", call) if isinstance(call, Mapping) else {} for call in calls]
    names = Counter(str(function.get("name", "")) for function in functions if isinstance(function, Mapping))
    missing = 0
    for name, wanted in names.items():
        if name:
            found = count(name)
            if found is None:
                found = segment.count(name) - sum(text.count(name) for text in said)
            missing += max(0, wanted - max(0, found))
    return missing


def _has_arguments(call: Any, segment: str) -> bool:
    """Whether the names of a call's arguments are in the text, or what they are where they have none."""
    return all(stands_in(told, segment) for told in _told_of(_arguments(call)))


def _is_text_alone(call: Any) -> bool:
    return isinstance(_arguments(call), str)


def _arguments(call: Any) -> Any:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    return function.get("arguments") if isinstance(function, Mapping) else None


def _told_of(arguments: Any) -> list[str]:
    if isinstance(arguments, Mapping):
        return list(map(str, arguments))
    if isinstance(arguments, list):
        return [told for item in arguments for told in _told_of(item)]
    plain = isinstance(arguments, str | int | float) and not isinstance(arguments, bool)
    return [str(arguments)] if plain and str(arguments).strip() != "{}" else []

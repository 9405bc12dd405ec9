"""In which form a template wants what data sets write in several: found out once, by short probe chats.

                      forms                                     a template that takes one of them only
    content           a text, a list of parts                   SmolVLM reads parts, Llama 3 reads texts
    parts of a text   each, all joined                          Gemma 4 strips each, Gemma 3 reads the first
    no content        left out, "", null                        DeepSeek-V3 fails without the key
a tool's data     JSON in a text, an object               Llama 3.1 writes texts in quotes
    call arguments    an object, a JSON text                    GLM asks for .items(), DeepSeek-V3 adds texts
    tools             in {"type", "function"}, bare             gpt-oss reads tool.function

What a template renders well in the form that the data has is left in that form, so that the text stays what
`apply_chat_template` makes of the row.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any, Literal

from tokpack.settings.config import ToolArguments
from tokpack.stages.messages import is_data
from tokpack.stages.normalize.chats.blocks import is_object
from tokpack.stages.render.template.call_ids import short_ids
from tokpack.stages.render.template.chat_template import ChatTemplate, Explicit, Message, RenderError

_WORD, _NAME, _KEY, _VALUE = "zqcontent", "zqname", "zqkey", "zqvalue"
_ID, _LONG_ID = "zqcallnum", "call_zqcallnumberlong"
"""Mistral's templates take ids of nine letters or digits alone."""
_TEXTS = (" zqfirst ", "\n", "zqsecond ", "")
_TOOL_ROLES = ("tool", "ipython", "function")
_ARGUMENTS = {_KEY: _VALUE}
_ANSWER = {"zqfield": "zqanswer"}
_BETWEEN_TAGS = re.compile(rf"<(\w+)>\s*{_WORD}\s*</\1>")
_CALLS = (
    r"<tool_call>\s*\{",  # Hermes, Qwen
    r"<functioncall>\s*\{",  # Glaive
    r"functools\[\s*\{",  # Firefunction, Phi-4
    r"\[TOOL_CALLS\]",  # Mistral
    r"<\|python_tag\|>",  # Llama 3
    r"<function=\w",  # Llama 3.1, Qwen3-Coder
)


class SharedTools(list[Any]):
    """Tools of many rows, which are not changed, and what was made of them."""

    def __init__(self, tools: list[Any]) -> None:
        super().__init__(tools)
        self.written: dict[Any, Any] = {}
        """By what they were made for."""


class Forms:
    """Hands messages to one template in the form that it wants. Safe to share between threads."""

    def __init__(self, template: ChatTemplate, tool_arguments: ToolArguments = "auto") -> None:
        self._template, self._tool_arguments = template, tool_arguments
        self._roles: dict[str, str | None] = {}
        self._part_roles: dict[str, bool] = {}

    def give(self, messages: Sequence[Message]) -> list[Message]:
        """The messages as the template wants them."""
        if any(map(_has_ids, messages)) and self._wants_short_ids:
            messages = short_ids(messages, _TOOL_ROLES)
        return [message if self._stays(message) else self._message(message) for message in messages]

    def give_tools(self, tools: Any) -> Any:
        """The tools as the template wants them: bare ones wrapped where it would not write them."""
        if not isinstance(tools, SharedTools):
            return self._wrap(tools)
        if self not in tools.written:
            given = self._wrap(tools)
            tools.written[self] = tools if given is tools else SharedTools(given)
        return tools.written[self]

    def _wrap(self, tools: Any) -> Any:
        bare = isinstance(tools, list) and any(map(_is_bare, tools))
        if not bare or not self._wraps_tools:
            return tools
        return [_wrapped(tool) if _is_bare(tool) else tool for tool in tools]

    @cached_property
    def _wraps_tools(self) -> bool:
        tool = {"name": _NAME, "description": _WORD, "parameters": {"type": "object", "properties": {}}}
        chat = _chat_with("user", "q", None)
        return _NAME in self._render(chat, tools=[_wrapped(tool)]) and _NAME not in self._render(
            chat, tools=[tool]
        )

    @cached_property
    def _wants_short_ids(self) -> bool:
        """Whether it fails of an id as OpenAI's, and not of one of nine letters."""
        call = {"role": "assistant", "tool_calls": [_call({}, _LONG_ID)]}
        return not any(map(self._render, _with_and_without(call, _LONG_ID))) and any(
            map(self._render, _with_and_without({**call, "tool_calls": [_call({})]}, _ID))
        )

    @cached_property
    def answer_tag(self) -> str:
        """The tag between whose halves the template writes what a tool answers; empty where there is none."""
        text = self._render(_chat_with("tool", _WORD, self._call(_call(_ARGUMENTS))))
        found = _BETWEEN_TAGS.search(text)
        return found[1] if found else ""

    @cached_property
    def other_calls(self) -> tuple[str, ...]:
        """Patterns of how calls begin that other templates write as text, and this one does not."""
        written = self._with_arguments(_ARGUMENTS)
        return tuple(pattern for pattern in _CALLS if not re.search(pattern, written))

    def takes_texts(self, role: str) -> bool:
        """Whether a message of a role and a content that is a text stays as it is."""
        return self._content_form(role) != "parts"

    def _stays(self, message: Message) -> bool:
        """A message of a role and a content that the template takes as it is, as most are."""
        return (
            len(message) == 2
            and type(message.get("content")) is str
            and self._roles.get(str(message.get("role")), "parts") != "parts"
        )

    def _message(self, message: Message) -> Message:
        calls = message.get("tool_calls")
        if isinstance(calls, list) and calls:
            message = {**message, "tool_calls": [self._call(call) for call in calls]}
        content = message.get("content")
        if content is None and calls:
            message = self._without_content(message)
            content = message.get("content")
        elif content is None and message.get("role") in _TOOL_ROLES:
            message, content = {**message, "content": ""}, ""  # templates write None, or fail
        if content is None:
            return message
        if message.get("role") in _TOOL_ROLES and is_data(content):
            if self._quotes_answers:
                return message
            content = json.dumps(content, ensure_ascii=False)
            message = {**message, "content": content}
        wanted = self._content_form(str(message.get("role")))
        if wanted == "parts" and isinstance(content, str):
            return {**message, "content": [{"type": "text", "text": content}]}
        text = _joined(content) if isinstance(content, list) else None
        if text is None or self.reads_parts(str(message.get("role"))):
            return message
        return {**message, "content": [{"type": "text", "text": text}] if wanted == "parts" else text}

    def reads_parts(self, role: str) -> bool:
        """Whether text parts of a content are written otherwise than the parts joined, and none is lost."""
        if role not in self._part_roles:
            text, whole = self._in_both_forms(role, _TEXTS)
            differ = text != whole
            if role == "assistant" and not differ:  # templates ask whether there is a content beside a call
                alone, none = self._in_both_forms(
                    role, ("",), {"tool_calls": [self._call(_call(_ARGUMENTS))]}
                )
                differ = alone != none and _NAME in alone
            self._part_roles[role] = differ and all(part.strip() in text for part in _TEXTS)
        return self._part_roles[role]

    def _in_both_forms(
        self, role: str, texts: Sequence[str], more: Message = MappingProxyType({})
    ) -> list[str]:
        """What is written of a message of these text parts, and of one of the parts joined."""
        parts = [{"type": "text", "text": text} for text in texts]
        whole: Any = "".join(texts)
        if self._content_form(role) == "parts":
            whole = [{"type": "text", "text": whole}]
        chats = [_chat_with(role, form, self._call(_call(_ARGUMENTS))) for form in (parts, whole)]
        given = [[{**m, **more} if m["role"] == role else m for m in chat] for chat in chats]
        return [self._render(chat, ("[", "{")) for chat in given]

    def _content_form(self, role: str) -> str | None:
        """`text` or `parts` where the template takes that alone; None where it takes both, or neither."""
        if role not in self._roles:
            call = self._call(_call(_ARGUMENTS))
            forms = (_WORD, [{"type": "text", "text": _WORD}])
            text, parts = (_WORD in self._render(_chat_with(role, form, call), ("[", "{")) for form in forms)
            self._roles[role] = None if text == parts else "text" if text else "parts"
        return self._roles[role]

    @cached_property
    def _quotes_answers(self) -> bool:
        """It writes a tool's text as JSON does, in quotes, and what is no text as JSON without them."""
        call, raw = self._call(_call(_ARGUMENTS)), json.dumps(_ANSWER)
        text, data = (self._render(_chat_with("tool", form, call)) for form in (raw, _ANSWER))
        return raw not in text and raw in data

    def _without_content(self, message: Message) -> Message:
        match self._no_content:
            case "missing":
                return message
            case "null":
                return Explicit({k: v for k, v in message.items() if v is not None}, content=None)
            case _:
                return {**message, "content": ""}

    @cached_property
    def _no_content(self) -> str:
        """How to say that a message with calls has no content, so that the call is written, and no `None`."""
        call = self._call(_call(_ARGUMENTS))
        answer = {"role": "assistant", "tool_calls": [call]}
        forms: dict[str, Message] = {
            "missing": answer,
            "empty": {**answer, "content": ""},
            "null": Explicit(answer, content=None),
        }
        chats = {form: tool_chat(message) for form, message in forms.items()}
        texts = {form: self._render(chat) for form, chat in chats.items()}
        if not any(texts.values()):  # a template that takes no answers of tools
            texts = {form: self._render(chat[:2]) for form, chat in chats.items()}
        fewest = min(map(_nulls, filter(None, texts.values())), default=0)
        plain = {form: text for form, text in texts.items() if text and _nulls(text) == fewest}
        shown = [form for form, text in plain.items() if _NAME in text]
        return next(iter([*shown, *plain, *(form for form, text in texts.items() if text), "missing"]))

    def _call(self, call: Any) -> Any:
        function: Any = call.get("function", call) if is_object(call) else None
        if not is_object(function) or "arguments" not in function:
            return call
        arguments = self._arguments(function["arguments"])
        if arguments is function["arguments"]:
            return call
        changed = {**function, "arguments": arguments}
        return {**call, "function": changed} if "function" in call else changed

    def _arguments(self, arguments: Any) -> Any:
        given = "string" if isinstance(arguments, str) else "object"
        wanted = self._tool_arguments
        if wanted == "auto":
            fitting = self._argument_forms
            wanted = "as-is" if given in fitting or not fitting else fitting[0]
        if wanted in ("as-is", given) or arguments is None:
            return arguments
        if wanted == "string":
            return json.dumps(arguments, ensure_ascii=False)
        try:
            value = json.loads(arguments) if arguments.strip() else {}
        except ValueError:
            return arguments
        return value if isinstance(value, dict) else arguments

    @property
    def wants_objects(self) -> bool:
        """Whether arguments of calls are to be objects, and texts are written in quotes."""
        return self._tool_arguments in ("object", "auto") and self._argument_forms == ("object",)

    @cached_property
    def _argument_forms(self) -> tuple[Literal["object", "string"], ...]:
        """The forms that the template writes well, the better one first.

        A text is written well if it comes out as an object would, or as it is where objects cannot be.
        """
        raw = json.dumps(_ARGUMENTS)
        text_of = {
            form: self._with_arguments(value) for form, value in (("object", _ARGUMENTS), ("string", raw))
        }
        as_object, as_string = text_of["object"], text_of["string"]
        written = _KEY in as_object and _VALUE in as_object and f"{{'{_KEY}'" not in as_object
        if not written:
            return ("string",) if raw in as_string else ()
        return ("object", "string") if as_string == as_object else ("object",)

    def _with_arguments(self, arguments: Any) -> str:
        calls = {"role": "assistant", "tool_calls": [_call(arguments)]}
        tried = (calls, {**calls, "content": ""}, Explicit(calls, content=None))
        texts = [self._render(tool_chat(message)) for message in tried]
        return next((text for text in texts if _NAME in text), "")

    def _render(self, messages: list[Message], tells: tuple[str, ...] = (), tools: Any = None) -> str:
        """Empty where the template fails, or writes a value as Python or JSON do (`tells` before a key)."""
        for chat in (messages, _in_parts(messages)):
            try:
                text, _ = self._template.render(chat, tools)
            except RenderError:
                continue
            if not any(f"{tell}{quote}type{quote}" in text for tell in tells for quote in "'\""):
                return text
            return ""
        return ""


def _chat_with(role: str, content: Any, call: Any) -> list[Message]:
    """A chat with a message of the role that holds the content; the others are texts."""
    user, answer = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    message = {"role": role, "content": content}
    if role == "assistant":
        return [user, message]
    if role == "user":
        return [message, answer]
    if role in _TOOL_ROLES:
        called = {"role": "assistant", "content": "", "tool_calls": [call]}
        return [user, called, {**message, "tool_call_id": _ID}]
    return [message, user, answer]


def _has_ids(message: Message) -> bool:
    return bool(message.get("tool_calls")) or message.get("role") in _TOOL_ROLES


def _with_and_without(call: Message, name: str) -> list[list[Message]]:
    """Chats with the call, with an empty content and without one."""
    return [tool_chat(message, name) for message in (call, {**call, "content": ""})]


def tool_chat(call: Message | None = None, name: str = _ID) -> list[Message]:
    """A question, a call, the tool's answer, under the `name` of the call, and the model's."""
    if call is None:
        call = {"role": "assistant", "content": "", "tool_calls": [_call(_ARGUMENTS)]}
    answer = {"role": "tool", "name": _NAME[:2], "tool_call_id": name, "content": "r"}
    return [{"role": "user", "content": "q"}, call, answer, {"role": "assistant", "content": "a"}]


def _call(arguments: Any, name: str = _ID) -> dict[str, Any]:
    return {"id": name, "type": "function", "function": {"name": _NAME, "arguments": arguments}}


def _is_bare(tool: Any) -> bool:
    """A tool that is its function itself."""
    return isinstance(tool, Mapping) and isinstance(tool.get("name"), str) and "function" not in tool


def _wrapped(tool: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "function", "function": {k: v for k, v in tool.items() if k != "type"}}


def _in_parts(messages: list[Message]) -> list[Message]:
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message.get("content"), str) and message["content"] != _WORD
        else message
        for message in messages
    ]


def _joined(content: Any) -> str | None:
    """The text of content parts; None for what is no list of texts alone."""
    if not isinstance(content, list) or not content:
        return None
    plain = all(not isinstance(part, Mapping) or part.get("type", "text") == "text" for part in content)
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
    written = [text for text in texts if isinstance(text, str)]
    return "".join(written) if plain and len(written) == len(texts) else None


def _nulls(text: str) -> int:
    return text.count("None") + text.count("null")

"""Chats as ChatGPT, DeepSeek and Claude export them -> messages with role and content.

    {"author": {"role": "user"}, "content": {"content_type": "text", "parts": ["Hi"]}}
    {"content_type": "thoughts", "thoughts": [{"content": "A greeting."}]}     a content that is reasoning
    {"mapping": {"n1": {"message": {...}, "parent": null, "children": [...]}}, "current_node": "n3"}

    {"fragments": [{"type": "THINK", "content": "Hm."}, {"type": "RESPONSE", "content": "Hi"}]}    DeepSeek
    {"sender": "human", "text": "See.", "attachments": [{"file_name": "a.txt", "extracted_content": "..."}]}

What a user told the model of himself becomes a system message. Of a tree the branch that was shown is taken.
The text of an attachment follows its message. What is no text, as an image, a file or a call
of `python`, becomes a part that is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tokpack.stages.normalize.chats.channels import channels_as_messages
from tokpack.stages.normalize.chats.reasoning import text_of
from tokpack.stages.normalize.fields import value_at

AUTHOR, CONTENT_TYPE, MAPPING, CURRENT = "author", "content_type", "mapping", "current_node"
_READ = ("text", "multimodal_text", "code", "execution_output")
_THOUGHTS, _LEFT_OUT = "thoughts", ("reasoning_recap",)
_TOLD = ("user_editable_context", "model_editable_context")
"""Types of contents in which the service puts what is true of all chats of a user."""
_ATTACHED = ("attachments", "files")
"""Keys of a message of Claude's under which things stand that came with it."""
FRAGMENTS = "fragments"
_KEPT = ("channel", "recipient", "weight", "tool_calls", "tool_call_id")


def is_exported(messages: list[Any]) -> bool:
    """Whether any message names its author, or the type of its content, in an object."""
    return any(map(_is_exported, messages))


def exported_as_messages(messages: list[Any]) -> list[Any]:
    """Messages with role and content; those that say nothing, as an empty system message, are left out."""
    return channels_as_messages([plain for message in messages for plain in _plain(message)])


def is_tree(mapping: Any) -> bool:
    """Whether it is an object of nodes that hold exported messages, or none, and name each other."""
    if not isinstance(mapping, Mapping):
        return False
    nodes = [node for node in mapping.values() if node is not None]
    named = all(isinstance(node, Mapping) and node.keys() & {"parent", "children"} for node in nodes)
    return named and is_exported([node.get("message") for node in nodes])


def shown_branch(mapping: Mapping[str, Any], current: Any) -> list[Any]:
    """The messages from the root to the node that was shown last, or to the end of the newest branches."""
    nodes = {name: node for name, node in mapping.items() if isinstance(node, Mapping)}
    if current not in nodes:
        current = next((name for name, node in nodes.items() if node.get("parent") not in nodes), None)
        seen: set[Any] = set()
        while current not in seen and (children := _children(nodes, current)):
            seen.add(current)
            current = children[-1]
    branch: list[Any] = []
    passed: set[Any] = set()
    while current in nodes and current not in passed:
        passed.add(current)
        branch.append(nodes[current].get("message"))
        current = nodes[current].get("parent")
    return [message for message in reversed(branch) if message is not None]


def _children(nodes: Mapping[str, Any], name: Any) -> list[Any]:
    return [child for child in nodes[name].get("children") or [] if child in nodes] if name in nodes else []


def _is_exported(message: Any) -> bool:
    if not isinstance(message, Mapping):
        return False
    author, content = message.get(AUTHOR), message.get("content")
    named = isinstance(author, Mapping) and author.get("role") is not None
    return named or _is_typed(content) or isinstance(message.get(FRAGMENTS), list)


def _is_typed(content: Any) -> bool:
    return isinstance(content, Mapping) and (
        CONTENT_TYPE in content or isinstance(content.get("parts"), list)
    )


def _plain(message: Any) -> Iterator[Any]:
    if not _is_exported(message):
        yield message
        return
    if isinstance(fragments := message.get(FRAGMENTS), list):
        yield from _of_fragments(fragments, bool(message.get("files")))
        return
    author: Any = message.get(AUTHOR)
    author = author if isinstance(author, Mapping) else {"role": message.get("role", author)}
    role, content = author.get("role"), message.get("content")
    plain = {key: message[key] for key in _KEPT if message.get(key) is not None}
    if role == "tool" and author.get("name"):
        plain["name"] = author["name"]
    if isinstance(content, Mapping) and _is_typed(content):
        kind = content.get(CONTENT_TYPE, "text")
        if kind in _LEFT_OUT:
            return
        role = "system" if kind in _TOLD else role
        plain |= {"channel": "analysis"} if kind == _THOUGHTS else {}
        content = _content(content, kind)
    if content in ("", None, []) and role == "system":
        return
    if value_at(message, "metadata.attachments"):
        content = [content, {"type": "file"}]
    yield {**plain, "role": role, "content": content}


def _of_fragments(fragments: list[Any], files: bool) -> Iterator[Any]:
    """DeepSeek's parts of a message: a question, reasoning, an answer; others are refused."""
    for part in fragments:
        kind, text = (part.get("type"), part.get("content")) if isinstance(part, Mapping) else (None, None)
        if kind == "REQUEST":
            yield {"role": "user", "content": [text, {"type": "file"}] if files else text}
        elif kind == "THINK":
            yield {"role": "assistant", "channel": "analysis", "content": text}
        else:
            yield {"role": "assistant", "content": text if kind == "RESPONSE" else [{"type": kind}]}


def _content(content: Mapping[str, Any], kind: Any) -> Any:
    if kind == _THOUGHTS:
        return text_of(content.get(_THOUGHTS) or "") or ""
    if kind in _TOLD:
        told = (value for key, value in content.items() if key != CONTENT_TYPE)
        return "\n".join(text for text in told if isinstance(text, str) and text.strip())
    held = [content["text"]] if isinstance(content.get("text"), str) else content.get("parts")
    if kind not in _READ or not isinstance(held, list):
        return [{"type": kind}]
    if all(isinstance(part, str) for part in held):
        return "\n".join(held)
    return [{"type": part.get(CONTENT_TYPE)} if isinstance(part, Mapping) else part for part in held]


def with_attachments(messages: list[Any]) -> list[Any]:
    """Messages of Claude's export with the texts of what was attached to them; others as they are."""
    return [_with_attachments(message) for message in messages]


def _with_attachments(message: Any) -> Any:
    if not isinstance(message, Mapping) or not message.keys() & {*_ATTACHED}:
        return message
    held = [one for key in _ATTACHED for one in message.get(key) or [] if isinstance(one, Mapping)]
    rest = {key: value for key, value in message.items() if key not in _ATTACHED}
    texts = [one.get("extracted_content") for one in held]
    if not held:
        return rest
    parts = rest.get("content")
    parts = (
        list(parts) if isinstance(parts, list) and parts else [{"type": "text", "text": rest.get("text", "")}]
    )
    for one, text in zip(held, texts, strict=True):
        name = one.get("file_name") or "attachment"
        filled = isinstance(text, str) and text.strip()
        parts.append({"type": "text", "text": f"\n\n{name}:\n{text}"} if filled else {"type": "file"})
    return {**rest, "content": parts}

"""Message trees, as oasst has them, to conversations: the best ranked path of each, or every path.

    {"message_id": "a", "parent_id": null, "text": "Hi", "role": "prompter"}
    {"message_id": "b", "parent_id": "a", "text": "Hello.", "role": "assistant", "rank": 0}
    ->  {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}], ...}

Messages of a tree may lie anywhere in the file, so that all of it is held in memory. A path ends on its last
answer. Of every path, an answer that an earlier one has already is not trained again. Deleted
messages, and those whose parent is not there, are left out with all that follows them.
"""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tokpack.frozen import frozen

ROLES = {"prompter": "user", "human": "user", "gpt": "assistant", "bot": "assistant"}
KEPT = ("message_tree_id", "lang")
"""Columns that a conversation keeps, those of its first message."""
Node = Mapping[str, Any]


@frozen
class _Tree:
    roots: list[Node]
    replies: Mapping[str, list[Node]]
    """Id of a message -> its answers, the best first."""

    @staticmethod
    def of(nodes: list[Node]) -> _Tree:
        """Of messages with an id each: a second one of an id is left out, so that no path comes back."""
        by_id: dict[str, Node] = {}
        for node in nodes:
            by_id.setdefault(node["message_id"], node)
        ids = by_id.keys()
        replies: dict[str, list[Node]] = {}
        roots = []
        for node in by_id.values():
            if node.get("parent_id") in ids:
                replies.setdefault(node["parent_id"], []).append(node)
            elif not node.get("parent_id"):
                roots.append(node)
        for answers in replies.values():
            answers.sort(key=lambda node: (_rank(node) is None, _rank(node) or 0))
        return _Tree(roots, replies)

    def paths(self, root: Node, every: bool) -> Iterator[list[Node]]:
        path: list[Node] = []
        waiting = [(0, root)]
        while waiting:
            depth, node = waiting.pop()
            path[depth:] = [node]
            answers = self.replies.get(node["message_id"], [])
            if not answers:
                yield list(path)
            waiting += [(depth + 1, answer) for answer in reversed(answers if every else answers[:1])]


def conversations(rows: Iterable[Any], every: bool) -> Iterator[bytes]:
    """Lines of JSON, a conversation each, in the order of the trees' first messages."""
    tree = _Tree.of([node for row in rows for node in _nodes(row) if _is_whole(node)])
    for root in tree.roots:
        said: set[str] = set()
        for path in tree.paths(root, every):
            while path and _role(path[-1]) != "assistant":
                path.pop()
            if not path or path[-1]["message_id"] in said:
                continue
            messages = [_message(node, node["message_id"] in said) for node in path]
            said |= {node["message_id"] for node in path}
            kept = {name: root[name] for name in KEPT if root.get(name) is not None}
            yield json.dumps({"messages": messages, **kept}, ensure_ascii=False).encode("utf-8", "replace")


def _nodes(row: Any) -> Iterator[Node]:
    """The messages of a row: itself, or those of a tree that is written nested in `replies`."""
    if not isinstance(row, Mapping):
        return
    nested = row.get("prompt")
    if not isinstance(nested, Mapping):
        yield row
        return
    todo: deque[tuple[Any, str | None]] = deque([(nested, None)])
    while todo:
        node, parent = todo.popleft()
        if isinstance(node, Mapping):
            name = str(node.get("message_id") or f"{row.get('message_tree_id')}/{id(node)}")
            yield {**node, "message_id": name, "parent_id": parent}
            replies = node.get("replies")
            todo += [(reply, name) for reply in replies] if isinstance(replies, list) else []


def _is_whole(node: Node) -> bool:
    return (
        isinstance(node.get("text"), str)
        and isinstance(node.get("role"), str)
        and isinstance(node.get("message_id"), str | int)
        and isinstance(node.get("parent_id"), str | float | int | None)
        and str(node.get("deleted") or "").lower() in ("", "0", "false")
    )


def _rank(node: Node) -> float | None:
    """Smaller is better; None for what is no number. CSV holds it as a text."""
    try:
        rank = float(node.get("rank"))  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return None if math.isnan(rank) else rank


def _role(node: Node) -> str:
    return ROLES.get(node["role"], str(node["role"]))


def _message(node: Node, said: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": _role(node), "content": node["text"]}
    return {**message, "train": False} if said and message["role"] == "assistant" else message

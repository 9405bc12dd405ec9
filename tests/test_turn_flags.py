"""A list that says of each message whether it is trained is put into the messages, never passed over."""

from __future__ import annotations

import json

import pytest
from rows_read import CONTAINERS, documents, documents_of_hint, with_jq

from tokpack.errors import UsageError

CHAT = [
    {"role": role, "content": text}
    for role, text in (("user", "Hi"), ("assistant", "Hello."), ("user", "Ducks?"), ("assistant", "Three."))
]
SHAREGPT = [{"from": message["role"], "value": message["content"]} for message in CHAT]


@with_jq
@pytest.mark.parametrize("column", ["messages", "conversations"])
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("loss_mask", [0, 0, 0, 1]),
        ("train", [False, False, False, True]),
        ("weights", None),
        ("masked", [True, True, True, False]),
        ("loss_weight", [1, 0, 1, 1.0]),
    ],
)
def test_flags_of_turns_are_put_into_the_messages(name, flags, column, tmp_path):
    row = {column: CHAT if column == "messages" else SHAREGPT, name: flags or [0, 0, 0, 1]}
    if flags is None:  # a name that nothing knows as one of training
        _, aside, shape = documents(tmp_path, [row])
        assert (aside, set(shape.unread)) == ([], {name})
        return
    [(_, _, extra, _)] = documents_of_hint(tmp_path, [row])
    marked = json.loads(extra)["messages"]
    assert [message.get("train") for message in marked if message] in ([False], [False] * 3)
    assert marked[1] == {"train": False}
    assert "train" not in marked[3]


@pytest.mark.parametrize("container", CONTAINERS)
def test_they_are_refused_in_every_container(container, tmp_path):
    with pytest.raises(UsageError, match="loss_mask says of each message"):
        documents(tmp_path, [{"messages": CHAT, "loss_mask": [0, 0, 0, 1]}] * 2, container)


@pytest.mark.parametrize("flags", [[1], [0, 1, 0], ["a", "b", "c", "d"]], ids=str)
def test_other_lists_are_named(flags, tmp_path):
    _, aside, shape = documents(tmp_path, [{"messages": CHAT, "loss_mask": flags}])
    assert (aside, set(shape.unread)) == ([], {"loss_mask"})

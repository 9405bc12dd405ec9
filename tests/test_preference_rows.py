"""Rows of preference data: every shape gives the same two documents, by columns and row by row."""

from __future__ import annotations

import json

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokpack.settings.config import SourceConfig
from tokpack.stages.normalize import normalize as stage
from tokpack.stages.normalize.layouts.detect import detect_shape
from tokpack.stages.normalize.normalize import normalize
from tokpack.stages.normalize.pair_rows import row_to_pair
from tokpack.stages.normalize.rows import RowError
from tokpack.stages.read.blocks import read_blocks
from tokpack.stages.read.sources import open_sources


def run(tmp_path, rows, **config):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    sources = open_sources((SourceConfig(path=str(path), **config),))
    shape = detect_shape(sources[0])
    parts = [normalize(block, sources[0], shape) for block in read_blocks(sources)]
    return pl.concat([p.documents for p in parts]), [q for p in parts for q in p.quarantined], shape


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [
    ("user", "Hi"),
    ("assistant", "Hello."),
    ("user", "Well?"),
]
MESSAGES = [{"role": role, "content": text} for role, text in TURNS]
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in TURNS]
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: Well?\n\nAssistant: "
SHAPES = {
    "messages": {"prompt": MESSAGES, "chosen": [assistant("Yes.")], "rejected": [assistant("No.")]},
    "single messages": {"prompt": MESSAGES, "chosen": assistant("Yes."), "rejected": assistant("No.")},
    "texts after messages": {"prompt": MESSAGES, "chosen": "Yes.", "rejected": "No."},
    "sharegpt": {
        "conversations": SHAREGPT,
        "chosen": {"from": "gpt", "value": "Yes."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "whole conversations": {
        "chosen": [*MESSAGES, assistant("Yes.")],
        "rejected": [*MESSAGES, assistant("No.")],
    },
    "whole conversations, the prompt again": {
        "prompt": "Hi",
        "chosen": [*MESSAGES, assistant("Yes.")],
        "rejected": [*MESSAGES, assistant("No.")],
    },
    "whole conversations, all of the prompt again": {
        "prompt": MESSAGES,
        "chosen": [*MESSAGES, assistant("Yes.")],
        "rejected": [*MESSAGES, assistant("No.")],
    },
    "messages that end on the chosen answer": {
        "messages": [*MESSAGES, assistant("Yes.")],
        "chosen": "Yes.",
        "rejected": "No.",
    },
    "messages that end on the rejected answer": {
        "messages": [*MESSAGES, assistant("No.")],
        "chosen": [assistant("Yes.")],
        "rejected": [assistant("No.")],
    },
    "a prompt that ends on the chosen answer": {
        "conversations": [*SHAREGPT, {"from": "gpt", "value": "Yes."}],
        "chosen": {"from": "gpt", "value": "Yes."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "conversations after one that ends on the chosen answer": {
        "prompt": [*MESSAGES, assistant("Yes.")],
        "chosen": [*MESSAGES, assistant("Yes.")],
        "rejected": [*MESSAGES, assistant("No.")],
    },
    "hh": {"chosen": f"{HH}Yes.", "rejected": f"{HH}No."},
    "history": {"question": "Well?", "history": [["Hi", "Hello."]], "chosen": "Yes.", "rejected": "No."},
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_recognized_and_gives_the_same_pair(name, tmp_path):
    documents, quarantined, shape = run(tmp_path, [SHAPES[name]])
    assert (shape.format, quarantined) == ("preference", [])
    roles = [role for role, _ in TURNS] + ["assistant"]
    contents = [text for _, text in TURNS]
    assert documents.select("doc_id", "row", "roles", "contents", "extra").rows() == [
        (0, 1, roles, [*contents, "Yes."], None),
        (1, 1, roles, [*contents, "No."], None),
    ]


@pytest.mark.parametrize("name", list(SHAPES)[:6])
def test_usual_shapes_are_read_as_columns(name, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "row_to_pair", lambda row, shape: pytest.fail(f"row by row: {row}"))
    assert len(run(tmp_path, [SHAPES[name]] * 3)[0]) == 6


def test_texts_are_a_prompt_and_a_completion(tmp_path):
    rows = [{"instruction": "Add.", "input": "1 1", "chosen": "2", "rejected": "3", "system": "Be brief."}]
    documents, _, _ = run(tmp_path, rows)
    assert documents["kind"].to_list() == ["prompt_completion"] * 2
    assert documents["contents"].to_list() == [["Be brief.", "Add.\n1 1", a] for a in ("2", "3")]
    mapped, _, _ = run(tmp_path, [{"q": "Add.", "yes": "2", "no": "3"}], map={
        "prompt": "q", "chosen": "yes", "rejected": "no",
    })  # fmt: skip
    assert mapped["contents"].to_list() == [["Add.", "2"], ["Add.", "3"]]


def test_completions_of_several_turns_mark_what_is_prompt(tmp_path):
    good = [assistant("a"), user("b"), assistant("c")]
    documents, _, _ = run(tmp_path, [{"prompt": MESSAGES, "chosen": good, "rejected": [assistant("d")]}])
    marks = [{"train": False}] * len(MESSAGES)
    assert json.loads(documents["extra"][0]) == {"messages": [*marks, {}, {}, {}]}
    assert documents["extra"][1] is None


def test_a_mark_on_one_message_marks_all_of_the_prompt(tmp_path):
    prompt = [user("a"), assistant("b", weight=0), user("c"), assistant("d"), user("e")]
    documents, _, _ = run(tmp_path, [{"prompt": prompt, "chosen": "f", "rejected": "g"}])
    messages = json.loads(documents["extra"][0])["messages"]
    assert [message.get("train") for message in messages] == [False] * 5 + [None]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"chosen": "Yes.", "rejected": "No."}, "there is no prompt: name its column, --map prompt=COLUMN"),
        (
            {"chosen": [user("a"), assistant("b")], "rejected": [user("c"), assistant("d")]},
            "chosen and rejected begin with no common message: there is no prompt",
        ),
        ({"prompt": "a", "chosen": 1, "rejected": "b"}, "chosen is a number, not an answer"),
        ({"prompt": "a", "chosen": "b"}, "rejected is missing, not an answer"),
        ({"prompt": "a", "chosen": [], "rejected": "b"}, "chosen holds no message"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "prompt is a number, not a string"),
    ],
)
def test_rows_that_are_no_pairs_are_quarantined_whole(row, reason, tmp_path):
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    documents, quarantined, _ = run(tmp_path, [good, row, good])
    assert documents["doc_id"].to_list() == [0, 1, 4, 5]
    [entry] = quarantined
    assert (entry.doc_id, entry.row) == (2, 2)
    assert entry.reason.startswith(reason)


def test_a_row_of_messages_beside_a_pair_is_read_as_one_when_forced(tmp_path):
    row = {"messages": [user("a"), assistant("b")], "prompt": "a", "chosen": "b", "rejected": "c"}
    assert run(tmp_path, [row])[2].format == "preference"
    documents, _, shape = run(tmp_path, [row], format="messages")
    assert (shape.format, len(documents)) == ("messages", 1)


text = st.sampled_from(["", "a", "b", "\n\nHuman: a\n\nAssistant: b", "\n\nHuman: a\n\nAssistant: c"])
turn = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", None]), "content": st.one_of(text, st.none())},
    optional={"name": text, "train": st.booleans()},
)
sharegpt = st.fixed_dictionaries({"from": st.sampled_from(["human", "gpt", "function_call"]), "value": text})
turns = st.lists(turn, max_size=3)
question = st.sampled_from([[user("a")], [user("a"), assistant("b"), user("c")], [SYSTEM, user("a")]])
answer = st.sampled_from([[assistant("b")], [assistant("c")], [assistant("a"), user("b"), assistant("c")]])
same_types = st.one_of(
    st.fixed_dictionaries({"chosen": text, "rejected": text}, optional={"prompt": text}),
    st.fixed_dictionaries({"prompt": text, "chosen": turns, "rejected": turns}),
    st.fixed_dictionaries({"prompt": question, "chosen": answer, "rejected": answer}),
    st.fixed_dictionaries({"prompt": question, "chosen": text, "rejected": turn}),
    st.builds(
        lambda q, a, b, more: {"chosen": q + a, "rejected": q + b, **more},
        question,
        answer,
        answer,
        st.fixed_dictionaries({}, optional={"prompt": st.one_of(text, question)}),
    ),
    st.fixed_dictionaries(
        {"conversations": st.lists(sharegpt, max_size=3), "chosen": sharegpt, "rejected": sharegpt}
    ),
)
rows = st.one_of(
    same_types.flatmap(lambda row: st.lists(st.just(row), min_size=1, max_size=2)),
    st.lists(same_types, min_size=1, max_size=6),
    st.lists(
        st.one_of(same_types, st.just({}), st.just({"chosen": None, "rejected": "a"})), min_size=1, max_size=6
    ),
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rows)
def test_columns_and_rows_give_the_same_pairs(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("n")
    documents, quarantined, shape = run(folder, rows, format="preference")
    expected, refused = [], []
    for number, item in enumerate(rows):
        try:
            pair = row_to_pair(item, shape)
            expected += [(2 * number + i, d.kind, d.roles, d.contents, d.extra) for i, d in enumerate(pair)]
        except RowError as error:
            refused.append((2 * number, str(error)))
    assert documents.select("doc_id", "kind", "roles", "contents", "extra").rows() == expected
    assert [(q.doc_id, q.reason) for q in quarantined] == refused


THOUGHT = {"chosen_reasoning": "Be kind.", "rejected_reasoning": "Be rude."}
ASKED = {"prompt": "Hi", "chosen": "Hello.", "rejected": "No."}
THOUGHT_SHAPES = {
    "texts": (ASKED | THOUGHT, {}),
    "the side last": (ASKED | {"thinking_chosen": "Be kind.", "thinking_rejected": "Be rude."}, {}),
    "in capitals": (ASKED | {"chosenThinking": "Be kind.", "rejectedThinking": "Be rude."}, {}),
    "named": (
        ASKED | {"why": "Be kind.", "whynot": "Be rude."},
        {"chosen_reasoning": "why", "rejected_reasoning": "whynot"},
    ),
    "messages": (
        {"prompt": [user("Hi")], "chosen": [assistant("Hello.")], "rejected": assistant("No.")} | THOUGHT,
        {},
    ),
    "conversations": (
        {"chosen": [user("Hi"), assistant("Hello.")], "rejected": [user("Hi"), assistant("No.")]} | THOUGHT,
        {},
    ),
    "one in its message": (
        ASKED | THOUGHT | {"chosen": [assistant("Hello.", reasoning_content="Be kind.")]},
        {},
    ),
}


@pytest.mark.parametrize("name", THOUGHT_SHAPES)
def test_reasoning_in_columns_of_both_answers_is_theirs(name, tmp_path):
    row, named = THOUGHT_SHAPES[name]
    documents, quarantined, shape = run(tmp_path, [row] * 2, **({"map": named} if named else {}))
    extras = [json.loads(extra)["messages"] for extra in documents["extra"]]
    assert extras == [[{}, {"reasoning_content": text}] for text in THOUGHT.values()] * 2
    assert (quarantined, shape.unread) == ([], {})


def test_reasoning_of_one_answer_alone_may_be_a_judges_and_a_row_may_lack_it(tmp_path):
    documents, _, shape = run(tmp_path, [ASKED | {"chosen_reasoning": "It is kinder."}])
    assert documents["extra"].to_list() == [None, None]
    assert [*shape.unread] == ["chosen_reasoning"]
    rows = [ASKED | THOUGHT, ASKED | THOUGHT | {"rejected_reasoning": None}]
    documents, _, shape = run(tmp_path, rows)
    assert [extra is None for extra in documents["extra"]] == [False, False, False, True]

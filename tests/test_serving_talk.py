"""`tokpack chat`: turns, commands, and answers that end early."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

pytest.importorskip("peft")
pytest.importorskip("starlette", reason="no starlette: pip install 'tokpack[serve]'")
sys.path.insert(0, str(Path(__file__).parent))

from commands import run
from served import save_place

from trainer_plugin.serving.talk import converse, open_talk


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    return save_place(tmp_path_factory.mktemp("talk"))


@pytest.fixture(scope="module")
def talk(place):
    made = open_talk(
        str(place / "math"), dtype="float32", context=120, temperature=0.0, max_tokens=10, top_p=1.0
    )
    yield made
    made.engine.close()


def talked(talk, text):
    talk.turns = []
    out, notes = io.StringIO(), []
    good = converse(talk, io.StringIO(text), out, notes.append)
    return good, out.getvalue().splitlines(), notes


def test_turns_are_answered_with_what_was_said_before(talk):
    good, first, _ = talked(talk, "w9 w8\nw7 w6\n")
    assert good
    assert len(first) == 2
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant", "user", "assistant"]
    assert talk.turns[1]["content"] == first[0]
    _, second, notes = talked(talk, "w9 w8\n\n/reset\nw7 w6\n/quit\nw5\n")
    assert second[0] == first[0]
    assert second[1] != first[1]  # without the first turn before it
    assert len(second) == 2
    assert notes == ["a new conversation"]


def test_the_base_can_be_asked_beside_the_adapter(talk):
    _, answers, notes = talked(talk, "w9 w8\n/reset\n/base\nw9 w8\n/reset\n/adapter\nw9 w8\n/what\n")
    assert answers[0] == answers[2] != answers[1]
    assert "math answers" in notes
    assert notes[-1].startswith("/reset begins anew")


def test_a_conversation_that_is_too_long_says_so_and_goes_on_after_reset(talk):
    long = " ".join(["w5"] * 130)
    good, answers, notes = talked(talk, f"{long}\n/reset\nw9\n")
    assert not good
    assert "more than the 120" in notes[0]
    assert answers[1]


def test_an_answer_that_is_broken_off_stays_as_far_as_it_came(talk):
    talk.turns = []
    pieces = talk.say("w9 w8")
    first = next(pieces)
    pieces.close()
    assert talk.turns[1] == {"role": "assistant", "content": first}
    while talk.engine.load_now().running:
        pass


def test_an_interrupt_breaks_off_the_answer_and_the_conversation_goes_on(talk, monkeypatch):
    survived = []
    monkeypatch.setattr("tokpack.terminal.interrupts.survive", lambda: survived.append(True))
    say, stops = type(talk).say, [KeyboardInterrupt]

    def broken(self, text):
        yield from say(self, text)
        if stops:
            raise stops.pop()

    monkeypatch.setattr(type(talk), "say", broken)
    good, answers, notes = talked(talk, "w9 w8\nw7\n")
    assert good
    assert notes == ["broken off; /quit ends"]
    assert len(answers) == 2
    assert survived == [True]


def test_the_command_answers_a_pipe_on_stdout_alone(place, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("w9 w8\nw7\n"))
    ended = run("chat", place / "math", "--temperature", "0", "--max-tokens", "4", "--dtype", "float32", "-q")
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 2

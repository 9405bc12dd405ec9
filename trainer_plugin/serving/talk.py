"""`tokpack chat`: talk to an adapter in the terminal, or through a pipe, a line a turn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import Any, TextIO

from tokpack.errors import UsageError
from tokpack.terminal import interrupts
from tokpack.terminal.activity import Activity
from tokpack.terminal.printable import printable
from trainer_plugin.adapters.loaded import BaseWeights
from trainer_plugin.serving.engine import Engine
from trainer_plugin.serving.errors import ApiError
from trainer_plugin.serving.prompts import Prompts
from trainer_plugin.serving.run import load_served
from trainer_plugin.serving.values import Delta, End, Event, Job, Limits

HELP = "/reset begins anew, /base asks the base without the adapter, /adapter asks the adapter, /quit ends"


@dataclass(kw_only=True, slots=True)
class Talk:
    """A conversation with one model. `adapter` None: the base."""

    engine: Engine
    adapter: str | None
    system: str | None = None
    max_tokens: int = 512
    temperature: float = 0.7
    top_p: float = 0.95
    seed: int | None = None
    turns: list[dict[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> Iterator[str]:
        """The answer in pieces. An answer that is broken off stays in the conversation as far as it came.

        Raises ApiError for what the chat template refuses, or what is too long; nothing is kept of it then.
        """
        turns = [*self.turns, {"role": "user", "content": text}]
        system = [{"role": "system", "content": self.system}] if self.system else []
        prompts = Prompts(self.engine.loaded, self.engine.limits.context)
        known = self.engine.adapters.get(self.adapter) if self.adapter is not None else None
        tokens = prompts.of_messages([*system, *turns], {}, known)
        most = min(self.max_tokens, prompts.room(tokens, None, None, "messages"))
        options: dict[str, Any] = {"temperature": self.temperature, "top_p": self.top_p, "seed": self.seed}
        job = Job(prompt=tokens, max_tokens=most, adapter=self.adapter, **options)
        answer: list[str] = []
        try:
            for piece in self._pieces(job):
                answer.append(piece)
                yield piece
        finally:
            self.turns = [*turns, {"role": "assistant", "content": "".join(answer)}]

    def _pieces(self, job: Job) -> Iterator[str]:
        events: SimpleQueue[Event] = SimpleQueue()
        tickets = self.engine.submit([job], lambda _, what: events.put(what))
        try:
            while not isinstance(what := events.get(), End):
                if isinstance(what, Delta) and what.text:
                    yield what.text
            if what.reason == "error":
                raise ApiError("the model failed on this turn", 500)
        finally:
            self.engine.cancel(tickets)


def open_talk(
    adapter: str,
    base: str | None = None,
    *,
    context: int = 4096,
    base_weights: BaseWeights = "auto",
    dtype: str = "auto",
    tell: Activity | None = None,
    **options: Any,
) -> Talk:
    """Load the adapter on its base. Raises UsageError where there is none, or no chat template."""
    from trainer_plugin.checkpoints.adapter_folder import base_name, read_adapter
    from trainer_plugin.serving.prompts import own_template

    read = read_adapter(adapter)
    limits = Limits(rows=1, context=context, slots=context)
    loaded, limits = load_served(
        base_name(base, [read]), [adapter], limits=limits, dtype=dtype, base_weights=base_weights, tell=tell
    )
    if not (own_template(read) or loaded.tokenizer.chat_template):
        raise UsageError(
            "neither the adapter nor its base has a chat template",
            where=str(read.folder),
            hint="serve it and ask /v1/completions: `tokpack serve`",
        )
    return Talk(engine=Engine(loaded, limits).start(), adapter=read.name, **options)


def converse(
    talk: Talk, lines: TextIO = sys.stdin, out: TextIO = sys.stdout, note: Callable[[str], None] | None = None
) -> bool:
    """A turn for each line, until the lines end or /quit. Returns whether every turn was answered."""
    note, name, good = note or (lambda _: None), talk.adapter, True
    while (line := _next_line(lines, note)) is not None:
        if not (text := line.strip()):
            continue
        if text == "/quit":
            break
        if text.startswith("/"):
            _obey(talk, text, name, note)
            continue
        try:
            for piece in talk.say(text):
                out.write(printable(piece))
                out.flush()
        except ApiError as error:
            note(f"error: {error.message}")
            good = False
        except KeyboardInterrupt:
            interrupts.survive()
            note("broken off; /quit ends")
        out.write("\n")
        out.flush()
    return good


def _next_line(lines: TextIO, note: Callable[[str], None]) -> str | None:
    """None at the end, which is Ctrl-D on a terminal."""
    if not lines.isatty():
        return lines.readline() or None
    try:
        return input("> ")
    except EOFError:
        note("")
        return None


def _obey(talk: Talk, text: str, name: str | None, note: Callable[[str], None]) -> None:
    if text == "/reset":
        talk.turns = []
        note("a new conversation")
    elif text == "/base":
        talk.adapter = None
        note("the base answers")
    elif text == "/adapter":
        talk.adapter = name
        note(f"{name} answers")
    else:
        note(HELP)

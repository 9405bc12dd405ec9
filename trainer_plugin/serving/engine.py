"""One thread that owns the model: requests wait in a bounded queue, join the rows in work, and leave.

Each round: adapters come and go, canceled rows leave, rows join while there is room, every lane makes a
step. First come, first served: a request that does not fit yet holds up those behind it, so none starves.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any

from tokpack.errors import UsageError
from trainer_plugin.adapters.loaded import AdaptedModel
from trainer_plugin.checkpoints.adapter_folder import Adapter
from trainer_plugin.serving.batch import Lane, Row
from trainer_plugin.serving.values import MIXED, Delta, End, Event, Job, Limits, Load, Prompt, Score

log = logging.getLogger("tokpack.serve")

ALONE = ("use_dora", "target_parameters", "modules_to_save", "trainable_token_indices")
"""Settings of adapters that PEFT does not mix: DoRA, and weights beside LoRA's."""


class QueueFullError(Exception):
    """There are too many requests already."""


class UnknownModelError(Exception):
    """No adapter of this name."""


class Ticket:
    """A request in the engine. `emit` is called from the engine's thread."""

    def __init__(self, job: Job, emit: Callable[[Event], None]) -> None:
        self.job, self.emit = job, emit
        self.canceled = False
        self.row: Row | None = None


class Engine:
    """Answers jobs on a loaded model. Methods may be called from any thread."""

    def __init__(self, loaded: AdaptedModel, limits: Limits | None = None) -> None:
        self.loaded, self.limits = loaded, limits or Limits()
        self.end_tokens = end_tokens(loaded)
        self.adapters = dict(loaded.adapters)
        """Those that may be asked for; one that is on its way out is no longer here."""
        for adapter in loaded.adapters.values():
            check_servable(adapter)
        self._lanes: dict[str, Lane] = {}
        self._tickets: dict[Row, Ticket] = {}
        self._waiting: deque[Ticket] = deque()
        self._changes: deque[tuple[str, Any, Future[None]]] = deque()
        self._wake, self._closed, self._steps = Condition(), False, 0
        self._thread = Thread(target=self._run, name="tokpack-engine", daemon=True)

    def start(self) -> Engine:
        self._thread.start()
        return self

    def close(self) -> None:
        """End the thread after its present step; what is in work ends with an error."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        self._thread.join()

    def submit(self, jobs: Sequence[Job], emit: Callable[[int, Event], None]) -> list[Ticket]:
        """Take all of these, or none. `emit` gets the number of the job and what happens to it.

        Raises QueueFullError, UnknownModelError.
        """
        with self._wake:
            for job in jobs:
                if job.adapter is not None and job.adapter not in self.adapters:
                    raise UnknownModelError(job.adapter)
            room = self.limits.queue + self.limits.rows - len(self._tickets)
            if len(self._waiting) + len(jobs) > room or self._closed:
                raise QueueFullError
            tickets = [Ticket(job, _numbered(emit, number)) for number, job in enumerate(jobs)]
            self._waiting += tickets
            self._wake.notify()
        return tickets

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Nobody waits for these any more: they leave before the next step."""
        with self._wake:
            for ticket in tickets:
                ticket.canceled = True
            self._wake.notify()

    def load(self, adapter: Adapter) -> Future[None]:
        """Put an adapter beside the others between two steps."""
        check_servable(adapter)
        return self._change("load", adapter)

    def unload(self, name: str) -> Future[None]:
        """Take no more requests for an adapter, and drop it when the last one has ended."""
        with self._wake:
            if name not in self.adapters:
                raise UnknownModelError(name)
            del self.adapters[name]
        return self._change("unload", name)

    def _change(self, what: str, value: Any) -> Future[None]:
        done: Future[None] = Future()
        with self._wake:
            self._changes.append((what, value, done))
            self._wake.notify()
        return done

    def load_now(self) -> Load:
        """How much there is to do."""
        with self._wake:
            lanes = {key: len(lane.rows) for key, lane in list(self._lanes.items())}
            return Load(len(self._tickets), len(self._waiting), self._steps, lanes)

    # The thread

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(self._has_work)
                if self._closed:
                    break
                self._waiting = deque(ticket for ticket in self._waiting if not ticket.canceled)
                changes = [self._changes.popleft() for _ in range(len(self._changes))]
            for change in changes:
                self._apply(*change)
            for lane in self._lanes.values():
                lane.keep([row for row in lane.rows if not self._canceled(row)])
            self._step()
            self._admit()
        for ticket in [*self._tickets.values(), *self._waiting]:
            ticket.emit(End("error"))

    def _has_work(self) -> bool:
        return bool(self._closed or self._changes or self._waiting or self._tickets)

    def _canceled(self, row: Row) -> bool:
        if gone := self._tickets[row].canceled:
            with self._wake:
                del self._tickets[row]
        return gone

    def _apply(self, what: str, value: Any, done: Future[None]) -> None:
        try:
            if what == "load":
                self.loaded.load(value)
                with self._wake:
                    self.adapters[value.name] = value
            elif self._in_use(value):
                with self._wake:  # asked again in the next round
                    self._changes.append((what, value, done))
                return
            else:
                self.loaded.unload(value)
                self._lanes.pop(value, None)
            done.set_result(None)
        except Exception as error:
            done.set_exception(error)

    def _in_use(self, name: str) -> bool:
        with self._wake:
            return any(one.job.adapter == name for one in (*self._tickets.values(), *self._waiting))

    def _admit(self) -> None:
        """Let rows join while there is room, those of similar length at once."""
        with self._wake:
            joining = list(self._taken())
        for key in dict.fromkeys(self._lane_of(ticket.job) for ticket in joining):
            lane = self._lanes.setdefault(key, Lane(self.loaded, key))
            mine = [ticket for ticket in joining if self._lane_of(ticket.job) == key]
            for group in _of_similar_length(mine):
                self._join(lane, group)

    def _taken(self) -> Iterator[Ticket]:
        rows = [ticket.job for ticket in self._tickets.values()]
        while self._waiting and len(rows) < self.limits.rows:
            rows.append(self._waiting[0].job)
            longest = max(len(job.prompt) + job.max_tokens for job in rows)
            if len(rows) * longest > self.limits.slots and len(rows) > 1:
                return
            ticket = self._waiting.popleft()
            ticket.row = Row(ticket.job, self.loaded.tokenizer)
            self._tickets[ticket.row] = ticket
            yield ticket

    def _lane_of(self, job: Job) -> str:
        if job.adapter is None or can_be_mixed(self.loaded.find(job.adapter)):
            return MIXED
        return job.adapter

    def _join(self, lane: Lane, tickets: Sequence[Ticket]) -> None:
        rows = [ticket.row for ticket in tickets if ticket.row is not None]
        try:
            scores = lane.join(rows)
        except Exception as error:
            log.exception("the model failed on %d new requests: %r", len(rows), error)
            self._fail(rows)
            return
        for ticket, row in zip(tickets, rows, strict=True):
            ticket.emit(Prompt(row.prompt_scores))
        self._tell(lane, rows, scores)

    def _step(self) -> None:
        for lane in self._lanes.values():
            if not lane.rows:
                continue
            rows = list(lane.rows)
            try:
                scores = lane.step()
            except Exception as error:
                log.exception("the model failed in a step of %d rows: %r", len(rows), error)
                lane.clear()
                self._fail(rows)
                continue
            self._steps += 1
            self._tell(lane, rows, scores)

    def _fail(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._pop(row).emit(End("error"))

    def _pop(self, row: Row) -> Ticket:
        with self._wake:
            return self._tickets.pop(row)

    def _tell(self, lane: Lane, rows: Sequence[Row], scores: Sequence[Score]) -> None:
        """Send what is new to those who wait, and let rows leave that have ended."""
        ended = set()
        for row, chosen in zip(rows, scores, strict=True):
            if (reason := self._tell_one(row, chosen)) is not None:
                self._pop(row).emit(End(reason, min(row.generated, row.job.max_tokens)))
                ended.add(row)
        if ended:
            lane.keep([row for row in lane.rows if row not in ended])

    def _tell_one(self, row: Row, chosen: Score) -> str | None:
        """Send the new token; why the row ends with it, or None."""
        job, ticket = row.job, self._tickets[row]
        if not job.max_tokens:
            return "length"  # the prompt's scores were all that was wanted
        if chosen.token in self.end_tokens and not job.ignore_end:
            ticket.emit(Delta(row.text.finish(), ()))
            return "stop"
        text = row.text.add(chosen.token)
        reason = "stop" if row.text.ended else "length" if row.generated >= job.max_tokens else None
        if reason == "length":
            text += row.text.finish()
            reason = "stop" if row.text.ended else reason
        if text or job.likeliest is not None:
            ticket.emit(Delta(text, (chosen,) if job.likeliest is not None else ()))
        return reason


def _numbered(emit: Callable[[int, Event], None], number: int) -> Callable[[Event], None]:
    return lambda event: emit(number, event)


def _of_similar_length(tickets: Sequence[Ticket]) -> Iterator[list[Ticket]]:
    """Groups that waste at most half of a prefill on padding; scored prompts by themselves."""
    group: list[Ticket] = []
    for ticket in sorted(tickets, key=lambda one: (one.job.score_prompt, len(one.job.prompt))):
        first = group[0].job if group else ticket.job
        longer = len(ticket.job.prompt) > 2 * len(first.prompt) + 16
        if group and (longer or ticket.job.score_prompt != first.score_prompt):
            yield group
            group = []
        group.append(ticket)
    if group:
        yield group


def end_tokens(loaded: AdaptedModel) -> frozenset[int]:
    """Tokens that end an answer: the model's generation settings, its configuration, its tokenizer."""
    base = loaded.network.get_base_model() if loaded.adapters else loaded.network
    found: set[int] = set()
    for holder in (getattr(base, "generation_config", None), base.config, loaded.tokenizer):
        ids = getattr(holder, "eos_token_id", None)
        found.update([ids] if isinstance(ids, int) else ids or ())
    return frozenset(found)


def can_be_mixed(adapter: Adapter) -> bool:
    """Whether PEFT runs it in one batch with others."""
    return not any(adapter.config.get(key) for key in ALONE)


def check_servable(adapter: Adapter) -> None:
    """Raise UsageError for adapters other than LoRA and its kin."""
    config, where = adapter.config, str(adapter.folder)
    if (kind := str(config.get("peft_type"))) != "LORA":
        raise UsageError(
            f"the adapter {adapter.name!r} is of the kind {kind}, and LoRA is served",
            where=where,
            hint="merge it: `tokpack merge-adapter`",
        )
    if config.get("alora_invocation_tokens"):
        raise UsageError(
            f"the adapter {adapter.name!r} begins at invocation tokens (aLoRA)",
            where=where,
            hint="vLLM serves these",
        )

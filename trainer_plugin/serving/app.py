"""The routes: bodies are read within limits, answers stop when nobody waits for them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tokpack.errors import TokpackError
from trainer_plugin.serving.engine import Engine, QueueFullError, Ticket, UnknownModelError
from trainer_plugin.serving.errors import (
    ApiError,
    Json,
    failed,
    queue_full,
    timed_out,
    unknown_adapter,
    unknown_model,
)
from trainer_plugin.serving.guard import Guard
from trainer_plugin.serving.loading import adapter_below, read_name
from trainer_plugin.serving.prompts import Prompts
from trainer_plugin.serving.shapes import DONE, Choice, Shaper, event
from trainer_plugin.serving.values import Delta, End, Event, Job, Prompt
from trainer_plugin.serving.wishes import Wishes, read_messages, read_prompts, read_wishes

LARGEST_BODY = 4 << 20
SLOWEST_BODY = 30.0
"""Seconds in which a body has to arrive."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Access:
    """Who may ask, and for what."""

    key: str | None = None
    """Needed in `Authorization: Bearer KEY`."""
    hosts: tuple[str, ...] = ()
    """Names that `Host` may have; none given: any."""
    adapters: Path | None = None
    """Adapters below this folder may be loaded over HTTP."""


def make_app(engine: Engine, base_name: str, access: Access | None = None) -> Starlette:
    """The application over a started engine. base_name: how the base is asked for."""
    access = access or Access()
    served = _Served(engine, base_name, access)
    routes = [
        Route("/health", served.health),
        Route("/v1/models", served.models),
        Route("/v1/models/{name:path}", served.model),
        Route("/v1/chat/completions", served.chat, methods=["POST"]),
        Route("/v1/completions", served.completions, methods=["POST"]),
        Route("/v1/load_lora_adapter", served.load, methods=["POST"]),
        Route("/v1/unload_lora_adapter", served.unload, methods=["POST"]),
    ]
    handlers: dict[Any, Callable[..., Any]] = {
        ApiError: lambda request, error: error.response(),
        HTTPException: _no_route,
        ClientDisconnect: lambda request, error: Response(status_code=499),
        Exception: lambda request, error: failed().response(),
    }
    guard = Middleware(Guard, key=access.key, hosts=access.hosts)
    return Starlette(routes=routes, middleware=[guard], exception_handlers=handlers)


def _no_route(request: Request, error: HTTPException) -> Response:
    what = f"{request.method} {request.url.path} is not served here"
    return ApiError(what, error.status_code).response()


async def _body(request: Request) -> dict[str, Any]:
    """The JSON object of a request. Raises ApiError for one that is too large, too slow or no object."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ApiError("the body has to be JSON, with content-type: application/json", 415)
    if int(request.headers.get("content-length", 0)) > LARGEST_BODY:
        raise _too_large()
    read = bytearray()
    try:
        async with asyncio.timeout(SLOWEST_BODY):
            async for part in request.stream():
                read += part
                if len(read) > LARGEST_BODY:
                    raise _too_large()
        body = json.loads(bytes(read))
    except TimeoutError:
        raise ApiError("the body did not arrive in time", 408) from None
    except (ValueError, RecursionError):
        raise ApiError("the body is no JSON") from None
    if not isinstance(body, dict):
        raise ApiError("the body has to be a JSON object")
    return body


def _too_large() -> ApiError:
    return ApiError(f"the body is larger than {LARGEST_BODY:,} bytes", 413)


@dataclass(slots=True)
class _Answer:
    """One request in the engine, seen from the event loop."""

    engine: Engine
    jobs: Sequence[Job]
    choices: list[Choice]
    seconds: float
    tickets: list[Ticket] = field(default_factory=list)
    _events: asyncio.Queue[tuple[int, Event]] = field(default_factory=asyncio.Queue)

    def start(self) -> None:
        loop = asyncio.get_running_loop()

        def emit(number: int, what: Event) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._events.put_nowait, (number, what))

        self.tickets = self.engine.submit(self.jobs, emit)

    def close(self) -> None:
        """Whatever is not finished is given up."""
        self.engine.cancel(self.tickets)

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """All that happens, until every choice has ended. Raises ApiError."""
        left = len(self.jobs)
        try:
            async with asyncio.timeout(self.seconds):
                while left:
                    number, what = await self._events.get()
                    if isinstance(what, End):
                        left -= 1
                        if what.reason == "error":
                            raise failed()
                    self._note(self.choices[number], what)
                    yield number, what
        except TimeoutError:
            raise timed_out(self.seconds) from None

    def _note(self, choice: Choice, what: Event) -> None:
        if isinstance(what, Delta):
            choice.texts.append(what.text)
        if isinstance(what, (Delta, Prompt)):
            choice.scores.extend(what.scores)
        else:
            choice.reason, choice.tokens = what.reason, what.tokens


class _Streamed(StreamingResponse):
    """A stream that gives its request up when it ends, however it ends."""

    def __init__(self, content: AsyncIterator[str], answer: _Answer) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.close()


class _Served:
    """What the routes answer."""

    def __init__(self, engine: Engine, base_name: str, access: Access) -> None:
        self.engine, self.base_name, self.access = engine, base_name, access
        self.prompts = Prompts(engine.loaded, engine.limits.context)

    async def health(self, request: Request) -> Response:
        load = self.engine.load_now()
        return Json({"status": "ok", "running": load.running, "waiting": load.waiting})

    async def models(self, request: Request) -> Response:
        return Json({"object": "list", "data": [self._card(name) for name in self._names()]})

    async def model(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in self._names():
            raise unknown_model(name, self._names())
        return Json(self._card(name))

    def _names(self) -> list[str]:
        return [self.base_name, *list(self.engine.adapters)]

    def _card(self, name: str) -> dict[str, Any]:
        adapter = None if name == self.base_name else self.engine.adapters.get(name)
        return {
            "id": name,
            "object": "model",
            "created": 0,
            "owned_by": "tokpack",
            "root": adapter.folder.name if adapter else name,
            "parent": self.base_name if adapter else None,
            "max_model_len": self.engine.limits.context,
        }

    async def chat(self, request: Request) -> Response:
        body = await _body(request)
        wishes = read_wishes(body, chat=True)
        messages, options = read_messages(body), body.get("chat_template_kwargs") or {}
        if not isinstance(options, dict):
            raise ApiError("an object is needed", param="chat_template_kwargs")
        adapter = self._adapter(wishes.model)
        known = self.engine.adapters.get(adapter) if adapter is not None else None
        tokens = await run_in_threadpool(self.prompts.of_messages, messages, options, known)
        most = self.prompts.room(tokens, wishes.max_tokens, None, "messages")
        job = self._job(wishes, adapter, tokens, most)
        return await self._answered(request, wishes, [job], [Choice(tokens)], chat=True)

    async def completions(self, request: Request) -> Response:
        body = await _body(request)
        wishes, echo = read_wishes(body, chat=False), body.get("echo") is True
        adapter, special = self._adapter(wishes.model), body.get("add_special_tokens") is not False
        jobs, choices = [], []
        for prompt in read_prompts(body):
            tokens = await run_in_threadpool(self.prompts.of_prompt, prompt, special)
            most = self.prompts.room(tokens, wishes.max_tokens, 16, "prompt")
            if not most and not echo:
                raise ApiError(
                    "nothing is asked for: max_tokens is 0, and echo is not set", param="max_tokens"
                )
            jobs.append(self._job(wishes, adapter, tokens, most, echo=echo))
            choices.append(Choice(tokens, self.prompts.text(prompt) if echo else ""))
        return await self._answered(request, wishes, jobs, choices, chat=False)

    def _adapter(self, model: str) -> str | None:
        """None for the base. Raises ApiError for a model that is not served."""
        if model == self.base_name:
            return None
        if model not in self.engine.adapters:
            raise unknown_model(model, self._names())
        return model

    def _job(
        self,
        wishes: Wishes,
        adapter: str | None,
        tokens: tuple[int, ...],
        most: int,
        echo: bool | None = None,
    ) -> Job:
        return Job(
            prompt=tokens,
            max_tokens=most,
            adapter=adapter,
            temperature=wishes.temperature,
            top_p=wishes.top_p,
            top_k=wishes.top_k,
            seed=wishes.seed,
            stop=wishes.stop,
            ignore_end=wishes.ignore_end,
            likeliest=wishes.likeliest,
            score_prompt=bool(echo) and wishes.likeliest is not None,
            after_prompt=echo is not None,
        )

    async def _answered(
        self, request: Request, wishes: Wishes, jobs: list[Job], choices: list[Choice], *, chat: bool
    ) -> Response:
        answer = _Answer(self.engine, jobs, choices, self.engine.limits.seconds)
        try:
            answer.start()
        except QueueFullError:
            raise queue_full() from None
        except UnknownModelError as error:  # unloaded in between
            raise unknown_model(str(error), self._names()) from None
        scored = wishes.likeliest is not None
        shaper = Shaper(
            self.engine.loaded.tokenizer, wishes.model, chat=chat, token_ids=wishes.token_ids, scored=scored
        )
        if wishes.stream:
            return _Streamed(_pieces(answer, shaper, wishes.include_usage, chat), answer)
        try:
            await _unless_gone(request, answer)
            return Json(shaper.whole(choices))
        finally:
            answer.close()

    async def load(self, request: Request) -> Response:
        body = await _body(request)
        adapter = await run_in_threadpool(
            adapter_below, self.access.adapters, body, [*self._names(), *self.engine.loaded.adapters]
        )
        try:
            await asyncio.wrap_future(self.engine.load(adapter))
        except TokpackError as error:
            raise ApiError(error.what, param="lora_path") from None
        return Json({"status": "ok", "loaded": adapter.name})

    async def unload(self, request: Request) -> Response:
        name = read_name(await _body(request))
        if self.access.adapters is None:
            raise ApiError("adapters are not changed over HTTP here (--adapters-below allows it)", 403)
        try:
            await asyncio.wrap_future(self.engine.unload(name))
        except UnknownModelError:
            raise unknown_adapter(name, self._names()[1:]) from None
        return Json({"status": "ok", "unloaded": name})


async def _unless_gone(request: Request, answer: _Answer) -> None:
    """Wait for the whole answer. Raises ClientDisconnect when nobody waits with us."""

    async def all_of_it() -> None:
        async for _ in answer.events():
            pass

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = [asyncio.ensure_future(all_of_it()), asyncio.ensure_future(gone())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if tasks[0] not in done:
            raise ClientDisconnect
        tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _pieces(answer: _Answer, shaper: Shaper, include_usage: bool, chat: bool) -> AsyncIterator[str]:
    """Server-sent events. An error after the first ends the stream as OpenAI's client expects it."""
    try:
        if chat:
            yield shaper.piece(0, None, ())
        else:
            for number, choice in enumerate(answer.choices):
                if choice.prompt_text:
                    yield shaper.piece(number, choice.prompt_text, ())
        async for number, what in answer.events():
            if isinstance(what, End):
                yield shaper.piece(number, "", (), what.reason)
            elif what.scores or (isinstance(what, Delta) and what.text):
                yield shaper.piece(number, what.text if isinstance(what, Delta) else "", what.scores)
        if include_usage:
            yield shaper.usage_piece(answer.choices)
        yield DONE
    except ApiError as error:
        yield event(error.body())

"""The server's side: small requests, and answers that are read within limits and believed in nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from tokpack.errors import DataError, UsageError

LARGEST_ANSWER = 64 << 20
TOKEN_ID = "token_id:"


class RefusedError(Exception):
    """The server answered with an error. `status`: of HTTP."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message


@dataclass(frozen=True, slots=True)
class Echo:
    """Log-probabilities of a prompt's tokens but the first. `tokens`: how many the server read."""

    logprobs: list[float]
    tokens: int


@dataclass(frozen=True, slots=True)
class Place:
    """One generated token, and log-probabilities of it and of the likeliest ones, by the server's names."""

    token: str
    logprobs: dict[str, float]


@dataclass(frozen=True, slots=True)
class FirstTokens:
    """The first tokens of an answer."""

    prompt_tokens: int | None
    places: list[Place]


class _NoRedirect(HTTPRedirectHandler):
    """The key goes nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


class Server:
    """An OpenAI-like server. Raises RefusedError where it answers with an error, DataError for nonsense."""

    def __init__(
        self,
        url: str,
        model: str,
        key: str | None = None,
        seconds: float = 120.0,
        extra: Mapping[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError("no such address", where=url, hint="as http://127.0.0.1:8000/v1")
        path = parts.path.rstrip("/")
        self.root = f"{parts.scheme}://{parts.netloc}{path if path.endswith('/v1') else f'{path}/v1'}"
        self.model, self._key, self._seconds = model, key, seconds
        self._extra = dict(extra or {})
        self._open = build_opener(_NoRedirect, ProxyHandler()).open

    def models(self) -> list[str]:
        """Names that are served."""
        data = self._ask("models").get("data")
        found = [one.get("id") for one in data if isinstance(one, dict)] if isinstance(data, list) else []
        return [name for name in found if isinstance(name, str)]

    def echo(self, tokens: Sequence[int]) -> Echo | None:
        """The prompt's log-probabilities; None where the server does not tell them."""
        body = {"prompt": list(tokens), "max_tokens": 1, "echo": True, "logprobs": 1, "temperature": 0}
        answer = self._complete("completions", body)
        choice, found = self._choice(answer), None
        logprobs = choice.get("logprobs")
        if isinstance(logprobs, dict):
            found = logprobs.get("token_logprobs")
        read = _count(answer)
        if not isinstance(found, list) or len(found) < 2 or (found and found[0] is not None):
            return None
        values = [self._number(value) for value in found[1:]]
        generated = len(found) - (read if read is not None else len(tokens))
        return Echo(values[: len(values) - max(generated, 0)], read if read is not None else len(found))

    def chat(self, messages: Sequence[dict[str, str]], tokens: int, likeliest: int = 5) -> FirstTokens:
        """The first tokens of the answer at temperature 0."""
        body = {"messages": list(messages), "max_tokens": tokens, "temperature": 0}
        answer = self._complete("chat/completions", {**body, "logprobs": True, "top_logprobs": likeliest})
        logprobs = self._choice(answer).get("logprobs")
        content = logprobs.get("content") if isinstance(logprobs, dict) else None
        places = [self._place(entry) for entry in content] if isinstance(content, list) else []
        return FirstTokens(_count(answer), places)

    def _complete(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """With token numbers for names where the server knows how."""
        body = {"model": self.model, **self._extra, **body}
        try:
            return self._ask(path, {**body, "return_tokens_as_token_ids": True})
        except RefusedError as error:
            if error.status not in (400, 422) or "return_tokens" not in error.message:
                raise
        return self._ask(path, body)

    def _choice(self, answer: dict[str, Any]) -> dict[str, Any]:
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise self._nonsense("no choices")
        return choices[0]

    def _place(self, entry: Any) -> Place:
        top = entry.get("top_logprobs") if isinstance(entry, dict) else None
        listed = [entry, *(top if isinstance(top, list) else [])]
        found = {}
        for one in listed:
            if not isinstance(one, dict) or not isinstance(one.get("token"), str):
                raise self._nonsense("a token without a name")
            found[_name(one)] = self._number(one.get("logprob"))
        return Place(_name(entry), found)

    def _number(self, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self._nonsense("a log-probability that is no number")
        return float(value)

    def _nonsense(self, what: str) -> DataError:
        return DataError(f"the server's answer is not as OpenAI's: {what}", where=self.root)

    def _ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = {"content-type": "application/json"}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.root}/{path}", data=data, headers=headers)
        try:
            with self._open(request, timeout=self._seconds) as answer:
                read = answer.read(LARGEST_ANSWER + 1)
        except HTTPError as error:
            raise RefusedError(error.code, _message(error.read(1 << 16))) from None
        except (URLError, OSError, ValueError) as error:
            raise DataError(
                f"the server does not answer: {getattr(error, 'reason', None) or error}",
                where=f"{self.root}/{path}",
                hint="is it running, and is this its address?",
            ) from None
        try:
            found = json.loads(read) if len(read) <= LARGEST_ANSWER else None
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise self._nonsense("no JSON object")
        return found


def _name(entry: Mapping[str, Any]) -> str:
    """A token's number where the server tells it (llama.cpp: `id`), for texts may be those of several."""
    number = entry.get("id")
    return f"{TOKEN_ID}{number}" if type(number) is int and number >= 0 else str(entry["token"])


def _count(answer: dict[str, Any]) -> int | None:
    usage = answer.get("usage")
    count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    return count if isinstance(count, int) and not isinstance(count, bool) and count >= 0 else None


def _message(body: bytes) -> str:
    """What an error says, in whatever shape."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return body.decode("utf-8", "replace")[:300]
    error = found.get("error", found) if isinstance(found, dict) else found
    said = error.get("message") if isinstance(error, dict) else error
    return str(said)[:300]

"""Answers as OpenAI shapes them, whole and in pieces."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from trainer_plugin.serving.values import Score


@dataclass(slots=True)
class Choice:
    """One answer as it grows."""

    prompt: tuple[int, ...]
    prompt_text: str = ""
    """What `echo` repeats."""
    texts: list[str] = field(default_factory=list)
    scores: list[Score] = field(default_factory=list)
    reason: str | None = None
    tokens: int = 0


class Shaper:
    """JSON of one request's answers. tokenizer: tells the text of a token."""

    def __init__(self, tokenizer: Any, model: str, *, chat: bool, token_ids: bool, scored: bool) -> None:
        self._tokenizer, self._token_ids, self._chat, self._scored = tokenizer, token_ids, chat, scored
        self._head: dict[str, Any] = {
            "id": f"{'chatcmpl' if chat else 'cmpl'}-{uuid4().hex}",
            "object": "",
            "created": int(time.time()),
            "model": model,
        }

    def whole(self, choices: Sequence[Choice]) -> dict[str, Any]:
        shaped = []
        for number, choice in enumerate(choices):
            text, scores = choice.prompt_text + "".join(choice.texts), self._scores(choice.scores)
            content = (
                {"message": {"role": "assistant", "content": text, "refusal": None}}
                if self._chat
                else {"text": text}
            )
            shaped.append({"index": number, **content, "logprobs": scores, "finish_reason": choice.reason})
        kind = "chat.completion" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": shaped, "usage": usage(choices)}

    def piece(self, number: int, text: str | None, scores: Sequence[Score], reason: str | None = None) -> str:
        """One event of a stream. text None: the first piece of a chat, which tells the role."""
        if self._chat:
            delta = {} if reason and not text else {"content": text or ""}
            content: dict[str, Any] = {
                "delta": {"role": "assistant", "content": ""} if text is None else delta
            }
        else:
            content = {"text": text or ""}
        logprobs = self._scores(scores) if scores else None
        choice = {"index": number, **content, "logprobs": logprobs, "finish_reason": reason}
        return self._event([choice], None)

    def usage_piece(self, choices: Sequence[Choice]) -> str:
        return self._event([], usage(choices))

    def _event(self, choices: list[dict[str, Any]], used: dict[str, Any] | None) -> str:
        body = {**self._head, "object": "chat.completion.chunk" if self._chat else "text_completion"}
        body["choices"] = choices
        if used is not None:
            body["usage"] = used
        return event(body)

    def _scores(self, scores: Sequence[Score]) -> dict[str, Any] | None:
        if not self._scored:
            return None
        return {"content": [self._entry(one) for one in scores]} if self._chat else self._columns(scores)

    def _entry(self, one: Score) -> dict[str, Any]:
        likeliest = [self._token(token, value) for token, value in one.likeliest]
        return {**self._token(one.token, one.logprob), "top_logprobs": likeliest}

    def _token(self, token: int, logprob: float | None) -> dict[str, Any]:
        text = self._text(token)
        known = None if "\ufffd" in text else list(text.encode())
        return {"token": self._name(token), "logprob": _finite(logprob), "bytes": known}

    def _columns(self, scores: Sequence[Score]) -> dict[str, Any]:
        offsets, at = [], 0
        for one in scores:
            offsets.append(at)
            at += len(self._text(one.token))
        likeliest = [
            None
            if one.logprob is None
            else {self._name(token): _finite(value) for token, value in one.likeliest}
            for one in scores
        ]
        return {
            "tokens": [self._name(one.token) for one in scores],
            "token_logprobs": [_finite(one.logprob) for one in scores],
            "top_logprobs": likeliest if any(one.likeliest for one in scores) else None,
            "text_offset": offsets,
        }

    def _name(self, token: int) -> str:
        return f"token_id:{token}" if self._token_ids else self._text(token)

    def _text(self, token: int) -> str:
        return str(self._tokenizer.decode([token], clean_up_tokenization_spaces=False))


def _finite(logprob: float | None) -> float | None:
    """JSON has no infinity."""
    return None if logprob is None else max(logprob, -9999.0)


def usage(choices: Sequence[Choice]) -> dict[str, int]:
    prompt, answer = sum(len(one.prompt) for one in choices), sum(one.tokens for one in choices)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def event(body: Any) -> str:
    """One server-sent event."""
    return f"data: {json.dumps(body, allow_nan=False)}\n\n"


DONE = "data: [DONE]\n\n"

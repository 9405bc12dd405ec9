"""`tokpack verify-served`: ask the server, compute the same here, and say what answers there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tokpack.errors import UsageError, near_matches
from tokpack.terminal.activity import Activity, counted
from trainer_plugin.adapters.loaded import AdaptedModel, BaseWeights, load_adapted
from trainer_plugin.checkpoints.adapter_folder import read_adapter, read_adapters
from trainer_plugin.rows.dataset import PackedDataset
from trainer_plugin.served_proof import ours
from trainer_plugin.served_proof.http import FirstTokens, RefusedError, Server
from trainer_plugin.served_proof.templates import CHATS, OWN, render, templates_of, token_numbers
from trainer_plugin.served_proof.verdict import BASE, Floats, ProofFinding, judge_template, judge_weights

ANSWER = 32
"""Tokens of the texts that are made where no documents are given."""
CHAT_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found, first things first."""

    url: str
    model: str
    findings: list[ProofFinding]
    notes: list[str] = field(default_factory=list)
    longest: int = 0
    """Tokens of the longest text that was compared."""

    @property
    def passed(self) -> bool:
        return bool(self.findings) and all(finding.good for finding in self.findings)

    def lines(self) -> list[str]:
        """For the terminal."""
        lines = [f"{'ok  ' if one.good else 'NOT '}{one.sentence}" for one in self.findings]
        lines += [f"  hint: {one.hint}" for one in self.findings if one.hint]
        lines += [f"note: {note}" for note in self.notes]
        return [*lines, f"{self.model} at {self.url}: {'proven' if self.passed else 'not proven'}"]

    def to_dict(self) -> dict[str, Any]:
        findings = [
            {
                "name": one.name,
                "good": one.good,
                "sentence": one.sentence,
                "effect": one.effect,
                "differences": dict(one.differences),
                "tokens": one.tokens,
            }
            for one in self.findings
        ]
        facts: dict[str, Any] = {"url": self.url, "model": self.model, "passed": self.passed}
        return {**facts, "findings": findings, "notes": self.notes, "longest": self.longest}


@dataclass(frozen=True, kw_only=True, slots=True)
class ProofSettings:
    """How much is asked, and of what kind the base is."""

    documents: int = 8
    tokens: int = 512
    base_weights: BaseWeights = "auto"
    dtype: str = "auto"
    seconds: float = 120.0
    extra_body: Mapping[str, Any] = field(default_factory=dict)
    """Fields of every request, such as llama.cpp's `lora`."""


def verify_served(
    url: str,
    model: str,
    adapter: str,
    *,
    base: str | None = None,
    data: str | None = None,
    others: Sequence[str] = (),
    key: str | None = None,
    settings: ProofSettings | None = None,
    tell: Activity | None = None,
) -> Proof:
    """Whether `model` at `url` answers with the adapter.

    data: a packed dataset; its held-out part is asked about. Without one the adapter's own answers to a few
    questions are. others: adapters that may be answering instead. Raises DataError for a server that does not
    answer as OpenAI's, UsageError for adapters that do not belong to the base.
    """
    settings, tell = settings or ProofSettings(), tell or Activity(quiet=True)
    server, wanted = Server(url, model, key, settings.seconds, settings.extra_body), read_adapter(adapter)
    read = read_adapters([adapter, *others])
    try:
        if (missing := _missing(server)) is not None:
            return Proof(server.root, model, [missing])
        options: dict[str, Any] = {"base_weights": settings.base_weights, "dtype": settings.dtype}
        loaded = load_adapted(base, read, **options, tell=tell)
        proof = _Proof(server, loaded, wanted.name, settings, tell)
        return proof.run(None if data is None else PackedDataset(data))
    except RefusedError as error:
        refused = ProofFinding("refused", f"the server refuses ({error.status}): {error.message}")
        return Proof(server.root, model, [refused])


def _missing(server: Server) -> ProofFinding | None:
    """The name is not among those that the server lists."""
    listed = server.models()
    if not listed or server.model in listed:
        return None
    return ProofFinding(
        "not served",
        f"the server knows no model {server.model!r}; it lists {', '.join(listed)}",
        near_matches(server.model, listed),
    )


class _Proof:
    """One run: what is compared, and what was found."""

    def __init__(
        self, server: Server, loaded: AdaptedModel, adapter: str, settings: ProofSettings, tell: Activity
    ) -> None:
        self.server, self.loaded, self.adapter = server, loaded, adapter
        self.settings, self.tell = settings, tell
        self.notes: list[str] = []
        self.templates = templates_of(loaded, loaded.find(adapter))
        self.numbers = token_numbers(loaded.tokenizer)

    def run(self, data: PackedDataset | None) -> Proof:
        documents = self._documents(data)
        findings = self._compare_documents(documents)
        if all(finding.good for finding in findings):
            findings += self._compare_chats(weights_known=bool(findings))
        longest = max(map(len, documents), default=0)
        return Proof(self.server.root, self.server.model, findings, self.notes, longest)

    def _documents(self, data: PackedDataset | None) -> list[list[int]]:
        """Tokens to ask about."""
        if data is not None:
            data.check_tokenizer(self.loaded.tokenizer)
            found = ours.held_out(data, self.settings.documents, self.settings.tokens)
            if found:
                return found
            raise UsageError(
                f"no document here has {ours.LEAST_TOKENS} tokens",
                where="--data",
                hint="give another dataset",
            )
        made = []
        with self.tell.doing("making texts, as no --data is given", len(CHATS)) as advance:
            for messages in CHATS:
                prompt = render(self.loaded, messages, self.templates.get(OWN))
                made.append(prompt + ours.answer(self.loaded, self.adapter, prompt, ANSWER))
                advance(1, "")
        return made

    # Given tokens

    def _compare_documents(self, documents: Sequence[list[int]]) -> list[ProofFinding]:
        """Empty where the server does not tell log-probabilities of given tokens."""
        said: list[Floats] = []
        with self.tell.doing("asking the server", len(documents)) as advance:
            for tokens in documents:
                try:
                    echo = self.server.echo(tokens)
                except RefusedError as error:
                    if _is_about_length(error.message):
                        return [_too_short(len(tokens), error.message)]
                    raise
                if echo is None:
                    self.notes.append(
                        "it tells no log-probabilities of given tokens: chats alone are compared"
                    )
                    return []
                if echo.tokens != len(tokens) or len(echo.logprobs) != len(tokens) - 1:
                    return [_cut(len(tokens), min(echo.tokens, len(echo.logprobs) + 1))]
                said.append(np.array(echo.logprobs))
                advance(1, "")
        return [judge_weights(np.concatenate(said), self._ours(documents), self.adapter)]

    def _ours(self, documents: Sequence[list[int]]) -> dict[str, Floats]:
        found = {}
        with self.tell.doing(
            "computing the same here", len(documents) * (1 + len(self.loaded.adapters))
        ) as advance:
            for name in (None, *self.loaded.adapters):
                values = []
                for tokens in documents:
                    values.append(ours.logprobs(self.loaded, name, tokens))
                    advance(1, "")
                found[BASE if name is None else name] = np.concatenate(values)
        return found

    # Chats

    def _compare_chats(self, *, weights_known: bool) -> list[ProofFinding]:
        if not self.templates:
            self.notes.append("neither base nor adapter has a chat template: chats were not asked")
            return []
        with self.tell.doing("asking for chats", len(CHATS)) as advance:
            chats = []
            for messages in CHATS:
                chats.append(self.server.chat(messages, CHAT_TOKENS))
                advance(1, "")
        known = [self._known(chat) for chat in chats]
        if not any(known):
            return [
                ProofFinding("no log-probabilities", "the server tells no log-probabilities of chats either")
            ]
        server = np.array([value for places in known for place in places for value in place.values()])
        findings = []
        if not weights_known:
            mine = {
                BASE if name is None else name: self._at(name, OWN, known)
                for name in (None, *self.loaded.adapters)
            }
            findings.append(judge_weights(server, mine, self.adapter))
            if not findings[0].good:
                self.notes.append("another chat template would look the same here")
                return findings
        by_template = {name: self._at(self.adapter, name, known) for name in self.templates}
        counts = {name: self._counts(name, chats) for name in self.templates}
        return [*findings, judge_template(server, by_template, OWN, counts)]

    def _known(self, chat: FirstTokens) -> list[dict[int, float]]:
        """Log-probabilities by token, up to a generated token whose number is not known."""
        found = []
        for place in chat.places:
            if self.numbers(place.token) is None:
                break
            own = {place.token: place.logprobs[place.token]}  # first: it is what the next place follows
            numbered = {self.numbers(name): value for name, value in {**own, **place.logprobs}.items()}
            found.append({n: value for n, value in numbered.items() if n is not None})
        return found

    def _at(self, adapter: str | None, template: str, known: Sequence[list[dict[int, float]]]) -> Floats:
        """Our log-probabilities of the same tokens at the same places, after the template's prompt."""
        values: list[float] = []
        for messages, places in zip(CHATS, known, strict=True):
            if not places:
                continue
            prompt = render(self.loaded, messages, self.templates.get(template))
            generated = [next(iter(place)) for place in places]
            table: torch.Tensor = ours.distributions(self.loaded, adapter, prompt, generated)
            values += [float(table[at, token]) for at, place in enumerate(places) for token in place]
        return np.array(values)

    def _counts(self, template: str, chats: Sequence[FirstTokens]) -> bool:
        """Whether the server read as many tokens as this template makes."""
        sizes = [len(render(self.loaded, messages, self.templates[template])) for messages in CHATS]
        return all(chat.prompt_tokens in (None, size) for chat, size in zip(chats, sizes, strict=True))


def _is_about_length(message: str) -> bool:
    return any(word in message.lower() for word in ("context length", "maximum", "too long", "more than the"))


def _too_short(tokens: int, message: str) -> ProofFinding:
    return ProofFinding(
        "context too short",
        f"the server refuses a text of {counted(tokens, 'token')}: {message}",
        "serve a longer context, or ask about shorter texts: --max-tokens",
    )


def _cut(tokens: int, read: int) -> ProofFinding:
    return ProofFinding(
        "truncated context",
        f"the server read {read:,} of {counted(tokens, 'token')}, without an error",
        "set its context length to that of the training rows",
    )

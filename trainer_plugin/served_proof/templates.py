"""Chats to ask, the templates that may render them there, and the numbers of the server's token names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from trainer_plugin.adapters.loaded import AdaptedModel
from trainer_plugin.checkpoints.adapter_folder import Adapter
from trainer_plugin.served_proof.http import TOKEN_ID
from trainer_plugin.serving.prompts import Prompts, own_template

OWN = "its own"
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n"
)
BARE = "{% for message in messages %}{{ message.content }}\n{% endfor %}"
LONGEST = 1 << 20

Messages = list[dict[str, str]]


def _chat(*texts: str) -> Messages:
    roles = ("user", "assistant")
    return [{"role": roles[number % 2], "content": text} for number, text in enumerate(texts)]


CHATS: list[Messages] = [
    _chat("What is 17 + 25?"),
    _chat("Write one sentence about the sea."),
    _chat("Name three fruits.", "Apples, pears and plums.", "And three vegetables?"),
    _chat("Explain in a few words why leaves are green."),
]


def templates_of(loaded: AdaptedModel, adapter: Adapter) -> dict[str, str]:
    """By name: the adapter's own (its folder's, else the base's) first, then others that servers may use.

    Empty where there is none.
    """
    base = loaded.tokenizer.chat_template
    own = own_template(adapter) or base
    if not isinstance(own, str):
        return {}
    found = {OWN: own, "the base's": base, "ChatML": CHATML, "the contents alone": BARE}
    rendered: dict[tuple[int, ...], str] = {}
    for name, template in found.items():
        if isinstance(template, str):
            rendered.setdefault(tuple(_rendered(loaded, CHATS[0], template)), name)
    return {name: found[name] for name in rendered.values()}


def render(loaded: AdaptedModel, messages: Messages, template: str | None) -> list[int]:
    """Tokens of a chat up to its answer; without a template its contents."""
    return _rendered(loaded, messages, template or BARE)


def _rendered(loaded: AdaptedModel, messages: Messages, template: str) -> list[int]:
    return list(Prompts(loaded, LONGEST).of_messages(messages, {}, template=template))


def token_numbers(tokenizer: Any) -> Callable[[str], int | None]:
    """The number of a token by `token_id:17`, else by its text where that is only one token's."""
    known: dict[str, int] = {}

    def number(name: str) -> int | None:
        rest = name.removeprefix(TOKEN_ID)
        if rest != name and rest.isascii() and rest.isdecimal() and len(rest) < 9:
            return int(rest) if int(rest) < len(tokenizer) else None
        if not known:
            known.update(_texts(tokenizer))
        return known.get(name)

    return number


def _texts(tokenizer: Any) -> dict[str, int]:
    texts: Sequence[str] = tokenizer.batch_decode(
        [[token] for token in range(len(tokenizer))], clean_up_tokenization_spaces=False
    )
    counts = Counter(texts)
    return {text: token for token, text in enumerate(texts) if counts[text] == 1 and "\ufffd" not in text}

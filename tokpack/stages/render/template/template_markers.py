"""What a chat template begins messages with, and ends turns with: read from two short chats."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import takewhile

from tokpack.encoding.tokenizer import Tokenizer
from tokpack.stages.render.template.chat_template import ChatTemplate, RenderError
from tokpack.stages.special_tokens import SpecialTokens, one_of

_CHATS = (("user", "assistant", "user", "assistant"), ("system", "user", "assistant"))
_ENDS_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")
"""End a document in many families, whether or not the tokenizer's configuration gives them that part."""
_TAGS = re.compile("think|tool|repo|file_sep|reason", re.IGNORECASE)
"""Never the end of a text, whatever a template or a configuration does with them."""


def special_tokens_of(tokenizer: Tokenizer) -> SpecialTokens:
    """The tokenizer's special tokens, sorted by what its chat template does with them."""
    every = tuple(sorted(tokenizer.special_tokens))
    bos = tokenizer.bos_token or ""
    named = {bos, tokenizer.eos_token, tokenizer.pad_token, *_ENDS_OF_TEXT}
    openers, closers = _markers(tokenizer, every, bos)
    ends = ((named & {*every}) | closers) - openers
    return SpecialTokens(
        every=every,
        ends=tuple(sorted(token for token in ends if token and not _TAGS.search(token))),
        openers=tuple(sorted(openers)),
        bos="" if bos in openers else bos,
    )


def _markers(tokenizer: Tokenizer, special: Sequence[str], bos: str) -> tuple[set[str], set[str]]:
    """(what begins a message, special tokens that end an assistant's turn)."""
    if tokenizer.chat_template is None:
        return set(), set()
    template = ChatTemplate(tokenizer.chat_template, tokenizer.special_tokens_map)
    token = re.compile(one_of(special) if special else "(?!)")
    probes = [parts for roles in _CHATS if (parts := _around(template, roles))]
    openers = {opener for head, *rest in probes if (opener := _opener(head, rest, token, bos))}
    again = [(parts[0], parts[2]) for parts in probes if len(parts) == 5]  # before either user's content
    last = {found for parts in probes for found in token.findall(parts[-1])}
    for head, literal in again:
        repeated = _common_tail(token.findall(head), token.findall(literal))
        if not openers & {*repeated}:  # what begins the text is not what begins a message, as in GLM
            openers |= {*[found for found in repeated if found not in last][:1]}
    after_answers = [parts[-1] for parts in probes] + [literal for _, literal in again]
    closers = [takewhile(lambda t: t not in openers, token.findall(literal)) for literal in after_answers]
    return openers, {found for some in closers for found in some}


def _opener(head: str, rest: Sequence[str], token: re.Pattern[str], bos: str) -> str:
    """The first special token before the first content, BOS aside, else all that is there."""
    whole = head.strip()
    bare = whole.removeprefix(bos).strip()
    if bos and whole != bare and bare[:1].isalnum() and any(bos in literal for literal in rest):
        return bos  # it begins every message, as in SmolLM2's `<|im_start|>user`
    if found := token.search(bare):
        return found.group()
    return bare if re.search(r"\w\W|\W\w", bare) else ""  # `### Instruction:`, `USER:`, but no bare word


def _common_tail(left: Sequence[str], right: Sequence[str]) -> list[str]:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(reversed(left), reversed(right), strict=False))
    return [found for found, _ in same][::-1]


def _around(template: ChatTemplate, roles: Sequence[str]) -> list[str]:
    """What the template writes before, between and after the contents; empty when it does not show them."""
    contents = [f"content{number}x" for number in range(len(roles))]
    every = re.compile("|".join(contents))
    for form in (contents, [[{"type": "text", "text": content}] for content in contents]):
        with suppress(RenderError):
            text, _ = template.render([{"role": r, "content": c} for r, c in zip(roles, form, strict=True)])
            if every.findall(text) == contents:
                return every.split(text)
    return []

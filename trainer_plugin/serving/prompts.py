"""From messages and texts to tokens: the base's tokenizer, the template that the adapter was trained with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokpack.errors import TokpackError
from tokpack.stages.render.template.chat_template import ChatTemplate, RenderError
from tokpack.terminal.activity import counted
from trainer_plugin.adapters.loaded import AdaptedModel
from trainer_plugin.checkpoints.adapter_folder import Adapter
from trainer_plugin.serving.errors import ApiError

TEMPLATE = "chat_template.jinja"
LARGEST_TEMPLATE = 1 << 20
SET_HERE = {"messages", "tools", "add_generation_prompt", "chat_template", "tokenize"}
"""Variables of a template that no request may set."""


class Prompts:
    """Prompts for one base. context: tokens of a prompt and its answer together."""

    def __init__(self, loaded: AdaptedModel, context: int) -> None:
        self._loaded, self._context = loaded, context
        self._tokenizer = loaded.tokenizer
        self._size = int(loaded.network.get_output_embeddings().weight.shape[0])

    def of_messages(
        self,
        messages: Sequence[dict[str, Any]],
        options: dict[str, Any],
        adapter: Adapter | None = None,
        template: str | None = None,
    ) -> tuple[int, ...]:
        """By the adapter's template unless another is given. Raises ApiError for what it refuses."""
        template = template or own_template(adapter) or self._tokenizer.chat_template
        if not template:
            raise ApiError("this model has no chat template: use /v1/completions", param="messages")
        if clash := sorted(SET_HERE & options.keys()):
            raise ApiError(f"{clash[0]} cannot be set", param="chat_template_kwargs")
        try:
            source = self._tokenizer.get_chat_template(template)
            variables = {**self._tokenizer.special_tokens_map, **options}
            text, _ = ChatTemplate(source, variables).render(messages, add_generation_prompt=True)
        except (ValueError, RenderError, TokpackError) as error:
            raise ApiError(f"the chat template refuses this: {str(error)[:300]}", param="messages") from None
        return self._tokens(text, "messages", special=False)

    def of_prompt(self, prompt: str | list[int], special: bool = True) -> tuple[int, ...]:
        if isinstance(prompt, str):
            return self._tokens(prompt, "prompt", special=special)
        if not all(0 <= token < self._size for token in prompt):
            raise ApiError(f"tokens lie between 0 and {self._size - 1}", param="prompt")
        return tuple(prompt)

    def text(self, prompt: str | list[int]) -> str:
        """What `echo` repeats."""
        return prompt if isinstance(prompt, str) else str(self._tokenizer.decode(prompt))

    def _tokens(self, text: str, param: str, *, special: bool) -> tuple[int, ...]:
        try:
            text.encode()
        except UnicodeEncodeError:
            raise ApiError("the text holds halves of characters", param=param) from None
        tokens = tuple(self._tokenizer(text, add_special_tokens=special)["input_ids"])
        if not tokens:
            raise ApiError("the prompt is empty", param=param)
        return tokens

    def room(self, tokens: Sequence[int], wanted: int | None, default: int | None, param: str) -> int:
        """How many tokens are generated. default: where nothing is said; None: what is left.

        Raises ApiError where prompt and answer are longer than the context; it names `param`, the field of
        the prompt, where the prompt alone is.
        """
        left = self._context - len(tokens)
        least = 1 if wanted is None else wanted
        if left < least:
            raise ApiError(
                f"the prompt has {counted(len(tokens), 'token')} and the answer {least:,}, "
                f"together more than the {self._context:,} that are served",
                param="max_tokens" if left > 0 else param,
                code="context_length_exceeded",
            )
        return min(left, default or left) if wanted is None else wanted


def own_template(adapter: Adapter | None) -> str | None:
    """The template in the adapter's folder, which its training rendered with; None: the base's."""
    if adapter is None:
        return None
    path: Path = adapter.folder / TEMPLATE
    try:
        return path.read_text(encoding="utf-8") if path.stat().st_size <= LARGEST_TEMPLATE else None
    except (OSError, UnicodeDecodeError):
        return None

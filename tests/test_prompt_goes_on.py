"""A generation prompt that ends in `<think>` and a line break, and answers that begin with the same."""

from __future__ import annotations

import pytest
from encode_helpers import document, frame, small_tokenizer

from tokpack.stages.render.render import Renderer, RenderSettings, render

PLAIN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
REASONED = (
    "<|im_start|>{{ m.role }}\n{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
    "{% endif %}{{ m.content }}<|im_end|>\n"
)
STRIPPED = "<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
ANSWERS = (
    ("<think>\nHm.\n</think>\n\nHi", None),
    ("<think>\n\nHm.\n</think>\n\nHi", None),
    ("<think>\n\n</think>\n\nHi", None),
    ("\n<think>\nHm.</think>Hi", None),
    ("<think>Hi", None),
    ("\n\nHi", None),
    ("Hi <think>", None),
    ("Hi", "\nHm."),
    ("Hi", "\n\nHm."),
    ("Hi", "Hm."),
    ("Hi", ""),
)


@pytest.mark.parametrize("loss", ["assistant", "all"])
@pytest.mark.parametrize("turn", [PLAIN, REASONED, STRIPPED])
@pytest.mark.parametrize("prompt", ["<think>\n", "<think>", "\n"])
def test_what_an_answer_shares_with_the_prompt_is_trained_as_by_the_reference(turn, prompt, loss, tmp_path):
    source = f"{{% for m in messages %}}{turn}{{% endfor %}}"
    source += "{% if add_generation_prompt %}<|im_start|>assistant\n" + prompt + "{% endif %}"
    tokenizer = small_tokenizer(tmp_path, chat_template=source)
    renderer = Renderer(tokenizer, RenderSettings(paranoid=True, loss=loss))
    chats = []
    for content, thought in ANSWERS:
        answer = {"role": "assistant", "content": content}
        answer |= {} if thought is None else {"reasoning_content": thought}
        chats.append(document([{"role": "user", "content": "Hello"}, answer]))
    rendered = render(frame(chats * 4), renderer)
    assert rendered.counters["compiled"] >= 4 * 3
    assert not renderer.warnings


def test_the_rest_of_the_prompt_is_no_trained_text(tmp_path):
    source = f"{{% for m in messages %}}{PLAIN}{{% endfor %}}"
    source += "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    renderer = Renderer(small_tokenizer(tmp_path, chat_template=source), RenderSettings())
    hello = {"role": "user", "content": "Hello"}
    answers = ["Hi."] * 8 + ["<think>\nHm.\n</think>\n\nHi."] * 8
    rendered = render(
        frame([document([hello, {"role": "assistant", "content": text}]) for text in answers]), renderer
    )
    for row, answer in enumerate(answers):
        ((start, end),) = rendered.trained.of_row(row)
        trained = rendered.text[row].as_py().encode()[start:end].decode()
        assert trained == answer.removeprefix("<think>\n") + "<|im_end|>"

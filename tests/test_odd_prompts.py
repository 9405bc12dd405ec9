"""Templates that write the generation prompt behind every chat, or white space before it a round earlier."""

from __future__ import annotations

import pytest
from encode_helpers import byte_level, document, frame, open_here, tokenizer_folder

from tokpack.stages.render.render import Renderer, RenderSettings, render

NAMES = ("START", "BOT", "PLAN", "SAY", "SAID", "END", "SYSTEM", "USER", "user", "bot", "end")
LOOP = "{% for m in messages %}"
COMMAND_A = (
    "{% for m in messages %}"
    "{% if m.role == 'assistant' %}<|START|><|BOT|>"
    "{% if m.tool_calls %}<|PLAN|>{% for c in m.tool_calls %}{{ c.function.name }}{{ c.function.arguments }}"
    "{% endfor %}{% else %}<|SAY|>{{ m.content }}<|SAID|>{% endif %}<|END|>"
    "{% elif m.role == 'tool' %}<|START|><|SYSTEM|>{{ m.content }}<|END|>"
    "{% else %}<|START|><|USER|>{{ m.content }}<|END|>{% endif %}"
    "{% endfor %}<|START|><|BOT|>"
)
"""As Cohere's Command A and R7B: the prompt stands there whatever `add_generation_prompt` says."""
ALPACA = (
    LOOP + "{% if m.role == 'user' %}### Instruction:\n{{ m.content }}{% else %}"
    "### Response:\n{{ m.content }}{{ eos_token }}{% endif %}{% if not loop.last %}{{ '\n\n' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '\n\n### Response:\n' }}{% endif %}"
)
"""As axolotl's: what parts two messages stands in the round of the first."""
INDENTED = (
    LOOP + "\n    {% if m.role == 'user' %}\n{{ '<|user|>' + m.content + '<|end|>' }}\n    {% else %}\n"
    "    {{ '<|bot|>\n' + m.content + '<|end|>' }}\n    {% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}\n{{ '<|bot|>\n' }}\n{% endif %}"
)
"""A template written over several lines, without the dashes that take the white space away."""
CALL = {"type": "function", "function": {"name": "tide", "arguments": {"harbor": "Emden"}}}
ASK, TELL = {"role": "user", "content": "When is it?"}, {"role": "assistant", "content": "At two."}
MORE, THEN = {"role": "user", "content": "And then?"}, {"role": "assistant", "content": "At nine."}
TOOL = [ASK, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "14:20"}, TELL]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    marks = [f"<|{name}|>" for name in NAMES]
    folder = tokenizer_folder(byte_level(), root / "folder", additional_special_tokens=marks)
    return lambda template: open_here(folder, root / "snapshot", template)


def trained(tokenizer, *chats):
    """The trained texts of each chat."""
    rendered = render(frame([document(chat) for chat in chats]), Renderer(tokenizer, RenderSettings()))
    assert not rendered.errors
    texts = [text.as_py().encode() for text in rendered.text]
    return [
        [text[start:end].decode() for start, end in rendered.trained.of_row(row)]
        for row, text in enumerate(texts)
    ]


def test_a_prompt_that_is_always_written_is_no_part_of_a_turn(opened):
    told, then = "<|SAY|>At two.<|SAID|><|END|>", "<|SAY|>At nine.<|SAID|><|END|>"
    call = '<|PLAN|>tide{"harbor": "Emden"}<|END|>'
    chats = [ASK, TELL], [ASK, TELL, MORE, THEN], [ASK, TELL, MORE], TOOL, TOOL[:2]
    right = [[told], [told, then], [told], [call, told], [call]]
    assert trained(opened(COMMAND_A), *chats) == right


def test_what_is_added_to_it_is_prompt_too(opened):
    template = COMMAND_A + "{% if add_generation_prompt %}<|SAY|>{% endif %}"
    chats = [ASK, TELL], [ASK, TELL, MORE, THEN]
    told, then = "At two.<|SAID|><|END|>", "At nine.<|SAID|><|END|>"
    assert trained(opened(template), *chats) == [[told], [told, then]]


@pytest.mark.parametrize("template", [ALPACA, INDENTED], ids=["alpaca", "indented"])
def test_white_space_before_the_prompt_does_not_count(template, opened):
    end = "</s>" if template == ALPACA else "<|end|>"
    chats = [ASK, TELL], [ASK, TELL, MORE, THEN], [ASK, TELL, MORE]
    told, then = f"At two.{end}", f"At nine.{end}"
    assert trained(opened(template), *chats) == [[told], [told, then], [told]]

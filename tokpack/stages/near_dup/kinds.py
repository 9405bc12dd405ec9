"""What a kept document has in common with an earlier kept one that it is near as a whole."""

from typing import Final

SAME_ANSWER, SAME_PROMPT = 1, 2
KINDS: Final = {
    SAME_PROMPT: "same_prompt_other_answer",
    SAME_ANSWER: "other_prompt_same_answer",
}

"""The other side of `ReferenceProcess`: answers questions about a tokenizer, pickled, one at a time.

Imports `tokenizers` and nothing else, to be ready soon.
"""

from __future__ import annotations

import pickle
import sys
from typing import IO, Any

import tokenizers


def serve(backend: str, questions: IO[bytes], answers: IO[bytes]) -> None:
    """Until `questions` ends. `backend`: path of a tokenizer.json."""
    reference: Any = tokenizers.Tokenizer.from_file(backend)
    while True:
        try:
            what, about = pickle.load(questions)
        except EOFError:
            return
        if what == "encode":
            items = reference.encode_batch(about, add_special_tokens=False)
            answer: Any = [(item.ids, item.offsets) for item in items]
        else:
            rows, plain = about
            answer = reference.decode_batch(rows, skip_special_tokens=plain)
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)

"""The other side of `ReferenceProcess`: answers questions about a tokenizer, pickled, one at a time from each
process that asks.

    python -m tokpack.encoding.reference_server TOKENIZER_JSON [SOCKET ...]

Asked by standard input, and by a thread each through sockets given by their descriptors. Imports `tokenizers`
and nothing else, to be ready soon.
"""

from __future__ import annotations

import pickle
import socket
import sys
from threading import Thread
from typing import IO, Any

import tokenizers


def serve(reference: Any, questions: IO[bytes], answers: IO[bytes]) -> None:
    """Until `questions` ends."""
    while True:
        try:
            what, about = pickle.load(questions)
        except (EOFError, OSError):
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
    loaded = tokenizers.Tokenizer.from_file(sys.argv[1])
    for name in sys.argv[2:]:
        other = socket.socket(fileno=int(name))
        Thread(target=serve, args=(loaded, other.makefile("rb"), other.makefile("wb"))).start()
    serve(loaded, sys.stdin.buffer, sys.stdout.buffer)

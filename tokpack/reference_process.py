"""`tokenizers` in a process of its own.

Loading a vocabulary holds the interpreter lock for a third of a second, and so would keep every stage from
its work. Questions and answers are pickled through pipes, one at a time.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa

from tokpack.token_places import Encoded, encode_reference


class ReferenceProcess:
    """Starts at once and loads meanwhile. Safe to share between threads; ends with its owner."""

    def __init__(self, backend: Path) -> None:
        # -P: a folder of the user's that happens to be named like a package must not shadow it.
        command = [sys.executable, "-P", "-m", __name__, str(backend)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._lock = threading.Lock()
        self.close = weakref.finalize(self, _close, self._process)

    def encode(self, text: pa.LargeStringArray) -> Encoded:
        """`encode_reference` over there. Raises OSError or EOFError when the process is gone."""
        return cast(Encoded, self._ask("encode", text))

    def decode(self, ids: list[int]) -> str:
        """Text of the ids, special tokens written out. Raises as `encode`."""
        return cast(str, self._ask("decode", ids))

    def _ask(self, what: str, about: Any) -> Any:
        if not self.close.alive:
            raise EOFError
        questions, answers = cast(IO[bytes], self._process.stdin), cast(IO[bytes], self._process.stdout)
        with self._lock:
            pickle.dump((what, about), questions)
            questions.flush()
            return pickle.load(answers)


def _close(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _serve(backend: str, questions: IO[bytes], answers: IO[bytes]) -> None:
    import tokenizers

    reference: Any = tokenizers.Tokenizer.from_buffer(Path(backend).read_bytes())
    while True:
        try:
            what, about = pickle.load(questions)
        except EOFError:
            return
        if what == "encode":
            pickle.dump(encode_reference(reference, about), answers)
        else:
            pickle.dump(reference.decode(about, skip_special_tokens=False), answers)
        answers.flush()


if __name__ == "__main__":
    _serve(sys.argv[1], sys.stdin.buffer, sys.stdout.buffer)

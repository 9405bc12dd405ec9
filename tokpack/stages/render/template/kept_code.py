"""What Jinja makes of a chat template, kept for the next process: of a long one it takes a tenth of a second,
three times over."""

from __future__ import annotations

import marshal
from collections.abc import Callable
from contextlib import suppress
from types import CodeType

from tokpack.stages.render.kept import Kept

SHORT = 1_000
"""Characters: what is shorter is compiled as soon as it is read."""


def kept_code(kind: str, source: str, make: Callable[[], CodeType]) -> CodeType:
    """What `make` gives, or gave before, for a template; `kind` says what else it does than Jinja."""
    if len(source) < SHORT:
        return make()
    kept = Kept("code", f"{kind}\n{source}")
    with suppress(ValueError, EOFError, TypeError):
        if (data := kept.read()) is not None:
            code: CodeType = marshal.loads(data)
            return code
    code = make()
    kept.write(marshal.dumps(code))
    return code

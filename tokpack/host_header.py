"""The name in the `Host` of a request: a web page must not reach a server here by a name of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable

_HOST = re.compile(rb"(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+))(?::[0-9]{0,5})?", re.IGNORECASE)


def host_of(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """In lower case, without its port; None unless there is one `Host`, and it is a name or an address."""
    given = [value for name, value in headers if name.lower() == b"host"]
    found = _HOST.fullmatch(given[0]) if len(given) == 1 else None
    return (found[1] or found[2]).decode("ascii").lower() if found else None

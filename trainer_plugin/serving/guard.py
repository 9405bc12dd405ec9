"""Who may ask: a key compared in constant time, and the names that `Host` may have."""

from __future__ import annotations

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from tokpack.host_header import host_of
from trainer_plugin.serving.errors import ApiError

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Guard:
    """Refuses before a body is read. `/health` needs no key.

    On loopback the host's name is checked, so that a web page cannot reach the server by a name of its own;
    bodies have to be JSON, which a page may not send elsewhere without asking.
    """

    def __init__(self, app: ASGIApp, *, key: str | None, hosts: tuple[str, ...]) -> None:
        self.app, self.hosts = app, hosts
        self._key = None if key is None else key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (error := self._refusal(scope)) is not None:
            await error.response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _refusal(self, scope: Scope) -> ApiError | None:
        headers = {name.decode("latin-1").lower(): value for name, value in scope["headers"]}
        host = host_of(scope["headers"])
        if host is None:
            return ApiError("the header Host has to be one name or address", 400)
        if self.hosts and host not in self.hosts:
            return ApiError("this server answers to this machine alone", 403)
        if self._key is None or scope["path"] == "/health":
            return None
        kind, _, given = headers.get("authorization", b"").partition(b" ")
        if kind.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._key):
            return None
        return ApiError("the API key is missing or wrong", 401, code="invalid_api_key")

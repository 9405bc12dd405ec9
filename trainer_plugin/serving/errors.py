"""Errors as OpenAI shapes them: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import json
from typing import Any

from starlette.responses import JSONResponse

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
}

HEADERS = {
    401: {"www-authenticate": "Bearer"},
    413: {"connection": "close"},  # the body is not waited for
    429: {"retry-after": "1"},
}


class Json(JSONResponse):
    """In ASCII: what came in may hold halves of characters, which no UTF-8 can say."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode("ascii")


class ApiError(Exception):
    """What the client is told, with its HTTP status. `param`: the field of the body."""

    def __init__(self, message: str, status: int = 400, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.message, self.status, self.param, self.code = message, status, param, code

    def body(self) -> dict[str, Any]:
        kind = KINDS.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {
            "error": {"message": self.message, "type": kind, "param": self.param, "code": self.code},
        }

    def response(self) -> Json:
        return Json(self.body(), self.status, HEADERS.get(self.status))


def unknown_model(name: str, known: list[str]) -> ApiError:
    return ApiError(
        f"the model {name!r} is not served here; served are: {', '.join(known)}",
        404,
        param="model",
        code="model_not_found",
    )


def unknown_adapter(name: str, known: list[str]) -> ApiError:
    """The base is none: it cannot be unloaded."""
    return ApiError(
        f"no adapter {name!r} is loaded; loaded are: {', '.join(known) or 'none'}",
        404,
        param="lora_name",
        code="model_not_found",
    )


def queue_full() -> ApiError:
    return ApiError("too many requests wait already; try again", 429, code="queue_full")


def timed_out(seconds: float) -> ApiError:
    return ApiError(f"the answer took more than {seconds:g} seconds", 504, code="timeout")


def failed() -> ApiError:
    return ApiError("the model failed on this request; the server's log says why", 500)

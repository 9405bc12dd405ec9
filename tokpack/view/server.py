"""The routes of the page. It answers on loopback alone, to who knows the token in the address.

Other names than loopback's in `Host` are refused, so that no web page reaches it by a name of its own; the
content security policy allows the page's own files and nothing else, and nothing is fetched from elsewhere.
"""

from __future__ import annotations

import secrets
import socket
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.convertors import IntegerConvertor, register_url_convertor
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tokpack.errors import OutputError, TokpackError
from tokpack.host_header import host_of
from tokpack.view.detail import Shown
from tokpack.view.table import PAGE, Query

FILES = Path(__file__).parent / "files"
SCRIPTS = ("lists.js", "document.js", "view.js")
KINDS = {"page.html": "text/html", "view.css": "text/css", **dict.fromkeys(SCRIPTS, "text/javascript")}
HOSTS = ["127.0.0.1", "localhost"]
LISTS = ("rows", "kept", "left_out")
LONGEST_SEARCH = 1000
MOST_ORDERS = 8
SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}


class _DocId(IntegerConvertor):
    """Numbers that an int64 holds; Python reads no integer of thousands of digits."""

    regex = "[0-9]{1,18}"


register_url_convertor("doc_id", _DocId())


class SafeHeaders:
    """Headers of `SAFE` on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in SAFE.items()]
            await send(message)

        await self.app(scope, receive, with_headers)


class KnownHosts:
    """Refuses other names in `Host` than `HOSTS`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        known = host_of(scope["headers"]) in HOSTS
        await (self.app if known else Response("another host", 400))(scope, receive, send)


def make_app(shown: Shown, token: str) -> Starlette:
    """The application; every address begins with `/TOKEN/`."""
    pages = _Pages(shown)
    routes = [
        Route("/", _file("page.html")),
        *(Route(f"/{name}", _file(name)) for name in KINDS),
        Route("/api/summary", pages.summary),
        Route("/api/list/{what}", pages.listed),
        Route("/api/kept/{doc_id:doc_id}", pages.kept),
        Route("/api/left-out/{doc_id:doc_id}", pages.left_out),
        Route("/api/keep/{doc_id:doc_id}", pages.keep, methods=["POST"]),
    ]
    return Starlette(
        routes=[Mount(f"/{token}", routes=routes)],
        middleware=[Middleware(SafeHeaders), Middleware(KnownHosts)],
        exception_handlers={TokpackError: _refused},
    )


def _file(name: str) -> Callable[[Request], Response]:
    def answer(request: Request) -> Response:
        return Response((FILES / name).read_bytes(), media_type=KINDS[name])

    return answer


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, TokpackError)
    return JSONResponse(
        {"error": error.what, "hint": error.hint}, 500 if isinstance(error, OutputError) else 400
    )


class _Pages:
    """What the routes answer. Orders of the last few queries are kept, so that pages of one cost nothing."""

    def __init__(self, shown: Shown) -> None:
        self.shown = shown
        self._orders: OrderedDict[Any, Any] = OrderedDict()
        self._lock = Lock()
        counts = shown.table.pieces["packed_row"].to_numpy()
        self._firsts = np.searchsorted(counts, np.arange(shown.table.packed.manifest["rows"]))

    def summary(self, request: Request) -> Response:
        return JSONResponse(self.shown.summary())

    def listed(self, request: Request) -> Response:
        what = request.path_params["what"]
        if what not in LISTS:
            return JSONResponse({"error": "no such list"}, 404)
        query = _query(request)
        if query.text and what != "rows" and not self.shown.texts.is_ready(what):
            return self._then_texts({"waiting": True, "done": self.shown.texts.done})
        order = self._order(what, query)
        start = query.page * PAGE
        places = [int(at) for at in order[start : start + PAGE]]
        lines = {
            "rows": lambda at: self.shown.row(at, self._firsts),
            "kept": self.shown.kept_line,
            "left_out": self.shown.left_out_line,
        }[what]
        found = {"total": len(order), "page": query.page, "pages": max(1, -(-len(order) // PAGE))}
        return self._then_texts(found | {"items": [lines(at) for at in places]})

    def _then_texts(self, answer: dict[str, Any]) -> Response:
        """What goes on behind the page begins when a first list is answered."""
        return JSONResponse(answer, background=BackgroundTask(self.shown.texts.start))

    def _order(self, what: str, query: Query) -> Any:
        languages = self.shown.texts.is_ready("languages")
        key = what, languages, replace(query, page=0)
        with self._lock:
            if key not in self._orders:
                self._orders[key] = self.shown.order(what, query)
                if len(self._orders) > MOST_ORDERS:
                    self._orders.popitem(last=False)
            self._orders.move_to_end(key)
            return self._orders[key]

    def kept(self, request: Request) -> Response:
        piece, copy = (_number(request, name) for name in ("piece", "copy"))
        found = self.shown.kept(request.path_params["doc_id"], piece, copy)
        return JSONResponse(found) if found else JSONResponse({"error": "no such document"}, 404)

    def left_out(self, request: Request) -> Response:
        found = self.shown.left_out(request.path_params["doc_id"])
        return JSONResponse(found) if found else JSONResponse({"error": "no such document"}, 404)

    def keep(self, request: Request) -> Response:
        """Put a left-out document on the keep list, or with `?wanted=0` take it off."""
        doc_id, wanted = request.path_params["doc_id"], request.query_params.get("wanted") != "0"
        found = self.shown.left_out(doc_id)
        if found is None or (wanted and found["refused"]):
            return JSONResponse({"error": found["refused"] if found else "no such document"}, 400)
        note = f"{found['reason']}, {found['source']} row {found['number']}"
        self.shown.wishes.set(doc_id, wanted, note)
        return JSONResponse({"wanted": wanted, "all": len(self.shown.wishes.doc_ids)})


def _query(request: Request) -> Query:
    given = request.query_params
    return Query(
        text=given.get("text", "")[:LONGEST_SEARCH],
        source=given.get("source", ""),
        reason=given.get("reason", ""),
        language=given.get("language", ""),
        shortest=_number(request, "shortest"),
        longest=_number(request, "longest"),
        sort=given.get("sort", ""),
        descending=given.get("descending") == "1",
        page=_number(request, "page"),
    )


def _number(request: Request, name: str) -> int:
    text = request.query_params.get(name, "")
    return min(int(text), 1 << 31) if text.isascii() and text.isdecimal() and len(text) < 12 else 0


def new_token() -> str:
    return secrets.token_urlsafe(24)


def loopback_socket(port: int) -> socket.socket:
    """Listens already, so that an early browser waits; 0: any free port.

    Raises OutputError where the port is taken.
    """
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(("127.0.0.1", port))
        made.listen()
    except (OSError, OverflowError) as error:
        made.close()
        raise OutputError(
            f"port {port} cannot be used: {getattr(error, 'strerror', None) or error}",
            where=f"--port {port}",
            hint="give another, or leave --port out for a free one",
        ) from None
    return made


def serve(app: Starlette, bound: socket.socket) -> None:
    """Answer until the process is interrupted."""
    import uvicorn

    config = uvicorn.Config(app, log_level="error", access_log=False, lifespan="off", server_header=False)
    uvicorn.Server(config).run(sockets=[bound])

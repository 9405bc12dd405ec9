"""A Hugging Face Hub of one dataset repository, small enough for tests: create, commit, list, fetch."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

COMMIT = "0123456789" * 4


class FakeHub:
    """`files`: path -> bytes of the repository; `commits`: what was committed, one list of paths each."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.commits: list[list[str]] = []
        self.repo = self.address = ""
        self.private: bool | None = None
        self.kind = "datasets"

    def entry(self, path: str) -> dict[str, Any]:
        return {"type": "file", "path": path, "size": len(self.files[path]), "oid": COMMIT}

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        """Status, and JSON or bytes."""
        if path == "/api/repos/create":
            wanted = json.loads(body)
            self.repo = "/".join(filter(None, [wanted.get("organization") or "me", wanted["name"]]))
            self.private = wanted.get("private") or wanted.get("visibility") == "private"
            self.kind = "datasets" if wanted.get("type") == "dataset" else "models"
            return 200, {"url": self._page(), "name": self.repo, "id": "1"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/datasets/") and "/resolve/" in path:
            name = path.split("/resolve/", 1)[1].split("/", 1)[1]
            return (200, self.files[name]) if name in self.files else (404, {"error": "Entry not found"})
        rest = path.removeprefix(f"/api/{self.kind}/{self.repo}")
        if not self.repo or rest == path:
            return 404, {"error": "Repository not found"}
        return self._of_repo(rest.lstrip("/"), body)

    def _of_repo(self, rest: str, body: bytes) -> tuple[int, Any]:
        kind = rest.split("/", 1)[0]
        if kind == "preupload":
            asked = json.loads(body)["files"]
            modes = [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]
            return 200, {"files": modes}
        if kind == "commit":
            return 200, self._commit([json.loads(line) for line in body.splitlines()])
        if kind == "paths-info":
            asked = json.loads(body)["paths"] if body.startswith(b"{") else _form(body)
            return 200, [self.entry(path) for path in asked if path in self.files]
        if kind == "tree":
            below = unquote(rest.split("/", 2)[2]) + "/" if rest.count("/") > 1 else ""
            return 200, [self.entry(path) for path in self.files if path.startswith(below)]
        siblings = [{"rfilename": path} for path in self.files]
        return 200, {"id": self.repo, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}

    def _page(self) -> str:
        return f"{self.address}/{'datasets/' if self.kind == 'datasets' else ''}{self.repo}"

    def _commit(self, lines: list[dict[str, Any]]) -> dict[str, Any]:
        for line in lines:
            if line["key"] == "file":
                self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del self.files[line["value"]["path"]]
        self.commits.append([line["value"]["path"] for line in lines if "path" in line["value"]])
        return {"commitUrl": f"{self._page()}/commit/{COMMIT}", "commitOid": COMMIT, "pullRequestUrl": None}


def _form(body: bytes) -> list[str]:
    fields = [pair.split("=", 1) for pair in body.decode().split("&")]
    return [unquote(value.replace("+", " ")) for name, value in fields if name == "paths"]


def run_with(hub: FakeHub, home: Path, code: str, *arguments: object) -> str:
    """What `code` prints in a process of its own, for which the hub is the Hugging Face Hub."""
    with serving(hub) as endpoint:
        told = {
            "HF_ENDPOINT": endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": "hf_test",
            "HF_HUB_DISABLE_XET": "1",
        }
        done = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, **told, "HF_HOME": str(home)},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@contextmanager
def serving(hub: FakeHub) -> Iterator[str]:
    """The address of a server on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            path = unquote(self.path.split("?", 1)[0])
            status, found = hub.answer(self.command, path, body)
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
            if (wanted := self.headers.get("Range")) and status == 200:
                first, last = wanted.removeprefix("bytes=").split("-")
                whole, status = len(data), 206
                data = data[int(first) : int(last or whole - 1) + 1]
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status == 206:
                self.send_header("Content-Range", f"bytes {first}-{last}/{whole}")
            if status == 404:
                missing = "EntryNotFound" if "resolve" in path else "RepoNotFound"
                self.send_header("X-Error-Code", missing)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hash(data) & 0xFFFFFFFF:x}"')
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        do_GET = do_POST = do_HEAD = _do

        def log_message(self, format: str, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        hub.address = f"http://127.0.0.1:{server.server_port}"
        yield hub.address
    finally:
        server.shutdown()
        server.server_close()

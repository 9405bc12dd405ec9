"""From a base and its adapters to a server that listens."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokpack.errors import UsageError
from tokpack.terminal.activity import Activity, counted
from trainer_plugin.adapters.loaded import BaseWeights
from trainer_plugin.serving.address import bound_socket, is_loopback
from trainer_plugin.serving.app import Access, make_app
from trainer_plugin.serving.engine import Engine, can_be_mixed
from trainer_plugin.serving.guard import LOOPBACK
from trainer_plugin.serving.run import load_served, server_of
from trainer_plugin.serving.values import Limits


@dataclass(slots=True)
class Listening:
    """A server whose address is bound already, so that an early client waits."""

    engine: Engine
    bound: socket.socket
    base_name: str
    server: Any
    host: str

    @property
    def address(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.bound.getsockname()[1]}/v1"

    def lines(self) -> list[str]:
        """What is served, and how it is batched."""
        loaded, limits = self.engine.loaded, self.engine.limits
        alone = [adapter.name for adapter in loaded.adapters.values() if not can_be_mixed(adapter)]
        lines = [
            f"served: {', '.join([self.base_name, *loaded.adapters])}",
            f"weights in {loaded.dtype.name}{', through 4 bits' if loaded.on_4_bits else ''}; up to "
            f"{counted(limits.rows, 'answer')} at once, {counted(limits.context, 'token')} each; "
            f"{limits.queue} more may wait",
        ]
        if alone:
            lines.append(f"batched by themselves, as PEFT does not mix them: {', '.join(alone)}")
        return lines

    def run(self) -> None:
        """Answer until the process is interrupted."""
        try:
            self.server.run(sockets=[self.bound])
        finally:
            self.bound.close()
            self.engine.close()


def prepare(
    base: str,
    adapters: Sequence[str],
    name: str,
    *,
    limits: Limits,
    host: str = "127.0.0.1",
    port: int = 0,
    key: str | None = None,
    adapters_below: Path | None = None,
    base_weights: BaseWeights = "auto",
    dtype: str = "auto",
    tell: Activity | None = None,
) -> Listening:
    """Bind first, as that fails in no time, then load and prove, then start the engine's thread."""
    if adapters_below is not None and not adapters_below.is_dir():
        raise UsageError("no such folder", where=f"--adapters-below {adapters_below}")
    bound = bound_socket(host, port)
    try:
        loaded, limits = load_served(
            base, adapters, limits=limits, dtype=dtype, base_weights=base_weights, tell=tell
        )
        if name in loaded.adapters:
            raise UsageError(
                f"base and adapter are both named {name!r}", where="--name", hint="--adapter NAME=FOLDER"
            )
        engine = Engine(loaded, limits)
    except BaseException:
        bound.close()
        raise
    hosts = (*LOOPBACK, host) if is_loopback(host) else ()
    access = Access(key=key, hosts=hosts, adapters=adapters_below)
    return Listening(engine.start(), bound, name, server_of(make_app(engine, name, access)), host)

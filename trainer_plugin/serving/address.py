"""Where a server listens and who may ask; looked at before anything is loaded."""

from __future__ import annotations

import ipaddress
import socket
from pathlib import Path

from tokpack.errors import OutputError, UsageError

KEY = "TOKPACK_API_KEY"


def need_server() -> None:
    """Raises UsageError where the extra is not installed."""
    from importlib.util import find_spec

    for package in ("starlette", "uvicorn"):
        if find_spec(package) is None:
            raise UsageError(
                f"{package} is not installed", where="tokpack serve", hint='pip install "tokpack[serve]"'
            )


def base_name_of(base: str) -> str:
    """How the base is asked for: a folder by its name, a model of the Hub as it is named there."""
    return Path(base).resolve().name if Path(base).exists() else base


def bound_socket(host: str, port: int) -> socket.socket:
    """Listens already. port 0: any free one. Raises OutputError where it is taken."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        made = socket.socket(family, kind, protocol)
    except (OSError, OverflowError) as error:
        raise _cannot_bind(host, port, error) from None
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind(address)
        made.listen(128)
    except (OSError, OverflowError) as error:
        made.close()
        raise _cannot_bind(host, port, error) from None
    return made


def _cannot_bind(host: str, port: int, error: Exception) -> OutputError:
    return OutputError(
        f"{host}:{port} cannot be used: {getattr(error, 'strerror', None) or error}",
        where=f"--host {host} --port {port}",
        hint="give another port; 0 takes any free one",
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_key(host: str, key: str | None) -> None:
    """Raises UsageError for an address that others reach without a key."""
    if not key and not is_loopback(host):
        raise UsageError(
            f"{host} is reached from other machines, and there is no API key",
            where=f"--host {host}",
            hint=f"set {KEY} to a long random word, as `openssl rand -hex 24` makes one",
        )
    if key is not None and (len(key) < 8 or not key.isascii() or not key.isprintable() or " " in key):
        raise UsageError("an API key has at least 8 characters of ASCII without spaces", where=KEY)

"""Start commands of the engines, and the files that run them."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokpack.terminal.activity import counted
from trainer_plugin.serve_config.limits import GGUF_ENGINES, vllm_rank

IMAGES = {
    "vllm": "vllm/vllm-openai:latest",
    "sglang": "lmsysorg/sglang:latest",
    "lmdeploy": "openmmlab/lmdeploy:latest",
    "llamacpp": "ghcr.io/ggml-org/llama.cpp:server",
    "ollama": "ollama/ollama:latest",
}
GPU = ("vllm", "sglang", "lmdeploy")


@dataclass(frozen=True, kw_only=True, slots=True)
class ServePlan:
    """What is served: paths as the engine sees them."""

    engine: str
    base: str
    """A folder or Hub name; of GGUF engines the file that llama.cpp's own script writes."""
    base_name: str
    adapters: dict[str, str]
    """Name -> folder, or GGUF file."""
    ranks: list[int]
    context: int
    dtype: str
    port: int
    source: str = ""
    """Of GGUF engines: the folder of the base before its conversion."""


def command(plan: ServePlan) -> list[str]:
    """The start command with every setting that matters for adapters."""
    return {
        "vllm": _vllm,
        "sglang": _sglang,
        "lmdeploy": _lmdeploy,
        "llamacpp": _llamacpp,
        "ollama": _ollama,
    }[plan.engine](plan)


def _vllm(plan: ServePlan) -> list[str]:
    made = ["vllm", "serve", plan.base, "--served-model-name", plan.base_name, "--host", "127.0.0.1"]
    made += ["--port", str(plan.port), "--dtype", plan.dtype, "--max-model-len", str(plan.context)]
    if plan.adapters:
        modules = [json.dumps({"name": name, "path": path}) for name, path in plan.adapters.items()]
        made += ["--enable-lora", "--max-lora-rank", str(vllm_rank(plan.ranks))]
        made += ["--max-loras", str(len(modules)), "--max-cpu-loras", str(len(modules))]
        made += ["--lora-modules", *modules]
    return made


def _sglang(plan: ServePlan) -> list[str]:
    made = ["python", "-m", "sglang.launch_server", "--model-path", plan.base, "--host", "127.0.0.1"]
    made += ["--served-model-name", plan.base_name, "--port", str(plan.port)]
    made += ["--dtype", plan.dtype, "--context-length", str(plan.context)]
    if plan.adapters:
        made += ["--enable-lora", "--max-lora-rank", str(max(plan.ranks))]
        made += ["--max-loras-per-batch", str(len(plan.adapters) + 1), "--lora-paths"]
        made += [f"{name}={path}" for name, path in plan.adapters.items()]
    return made


def _lmdeploy(plan: ServePlan) -> list[str]:
    made = ["lmdeploy", "serve", "api_server", plan.base, "--backend", "pytorch", "--dtype", plan.dtype]
    made += ["--model-name", plan.base_name, "--server-name", "127.0.0.1", "--server-port", str(plan.port)]
    made += ["--session-len", str(plan.context)]
    if plan.adapters:
        made += ["--adapters", *(f"{name}={path}" for name, path in plan.adapters.items())]
    return made


def _llamacpp(plan: ServePlan) -> list[str]:
    made = ["llama-server", "--model", plan.base, "--alias", plan.base_name, "--host", "127.0.0.1"]
    made += ["--port", str(plan.port), "--ctx-size", str(plan.context), "--jinja"]
    if plan.adapters:  # --lora-init-without-apply would leave them applied to every request
        made += ["--lora-scaled", ",".join(f"{path}:0" for path in plan.adapters.values())]
    return made


def _ollama(plan: ServePlan) -> list[str]:
    return ["ollama", "serve"]


def modelfile(plan: ServePlan, adapter: str) -> str:
    """Ollama's: one model for each adapter, with the context that it would cut to 4,096 otherwise."""
    return f"FROM {plan.base}\nADAPTER {plan.adapters[adapter]}\nPARAMETER num_ctx {plan.context}\n"


def script(plan: ServePlan) -> str:
    """start.sh"""
    lines = ["#!/bin/sh", "# Paths are absolute: it can be run from anywhere.", "set -eu"]
    if plan.engine in GGUF_ENGINES:
        first = shlex.quote(f"first: {_conversion(plan)}")
        lines.append(f"test -f {shlex.quote(plan.base)} || {{ echo {first} >&2; exit 1; }}")
    if plan.engine == "ollama":
        folder = Path(plan.base).parent
        lines.append("# `ollama serve` has to run already.")
        for name in plan.adapters:
            lines.append(f"ollama create {name} -f {shlex.quote(str(folder / f'Modelfile.{name}'))}")
    else:
        lines.append(f"exec {shlex.join(command(plan))}")
    return "\n".join(lines) + "\n"


def _conversion(plan: ServePlan) -> str:
    """llama.cpp's own script writes the base: tokenizers of GGUF are its own matter."""
    return f"python convert_hf_to_gguf.py {shlex.quote(plan.source)} --outfile {shlex.quote(plan.base)}"


def unit(plan: ServePlan, folder: Path) -> str:
    """A systemd unit. Paths with spaces are quoted as systemd reads them."""
    script = str(folder / "start.sh").replace("%", "%%").replace("$", "$$")
    start = "ollama serve" if plan.engine == "ollama" else f'/bin/sh "{script}"'
    return (
        f"[Unit]\nDescription={plan.base_name} and {counted(len(plan.adapters), 'adapter')} "
        f"by {plan.engine}\n"
        "After=network-online.target\nWants=network-online.target\n\n"
        f"[Service]\nExecStart={start}\nRestart=on-failure\nRestartSec=5\nDynamicUser=yes\n"
        "StateDirectory=tokpack-served\nEnvironment=HOME=/var/lib/tokpack-served HF_HUB_OFFLINE=1\n"
        "NoNewPrivileges=yes\nProtectSystem=strict\nPrivateTmp=yes\n\n[Install]\nWantedBy=multi-user.target\n"
    )


def compose(plan: ServePlan, folder: Path) -> str:
    """A Docker Compose file; what is served is mounted read-only at the paths that it has here."""
    places = [folder, *(Path(path) for path in (plan.base, plan.source, *plan.adapters.values()))]
    mounts = sorted(
        {str(place if place.is_dir() else place.parent) for place in places if place.is_absolute()}
    )
    started = _inside(plan)
    lines = ["services:", "  model:", f"    image: {IMAGES[plan.engine]}", "    restart: unless-stopped"]
    lines += ["    ports:", f'      - "127.0.0.1:{plan.port}:{plan.port}"', "    volumes:"]
    lines += [f"      - {_plain(f'{mount}:{mount}:ro')}" for mount in mounts]
    if started:
        lines.append(f"    command: {_plain(started)}")
    if plan.engine in GPU:
        lines += ["    ipc: host", "    deploy:", "      resources:", "        reservations:"]
        lines += ["          devices:", "            - driver: nvidia", "              count: 1"]
        lines += ["              capabilities: [gpu]"]
    return "\n".join(lines) + "\n"


def _plain(value: object) -> str:
    """As YAML, without variables that Compose would put in."""
    return json.dumps(value).replace("$", "$$")


def _inside(plan: ServePlan) -> list[str]:
    """The command inside the image, whose entry point may be a part of it; it listens for its container."""
    made = ["0.0.0.0" if part == "127.0.0.1" else part for part in command(plan)]
    return {"vllm": made[2:], "llamacpp": made[1:], "ollama": []}.get(plan.engine, made)


def readme(plan: ServePlan, notes: Sequence[str]) -> str:
    """Ten lines or so."""
    names = ", ".join(f"`{name}`" for name in plan.adapters) or "none"
    lines = [f"# {plan.base_name} by {plan.engine}", "", f"Base: `{plan.base}`. Adapters: {names}.", ""]
    if plan.engine in GGUF_ENGINES:
        lines += [f"1. `{_conversion(plan)}` (from llama.cpp)", "2. `sh start.sh`", ""]
    else:
        lines += ["1. `sh start.sh`, or `docker compose up`, or install `served.service` with systemd", ""]
    if plan.engine == "llamacpp" and plan.adapters:
        lines += [
            "The adapters are loaded with a scale of 0. A request names one by its place in the order above:",
            '`"lora": [{"id": 0, "scale": 1}]`, and without that the base answers. Requests for different',
            "adapters are not batched.",
            "",
        ]
    elif plan.adapters:
        lines += ["A request names an adapter in `model`.", ""]
    if plan.adapters and plan.engine != "ollama":
        lines += ["Prove that it answers with the adapter:", "", "```console", _proof(plan), "```", ""]
    lines += [f"- {note}" for note in notes]
    return "\n".join(lines).rstrip() + "\n"


def _proof(plan: ServePlan) -> str:
    """The command that asks for the first adapter."""
    name = next(iter(plan.adapters))
    made = ["tokpack", "verify-served", f"http://127.0.0.1:{plan.port}", "--adapter", "FOLDER", "--model"]
    if plan.engine != "llamacpp":
        return shlex.join([*made, name])
    return shlex.join([*made, plan.base_name, "--extra-body", '{"lora": [{"id": 0, "scale": 1}]}'])

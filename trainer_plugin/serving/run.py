"""`tokpack serve`: load, prove, bind, answer until interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import FrameType
from typing import Any

from tokpack.terminal.activity import Activity
from trainer_plugin.adapters.loaded import AdaptedModel, BaseWeights, load_adapted
from trainer_plugin.checkpoints.adapter_folder import read_adapters
from trainer_plugin.serving.values import Limits

CONNECTIONS = 512


def load_served(
    base: str,
    adapters: Sequence[str] = (),
    *,
    limits: Limits,
    dtype: str = "auto",
    base_weights: BaseWeights = "auto",
    tell: Activity | None = None,
) -> tuple[AdaptedModel, Limits]:
    """The base with its adapters, proven to answer in a batch as alone, and the limits it can hold."""
    from trainer_plugin.serving.batch import prove_batches
    from trainer_plugin.serving.engine import check_servable

    tell = tell or Activity(quiet=True)
    read = read_adapters(adapters)
    for adapter in read:
        check_servable(adapter)
    loaded = load_adapted(base, read, dtype=dtype, base_weights=base_weights, tell=tell)
    with tell.doing("proving that rows of a batch are as each alone"):
        prove_batches(loaded)
    config = loaded.network.config.get_text_config(decoder=True)
    longest = getattr(config, "max_position_embeddings", None) or limits.context
    return loaded, replace(limits, context=min(limits.context, int(longest), limits.slots))


def server_of(app: Any) -> Any:
    """A uvicorn server for it; `run(sockets=[...])` answers until interrupted."""
    import uvicorn

    class Server(uvicorn.Server):
        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            """Once: a second signal would end the answers in work with tracebacks."""
            if not self.should_exit:
                super().handle_exit(sig, frame)

    return Server(
        uvicorn.Config(
            app,
            log_level="error",
            access_log=False,
            lifespan="off",
            server_header=False,
            limit_concurrency=CONNECTIONS,
            timeout_graceful_shutdown=5,
        )
    )

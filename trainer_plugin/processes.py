"""A training in several processes, as torchrun starts them: which is the first, and how they end."""

from __future__ import annotations

import gc
import os


def is_first_process() -> bool:
    """Whether this process is the only one, or the one that writes and tells for all. Imports no torch."""
    return os.environ.get("RANK", "0") == "0"


def leave_processes() -> None:
    """End the communication of processes before their interpreters end; of one process: nothing.

    The last call of a script under torchrun, when the trainer is out of scope. A thread of gloo lets go of
    the tensors of a collective some time after everybody has the result; when the interpreter has begun to
    end by then, that aborts the process (exit code -6), though all its work is done. The threads end with
    their process group, which a trainer's wrapped model holds as well.
    """
    from torch import distributed

    if distributed.is_available() and distributed.is_initialized():
        gc.collect()
        distributed.barrier()
        distributed.destroy_process_group()

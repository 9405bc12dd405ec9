"""Peak memory and time of the loss over a large vocabulary: whole logits against chunks of them.

One row of 2,048 tokens, half of them trained, through a tiny frozen model with 262,144 ids; each way in a
process of its own. `python benchmarks/loss.py`
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time

VOCABULARY, TOKENS, HIDDEN = 1 << 18, 2048, 64
WAYS = ("whole", "trained tokens", "chunks")


def measure(way: str) -> None:
    """Prints MiB that the process grew by, and seconds of processor time, of one step."""
    import numpy as np
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainer_plugin import PackedCollator, prepare_model
    from trainer_plugin.losses.chunked_loss import ChunkedLoss
    from trainer_plugin.losses.loss import token_losses

    torch.manual_seed(0)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": HIDDEN, "num_hidden_layers": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, num_attention_heads=2, **sizes))
    prepare_model(model, "tokpack", probe=False)
    model.requires_grad_(False).train()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    ids = np.random.default_rng(0).integers(3, VOCABULARY, TOKENS)
    labels = np.where(np.arange(TOKENS) % 2, ids, -100)
    batch = PackedCollator()([{"input_ids": ids, "labels": labels, "seq_lengths": [TOKENS // 2] * 2}])
    wanted = batch.pop("labels")
    before, started = peak(), time.process_time()
    if way == "whole":
        loss = model(**batch, labels=wanted).loss
    elif way == "trained tokens":
        loss = token_losses(model(**batch).logits, wanted).mean()
    else:
        loss = ChunkedLoss(model)(model, batch, wanted).mean()
    loss.backward()
    print(f"{way:>16}{peak() - before:>12,.0f}{time.process_time() - started:>12.1f}")


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(sys.argv[1])
    else:
        print(f"{'logits':>16}{'grown, MiB':>12}{'seconds':>12}", flush=True)
        for way in WAYS:
            subprocess.run([sys.executable, __file__, way], check=True)

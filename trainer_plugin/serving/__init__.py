"""`tokpack serve`: one base and several adapters behind OpenAI's HTTP interface, on one machine.

    request ─▶ wishes, prompts ─▶ engine: a bounded queue, one thread ─▶ batch: rows of one forward pass
    answer  ◀─ shapes          ◀─ text: from tokens, to a stop string ◀─ sampling: from logits to tokens

`app` holds the routes, `guard` who may ask, `run` the start. Nothing here is imported by training.
"""

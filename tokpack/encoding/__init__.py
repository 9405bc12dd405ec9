"""Text to token ids: the tokenizer as `AutoTokenizer` knows it, its fast path, and the proof of that path.

    tokenizer                               what the stages ask
    snapshot                                what `AutoTokenizer` says of a folder, asked once
    backend_limits                          what a tokenizer.json may ask for
    fast_plan, fast_proof, fast_tokenizer   gigatoken, proved equal to `tokenizers`
    proved                                  what was proved before, kept for the next run
    reference_process, reference_server     `tokenizers` in a process beside, for the proofs and the slow path
    token_places                            where each token stands in its text; the slow path itself
    unicode                                 NFC of a column

Nothing is imported here: `reference_server` has to be ready soon.
"""

"""Stage 2: rows of any recognised shape become documents: messages, texts, pairs or tokens."""

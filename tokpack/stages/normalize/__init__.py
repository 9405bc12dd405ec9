"""Stage 2: rows of any recognized shape become documents: messages, texts, pairs or tokens."""

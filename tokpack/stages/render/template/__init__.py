"""A chat template as a program: rendered as transformers does, within limits, and asked what it wants."""

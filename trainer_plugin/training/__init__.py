"""A training run: the trainers, what they say, refuse and write down."""

"""Where in a rendered chat each message, each turn and each segment of an answer lies: the reference."""

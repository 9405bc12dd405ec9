"""How packed rows run through a model: attention and other mixers that stay inside each document."""

"""`tokpack clean`: the same documents that `pack` would keep, written as text.

cleaning            the command
formats             the shapes of text that can be written
learned_tokenizer   to count with, where none is given
"""

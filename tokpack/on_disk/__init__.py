"""A packed dataset as it lies on disk: manifest, ledger, shards, sums; read by form before it is believed.

The names of its columns and files are in `tokpack/schema.py`.
"""

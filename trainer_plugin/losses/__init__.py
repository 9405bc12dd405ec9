"""Losses of packed batches."""

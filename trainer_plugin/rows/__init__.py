"""Packed rows on their way to the model: the dataset, the order, the batch."""

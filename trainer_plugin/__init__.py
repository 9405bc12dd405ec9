"""Trainer plugin."""

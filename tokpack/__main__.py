"""`python -m tokpack`."""

from tokpack.cli import run

run()

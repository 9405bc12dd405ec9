"""`python -m tokpack`."""

from tokpack.cli import main

main()

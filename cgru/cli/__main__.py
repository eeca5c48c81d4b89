"""`python -m cgru.cli`."""

from cgru.cli import main

main(prog_name="cgru")

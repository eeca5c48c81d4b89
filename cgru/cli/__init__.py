"""The command line, a file a command. Needs click and rich: pip install "cgru[cli]".

Exit codes: 0, 1 for what failed, with a line on stderr that says why, and 2 for a command given wrongly.
"""

from __future__ import annotations

import sys
from typing import Any

try:
    import click
    import rich  # noqa: F401 - of the commands
except ImportError as error:
    sys.exit(f'cgru: the command line needs click and rich: pip install "cgru[cli]" ({error})')

import cgru
from cgru.cli import bench, compare, convert, info, run

FAILURES = (ValueError, TypeError, RuntimeError, OSError, ImportError, MemoryError)
"""What the package and the files given to it may raise; anything else is a fault of the program and keeps its trace."""


class Commands(click.Group):
    """Commands whose failures are one line on stderr and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: D102
        try:
            return super().invoke(ctx)
        except (click.exceptions.Exit, click.Abort, BrokenPipeError):  # click ends these, the last one quietly
            raise
        except FAILURES as error:
            raise click.ClickException(str(error) or type(error).__name__) from error


@click.group(
    cls=Commands,
    commands=[info.info, convert.convert, run.run, compare.compare, bench.bench],
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(cgru.__version__, prog_name="cgru")
def main() -> None:
    """The gated recurrent unit, compiled."""

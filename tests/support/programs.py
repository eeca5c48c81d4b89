"""Programs that tests need: missing ones skip a test, but fail it in the continuous integration, which installs them."""

import os
import shutil

import pytest


def needs(*programs):
    """Skip the test where one of the programs is not installed."""
    missing = [program for program in programs if shutil.which(program) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"{', '.join(missing)}: not installed")
    if missing:
        pytest.skip(f"{', '.join(missing)}: not installed")

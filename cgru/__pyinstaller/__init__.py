"""What PyInstaller needs to freeze applications that use cgru; it asks by the entry point `pyinstaller40`."""

from __future__ import annotations

from pathlib import Path


def get_hook_dirs() -> list[str]:
    """Return the folders that hold hooks."""
    return [str(Path(__file__).parent)]

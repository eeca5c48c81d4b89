"""The package's own exception; everything else raises TypeError, ValueError or RuntimeError."""

import re

LONGEST = 2000
"""Characters of a message: about a screen."""

_UNPRINTABLE = re.compile(r"[^\n\x20-\x7e\xa0-\U0010ffff]")


class FormatError(ValueError):
    """A file or live object that cannot be mapped exactly to a GRU; names it, the field and what was expected.

    What a message quotes of a file may be of any length and hold any character: the middle of a message longer than a
    screen is left out, and what would steer a terminal is written as an escape sequence.

    >>> len(str(FormatError("m.onnx: expected a GRU, got " + "x" * 1_000_000))) <= LONGEST
    True
    >>> str(FormatError("got \x1b[2J"))
    'got \\\\x1b[2J'
    """

    def __init__(self, message: object) -> None:
        super().__init__(_short(str(message)))


def _short(message: str) -> str:
    if len(message) > LONGEST:
        start, end = LONGEST // 2, LONGEST // 4
        left_out = len(message) - start - end
        message = f"{message[:start]} ... {left_out:,} characters left out ... {message[-end:]}"
    escaped = _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), message)
    return escaped if len(escaped) <= LONGEST else escaped[:LONGEST]

"""The package's own exception; everything else raises TypeError, ValueError or RuntimeError."""


class FormatError(ValueError):
    """A file or live object that cannot be mapped exactly to a GRU; names it, the field and what was expected."""

"""Names for the types in the package's signatures; imported by type checkers only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Lengths = npt.NDArray[np.int64]
Shape = tuple[int | str, ...]
ActivationOption = str | tuple[str, float, float]
ActivationOptions = ActivationOption | Sequence[ActivationOption]
"""One for both directions, or two."""

"""A network's operators: ONNX's names and meaning, one file a family; `table.py` says what a row holds.

`OPERATORS` is all that a network may have. Besides ONNX's there is cgru.Stack, a whole
cgru.GRU or cgru.MinGRU. A row gives the shape of a result from those of its inputs, dynamic axes by
name (`sizes.py`), and the result itself in NumPy, which is the specification: clear, not fast.
"""

from __future__ import annotations

from cgru.model.nodes import convolution, dense, elementwise, movement, norm, recurrent, reduce, stack
from cgru.model.nodes.table import Operator

OPERATORS: dict[str, Operator] = {
    name: operator
    for family in (dense, elementwise, norm, convolution, movement, reduce, recurrent, stack)
    for name, operator in family.OPERATORS.items()
}

REFUSED = {"LSTM": "cgru has GRUs and plain RNNs; LSTM layers are not built yet"}
"""Operators that people ask for, and what to say of them."""

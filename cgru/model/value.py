"""A model as a value: a specification, its parameters, and how quantized ones are multiplied. It is never written to.

Loaders return values, engines run them, and the public classes hold one each; loading other weights into one of those
gives it another value. So whoever took a value, a stream or a tape, has the same model as long as it lives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.model import sparsity
from cgru.model.cells import gru as gru_cell
from cgru.model.layer import Stack
from cgru.model.precision import Arithmetic, Matrix, wide
from cgru.model.spec import Spec, from_options

if TYPE_CHECKING:
    from typing_extensions import Self

    from cgru.types import Array

    Parameters = Mapping[str, Array | Matrix]
    Take = Callable[[str, Any, tuple[int, ...]], Array]

FLOATS = Arithmetic()


class Value:
    """A specification with its parameters, under PyTorch's names and in its shapes, gates in the cell's order.

    >>> from cgru.model.spec import Spec
    >>> spec = Spec("GRU", 3, 8)
    >>> value = Value(spec, spec.initial(rng=0))
    >>> value.precision, value.stack.layers[0][0].bias.shape
    ('float32', (4, 8))
    """

    def __init__(
        self,
        spec: Spec,
        parameters: Parameters,  # all of the specification's, of its shapes and dtype; from here on nobody's else
        arithmetic: Arithmetic = FLOATS,
        xp: Any = np,  # the module of the parameters' arrays: NumPy, or CuPy for a model on a GPU
        block: sparsity.Block | None = None,
    ) -> None:
        self.spec = spec
        self.parameters = dict(parameters)
        self.arithmetic = arithmetic
        self.block = block
        """Of a pruned model, the blocks of weights that are zero or not as a whole; training leaves zeros zero."""
        first = next(array for name, array in self.parameters.items() if name.startswith("weight"))
        self.precision = first.precision if isinstance(first, Matrix) else "float32"
        """What weights are stored as; a float64 model's is "float32", too: it is not quantized."""
        self.stack = self._stack(xp)
        """The canonical layers."""

    def _stack(self, xp: Any) -> Stack:
        spec, limit = self.spec, self.arithmetic.input_limit
        layers, specs, names = [], spec.by_direction, spec.cell.shapes(1, 1, spec.bias)
        for ends, _ in spec.layers:
            directions = [{n: self.parameters[n + end] for n in names} for end in ends]
            pairs = zip(specs, directions, strict=True)
            layers.append(tuple(spec.cell.canonical(of_direction, own, limit, xp) for of_direction, own in pairs))
            limit = None  # a layer's inputs are the states of the one below
        return Stack(layers, spec.reverse, self.precision, self.arithmetic.compute)

    @classmethod
    def of(
        cls,
        spec: Spec,
        given: Parameters,
        arithmetic: Arithmetic = FLOATS,
        *,
        take: Take | None = None,  # (name, array, shape) -> a copy, or an error; of host memory where absent
        xp: Any = np,
        block: sparsity.Block | None = None,
    ) -> Self:
        """The value whose parameters are copies of those given, if they are all of the specification's and no others.

        No memory is asked for before names and shapes are checked.

        Raises
        ------
        ValueError
            A parameter is missing, unknown or of another shape; the message names it.
        TypeError
            A parameter is no array, or of another dtype than the model.
        """
        shapes = spec.shapes
        missing = [name for name in shapes if name not in given]
        surplus = [str(name) for name in given if name not in shapes]
        if missing or surplus:
            complaints = [f"missing {checks.listed(missing)}"] * bool(missing)
            complaints += [f"unknown {checks.listed(surplus)}"] * bool(surplus)
            raise ValueError(f"state_dict: expected {checks.listed(shapes)}; {'; '.join(complaints)}")
        copies: dict[str, Array | Matrix] = {}
        for name, shape in shapes.items():
            array = given[name]
            if not isinstance(array, Matrix):
                copies[name] = take(name, array, shape) if take else copied(name, array, spec.dtype, shape)
            elif array.shape == shape:
                copies[name] = array
            else:
                raise ValueError(f"{name}: expected {shape} {array.precision}, got {array.shape}")
        return cls(spec, copies, arithmetic, xp, block)

    def wide(self) -> dict[str, Array]:
        """The parameters as arrays, not copied: a quantized model's as the float32 numbers that they stand for."""
        return {name: wide(array) for name, array in self.parameters.items()}

    def weighing_state(self) -> dict[str, Array]:
        """The parameters, not copied, of the equal model with update_gate="state"; for gates that f(-a) = 1 - f(a)."""
        if self.spec.update_gate == "state":
            return self.wide()
        return gru_cell.weighing_the_other(self.wide(), self.spec.hidden_size)

    @property
    def weight_bytes(self) -> int:
        """What the weights take in memory, scales included, biases not."""
        return sum(array.nbytes for name, array in self.parameters.items() if name.startswith("weight"))

    def __reduce__(self) -> tuple[Any, ...]:
        held = (self.spec.kind, self.spec.options, self.parameters, self.arithmetic)
        return _restored, held if self.block is None else (*held, self.block)

    def pruned(self, density: float, block: sparsity.Block) -> Self:
        """This value with that share of the blocks of each matrix, the largest ones; of U all on the diagonal."""
        parameters = dict(self.parameters)
        for name, array in self.parameters.items():
            if name.startswith("weight"):
                own = name.startswith("weight_hh")
                parameters[name] = sparsity.pruned(wide(array), self.spec.hidden_size, density, block, own)
        return type(self)(self.spec, parameters, self.arithmetic, block=block)

    @property
    def density(self) -> float:
        """The share of weights in blocks that are not zero; 1 of a model that was not pruned."""
        if self.block is None:
            return 1.0
        weights = [wide(array) for name, array in self.parameters.items() if name.startswith("weight")]
        kept = sum(int(sparsity.held(array, self.spec.hidden_size, self.block).sum()) for array in weights)
        return kept / max(1, sum(array.size for array in weights))


def _restored(
    kind: str,
    options: Mapping[str, Any],
    parameters: Parameters,
    arithmetic: Arithmetic,
    block: sparsity.Block | None = None,
) -> Value:
    return Value.of(from_options(kind, options), parameters, arithmetic, block=block)


def copied(name: str, value: object, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    """A contiguous copy of an array given as a parameter."""
    return np.array(checks.array(name, value, dtype, shape), order="C")


FACES: dict[str, Callable[[Value], Any]] = {}
"""By kind what makes the public object that holds a value; the classes in cgru/gru.py enter themselves."""


def face(value: Value) -> Any:
    """The public object that holds a value: a cgru.GRU, a cgru.GRUCell."""
    return FACES[value.spec.kind](value)

"""What layers of a network's list share: arguments, parameters, and the place in a network where one is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from cgru import checks
from cgru.model import timing
from cgru.model.nodes import OPERATORS
from cgru.model.nodes.sizes import Size
from cgru.model.nodes.table import described
from cgru.nodes.activations import FUNCTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cgru.model.nodes.table import Sizes
    from cgru.model.writing import Writer
    from cgru.types import Array

    Activated = str | tuple[str, Mapping[str, Any]] | None
    """What arguments `activation` may be."""

STEPS, BATCH = "T", "B"
"""Names of a list's dynamic axes."""


@dataclass(frozen=True)
class Place:
    """A place in a network that is written: names begin with its own, and values are those of its list."""

    writer: Writer
    name: str
    """Of the element: its position in the list, "2.0" for one inside of another."""
    dtype: np.dtype[Any]
    """Of all floating point values."""
    batch_first: bool
    integers: set[str]
    """Values that are no floating point numbers."""

    def op(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:
        """The name of what a node gives, or the names."""
        found = self.writer.add(operator, *inputs, name=f"{self.name}.{operator}", outputs=outputs, **attributes)
        if OPERATORS[operator].moves and inputs[0] in self.integers:
            self.integers.add(found)
        return found

    def constant(self, name: str, array: Array) -> str:
        """The name of an array, here of a parameter's name."""
        return self.writer.constant(np.asarray(array, order="C"), f"{self.name}.{name}")

    def number(self, value: float) -> str:
        """The name of a constant without axes."""
        return self.constant("number", np.asarray(value, self.dtype))

    def shape(self, value: str) -> Sizes:
        """Of a value."""
        return self.writer.shapes[value]

    def time(self, value: str) -> int | None:
        """The axis of a value that is time."""
        return timing.axis_of(self.shape(value), STEPS)

    def activated(self, value: str, activation: str | tuple[str, Any] | None) -> str:
        """What a function makes of a value."""
        if activation is None:
            return value
        name, given = activation if isinstance(activation, tuple) else (activation, {})
        function = FUNCTIONS[name]
        parameters = {**function.parameters, **given}
        inputs = [self.number(parameters.pop(key)) for key in function.constant]
        return str(self.op(function.operator, value, *inputs, **parameters))

    def channels_first(self, value: str) -> tuple[str, tuple[int, ...]]:
        """A sequence as (B, C, T), and the order of axes that leads back."""
        order = (0, 2, 1) if self.batch_first else (1, 2, 0)
        return self.op("Transpose", value, perm=order), (0, 2, 1) if self.batch_first else (2, 0, 1)

    def refused(self, expected: str, got: object) -> ValueError:
        """What is wrong with the list."""
        got = described(got) if isinstance(got, tuple) else got
        return ValueError(f"layers[{self.name}]: expected {expected}, got {got}")


class Layer:
    """What layers share: arguments that are kept, parameters under torch's names and in its shapes.

    Subclasses are frozen dataclasses, whose fields are the arguments. A field of a parameter's name says whether there
    is one, or gives it; what is not given is drawn.
    """

    parameters: dict[str, Array]
    features: ClassVar[str | None] = None
    """The argument that says how long the inputs' last axis is; None where it may have any length."""
    keeps: ClassVar[bool] = True
    """Whether results are as long as inputs, along the last axis."""
    takes: ClassVar[str] = "f"
    """Of inputs: f floating point, i integers, a anything."""
    timed: ClassVar[bool] = False
    """Whether inputs must be sequences."""
    dtype: Any = None

    def write(self, place: Place, x: str) -> str:
        """The name of the value that the layer makes of one."""
        raise NotImplementedError

    def _arguments(self) -> tuple[Field[Any], ...]:
        return fields(self)  # type: ignore[arg-type] # of subclasses, which are dataclasses

    # --- For subclasses -----------------------------------------------------------------------------------------------

    def _set(self, **values: Any) -> None:
        """Keep arguments as they were checked."""
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def _sizes(self, *names: str, least: int = 1) -> None:
        """Check arguments that are integers."""
        self._set(**{name: checks.integer(name, getattr(self, name), least) for name in names})

    def _hold(self, shapes: Mapping[str, tuple[int, ...]], draw: Any) -> None:
        """Take the parameters that arguments give, and draw the others: draw(name, shape, source of random numbers)."""
        dtype = checks.floating("dtype", self.dtype)
        source = checks.generator(getattr(self, "rng", None))
        held: dict[str, Array] = {}
        for name, shape in shapes.items():
            given = getattr(self, name, None)
            if given is None or given is True:
                held[name] = np.asarray(draw(name, shape, source), dtype)
            elif given is not False:
                held[name] = np.array(checks.array(name, given, dtype, shape), order="C")
            if given is not None and not isinstance(given, bool):
                self._set(**{name: next(field.default for field in self._arguments() if field.name == name)})
        for field in self._arguments():  # arrays are given, but there is no such parameter
            if field.name not in shapes and isinstance(getattr(self, field.name), np.ndarray):
                raise ValueError(f"{field.name}: expected None, as the layer has no such parameter, got an array")
        self._set(dtype=dtype, rng=None, parameters=held)

    # --- For users ----------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Array]:
        """Copies of the parameters under torch's names."""
        return {name: array.copy() for name, array in self.parameters.items()}

    def load_state_dict(self, state_dict: Mapping[str, Array]) -> None:
        """Replace all parameters by copies of those given; nothing changes if one of them does not fit.

        Networks made before keep the weights that they have.

        Raises
        ------
        ValueError
            A parameter is missing, unknown or of another shape; the message names it.
        TypeError
            A parameter is no array, or of another dtype than the layer.
        """
        if not isinstance(state_dict, Mapping):
            raise TypeError(f"state_dict: expected a mapping of names to arrays, got {type(state_dict).__name__}")
        expect_names(state_dict, self.parameters)
        taken = {
            name: np.array(checks.array(name, state_dict[name], array.dtype, array.shape), order="C")
            for name, array in self.parameters.items()
        }
        self._set(parameters=taken)

    def __repr__(self) -> str:
        parts = []
        for field in self._arguments():
            value = getattr(self, field.name)
            if field.default is MISSING:
                parts.append(repr(value))
            elif field.name != "rng" and value != field.default:
                parts.append(f"{field.name}={value.name if isinstance(value, np.dtype) else repr(value)}")
        return f"{type(self).__name__}({', '.join(parts)})"


def expect_names(given: Mapping[str, Any], known: Iterable[str]) -> None:
    """ValueError where parameters are missing, or unknown."""
    known = list(known)
    missing = [name for name in known if name not in given]
    surplus = [str(name) for name in given if name not in known and name != "num_batches_tracked"]  # of torch's norms
    if missing or surplus:
        complaints = [f"missing {checks.listed(missing)}"] * bool(missing)
        complaints += [f"unknown {checks.listed(surplus)}"] * bool(surplus)
        raise ValueError(f"state_dict: expected {checks.listed(known) or 'none'}; {'; '.join(complaints)}")


class Plain(Layer):
    """What layers without parameters share."""

    def __post_init__(self) -> None:
        self._set(parameters={})


# --- For arguments and parameters -------------------------------------------------------------------------------------


def uniform(bound: float) -> Callable[..., Array]:
    """Parameters between -bound and bound."""
    return lambda name, shape, source: source.uniform(-bound, bound, shape)


def filled(**values: float) -> Callable[..., Array]:
    """Parameters that are one number each."""
    return lambda name, shape, source: np.full(shape, values[name])


def positive(name: str, value: object) -> float:
    """A number above zero."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name}: expected a number above 0, got {value!r}")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: expected a number above 0, got {value!r}")
    return float(value)


def known_axis(place: Place, own: Layer, x: str, dim: object) -> int:
    """An argument `dim` as an axis whose size is known: not time's, not the batch's."""
    shape = place.shape(x)
    axis = checks.integer("dim", dim, -len(shape), len(shape) - 1) % len(shape)
    if isinstance(shape[axis], Size):
        raise place.refused(
            f"{own!r} along an axis whose size is known", f"{shape[axis]} of ({', '.join(map(str, shape))})"
        )
    return axis

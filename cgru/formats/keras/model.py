"""What live Keras layers and Keras files share: recurrent layers beside a store of weights, made into a model.

Of the layers that `tree.py` finds, one or a plain stack is chosen (`choose`), and its weights are turned from Keras'
columns z, r, h to rows r, z, n (`make`). Nothing of Keras is imported.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cgru import checks
from cgru.errors import FormatError
from cgru.formats.keras import legacy
from cgru.model.spec import KINDS, from_options
from cgru.model.value import Value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cgru.formats.keras.tree import Found
    from cgru.types import ActivationOption, Array

FUNCTIONS: dict[str, ActivationOption] = {
    **{name: name for name in ("tanh", "sigmoid", "relu", "softsign", "softplus", "linear")},
    "elu": ("elu", 1.0, 0.0),
    "leaky_relu": ("leaky_relu", 0.2, 0.0),
    "hard_sigmoid": ("hard_sigmoid", 1 / 6, 0.5),
}
"""Keras 3's activations that have an exact counterpart."""

FUNCTIONS_2: dict[str, ActivationOption] = {
    **{name: function for name, function in FUNCTIONS.items() if name != "leaky_relu"},
    "hard_sigmoid": ("hard_sigmoid", 0.2, 0.5),
}
"""Keras 2's."""

WEIGHTS = ("kernel", "recurrent_kernel", "bias")


class Store(Protocol):
    """Where weights come from."""

    version: int
    """Keras' major version."""
    reset_after: bool | None
    """Of a layer whose configuration does not say and whose bias does not show."""

    def arrays(self, found: Found, directions: int) -> list[list[Array]]:
        """Kernel (I, 3H), recurrent kernel (H, 3H) and, if any, bias of each direction."""


# --- Configurations ---------------------------------------------------------------------------------------------------


def named(found: Sequence[Found], name: str) -> list[Found]:
    """The layers that `name` means: one by its whole name, those in a model, by its last name, or by where it lies."""
    return (
        [f for f in found if name == f.name]
        or [f for f in found if f.name.startswith(f"{name}/")]
        or [f for f in found if name == f.names[-1]]
        or [f for f in found if name == "/".join(f.keys)]
    )


def choose(found: Sequence[Found], name: str | None) -> Sequence[Found]:
    """The one layer, or the layers of one plain stack, that `name` means."""
    if name is not None:
        chosen = named(found, name)
        if not chosen:
            raise FormatError(f"name: expected one of the GRU layers {checks.listed(found) or 'none'}, got {name!r}")
        found = chosen
    if not found:
        raise FormatError("expected a GRU, RNN(GRUCell) or Bidirectional(GRU) layer, got none")
    readers: dict[tuple[tuple[str, ...], str], list[Found]] = {}  # of each layer, by its model's names and its own
    for layer in found:
        model = layer.names[:-1]
        for source in dict.fromkeys(layer.sources):
            readers.setdefault((model, source), []).append(layer)
    for below, above in itertools.pairwise(found):
        read_by = [layer.names for layer in readers.get((below.names[:-1], below.names[-1]), [])]
        joined = len(below.sources) < 2 and above.sources == below.names[-1:] and read_by == [above.names]
        if not joined or not cells_of(below)[0].get("return_sequences"):
            raise FormatError(
                f"expected one GRU or a plain stack, got the layers {checks.listed(found)}; choose one by name="
            )
        if cells_of(below)[0].get("go_backwards") and not above.cell:
            raise FormatError(
                f"{below.name}: go_backwards: expected False of a layer that {above.name} reads, since Keras gives it "
                "the outputs turned round, last step first; load each by name=, and call the second with y[:, ::-1]"
            )
    return found


def cells_of(found: Found) -> list[dict[str, Any]]:
    """The configurations of a layer's directions: one, or the forward and the backward one."""
    if found.kind != "Bidirectional":
        return [_cell(found.kind, found.config)]
    merge = found.config["merge_mode"]
    if merge not in ("concat", "sum"):
        raise FormatError(
            f"{found.name}: merge_mode: expected 'concat' or 'sum', got {merge!r}; with layer.merge_mode = 'concat' "
            "the halves y[..., :H] and y[..., H:] can be combined"
        )
    forward = found.config["layer"]
    backward = found.config.get("backward_layer")
    cells = [_cell(forward["class_name"], forward["config"])]
    cells.append(_cell(backward["class_name"], backward["config"]) if backward else {**cells[0], "go_backwards": True})
    if [cell.get("go_backwards", False) for cell in cells] != [False, True]:
        raise FormatError(f"{found.name}: go_backwards: expected False forward and True backward")
    for cell in cells:
        cell["go_backwards"] = False
    return cells


def _cell(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    return {**config, **config["cell"]["config"]} if kind == "RNN" else legacy.modern(kind, config)


def _options(name: str, cell: Mapping[str, Any], bias: Array | None, store: Store) -> dict[str, Any]:
    """The constructor's arguments that a cell's configuration stands for."""
    functions = FUNCTIONS if store.version >= 3 else FUNCTIONS_2
    options: dict[str, Any] = {
        "bias": cell["use_bias"],
        "batch_first": not cell.get("time_major", False),
        "reverse": cell.get("go_backwards", False),
    }
    for field in ("activation", "recurrent_activation"):
        function = "linear" if cell[field] is None else cell[field]
        if not isinstance(function, str) or function not in functions:
            kind = function.get("class_name", "?") if isinstance(function, Mapping) else function
            raise FormatError(f"{name}: {field}: expected one of {', '.join(functions)}, got {kind}")
        options[field] = functions[function]
    stored = store.reset_after if bias is None else bias.ndim == 2
    options["reset_after"] = cell.get("reset_after", stored)
    if options["reset_after"] is None:
        raise FormatError(f"{name}: reset_after: expected True or False, got a layer without it and without a bias")
    return options


# --- Weights ----------------------------------------------------------------------------------------------------------


def make(layers: Sequence[Found], store: Store) -> Value:
    """The value of these layers of a stack."""
    kind = "GRUCell" if layers[0].kind == "GRUCell" else "GRU"
    common: dict[str, Any] = {}
    parameters: dict[str, Array] = {}
    for k, found in enumerate(layers):
        cells = cells_of(found)
        directions = store.arrays(found, len(cells))
        for cell, weights, suffix in zip(cells, directions, ("", "_reverse")[: len(cells)], strict=True):
            options, arrays = _direction(found.name, cell, weights, store)
            if kind == "GRU":
                options["bidirectional"] = len(cells) == 2
                options["merge"] = found.config["merge_mode"] if len(cells) == 2 else "concat"
            for option, value in options.items():
                if common.setdefault(option, value) != value:
                    raise FormatError(
                        f"{found.name}: {option}: expected {common[option]!r} everywhere, got {value!r}; "
                        f"choose one of {checks.listed(layers)} by name="
                    )
            end = "" if kind == "GRUCell" else f"_l{k}{suffix}"
            parameters.update({name + end: array for name, array in arrays.items()})
    common["input_size"] = next(iter(parameters.values())).shape[1]
    common["dtype"] = np.result_type(*parameters.values())
    rates = {found.dropout for found in layers[1:]}
    common.update(num_layers=len(layers), dropout=rates.pop() if len(rates) == 1 else 0.0)
    options = {name: value for name, value in common.items() if name in KINDS[kind].options}
    try:
        return Value.of(
            from_options(kind, options), {name: array.astype(common["dtype"]) for name, array in parameters.items()}
        )
    except (TypeError, ValueError) as error:
        raise FormatError(f"{layers[0].name}: {error}") from error


def _direction(
    name: str, cell: Mapping[str, Any], weights: Sequence[Array], store: Store
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Options of one direction of one layer, and its parameters under PyTorch's names without their ends."""
    try:
        hidden = checks.integer(f"{name}: units", cell["units"], 1)
        wanted = 2 + checks.flag(f"{name}: use_bias", cell["use_bias"])
    except (TypeError, ValueError) as error:
        raise FormatError(str(error)) from error
    if len(weights) != wanted:
        raise FormatError(f"{name}: expected {', '.join(WEIGHTS[:wanted])}, got {len(weights)} arrays")
    if len(weights) == 3 and weights[2].shape == (6 * hidden,):
        _check(name, weights, [("I", 3 * hidden), (hidden, 3 * hidden), (6 * hidden,)])
        weights = legacy.from_cudnn(*weights)
    kernel, recurrent = weights[:2]
    bias = weights[2] if len(weights) == 3 else None
    options = {**_options(name, cell, bias, store), "hidden_size": hidden}
    expected: list[tuple[int | str, ...]] = [("I", 3 * hidden), (hidden, 3 * hidden)]
    expected.append((2, 3 * hidden) if options["reset_after"] else (3 * hidden,))
    _check(name, weights, expected)
    arrays = {"weight_ih": reordered(kernel).T, "weight_hh": reordered(recurrent).T}
    if bias is not None:
        both = bias if options["reset_after"] else np.stack([bias, np.zeros_like(bias)])
        arrays["bias_ih"], arrays["bias_hh"] = reordered(both)
    return options, arrays


def _check(name: str, weights: Sequence[Array], expected: Sequence[tuple[int | str, ...]]) -> None:
    """Refuse arrays of other shapes."""
    for field, array, shape in zip(WEIGHTS, weights, expected):  # noqa: B905 - the bias may be absent
        if array.ndim != len(shape) or any(m not in ("I", n) for m, n in zip(shape, array.shape, strict=True)):
            raise FormatError(f"{name}: {field}: expected {checks.describe(shape)}, got {array.shape}")


def reordered(columns: Array) -> Array:
    """Gates z, r, h along the last axis as r, z, n, or the other way round."""
    first, second, candidate = np.split(columns, 3, axis=-1)
    return np.concatenate([second, first, candidate], axis=-1)


def columns(value: Value, suffix: str) -> list[Array]:
    """Kernel (I, 3H), recurrent kernel (H, 3H) and bias of one direction of one layer, gates z, r, h."""
    parameters, model = value.weighing_state(), value.spec
    arrays = [reordered(parameters[name + suffix].T) for name in ("weight_ih", "weight_hh")]
    if model.bias:
        both = reordered(np.stack([parameters["bias_ih" + suffix], parameters["bias_hh" + suffix]]))
        arrays.append(both if model.reset_after else both.sum(axis=0))
    return arrays

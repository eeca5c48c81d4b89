"""PyTorch's names: the one GRU among named weights, by names and shapes, from whatever file or object they come."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cgru import checks
from cgru.errors import FormatError
from cgru.model import activations
from cgru.model.spec import KINDS, from_options
from cgru.model.value import Value

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cgru.model.precision import Matrix
    from cgru.types import Array

NAME = re.compile(r"(?:(.*)\.)?((?:weight|bias)_(?:ih|hh)(?:_l(\d{1,4})(_reverse)?)?)", re.DOTALL)
"""Of a parameter: the module's name, and the parameter's in it."""

COMPUTED = re.compile(
    r"(?:(.*)\.)?(?:(?:weight|bias)_(?:ih|hh)_l\d{1,4}(?:_reverse)?_(?:raw|orig|mask|g|v|u)"
    r"|parametrizations\.(?:weight|bias)_(?:ih|hh)_l\d{1,4}(?:_reverse)?\..*)",
    re.DOTALL,
)
"""What a weight is computed from where a module is wrapped: weight drop, weight_norm, parametrizations, prune."""

GATES = {1: "a simple recurrent layer", 4: "an LSTM"}
"""Layers that share these names, by the rows of their weights over H; a GRU has 3."""


def choose(source: str, shapes: Mapping[str, tuple[int, ...]], name: str | None) -> dict[str, str]:
    """The parameters of one GRU or GRUCell: names as the constructor's, and as given.

    `name` is the module's, "" for the outermost; without it one module must have a GRU's names and shapes.
    """
    modules: dict[str, dict[str, str]] = {}
    for full in shapes:
        match = NAME.fullmatch(full)
        if match:
            modules.setdefault(match[1] or "", {})[match[2]] = full
    if name is not None:
        name = name.rstrip(".")
        if name not in modules:
            listed = _listed(modules, shapes)
            raise FormatError(f"{source}: name: expected a module of weight_ih_l0, ...: {listed}; got {name!r}")
    elif len(modules) == 1:
        (name,) = modules
    else:
        grus = [module for module, parameters in modules.items() if _kind(parameters, shapes) == "GRU"]
        if len(grus) != 1:
            given = f", got {list(shapes)[:5] or 'nothing'}"
            if modules:
                given = f"; choose one by its name: {_listed(modules, shapes)}"
            raise FormatError(f"{source}: expected weight_ih_l0, weight_hh_l0, ... of one GRU{given}")
        (name,) = grus
    parameters = modules[name]
    kind = _kind(parameters, shapes)
    if kind in GATES.values():
        raise FormatError(f"{source}: {name or 'weights'}: expected (3H, H) of a GRU, got {kind}'s")
    for full in shapes:
        match = COMPUTED.fullmatch(full)
        if match and (match[1] is None or name == match[1] or name.startswith(f"{match[1]}.")):
            raise FormatError(
                f"{source}: expected weights as they are used, got {full}, from which one is computed; load them into "
                "their module in PyTorch, call its eval(), run it once, and give from_torch the torch.nn.GRU in it"
            )
    siblings = [full for full in shapes if full.rpartition(".")[0] == name or (name == "" and len(modules) == 1)]
    known = set(parameters.values())
    unknown = [full for full in siblings if full not in known]
    if unknown:
        raise FormatError(f"{source}: expected weight_ih_l0, weight_hh_l0, ... of one GRU, got {unknown}")
    return parameters


def _listed(modules: Mapping[str, Mapping[str, str]], shapes: Mapping[str, tuple[int, ...]]) -> str:
    return checks.listed(f"{module!r} ({_kind(own, shapes)})" for module, own in modules.items()) or "none"


def _kind(parameters: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What has such weights, by the shape of the recurrent one."""
    shape = shapes[parameters.get("weight_hh_l0") or parameters.get("weight_hh") or next(iter(parameters.values()))]
    if len(shape) != 2 or not shape[1] or shape[0] % shape[1]:
        return "no whole layer"
    return {3: "GRU", **GATES}.get(shape[0] // shape[1], "no known layer")


def assemble(source: str, arrays: Mapping[str, Array | Matrix], options: Mapping[str, Any]) -> Value:
    """The model whose parameters these are; names and shapes tell all but `options`."""
    cell = "weight_ih" in arrays
    first = "weight_ih" if cell else "weight_ih_l0"
    recurrent = first.replace("ih", "hh")
    for name in (first, recurrent):
        if name not in arrays:
            raise FormatError(f"{source}: expected {name}, got {checks.listed(arrays)}")
        if len(arrays[name].shape) != 2:
            raise FormatError(f"{source}: {name}: expected 2 dimensions, got {arrays[name].shape}")
    sizes = {
        "input_size": arrays[first].shape[1],
        "hidden_size": arrays[recurrent].shape[1],
        "bias": any(name.startswith("bias") for name in arrays),
        "dtype": arrays[first].dtype,
    }
    if not cell:
        matches = [match for match in map(NAME.fullmatch, arrays) if match]
        sizes["num_layers"] = 1 + max(int(match[3] or 0) for match in matches)
        sizes["bidirectional"] = any(match[4] is not None for match in matches)
    try:
        return Value.of(from_options("GRUCell" if cell else "GRU", {**sizes, **options}), arrays)
    except (TypeError, ValueError) as error:
        raise FormatError(f"{source}: {error}") from error


def refuse_unknown(value: Value, system: str) -> None:
    """Refuse what no other system here has: cells that are no GRU, and weights as integers."""
    if KINDS[value.spec.kind].cell != "gru":
        raise FormatError(f"{system} has no such layer: expected a GRU, got a {value.spec.kind}")
    for name in activations.ARGUMENTS:
        if activations.are_several(getattr(value.spec, name)) and system != "ONNX":
            raise FormatError(
                f"{name}: {system} has one function for both directions, got {getattr(value.spec, name)!r}"
            )
    kind = value.precision if value.precision == "int8" else f"compute={value.arithmetic.compute!r}"
    if kind != "compute='float32'":
        raise FormatError(
            f"precision: {system} would multiply float32, got a model of {kind}; take the float32 one that it came from"
        )

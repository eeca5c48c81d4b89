"""PyTorch's names: the one GRU among named weights, by names and shapes, from whatever file or object they come."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cgru import checks
from cgru.errors import FormatError
from cgru.model import activations
from cgru.model.spec import KINDS, from_options
from cgru.model.value import Value

if TYPE_CHECKING:
    from collections.abc import Callable

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

LIKE = re.compile(r"(?:weight|bias)_(?:ih|hh)")
"""What every such name has in it, and what looks like one."""

INSIDE = r"(?:_orig_mod|_forward_module|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
WRAPPERS = re.compile(rf"^(?:module\.|{INSIDE})+|(?<=\.){INSIDE}")
"""What PyTorch's wrappers put into names: DataParallel, torch.compile, FSDP, checkpointing."""

MAX_USES = 64
"""Of one dict, or one tensor, in a file: what it takes in memory stays in proportion to its size."""

MAX_DEPTH = 100
"""Of dicts in dicts."""

MAX_NAME = 200
"""Characters of a name, with the keys around it."""

FIRST = ({"weight_ih_l0", "weight_hh_l0"}, {"weight_ih", "weight_hh"})
"""What a whole layer, or cell, has at least."""

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
    name = _module(source, modules, shapes, name)
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
    known = set(parameters.values())
    inside = f"{name}." if name else ""
    alone = name or len(modules) == 1
    unknown = [full for full in shapes if full not in known and full.startswith(inside) and (alone or "." not in full)]
    if unknown:
        raise FormatError(f"{source}: expected weight_ih_l0, weight_hh_l0, ... of one GRU, got {unknown}")
    parts = _parts_elsewhere(modules, shapes, name)
    if parts:
        raise FormatError(
            f"{source}: expected all of a GRU in one module, as in {name!r}, got {checks.listed(parts)} "
            "besides, of no whole one; give from_torch a dict of the GRU's alone: weight_ih_l0, weight_hh_l0, ..."
        )
    return parameters


def _module(
    source: str, modules: Mapping[str, Mapping[str, str]], shapes: Mapping[str, tuple[int, ...]], name: str | None
) -> str:
    """Which module is meant: by its name, with or without what wrappers put into it, or as the only GRU."""
    if name is not None:
        name = name.rstrip(".")
        found = [name] if name in modules else [module for module in modules if _bare(module) == _bare(name)]
        if len(found) != 1:
            listed = _listed(modules, shapes)
            raise FormatError(f"{source}: name: expected a module of weight_ih_l0, ...: {listed}; got {name!r}")
        return found[0]
    if len(modules) == 1:
        return next(iter(modules))
    grus = [module for module, parameters in modules.items() if _kind(parameters, shapes) == "GRU"]
    if len(grus) != 1:
        given = f", got {list(shapes)[:5] or 'nothing'}"
        if modules:
            given = f"; choose one by its name: {_listed(modules, shapes)}"
        raise FormatError(f"{source}: expected weight_ih_l0, weight_hh_l0, ... of one GRU{given}")
    return grus[0]


def _bare(module: str) -> str:
    """A module's name as it was before it was wrapped."""
    return WRAPPERS.sub("", f"{module}.").rstrip(".")


def _parts_elsewhere(
    modules: Mapping[str, Mapping[str, str]], shapes: Mapping[str, tuple[int, ...]], name: str
) -> list[str]:
    """What may be a layer, a direction or biases of a module, but stands in another or under another name."""
    layered = "weight_ih" not in modules[name]
    parts = [
        full
        for module, own in modules.items()
        if module != name and not any(first <= own.keys() for first in FIRST)
        for short, full in own.items()
        if ("_l" in short) == layered
    ]
    for full in shapes:
        match = LIKE.search(full)
        if match and not NAME.fullmatch(full) and not COMPUTED.fullmatch(full):
            before = full[: match.start()].rstrip("._/")
            if name.startswith(before) or before.startswith(name):
                parts.append(full)
    return parts


def flat(
    source: str, content: Any, is_weight: Callable[[Any], bool], containers: tuple[type, ...] = (Mapping,)
) -> dict[str, Any]:
    """The weights of nested dicts, by name.

    Of one dict with PyTorch's names in it they are that dict's, of several each begins with the keys that lead to it.
    """
    found: dict[str, dict[str, Any]] = {}  # keys that lead to a dict, joined -> its weights
    others: dict[str, Any] = {}
    uses: Counter[int] = Counter()
    waiting: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while waiting:
        path, node = waiting.pop()
        uses[id(node)] += 1
        if uses[id(node)] > MAX_USES or len(path) > MAX_DEPTH:
            raise FormatError(
                f"{source}: expected a dict in {MAX_USES} places at most, {MAX_DEPTH} levels deep at most, "
                f"got more: {'.'.join(path[:5])[:MAX_NAME]}..."
            )
        items = [(_key(key), value) for key, value in (node.items() if isinstance(node, Mapping) else enumerate(node))]
        waiting += [((*path, key), value) for key, value in reversed(items) if isinstance(value, containers)]
        own = [(key, value) for key, value in items if not isinstance(value, containers) and is_weight(value)]
        if not any(LIKE.search(key) for key, _ in own):
            others.update(own[:5])
            continue
        if sum(map(len, path)) > MAX_NAME:
            raise FormatError(
                f"{source}: expected names of at most {MAX_NAME} characters, got {'.'.join(path)[:50]}..."
            )
        where = ".".join(path)
        if where in found or len({key for key, _ in own}) != len(own):
            raise FormatError(f"{source}: expected each name once, got {where or checks.listed(key for key, _ in own)}")
        found[where] = dict(own)
    if len(found) < 2:
        return next(iter(found.values()), others)
    return {f"{where}.{key}" if where else key: value for where, own in found.items() for key, value in own.items()}


def _key(key: Any) -> str:
    """A key of a dict as names have it; of other kinds than these the text may be of any length."""
    return str(key) if isinstance(key, (str, int)) else type(key).__name__


def _listed(modules: Mapping[str, Mapping[str, str]], shapes: Mapping[str, tuple[int, ...]]) -> str:
    return checks.listed(f"{module!r} ({_kind(own, shapes)})" for module, own in modules.items()) or "none"


def _kind(parameters: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> str:
    """What has such weights, by the shape of the recurrent one."""
    for first in FIRST:
        if first <= parameters.keys():
            shape = shapes[parameters[min(first)]]
            if len(shape) == 2 and shape[1] and not shape[0] % shape[1]:
                return {3: "GRU", **GATES}.get(shape[0] // shape[1], "no known layer")
    return "no whole layer"


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

"""ONNX's GRU operator: one node's parameters and options, refused where a cgru.GRU has no equal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx

from cgru.errors import FormatError
from cgru.formats.onnx import order
from cgru.model.nodes import recurrent
from cgru.model.nodes.recurrent import PARAMETERS, reordered
from cgru.model.precision import LARGEST, MOST_COLUMNS, Matrix

if TYPE_CHECKING:
    from cgru.formats.onnx.graph import Graph
    from cgru.types import Array

SHOWN = 8
"""Numbers of a state that a message gives."""

TYPES = onnx.AttributeProto
ATTRIBUTES: dict[str, tuple[int, Any]] = {
    "activation_alpha": (TYPES.FLOATS, []),
    "activation_beta": (TYPES.FLOATS, []),
    "activations": (TYPES.STRINGS, None),
    "clip": (TYPES.FLOAT, None),
    "direction": (TYPES.STRING, b"forward"),
    "hidden_size": (TYPES.INT, None),
    "layout": (TYPES.INT, 0),
    "linear_before_reset": (TYPES.INT, 0),
    "output_sequence": (TYPES.INT, 0),  # operator set 1 alone; says whether Y is computed, which costs nothing here
}
"""The operator's attributes in all its versions: type and default."""


class Unit(NamedTuple):
    """One GRU node: a layer of one or two directions."""

    name: str
    graph: Graph
    node: Any
    x: str  # the value that it reads,
    y: str  # and that it writes
    lengths: str  # the value that gives its sequences' lengths; "" where they are whole
    turned: bool  # whether x has its steps turned round
    options: dict[str, Any]
    weights: list[tuple[Array, Array, Array | None]]  # a direction: w_ih (3H, I), w_hh (3H, H), both biases (2, 3H)
    narrow: list[tuple[Matrix, Matrix]] | None  # a direction: both matrices as int8, where the file has them so

    def moved(self, moves: list[Any]) -> Any:
        """The axes of y after some nodes."""
        d = ("D",) if self.options["bidirectional"] else ()
        t, b, h = ("-T",) if self.turned else ("T",), ("B",), ("H",)
        axes = (b, t, d, h) if self.options["batch_first"] else (t, d, b, h)
        return self.graph.moved(axes, self.sizes, moves)

    @property
    def sizes(self) -> dict[str, Any]:
        """How many directions and hidden units there are, and steps and sequences where the graph says it."""
        counts = "BT" if self.options["batch_first"] else "TB"
        first = self.graph.shapes.dims(self.x) or ()
        return {"D": 2, "H": self.options["hidden_size"], **dict(zip(counts, first, strict=False))}

    def layered(self, batch_first: bool, turned: bool = False) -> Any:
        """The axes of y with its directions side by side: (T, B, D*H) or (B, T, D*H)."""
        hidden, t = ("D", "H") if self.options["bidirectional"] else ("H",), ("-T",) if turned else ("T",)
        return (("B",), t, hidden) if batch_first else (t, ("B",), hidden)


def name_of(node: Any) -> str:
    """A node's name, or where it has none its first output's."""
    return node.name or next(filter(None, node.output), "")


def is_named(node: Any, name: str) -> bool:
    """Whether a node or one of its outputs has a name."""
    return name in (node.name, *filter(None, node.output))


def read(graph: Graph, node: Any) -> Unit:
    """A node's parameters and options, refused where a cgru.GRU has no equal."""
    name = name_of(node)
    where = f"{graph.source}: GRU {name!r}"
    attributes = _attributes(graph, node, where)
    direction = attributes["direction"].decode(errors="replace")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise FormatError(f"{where}: direction: expected forward, reverse or bidirectional, got {direction!r}")
    directions = 1 + (direction == "bidirectional")
    inputs = [*node.input, *[""] * 6][:6]
    w, r, b = (_weight(graph, where, *pair) for pair in zip("WRB", inputs[1:4], strict=True))
    if w is None or r is None:
        raise FormatError(f"{where}: expected the inputs X, W and R, got {list(node.input)}")
    hidden = r.shape[-1] if r.ndim == 3 else 0
    expected = {
        "W": (w, (directions, 3 * hidden, w.shape[-1] if w.ndim == 3 else 0)),
        "R": (r, (directions, 3 * hidden, hidden)),
        "B": (b, (directions, 6 * hidden)),
    }
    for part, (array, shape) in expected.items():
        if array is not None and array.shape != shape:
            raise FormatError(f"{where}: {part}: expected {shape}, D 3H I or 6H, got {array.shape}")
    if attributes["hidden_size"] not in (None, hidden):
        raise FormatError(
            f"{where}: hidden_size: expected {hidden}, R's last dimension, got {attributes['hidden_size']}"
        )
    gates, candidates = _functions(attributes, directions, w.dtype, where)
    lengths = _lengths(graph, where, inputs, attributes["layout"])
    _check_state(graph, where, inputs[5])
    clip = attributes["clip"]
    options = {
        "input_size": w.shape[2],
        "hidden_size": hidden,
        "batch_first": attributes["layout"] == 1,
        "bidirectional": direction == "bidirectional",
        "reverse": direction == "reverse",  # until it is known whether x is turned round
        "reset_after": attributes["linear_before_reset"] != 0,
        "activation": candidates if directions == 2 else candidates[0],  # of which the options make one, if they are
        "recurrent_activation": gates if directions == 2 else gates[0],
        "clip": None if clip is None else _number(clip, w.dtype),
        "dtype": w.dtype,
    }
    weights = [
        (
            reordered(w[d]),
            reordered(r[d]),
            None if b is None else np.stack([reordered(c) for c in np.split(b[d], 2)]),
        )
        for d in range(directions)
    ]
    whole = _integers(graph, inputs[1], [own[0] for own in weights])
    recurrent = _integers(graph, inputs[2], [own[1] for own in weights])
    matrices = None if whole is None or recurrent is None else list(zip(whole, recurrent, strict=True))
    unit = Unit(name, graph, node, inputs[0], [*node.output, ""][0], lengths, False, options, weights, matrices)
    return _in_order(unit, where)


def _attributes(graph: Graph, node: Any, where: str) -> dict[str, Any]:
    """All attributes of the operator, the defaults where the node has none."""
    unknown = [field.name for field in node.attribute if field.name not in ATTRIBUTES]
    if unknown:
        raise FormatError(f"{where}: expected the attributes {', '.join(ATTRIBUTES)}, got {', '.join(unknown)}")
    values = {name: graph.attribute(node, name, kind, default) for name, (kind, default) in ATTRIBUTES.items()}
    if values["layout"] not in (0, 1):
        raise FormatError(f"{where}: layout: expected 0 or 1, got {values['layout']}")
    return values


def _weight(graph: Graph, where: str, part: str, name: str) -> Array | None:
    """The constant that a weight input names."""
    if not name:
        return None
    array = graph.constant(name) if part == "B" else graph.whole(name)  # B's size follows from R's
    if array is None:
        node = graph.producer(name)
        got = "an input of the graph" if node is None else f"the result of {node.op_type}; fold constants first"
        raise FormatError(f"{where}: {part}: expected a constant {name!r} in the file, got {got}")
    if array.dtype.kind != "f":
        raise FormatError(f"{where}: {part}: expected floating point numbers, got {array.dtype}")
    return array


def _integers(graph: Graph, name: str, expected: list[Array]) -> list[Matrix] | None:
    """The matrices of int8 that are those expected, where the file has one of a scale for all or for each row."""
    node = graph.producer(name)
    if node is None or node.op_type != "DequantizeLinear" or graph.attribute(node, "block_size", TYPES.INT, 0):
        return None
    numbers, scale, *zero = (graph.constant(operand) for operand in node.input)
    if numbers is None or scale is None or numbers.dtype != np.int8:
        return None
    if (numbers < -LARGEST).any() or numbers.shape[-1] > MOST_COLUMNS or any(z is None or z.any() for z in zero):
        return None
    rows, axis = numbers.shape[1], graph.attribute(node, "axis", TYPES.INT, 1)
    if scale.size != 1 and axis not in (1, 1 - numbers.ndim):
        return None
    scales = reordered(np.broadcast_to(scale.reshape(-1), rows))
    matrices = [Matrix("int8", reordered(direction), scales) for direction in numbers]
    equal = all(np.array_equal(matrix.wide(), array) for matrix, array in zip(matrices, expected, strict=True))
    return matrices if equal else None


def _functions(
    attributes: dict[str, Any], directions: int, dtype: np.dtype[Any], where: str
) -> tuple[list[Any], list[Any]]:
    """The gates' functions and the candidates', one for each direction, as options."""
    given = [name.decode(errors="replace") for name in attributes["activations"] or [b"Sigmoid", b"Tanh"] * directions]
    alpha, beta = ([_number(value, dtype) for value in attributes[field]] for field in PARAMETERS)
    try:
        functions = recurrent.functions(given, 2 * directions, alpha, beta)
    except ValueError as error:
        raise FormatError(f"{where}: {error}") from error
    options = [function.option for function in functions]
    return options[::2], options[1::2]


def _number(value: float, dtype: np.dtype[Any]) -> float:
    """A float32 attribute as a model of this dtype has it: for float32 0.1, not 0.10000000149011612, the same there."""
    return float(str(np.float32(value))) if dtype == np.float32 else float(value)


def _lengths(graph: Graph, where: str, inputs: list[str], layout: int) -> str:
    """The value that gives the sequences' lengths, "" where all are x's steps; refused where others are fixed."""
    x, lengths = graph.shapes.dims(inputs[0]), inputs[4]
    if not lengths or (x is not None and len(x) == 3 and graph.shapes.all_are(lengths, x[layout])):
        return ""
    if graph.origin(lengths)[0] != "input":
        raise FormatError(
            f"{where}: sequence_lens: expected none, the steps of X or an argument of the graph, got fixed ones; "
            "remove that input from the node and give lengths= when calling"
        )
    return graph.counts(lengths)


def _in_order(unit: Unit, where: str) -> Unit:
    """A GRU that reads sequences turned round as one of the other direction; refused where more than that is so."""
    graph, options = unit.graph, unit.options
    turned = order.turning(graph, unit.node, unit.lengths)
    if turned is False:
        return unit
    result = unit._replace(turned=True, options={**options, "reverse": not options["reverse"]})
    back = not unit.y or order.is_turned_back(graph, unit.y, result.moved([]), unit.sizes, unit.lengths)
    if turned is None or options["bidirectional"] or not back:
        raise FormatError(
            f"{where}: X: expected sequences as the caller has them, got those that {graph.turned(unit.x) or 'a node'} "
            "turns round; take that node out of the model, and give sequences turned round (x[::-1]) when calling"
        )
    return result


def _check_state(graph: Graph, where: str, initial: str) -> None:
    """An initial state that depends on no input of the graph belongs to the model, which cannot hold it."""
    kind, name = graph.origin(initial) if initial else ("zero", "")
    if kind != "constant":
        return
    array = graph.constant(name)
    if array is None:
        got = f"what {graph.producers[graph.root(name)].op_type} makes of fixed numbers, {name!r}"
    else:
        more = f" and {array.size - SHOWN:,} more" if array.size > SHOWN else ""
        got = f"fixed numbers, {name!r} {array.shape}: {', '.join(map(str, array.flat[:SHOWN]))}{more}"
    raise FormatError(
        f"{where}: initial_h: expected none, zeros or an argument of the graph, got {got}; remove that input from the "
        "node and give that state as h0 (D, B, H) when calling"
    )

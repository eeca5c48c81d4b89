"""Weights behind operators of constants, each computed by ONNX Runtime, too; quantized weights; what must not be believed."""

import itertools
import re

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import cgru

from ..support import onnx_graphs as graphs
from ..support.fuzz import in_proportion
from ..support.options import relative_error

node = helper.make_node
FLOAT = TensorProto.FLOAT
RNG = np.random.default_rng(3)
HIDDEN, INPUTS = 4, 3
SHAPES = {"W": (1, 3 * HIDDEN, INPUTS), "R": (1, 3 * HIDDEN, HIDDEN), "B": (1, 6 * HIDDEN)}


def uniform(*shape):
    return RNG.uniform(-0.7, 0.7, shape).astype(np.float32)


def made(part, nodes, opset=21, **constants):
    """A GRU whose W, R, B or H0 is what these nodes make of these constants."""
    arrays = {name: uniform(*shape) for name, shape in SHAPES.items()} | {
        k: np.asarray(v) for k, v in constants.items()
    }
    arrays.pop(part, None)
    inputs = ["X", "W", "R", "B", "", "H0" if part == "H0" else ""]
    gru = node("GRU", inputs, ["Y", "Y_h"], name="one", hidden_size=HIDDEN)
    arrays = {n: a for n, a in arrays.items() if any(n in x.input for x in [*nodes, gru])}
    return graphs.model([*nodes, gru], {"X": ([None, 2, INPUTS], FLOAT)}, ["Y", "Y_h"], arrays, opset)


def check(model, tolerance=1e-6):
    x = np.random.default_rng(0).standard_normal((5, 2, INPUTS)).astype(np.float32)
    gru = cgru.from_onnx(model)
    expected_y, expected_h = graphs.session(model, optimized=False).run(None, {"X": x})
    y, h_n = gru(x)
    assert relative_error(y, graphs.side_by_side(expected_y)) < tolerance
    assert relative_error(h_n, expected_h) < tolerance
    return gru


W, R, B = SHAPES.values()
TWO, ONE = 2 * 3 * HIDDEN * INPUTS, 3 * HIDDEN * INPUTS
FOLDED = {
    "Add": ("W", [node("Add", ["a", "b"], ["W"])], {"a": uniform(*W), "b": uniform(INPUTS)}),
    "Sub": ("R", [node("Sub", ["a", "b"], ["R"])], {"a": uniform(*R), "b": uniform(12, 1)}),
    "Mul": ("W", [node("Mul", ["a", "b"], ["W"])], {"a": uniform(*W), "b": uniform(1, 12, 1)}),
    "Div": ("W", [node("Div", ["a", "b"], ["W"])], {"a": uniform(*W), "b": np.float32(3)}),
    "Neg": ("B", [node("Neg", ["a"], ["B"])], {"a": uniform(*B)}),
    "Transpose": ("W", [node("Transpose", ["a"], ["W"], perm=[2, 1, 0])], {"a": uniform(3, 12, 1)}),
    "Transpose of all axes": ("W", [node("Transpose", ["a"], ["W"])], {"a": uniform(3, 12, 1)}),
    "Cast of float16": ("W", [node("Cast", ["a"], ["W"], to=FLOAT)], {"a": uniform(*W).astype(np.float16)}),
    "Cast of int8, scaled": ("W", [node("Cast", ["a"], ["f"], to=FLOAT), node("Mul", ["f", "b"], ["W"])],
                             {"a": RNG.integers(-128, 128, W, np.int8), "b": np.float32(0.01)}),
    "Cast to float16 and back": ("W", [node("Cast", ["a"], ["h"], to=TensorProto.FLOAT16), node("Cast", ["h"], ["W"], to=FLOAT)], {"a": uniform(*W)}),
    "Cast to integers and back": ("W", [node("Cast", ["a"], ["i"], to=TensorProto.INT32), node("Cast", ["i"], ["W"], to=FLOAT)], {"a": 2 * uniform(*W)}),
    "Gather of gates": ("W", [node("Gather", ["a", "i"], ["g"]), node("Reshape", ["g", "s"], ["W"])], {"a": uniform(3, 4, 3), "i": [2, 0, -2], "s": [1, 12, 3]}),
    "Gather of one": ("W", [node("Gather", ["a", "i"], ["W"], axis=1)], {"a": uniform(1, 2, 12, 3), "i": 1}),
    "Concat": ("R", [node("Concat", ["a", "b"], ["R"], axis=-2)], {"a": uniform(1, 8, 4), "b": uniform(1, 4, 4)}),
    "Split": ("W", [node("Split", ["a", "s"], ["first", "W", "rest"], axis=1)], {"a": uniform(1, 20, 3), "s": [5, 12, 3]}),
    "Split in halves": ("W", [node("Split", ["a"], ["W", "rest"], axis=1, num_outputs=2)], {"a": uniform(1, 24, 3)}),
    "Slice": ("W", [node("Slice", ["a", "s", "e", "x"], ["W"])], {"a": uniform(2, 20, 3), "s": [0, -12], "e": [1, 2**62], "x": [0, 1]}),
    "Slice backwards": ("W", [node("Slice", ["a", "s", "e", "x", "t"], ["W"])], {"a": uniform(1, 12, 3), "s": [-1], "e": [-(2**62)], "x": [2], "t": [-1]}),
    "Squeeze": ("W", [node("Squeeze", ["a", "x"], ["W"])], {"a": uniform(1, 12, 1, 3), "x": [-2]}),
    "Squeeze of all": ("W", [node("Squeeze", ["a"], ["s"]), node("Unsqueeze", ["s", "x"], ["W"])], {"a": uniform(1, 12, 1, 3), "x": [0]}),
    "Unsqueeze": ("B", [node("Unsqueeze", ["a", "x"], ["B"])], {"a": uniform(24), "x": [0]}),
    "Expand": ("W", [node("Expand", ["a", "s"], ["W"])], {"a": uniform(12, 1), "s": [1, 1, 3]}),
    "Tile": ("B", [node("Tile", ["a", "s"], ["B"])], {"a": uniform(1, 12), "s": [1, 2]}),
    "ConstantOfShape": ("B", [node("ConstantOfShape", ["s"], ["B"], value=helper.make_tensor("v", FLOAT, [1], [0.3]))], {"s": [1, 24]}),
    "ConstantOfShape of zeros": ("B", [node("ConstantOfShape", ["s"], ["B"])], {"s": [1, 24]}),
    "Reshape": ("W", [node("Reshape", ["a", "s"], ["W"])], {"a": uniform(3, 12), "s": [1, 12, -1]}),
    "Reshape that keeps": ("W", [node("Reshape", ["a", "s"], ["W"])], {"a": uniform(1, 12, 3, 1), "s": [0, 0, -1]}),
    "Identity": ("W", [node("Identity", ["a"], ["W"])], {"a": uniform(*W)}),
    "Constant": ("B", [node("Constant", [], ["B"], value=numpy_helper.from_array(uniform(*B)))], {}),
    "Shape of a constant": ("B", [node("Shape", ["R"], ["s"], start=0, end=2), node("Mul", ["s", "t"], ["u"]), node("ConstantOfShape", ["u"], ["B"])], {"t": [1, 2]}),
    "integers": ("B", [node("Div", ["a", "b"], ["q"]), node("Sub", ["q", "c"], ["d"]), node("Neg", ["d"], ["e"]), node("Cast", ["e"], ["f"], to=FLOAT),
                       node("Mul", ["f", "g"], ["B"])], {"a": np.arange(-12, 12).reshape(1, 24), "b": [[5]], "c": [[-1]], "g": np.float32(0.2)}),
    "a zero state": ("H0", [node("ConstantOfShape", ["s"], ["H0"])], {"s": [1, 2, 4]}),
    "a zero state, expanded": ("H0", [node("Expand", ["z", "s"], ["H0"])], {"z": np.float32(0), "s": [1, 2, 4]}),
    "a zero state, multiplied": ("H0", [node("Mul", ["a", "z"], ["H0"])], {"a": uniform(1, 2, 4), "z": np.float32(0)}),
}  # fmt: skip


@pytest.mark.parametrize("operator", FOLDED)
def test_operators_of_constants(operator):
    part, nodes, constants = FOLDED[operator]
    check(made(part, nodes, **constants))


def test_float16_is_rounded_after_each_node():
    """As the standard says; ONNX Runtime leaves out what it casts there and back."""
    a, b = uniform(*W).astype(np.float16), np.float16(0.3)
    model = made("W", [node("Mul", ["a", "b"], ["h"]), node("Cast", ["h"], ["W"], to=FLOAT)], a=a, b=b)
    model.graph.output.append(graphs.value("W", [None] * 3))
    w = ReferenceEvaluator(model).run(["W"], {"X": np.zeros((1, 2, 3), np.float32)})[0]
    z, r, n = np.split(w[0], 3)
    np.testing.assert_array_equal(cgru.from_onnx(model).state_dict()["weight_ih_l0"], np.concatenate([r, z, n]))
    assert np.abs(w - a.astype(np.float32) * np.float32(b)).max() > 1e-5


def test_two_directions_put_together_of_biases_and_zeros():
    """As exporters write what has one bias of two."""
    nodes = [
        node("ConstantOfShape", ["s"], ["z"]), node("Concat", ["z", "b"], ["one"], axis=0), node("Neg", ["one"], ["minus"]),
        node("Unsqueeze", ["one", "x"], ["o"]), node("Unsqueeze", ["minus", "x"], ["m"]), node("Concat", ["o", "m"], ["B"], axis=0),
        node("GRU", ["X", "W", "R", "B"], ["Y"], hidden_size=4, direction="bidirectional"),
    ]  # fmt: skip
    arrays = {k: uniform(2, *s[1:]) for k, s in SHAPES.items() if k != "B"} | {
        "s": np.array([12]),
        "b": uniform(12),
        "x": np.array([0]),
    }
    model = graphs.model(nodes, {"X": ([None, None, 3], FLOAT)}, ["Y"], arrays)
    x = RNG.standard_normal((5, 2, 3)).astype(np.float32)
    assert (
        relative_error(cgru.from_onnx(model)(x)[0], graphs.side_by_side(graphs.session(model).run(None, {"X": x})[0]))
        < 1e-6
    )


# --- DequantizeLinear -------------------------------------------------------------------------------------------------


def dequantized(scales, kinds=(np.int8, np.int8), zeros=(None, None), directions=1, low=-127, **attributes):
    """A GRU of quantized W and R; of each, scales, a type, and zero points."""
    nodes, arrays = [], {"B": uniform(directions, 6 * HIDDEN)}
    for name, scale, kind, zero in zip("WR", scales, kinds, zeros, strict=True):
        shape = (directions, *SHAPES[name][1:])
        least = max(low, np.iinfo(kind).min)
        arrays[f"{name}q"] = RNG.integers(least, min(127 + least + 127, np.iinfo(kind).max), shape, kind, endpoint=True)
        arrays[f"{name}q"].flat[0] = least
        arrays[f"{name}s"] = scale
        operands = [f"{name}q", f"{name}s"]
        if zero is not None:
            arrays[f"{name}z"] = np.asarray(zero, kind)
            operands.append(f"{name}z")
        nodes.append(node("DequantizeLinear", operands, [name], **attributes))
    direction = "bidirectional" if directions == 2 else "forward"
    nodes.append(node("GRU", ["X", *"WRB"], ["Y", "Y_h"], name="one", hidden_size=HIDDEN, direction=direction))
    return graphs.model(nodes, {"X": ([None, 2, 3], FLOAT)}, ["Y", "Y_h"], arrays, 21)


ROWS = RNG.uniform(1e-3, 5e-3, 12).astype(np.float32)
COLUMNS = RNG.uniform(1e-3, 5e-3, 4).astype(np.float32)
SCALE = np.float32(0.004)
ZERO = np.full(12, 3)
EXACTLY = {
    "zero points": dequantized((SCALE, SCALE), zeros=(5, -7)),
    "a zero point of one": dequantized((SCALE, SCALE), zeros=(0, 1)),
    "zero points of rows": dequantized((ROWS, ROWS), zeros=(ZERO, -ZERO), axis=1),
    "columns": dequantized((COLUMNS[:3], COLUMNS), axis=2),
    "columns, counted from the end": dequantized((COLUMNS[:3], COLUMNS), axis=-1),
    "directions": dequantized((COLUMNS[:2], COLUMNS[:2]), axis=0, directions=2),
    "bytes": dequantized((SCALE, ROWS), kinds=(np.uint8, np.uint8), zeros=(128, np.full(12, 120)), axis=1, low=0),
    "16 bits": dequantized((SCALE / 300, SCALE / 300), kinds=(np.int16, np.int16), low=-(2**15)),
    "one of 8 and one of 16 bits": dequantized((SCALE, SCALE / 300), kinds=(np.int8, np.int16)),
    "the number -128": dequantized((SCALE, SCALE), low=-128),
    "blocks": dequantized((uniform(1, 3, 3) / 100, uniform(1, 3, 4) / 100), axis=1, block_size=4, low=-1),
    "blocks with a shorter last": dequantized((uniform(1, 3, 3) / 100, uniform(1, 3, 4) / 100), axis=1, block_size=5, low=-1),
}  # fmt: skip


@pytest.mark.parametrize("how", EXACTLY)
def test_dequantized_as_the_standard_says(how):
    """What is no scheme of cgru's becomes the float32 numbers that ONNX Runtime computes with."""
    gru = check(EXACTLY[how])
    assert gru.precision == "float32"


KEPT = {
    "one scale": dequantized((SCALE, SCALE)),
    "one scale and a zero": dequantized((SCALE, SCALE), zeros=(0, 0)),
    "a scale a row": dequantized((ROWS, ROWS), axis=1),
    "a scale a row and zeros": dequantized((ROWS, ROWS), zeros=(0 * ZERO, 0 * ZERO), axis=-2),
    "both ways": dequantized((ROWS, SCALE), axis=1, directions=2),
}  # fmt: skip


@pytest.mark.parametrize("how", KEPT)
def test_int8_weights_stay(how):
    """The same integers and scales, in the order of cgru's gates."""
    gru = check(KEPT[how], 0.02)  # inputs and states are rounded to 8 bits, too
    assert gru.precision == "int8"
    arrays = {t.name: numpy_helper.to_array(t) for t in KEPT[how].graph.initializer}
    ends = ("_l0", "_l0_reverse")[: arrays["Wq"].shape[0]]
    for (name, full), (d, end) in itertools.product((("W", "weight_ih"), ("R", "weight_hh")), enumerate(ends)):
        z, r, n = np.split(arrays[f"{name}q"][d], 3)
        matrix = gru._value.parameters[full + end]
        np.testing.assert_array_equal(matrix.numbers, np.concatenate([r, z, n]))
        z, r, n = np.split(np.broadcast_to(arrays[f"{name}s"], 12), 3)
        np.testing.assert_array_equal(matrix.scale, np.concatenate([r, z, n]))


def test_stacks_of_int8_and_of_other_weights():
    """All layers of int8, or none: the rest is dequantized."""
    arrays = {"B": uniform(1, 24)}
    for name, width in (("W0", 3), ("R0", 4), ("W1", 4), ("R1", 4)):
        arrays[name + "q"] = RNG.integers(-127, 128, (1, 12, width), np.int8)
    arrays["s"] = SCALE
    for other, precision in (([], "int8"), (["R1"], "float32")):
        nodes = [node("DequantizeLinear", [n + "q", "s"], [n]) for n in ("W0", "R0", "W1", "R1") if n not in other]
        nodes += [node("GRU", ["X", "W0", "R0", "B"], ["Y0"], hidden_size=4), node("Squeeze", ["Y0", "one"], ["X1"]),
                  node("GRU", ["X1", "W1", "R1", "B"], ["Y"], hidden_size=4)]  # fmt: skip
        constants = arrays | {"one": np.array([1])} | {n: uniform(1, 12, 4) for n in other}
        model = graphs.model(nodes, {"X": ([None, None, 3], FLOAT)}, ["Y"], constants)
        gru = cgru.from_onnx(model)
        assert (gru.num_layers, gru.precision) == (2, precision)
        x = RNG.standard_normal((5, 2, 3)).astype(np.float32)
        expected = graphs.session(model).run(None, {"X": x})[0][:, 0]
        assert relative_error(gru(x)[0], expected) < (0.03 if precision == "int8" else 1e-6)


# --- What is refused --------------------------------------------------------------------------------------------------

HUGE = [2**20, 2**20]
BOMBS = {
    "Expand of W": ("W", [node("Expand", ["a", "s"], ["W"])], {"a": np.float32(1), "s": [1, 3 * 2**20, 2**20]}),
    "ConstantOfShape of R": ("R", [node("ConstantOfShape", ["s"], ["R"])], {"s": [1, 3 * 2**20, 2**20]}),
    "ConstantOfShape of B": ("B", [node("ConstantOfShape", ["s"], ["B"])], {"s": [1, 2**40]}),
    "Tile": ("W", [node("Tile", ["a", "s"], ["W"])], {"a": uniform(1, 1, 1), "s": [1, *HUGE]}),
    "an Add of what repeats": ("W", [node("Expand", ["a", "s"], ["e"]), node("Add", ["e", "e"], ["W"])], {"a": np.float32(1), "s": [1, *HUGE]}),
    "an Add that repeats": ("W", [node("Add", ["a", "b"], ["W"])], {"a": uniform(1, 5000, 1), "b": uniform(1, 1, 5000)}),
    "Neg of what repeats": ("W", [node("Expand", ["a", "s"], ["e"]), node("Neg", ["e"], ["W"])], {"a": np.float32(1), "s": [1, *HUGE]}),
    "Cast of what repeats": ("W", [node("Expand", ["a", "s"], ["e"]), node("Cast", ["e"], ["W"], to=1)], {"a": np.float16(1), "s": [1, *HUGE]}),
    "Reshape of what repeats": ("W", [node("Expand", ["a", "s"], ["e"]), node("Reshape", ["e", "t"], ["W"])], {"a": np.float32(1), "s": HUGE, "t": [1, 2**20, -1]}),
    "Concat of what repeats": ("W", [node("Expand", ["a", "s"], ["e"]), node("Concat", ["e", "e"], ["W"], axis=0)], {"a": np.float32(1), "s": [1, *HUGE]}),
    "Gather that repeats": ("W", [node("Gather", ["a", "i"], ["W"], axis=1)], {"a": uniform(1, 2, 3000), "i": np.zeros(3000, int)}),
    "Gather by what repeats": ("W", [node("ConstantOfShape", ["s"], ["i"], value=helper.make_tensor("v", 7, [1], [0])), node("Gather", ["a", "i"], ["W"])],
                               {"a": uniform(1, 2, 3), "s": HUGE}),
    "a shape that repeats": ("W", [node("ConstantOfShape", ["s"], ["t"], value=helper.make_tensor("v", 7, [1], [1])), node("Reshape", ["a", "t"], ["W"])],
                             {"a": uniform(*W), "s": [2**40]}),
    "DequantizeLinear of what repeats": ("W", [node("Expand", ["a", "s"], ["e"]), node("DequantizeLinear", ["e", "c"], ["W"])],
                                         {"a": np.int8(1), "s": [1, *HUGE], "c": SCALE}),
    "blocks of many": ("W", [node("DequantizeLinear", ["a", "c"], ["W"], axis=1, block_size=2**50)], {"a": np.ones((1, 12, 3), np.int8), "c": uniform(1, 1, 3)}),
    "a shape of more than memory": ("B", [node("ConstantOfShape", ["s"], ["B"])], {"s": [2**62, 2**62]}),
    "a negative shape": ("B", [node("ConstantOfShape", ["s"], ["B"])], {"s": [1, -24]}),
    "a state that repeats": ("H0", [node("Expand", ["z", "s"], ["H0"])], {"z": np.float32(1), "s": [2**20, *HUGE]}),
}  # fmt: skip


@pytest.mark.parametrize("how", [name for name in BOMBS if name != "blocks of many"])
def test_constants_that_are_larger_than_the_file(how, tmp_path):
    part, nodes, constants = BOMBS[how]
    path = tmp_path / "m.onnx"
    path.write_bytes(made(part, nodes, **constants).SerializeToString())
    in_proportion(lambda number: path, 1, 2)  # a refusal, and at once
    with pytest.raises(cgru.FormatError, match=re.escape(str(path))):
        cgru.load(path)


def test_blocks_are_as_long_as_their_axis_at_most():
    part, nodes, constants = BOMBS["blocks of many"]
    assert cgru.from_onnx(made(part, nodes, **constants)).hidden_size == 4


def test_a_large_state_of_zeros_takes_no_memory():
    nodes = [node("Expand", ["z", "s"], ["H0"])]
    assert cgru.from_onnx(made("H0", nodes, z=np.float32(0), s=[2**18, *HUGE])).hidden_size == 4


@pytest.mark.parametrize(("part", "nodes", "constants", "message"), [
    ("W", [node("Exp", ["a"], ["W"])], {"a": uniform(*W)}, "W: expected a constant 'W' in the file, got the result of Exp; fold constants first"),
    ("W", [node("Cast", ["a"], ["W"], to=TensorProto.FLOAT8E4M3FN)], {"a": uniform(*W)}, "W: expected a constant 'W' in the file, got the result of Cast"),
    ("W", [node("Add", ["a", "b"], ["W"])], {"a": uniform(*W), "b": np.float64(1)}, "constant 'W': expected one that can be computed: Add: expected inputs of one type"),
    ("W", [node("Gather", ["a", "i"], ["W"])], {"a": uniform(*W), "i": [9]}, "constant 'W': expected one that can be computed: index 9 is out of bounds"),
    ("W", [node("Div", ["a", "b"], ["i"]), node("Cast", ["i"], ["W"], to=1)], {"a": [[[3]]], "b": [0]}, "constant 'W': expected one that can be computed: divide by zero"),
    ("W", [node("Cast", ["a"], ["i"], to=TensorProto.INT32), node("Cast", ["i"], ["W"], to=1)], {"a": np.full(W, np.inf, np.float32)}, "constant 'W': expected one that can be computed"),
    ("W", [node("Concat", [], ["W"], axis=0)], {}, "constant 'W': expected one that can be computed"),
    ("W", [node("Neg", [], ["W"])], {}, "constant 'W': expected one that can be computed: Neg: expected an input 0, got none"),
    ("W", [node("DequantizeLinear", ["a", "s"], ["W"], axis=1)], {"a": np.ones(W, np.int8), "s": uniform(7)}, "constant 'W': expected one that can be computed"),
    ("W", [node("DequantizeLinear", ["a", "s"], ["W"], axis=1, block_size=5)], {"a": np.ones(W, np.int8), "s": uniform(1, 2, 3)},
     "DequantizeLinear: expected a scale for each 5 of axis 1, got (1, 2, 3)"),
])  # fmt: skip
def test_operators_that_are_not_folded(part, nodes, constants, message):
    with pytest.raises(cgru.FormatError, match=re.escape(message)):
        cgru.from_onnx(made(part, nodes, **constants))


def test_bfloat16_is_moved_and_not_computed():
    w = uniform(*W)
    bits = (w.view(np.uint32) >> 16).astype(np.uint16)
    tensor = TensorProto(name="a", data_type=TensorProto.BFLOAT16, dims=W[1:], raw_data=bits.tobytes())
    for nodes, works in (
        ([node("Unsqueeze", ["a", "x"], ["u"]), node("Cast", ["u"], ["W"], to=FLOAT)], True),
        (
            [node("Neg", ["a"], ["n"]), node("Unsqueeze", ["n", "x"], ["u"]), node("Cast", ["u"], ["W"], to=FLOAT)],
            False,
        ),
    ):
        model = made("W", nodes, x=[0])
        model.graph.initializer.append(tensor)
        if works:
            z, r, n = np.split((bits.astype(np.uint32) << 16).view(np.float32)[0], 3)
            np.testing.assert_array_equal(cgru.from_onnx(model).state_dict()["weight_ih_l0"], np.concatenate([r, z, n]))
        else:
            with pytest.raises(cgru.FormatError, match="constant 'W': expected one that can be computed"):
                cgru.from_onnx(model)

"""Lengths and shapes that an ONNX graph makes of its input's shape: which of them are all of the input's steps."""

import re

import numpy as np
import pytest
from onnx import TensorProto, helper

import cgru

from ..support import onnx_graphs as graphs
from ..support.options import relative_error

node = helper.make_node
INT32, INT64, FLOAT = TensorProto.INT32, TensorProto.INT64, TensorProto.FLOAT
STEPS, BATCH = 7, 2
CONSTANTS = {"i0": [0], "i1": [1], "i2": [2], "s0": 0, "seven": [7], "six": [6], "b": [1], "two": [2], "zero32": np.int32(0),
             "sevens": np.full(2, 7, np.int32), "six_and_seven": np.array([6, 7], np.int32), "m1": [-1]}  # fmt: skip


def lengths_by(nodes, shape=("T", "B", 3), before=(), x="X", layout=0):
    """A GRU whose sequence_lens these nodes make as `lens`."""
    arrays = graphs.weights(np.random.default_rng(0)) | {
        "table": np.random.default_rng(1).normal(size=(3, 3)).astype("f")
    }
    gru = node("GRU", [x, "W", "R", "B", "lens"], ["Y"], name="one", hidden_size=4, layout=layout)
    constants = {name: np.asarray(value) for name, value in CONSTANTS.items()} | arrays
    return graphs.model([*before, *nodes, gru], {"X": (list(shape), FLOAT)}, ["Y"], constants, opset=15)


SHAPE = node("Shape", ["X"], ["s"])
GATHERED = [
    SHAPE,
    node("Gather", ["s", "i0"], ["t"]),
    node("Gather", ["s", "i1"], ["n"]),
    node("Cast", ["t"], ["t32"], to=INT32),
]
WHOLE = {
    "Expand": [*GATHERED, node("Expand", ["t32", "n"], ["lens"])],
    "Tile": [*GATHERED, node("Tile", ["t32", "n"], ["lens"])],
    "a float32, as runtimes of 2018 wanted it": [
        SHAPE, node("Cast", ["s"], ["f"], to=FLOAT), node("Slice", ["f", "i1", "i2"], ["bf"]), node("Cast", ["bf"], ["n"], to=INT64),
        node("Slice", ["f", "i0", "i1"], ["tf"]), node("Tile", ["tf", "n"], ["lf"]), node("Cast", ["lf"], ["lens"], to=INT32),
    ],
    "zeros and an Add": [*GATHERED, node("ConstantOfShape", ["n"], ["z"], value=helper.make_tensor("v", INT32, [1], [0])),
                         node("Add", ["z", "t32"], ["lens"])],
    "ones and a Mul": [*GATHERED, node("ConstantOfShape", ["n"], ["z"], value=helper.make_tensor("v", INT32, [1], [1])),
                       node("Mul", ["t32", "z"], ["lens"])],
    "a scalar": [SHAPE, node("Gather", ["s", "s0"], ["t0"]), node("Gather", ["s", "i1"], ["n"]), node("Unsqueeze", ["t0", "i0"], ["t"]),
                 node("Cast", ["t"], ["t32"], to=INT32), node("Expand", ["t32", "n"], ["lens"])],
    "a part of the shape": [node("Shape", ["X"], ["t"], start=0, end=1), node("Shape", ["X"], ["n"], start=1, end=2),
                            node("Cast", ["t"], ["t32"], to=INT32), node("Expand", ["t32", "n"], ["lens"])],
    "Identity and Reshape": [*GATHERED, node("Identity", ["t32"], ["t1"]), node("Reshape", ["t1", "m1"], ["t2"]),
                             node("Expand", ["t2", "n"], ["lens"])],
    "Split": [SHAPE, node("Split", ["s"], ["t", "n", "i"], axis=0), node("Cast", ["t"], ["t32"], to=INT32), node("Expand", ["t32", "n"], ["lens"])],
}  # fmt: skip


def same_as_without(model, x, batch_first=False):
    """Loads as a GRU that needs no lengths, and computes what ONNX Runtime does."""
    gru = cgru.from_onnx(model)
    (expected,) = graphs.session(model).run(None, {"X": x})
    y = gru(x)[0]
    assert relative_error(y, expected[:, :, 0] if batch_first else expected[:, 0]) < 3e-6


@pytest.mark.parametrize("how", WHOLE)
def test_all_of_the_steps(how):
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, 3)).astype(np.float32)
    same_as_without(lengths_by(WHOLE[how]), x)


BEFORE = {
    "Transpose": [node("Transpose", ["X"], ["x"], perm=[1, 0, 2])],
    "Transpose and a dense layer": [
        node("Transpose", ["X"], ["p"], perm=[1, 0, 2]), node("MatMul", ["p", "table"], ["d"]), node("Add", ["d", "table0"], ["a"]),
        node("Relu", ["a"], ["x"]),
    ],
    "axes added and removed": [
        node("Unsqueeze", ["X", "i0"], ["u"]), node("Transpose", ["u"], ["p"], perm=[2, 0, 1, 3]), node("Squeeze", ["p", "i1"], ["x"]),
    ],
}  # fmt: skip


@pytest.mark.parametrize("before", BEFORE)
def test_steps_of_an_input_that_moves_on(before):
    """(B, T, I) that becomes (T, B, I): its second axis has the steps."""
    nodes = [SHAPE, node("Gather", ["s", "i1"], ["t"]), node("Gather", ["s", "i0"], ["n"]), node("Cast", ["t"], ["t32"], to=INT32),
             node("Expand", ["t32", "n"], ["lens"])]  # fmt: skip
    first = [node("Gather", ["table", "s0"], ["table0"]), *BEFORE[before]]
    model = lengths_by(nodes, ("B", "T", 3), first, "x")
    x = np.random.default_rng(0).standard_normal((BATCH, STEPS, 3)).astype(np.float32)
    gru = cgru.from_onnx(model)
    model.graph.output.append(graphs.value("x", [None] * 3))
    expected, given = graphs.session(model).run(None, {"X": x})
    y = gru(x if gru.batch_first else given)[0]
    assert relative_error(y.swapaxes(0, 1) if gru.batch_first else y, expected[:, 0]) < 3e-6
    other = lengths_by(WHOLE["Expand"], ("B", "T", 3), first, "x")  # the sequences' number
    with pytest.raises(cgru.FormatError, match="sequence_lens: expected none, the steps of X"):
        cgru.from_onnx(other)


def test_words_looked_up_in_a_table():
    nodes = [SHAPE, node("Gather", ["s", "i0"], ["t"]), node("Gather", ["s", "i1"], ["n"]), node("Cast", ["t"], ["t32"], to=INT32),
             node("Expand", ["t32", "n"], ["lens"])]  # fmt: skip
    model = lengths_by(nodes, ("T", "B"), [node("Gather", ["table", "X"], ["x"])], "x")
    model.graph.input[0].type.tensor_type.elem_type = INT64
    model.graph.output.append(graphs.value("x", [None] * 3))
    expected, x = graphs.session(model).run(None, {"X": np.array([[0, 1], [2, 2], [1, 0]])})
    assert relative_error(cgru.from_onnx(model)(x)[0], expected[:, 0]) < 3e-6


def test_steps_that_are_fixed():
    """A graph whose input has 7 steps, and lengths of 7; with any other number there they are lengths."""
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, 3)).astype(np.float32)
    for shape in ((7, 2, 3), (7, "B", 3)):
        for nodes in ([node("Identity", ["sevens"], ["lens"])], [*GATHERED, node("Expand", ["t32", "n"], ["lens"])]):
            same_as_without(lengths_by(nodes, shape), x)
    for name, shape in (
        ("sevens", ("T", 2, 3)),
        ("sevens", (8, 2, 3)),
        ("six_and_seven", (7, 2, 3)),
        ("sevens", (2, 7, 3)),
    ):
        model = lengths_by([node("Identity", [name], ["lens"])], shape)
        with pytest.raises(cgru.FormatError, match="remove that input from the node and give lengths= when calling"):
            cgru.from_onnx(model)


OTHERS = {
    "sequences": [*GATHERED[:3], node("Cast", ["n"], ["n32"], to=INT32), node("Expand", ["n32", "n"], ["lens"])],
    "one less": [*GATHERED, node("Sub", ["t", "b"], ["u"]), node("Cast", ["u"], ["v"], to=INT32), node("Expand", ["v", "n"], ["lens"])],
    "half": [*GATHERED, node("Div", ["t", "two"], ["u"]), node("Cast", ["u"], ["v"], to=INT32), node("Expand", ["v", "n"], ["lens"])],
    "twice": [*GATHERED, node("Mul", ["t", "two"], ["u"]), node("Cast", ["u"], ["v"], to=INT32), node("Expand", ["v", "n"], ["lens"])],
    "minus": [*GATHERED, node("Expand", ["t32", "n"], ["l"]), node("Neg", ["l"], ["lens"])],
    "of another axis": [SHAPE, node("Gather", ["s", "i2"], ["t"]), node("Cast", ["t"], ["lens"], to=INT32)],
    "the whole shape": [SHAPE, node("Cast", ["s"], ["lens"], to=INT32)],
    "a byte": [*GATHERED, node("Cast", ["t"], ["u"], to=TensorProto.UINT8), node("Cast", ["u"], ["v"], to=INT32), node("Expand", ["v", "n"], ["lens"])],
    "of what is cut": [node("Slice", ["X", "i0", "six", "i0"], ["cut"]), node("Shape", ["cut"], ["s"]), *GATHERED[1:], node("Expand", ["t32", "n"], ["lens"])],
    "one and another": [*GATHERED, node("Cast", ["n"], ["n32"], to=INT32), node("Concat", ["t32", "n32"], ["lens"], axis=0)],
    "itself": [node("Add", ["lens", "t32"], ["lens"]), *GATHERED],
}  # fmt: skip


@pytest.mark.parametrize("how", OTHERS)
def test_what_is_not_all_of_the_steps(how):
    with pytest.raises(cgru.FormatError, match=re.escape("GRU 'one': sequence_lens: expected none, the steps of X")):
        cgru.from_onnx(lengths_by(OTHERS[how]))


def test_arguments_stay_lengths():
    """Even where they are made to look like sizes."""
    model = lengths_by([*GATHERED, node("Mul", ["t32", "L"], ["lens"])])
    model.graph.input.append(graphs.value("L", [None], INT32))
    x = np.random.default_rng(0).standard_normal((STEPS, BATCH, 3)).astype(np.float32)
    (expected,) = graphs.session(model).run(None, {"X": x, "L": np.array([1, 0], np.int32)})
    assert relative_error(cgru.from_onnx(model)(x, lengths=[7, 0])[0], expected[:, 0]) < 3e-6


def test_batch_major_operators():
    """With layout=1, which ONNX Runtime does not have, the second axis has the steps."""
    nodes = [SHAPE, node("Gather", ["s", "i1"], ["t"]), node("Gather", ["s", "i0"], ["n"]), node("Cast", ["t"], ["t32"], to=INT32),
             node("Expand", ["t32", "n"], ["lens"])]  # fmt: skip
    assert cgru.from_onnx(lengths_by(nodes, layout=1)).batch_first
    with pytest.raises(cgru.FormatError, match="sequence_lens"):
        cgru.from_onnx(lengths_by(WHOLE["Expand"], layout=1))


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("shape", [(7, 2), (2, 2), (1, 5)])
def test_stacks_behind_reshapes_to_computed_shapes(bidirectional, shape):
    """Each layer's lengths are of the first input's shape, or of its own."""
    rng, d = np.random.default_rng(0), 1 + bidirectional
    nodes, constants, x = (
        [*GATHERED, node("Expand", ["t32", "n"], ["lens"])],
        {k: np.asarray(v) for k, v in CONSTANTS.items()},
        "X",
    )
    constants["width"] = np.array([4 * d])
    nodes.append(node("Concat", ["t", "n", "width"], ["shape"], axis=0))
    for k in range(3):
        constants |= {f"{name}{k}": a for name, a in graphs.weights(rng, 4 * d if k else 3, 4, d).items()}
        lens = "lens"
        if k == 1:
            lens = "own"
            nodes += [node("Shape", [x], ["os"]), node("Gather", ["os", "i0"], ["ot"]), node("Cast", ["ot"], ["ot32"], to=INT32),
                      node("Expand", ["ot32", "n"], ["own"])]  # fmt: skip
        direction = "bidirectional" if bidirectional else "reverse"
        nodes += [node("GRU", [x, f"W{k}", f"R{k}", f"B{k}", lens], [f"Y{k}"], hidden_size=4, direction=direction),
                  node("Transpose", [f"Y{k}"], [f"P{k}"], perm=[0, 2, 1, 3]), node("Reshape", [f"P{k}", "shape"], [f"y{k}"])]  # fmt: skip
        x = f"y{k}"
    model = graphs.model(nodes, {"X": (["T", "B", 3], FLOAT)}, ["y2"], constants)
    gru = cgru.from_onnx(model)
    assert (gru.num_layers, gru.bidirectional, gru.reverse) == (3, bidirectional, not bidirectional)
    given = rng.standard_normal((*shape, 3)).astype(np.float32)
    (expected,) = graphs.session(model).run(None, {"X": given})
    assert relative_error(gru(given)[0], expected) < 3e-6

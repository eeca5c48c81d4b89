"""GRUs whose sequences an ONNX graph turns round before and after: `reverse=True` where that is exactly what it says."""

import numpy as np
import pytest
from onnx import TensorProto, helper

import cgru

from ..support import onnx_graphs as graphs
from ..support.options import relative_error

node = helper.make_node
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
CONSTANTS = {"last": [-1], "first": [-(2**63)], "far": [2**63 - 1], "t": [0], "b": [1], "i": [2], "minus": [-1], "d": [1], "cut": [1],
             "sevens": [7, 7], "six": [6, 7], "keep": [0, 0, -1], "ago": [-3]}  # fmt: skip
T, B = 7, 2


def backwards(x, y, axis="t"):
    return node("Slice", [x, "last", "first", axis, "minus"], [y])


def gru(x, y, lens="", name="one", weights="", **more):
    more = {"hidden_size": 4, **more}
    return node("GRU", [x, *(w + weights for w in "WRB"), lens], [y, f"{y}_h" if y else "Y_h"], name=name, **more)


def turned_by(lens, x, y, **axes):
    return node("ReverseSequence", [x, lens], [y], **{"time_axis": 0, "batch_axis": 1, **axes})


SQUEEZE = node("Squeeze", ["Y", "d"], ["y"])


def shape_of(x, y, axis=0):
    """How one exporter writes how long an axis is, as many times as there are sequences on the other."""
    nodes = [
        node("Shape", [x], [f"{y}s"]),
        node("Gather", [f"{y}s", "tb"[axis]], [f"{y}t"]),
        node("Gather", [f"{y}s", "bt"[axis]], [f"{y}b"]),
    ]
    return [*nodes, node("Expand", [f"{y}t", f"{y}b"], [y])]


def built(nodes, outputs=("out",), shape=("T", "B", 3), directions=1, layers=1, arrays=()):
    rng = np.random.default_rng(0)
    constants = {name: np.array(value) for name, value in CONSTANTS.items()} | dict(arrays)
    for k in range(layers):
        own = graphs.weights(rng, 3 if k == 0 else 4, 4, directions)
        constants |= {name + (str(k) if layers > 1 else ""): array for name, array in own.items()}
    inputs = {"X": (list(shape), FLOAT)} | ({"L": ([None], INT64)} if any("L" in n.input for n in nodes) else {})
    return graphs.model(nodes, inputs, outputs, constants)


def check(model, given=(T, B), **lengths):
    """ONNX Runtime's result of the whole graph is the GRU's, y or h_n."""
    x = np.random.default_rng(1).standard_normal((*given, 3)).astype(np.float32)
    feed = {"X": x} | ({"L": np.array(lengths["lengths"])} if lengths else {})
    loaded = cgru.from_onnx(model)
    for ours, theirs in zip(loaded(x, **lengths), graphs.session(model).run(None, feed), strict=False):
        assert relative_error(ours if theirs.shape == ours.shape else loaded(x, **lengths)[1], theirs) < 3e-6
    return loaded


EXACT = {
    "Slice": built([backwards("X", "x"), gru("x", "Y"), SQUEEZE, backwards("y", "out")]),
    "Slice, then without directions": built([backwards("X", "x"), gru("x", "Y"), backwards("Y", "y"), node("Squeeze", ["y", "d"], ["out"])]),
    "Slice from a far start": built([node("Slice", ["X", "far", "first", "t", "minus"], ["x"]), gru("x", "Y"), SQUEEZE, backwards("y", "out")]),
    "Identity nodes": built([node("Identity", ["X"], ["a"]), backwards("a", "c"), node("Identity", ["c"], ["x"]), gru("x", "Y"),
                             node("Identity", ["Y"], ["Z"]), node("Squeeze", ["Z", "d"], ["y"]), backwards("y", "out")]),
    "ReverseSequence of fixed steps": built([turned_by("sevens", "X", "x"), gru("x", "Y"), SQUEEZE, turned_by("sevens", "y", "out")], shape=(7, 2, 3)),
    "one of each": built([turned_by("sevens", "X", "x"), gru("x", "Y"), SQUEEZE, backwards("y", "out")], shape=(7, 2, 3)),
    "ReverseSequence by the shape": built([*shape_of("X", "n"), turned_by("n", "X", "x"), gru("x", "Y"), SQUEEZE, *shape_of("y", "m"), turned_by("m", "y", "out")]),
    "the state alone": built([backwards("X", "x"), gru("x", "Y")], ["Y_h"]),
    "the state alone, unnamed outputs": built([backwards("X", "x"), gru("x", "")], ["Y_h"]),
    "a shape that is read": built([backwards("X", "x"), gru("x", "Y"), node("Shape", ["Y"], ["s"]), SQUEEZE, backwards("y", "out")]),
    "axes from the end": built([node("Slice", ["X", "last", "first", "ago", "minus"], ["x"]), gru("x", "Y"), SQUEEZE,
                                node("Slice", ["y", "last", "first", "ago", "minus"], ["out"])]),
    "two that turn back": built([backwards("X", "x"), gru("x", "Y"), SQUEEZE, backwards("y", "out"), backwards("y", "other"), node("Relu", ["other"], ["z"])]),
}  # fmt: skip


@pytest.mark.parametrize("how", EXACT)
def test_turned_round_and_back(how):
    assert check(EXACT[how]).reverse


def test_batch_major_as_one_exporter_writes_it():
    """Its ReverseSequence turns first axes only, so there is a Transpose on either side."""

    def turn(x, y):
        swaps = [node("Transpose", [a], [b], perm=[1, 0, 2]) for a, b in ((x, f"{y}0"), (f"{y}1", y))]
        count = [node("Shape", [x], [f"{y}s"]), node("Gather", [f"{y}s", "b"], [f"{y}n"]), node("Shape", [f"{y}0"], [f"{y}r"]),
                 node("Gather", [f"{y}r", "b"], [f"{y}b"]), node("Expand", [f"{y}n", f"{y}b"], [f"{y}l"])]  # fmt: skip
        return [swaps[0], *count, turned_by(f"{y}l", f"{y}0", f"{y}1"), swaps[1]]

    nodes = [*turn("X", "r"), node("Transpose", ["r"], ["x"], perm=[1, 0, 2]), gru("x", "Y"), SQUEEZE,
             node("Transpose", ["y"], ["z"], perm=[1, 0, 2]), *turn("z", "out")]  # fmt: skip
    loaded = check(built(nodes, shape=("B", "T", 3)), (B, T))
    assert loaded.reverse
    assert loaded.batch_first


def test_batch_major_turned_before_it_is_transposed():
    nodes = [*shape_of("X", "n", 1), turned_by("n", "X", "r", time_axis=1, batch_axis=0), node("Transpose", ["r"], ["x"], perm=[1, 0, 2]), gru("x", "Y"),
             SQUEEZE, node("Transpose", ["y"], ["z"], perm=[1, 0, 2]), node("Slice", ["z", "last", "first", "b", "minus"], ["out"])]  # fmt: skip
    loaded = check(built(nodes, shape=("B", "T", 3)), (B, T))
    assert (loaded.reverse, loaded.batch_first) == (True, True)


def test_lengths_that_turn_what_they_count():
    """The steps past a sequence's length stay where they are, as those that a reverse GRU leaves out."""
    cast = node("Cast", ["L"], ["lens"], to=TensorProto.INT32)
    nodes = [cast, turned_by("L", "X", "x"), gru("x", "Y", "lens"), SQUEEZE, turned_by("L", "y", "out")]
    assert check(built(nodes), lengths=[4, 7]).reverse
    state = [cast, turned_by("L", "X", "x"), gru("x", "Y", "lens")]
    assert check(built(state, ["Y_h"]), lengths=[4, 7]).reverse


def test_a_reverse_operator_turned_round_is_a_forward_one():
    nodes = [backwards("X", "x"), gru("x", "Y", direction="reverse"), SQUEEZE, backwards("y", "out")]
    assert not check(built(nodes)).reverse


def test_stacks_of_turned_layers():
    """Each turned round and back, and one whose input the one below turned back."""
    own = {"weights": "0"}, {"weights": "1"}
    below = [
        backwards("X", "x0"),
        gru("x0", "Y0", name="lower", **own[0]),
        node("Squeeze", ["Y0", "d"], ["z"]),
        backwards("z", "y0"),
    ]
    both = [
        *below,
        backwards("y0", "x1"),
        gru("x1", "Y1", name="upper", **own[1]),
        node("Squeeze", ["Y1", "d"], ["y1"]),
        backwards("y1", "out"),
    ]
    loaded = check(built(both, layers=2))
    assert (loaded.reverse, loaded.num_layers) == (True, 2)
    mixed = built([*below, gru("y0", "Y1", name="upper", **own[1]), node("Squeeze", ["Y1", "d"], ["out"])], layers=2)
    with pytest.raises(cgru.FormatError, match="'lower' and 'upper' that differ in reverse"):
        cgru.from_onnx(mixed)
    lower, upper = (cgru.from_onnx(mixed, name) for name in ("lower", "upper"))
    assert (lower.reverse, upper.reverse) == (True, False)
    x = np.random.default_rng(1).standard_normal((T, B, 3)).astype(np.float32)
    assert relative_error(upper(lower(x)[0])[0], graphs.session(mixed).run(None, {"X": x})[0]) < 3e-6


def test_two_directions_as_two_operators():
    nodes = [gru("X", "Y", name="forward", weights="0"), backwards("X", "x"), gru("x", "Z", name="backward", weights="1"),
             SQUEEZE, node("Squeeze", ["Z", "d"], ["w"]), backwards("w", "z"), node("Concat", ["y", "z"], ["out"], axis=2)]  # fmt: skip
    model = built(nodes, layers=2, arrays={})
    for tensor in model.graph.initializer:  # both read X
        if tensor.name == "W1":
            tensor.CopyFrom(
                graphs.numpy_helper.from_array(
                    np.random.default_rng(5).normal(size=(1, 12, 3)).astype(np.float32), "W1"
                )
            )
    with pytest.raises(cgru.FormatError, match="choose one by its name: 'forward', 'backward'"):
        cgru.from_onnx(model)
    x = np.random.default_rng(1).standard_normal((T, B, 3)).astype(np.float32)
    ours = [cgru.from_onnx(model, name)(x)[0] for name in ("forward", "backward")]
    assert relative_error(np.concatenate(ours, axis=2), graphs.session(model).run(None, {"X": x})[0]) < 3e-6


REFUSED = {
    "not turned back": built([backwards("X", "x"), gru("x", "Y"), node("Squeeze", ["Y", "d"], ["out"])]),
    "the output itself": built([backwards("X", "x"), gru("x", "Y"), SQUEEZE, backwards("y", "out")], ["out", "Y"]),
    "turned back, and read as it is": built([backwards("X", "x"), gru("x", "Y"), SQUEEZE, backwards("y", "out"), node("Relu", ["y"], ["z"])], ["out", "z"]),
    "turned back along another axis": built([backwards("X", "x"), gru("x", "Y"), SQUEEZE, backwards("y", "out", "i")]),
    "turned along the features": built([backwards("X", "x", "i"), gru("x", "Y"), SQUEEZE, backwards("y", "out")]),
    "turned along the sequences": built([backwards("X", "x", "b"), gru("x", "Y"), SQUEEZE, backwards("y", "out")]),
    "cut as well": built([node("Slice", ["X", "last", "cut", "t", "minus"], ["x"]), gru("x", "Y"), SQUEEZE, backwards("y", "out")]),
    "both directions": built([backwards("X", "x"), gru("x", "Y", direction="bidirectional"), node("Transpose", ["Y"], ["z"], perm=[0, 2, 1, 3]),
                              node("Reshape", ["z", "keep"], ["y"]), backwards("y", "out")], directions=2),
    "lengths that the GRU has not": built([turned_by("L", "X", "x"), gru("x", "Y"), SQUEEZE, turned_by("L", "y", "out")]),
    "lengths that only the GRU has": built([node("Cast", ["L"], ["n"], to=6), backwards("X", "x"), gru("x", "Y", "n"), SQUEEZE, backwards("y", "out")]),
    "lengths to turn back that are others": built([turned_by("sevens", "X", "x"), gru("x", "Y"), SQUEEZE, turned_by("six", "y", "out")], shape=(7, 2, 3)),
    "fixed lengths": built([turned_by("six", "X", "x"), gru("x", "Y"), SQUEEZE, turned_by("six", "y", "out")], shape=(7, 2, 3)),
    "steps that are not fixed": built([turned_by("sevens", "X", "x"), gru("x", "Y"), SQUEEZE, turned_by("sevens", "y", "out")]),
    "read by a body": built([backwards("X", "x"), gru("x", "Y"), SQUEEZE, backwards("y", "out"), node("If", ["L"], ["z"], then_branch=helper.make_graph(
        [node("Relu", ["y"], ["r"])], "then", [], [graphs.value("r")]))]),
    "turned twice, once by lengths": built([backwards("X", "x0"), turned_by("L", "x0", "x"), gru("x", "Y"), SQUEEZE, backwards("y", "out")]),
    "turned behind other moves": built([backwards("X", "x0"), node("Slice", ["x0", "t", "far", "t"], ["x"]), gru("x", "Y"), SQUEEZE, backwards("y", "out")]),
}  # fmt: skip


@pytest.mark.parametrize("how", REFUSED)
def test_what_is_not_exactly_that(how):
    message = "X: expected sequences as the caller has them, got those that .* turns round; take that node out"
    with pytest.raises(cgru.FormatError, match=message):
        cgru.from_onnx(REFUSED[how])


def test_turned_twice_is_not_turned():
    nodes = [backwards("X", "a"), backwards("a", "x"), gru("x", "Y"), node("Squeeze", ["Y", "d"], ["out"])]
    assert not check(built(nodes)).reverse

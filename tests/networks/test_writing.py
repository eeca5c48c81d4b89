"""Networks written node by node: names, shapes, outputs whose names others have, whole GRUs."""

import numpy as np
import pytest

import cgru
from cgru.model.interpret import run
from cgru.model.nodes.sizes import Size
from cgru.model.writing import Writer

T, B = Size("T"), Size("B")


def test_names_are_new():
    writer = Writer("net")
    x = writer.input("x", (T, 4))
    names = [writer.add("Relu", x), writer.add("Relu", x), writer.add("Relu", x, name="x"), writer.constant(np.ones(4))]
    names += writer.add("Split", x, name="x", outputs=2, axis=1)
    assert len(set(names)) == len(names) == 6
    assert x == "x"
    assert writer.shapes[names[-1]] == (T, 2)
    with pytest.raises(ValueError, match="net: expected inputs of new names, got 'x' again"):
        writer.input("x", (T, 4))


def test_outputs_have_their_names():
    """Also where a node, a constant, or another output's value has one of them."""
    writer = Writer("net")
    x = writer.input("x", (T, 2))
    a = writer.add("Mul", x, writer.constant(np.array([2.0, 3.0], np.float32), "b"), name="a")
    b = writer.add("Neg", a, name="c")
    graph = writer.graph({"a": b, "b": a, "c": b, "d": x})
    values = np.ones((1, 2))
    outputs, _ = run(graph, {"x": values})
    expected = {"a": [-2, -3], "b": [2, 3], "c": [-2, -3], "d": [1, 1]}
    assert {name: array[0].tolist() for name, array in outputs.items()} == expected


def test_shapes_that_build_finds():
    """Those of inputs whose axes turn out to be one, and of nodes whose attributes are inputs."""
    writer = Writer("net")
    x, y = writer.input("x", (T, 2)), writer.input("y", (Size("S"), 2))
    both = writer.add("Reshape", writer.add("Add", x, y), writer.constant(np.array([-1])))
    assert both not in writer.shapes
    assert writer.graph({"z": both}).outputs == {"z": ("2*T",)}
    writer = Writer("net")
    wrong = writer.add("Add", writer.input("x", (T, 2)), writer.input("y", (3,)), name="sum")
    with pytest.raises(cgru.FormatError, match="net: Add 'sum': expected shapes that broadcast together"):
        writer.graph({"z": wrong})


def test_a_whole_gru():
    gru = cgru.GRU(3, 4, num_layers=2, dtype="float64", rng=0)
    writer = Writer("net")
    x = writer.input("x", (T, B, 3), np.float64)
    y, h_n = writer.stack(gru._value, x)
    again, _ = writer.stack(gru._value, x, h_n)
    assert (writer.shapes[y], writer.shapes[h_n]) == ((T, B, 4), (2, B, 4))
    graph = writer.graph({"y": y, "again": again})
    x = np.random.default_rng(0).standard_normal((5, 2, 3))
    expected, last = gru(x)
    outputs, _ = run(graph, {"x": x})
    np.testing.assert_allclose(outputs["y"], expected, atol=1e-12)
    np.testing.assert_allclose(outputs["again"], gru(x, last)[0], atol=1e-12)

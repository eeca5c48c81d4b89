"""Networks whose nodes move numbers: what becomes no step, and caches that are windows of the program's own."""

import numpy as np
import pytest
from onnx import helper

import cgru
from cgru.model.interpret import run

from ..support import compiled
from ..support.onnx_graphs import model

FLOAT = 1
CHANNELS, BANDS = 4, 9


def node(operator, inputs, output, **attributes):
    return helper.make_node(operator, inputs, [output], name=output, **attributes)


def cached(rng, kernels, apart, joined_by="ScatterND"):
    """Convolutions over (frames, bands), one behind the other, each with a cache; all in one array, or each its own.

    `kernels`: of each its taps in time and its dilation. `apart`: each cache is a state of its own.
    """
    sizes = [(taps - 1) * dilation for taps, dilation in kernels]
    starts = np.cumsum([0, *sizes])
    total = int(starts[-1])
    nodes, constants, value = [], {}, "x"
    inputs = {"x": ([1, CHANNELS, 1, BANDS], FLOAT)}
    states = {}
    latest = "cache"
    if not apart:
        inputs["cache"] = ([1, CHANNELS, total, BANDS], FLOAT)
    for i, ((taps, dilation), size) in enumerate(zip(kernels, sizes, strict=True)):
        own = f"cache{i}"
        if apart:
            inputs[own] = ([1, CHANNELS, size, BANDS], FLOAT)
        else:
            constants |= {f"from{i}": np.array([starts[i]]), f"to{i}": np.array([starts[i + 1]])}
            nodes.append(node("Slice", ["cache", f"from{i}", f"to{i}", "axis"], own))
        constants[f"w{i}"] = (rng.standard_normal((CHANNELS, CHANNELS, taps, 3)) / 4).astype(np.float32)
        constants[f"last{i}"] = np.array([-size])
        attributes = {"pads": [0, 1, 0, 1], "dilations": [dilation, 1]}
        nodes += [
            node("Concat", [own, value], f"seen{i}", axis=2),
            node("Conv", [f"seen{i}", f"w{i}"], f"c{i}", **attributes),
            node("Tanh", [f"c{i}"], f"y{i}"),
            node("Slice", [f"seen{i}", f"last{i}", "end", "axis"], f"cache{i}_out" if apart else f"new{i}"),
        ]
        if apart:
            states[own] = f"cache{i}_out"
        elif joined_by == "ScatterND":
            places = np.stack(np.meshgrid([0], range(CHANNELS), range(starts[i], starts[i + 1]), indexing="ij"), -1)
            constants[f"places{i}"] = places
            following = "cache_out" if i == len(kernels) - 1 else f"cache_after{i}"
            nodes.append(node("ScatterND", [latest, f"places{i}", f"new{i}"], following))
            latest = following
        value = f"y{i}"
    if not apart:
        states["cache"] = "cache_out"
        if joined_by == "Concat":
            nodes.append(node("Concat", [f"new{i}" for i in range(len(kernels))], "cache_out", axis=2))
    constants |= {"axis": np.array([2]), "end": np.array([2**31])}
    outputs = [value, *states.values()]
    return model(nodes, inputs, outputs, constants), states


def beside_specification(net, steps, rng):
    """Step by step, its states beside the specification's; a stream that takes a state over goes on with the bits."""
    (name, shape), (out,) = *net.inputs.items(), net.outputs
    stream, states = net.stream(), {}
    other = None
    for t in range(steps):
        x = rng.standard_normal(shape).astype(np.float32)
        got = stream.step(x).copy()
        expected, states = run(net.graph, {name: x}, states)
        compiled.near(got, expected[out], f"step {t}")
        for state, array in stream.state.items():
            compiled.near(array.reshape(states[state].shape), states[state], f"{state} after step {t}")
        if other is not None:
            compiled.same(other.step(x), got, f"step {t} of another stream")
        if t % 3 == 1:
            other = net.stream()
            other.state = stream.state


@pytest.mark.parametrize("apart", [True, False], ids=["apart", "together"])
@pytest.mark.parametrize("joined_by", ["ScatterND", "Concat"])
@pytest.mark.parametrize("kernels", [[(2, 1)], [(3, 1), (3, 2)], [(3, 2), (2, 5), (2, 1)]], ids=str)
def test_caches_of_convolutions_are_windows(apart, joined_by, kernels):
    rng = np.random.default_rng(0)
    proto, states = cached(rng, kernels, apart, joined_by)
    net = cgru.Network.from_onnx(proto, states=states)
    beside_specification(net, 14, rng)
    program = net.runner.streaming(1).compiled.program
    assert [ring.history for ring in program.rings] == [(taps - 1) * dilation for taps, dilation in kernels]
    assert not program.kept
    # the input comes with bands innermost, and so goes the output; nothing between them is moved
    assert {step.title for step in program.steps if step.moves} <= {"Conv 'c0'", "the network"}


def test_a_pool_has_caches_too():
    rng = np.random.default_rng(1)
    proto, states = cached(rng, [(3, 1), (2, 2)], False)
    net = cgru.Network.from_onnx(proto, states=states)
    pool, streams = net.pool(3), [net.stream() for _ in range(3)]
    numbers = [pool.open() for _ in range(3)]
    for t in range(9):
        rows = rng.permutation(3)[: 1 + t % 3]
        x = rng.standard_normal((len(rows), CHANNELS, 1, BANDS)).astype(np.float32)
        got = pool.step([numbers[r] for r in rows], x)
        for row, frame, y in zip(rows, x, got, strict=True):
            compiled.same(y, streams[row].step(frame[None])[0], f"step {t}")
    for number, stream in zip(numbers, streams, strict=True):
        for name, array in pool.state(number).items():
            compiled.same(array.ravel(), stream.state[name].ravel(), name)


def test_a_cache_that_feeds_what_it_holds_stays_a_state():
    """The cache is read before the value is there: it is copied, as ever."""
    nodes = [
        node("ReduceSum", ["cache", "axes"], "sum", keepdims=1),
        node("Add", ["sum", "x"], "y"),
        node("Concat", ["cache", "y"], "both", axis=1),
        node("Slice", ["both", "one", "end", "axes"], "cache_out"),
    ]
    constants = {"axes": np.array([1]), "one": np.array([1]), "end": np.array([9])}
    inputs = {"x": ([1, 1, 5], FLOAT), "cache": ([1, 3, 5], FLOAT)}
    proto = model(nodes, inputs, ["y", "cache_out"], constants)
    net = cgru.Network.from_onnx(proto, states={"cache": "cache_out"})
    assert not net.runner.streaming(1).compiled.program.rings
    beside_specification(net, 8, np.random.default_rng(2))


def test_a_state_that_two_caches_share_stays_one():
    """Two states hold the same frames, and a caller may set them apart."""
    nodes = [
        node("Concat", ["a", "x"], "long", axis=1),
        node("Concat", ["b", "x"], "same", axis=1),
        node("ReduceMax", ["long", "axes"], "most", keepdims=0),
        node("ReduceMin", ["same", "axes"], "least", keepdims=0),
        node("Sub", ["most", "least"], "y"),
        node("Slice", ["long", "one", "end", "axes"], "a_out"),
        node("Slice", ["same", "one", "end", "axes"], "b_out"),
    ]
    constants = {"axes": np.array([1]), "one": np.array([1]), "end": np.array([9])}
    inputs = {"x": ([1, 1, 5], FLOAT), "a": ([1, 2, 5], FLOAT), "b": ([1, 2, 5], FLOAT)}
    proto = model(nodes, inputs, ["y", "a_out", "b_out"], constants)
    net = cgru.Network.from_onnx(proto, states={"a": "a_out", "b": "b_out"})
    rng = np.random.default_rng(3)
    beside_specification(net, 6, rng)
    stream = net.stream()
    apart = {"a": np.full((1, 1, 2, 5), 3, np.float32), "b": np.full((1, 1, 2, 5), -2, np.float32)}
    stream.state = {name: array.reshape(stream.state[name].shape) for name, array in apart.items()}
    np.testing.assert_array_equal(stream.step(np.zeros((1, 1, 5), np.float32)), np.full((1, 5), 5, np.float32))


def test_chains_of_moves_are_no_steps():
    """Transposed, cut, repeated, written into zeros, joined: the product reads what it needs from where it is."""
    rng = np.random.default_rng(4)
    nodes = [
        node("Exp", ["x"], "e"),
        node("Transpose", ["e"], "t", perm=[1, 0]),
        node("Reshape", ["t", "shape"], "r"),
        node("Slice", ["r", "zero", "two", "one"], "s"),
        node("Transpose", ["s"], "back", perm=[2, 1, 0]),
        node("Identity", ["back"], "same"),
        node("Squeeze", ["same", "one"], "rows"),
        node("MatMul", ["rows", "w"], "y"),
    ]
    constants = {
        "shape": np.array([3, 2, 4]), "zero": np.array([0]), "one": np.array([1]), "two": np.array([1]),
        "w": rng.standard_normal((3, 5)).astype(np.float32),
    }  # fmt: skip
    proto = model(nodes, {"x": ([4, 6], FLOAT)}, ["y"], constants, opset=14)
    net = cgru.Network.from_onnx(proto)
    x = rng.standard_normal((4, 6)).astype(np.float32)
    compiled.as_specified(net, {"x": x}, proto)
    kinds = [step.kind for step in net.runner.whole(1, 1).compiled.program.steps]
    assert kinds == ["elementwise", "elementwise", "product"]  # one copy, as a product wants inputs side by side


@pytest.mark.parametrize("seed", range(40))
def test_random_moves(seed):
    """What is brought together from several values, in boxes or by lists, beside the specification."""
    rng = np.random.default_rng(seed)
    nodes, constants, names = [], {}, ["x"]
    shapes = {"x": (1, 4, 2, 6)}
    for i in range(8):
        name, source = f"v{i}", names[rng.integers(len(names))]
        shape = shapes[source]
        kind = rng.choice(["Exp", "Concat", "Slice", "Transpose", "Pad", "Gather", "Scatter", "Add"])
        if kind == "Exp":
            nodes.append(node("Tanh", [source], name))
        elif kind == "Concat":
            axis = int(rng.integers(1, 4))
            fits = [
                n
                for n in names
                if all(a == b for j, (a, b) in enumerate(zip(shapes[n], shape, strict=True)) if j != axis)
            ]
            chosen = [source, *rng.choice(fits, 2)]
            nodes.append(node("Concat", chosen, name, axis=axis))
            shape = tuple(sum(shapes[n][j] for n in chosen) if j == axis else size for j, size in enumerate(shape))
        elif kind == "Slice":
            axis = int(rng.integers(1, 4))
            step = int(rng.choice([1, 2, -1]))
            constants |= {
                f"a{i}": np.array([shape[axis] - 1 if step < 0 else 0]),
                f"b{i}": np.array([-99 if step < 0 else 99]),
                f"c{i}": np.array([axis]),
                f"d{i}": np.array([step]),
            }
            nodes.append(node("Slice", [source, *(f"{letter}{i}" for letter in "abcd")], name))
            shape = tuple(len(range(size)[::step]) if j == axis else size for j, size in enumerate(shape))
        elif kind == "Transpose":
            perm = [0, *(1 + rng.permutation(3)).tolist()]
            nodes.append(node("Transpose", [source], name, perm=perm))
            shape = tuple(shape[axis] for axis in perm)
        elif kind == "Pad":
            pads = [0, *rng.integers(0, 2, 3).tolist()]
            constants |= {f"p{i}": np.array([*pads, *pads]), f"q{i}": np.float32(rng.choice([0, 2]))}
            nodes.append(node("Pad", [source, f"p{i}", f"q{i}"], name))
            shape = tuple(size + 2 * pad for size, pad in zip(shape, pads, strict=True))
        elif kind == "Gather":
            axis = int(rng.integers(1, 4))
            constants[f"g{i}"] = rng.integers(0, shape[axis], int(rng.integers(1, 6)))
            nodes.append(node("Gather", [source, f"g{i}"], name, axis=axis))
            shape = tuple(len(constants[f"g{i}"]) if j == axis else size for j, size in enumerate(shape))
        elif kind == "Scatter":
            count = shape[1] - 1 or 1
            constants[f"s{i}"] = np.stack([np.zeros(count, np.int64), rng.permutation(shape[1])[:count]], -1)
            constants |= {
                f"h{i}": np.arange(count),
            }
            nodes += [
                node("Gather", [source, f"h{i}"], f"u{i}", axis=1),
                node("Squeeze", [f"u{i}", "none"], f"z{i}"),
                node("ScatterND", [source, f"s{i}", f"z{i}"], name),
            ]
            constants["none"] = np.array([0])
        else:
            fits = [n for n in names if shapes[n] == shape]
            nodes.append(node("Add", [source, str(rng.choice(fits))], name))
        if np.prod(shape) > 3000:
            nodes = [n for n in nodes if not n.name.endswith(str(i))]
            continue
        shapes[name] = shape
        names.append(name)
    outputs = [names[-1], *rng.choice(names[1:], 1)] if len(names) > 1 else []
    nodes.append(node("Exp", [names[-1]], "y"))
    proto = model(nodes, {"x": ([1, 4, 2, 6], FLOAT)}, ["y", *dict.fromkeys(outputs)], constants)
    net = cgru.Network.from_onnx(proto)
    compiled.as_specified(net, {"x": rng.standard_normal((1, 4, 2, 6)).astype(np.float32)}, proto)


@pytest.mark.parametrize(("groups", "inputs", "outputs"), [(2, 8, 5), (3, 4, 16), (4, 3, 20), (5, 2, 40), (1, 7, 2)])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose", "Einsum"])
def test_groups_keep_to_themselves(operator, groups, inputs, outputs):
    """Groups of few outputs run side by side; what one is given that is not finite reaches none of the others."""
    rng = np.random.default_rng(groups)
    if operator == "Einsum":
        shape, axis = [1, 3, groups, inputs], 2
        constants = {"w": rng.standard_normal((groups, inputs, outputs)).astype(np.float32)}
        nodes = [node("Einsum", ["x", "w"], "y", equation="btgi,gih->btgh")]
    else:
        shape, axis = [1, groups * inputs, 2, 11], 1
        matrix = [groups * outputs, inputs] if operator == "Conv" else [groups * inputs, outputs]
        constants = {"w": rng.standard_normal((*matrix, 1, 3)).astype(np.float32)}
        nodes = [node(operator, ["x", "w"], "c", group=groups, strides=[1, 2]), node("Tanh", ["c"], "y")]
    proto = model(nodes, {"x": (shape, FLOAT)}, ["y"], constants)
    net = cgru.Network.from_onnx(proto)
    x = rng.standard_normal(shape).astype(np.float32)
    whole = compiled.as_specified(net, {"x": x}, proto)["y"]
    first = (slice(None),) * axis + (slice(0, 1 if operator == "Einsum" else inputs),)
    x[first] = np.nan
    marred = net(x)
    apart = (slice(None),) * axis + (slice(1 if operator == "Einsum" else outputs, None),)
    assert np.isnan(marred).any()
    compiled.same(marred[apart], whole[apart])


@pytest.mark.parametrize(
    ("equation", "x", "w"),
    [
        ("iae,ie->a", (6, 4, 1), (6, 1)),
        ("bfgh,efh->bge", (2, 3, 4, 1), (5, 3, 1)),
        ("abc,azb->cz", (3, 1, 4), (3, 2, 1)),
    ],
)
def test_sums_over_an_axis_of_one(equation, x, w):
    """What is summed over lies apart in memory, though its last axis has one element."""
    rng = np.random.default_rng(5)
    constants = {"w": rng.standard_normal(w).astype(np.float32)}
    proto = model([node("Einsum", ["x", "w"], "y", equation=equation)], {"x": (list(x), FLOAT)}, ["y"], constants)
    compiled.as_specified(cgru.Network.from_onnx(proto), {"x": rng.standard_normal(x).astype(np.float32)}, proto)


def test_a_cache_of_an_embedding_that_nobody_reads():
    """It is what a caller sees in the state, and takes to another stream."""
    nodes = [
        node("Gather", ["table", "i"], "e", axis=0),
        node("GRU", ["e", "w", "r", "", "", "h"], "y", hidden_size=5),
        node("Slice", ["c", "one", "end", "one"], "rest"),
        node("Concat", ["rest", "e"], "c_out", axis=1),
    ]
    nodes[1].output.append("h_out")
    rng = np.random.default_rng(6)
    shapes = {"table": (6, 8), "w": (1, 15, 8), "r": (1, 15, 5)}
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"one": np.array([1]), "end": np.array([9])}
    inputs = {"i": ([1, 1], 7), "h": ([1, 1, 5], FLOAT), "c": ([1, 3, 8], FLOAT)}
    proto = model(nodes, inputs, ["y", "h_out", "c_out"], constants)
    net = cgru.Network.from_onnx(proto, states={"h": "h_out", "c": "c_out"})
    stream, states = net.stream(), {}
    for t in range(5):
        _, states = run(net.graph, {"i": np.array([[t]])}, states)
        stream.step(np.array([[t]]))
        np.testing.assert_array_equal(stream.state["c"].reshape(1, 3, 8), states["c"].astype(np.float32))


@pytest.mark.parametrize(("before", "after"), [(3, 2), (2, 3), (3, 4), (5, 12), (7, 6)])
def test_casts_that_change_integers_are_refused(before, after):
    nodes = [node("Cast", ["x"], "c", to=after), node("Cast", ["c"], "y", to=FLOAT)]
    with pytest.raises(cgru.FormatError, match="'c': expected casts of integers to types that hold them"):
        cgru.Network.from_onnx(model(nodes, {"x": ([3], before)}, ["y"], {})).stream()


def test_zeros_keep_their_sign():
    nodes = [
        node("Pad", ["x", "pads", "zero"], "p"),
        node("Reciprocal", ["p"], "y"),
        node("Cast", ["x"], "i", to=7),
        node("Cast", ["i"], "f", to=FLOAT),
        node("Reciprocal", ["f"], "z"),
    ]
    constants = {"pads": np.array([1, 1]), "zero": np.float32(-0.0)}
    net = cgru.Network.from_onnx(model(nodes, {"x": ([1], FLOAT)}, ["y", "z"], constants))
    got = net(np.float32([-0.5]))
    np.testing.assert_array_equal(got["y"], np.float32([-np.inf, -2, -np.inf]))
    np.testing.assert_array_equal(got["z"], np.float32([np.inf]))


def test_a_product_of_no_inputs_is_its_bias():
    nodes = [
        node("Slice", ["x", "end", "end", "one"], "none"),
        node("MatMul", ["none", "w"], "m"),
        node("Add", ["m", "b"], "y"),
    ]
    constants = {
        "end": np.array([9]),
        "one": np.array([1]),
        "w": np.zeros((0, 3), np.float32),
        "b": np.float32([1, 2, 3]),
    }
    net = cgru.Network.from_onnx(model(nodes, {"x": ([2, 4], FLOAT)}, ["y"], constants))
    np.testing.assert_array_equal(net(np.ones((2, 4), np.float32)), np.tile(np.float32([1, 2, 3]), (2, 1)))

"""Streams and pools of networks: states, copies, wrong arguments, and arrays of every form."""

import copy
import pickle

import numpy as np
import pytest
from onnx import TensorProto, helper

import cgru
from cgru.model.interpret import run

from ..support import compiled
from ..support.networks import Net
from ..support.onnx_graphs import model

F = np.float32
RNG = np.random.default_rng(0)


def numbers(*shape):
    return RNG.standard_normal(shape).astype(F)


def gru(net, x, inputs, hidden, start=""):
    """Over (T, B, inputs); states of all steps, and the last."""
    weights = [net.weight(1, 3 * hidden, inputs), net.weight(1, 3 * hidden, hidden), net.weight(1, 6 * hidden)]
    y, last = net.op("GRU", x, *weights, "", start, outputs=2, hidden_size=hidden)
    return net.op("Squeeze", y, net.constant(np.array([1]))), last


def over_channels(net, y, layer):
    """What a layer over (B, C, T) makes of (T, B, C)."""
    return net.op("Transpose", layer(net.op("Transpose", y, perm=[1, 2, 0])), perm=[2, 0, 1])


def conv(net, y, channels, before, behind):
    weights = [net.weight(3, channels, before + behind + 1), net.weight(3)]
    return over_channels(net, y, lambda z: net.op("Conv", z, *weights, pads=[before, behind]))


def simple():
    """One input and one output, a window and a state."""
    net = Net(0)
    y, _ = gru(net, conv(net, net.input("x", ["T", "B", 4]), 4, 2, 0), 3, 5)
    return cgru.Network.from_onnx(net.model(y))


def looking_ahead():
    """Two outputs, one the last state; frames wait."""
    net = Net(1)
    y, last = gru(net, conv(net, net.input("x", ["T", "B", 4]), 4, 1, 2), 3, 5)
    return cgru.Network.from_onnx(net.model(y, last))


def started():
    """Its state begins as an input says, and an input without frames is added."""
    net = Net(2)
    x, start, speaker = (net.input(*of) for of in (("x", ["T", "B", 4]), ("h", [1, "B", 5]), ("s", ["B", 5])))
    y, last = gru(net, conv(net, x, 4, 9, 1), 3, 5, net.op("Tanh", start))
    return cgru.Network.from_onnx(net.model(net.op("Add", y, speaker), last))


def begun():
    """Its state begins as an input says, and nothing waits."""
    net = Net(2)
    y, _ = gru(net, net.input("x", ["T", "B", 4]), 4, 5, net.input("h", [1, "B", 5]))
    return cgru.Network.from_onnx(net.model(y))


def longer():
    """More frames go out than come in."""
    net = Net(3)
    y, last = gru(net, conv(net, net.input("x", ["T", "B", 4]), 4, 3, 2), 3, 5)
    return cgru.Network.from_onnx(net.model(y, last))


def words():
    """Indices in, and a table chosen from by what is computed too."""
    net = Net(4)
    x, extra = net.input("x", ["T", "B"], TensorProto.INT64), net.input("e", ["T", "B"])
    chosen = net.op("Gather", net.weight(6, 3), net.op("Cast", extra, to=TensorProto.INT64), axis=0)
    y, _ = gru(net, net.op("Add", net.op("Gather", net.weight(7, 3), x, axis=0), chosen), 3, 5)
    return cgru.Network.from_onnx(net.model(y))


def frame_graph():
    """Its caches go in and come out."""
    net = Net(5)
    x, cache = net.input("x", [1, 2, 6]), net.input("cache", [1, 2, 6])
    both = net.op("Concat", cache, x, axis=1)
    y = net.op("Tanh", net.op("Conv", both, net.weight(2, 4, 3), net.weight(2), pads=[1, 1]))
    return cgru.Network.from_onnx(net.model(y, net.op("Add", x, y), names=["y", "cache_out"]), {"cache": "cache_out"})


NETS = {
    "simple": simple,
    "looking ahead": looking_ahead,
    "started": started,
    "begun": begun,
    "longer": longer,
    "words": words,
}
SHAPES = {"x": (4,), "h": (5,), "s": (5,)}
each_net = pytest.mark.parametrize("name", NETS)


def given(net, steps=12, batch=2):
    """Inputs of any of these networks."""
    if net.graph.types["x"].kind == "i":
        e = RNG.integers(-6, 6, (steps, batch)).astype(F)
        return {"x": RNG.integers(-7, 7, (steps, batch)), "e": e}
    shapes = {"x": (steps, batch, 4), "h": (1, batch, 5), "s": (batch, 5)}
    return {name: numbers(*shapes[name]) for name in net.inputs}


def at(net, x, t):
    return {name: compiled.frame(net, name, array, t) for name, array in x.items()}


def same_states(one, other):
    assert one.keys() == other.keys()
    for name, array in one.items():
        compiled.same(array, other[name], name)


# --- States -----------------------------------------------------------------------------------------------------------


WAYS = {
    "copy": lambda stream: stream.copy(),
    "copy.copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda stream: pickle.loads(pickle.dumps(stream)),
}


def through_state(stream):
    fresh = stream._net.stream(2)
    fresh.state = stream.state
    return fresh


@each_net
@pytest.mark.parametrize("way", [*WAYS, "state"])
def test_a_copy_goes_on_as_the_stream_would(name, way):
    net = NETS[name]()
    x = given(net)
    whole = compiled.by_name(net, net(x))
    stream = net.stream(2)
    found = {name: [] for name in whole}
    for t in range(12):
        for key, array in compiled.by_name(net, stream.step(at(net, x, t))).items():
            found[key].append(array)
        before = stream
        stream = through_state(stream) if way == "state" else WAYS[way](stream)
        same_states(stream.state, before.state)
        before.step(at(net, x, t))  # which must not be seen by the other
    rest = compiled.by_name(net, stream.flush())
    for key, array in whole.items():
        if net.graph.time[key] is None:
            compiled.same(rest[key], array, key)
        else:
            compiled.same(np.concatenate([np.stack(found[key])[net.delay :], rest[key]]), array, key)


def test_each_part_of_a_state_has_a_name_of_its_own():
    """A GRU whose name is that of what it writes, and a window over that."""
    net = Net(0)
    y, _ = gru(net, net.input("x", ["T", "B", 4]), 4, 3)
    model = net.model(conv(net, y, 3, 2, 0))
    for node in model.graph.node:
        node.name = ""
    net = cgru.Network.from_onnx(model)
    stream, x = net.stream(2), numbers(9, 2, 4)
    assert len(stream.state) == 2
    steps = []
    for frame in x:
        steps.append(stream.step(frame))
        stream = stream.copy()
    compiled.same(np.stack(steps), net(x))


def test_last_states_of_what_is_shorter_than_the_sequence():
    """And of what comes late: the last state is that of the last frame there is."""
    for pads in ([0, 0], [1, 0], [0, 1], [1, 1], [2, 3]):
        net = Net(0)
        x, weights = net.input("x", ["T", "B", 4]), [net.weight(3, 4, 3), net.weight(3)]
        _, last = gru(net, over_channels(net, x, lambda z, n=net, w=weights, p=pads: n.op("Conv", z, *w, pads=p)), 3, 5)
        model, given = net.model(net.op("Tanh", last)), {"x": numbers(9, 2, 4)}
        net = cgru.Network.from_onnx(model)
        whole = compiled.as_specified(net, given, model)
        for lengths in ([9], [1] * 9, [4, 5]):
            compiled.same(compiled.streamed(net.stream(2), net, given, lengths)["y0"], whole["y0"])


def test_a_still_input_before_the_first_frame_is_refused_to_streams():
    """Frames are computed before any input has come; the whole is right."""
    net = Net(0)
    y = conv(net, net.input("x", ["T", "B", 4]), 4, 2, 0)
    y = net.op("Add", net.op("Pad", y, net.constant(np.array([2, 0, 0, 0, 0, 0]))), net.input("s", ["B", 3]))
    model, given = net.model(y), {"x": numbers(6, 2, 4), "s": numbers(2, 3)}
    net = cgru.Network.from_onnx(model)
    compiled.as_specified(net, given, model)
    with pytest.raises(ValueError, match="'s' has no time axis, and there are frames before the first"):
        net.stream(2)


def test_a_network_that_only_moves_numbers():
    net = Net(0)
    x = net.input("x", ["T", 1, 4])
    y = net.op(
        "Pad",
        net.op("MaxPool", net.op("Transpose", x, perm=[1, 2, 0]), kernel_shape=[1]),
        net.constant(np.array([0, 0, 1, 0, 0, -1])),
    )
    net, given = cgru.Network.from_onnx(net.model(y)), {"x": numbers(7, 1, 4)}
    whole = compiled.as_specified(net, given)
    for lengths in ([7], [1] * 7):
        compiled.same(compiled.streamed(net.stream(), net, given, lengths)["y0"], whole["y0"])


@each_net
def test_reset_begins_anew(name):
    net = NETS[name]()
    x = given(net)
    stream = net.stream(2)
    fresh, first = stream.state, compiled.by_name(net, stream.process(x))
    stream.reset()
    same_states(stream.state, fresh)
    for key, array in compiled.by_name(net, stream.process(x)).items():
        compiled.same(array, first[key], key)


@each_net
def test_pools_keep_states_apart(name):
    net = NETS[name]()
    x = given(net, 6, 1)
    pool, stream = net.pool(4), net.stream(1)
    ids = [pool.open() for _ in range(3)]
    for t in range(3):
        stream.step(at(net, x, t))
        pool.step([ids[1]], at(net, x, t))
    state = pool.state(ids[1])
    same_states({key: array[None] for key, array in state.items()}, stream.state)
    pool.set_state(ids[2], state)
    for other in (pool, pool.copy(), pickle.loads(pickle.dumps(pool)), copy.deepcopy(pool)):
        mine = stream.copy()
        for t in range(3, 6):
            two = {
                key: np.concatenate([array] * 2, net.graph.shapes[key].index("B") - (net.graph.time[key] is not None))
                for key, array in at(net, x, t).items()
            }
            expected = compiled.by_name(net, mine.step(at(net, x, t)))
            for key, array in compiled.by_name(net, other.step([ids[2], ids[1]], two)).items():
                axis = net.graph.shapes[key].index("B") - (net.graph.time[key] is not None)
                compiled.same(array, np.concatenate([expected[key]] * 2, axis), key)
    pool.reset(ids[1])
    same_states(pool.state(ids[1]), pool.state(ids[0]))


@pytest.mark.parametrize("shape", [(3, 4), (1, 3, 4), (3, 1, 4), (4, 1), (1,), (1, 1)])
def test_a_pool_drops_one_axis_of_size_1(shape):
    net = Net(0)
    x = net.input("x", list(shape))
    net = cgru.Network.from_onnx(net.model(net.op("Mul", x, net.weight(*shape)), net.op("Tanh", x)))
    rows = [size for axis, size in enumerate(shape) if axis != (shape[:2].index(1) if 1 in shape[:2] else None)]
    pool, x = net.pool(5), numbers(5, *rows)
    got = pool.step([pool.open() for _ in range(5)], x)
    for row in range(5):
        for key, array in net(x[row].reshape(shape)).items():
            compiled.same(got[key][row].ravel(), array.ravel(), key)


def test_a_frame_graph_keeps_its_caches():
    net = frame_graph()
    x, stream, cache = numbers(9, 1, 2, 6), net.stream(), np.zeros((1, 2, 6), F)
    assert stream.state.keys() == {"cache"}
    for t in range(9):
        outputs, states = run(net.graph, {"x": x[t]}, {"cache": cache})
        compiled.near(stream.step(x[t]), outputs["y"])
        cache = states["cache"].astype(F)
        compiled.near(stream.state["cache"][0], states["cache"])
    stepped = stream.state
    stream.reset()
    compiled.same(stream.process(x[:4]), net.stream().process(x[:4]))
    stream.process(x[4:])
    same_states(stream.state, stepped)


WAYS_OF_A_STATE = {
    "as it is": (lambda net, h: h, lambda net, e: e),
    "scaled": (lambda net, h: net.op("Mul", h, net.constant(F(0.5))), lambda net, e: e),
    "scaled after": (lambda net, h: h, lambda net, e: net.op("Mul", e, net.constant(F(0.5)))),
    "turned": (
        lambda net, h: net.op("Transpose", net.op("Transpose", h, perm=[2, 1, 0]), perm=[2, 1, 0]),
        lambda net, e: net.op("Identity", e),
    ),
}


@pytest.mark.parametrize("way", WAYS_OF_A_STATE)
@pytest.mark.parametrize("batch", ["B", 1, 2])
def test_a_sequence_graph_with_a_state_of_its_own(way, batch):
    """Each frame starts from what the network makes of the state before it."""
    before, after = WAYS_OF_A_STATE[way]
    net = Net(0)
    x, h = net.input("x", ["T", batch, 4]), net.input("h", [1, batch, 5])
    y, last = gru(net, x, 4, 5, before(net, h))
    model = net.model(y, after(net, last), names=["y", "h_out"])
    net, rows = cgru.Network.from_onnx(model, {"h": "h_out"}), 3 if batch == "B" else batch
    stream, x, state = net.stream(rows if batch == "B" else None), numbers(8, rows, 4), {}
    for t in range(8):
        expected, state = run(net.graph, {"x": x[t : t + 1]}, state)
        compiled.near(stream.step(x[t]), expected["y"][0])
    steps = net.stream(rows if batch == "B" else None).process(x)
    compiled.near(steps[-1:], expected["y"])


# --- Wrong arguments --------------------------------------------------------------------------------------------------


WRONG = {
    "fewer features": (lambda x: x[:, :3], ValueError),
    "another batch": (lambda x: x[:1], ValueError),
    "an axis more": (lambda x: x[None], ValueError),
    "float64": (lambda x: x.astype(np.float64), TypeError),
    "integers": (lambda x: x.astype(int), TypeError),
    "a name that is none": (lambda x: {"z": x}, ValueError),
    "a name more": (lambda x: {"x": x, "z": x}, ValueError),
    "nothing": (lambda x: None, TypeError),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_frame_is_refused_and_changes_nothing(wrong):
    change, error = WRONG[wrong]
    net = simple()
    stream, pool = net.stream(2), net.pool(3)
    ids = [pool.open(), pool.open()]
    stream.step(numbers(2, 4))
    before = stream.state
    with pytest.raises(error):
        stream.step(change(numbers(2, 4)))
    with pytest.raises(error):
        pool.step(ids, change(numbers(2, 4)))
    same_states(stream.state, before)
    same_states(pool.state(ids[0]), pool.state(pool.open()))


def test_states_of_another_form_are_refused():
    stream = looking_ahead().stream(2)
    stream.process(numbers(5, 2, 4))
    before = stream.state
    for wrong in (
        {},
        None,
        before | {"more": before["frames"]},
        {key: array[:1] for key, array in before.items()},
        {key: array.astype(np.float64) for key, array in before.items()},
    ):
        with pytest.raises((ValueError, TypeError)):
            stream.state = wrong
    same_states(stream.state, before)


def test_indices_out_of_range_change_nothing():
    """Those that come in are looked at before; those that are computed are found on the way."""
    net = words()
    stream, x = net.stream(2), given(net, 100, 2)
    stream.process(given(net))
    before = stream.state
    for key, value in (("x", 7), ("x", -8), ("e", 6), ("e", -7), ("e", np.nan), ("e", np.inf), ("e", 1e30)):
        bad = {name: array.copy() for name, array in x.items()}
        bad[key][90, 1] = value
        for call in (stream.process, net, lambda bad: stream.step(at(net, bad, 90))):
            with pytest.raises(ValueError, match="expected indices"):
                call(bad)
            same_states(stream.state, before)
    pool = net.pool(150)
    ids = [pool.open() for _ in range(150)]
    good = {"x": RNG.integers(0, 7, 150), "e": RNG.integers(0, 6, 150).astype(F)}
    pool.step(ids, good)
    before = [pool.state(i) for i in ids]
    good["e"][140] = 6
    with pytest.raises(ValueError, match="expected indices"):
        pool.step(ids, good)
    for i, state in zip(ids, before, strict=True):
        same_states(pool.state(i), state)


def test_integers_that_float32_has_not_are_refused():
    net = Net(0)
    x = net.input("x", ["T", "B"], TensorProto.INT64)
    net = cgru.Network.from_onnx(net.model(net.op("Cast", net.op("Equal", x, net.constant(np.array(2**24))), to=1)))
    assert not net(np.full((3, 2), 2**24 - 1)).any()
    with pytest.raises(ValueError, match="16777217"):
        net(np.full((3, 2), 2**24 + 1))


# --- Arrays given -----------------------------------------------------------------------------------------------------


def spread(array):
    """The same numbers, far apart and backwards."""
    wide = np.zeros([2 * size for size in array.shape], array.dtype)
    view = wide[tuple(slice(None, None, -2) for _ in array.shape)]
    view[...] = array
    return view


@each_net
def test_arrays_may_lie_anyhow(name):
    net = NETS[name]()
    x = given(net)
    expected = compiled.by_name(net, net(x))
    apart = {key: spread(array) for key, array in x.items()}
    out = {key: spread(np.full_like(array, 7)) for key, array in expected.items()}
    net(apart, out=out)
    stream = net.stream(2)
    for key, array in expected.items():
        compiled.same(out[key], array, key)
    first = compiled.by_name(net, stream.process(x))
    stream.reset()
    out = {key: spread(np.full_like(array, 7)) for key, array in first.items()}
    stream.process(apart, out=out)
    for key, array in first.items():
        compiled.same(out[key], array, key)
    stream.reset()
    for t in range(12):
        step = at(net, apart, t)
        one = {key: spread(np.zeros_like(compiled.frame(net, key, a, t))) for key, a in first.items()}
        stream.step(step, out=one)
        for key, array in one.items():
            if net.graph.time[key] is not None:
                compiled.same(array, first[key][t], key)


def test_out_that_is_the_input_is_refused_or_right():
    net = Net(0)
    y, _ = gru(net, conv(net, net.input("x", ["T", "B", 3]), 3, 2, 0), 3, 3)
    net = cgru.Network.from_onnx(net.model(y))
    x = numbers(8, 2, 3)
    whole, stream, pool = net(x), net.stream(2), net.pool(2)
    ids = [pool.open(), pool.open()]
    for call in (lambda a, o: net(a, out=o), lambda a, o: net.stream(2).process(a, out=o)):
        for shift in (0, 1):
            memory = np.concatenate([x, x[:1]])
            with pytest.raises(ValueError, match=r"overlap|memory"):
                call(memory[:8], memory[shift : 8 + shift])
            compiled.same(memory[:8], x)
    for t in range(8):
        for step in (lambda a, o: stream.step(a, out=o), lambda a, o: pool.step(ids, a, out=o)):
            memory = x[t].copy()
            try:
                step(memory, memory)
            except ValueError:
                compiled.same(memory, x[t])
                step(x[t], memory)
            compiled.same(memory, whole[t])


@pytest.mark.parametrize("out", [np.zeros((2, 4), F), np.zeros((2, 5)), [0], np.broadcast_to(F(0), (2, 5))])
def test_an_out_that_does_not_fit_is_refused(out):
    stream = simple().stream(2)
    before = stream.state
    with pytest.raises((ValueError, TypeError)):
        stream.step(numbers(2, 4), out=out)
    same_states(stream.state, before)


def test_outputs_that_are_inputs_constants_or_the_same():
    net = Net(0)
    x, c = net.input("x", ["T", "B", 4]), net.weight(2, 3)
    y, last = gru(net, x, 4, 5)
    model = net.model(x, y, c, y, net.op("Transpose", y, perm=[1, 0, 2]), last, last, names=list("abcdefg"))
    net, given = cgru.Network.from_onnx(model), {"x": numbers(7, 3, 4)}
    whole = compiled.as_specified(net, given, model)
    for lengths in ([7], [1, 4, 2]):
        for key, array in compiled.streamed(net.stream(3), net, given, lengths).items():
            compiled.same(array, whole[key], key)


def test_outputs_that_share_memory_are_refused():
    nodes = [helper.make_node("Exp", ["x"], ["e"], name="e"), helper.make_node("Tanh", ["x"], ["t"], name="t")]
    net = cgru.Network.from_onnx(model(nodes, {"x": ([1, 4], 1)}, ["e", "t"], {}))
    x, both = np.ones((1, 4), np.float32), np.zeros((1, 5), np.float32)
    for call in (net, net.stream().step):
        with pytest.raises(ValueError, match="out: expected memory of its own, got an array that overlaps e"):
            call(x, out={"e": both[:, :4], "t": both[:, 1:]})
        assert not both.any()
        got = call(x, out={"e": np.empty_like(x), "t": np.empty_like(x)})
        np.testing.assert_array_equal(got["e"], call(x)["e"])

"""GRUs of few units, which share vectors: the bits of the packed kernels, whatever runs beside them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import cgru
from cgru import _program, nodes
from cgru.engines.host.program import side_by_side

from ..support import compiled
from ..support.networks import Net

LARGEST = _program.LANES


def weights_of(net, directions, inputs, hidden):
    return [net.weight(directions, *shape) for shape in ((3 * hidden, inputs), (3 * hidden, hidden), (6 * hidden,))]


def a_frame(inputs, hidden, steps, rows, directions, after, initial, seed):
    """Layers side by side over (steps, rows, inputs), a direction each; forwards they may begin with given states."""
    net = Net(seed)
    outputs, names, at = [], [], 0
    x = net.input("x", [steps, rows, inputs * len(directions)])
    for group, direction in enumerate(directions):
        starts, ends = net.constant(np.array([at])), net.constant(np.array([at + inputs]))
        own, at = net.op("Slice", x, starts, ends, net.constant(np.array([2]))), at + inputs
        d = 1 + (direction == "bidirectional")
        start = net.input(f"h{group}", [d, rows, hidden]) if initial else ""
        y, end = net.op("GRU", own, *weights_of(net, d, inputs, hidden), "", start, outputs=2, hidden_size=hidden,
                        direction=direction, linear_before_reset=int(after))  # fmt: skip
        outputs += [y, end]
        names += [f"y{group}", f"end{group}"]
    return net.model(*outputs, names=names)


def a_grid(rng, model):
    return {
        value.name: rng.standard_normal([size.dim_value for size in value.type.tensor_type.shape.dim]).astype(
            np.float32
        )
        for value in model.graph.input
    }


def steps_of(net):
    return [step for step in net.runner.streaming(1).compiled.program.steps if step.weights or step.members]


def packed(monkeypatch, build):
    """The same network without steps side by side."""
    with monkeypatch.context() as patch:
        patch.setattr(side_by_side, "is_small", lambda *_: False)
        net = build()
    assert {step.kind for step in steps_of(net)} == {"recurrent"}
    return net


def as_packed(monkeypatch, model, seed):
    net = cgru.Network.from_onnx(model, states={})
    assert {step.kind for step in steps_of(net)} == {"side_by_side"}
    other = packed(monkeypatch, lambda: cgru.Network.from_onnx(model, states={}))
    inputs = a_grid(np.random.default_rng(seed), model)
    got = compiled.as_specified(net, inputs, model)
    for name, array in compiled.by_name(other, other(inputs)).items():
        assert got[name].tobytes() == array.tobytes(), name
    return net


small = pytest.mark.skipif(LARGEST < 2, reason="vectors of one lane")


@small
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("hidden", range(2, LARGEST + 1))
def test_bits_of_the_packed_kernels(hidden, after, monkeypatch):
    directions = ("bidirectional", "forward", "reverse")
    for rows in (1, 5):
        model = a_frame(hidden % 7 + 1, hidden, 6, rows, directions, after, rows > 1, hidden)
        (step,) = steps_of(as_packed(monkeypatch, model, hidden))
        assert len(step.members) == 4


@small
@settings(max_examples=30)
@given(
    st.integers(1, 9), st.integers(2, LARGEST), st.integers(1, 12), st.integers(1, 40),
    st.lists(st.sampled_from(["bidirectional", "forward", "reverse"]), min_size=1, max_size=10),
    st.booleans(), st.booleans(), st.integers(0, 2**20),
)  # fmt: skip
def test_any_layers_side_by_side(inputs, hidden, steps, rows, directions, after, initial, seed):
    with pytest.MonkeyPatch.context() as patch:
        as_packed(patch, a_frame(inputs, hidden, steps, rows, directions, after, initial, seed), seed)


@small
@pytest.mark.parametrize("directions", [["bidirectional"] * 2, ["forward"]])
def test_rows_of_a_pool(directions):
    """Each row's states are its own: alone, in a pool, beside a row of NaN and beside rows at other frames."""
    model = a_frame(3, 2, 9, 1, directions, True, True, 7)
    names = {f"h{group}": f"end{group}" for group in range(len(directions))}
    net = cgru.Network.from_onnx(model, states=names)
    rng = np.random.default_rng(7)
    x = rng.standard_normal((4, 5, 9, 3 * len(directions))).astype(np.float32)  # four frames of five rows
    x[1, 2] = np.nan
    pool = net.pool(8)
    ids = [pool.open() for _ in range(5)]
    found = [[] for _ in ids]
    for rows in ([0, 1, 2, 3, 4], [3, 1, 2], [2, 0], [4, 3, 2, 1, 0]):
        frames = np.stack([x[len(found[row]), row] for row in rows])
        got = compiled.by_name(net, pool.step([ids[row] for row in rows], frames))
        for k, row in enumerate(rows):
            found[row].append({name: array[k] for name, array in got.items()})
    for row, frames in enumerate(found):
        stream = net.stream()
        for t, frame in enumerate(frames):
            for name, array in compiled.by_name(net, stream.step(x[t, row][:, None])).items():
                assert (
                    np.squeeze(array, 2).tobytes()
                    == np.squeeze(frame[name]).reshape(array.shape[:2] + array.shape[3:]).tobytes()
                )
    assert not np.isnan(found[2][0]["y0"]).any()
    assert np.isnan(found[2][-1]["y0"]).all()


def parallel(seed, hidden=3, ahead=0):
    """Two GRUs over time on parts of what a convolution gives, which may look ahead, and one on another's results.

    And a convolution over frames of a GRU, of which those before the first and behind the last must be zero.
    """
    net = Net(seed)
    x = net.input("x", ["B", "T", 4])
    y = net.op("Transpose", x, perm=[0, 2, 1])
    y = net.op("Conv", y, net.weight(4, 4, 3), pads=[2 - ahead, ahead])
    parts = net.op("Split", net.op("Transpose", y, perm=[2, 0, 1]), outputs=2, axis=2)
    found = [net.op("GRU", part, *weights_of(net, 1, 2, hidden), outputs=2, hidden_size=hidden)[0] for part in parts]
    last = net.op("Squeeze", found[1], net.constant(np.array([1])))
    found.append(net.op("GRU", last, *weights_of(net, 1, hidden, hidden), outputs=2, hidden_size=hidden)[0])
    behind = net.op("Squeeze", found[1], net.constant(np.array([1])))
    behind = net.op("Conv", net.op("Transpose", behind, perm=[1, 2, 0]), net.weight(3, hidden, 4), pads=[2, 1])
    whole = net.op("Squeeze", net.op("Concat", *found, axis=3), net.constant(np.array([1])))
    whole = net.op("Concat", whole, net.op("Transpose", behind, perm=[2, 0, 1]), axis=2)
    return net.model(net.op("Transpose", whole, perm=[1, 0, 2]))


@small
@pytest.mark.parametrize("ahead", [0, 1, 2])
def test_over_time(ahead, monkeypatch):
    """Whole, stepped, in chunks, and in a pool whose rows have seen different numbers of frames: the same bits."""
    hidden, steps = min(3, LARGEST), 150
    model = parallel(ahead, hidden, ahead)
    net = cgru.Network.from_onnx(model)
    assert [len(step.members) for step in steps_of(net)] == [2, 1]
    rng = np.random.default_rng(ahead)
    x = {"x": rng.standard_normal((6, steps, 4)).astype(np.float32)}
    whole = compiled.as_specified(net, x, model)["y0"]
    other = packed(monkeypatch, lambda: cgru.Network.from_onnx(model))
    assert other(x).tobytes() == whole.tobytes()
    stream = net.stream(6)
    for lengths, by_step in (([1] * steps, True), ([40, 1, 109], False), ([steps], False)):
        compiled.same(compiled.streamed(stream, net, x, lengths, by_step)["y0"], whole)
    for row, frames in enumerate(compiled.pooled(net, x, rng, 6, steps)):
        got = np.stack([frame["y0"][0] for frame in frames])
        compiled.same(got[net.delay :], whole[row, : steps - net.delay])


@small
def test_a_state_that_a_row_begins_with():
    net = Net(0)
    x, hidden = net.input("x", ["T", 1, 2]), 2
    start = net.constant(np.array([[[0.5, -1]]], np.float32))
    y, _ = net.op("GRU", x, *weights_of(net, 1, 2, hidden), "", start, outputs=2, hidden_size=hidden)
    model = net.model(net.op("Squeeze", y, net.constant(np.array([1]))))
    net = cgru.Network.from_onnx(model)
    assert steps_of(net)[0].kind == "side_by_side"
    x = np.random.default_rng(0).standard_normal((5, 1, 2)).astype(np.float32)
    whole = compiled.as_specified(net, {"x": x}, model)["y0"]
    pool = net.pool(3)
    for _ in range(2):
        row = pool.open()
        got = [pool.step([row], frame) for frame in x]
        assert np.stack(got).tobytes() == whole.tobytes()
        pool.close(row)


@small
def test_states_that_are_given():
    """A sequence's states come in as an input: each row begins with its own."""
    net, hidden = Net(1), 2
    x, start = net.input("x", ["T", "B", 2]), net.input("h", [1, "B", hidden])
    y, _ = net.op("GRU", x, *weights_of(net, 1, 2, hidden), "", start, outputs=2, hidden_size=hidden)
    model = net.model(net.op("Squeeze", y, net.constant(np.array([1]))))
    net = cgru.Network.from_onnx(model, states={})
    assert steps_of(net)[0].kind == "side_by_side"
    rng = np.random.default_rng(1)
    inputs = {"x": rng.standard_normal((5, 3, 2)).astype(np.float32)}
    inputs["h"] = rng.standard_normal((1, 3, 2)).astype(np.float32)
    whole = compiled.as_specified(net, inputs, model)["y0"]
    stream = net.stream(3)
    got = [stream.step({"x": frame, "h": inputs["h"]}) for frame in inputs["x"]]
    assert np.stack(got).tobytes() == whole.tobytes()


@small
def test_inputs_with_gaps():
    """Inputs may lie apart; layers whose inputs lie apart in different ways share no vector."""
    net, hidden = Net(4), 2
    parts = [net.input("x", [4, 1, 2]), net.op("Transpose", net.input("turned", [2, 1, 4]), perm=[2, 1, 0])]
    found = [
        net.op("GRU", part, *weights_of(net, 1, 2, hidden), outputs=2, hidden_size=hidden)[0]
        for part in (*parts, net.op("Exp", parts[0]), net.op("Identity", parts[1]))
    ]
    model = net.model(*found)
    net = cgru.Network.from_onnx(model)
    assert [len(step.members) for step in steps_of(net)] == [2, 2]
    compiled.as_specified(net, a_grid(np.random.default_rng(0), model), model)


@small
@pytest.mark.parametrize(("order", "members"), [("sinks", [2]), ("rises", [2]), ("stays", [1, 1])])
def test_what_stands_between(order, members):
    """A layer moves to another's place past steps that have nothing to do with it, and past no others."""
    net, hidden = Net(3), 2
    x = net.input("x", [4, 1, 4])
    first, second = net.op("Split", x, outputs=2, axis=2)
    a = net.op("GRU", first, *weights_of(net, 1, 2, hidden), outputs=2, hidden_size=hidden)[0]
    if order == "rises":  # the second one's input is there before; the first one's results are used at once
        used = net.op("Exp", a)
    elif order == "sinks":  # its input comes behind the first one
        second = net.op("Exp", second)
    else:
        second = net.op("Add", second, net.op("Squeeze", a, net.constant(np.array([1]))))
    b = net.op("GRU", second, *weights_of(net, 1, 2, hidden), outputs=2, hidden_size=hidden)[0]
    model = net.model(used if order == "rises" else a, b)
    net = cgru.Network.from_onnx(model)
    assert [len(step.members) for step in steps_of(net)] == members
    compiled.as_specified(net, a_grid(np.random.default_rng(0), model), model)


@small
def test_many_groups_are_several_steps():
    model = a_frame(2, 2, 3, 1, ["bidirectional"] * (_program.MEMBERS // 2 + 1), True, False, 5)
    net = cgru.Network.from_onnx(model)
    assert [len(step.members) for step in steps_of(net)] == [_program.MEMBERS, 2]
    compiled.as_specified(net, a_grid(np.random.default_rng(5), model), model)


@small
def test_layers_of_a_stack_stay_apart():
    net = cgru.Network([cgru.GRU(4, 2, num_layers=3, bidirectional=True, rng=0), nodes.Linear(4, 2, rng=0)])
    x = np.random.default_rng(0).standard_normal((7, 3, 4)).astype(np.float32)
    got = net(x)
    expected = nodes.Linear(4, 2, rng=0)
    y = cgru.Network([cgru.GRU(4, 2, num_layers=3, bidirectional=True, rng=0)])(x)
    assert y.tobytes() == cgru.GRU(4, 2, num_layers=3, bidirectional=True, rng=0)(x)[0].tobytes()
    compiled.same(got, cgru.Network([expected])(y))


@pytest.mark.parametrize(
    "gru",
    [
        lambda: cgru.GRU(3, LARGEST + 1, rng=0),
        lambda: cgru.GRU(side_by_side.MOST_INPUTS + 1, 2, rng=0),
        lambda: cgru.GRU(3, 2, activation="relu", rng=0),
        lambda: cgru.MinGRU(3, 2, rng=0),
    ],
)
def test_others_stay_on_the_packed_kernels(gru):
    net = cgru.Network([gru()])
    assert [step.kind for step in steps_of(net)] == ["recurrent"]
    x = np.random.default_rng(0).standard_normal((5, 2, gru().input_size)).astype(np.float32)
    compiled.same(net(x), gru()(x)[0])


@pytest.mark.parametrize("precision", ["float16", "int8"])
def test_weights_of_fewer_bits_stay_on_the_packed_kernels(precision):
    gru = cgru.GRU(3, 2, rng=0)
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    net = cgru.Network([gru]).quantize(precision)
    assert [step.kind for step in steps_of(net)] == ["recurrent"]
    compiled.same(net(x), gru.quantize(precision)(x)[0])

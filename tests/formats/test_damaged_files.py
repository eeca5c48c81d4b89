"""Damaged, hostile and mistaken files of every format: refused with the reason, or a GRU."""

import io
import json
import zipfile

import numpy as np
import onnx
import pytest
import torch

import cgru

from ..support import fuzz, onnx_graphs
from .test_formats import others_file


def own(path):
    cgru.GRU(3, 4, activation=("elu", 0.5, 0), rng=0).save(path)
    return path.read_bytes()


def others(path):
    arrays = cgru.GRU(3, 4, rng=0).state_dict()
    return others_file({f"encoder.{name}": array for name, array in arrays.items()}, {"encoder.bias_ih_l0": "BF16"})


def written_onnx(path):
    cgru.GRU(3, 4, num_layers=2, bidirectional=True, clip=0.5, activation=("scaled_tanh", 0.9, 0.7), rng=0).to_onnx(
        path
    )
    return path.read_bytes()


def small_onnx(path):
    """Little beside what describes the graph, so that damage falls there."""
    arrays = onnx_graphs.weights(np.random.default_rng(0), 1, 1)
    return onnx_graphs.one_gru(
        arrays, activations=["HardSigmoid", "Elu"], activation_alpha=[0.2, 0.5]
    ).SerializeToString()


def unfolded_onnx(path):
    """Weights that nodes put together of their gates, as exporters leave them."""
    arrays = onnx_graphs.weights(np.random.default_rng(0), 1, 1)
    w = arrays.pop("W")
    arrays |= {"gates": w[0, [1, 0, 2]], "at": np.array([0, 1, 2, 3]), "first": np.array([0])}
    make = onnx.helper.make_node
    nodes = [make("Split", ["at"], [f"i{i}" for i in range(4)], axis=0)]
    nodes += [make("Slice", ["gates", f"i{i}", f"i{i + 1}", "first"], [f"gate{i}"]) for i in range(3)]
    nodes += [
        make("Concat", ["gate1", "gate0", "gate2"], ["flat"], axis=0),
        make("Unsqueeze", ["flat", "first"], ["W"]),
    ]
    model = onnx_graphs.one_gru(arrays | {"W": w}, extra=nodes)
    del model.graph.initializer[[t.name for t in model.graph.initializer].index("W")]
    path.write_bytes(model.SerializeToString())
    zrh = cgru.load(path).state_dict()["weight_ih_l0"]
    np.testing.assert_array_equal(zrh, w[0, [1, 0, 2]])
    return path.read_bytes()


def computed_onnx(path):
    """Quantized weights, lengths of the input's shape, and an input that is turned round and back."""
    rng, make = np.random.default_rng(0), onnx.helper.make_node
    arrays = {
        "q": rng.integers(-9, 9, (1, 3, 1), np.int8),
        "s": np.float32(0.1),
        "i": np.array([0]),
        "j": np.array([1]),
    }
    arrays |= {"last": np.array([-1]), "end": np.array([-(2**40)])}
    nodes = [
        *(make("DequantizeLinear", ["q", "s"], [name]) for name in "WR"),
        make("Shape", ["X"], ["n"]), make("Gather", ["n", "i"], ["t"]), make("Gather", ["n", "j"], ["b"]),
        make("Expand", ["t", "b"], ["l64"]), make("Cast", ["l64"], ["lens"], to=onnx.TensorProto.INT32),
        make("Slice", ["X", "last", "end", "i", "last"], ["x"]), make("GRU", ["x", "W", "R", "", "lens"], ["Y"], name="one"),
        make("Squeeze", ["Y", "j"], ["y"]), make("Slice", ["y", "last", "end", "i", "last"], ["z"]),
    ]  # fmt: skip
    model = onnx_graphs.model(nodes, {"X": ([None, None, 1], onnx.TensorProto.FLOAT)}, ["z"], arrays)
    path.write_bytes(model.SerializeToString())
    gru = cgru.load(path)
    assert (gru.precision, gru.reverse) == ("int8", True)
    return path.read_bytes()


def external_onnx(path):
    model = onnx_graphs.one_gru(onnx_graphs.weights(np.random.default_rng(0), 2, 3))
    onnx.save_model(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path.read_bytes()


def torch_file(path):
    torch.save({"state_dict": torch.nn.ModuleDict({"gru": torch.nn.GRU(3, 4)}).state_dict(), "epoch": 3}, path)
    return path.read_bytes()


FILES = {
    f.__name__: f
    for f in (own, others, written_onnx, small_onnx, unfolded_onnx, computed_onnx, external_onnx, torch_file)
}


def undamaged(make, path):
    """The bytes of a file that loads."""
    data = make(path)
    path.write_bytes(data)
    assert isinstance(cgru.load(path), cgru.GRU)
    return data


@pytest.mark.parametrize("name", FILES)
def test_truncated(name, tmp_path):
    """No part of a file passes for the whole."""
    path = tmp_path / "model"
    data = undamaged(FILES[name], path)
    refused, loaded = fuzz.survives(path, fuzz.truncations(data))
    assert refused >= len(data) // 64
    if not name.endswith("onnx"):  # of a graph the last fields may be dispensable
        assert loaded == 0


def mutated(name, path, count, seed):
    data = undamaged(FILES[name], path)
    refused, loaded = fuzz.survives(path, fuzz.mutations(data, count, seed))
    assert refused + loaded == count
    assert refused > count / 20


@pytest.mark.parametrize("name", FILES)
def test_mutated(name, tmp_path):
    mutated(name, tmp_path / "model", 400, 0)


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_mutated_at_length(name, tmp_path):
    mutated(name, tmp_path / "model", 15_000, 1)


def pickles(path, count, seed):
    """The archive with its pickle damaged and its checksums right."""
    data = undamaged(torch_file, path)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    (pickle,) = [name for name in entries if name.endswith("data.pkl")]
    for damaged in fuzz.mutations(entries[pickle], count, seed):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, damaged if name == pickle else content)
        yield file.getvalue()


def headers(path, count, seed):
    """Header and length of a .safetensors file, of which the header is damaged and the length right."""
    data = undamaged(others, path)
    size = 8 + int.from_bytes(data[:8], "little")
    for header in fuzz.mutations(data[8:size], count, seed):
        yield len(header).to_bytes(8, "little") + header + data[size:]


@pytest.mark.parametrize("inside", [pickles, headers])
def test_mutated_inside(inside, tmp_path):
    path = tmp_path / "model"
    refused, _ = fuzz.survives(path, inside(path, 400, 2))
    assert refused > 200


@pytest.mark.long
@pytest.mark.parametrize("inside", [pickles, headers])
def test_mutated_inside_at_length(inside, tmp_path):
    path = tmp_path / "model"
    fuzz.survives(path, inside(path, 15_000, 3))


def test_files_of_other_kinds(tmp_path):
    path = tmp_path / "model"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("readme.txt", "nothing")
    for data in [
        b"",
        b"\x00",
        b"\x80",
        b"GIF89a;",
        b"PK\x03\x04",
        archive.getvalue(),
        b"\x08",
        b"\x08\x07",
        b"\x80\x02}.",
        b"\x7fELF" + bytes(60),
    ]:
        assert fuzz.survives(path, [data]) == (1, 0), data
    path.write_bytes(b"GIF89a;")
    with pytest.raises(cgru.FormatError, match=r"expected \.safetensors, .*, got a file that begins with b'GIF89a;'"):
        cgru.load(path)
    with pytest.raises(FileNotFoundError, match="none: no such file"):
        cgru.load(tmp_path / "none")
    with pytest.raises(cgru.FormatError, match=r"or a folder with a model\.safetensors in it, got a folder of model"):
        cgru.load(tmp_path)


def test_claims_of_size(tmp_path):
    """Sizes that nothing backs, in each format's own words."""
    path = tmp_path / "model"
    huge = {"weight_ih_l0": {"dtype": "F32", "shape": [2**40, 2**20], "data_offsets": [0, 2**62]}}
    text = json.dumps(huge).encode()
    sizes = [len(text).to_bytes(8, "little") + text, (2**40).to_bytes(8, "little") + text]
    arrays = onnx_graphs.weights(np.random.default_rng(0))
    for dims in ([1, 3 * 2**40, 1], [2**31, 2**31, 2**31], [-1, -12, 3], [0, 0, 0]):
        model = onnx_graphs.one_gru(arrays)
        del model.graph.initializer[0].dims[:]
        model.graph.initializer[0].dims.extend(dims)
        sizes.append(model.SerializeToString())
    many = onnx_graphs.one_gru(onnx_graphs.weights(np.random.default_rng(0), 200, 200))
    for k in range(1000):  # a chain of GRUs, all of the same weights
        more = many.graph.node.add()
        more.CopyFrom(many.graph.node[0])
        more.output[0] = f"Y{k}"
    sizes.append(many.SerializeToString())
    for doubled in (["c", "c"], ["c"] * 1000):  # a weight made of itself, again and again
        model = onnx_graphs.one_gru(onnx_graphs.weights(np.random.default_rng(0), 100, 100))
        for k in range(10):
            inputs = [f"c{k}" if k else "W" for _ in doubled]
            model.graph.node.append(onnx.helper.make_node("Concat", inputs, [f"c{k + 1}"], axis=1))
        model.graph.node[0].input[1] = "c10"
        sizes.append(model.SerializeToString())
    assert fuzz.survives(path, sizes) == (len(sizes), 0)

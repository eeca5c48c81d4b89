"""Time and memory of a load, or of a refusal, are in proportion to the file's size: of each format, files that grow.

Those of ONNX are in test_proportion_onnx.py.
"""

import itertools
import json
import re
import zipfile

import h5py
import numpy as np
import pytest
import torch

import cgru
from cgru.formats import keras as format_keras

from ..support.fuzz import in_proportion

GRU = {
    "units": 1,
    "use_bias": True,
    "reset_after": True,
    "return_sequences": True,
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
}
WEIGHTS = {"kernel": (1, 3), "recurrent_kernel": (1, 3), "bias": (2, 3)}


def layer(kind, name, *sources, **config):
    """A layer of a Functional model, as Keras 2 writes it."""
    inbound = [[[source, 0, 0, {}] for source in sources]] if sources else []
    return {"class_name": kind, "name": name, "config": {"name": name, **config}, "inbound_nodes": inbound}


def gru(name, *sources):
    return layer("GRU", name, *sources, **GRU)


def model(layers, name="model", kind="Functional"):
    return {"class_name": kind, "name": name, "config": {"name": name, "layers": layers}}


def archive(path, config, weights=b""):
    """A .keras file."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("metadata.json", json.dumps({"keras_version": "3.1.0"}))
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", weights)
    return path


def chain(number):
    """A stack's layers, each on the one before."""
    names = [f"gru_{k}" if k else "gru" for k in range(number)]
    return [gru(name, *names[max(k - 1, 0) : k]) for k, name in enumerate(names)]


# --- Keras: configurations --------------------------------------------------------------------------------------------


def dropouts_called_twice(number):
    """Each on the one before, two times."""
    names = ["gru", *[f"d{k}" for k in range(number)]]
    dropouts = [layer("Dropout", name, below, below, rate=0.1) for below, name in itertools.pairwise(names)]
    return model([gru("gru"), *dropouts, gru("last", names[-1])])


def a_dropout_read_by_many(number):
    """Of a Dropout on many layers and many layers on it: each pair would be remembered."""
    sources = [gru(f"a{k}") for k in range(number)]
    shared = layer("Dropout", "d", *[source["name"] for source in sources], rate=0.1)
    return model([*sources, shared, *[gru(f"b{k}", "d") for k in range(number)]])


def a_long_name_around_many(number):
    return model([model([gru(str(k)) for k in range(number)], "x" * (5 * number))])


def names_around_many(number):
    """As long as they may be, around layers that are no stack."""
    inner = model([gru(str(k)) for k in range(number)], "x" * 900)
    return model([inner])


def models_in_models(number):
    tree = model([gru("gru")])
    for _ in range(number):
        tree = model([gru("gru"), tree])
    return tree


def a_call_on_many(number):
    """As Keras 2 writes a call on several inputs in one list."""
    node = [part for k in range(number) for part in (f"x{k}", 0, 0)]
    return model([{**gru("gru"), "inbound_nodes": [node]}, gru("other")])


def wrapped(inner):
    return {"class_name": "Wrapper", "config": {"name": "w", "layer": inner}}


def layers_around_layers(number):
    tree = gru("gru")
    for _ in range(number):
        tree = wrapped(tree)
    return tree


def lists_in_lists(number):
    """The innermost of very many empty ones."""
    inner = [[]] * (number * 100)
    for _ in range(90):
        inner = [inner]
    return wrapped(inner)


def both_ways_both_ways(number):
    """Which Keras makes two layers of each, again and again."""
    tree = {"class_name": "RNN", "config": {"name": "r", "cell": cells(2)}}
    for _ in range(number):
        tree = {"class_name": "Bidirectional", "config": {"name": "b", "merge_mode": "concat", "layer": tree}}
    return tree


def cells(number):
    cell = {"class_name": "GRUCell", "config": {"units": 1}}
    return {"class_name": "StackedRNNCells", "config": {"cells": [cell] * number}}


def many_cells(number):
    """Of a layer of many options, which belong to each of them."""
    options = {f"option{k}": k for k in range(number)}
    return model([layer("RNN", "r" * 900, cell=cells(number), **options)])


CONFIGURATIONS = {
    layers_around_layers: (10, 90),
    lists_in_lists: (20, 640),
    both_ways_both_ways: (8, 17),
    many_cells: (200, 3200),
    dropouts_called_twice: (10, 20),
    a_dropout_read_by_many: (100, 800),
    a_long_name_around_many: (500, 4000),
    names_around_many: (500, 4000),
    models_in_models: (20, 160),
    a_call_on_many: (1000, 16000),
}


@pytest.mark.parametrize("make", CONFIGURATIONS, ids=lambda make: make.__name__)
def test_keras_configurations(make, tmp_path):
    in_proportion(lambda number: archive(tmp_path / "m.keras", make(number)), *CONFIGURATIONS[make])


def test_nested_models_up_to_a_bound(tmp_path):
    for depth, expected in [(90, "got the layers gru, model/gru, "), (110, "expected models at most 100 levels deep")]:
        path = archive(tmp_path / "m.keras", models_in_models(depth))
        with pytest.raises(cgru.FormatError, match=expected):
            cgru.load(path)
    for length, expected in [(996, "got the layers x"), (997, "expected names of at most 1000 characters, got x")]:
        path = archive(tmp_path / "m.keras", model([model([gru("abc"), gru("abd")], "x" * length)]))
        with pytest.raises(cgru.FormatError, match=expected):
            cgru.load(path)


# --- Keras: weights ---------------------------------------------------------------------------------------------------


def keras_3(folder, number):
    """A stack of many layers, each with a group of its own."""
    with h5py.File(folder / "weights.h5", "w") as file:
        for name in [f"gru_{k}" if k else "gru" for k in range(number)]:
            for k, shape in enumerate(WEIGHTS.values()):
                file[f"layers/{name}/cell/vars/{k}"] = np.zeros(shape, np.float32)
    return archive(folder / "m.keras", model(chain(number)), (folder / "weights.h5").read_bytes())


def keras_2(folder, number, layers=None):
    """A stack of many layers inside a model, whose group lists the weights of all, in parts."""
    path = folder / "m.h5"
    layers = chain(number) if layers is None else layers
    names = [f"{layer['name']}/{field}:0" for layer in layers for field in WEIGHTS]
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = b"2.15.0"
        file.attrs["model_config"] = json.dumps(model([model(layers, "inner")]))
        group = file.create_group("model_weights/inner")
        for part, start in enumerate(range(0, len(names), 30)):
            group.attrs[f"weight_names{part}"] = [name.encode() for name in names[start : start + 30]]
        for name, shape in zip(names, [*WEIGHTS.values()] * number, strict=True):
            group[name] = np.zeros(shape, np.float32)
    return path


def test_many_layers_of_keras_3(tmp_path):
    in_proportion(lambda number: keras_3(tmp_path, number), 20, 160)
    assert cgru.load(keras_3(tmp_path, 160)).num_layers == 160


def test_many_layers_of_keras_2(tmp_path):
    in_proportion(lambda number: keras_2(tmp_path, number), 20, 160)
    assert cgru.load(keras_2(tmp_path, 160)).num_layers == 160


def load_weights(path):
    """A file of weights alone."""
    return format_keras.load(path, config={"class_name": "GRU", "config": {"name": "gru", **GRU}})


def weights_alone(path, fill):
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def many_attributes(file, number):
    for part in range(number):
        file.attrs[f"layer_names{part}"] = [b""]


def groups_in_groups(file, number):
    for _ in range(number):
        file = file.create_group("g")


def many_groups(file, number):
    for k in range(number):
        file.create_group(f"n{k:06d}")


GROUPS = {many_attributes: (100, 1600), groups_in_groups: (200, 3200), many_groups: (100, 1600)}


@pytest.mark.parametrize("fill", GROUPS, ids=lambda fill: fill.__name__)
def test_keras_groups(fill, tmp_path):
    in_proportion(
        lambda number: weights_alone(tmp_path / "m.h5", lambda file: fill(file, number)), *GROUPS[fill], load_weights
    )


def test_names_within_each_other(tmp_path):
    """Without the zeros between them, each name of a group reaches to the end of them all."""

    def write(number):
        path = weights_alone(tmp_path / "m.h5", lambda file: many_groups(file, number))
        data, count = re.subn(rb"(n\d{6})\0", rb"\1x", path.read_bytes())
        assert count == number
        path.write_bytes(data)
        return path

    in_proportion(write, 200, 1600, load_weights)
    with pytest.raises(cgru.FormatError, match="expected a name that ends after at most 1000 bytes"):
        load_weights(write(1600))


def test_groups_up_to_a_bound(tmp_path):
    path = weights_alone(tmp_path / "m.h5", lambda file: groups_in_groups(file, 300))
    with pytest.raises(cgru.FormatError, match=r"g/g/g/g/g/\.\.\.: expected groups at most 256 levels deep"):
        load_weights(path)


def test_texts_of_no_size(tmp_path):
    """A list of any length would take no bytes."""
    path = weights_alone(
        tmp_path / "m.h5", lambda file: file.attrs.create("layer_names", np.array([b"abcdefghijk"] * 77))
    )
    data = path.read_bytes()
    shape, kind = (77).to_bytes(8, "little"), (11).to_bytes(4, "little")
    at = data.index(b"layer_names\0")
    assert data.count(kind, at, at + 40) == 1
    assert data.count(shape, at, at + 60) == 2  # and the most it may become
    data = data[:at] + data[at : at + 40].replace(kind, bytes(4)) + data[at + 40 :]
    path.write_bytes(data[:at] + data[at : at + 60].replace(shape, (2**22).to_bytes(8, "little")) + data[at + 60 :])
    with pytest.raises(cgru.FormatError, match="layer_names: expected 4194304 texts of 0 bytes, got 848 bytes"):
        load_weights(path)


# --- .safetensors, PyTorch, RTNeural ----------------------------------------------------------------------------------


def safetensors_file(path, shapes, metadata=None):
    """Of zeros."""
    header, at = {"__metadata__": metadata or {}}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(at))
    return path


def names_of_others(path, number):
    return safetensors_file(path, {f"weight_{part}_l{k}": [3, 1] for k in range(number) for part in ("ih", "hh")})


def many_modules(path, number):
    return safetensors_file(path, {f"m{k}.weight_{part}_l0": [3, 1] for k in range(number) for part in ("ih", "hh")})


def quantized(path, number):
    cgru.GRU(1, 1, num_layers=number, rng=0).quantize("int8").save(path)
    return path


@pytest.mark.parametrize(
    ("write", "few", "many"),
    [(names_of_others, 200, 6400), (many_modules, 200, 3200), (quantized, 100, 4000)],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_safetensors(write, few, many, tmp_path):
    in_proportion(lambda number: write(tmp_path / "m.safetensors", number), few, many)


@pytest.mark.parametrize(
    ("shape", "message"),
    [([1] * 33, "at most 32 dimensions, got 33"), ([0, 2**62, 4], "a shape that an array can have")],
)
def test_shapes_that_no_array_has(shape, message, tmp_path):
    path = tmp_path / "m.safetensors"
    header = {"weight_ih_l0": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4 * (0 not in shape)]}}
    header["weight_hh_l0"] = {"dtype": "F32", "shape": [0, 0], "data_offsets": [4 * (0 not in shape)] * 2}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(4 * (0 not in shape)))
    with pytest.raises(cgru.FormatError, match=re.escape(f"{path}: weight_ih_l0: expected {message}")):
        cgru.load(path)


def dicts_in_many_places(number):
    inner = {f"weight_ih_l{k}": torch.zeros(3, 1) for k in range(number // 8)}
    return {str(k): inner for k in range(number)}


def tensors_in_many_places(number):
    tensor = torch.zeros(3 * number, number)
    return {f"weight_{part}_l{k}": tensor for k in range(number) for part in ("ih", "hh")}


@pytest.mark.parametrize(("make", "few", "many"), [(dicts_in_many_places, 40, 1600), (tensors_in_many_places, 40, 160)])
def test_pytorch(make, few, many, tmp_path):
    def write(number):
        torch.save(make(number), tmp_path / "m.pt")
        return tmp_path / "m.pt"

    in_proportion(write, few, many)
    with pytest.raises(cgru.FormatError, match=r"a dict in 64 places at most|a tensor kept in the file"):
        cgru.load(write(many))


def test_entries_within_each_other(tmp_path):
    """Of a zip archive: a directory may list the same bytes again and again."""
    path = tmp_path / "m.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", b"x" * 10_000)
        archive.filelist *= 300
    with pytest.raises(cgru.FormatError, match="expected entries of their own bytes each, got 3000000 in all"):
        cgru.load(path)


def test_rtneural_texts(tmp_path):
    """Of which NumPy makes an array as wide as the longest."""

    def write(number):
        texts = [["x" * number, *["a"] * number]]
        layer = {"type": "gru", "shape": [None, None, 1], "weights": [texts, texts, texts]}
        (tmp_path / "m.json").write_text(json.dumps({"in_shape": [None, None, 1], "layers": [layer]}))
        return tmp_path / "m.json"

    in_proportion(write, 400, 3200)
    with pytest.raises(
        cgru.FormatError, match=r"layers\[0\]: weights\[0\]: expected finite numbers of float32, got others"
    ):
        cgru.load(write(400))

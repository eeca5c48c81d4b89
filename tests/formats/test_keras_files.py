"""Keras files that are damaged or hostile: a FormatError with the file's name, never a crash, a hang or much memory."""

import io
import json
import re
import zipfile

import h5py
import numpy as np
import pytest

import cgru
from cgru.formats import keras as format_keras

from ..support.keras_models import KERAS_WARNINGS, keras, randomized, save_legacy

L = keras.layers
pytestmark = pytest.mark.filterwarnings(*KERAS_WARNINGS)


@pytest.fixture(scope="module")
def model():
    return randomized(keras.Sequential([keras.Input((None, 3)), L.GRU(4, name="a")]))


def write(model, path):
    """The file, and the arguments to read it with."""
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
        return {"config": model.layers[0].get_config()}
    if path.suffix == ".keras":
        model.save(path)
    else:
        save_legacy(model, path)
    return {}


def load_or_refuse(path, arguments):
    """The model, if the damage left one of the same shapes; whether it was refused with the file's name."""
    try:
        gru = format_keras.load(path, **arguments)
    except cgru.FormatError as error:
        assert str(path) in str(error)
        return True
    assert {name: array.shape for name, array in gru.state_dict().items()} == {
        name: array.shape for name, array in cgru.GRU(3, 4).state_dict().items()
    }
    return False


FILES = ["m.keras", "m.h5", "m.weights.h5"]


@pytest.mark.parametrize("name", FILES)
def test_truncated_files(name, model, tmp_path):
    arguments = write(model, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    path = tmp_path / f"cut_{name}"
    for size in range(0, len(data), 64):
        path.write_bytes(data[:size])
        assert load_or_refuse(path, arguments)


def flip(data, path, arguments, positions):
    for at in positions:
        for bits in (1, 128, 255):
            path.write_bytes(data[:at] + bytes([data[at] ^ bits]) + data[at + 1 :])
            load_or_refuse(path, arguments)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bytes(name, model, tmp_path):
    arguments = write(model, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    flip(data, tmp_path / f"flipped_{name}", arguments, range(0, len(data), 97))


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_every_flipped_byte(name, model, tmp_path):
    arguments = write(model, tmp_path / name)
    data = (tmp_path / name).read_bytes()
    flip(data, tmp_path / f"flipped_{name}", arguments, range(len(data)))


def archive(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def members_of(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def test_foreign_archives(model, tmp_path):
    path = tmp_path / "m.keras"
    model.save(path)
    good = members_of(path)
    config = json.loads(good["config.json"])

    def changed(**fields):
        tree = json.loads(good["config.json"])
        tree["config"]["layers"][1]["config"].update(fields)
        return {**good, "config.json": json.dumps(tree)}

    missing = json.loads(good["config.json"])
    del missing["config"]["layers"][1]["config"]["units"]
    weights = io.BytesIO(good["model.weights.h5"])
    with h5py.File(weights, "r+") as file:
        del file["layers/gru/cell/vars/2"]
    no_bias = {**good, "model.weights.h5": weights.getvalue()}
    cases = [
        ({}, "There is no item named"),
        ({name: data for name, data in good.items() if name != "model.weights.h5"}, "There is no item named 'model.weights.h5'"),
        ({**good, "config.json": "{"}, "config.json: expected JSON"),
        ({**good, "config.json": "[" * 100_000}, "config.json: expected JSON"),
        ({**good, "config.json": "[]"}, "config.json: expected a JSON object, got list"),
        ({**good, "config.json": "{}"}, "class_name"),
        ({**good, "config.json": json.dumps({**config, "config": {}})}, "expected a GRU, RNN(GRUCell) or Bidirectional(GRU) layer, got none in the model's configuration; the file has weights like a GRU's in layers/gru: give config="),
        ({**good, "config.json": json.dumps(missing)}, "KeyError: 'units'"),
        ({**good, "metadata.json": "{}"}, "keras_version: expected 1, 2 or 3, got None"),
        ({**good, "metadata.json": '{"keras_version": "4.0"}'}, "keras_version: expected 1, 2 or 3, got '4.0'"),
        ({**good, "model.weights.h5": b"nothing"}, "byte 0: expected 8 bytes, got a file of 7"),
        (changed(units=5), "a: kernel: expected (I, 15), got (3, 12)"),
        (changed(units=10**9), "a: kernel: expected (I, 3000000000), got (3, 12)"),
        (changed(units=10**12), "a: units: expected an integer from 1 to 2147483647, got 1000000000000"),
        (changed(units="4"), "a: units: expected an integer from 1"),
        (changed(use_bias=1), "a: use_bias: expected True or False, got 1"),
        (changed(use_bias=False), "a: expected kernel, recurrent_kernel, got 3 arrays"),
        (changed(reset_after=False), "a: bias: expected (12,), got (2, 12)"),
        (changed(reset_after="yes"), "reset_after: expected True or False, got 'yes'"),
        (changed(activation="gelu"), "a: activation: expected one of tanh, "),
        (changed(activation={"class_name": "Mine"}), "a: activation: expected one of tanh, sigmoid, relu, softsign, softplus, linear, elu, leaky_relu, hard_sigmoid, got Mine"),
        (changed(go_backwards="no"), "reverse: expected True or False, got 'no'"),
        (no_bias, "a: expected kernel, recurrent_kernel, bias, got 2 arrays"),
    ]  # fmt: skip
    for members, message in cases:
        archive(path, members)
        with pytest.raises(cgru.FormatError, match=re.escape(str(path)) + ".*" + re.escape(message)):
            format_keras.load(path)
    path.write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(cgru.FormatError, match="expected a whole Keras file"):
        format_keras.load(path)
    with pytest.raises(FileNotFoundError):
        format_keras.load(tmp_path / "none.keras")
    with pytest.raises(FileNotFoundError):
        format_keras.load(tmp_path)


def test_archives_that_unpack_to_more_than_they_are(model, tmp_path):
    path = tmp_path / "m.keras"
    model.save(path)
    good = members_of(path)
    archive(path, good, zipfile.ZIP_DEFLATED)
    assert format_keras.load(path).hidden_size == 4
    for name in good:
        archive(path, {**good, name: bytes(100_000_000)}, zipfile.ZIP_DEFLATED)
        with pytest.raises(cgru.FormatError, match=rf"{name}: expected at most \d+ bytes, got 100000000"):
            format_keras.load(path)


def replaced(file, dataset, **how):
    """The dataset made anew in another way."""
    del file[dataset]
    file.create_dataset(dataset, **how)


def external(file, dataset, path):
    array = file[dataset][()]
    (path.parent / "outside.bin").write_bytes(array.tobytes())
    replaced(file, dataset, shape=array.shape, dtype=array.dtype, external=[(str(path.parent / "outside.bin"), 0, array.nbytes)])  # fmt: skip


def virtual(file, dataset, path):
    array = file[dataset][()]
    with h5py.File(path.parent / "source.h5", "w") as source:
        source["array"] = array
    layout = h5py.VirtualLayout(array.shape, array.dtype)
    layout[:] = h5py.VirtualSource(path.parent / "source.h5", "array", array.shape)
    del file[dataset]
    file.create_virtual_dataset(dataset, layout)


def linked(link):
    def change(file, dataset, path):
        with h5py.File(path.parent / "source.h5", "w") as source:
            source["array"] = file[dataset][()]
        del file[dataset]
        file[dataset] = link(path)

    return change


KERNEL = "layers/gru/cell/vars/0"
ELSEWHERE = "expected an array of numbers in the file, got none or another file's"
HOSTILE = {
    "huge and never written": (
        lambda file, dataset, path: replaced(file, dataset, shape=(10**9, 12), dtype="f4"),
        "expected 48000000000 bytes, got 0",
    ),
    "huge and compressed": (
        lambda file, dataset, path: replaced(file, dataset, shape=(10**9, 12), dtype="f4", compression="gzip"),
        "layers/gru/cell/vars/0: expected at most",
    ),
    "never written": (
        lambda file, dataset, path: replaced(file, dataset, shape=(3, 12), dtype="f4"),
        "expected 144 bytes, got 0",
    ),
    "scalar": (lambda file, dataset, path: replaced(file, dataset, data=1.0), "kernel: expected (I, 12), got ()"),
    "empty": (lambda file, dataset, path: replaced(file, dataset, dtype="f4"), ELSEWHERE),
    "text": (lambda file, dataset, path: replaced(file, dataset, data=["a"] * 3), "expected floating-point numbers"),
    "integers": (
        lambda file, dataset, path: replaced(file, dataset, data=np.zeros((3, 12), int)),
        "expected floating-point numbers, got integers",
    ),
    "a group": (lambda file, dataset, path: (file.pop(dataset), file.create_group(dataset)), "expected an array"),
    "missing": (lambda file, dataset, path: file.pop(dataset), "expected an array, got nothing"),
    "external data": (external, ELSEWHERE),
    "virtual data": (virtual, ELSEWHERE),
    "external link": (
        linked(lambda path: h5py.ExternalLink(path.parent / "source.h5", "array")),
        "expected data of this file, got a link",
    ),
    "soft link": (linked(lambda path: h5py.SoftLink("/" + KERNEL)), "expected data of this file, got a link"),
}


@pytest.mark.parametrize("how", HOSTILE)
def test_hostile_datasets(how, model, tmp_path):
    path = tmp_path / "m.weights.h5"
    arguments = write(model, path)
    change, message = HOSTILE[how]
    with h5py.File(path, "r+") as file:
        change(file, KERNEL, path)
    with pytest.raises(cgru.FormatError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        format_keras.load(path, config=model.get_config())
    with pytest.raises(cgru.FormatError, match=re.escape(str(path))):
        format_keras.load(path, **arguments)


def test_groups_in_circles(model, tmp_path):
    path = tmp_path / "m.weights.h5"
    arguments = write(model, path)
    with h5py.File(path, "r+") as file:
        for name in ("one", "two", "three"):
            file["layers"][name] = file["layers"]
    assert format_keras.load(path, **arguments).hidden_size == 4


@pytest.mark.parametrize("options", [{"libver": "latest"}, {"libver": ("v108", "v110")}, {"track_order": True}])
@pytest.mark.parametrize("name", ["m.h5", "m.weights.h5"])
def test_newer_structures(name, options, model, tmp_path):
    """Files that h5py is told to write otherwise."""
    arguments = write(model, tmp_path / name)
    path = tmp_path / f"new_{name}"
    with h5py.File(tmp_path / name) as old, h5py.File(path, "w", **options) as new:

        def copy(source, target):
            target.attrs.update(source.attrs)
            for key, child in source.items():
                if isinstance(child, h5py.Group):
                    copy(child, target.create_group(key, track_order=options.get("track_order")))
                else:
                    target[key] = child[()]

        copy(old, new)
    expected = format_keras.load(tmp_path / name, **arguments).state_dict()
    for key, array in format_keras.load(path, **arguments).state_dict().items():
        np.testing.assert_array_equal(array, expected[key])


def test_big_endian_numbers(model, tmp_path):
    path = tmp_path / "m.weights.h5"
    arguments = write(model, path)
    expected = format_keras.load(path, **arguments).state_dict()
    with h5py.File(path, "r+") as file:
        replaced(file, KERNEL, data=file[KERNEL][()].astype(">f4"))
    for key, array in format_keras.load(path, **arguments).state_dict().items():
        np.testing.assert_array_equal(array, expected[key])


def test_foreign_whole_models(model, tmp_path):
    path = tmp_path / "m.h5"

    def damaged(change):
        save_legacy(model, path)
        with h5py.File(path, "r+") as file:
            change(file)
        return path

    def attribute(name, value, group="/"):
        return lambda file: file[group].attrs.__setitem__(name, value)

    cases = [
        (attribute("model_config", "{"), "model_config: expected JSON"),
        (attribute("model_config", 3), "/: model_config: expected text, got integers"),
        (attribute("keras_version", "4.2.2"), "keras_version: expected 1, 2 or 3, got '4.2.2'"),
        (lambda file: file.attrs.pop("keras_version"), "keras_version: expected 1, 2 or 3, got None"),
        (lambda file: file.pop("model_weights"), "a: expected a group of weights of its name, got none"),
        (lambda file: file["model_weights"].pop("a"), "a: expected a group of weights of its name, got none"),
        (attribute("weight_names", ["x/kernel", "x/bias"], "model_weights/a"), "a: expected kernel, recurrent_kernel, bias a direction, got ['x/kernel', 'x/bias']"),
        (lambda file: file["model_weights/a"].attrs.pop("weight_names"), "expected kernel, recurrent_kernel, bias a direction, got []"),
        (attribute("weight_names", ["kernel", "recurrent_kernel", "bias"], "model_weights/a"), "expected an array, got nothing"),
    ]  # fmt: skip
    for change, message in cases:
        with pytest.raises(cgru.FormatError, match=re.escape(str(path)) + ".*" + re.escape(message)):
            format_keras.load(damaged(change))

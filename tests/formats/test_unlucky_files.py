"""Writing where something goes wrong, and refusing in proportion to a file's size."""

import json
import os
import re
import resource
import stat
import time
import tracemalloc
import zipfile

import h5py
import numpy as np
import onnx
import pytest
import safetensors.numpy

import cgru
from cgru.errors import LONGEST
from cgru.formats import files

from ..support import onnx_graphs as graphs
from ..support.matrix import thinned


def test_permissions_and_links_stay(tmp_path):
    target, link = tmp_path / "model.safetensors", tmp_path / "link.safetensors"
    target.write_bytes(b"before")
    target.chmod(0o640)
    link.symlink_to(target)
    gru = cgru.GRU(3, 4, rng=0)
    gru.save(link)
    assert link.is_symlink()
    assert stat.S_IMODE(target.stat().st_mode) == 0o640
    np.testing.assert_array_equal(cgru.load(target).state_dict()["weight_ih_l0"], gru.state_dict()["weight_ih_l0"])
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    gru.save(tmp_path / "dangling")
    assert cgru.load(tmp_path / "new").hidden_size == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", link.name, target.name, "new"]


def test_new_files_follow_the_umask_which_is_not_touched(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask belongs to the whole process"))
        files.write(tmp_path / "m", b"data")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640


def test_names_as_long_as_the_system_takes(tmp_path):
    path = tmp_path / ("m" * 238 + ".safetensors")
    cgru.GRU(3, 4).save(path)
    assert cgru.load(path).input_size == 3


def test_a_full_disk_leaves_what_was_there(tmp_path):
    path = tmp_path / "m.safetensors"
    cgru.GRU(3, 4).save(path)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            cgru.GRU(30, 40).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_folders_and_devices_are_not_replaced(tmp_path):
    with pytest.raises(IsADirectoryError):
        files.write(tmp_path, b"data")
    files.write("/dev/null", b"data")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(FileNotFoundError):
        files.write(tmp_path / "none" / "m", b"data")


def rtneural(path, layers):
    layer = {"type": "gru", "shape": [None, None, 8], "weights": [[], [], []]}
    path.write_text(json.dumps({"in_shape": [None, None, 4], "layers": [layer] * layers}))
    return path


def test_many_layers_are_refused_in_proportion_to_their_number(tmp_path):
    def seconds(layers):
        path = rtneural(tmp_path / f"{layers}.json", layers)
        start = time.process_time()
        with pytest.raises(cgru.FormatError):
            cgru.load(path)
        return time.process_time() - start

    seconds(100)
    few, many = min(seconds(1000) for _ in range(3)), seconds(16_000)
    assert many < 100 * few + 0.5  # 16 times as many; with the square of their number it would be 256


@thinned(
    2,
    member=["config.json", "metadata.json", "model.weights.h5"],
    compression=[zipfile.ZIP_BZIP2, zipfile.ZIP_DEFLATED],
)
def test_archives_are_read_up_to_a_bound(tmp_path, compression, member):
    contents = {"config.json": b"{}", "metadata.json": b'{"keras_version": "3.1.0"}', "model.weights.h5": b"\x89HDF"}
    contents[member] = b'{"a": [' + b"{}," * 20_000_000 + b"0]}"
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    del contents
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    with pytest.raises(cgru.FormatError, match=re.escape(str(path))):
        cgru.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 30e6


LONG = "\x1b[2J" + "x" * 100_000


def onnx_of_many(path, name):
    weights = {"W": np.ones((1, 3, 1), np.float32), "R": np.ones((1, 3, 1), np.float32)}
    nodes = [onnx.helper.make_node("GRU", ["X", "W", "R"], [f"Y{k}"], name=f"{name}{k}") for k in range(20)]
    inputs = {"X": ([None, None, 1], onnx.TensorProto.FLOAT)}
    path.write_bytes(graphs.model(nodes, inputs, ["Y0"], weights).SerializeToString())


def onnx_of_a_wrong_attribute(path, name):
    weights = {"W": np.ones((1, 3, 1), np.float32), "R": np.ones((1, 3, 1), np.float32)}
    path.write_bytes(graphs.one_gru(weights, name="one", **{name: 1}).SerializeToString())


def keras_config(path, layers):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.1.0"}))
        archive.writestr("config.json", json.dumps({"class_name": "Sequential", "config": {"layers": layers}}))
        archive.writestr("model.weights.h5", b"")


def keras_of_many(path, name):
    names = [f"{name[:900]}{k}" for k in range(5000)]
    keras_config(path, [{"class_name": "GRU", "config": {"name": name}} for name in names])


def keras_of_a_long_name(path, name):
    keras_config(path, [{"class_name": "GRU", "config": {"name": name}}])


def keras_of_a_wrong_version(path, name):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "GRU", "config": {"name": "gru"}})
        file.attrs["keras_version"] = name[:50_000]
        file.create_group("model_weights")


def safetensors_of_many(path, name):
    weights = {"weight_ih_l0": np.ones((3, 1), np.float32), "weight_hh_l0": np.ones((3, 1), np.float32)}
    safetensors.numpy.save_file({f"{name}{k}.{key}": array for k in range(20) for key, array in weights.items()}, path)


def safetensors_of_wrong_options(path, name):
    safetensors.numpy.save_file({"a": np.ones(3, np.float32)}, path, {"cgru": json.dumps({name: 1})})


def rtneural_of_many(path, name):
    rtneural(path, 9000)


@pytest.mark.parametrize(
    "write",
    [
        onnx_of_many,
        onnx_of_a_wrong_attribute,
        keras_of_many,
        keras_of_a_long_name,
        keras_of_a_wrong_version,
        safetensors_of_many,
        safetensors_of_wrong_options,
        rtneural_of_many,
    ],
    ids=lambda write: write.__name__,
)
def test_messages_about_files_fit_a_screen(write, tmp_path):
    path = tmp_path / "m"
    write(path, LONG)
    with pytest.raises(cgru.FormatError) as error:
        cgru.load(path)
    message = str(error.value)
    assert len(message) <= LONGEST
    assert "\x1b" not in message
    assert message.startswith(str(path))
    assert "expected" in message


def test_messages_about_objects_fit_a_screen():
    bad = {LONG: np.zeros(3, np.float32), **{f"l{k}.weight": np.zeros(3) for k in range(5000)}}
    for load in (cgru.from_torch, cgru.from_flax, cgru.from_equinox, cgru.from_haiku):
        with pytest.raises(cgru.FormatError) as error:
            load(bad)
        assert len(str(error.value)) <= LONGEST
        assert "\x1b" not in str(error.value)

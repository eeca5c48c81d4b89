"""What people point a loader at and no loader reads: one line says what it is, and the mend in it works."""

import io
import re
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch

import cgru
from cgru.errors import LONGEST

from .test_torch_files import Model, same


def said(path):
    """What a load is refused with, in one line."""
    with pytest.raises(cgru.FormatError) as error:
        cgru.load(path)
    message = str(error.value)
    assert message.startswith(f"{path}: expected ")
    assert len(message) < LONGEST
    assert "\n" not in message
    return message


def mended(path, **names):
    """What the call in a refusal gives."""
    call = re.search(r"; call (cgru\..*\))", said(path))[1]
    return eval(call, {"cgru": cgru, "torch": torch, "numpy": np, **names})


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("how", ["script", "trace"])
def test_torchscript(how, tmp_path):
    model = torch.nn.Sequential(torch.nn.GRU(5, 7, 2))
    path = tmp_path / "m.pt"
    scripted = torch.jit.script(model) if how == "script" else torch.jit.trace(model, torch.zeros(3, 1, 5))
    scripted.save(path)
    assert "got a TorchScript archive, which holds code" in said(path)
    same(mended(path), model[0])
    with pytest.raises(cgru.FormatError, match="got a TorchScript archive"):
        cgru.from_torch(path)


def test_exported_programs(tmp_path):
    model, path = torch.nn.Sequential(torch.nn.GRU(5, 7)), tmp_path / "m.pt2"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what PyTorch itself calls
        torch.export.save(torch.export.export(model, (torch.zeros(3, 1, 5),)), path)
        assert "got a program of torch.export" in said(path)
        same(mended(path), model[0])


def test_arrays_of_numpy(tmp_path):
    model, path = Model(), tmp_path / "m.npz"
    np.savez(path, **{key: value.numpy() for key, value in model.state_dict().items()})
    same(mended(path), model.recurrent["gru"])
    np.save(tmp_path / "m.npy", np.zeros(3))
    assert "got one NumPy array; give cgru.from_torch a dict" in said(tmp_path / "m.npy")
    (tmp_path / "m.npy").rename(tmp_path / "m.eqx")
    assert "got leaves of an Equinox tree; call cgru.from_equinox(" in said(tmp_path / "m.eqx")


def test_files_of_pytorch_before_archives(tmp_path):
    module, path = torch.nn.GRU(5, 7), tmp_path / "m.pt"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    assert "got a file of PyTorch before 1.6; write it again, torch.save(torch.load(" in said(path)
    torch.save(torch.load(path, weights_only=True), tmp_path / "new.pt")
    same(cgru.load(tmp_path / "new.pt"), module)


def packed(*entries):
    """A zip archive."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for entry in entries:
            archive.writestr(entry, "content")
    return file.getvalue()


def tar():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("rnn/weights.ckpt"))
    return file.getvalue()


FILES = {
    "m.pdparams": (b"\x80\x04\x95yE\x00\x00\x00\x00\x00\x00}\x94(", "PaddlePaddle's pickle of weights; call cgru.from_torch(paddle.load("),
    "m.pkl": (b"\x80\x04\x95yE\x00\x00\x00\x00\x00\x00}\x94(", "a pickle, which runs code when it is read; open it with what wrote it"),
    "m.pdmodel": (b"\n\x04\x08\x00\x10\x00", "a PaddlePaddle program; load the model that it was converted from"),
    "saved_model.pb": (b"\x08\x01\x12\xe0\xf0\x07" + b"\xff" * 99999, "a TensorFlow SavedModel; write an ONNX model, python -m tf2onnx"),
    "renamed": (b"\x08\x01\x12\xe0\xf0\x07\n\xff\xff", "a TensorFlow SavedModel; write an ONNX model"),
    "m.data-00000-of-00001": (bytes(64), "a TensorFlow checkpoint; make its Keras model"),
    "m.tflite": (b"\x20\x00\x00\x00TFL3\x00\x00", "a TFLite model; write an ONNX model"),
    "m.mlmodel": (b"\x08\x01\x12\x90\x01\n\x12\n\x01x", "a Core ML model; load the model that it was converted from"),
    "coreml": (b"\x08\x04\x12\x90\x01\n\x12\n\x01x", "a Core ML model; load the model that it was converted from"),
    "m.mat": (b"MATLAB 5.0 MAT-file, Platform: GLNXA64", "a MATLAB file; write an ONNX model in MATLAB, exportONNXNetwork"),
    "new.mat": (b"MATLAB 7.3 MAT-file, Platform: GLNXA64", "a MATLAB file"),
    "old.mat": (bytes(64), "a MATLAB file"),
    "m.gguf": (b"GGUF\x03\x00\x00\x00", "a GGUF file; give cgru.from_torch a dict"),
    "m.engine": (b"ftrt\x00\x00", "a TensorRT engine; load the model that it was converted from"),
    "m.xml": (b'<?xml version="1.0"?>\n<net name="m" version="11">', "an OpenVINO model; load the model that it was"),
    "m.mar": (packed("MAR-INF/MANIFEST.json", "model.pt"), "a TorchServe archive; unzip it"),
    "m.zip": (packed("saved_model/saved_model.pb"), "a TensorFlow SavedModel"),
    "m.mlpackage.zip": (packed("m.mlpackage/Data/com.apple.CoreML/model.mlmodel"), "a Core ML model"),
    "m.safetensors": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "a pointer of Git LFS; call git lfs pull"),
    "m.onnx": (b"<!DOCTYPE html><html>", "a web page; download the file itself"),
    "m.pt.gz": (b"\x1f\x8b\x08\x00", "a gzip archive; unpack it"),
    "m.nemo": (tar(), "a tar archive; unpack it"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_files(name, tmp_path):
    content, message = FILES[name]
    path = tmp_path / name
    path.write_bytes(content)
    assert f"{path}: expected a model, got {message}" in said(path)


FOLDERS = {
    "saved": (["saved_model.pb", "variables/variables.index"], "a TensorFlow SavedModel; write an ONNX model"),
    "tf": (["checkpoint", "m.index", "m.data-00000-of-00001"], "a TensorFlow checkpoint"),
    "m.mlpackage": (["Manifest.json", "Data/com.apple.CoreML/model.mlmodel"], "a Core ML model"),
    "orbax": (["_METADATA", "manifest.ocdbt", "d/1"], "an Orbax checkpoint; call cgru.from_flax(orbax.checkpoint"),
    "0": (["_CHECKPOINT_METADATA", "default/_METADATA"], "an Orbax checkpoint; call cgru.from_flax(orbax.checkpoint"),
    "dcp": ([".metadata", "__0_0.distcp"], "a checkpoint of torch.distributed; call torch.distributed.checkpoint."),
    "mlflow": (["MLmodel", "data/model.pth"], "an MLflow model; load the model in its folder data"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_folders(name, tmp_path):
    entries, message = FOLDERS[name]
    for entry in entries:
        path = tmp_path / name / entry
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"content")
    assert f"{tmp_path / name}: expected a model, got {message}" in said(tmp_path / name)


def test_folders_of_nothing_known(tmp_path):
    expected = "expected a file, or a folder with a model.safetensors in it, got a folder of "
    assert said(tmp_path).endswith(expected + "nothing")
    for k in range(2000):
        (tmp_path / f"{k:04}").write_bytes(b"")
    assert expected in said(tmp_path)


def test_a_checkpoint_of_torch_distributed(tmp_path):
    checkpoint = pytest.importorskip("torch.distributed.checkpoint")
    from torch.distributed.checkpoint.format_utils import dcp_to_torch_save

    model = Model()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that one process alone saves
        checkpoint.save({"model": model.state_dict()}, checkpoint_id=tmp_path / "dcp")
        assert f"dcp_to_torch_save({str(tmp_path / 'dcp')!r}, 'model.pt'), and load model.pt" in said(tmp_path / "dcp")
        dcp_to_torch_save(tmp_path / "dcp", tmp_path / "model.pt")
    same(cgru.load(tmp_path / "model.pt"), model.recurrent["gru"])


def test_lengths_of_headers_that_look_like_other_files(tmp_path):
    """A .safetensors file begins with a length, which may be any two bytes."""
    from .test_formats import others_file

    arrays = cgru.GRU(3, 4, rng=0).state_dict()
    data = others_file(arrays)
    size = 8 + int.from_bytes(data[:8], "little")
    for length in (0x0280, 0x0480, 0x8B1F):
        header = data[8:size].ljust(length)
        (tmp_path / "m").write_bytes(length.to_bytes(8, "little") + header + data[size:])
        np.testing.assert_array_equal(cgru.load(tmp_path / "m").state_dict()["weight_ih_l0"], arrays["weight_ih_l0"])

"""What people point a loader at and no loader here reads: one line says what it is, and what to do.

A table, a row a kind of file or folder. What stands in it decides before what it is called.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from cgru import checks
from cgru.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BEGINNING = 1024
"""Bytes of a file that tell what it is."""

MOST_ENTRIES = 1000
"""Of a folder that are looked at."""

SOURCE = "load the model that it was converted from, one of PyTorch, Keras or ONNX"
UNPACK = "unpack it, and load the model in it"
TF2ONNX = "write an ONNX model, python -m tf2onnx.convert {} --output model.onnx, and load that"


class Other(NamedTuple):
    """A kind of file or folder that is not read; each criterion is a regular expression, and each alone suffices."""

    title: str
    mend: str
    """May have {path} in it."""
    beginning: bytes = b""
    """Of a file's first bytes."""
    entry: str = ""
    """Of one name in a zip archive."""
    inside: str = ""
    """Of one name in a folder, or in a folder of it."""
    name: str = ""
    """Of the file's or folder's own name, where what stands in it tells nothing."""


OTHERS = (
    Other(
        "a TorchScript archive, which holds code", "call cgru.from_torch(torch.jit.load({path!r}).state_dict())",
        entry=r"(.*/)?(constants\.pkl|code/.*)",
    ),
    Other(
        "a program of torch.export", "call cgru.from_torch(torch.export.load({path!r}).state_dict)",
        entry=r"(.*/)?(archive_format|serialized_exported_program\.json)", name=r".*\.pt2",
    ),
    Other("a TorchServe archive", "unzip it, and load the .pt or .pth in it", entry=r"MAR-INF/.*", name=r".*\.mar"),
    Other(
        "an archive of NumPy arrays", "call cgru.from_torch(dict(numpy.load({path!r}))) if they have PyTorch's names",
        entry=r".*\.npy", name=r".*\.npz",
    ),
    Other(
        "one NumPy array", "give cgru.from_torch a dict of all arrays: weight_ih_l0, weight_hh_l0, ...",
        beginning=rb"\x93NUMPY", name=r".*\.npy",
    ),
    Other(
        "leaves of an Equinox tree",
        "call cgru.from_equinox(equinox.tree_deserialise_leaves({path!r}, like)), like being a model of the same make",
        beginning=rb"\x93NUMPY", name=r".*\.eqx",
    ),
    Other(
        "a file of PyTorch before 1.6",
        "write it again, torch.save(torch.load({path!r}, weights_only=True), 'new.pt'), and load that",
        beginning=rb"\x80.\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19\.",
    ),
    Other(
        "a pickle, which runs code when it is read",
        "open it with what wrote it, and give the model or its weights to cgru.from_torch, from_keras or from_flax",
        beginning=rb"\x80[\x01-\x05]", name=r".*\.(pkl|pickle|joblib)",
    ),
    Other(
        "PaddlePaddle's pickle of weights", "call cgru.from_torch(paddle.load({path!r}))",
        beginning=rb"\x80[\x01-\x05]", name=r".*\.(pdparams|pdopt)",
    ),
    Other("a PaddlePaddle program", SOURCE, name=r".*\.(pdmodel|pdiparams)"),
    Other(
        "a TensorFlow SavedModel", TF2ONNX.format("--saved-model FOLDER"),
        beginning=rb"\x08\x01\x12", entry=r"(.*/)?saved_model\.pb", inside=r"saved_model\.pb(txt)?",
        name=r"saved_model\.pb",
    ),
    Other(
        "a TensorFlow checkpoint", "make its Keras model, call model.load_weights(...), and cgru.from_keras(model)",
        inside=r"[^/]*\.data-\d{5}-of-\d{5}", name=r".*\.data-\d{5}-of-\d{5}|.*\.ckpt\.(index|meta)",
    ),
    Other("a TFLite model", TF2ONNX.format("--tflite FILE"), beginning=rb".{4}TFL3", name=r".*\.tflite"),
    Other(
        "a Core ML model", SOURCE, beginning=rb"\x08[\x01-\x20]\x12[\x80-\xff]*[\x00-\x7f]\n",
        entry=r"(.*/)?com\.apple\.CoreML/.*", inside=r"(.*/)?com\.apple\.CoreML",
        name=r".*\.ml(model|modelc|package)",
    ),
    Other(
        "a MATLAB file", "write an ONNX model in MATLAB, exportONNXNetwork(net, 'model.onnx'), and load that",
        beginning=rb"MATLAB \d\.\d MAT-file", name=r".*\.mat",
    ),
    Other(
        "a GGUF file", "give cgru.from_torch a dict of the arrays that gguf.GGUFReader reads: weight_ih_l0, ...",
        beginning=rb"GGUF", name=r".*\.gguf",
    ),
    Other("a TensorRT engine", SOURCE, beginning=rb"ftrt|ptrt", name=r".*\.(engine|plan|trt)"),
    Other("an OpenVINO model", SOURCE, beginning=rb"\s*(<\?xml[^>]*>\s*)?<net\b", name=r".*\.xml"),
    Other("a web page", "download the file itself", beginning=rb"\s*<(!doctype html|!DOCTYPE html|html)"),
    Other("a pointer of Git LFS", "call git lfs pull, and load the file that comes", beginning=rb"version https://git-lfs"),
    Other("a gzip archive", UNPACK, beginning=rb"\x1f\x8b", name=r".*\.(gz|tgz)"),
    Other("a tar archive", UNPACK, beginning=rb".{257}ustar", name=r".*\.(tar|nemo)"),
    Other(
        "an Orbax checkpoint",
        "call cgru.from_flax(orbax.checkpoint.StandardCheckpointer().restore(path)) with the whole path of the folder "
        "that has _METADATA in it",
        inside=r"(.*/)?(_METADATA|_CHECKPOINT_METADATA|manifest\.ocdbt)",
    ),
    Other(
        "a checkpoint of torch.distributed",
        "call torch.distributed.checkpoint.format_utils.dcp_to_torch_save({path!r}, 'model.pt'), and load model.pt",
        inside=r"\.metadata|__\d+_\d+\.distcp", name=r".*\.distcp",
    ),
    Other("an MLflow model", "load the model in its folder data", inside="MLmodel"),
)  # fmt: skip


def refuse(path: Path, start: bytes, entries: Sequence[str]) -> None:
    """Refuse a file of the table, by its first bytes and the names in it, else by its own."""
    found = [
        other
        for other in OTHERS
        if (other.beginning and re.match(other.beginning, start, re.DOTALL)) or _one(other.entry, entries)
    ]
    _refuse(path, found)


def refuse_folder(path: Path) -> None:
    """Refuse a folder, which has no file in it that would be read."""
    entries = []
    with os.scandir(path) as scan:
        for entry in scan:
            entries.append(entry.name)
            if entry.is_dir():
                entries += [f"{entry.name}/{name}" for name in os.listdir(entry.path)]
            if len(entries) > MOST_ENTRIES:
                break
    _refuse(path, [other for other in OTHERS if _one(other.inside, entries)])
    got = checks.listed(sorted(name for name in entries if "/" not in name), 5) or "nothing"
    raise FormatError(f"{path}: expected a file, or a folder with a model.safetensors in it, got a folder of {got}")


def _one(pattern: str, names: Sequence[str]) -> bool:
    return bool(pattern) and any(re.fullmatch(pattern, name, re.DOTALL) for name in names)


def _refuse(path: Path, found: Sequence[Other]) -> None:
    """Refuse as the row of the name, of those found or else of all; else as the first found."""
    called = [other for other in found or OTHERS if _one(other.name, [path.name.lower()])]
    for other in (called or found)[:1]:
        raise FormatError(f"{path}: expected a model, got {other.title}; {other.mend.format(path=str(path))}")

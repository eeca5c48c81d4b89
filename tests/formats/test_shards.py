"""Weights spread over several files, and the folders that hold them."""

import json
import re

import numpy as np
import pytest
import safetensors.torch
import torch

import cgru

from ..support.fuzz import in_proportion
from .test_torch_files import Model, same

WRITERS = {"safetensors": ("model", safetensors.torch.save_file), "bin": ("pytorch_model", torch.save)}


def spread(folder, state, kind="safetensors", shards=3):
    """The index of a state_dict's shards, as Hugging Face's programs write them."""
    stem, write = WRITERS[kind]
    names = [f"{stem}-{k + 1:05}-of-{shards:05}.{kind}" for k in range(shards)]
    homes = {key: names[position % shards] for position, key in enumerate(state)}
    for name in names:
        write({key: state[key].contiguous() for key, home in homes.items() if home == name}, folder / name)
    index = folder / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1000}, "weight_map": homes}, indent=2))
    return index


@pytest.mark.parametrize("kind", WRITERS)
def test_shards(kind, tmp_path):
    model = Model(num_layers=2, bidirectional=True)
    index = spread(tmp_path, model.state_dict(), kind)
    for path, name in [(index, None), (str(index), "recurrent.gru"), (tmp_path, None)]:
        same(cgru.load(path, name), model.recurrent["gru"])
    shards = sorted(tmp_path.glob("*-of-*"))
    assert len(shards) == 3
    for shard in shards:
        for load in (cgru.load, *[cgru.from_torch] * (kind == "bin")):
            with pytest.raises(
                cgru.FormatError, match=f"got one of 3 shards; load {re.escape(index.name)} beside them"
            ):
                load(shard)
    shards[1].rename(tmp_path / "elsewhere")
    with pytest.raises(
        cgru.FormatError, match=rf"expected its shards beside it, but {re.escape(shards[1].name)} missing"
    ):
        cgru.load(index)


def test_halves_in_shards(tmp_path):
    module = torch.nn.GRU(5, 7).bfloat16()
    same(cgru.load(spread(tmp_path, module.state_dict())), module)


def test_a_whole_file_called_a_shard(tmp_path):
    module = torch.nn.GRU(5, 7)
    path = tmp_path / "model-00001-of-00001.safetensors"
    safetensors.torch.save_file(module.state_dict(), path)
    same(cgru.load(path), module)


def test_refused_indexes(tmp_path):
    state = torch.nn.GRU(5, 7).state_dict()
    index = spread(tmp_path, state)
    content = json.loads(index.read_text())
    outside = tmp_path.parent / "outside.safetensors"
    safetensors.torch.save_file(state, outside)
    first = dict(content["weight_map"])
    cgru.GRU(5, 7).save(tmp_path / "own.safetensors")
    without = {key: home for key, home in first.items() if "bias" not in key}
    cases = [
        (dict.fromkeys(state, "../outside.safetensors"), "expected the name of a file beside the index, got '../outside"),
        (dict.fromkeys(state, str(outside)), "expected the name of a file beside the index"),
        (dict.fromkeys(state, ".."), "expected the name of a file beside the index, got '..'"),
        (dict.fromkeys(state, "a\\b"), "expected the name of a file beside the index"),
        (dict.fromkeys(state, 3), "weight_map: weight_ih_l0: expected the name of a file beside the index, got 3"),
        ({}, "weight_map: expected names and their files, got dict"),
        (without, "bias_hh_l0 stands in one of the two alone"),
        (dict.fromkeys(state, first["bias_ih_l0"]), "stands in one of the two alone"),
        ({**first, "weight_ih_l1": first["bias_ih_l0"]}, "weight_ih_l1 stands in one of the two alone"),
        (dict.fromkeys(state, index.name), "expected a whole .safetensors file"),
    ]  # fmt: skip
    for homes, message in cases:
        index.write_text(json.dumps({"weight_map": homes}))
        with pytest.raises(cgru.FormatError, match=re.escape(str(index)) + ".*" + re.escape(message)):
            cgru.load(index)


def test_folders(tmp_path):
    """As accelerate saves a state, and with several models."""
    module = torch.nn.GRU(5, 7)
    safetensors.torch.save_file(module.state_dict(), tmp_path / "model.safetensors")
    torch.save({"state": {}}, tmp_path / "optimizer.bin")
    (tmp_path / "random_states_0.pkl").write_bytes(b"\x80\x04.")
    same(cgru.load(tmp_path), module)
    torch.save(module.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(
        cgru.FormatError,
        match=r"expected one model in the folder, got model\.safetensors, pytorch_model\.bin; load one",
    ):
        cgru.load(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    same(cgru.load(tmp_path), module)


def test_many_shards_and_names(tmp_path):
    state = {f"gru.{key}": value for key, value in torch.nn.GRU(1, 1).state_dict().items()}

    def write(number):
        index = spread(tmp_path, state, shards=4)
        homes = json.loads(index.read_text())["weight_map"]
        home = homes["gru.bias_ih_l0"]
        homes |= {f"m{k}.fc.weight": home for k in range(number)}
        index.write_text(json.dumps({"weight_map": homes}))
        return index

    in_proportion(write, 500, 16_000)
    np.testing.assert_array_equal(cgru.load(write(500)).state_dict()["bias_ih_l0"], state["gru.bias_ih_l0"].numpy())

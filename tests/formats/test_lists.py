"""A state_dict as JSON, as audio plugins have it, and Keras' layers with options of AIDA-X beside them."""

import json
import re

import numpy as np
import pytest
import torch

import cgru
from cgru import formats

from ..support.fuzz import in_proportion, mutations, survives
from ..support.options import relative_error
from .test_torch_files import same


class Amplifier(torch.nn.Module):
    """A recurrent layer and a linear one, under GuitarML's names."""

    def __init__(self, unit=torch.nn.GRU, **options):
        super().__init__()
        self.rec = unit(1, 8, **options)
        self.lin = torch.nn.Linear(8, 1)


def nested(module):
    return {key: value.tolist() for key, value in module.state_dict().items()}


def guitarml(model, unit="GRU"):
    data = {"model": "SimpleRNN", "input_size": 1, "skip": 1, "output_size": 1, "unit_type": unit, "num_layers": 1}
    return {"model_data": data | {"hidden_size": 8, "bias_fl": True}, "state_dict": nested(model)}


def written(path, content):
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("options", [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}])
@pytest.mark.parametrize("wrap", [nested, guitarml, lambda model: {"a": [1, 2], "b": {"c": nested(model)}}])
def test_state_dicts(wrap, options, tmp_path):
    model = Amplifier(**options)
    path = written(tmp_path / "m.json", wrap(model))
    assert formats.kind(path) == "lists"
    for gru in (cgru.load(path), cgru.load(path, "rec")):
        same(gru, model.rec)
    x = torch.randn(6, 3, 1)
    with torch.no_grad():
        assert relative_error(gru(x.numpy())[0], model.rec(x)[0].numpy()) < 2e-6


def test_cells(tmp_path):
    cell = torch.nn.GRUCell(3, 8)
    same(cgru.load(written(tmp_path / "m.json", nested(cell))), cell)


def test_refusals(tmp_path):
    good = nested(Amplifier())
    path = tmp_path / "m.json"
    cases = [
        (guitarml(Amplifier(torch.nn.LSTM), "LSTM"), "rec: expected (3H, H) of a GRU, got an LSTM's"),
        ({**good, "two": nested(Amplifier())}, "choose one by its name: 'rec' (GRU), 'two.rec' (GRU)"),
        ({key: value for key, value in good.items() if "bias_hh" not in key}, "missing bias_hh_l0"),
        ({**good, "rec.weight_ih_l0": [[1.0, 2.0], [3.0]] * 12}, "rec.weight_ih_l0: expected lists of numbers of one length"),
        ({**good, "rec.bias_ih_l0": ["1"] * 24}, "rec.bias_ih_l0: expected finite numbers of float32, got others"),
        ({**good, "rec.bias_ih_l0": [1e39] * 24}, "rec.bias_ih_l0: expected finite numbers of float32, got others"),
        ({**good, "rec.bias_ih_l0": [0.0] * 23}, "bias_ih_l0: expected (24,) float32, got (23,)"),
        ({**good, "rec.weight_hh_l0": []}, "weight_hh_l0: expected 2 dimensions, got (0,)"),
        ({**good, "rec.h0": [0.0] * 8}, "of one GRU, got ['rec.h0']"),
        ({**good, "bias": {"bias_ih_l1": [0.0]}}, "bias_ih_l1"),
        ({"weight_ih_l0": 3}, "layers: expected RTNeural's list of layers, or a state_dict's weight_ih_l0, ..."),
    ]  # fmt: skip
    for content, message in cases:
        with pytest.raises(cgru.FormatError, match=re.escape(f"{path}: ") + ".*" + re.escape(message)):
            cgru.load(written(path, content))


def test_time_memory_and_damage(tmp_path):
    path = tmp_path / "m.json"
    data = written(path, guitarml(Amplifier())).read_bytes()
    refused, loaded = survives(path, mutations(data, 200, 0))
    assert refused
    assert loaded  # another number

    def many_names(number):
        return written(path, {**nested(Amplifier()), **{f"l{k}.weight": [[0.5]] for k in range(number)}})

    def many_dicts(number):
        return written(path, {f"m{k}": {"weight_ih_l0": [[[]]]} for k in range(number)})

    in_proportion(many_names, 500, 16_000)
    in_proportion(many_dicts, 200, 6400)


def test_a_file_of_aida_x(tmp_path):
    """What it says of gains is not the GRU's."""
    gru, path = cgru.GRU(1, 8, rng=0), tmp_path / "m.json"
    gru.to_rtneural(path)
    content = json.loads(path.read_text())
    dense = {"type": "dense", "activation": "", "shape": [None, None, 1], "weights": [[[0.5]] * 8, [0.0]]}
    content["layers"].append(dense)
    content |= {"in_skip": 1, "in_gain": -3.0, "out_gain": 1.5, "metadata": {"name": "amp", "weight_map": "no"}}
    content["in_batch"] = content["out_batch"] = [0.0] * 16
    loaded = cgru.load(written(path, content))
    x = np.random.default_rng(0).standard_normal((6, 1)).astype(np.float32)
    np.testing.assert_array_equal(loaded(x)[0], gru(x)[0])

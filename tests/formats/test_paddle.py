"""PaddlePaddle's state_dicts, built as its GRU gives them, against its equations written by hand."""

import re

import numpy as np
import pytest

import cgru

from ..support.options import relative_error

SHAPES = {"weight_ih": ("3H", "I"), "weight_hh": ("3H", "H"), "bias_ih": ("3H",), "bias_hh": ("3H",)}


class Tensor:
    """What of paddle.Tensor a loader sees."""

    def __init__(self, array):
        self.array = array
        self.shape, self.dtype = list(array.shape), f"paddle.{array.dtype}"

    def detach(self):
        return self

    def cpu(self):
        return self

    def numpy(self):
        return self.array.view(np.uint16) if self.array.dtype == np.float16 else self.array


def state_dict(layers=1, bidirectional=False, inputs=3, hidden=4):
    """Each weight twice: under PyTorch's names first, and under those of the cells in the layer."""
    rng = np.random.default_rng(0)
    sides = [("_reverse", "cell_bw"), ("", "cell_fw")][::-1] if bidirectional else [("", "cell")]
    flat, cells = {}, {}
    for layer in range(layers):
        sizes = {"3H": 3 * hidden, "H": hidden, "I": inputs if not layer else len(sides) * hidden}
        for end, cell in sides:
            for name, shape in SHAPES.items():
                array = rng.uniform(-0.5, 0.5, [sizes[size] for size in shape]).astype(np.float32)
                flat[f"{name}_l{layer}{end}"] = cells[f"{layer}.{cell}.{name}"] = array
    return flat | cells


def computed(state, prefix, xs):
    """Of a cell, for a sequence (T, I), from zeros."""
    w_ih, w_hh, b_ih, b_hh = (state[f"{prefix}.{name}"].astype(np.float64) for name in SHAPES)
    h, ys = np.zeros(w_hh.shape[1]), []
    for x in xs:
        (x_r, x_z, x_c), (h_r, h_z, h_c) = np.split(w_ih @ x + b_ih, 3), np.split(w_hh @ h + b_hh, 3)
        z = 1 / (1 + np.exp(-(x_z + h_z)))
        c = np.tanh(x_c + h_c / (1 + np.exp(-(x_r + h_r))))
        h = (h - c) * z + c
        ys.append(h)
    return np.array(ys)


@pytest.mark.parametrize("wrap", [Tensor, lambda array: array])
@pytest.mark.parametrize("prefix", ["", "encoder.gru."])
def test_state_dicts(prefix, wrap):
    xs = np.random.default_rng(1).standard_normal((6, 3)).astype(np.float32)

    def load(state):
        given = {prefix + key: wrap(array) for key, array in state.items()}
        return cgru.from_torch({**given, **({"fc.weight": wrap(np.ones((4, 2), np.float32))} if prefix else {})})

    state = state_dict(2)
    assert relative_error(load(state)(xs)[0], computed(state, "1.cell", computed(state, "0.cell", xs))) < 1e-6
    state = state_dict(1, True)
    both = [computed(state, "0.cell_fw", xs), computed(state, "0.cell_bw", xs[::-1])[::-1]]
    assert relative_error(load(state)(xs)[0], np.hstack(both)) < 1e-6
    assert repr(load(state_dict(3, True))) == "GRU(3, 4, num_layers=3, bidirectional=True)"


def test_one_bias_alone():
    """The cells have zeros for the other, which has no name of PyTorch's."""
    state = state_dict()
    del state["bias_hh_l0"]
    state["0.cell.bias_hh"] = np.zeros(12, np.float32)
    assert not cgru.from_torch(state).state_dict()["bias_hh_l0"].any()
    np.testing.assert_array_equal(cgru.from_torch(state).state_dict()["bias_ih_l0"], state["bias_ih_l0"])


def test_refusals():
    state = state_dict(2, True)
    both = "expected the same weights under both of PaddlePaddle's names, bias_hh_l1_reverse and 1.cell_bw.bias_hh"
    cases = [
        ({**state, "1.cell_bw.bias_hh": state["0.cell_bw.bias_hh"]}, both),
        ({key: array for key, array in state.items() if "l1" not in key and not key.startswith("1.cell_bw")}, "missing weight_ih_l1_reverse"),
        ({key: array for key, array in state.items() if key.startswith("0.cell")}, "choose one by its name: '0.cell_fw' (GRU), '0.cell_bw' (GRU)"),
        ({**state, "bias_ih_l0": Tensor(state["bias_ih_l0"].astype(np.float16))}, "expected float32 or float64, got paddle.float16"),
    ]  # fmt: skip
    for given, message in cases:
        with pytest.raises(cgru.FormatError, match=re.escape(message)):
            cgru.from_torch(given)

"""Activations that differ by direction: as options, in the specification, in files, and where there are none such."""

import copy
import pickle

import numpy as np
import pytest

import cgru
from cgru import reference

from ..support.options import OF_DIRECTIONS, Problem, relative_error

PAIR = {"activation": ["tanh", "relu"], "recurrent_activation": ["sigmoid", "hard_sigmoid"]}


@pytest.mark.parametrize("options", OF_DIRECTIONS, ids=str)
@pytest.mark.parametrize("layers", [1, 2])
def test_two_models_of_one_direction(options, layers):
    """Each direction computes what a GRU of that direction alone does, layer by layer."""
    if options.get("merge") == "sum":
        pytest.skip("one layer alone")
    both = Problem({**options, "num_layers": layers})
    inputs, names = both.x, list(both.gru.state_dict())
    for layer in range(layers):
        outputs = []
        for d, end in enumerate(("", "_reverse")):
            own = {k: v[d] if isinstance(v, (list, tuple)) and len(v) == 2 else v for k, v in options.items()}
            own |= {"bidirectional": False, "num_layers": 1, "reverse": d == 1}
            one = cgru.GRU(inputs.shape[-1], both.hidden, dtype=np.float64, **own)
            suffix = f"_l{layer}{end}"
            one.load_state_dict(
                {n.removesuffix(suffix) + "_l0": both.gru.state_dict()[n] for n in names if n.endswith(suffix)}
            )
            y, h_n = one(inputs, both.h0[[2 * layer + d]])
            assert relative_error(h_n[0], both.expected()[1][2 * layer + d]) < 1e-12
            outputs.append(y)
        inputs = np.concatenate(outputs, axis=-1)
    assert relative_error(inputs, both.expected()[0]) < 1e-12


def test_options():
    gru = cgru.GRU(3, 4, bidirectional=True, **PAIR)
    assert gru.activation == ("tanh", "relu")
    assert gru.recurrent_activation == ("sigmoid", "hard_sigmoid")
    assert (
        repr(gru)
        == "GRU(3, 4, bidirectional=True, activation=('tanh', 'relu'), recurrent_activation=('sigmoid', 'hard_sigmoid'))"
    )
    assert cgru.GRU(3, 4, bidirectional=True, activation=["relu", "relu"]).activation == "relu"
    elus = cgru.GRU(3, 4, bidirectional=True, activation=[("elu", 1, 0), "elu"])
    assert elus.activation == "elu"
    for other in (copy.copy(gru), copy.deepcopy(gru), pickle.loads(pickle.dumps(gru)), cgru.GRU(**gru.options)):
        assert other.options == gru.options


def test_other_cells():
    problem = Problem({"bidirectional": True, "activation": ["g", "tanh"]}, kind=cgru.MinGRU)
    y, _ = problem.gru(problem.x, problem.h0)
    assert relative_error(y, problem.expected()[0]) < 1e-12
    with pytest.raises(ValueError, match="activation: expected one function with bidirectional=False"):
        cgru.GRUCell(3, 4, activation=["tanh", "relu"])


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_files(precision, tmp_path):
    gru = cgru.GRU(
        3,
        4,
        2,
        bidirectional=True,
        activation=[("elu", 0.5, 0), "tanh"],
        recurrent_activation=PAIR["recurrent_activation"],
        rng=0,
    )
    gru = gru if precision == "float32" else gru.quantize(precision)
    gru.save(tmp_path / "m.safetensors")
    back = cgru.load(tmp_path / "m.safetensors")
    assert back.options == gru.options
    x = np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32)
    np.testing.assert_array_equal(back(x)[0], gru(x)[0])


def test_other_systems_refuse(tmp_path):
    gru = cgru.GRU(3, 4, bidirectional=True, **PAIR)
    with pytest.raises(
        cgru.FormatError, match=r"activation: PyTorch has one function for both directions, got \('tanh', 'relu'\)"
    ):
        gru.to_torch()
    with pytest.raises(cgru.FormatError, match="activation: RTNeural has one function for both directions"):
        gru.to_rtneural(tmp_path / "m.json")
    pytest.importorskip("keras")
    with pytest.raises(cgru.FormatError, match="activation: Keras has one function for both directions"):
        gru.to_keras()


def test_the_specification_takes_lists():
    problem = Problem(OF_DIRECTIONS[1])
    options = {**OF_DIRECTIONS[1]}
    del options["bidirectional"]
    y, _ = reference.forward(problem.x, problem.gru.state_dict(), problem.h0, **options)
    assert relative_error(y, problem.expected()[0]) < 1e-15

"""A model as a value: specifications, values, and the classes that hold them."""

import dataclasses
import inspect
import pickle

import numpy as np
import pytest

import cgru
from cgru.engines import HOST
from cgru.model import value as values
from cgru.model.spec import KINDS, Spec, defaults, from_options
from cgru.model.value import Value

from ..support.options import Problem, relative_error

CLASSES = {"GRU": cgru.GRU, "GRUCell": cgru.GRUCell, "MinGRU": cgru.MinGRU}


@pytest.mark.parametrize("kind", KINDS)
def test_constructors_have_the_options_of_their_kind(kind):
    parameters = {name: p.default for name, p in inspect.signature(CLASSES[kind]).parameters.items() if name != "rng"}
    expected = {n: inspect.Parameter.empty if d is dataclasses.MISSING else d for n, d in defaults(kind).items()}
    assert list(parameters) == list(expected)
    assert parameters == {**expected, "dtype": np.float32}
    assert set(CLASSES[kind](3, 4).options) == set(expected)


def test_a_specification_does_not_change():
    spec = Spec("GRU", 3, 4)
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.hidden_size = 5
    assert spec == Spec("GRU", 3, 4, activation=("tanh", 0, 0)) != dataclasses.replace(spec, hidden_size=5)
    with pytest.raises(ValueError, match="merge: expected 'concat' unless"):
        dataclasses.replace(spec, merge="sum")
    with pytest.raises(TypeError, match=r"GRUCell: expected the options .*, got num_layers"):
        from_options("GRUCell", {"input_size": 3, "hidden_size": 4, "num_layers": 2})


@pytest.mark.parametrize("bidirectional", [False, True])
def test_names_and_shapes_are_torchs(bidirectional):
    torch = pytest.importorskip("torch")
    module = torch.nn.GRU(5, 7, num_layers=3, bidirectional=bidirectional)
    spec = Spec("GRU", 5, 7, num_layers=3, bidirectional=bidirectional)
    assert spec.shapes == {name: tuple(p.shape) for name, p in module.named_parameters()}
    assert spec.width == module(torch.zeros(2, 1, 5))[0].shape[-1]


def test_a_model_holds_a_value_and_replaces_it():
    gru = cgru.GRU(3, 4, rng=0)
    before = gru.value
    twin = cgru.GRU.of(before)
    gru.load_state_dict({name: np.zeros_like(array) for name, array in gru.state_dict().items()})
    assert gru.value is not before
    assert twin.value is before
    assert all(array.any() for array in twin.state_dict().values())
    assert gru.engine is twin.engine is HOST
    with pytest.raises(TypeError, match="value: expected one of a GRUCell, got one of a GRU"):
        cgru.GRUCell.of(before)
    with pytest.raises(AttributeError, match="'GRU' object has no attribute 'hidden'"):
        gru.hidden  # noqa: B018


def test_values_are_pickled_and_faced():
    for model in (cgru.GRU(3, 4, reset_after=False, rng=0), cgru.GRUCell(3, 4, rng=0), cgru.GRU(3, 4).quantize("int8")):
        again = pickle.loads(pickle.dumps(model.value))
        assert again.spec == model.spec
        assert repr(values.face(again)) == repr(model)
        for name, array in model.state_dict().items():
            np.testing.assert_array_equal(again.wide()[name], array)


@pytest.mark.parametrize("reset_after", [True, False])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_weighing_the_state_is_the_same_model(reset_after, activation):
    """Parameters of a GRU whose update gate weighs the candidate, as those of one whose gate weighs the state."""
    problem = Problem({"update_gate": "candidate", "reset_after": reset_after, "activation": activation})
    spec = dataclasses.replace(problem.gru.spec, update_gate="state")
    other = cgru.GRU.of(Value.of(spec, problem.gru.value.weighing_state()))
    assert relative_error(other(problem.x, problem.h0)[0], problem.expected()[0]) < 1e-13


def test_parameters_are_copied_and_checked():
    spec = Spec("GRU", 3, 4)
    given = spec.initial(rng=0)
    value = Value.of(spec, given)
    given["weight_ih_l0"][:] = 0
    assert value.parameters["weight_ih_l0"].any()
    with pytest.raises(ValueError, match=r"weight_hh_l0: expected \(12, 4\) float32, got \(12, 5\)"):
        Value.of(spec, {**given, "weight_hh_l0": np.zeros((12, 5), np.float32)})
    with pytest.raises(ValueError, match="missing bias_hh_l0; unknown bias"):
        Value.of(spec, {"bias" if name == "bias_hh_l0" else name: array for name, array in given.items()})

"""Models on the device as objects: parameters, copies, files; which arrays they take, and bad calls."""

import copy
import re

import numpy as np
import pytest

import cgru
from cgru.engines.cuda import intake

from ..support.cuda_calls import F
from ..support.cuda_on_cpu import (
    DeviceArray,
    Simulator,
    on_device,
    on_host,
    place,
)
from ..support.options import relative_error


def test_parameters_move_and_come_back():
    gru = cgru.GRU(3, 4, num_layers=2, bidirectional=True, dropout=0.1, rng=0)
    model = place(gru, Simulator())
    assert isinstance(model, cgru.GRU)
    assert model.device == "cuda:0"
    assert gru.device == "cpu"
    assert gru.to("cpu") is gru
    assert repr(model) == repr(gru) + ".to('cuda:0')"
    assert model.options == gru.options
    back = model.to("cpu")
    assert type(back) is cgru.GRU
    for name, array in gru.state_dict().items():
        assert type(model.state_dict()[name]) is DeviceArray
        np.testing.assert_array_equal(on_host(model.state_dict()[name]), array)
        np.testing.assert_array_equal(back.state_dict()[name], array)
    assert model.to("cuda") is model
    assert model.to("cuda:0") is model


def test_new_weights_are_used():
    gru = cgru.GRU(3, 4, rng=0)
    model = place(gru, Simulator())
    x = np.ones((5, 2, 3), np.float32)
    before = on_host(model(on_device(x))[0])
    model.load_state_dict({name: array * np.float32(0.5) for name, array in model.state_dict().items()})
    gru.load_state_dict({name: array * np.float32(0.5) for name, array in gru.state_dict().items()})
    after = on_host(model(on_device(x))[0])
    assert relative_error(after, gru(x)[0]) < 2e-6
    assert np.any(after != before)
    with pytest.raises(TypeError, match=r"weight_ih_l0: expected .* on cuda:0, got ndarray in host memory"):
        model.load_state_dict(gru.state_dict())
    np.testing.assert_array_equal(on_host(model(on_device(x))[0]), after)
    with pytest.raises(ValueError, match=r"state_dict: .* missing bias_hh_l0"):
        model.load_state_dict({name: v for name, v in model.state_dict().items() if name != "bias_hh_l0"})


def test_copies_and_files(tmp_path):
    gru = cgru.GRU(3, 4, rng=0)
    model = place(gru, Simulator())
    x = on_device(np.ones((5, 2, 3), np.float32))
    for twin in (copy.copy(model), copy.deepcopy(model)):
        np.testing.assert_array_equal(on_host(twin(x)[0]), on_host(model(x)[0]))
    model.save(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(
        cgru.load(tmp_path / "m.safetensors").state_dict()["weight_ih_l0"], gru.state_dict()["weight_ih_l0"]
    )
    assert model.quantize("float16").device == "cuda:0"
    assert model.to_torch().hidden_size == 4


X = np.zeros((6, 2, 3), F)


BAD_CALLS = [
    (lambda m: m(X), TypeError, "x: expected (T, B, 3) float32 on cuda:0, got ndarray in host memory; move it with cupy.asarray(x)"),
    (lambda m: m([[1.0]]), TypeError, "x: expected (T, B, 3) or (T, 3) float32 on cuda:0, got list; move it with cupy.asarray(x)"),
    (lambda m: m(on_device(np.zeros((6, 2, 4), F))), ValueError, "x: expected (T, B, 3) float32 on cuda:0, got (6, 2, 4)"),
    (lambda m: m(on_device(np.zeros((6, 2, 3)))), TypeError, "x: expected (T, B, 3) float32 on cuda:0, got float64; convert it with x.astype(numpy.float32)"),
    (lambda m: m(on_device(X), np.zeros((1, 2, 4), F)), TypeError, "h0: expected (1, 2, 4) float32 on cuda:0, got ndarray in host memory"),
    (lambda m: m(on_device(X), on_device(np.zeros((1, 3, 4), F))), ValueError, "h0: expected (1, 2, 4) float32 on cuda:0, got (1, 3, 4)"),
    (lambda m: m(on_device(X), out=np.zeros((6, 2, 4), F)), TypeError, "out: expected (6, 2, 4) float32 on cuda:0, got numpy.ndarray; make it with cupy.empty"),
    (lambda m: m(on_device(X), out=on_device(np.zeros((6, 2, 5), F))), ValueError, "out: expected (6, 2, 4) float32 on cuda:0, got (6, 2, 5)"),
    (lambda m: m(on_device(X), out=on_device(np.broadcast_to(np.zeros(4, F), (6, 2, 4)))), ValueError, "out: expected distinct elements"),
    (lambda m: m(on_device(X), out=on_device(np.lib.stride_tricks.as_strided(np.zeros(60, F), (6, 2, 4), (28, 12, 4)))), ValueError, "out: expected distinct elements"),
    (lambda m: m(on_device(X), lengths=[1]), ValueError, "lengths: expected (2,) integers, got (1,)"),
    (lambda m: m(on_device(X), lengths=[1, 7]), ValueError, "lengths: expected integers from 0 to 6, got 7 at position 1"),
    (lambda m: m(on_device(X), engine="packed"), ValueError, "engine: expected 'auto' or 'steps' or 'fused', got 'packed'"),
    (lambda m: m(on_device(X), num_threads=2), ValueError, "num_threads: expected None for a model on cuda:0; gru.to('cpu') takes it"),
    (lambda m: m(on_device(X), mask=np.ones((6, 2), bool)), ValueError, "mask: expected None for a model on cuda:0; gru.to('cpu') takes it"),
    (lambda m: m(on_device(X), resets=np.ones((6, 2), bool)), ValueError, "resets: expected None for a model on cuda:0; gru.to('cpu') takes it"),
    (lambda m: m.record(on_device(X), resets=np.ones((6, 2), bool)), ValueError, "resets: expected None for a model on cuda:0"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "error", "message"), BAD_CALLS)
def test_bad_calls(bad, error, message):
    simulator = Simulator()
    with pytest.raises(error, match=re.escape(message)):
        bad(place(cgru.GRU(3, 4), simulator))
    assert not simulator.launches


def test_out_that_overlaps():
    gru = cgru.GRU(4, 4)
    memory = np.ones(80, F)
    model = place(gru, Simulator())
    with pytest.raises(ValueError, match="out: expected memory of its own, got an array that overlaps x"):
        model(on_device(memory[:40].reshape(5, 2, 4)), out=on_device(memory[39:79].reshape(5, 2, 4)))
    assert (memory == 1).all()
    y, _ = model(on_device(memory[:40].reshape(5, 2, 4)), out=on_device(memory[40:].reshape(5, 2, 4)))
    np.testing.assert_array_equal(on_host(y).ravel(), memory[40:])


class OnGpu:
    """An array of some library in a GPU's memory, as far as its attributes tell."""

    shape, ndim, dtype = (6, 2, 3), 3, np.dtype(F)
    __cuda_array_interface__ = {"shape": (6, 2, 3), "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


class Elsewhere(Simulator):
    def holds(self, array):
        return False


def test_arrays_of_a_gpu_in_a_model_of_the_processor():
    gru = cgru.GRU(3, 4)
    message = "got OnGpu in a GPU's memory; move it with cupy.asnumpy(x), or the model with gru.to('cuda')"
    for bad in (lambda: gru(OnGpu()), lambda: gru(OnGpu(), lengths=[1, 2]), lambda: gru.stream().step(OnGpu())):
        with pytest.raises(TypeError, match=re.escape(message)):
            bad()
    with pytest.raises(
        TypeError, match=re.escape("lengths: expected (B,) integers in host memory, got an array on a GPU")
    ):
        place(gru, Simulator())(on_device(X), lengths=OnGpu())
    pool = place(gru, Simulator()).pool(3)
    with pytest.raises(TypeError, match=re.escape("ids: expected (N,) integers in host memory, got an array on a GPU")):
        pool.step(OnGpu(), on_device(X[0]))


def test_arrays_of_another_device(monkeypatch):
    monkeypatch.setattr(DeviceArray, "device", type("Device", (), {"id": 1}), raising=False)
    model = place(cgru.GRU(3, 4), Elsewhere())
    with pytest.raises(
        ValueError, match=r"x: expected \(T, B, 3\) float32 on cuda:0, got an array on cuda:1; move it or the model"
    ):
        model(on_device(X))


class Tensor:
    """Another library's array: what DLPack asks of it."""

    def __init__(self, array, device=2, refuses=None):
        self.array, self.device, self.refuses = array, device, refuses
        self.ndim = array.ndim

    def __dlpack_device__(self):
        return (self.device, 0)

    def __dlpack__(self, **kwargs):
        return self.array.__dlpack__(**kwargs)


def test_dlpack_is_taken_without_a_copy(monkeypatch):
    gru = cgru.GRU(3, 4, rng=0)
    model = place(gru, Simulator())
    x = np.random.default_rng(0).standard_normal((6, 2, 3)).astype(F)
    monkeypatch.setattr(model.engine.device.xp, "from_dlpack", lambda tensor: on_device(tensor.array))
    assert relative_error(on_host(model(Tensor(x))[0]), gru(x)[0]) < 2e-6
    taken = intake.array(model.engine.device, "x", Tensor(x), x.dtype, ("T", "B", 3))
    assert np.shares_memory(on_host(taken), x)
    with pytest.raises(TypeError, match=r"x: .* got Tensor in host memory"):
        model(Tensor(x, device=1))

    def refuse(tensor):
        raise BufferError("Can't export tensors that require gradient")

    monkeypatch.setattr(model.engine.device.xp, "from_dlpack", refuse)
    with pytest.raises(TypeError, match="x: expected an array to take by DLPack, got one that refuses: Can't export"):
        model(Tensor(x))


def test_the_cuda_array_interface_is_taken(monkeypatch):
    model = place(cgru.GRU(3, 4, rng=0), Simulator())
    monkeypatch.setattr(
        model.engine.device.xp, "asarray", lambda value: on_device(X) if isinstance(value, OnGpu) else None
    )
    assert model(OnGpu())[0].shape == (6, 2, 4)


class Stubborn(DeviceArray):
    """An array that stays two-dimensional."""

    def __getitem__(self, index):
        found = np.asarray(self)[index]
        return np.atleast_2d(found).view(Stubborn)


def test_arrays_of_subclasses_are_taken_as_plain_ones():
    gru = cgru.GRU(7, 13, rng=0)
    model, x, h = place(gru, Simulator()), np.ones((5, 7), F), np.ones((1, 13), F)
    expected, h_n = gru(x, h)
    out = np.zeros((5, 13), F)
    y, last = model(x.view(Stubborn), h.view(Stubborn), out=out.view(Stubborn))
    assert type(y) is type(last) is DeviceArray
    assert relative_error(out, expected) < 2e-6
    assert relative_error(on_host(last), h_n) < 2e-6
    stream = model.stream(batch_size=5)
    assert relative_error(on_host(stream.step(x.view(Stubborn))), gru.stream(batch_size=5).step(x)) < 2e-6
    y, _, tape = model.record(x.view(Stubborn))
    assert type(tape.backward(y.view(Stubborn)).x) is DeviceArray

"""Arrays that are not quite NumPy's own, at every door: taken as plain ones of the same memory, or refused."""

import numpy as np
import pytest

import cgru

F = np.float32


class Stubborn(np.ndarray):
    """It stays two-dimensional, as np.matrix does, and says that it is of the shape it was made with."""

    def __getitem__(self, index):
        return np.atleast_2d(super().__getitem__(index)).view(type(self))

    def reshape(self, *shape, **options):
        return self

    def copy(self, order="C"):
        return self

    @property
    def strides(self):
        return (4, 4, 4)


def memmap(array, folder):
    kept = np.memmap(folder / "memory", array.dtype, "w+", shape=array.shape or 1)
    kept[...] = array
    return kept


KINDS = {
    "matrix": lambda array, folder: array.view(np.matrix),
    "stubborn": lambda array, folder: array.view(Stubborn),
    "masked": lambda array, folder: np.ma.masked_array(array, np.zeros(array.shape, bool)),
    "recarray": lambda array, folder: array.view(np.recarray),
    "memmap": memmap,
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def doors(dtype):
    """What takes arrays: by name a function of them, and the shapes of what it takes."""
    gru, cell = cgru.GRU(3, 8, 2, rng=0, dtype=dtype), cgru.GRUCell(3, 8, rng=0, dtype=dtype)
    both = cgru.GRU(3, 8, bidirectional=True, merge="sum", rng=0, dtype=dtype)
    lockstep, single = gru.stream(batch_size=7), gru.stream()

    def pooled(x):
        pool = gru.pool(7)
        return pool.step([pool.open() for _ in range(7)], x)

    def pool_state(h):
        pool = gru.pool(1)
        pool.set_state(pool.open(), h)
        return pool.state(0)

    def set_state(stream, h):
        stream.state = h
        return stream.state

    def backward(grad_y, grad_h):
        _, _, tape = gru.record(np.ones((7, 3), dtype))
        found = tape.backward(grad_y, grad_h)
        return (found.x, found.h0, *found.values())

    def loaded(w):
        other = cgru.GRU(3, 8, 2, rng=1, dtype=dtype)
        other.load_state_dict({**other.state_dict(), "weight_ih_l0": w})
        return other(np.ones((7, 3), dtype))

    found = {
        "call": (lambda x, h0: gru(x, h0), (7, 3), (2, 8)),
        "call with lengths": (lambda x, h0: gru(x, h0, lengths=5), (7, 3), (2, 8)),
        "call, BLAS": (lambda x, h0: gru(x, h0, engine="blas"), (7, 3), (2, 8)),
        "call, sum": (both, (7, 3), (2, 8)),
        "cell": (cell, (7, 3), (7, 8)),
        "cell, x alone": (cell, (7, 3)),
        "record": (lambda x, h0: gru.record(x, h0)[:2], (7, 3), (2, 8)),
        "backward": (backward, (7, 8), (2, 8)),
        "step": (lambda x: (lockstep.reset(), lockstep.step(x))[1], (7, 3)),
        "process": (lambda x: (single.reset(), single.process(x))[1], (7, 3)),
        "state": (lambda h: set_state(single, h), (2, 8)),
        "pool's step": (pooled, (7, 3)),
        "pool's state": (pool_state, (2, 8)),
        "state_dict": (loaded, (24, 3)),
    }
    if dtype == F:
        found["calibrate"] = (lambda x, h0: gru.quantize("int8", calibrate=(x, h0))(np.ones((7, 3), F)), (7, 3), (2, 8))
    return found


def made(shapes, dtype):
    rng = np.random.default_rng(0)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def flat(results):
    return list(results) if isinstance(results, tuple) else [results]


@each_kind
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_door(kind, dtype, tmp_path):
    for name, (door, *shapes) in doors(dtype).items():
        arrays = made(shapes, dtype)
        expected = flat(door(*arrays))
        for k in range(len(arrays)):
            given = [KINDS[kind](a.copy(), tmp_path) if i == k else a for i, a in enumerate(arrays)]
            for value, wanted in zip(flat(door(*given)), expected, strict=True):
                assert type(value) is np.ndarray, name
                np.testing.assert_array_equal(value, wanted, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mask_is_not_dropped(dtype):
    for door, *shapes in doors(dtype).values():
        arrays = made(shapes, dtype)
        for k in range(len(arrays)):
            given = [np.ma.masked_less(a, 0) if i == k else a for i, a in enumerate(arrays)]
            with pytest.raises(
                TypeError, match=r"expected an array without a mask, got a masked array; .*\.filled\(0\)"
            ):
                door(*given)


def test_masks_of_integers_and_of_steps():
    gru, x = cgru.GRU(3, 8, rng=0), np.ones((5, 2, 3), F)
    with pytest.raises(TypeError, match="lengths: expected an array without a mask"):
        gru(x, lengths=np.ma.masked_array([5, 5], [True, False]))
    with pytest.raises(TypeError, match="mask: expected an array without a mask"):
        gru(x, mask=np.ma.masked_array(np.ones((5, 2), bool), np.eye(5, 2, dtype=bool)))
    pool = gru.pool(2)
    with pytest.raises(TypeError, match="ids: expected an array without a mask"):
        pool.step(np.ma.masked_array([pool.open(), pool.open()], [True, False]), x[0])
    with pytest.raises(TypeError, match=r"ids: expected \(N,\) integers, got \(1, 2\) int64"):
        pool.step(np.array([0, 1]).view(np.matrix), x[0])
    np.testing.assert_array_equal(gru(x, mask=np.ones((5, 2), bool).view(Stubborn))[0], gru(x)[0])


@each_kind
def test_outputs(kind, tmp_path):
    """They are written into the memory given, and come back as plain arrays of it."""
    for dtype in (np.float32, np.float64):
        gru, x = cgru.GRU(3, 8, rng=0, dtype=dtype), np.ones((7, 3), dtype)
        expected = gru(x)[0]
        first = np.tile(expected[0], (7, 1))
        pool = gru.pool(7)
        ids = [pool.open() for _ in range(7)]
        for write, wanted in (
            (lambda out: gru(x, out=out)[0], expected),  # noqa: B023
            (lambda out: gru(x, out=out, mask=np.ones(7, bool))[0], expected),  # noqa: B023
            (lambda out: gru.stream().process(x, out), expected),  # noqa: B023
            (lambda out: gru.stream(batch_size=7).step(x, out), first),  # noqa: B023
            (lambda out: pool.step(ids, x, out), first),  # noqa: B023
        ):
            out = KINDS[kind](np.zeros((7, 8), dtype), tmp_path)
            y = write(out)
            assert type(y) is np.ndarray
            assert np.shares_memory(y, np.asarray(out))
            np.testing.assert_allclose(np.asarray(out), wanted, rtol=1e-6)
            hidden = np.ma.masked_array(np.zeros((7, 8), dtype), np.eye(7, 8, dtype=bool))
            with pytest.raises(TypeError, match="out: expected an array without a mask"):
                write(hidden)
            assert not hidden.data.any()


def windows(shape, dtype, step):
    """Rows that begin `step` numbers apart, whatever their length."""
    memory = np.zeros(1000, dtype)
    strides = (*(step * memory.itemsize * (k + 1) for k in reversed(range(len(shape) - 1))), memory.itemsize)
    return memory, np.lib.stride_tricks.as_strided(memory, shape, strides)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("step", [0, 1, 7])
def test_outputs_that_overlap_themselves(dtype, step):
    gru = cgru.GRU(3, 8, rng=0, dtype=dtype)
    x = np.ones((4, 5, 3), dtype)
    pool = gru.pool(4)
    ids = [pool.open() for _ in range(4)]
    single, lockstep = gru.stream(), gru.stream(batch_size=5)
    for shape, write in (
        ((4, 5, 8), lambda out: gru(x, out=out)),
        ((4, 5, 8), lambda out: gru(x, out=out, mask=np.ones((4, 5), bool))),
        ((4, 8), lambda out: gru(x[:, 0], out=out)),
        ((4, 8), lambda out: single.process(x[:, 0], out)),
        ((5, 8), lambda out: lockstep.step(x[0], out)),
        ((4, 5, 8), lambda out: lockstep.process(x, out)),
        ((4, 8), lambda out: pool.step(ids, x[:, 0], out)),
    ):
        memory, out = windows(shape, dtype, step)
        with pytest.raises(ValueError, match="out: expected distinct elements, got an array that repeats them"):
            write(out)
        assert not memory.any()
    with pytest.raises(ValueError, match="out: expected distinct elements"):
        single.step(x[0, 0], np.lib.stride_tricks.as_strided(np.zeros(8, dtype), (8,), (0,)))
    assert not single.state.any()
    assert not lockstep.state.any()


def test_outputs_of_any_layout_without_overlap():
    gru, x = cgru.GRU(3, 8, rng=0), np.ones((4, 5, 3), F)
    expected = gru(x)[0]
    memory = np.zeros((8, 5, 4, 3), F)
    for out in (memory[..., 1].T, memory[::-1, :, ::-1, 0].T, np.zeros((4, 5, 20), F)[:, :, 3:11]):
        assert gru(x, out=out)[0] is out
        np.testing.assert_array_equal(out, expected)


def test_nothing_by_a_public_name_trusts_a_shape():
    stream, pool = cgru.GRU(3, 8, rng=0).stream(), cgru.GRU(3, 8, rng=0).pool(2)
    allowed = {"step", "process", "state", "reset", "copy"}
    assert {name for name in dir(stream) if not name.startswith("_")} == allowed
    allowed = {"step", "open", "close", "state", "set_state", "reset", "copy", "capacity"}
    assert {name for name in dir(pool) if not name.startswith("_")} == allowed
    with pytest.raises(ValueError, match="states: expected"):
        stream._states = np.ones((1, 4, 8), F)
    both = cgru.GRU(3, 8, bidirectional=True)
    with pytest.raises(ValueError, match="stream: expected a GRU that reads forwards"):
        type(stream)(both, None)
    with pytest.raises(ValueError, match="batch_size: expected an integer from 1"):
        type(stream)(cgru.GRU(3, 8), -1)

"""Streams of estimators: wholly the estimator they were made of, for one thread at a time, whole after a failure."""

import copy
import pickle

import numpy as np
import pytest

from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor

from ..support.concurrency import held

RNG = np.random.default_rng(0)
X = RNG.standard_normal((40, 6, 2))
Y = X[:, :, 0].sum(1)
LABELS = np.where(Y > 0, "up", "down")
WAVE = np.sin(np.arange(120) / 5)
SMALL = {"max_iter": 3, "random_state": 0}


def classifier(dtype):
    found = GRUClassifier(8, dtype=dtype, **SMALL).fit(X, LABELS)
    return found, lambda: found.partial_fit(3 * X - 5, LABELS[::-1]), X[0]


def regressor(dtype):
    found = GRURegressor(8, dtype=dtype, **SMALL).fit(X, Y)
    return found, lambda: found.partial_fit(X, Y + 20), X[0]


def forecaster(dtype):
    found = GRUForecaster(4, 8, difference=True, dtype=dtype, **SMALL).fit(WAVE)
    return found, lambda: found.partial_fit(3 * WAVE + 20), WAVE[:6]


each = pytest.mark.parametrize("make", [classifier, regressor, forecaster])
each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def said(stream):
    """All that a stream says of where it is."""
    parts = [stream.predict()]
    if hasattr(stream, "predict_proba"):
        parts.append(stream.predict_proba())
    if hasattr(stream, "predict_interval"):
        parts.extend(stream.predict_interval())
    return [np.asarray(part) for part in parts]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@each
@each_dtype
@pytest.mark.parametrize("again", ["partial_fit", "fit", "set_params"])
def test_a_stream_is_wholly_the_estimator_it_was_made_of(make, dtype, again):
    estimator, train, rows = make(dtype)
    stream = estimator.stream()
    stream.process(rows[:2])
    expected = [said(stream)]
    start = copy.copy(stream)
    for row in rows[2:]:
        stream.step(row)
        expected.append(said(stream))
    late = estimator.stream()
    if again == "partial_fit":
        for _ in range(30):
            train()
    elif again == "fit":
        estimator.set_params(hidden_size=5).fit(
            *((X - 3, LABELS if make is classifier else Y + 9), (WAVE * 5,))[make is forecaster]
        )
    else:
        estimator.set_params(hidden_size=5, **({"horizon": 2} if make is forecaster else {}))
    for twin in (start, copy.deepcopy(start), pickle.loads(pickle.dumps(start)), late):
        if twin is late:
            late.process(rows[:2])
        assert same(said(twin), expected[0])
        for row, wanted in zip(rows[2:], expected[1:], strict=True):
            twin.step(row)
            assert same(said(twin), wanted)
    if again != "set_params":
        fresh = estimator.stream()
        fresh.process(rows[:2])
        assert not same(said(fresh)[-1:], expected[0][-1:])


@each
def test_a_stream_in_use_refuses_everything(make):
    estimator, _, rows = make("float32")
    stream = estimator.stream()
    stream.process(rows[:3])
    before = said(stream)
    calls = [
        lambda: stream.step(rows[0]),
        lambda: stream.process(rows),
        stream.predict,
        stream.reset,
        lambda: copy.copy(stream),
        lambda: pickle.dumps(stream),
    ]
    calls += [getattr(stream, name) for name in ("predict_proba", "predict_interval") if hasattr(stream, name)]
    with held(stream):
        for call in calls:
            with pytest.raises(RuntimeError, match="this stream is in use by another thread"):
                call()
    assert same(said(stream), before)


@each
def test_a_chunk_that_fails_leaves_the_state(make, monkeypatch):
    estimator, _, rows = make("float32")
    stream = estimator.stream()
    stream.process(rows[:3])
    before = said(stream)
    broken = rows.copy()
    broken[4] = np.nan
    with pytest.raises(ValueError, match="x: expected finite numbers, got nan"):
        stream.process(broken)
    assert same(said(stream), before)

    def failing():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stream, "_outputs", failing)
        with pytest.raises(KeyboardInterrupt):
            stream.step(rows[3])
    assert same(said(stream), before)
    twin = copy.copy(stream)
    stream.step(rows[3])
    assert same(said(twin), before)  # a copy goes its own way


def test_what_is_given_may_be_used_again():
    estimator, _, _ = forecaster("float64")
    stream, other = estimator.stream(), estimator.stream()
    row = np.empty(1)
    for value in WAVE[:5]:
        row[0] = value
        forecast = stream.step(row)
        row[0] = 99
        np.testing.assert_array_equal(forecast, other.step(value))
    with pytest.raises(TypeError, match="x: expected an array without a mask"):
        stream.step(np.ma.masked_array([1.0], [True]))

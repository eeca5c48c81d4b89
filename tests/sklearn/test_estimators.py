"""cgru.sklearn: gradients of the whole loss, what is learned, weights, early stopping, streams, files, bad input."""

import json
import pickle
import re
import subprocess
import sys
import warnings

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import cgru
from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor, network, training

SMALL = {"hidden_size": 6, "max_iter": 4, "random_state": 0}
ROUNDING = "full batches of repeated and of weighted sequences differ by float32's rounding; in float64 they are equal"
F64 = {"dtype": "float64", "batch_size": 64, "learning_rate": 0.03, "max_iter": 30, "random_state": 0}


def failing(estimator):
    return {} if estimator.dtype == "float64" else {"check_sample_weight_equivalence_on_dense_data": ROUNDING}


@parametrize_with_checks(
    [
        GRUClassifier(8, **F64),
        GRURegressor(8, **F64),
        GRUClassifier(8, **{**F64, "dtype": "float32"}),
        GRURegressor(8, **{**F64, "dtype": "float32"}),
    ],
    expected_failed_checks=failing,
)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def problem(n=120, steps=12, features=2, seed=0, ragged=False):
    """Whether the first feature's sum over a sequence is positive."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, steps, features))
    y = X[:, :, 0].sum(1)
    if ragged:
        X = [x[: rng.integers(3, steps + 1)] for x in X]
        y = np.array([x[:, 0].sum() for x in X])
    return X, y


# --- Gradients and the optimizer --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("loss", "every_step"), [("cross_entropy", False), ("squared_error", False), ("squared_error", True)]
)
def test_gradients_are_central_differences(loss, bidirectional, every_step):
    rng = np.random.default_rng(0)
    gru = cgru.GRU(2, 4, num_layers=2, bidirectional=bidirectional, dtype=np.float64, rng=1)
    net = network.Network(gru, 3, every_step, rng)
    x, lengths = rng.standard_normal((5, 6, 2)), None if every_step else np.array([5, 1, 3, 5, 2, 4])
    weight = rng.uniform(0.5, 2, 6)
    if loss == "cross_entropy":
        criterion = network.cross_entropy(rng.integers(0, 3, 6), weight)
    else:
        shape = (5, 6, 3) if every_step else (6, 3)
        criterion = network.squared_error(rng.standard_normal(shape), weight[:, None])
    value, grads = net.loss(x, lengths, criterion, rng, 1)
    np.testing.assert_allclose(value, criterion(net(x, lengths, 1))[0], rtol=1e-14)
    weights = net.weights
    assert set(grads) == set(weights)
    for name, array in weights.items():
        for _ in range(4):
            at = tuple(rng.integers(0, n) for n in array.shape)
            moved = []
            for step in (1e-5, -1e-5):
                net.load(
                    {
                        **weights,
                        name: array
                        + step * np.eye(1, array.size, np.ravel_multi_index(at, array.shape)).reshape(array.shape),
                    }
                )
                moved.append(criterion(net(x, lengths, 1))[0])
            np.testing.assert_allclose((moved[0] - moved[1]) / 2e-5, grads[name][at], rtol=1e-6, atol=1e-9)


def test_adam_is_torchs():
    import torch

    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal((3, 4)), rng.standard_normal((20, 3, 4))
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    adam, ours = training.Adam(), {"w": start}
    for grad in grads:
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        ours = adam.step(ours, {"w": grad}, 0.01, 0.1)
    np.testing.assert_allclose(ours["w"], theirs.detach().numpy(), rtol=1e-12)


def test_clip():
    grads = {"a": np.full(4, 3.0), "b": np.full(4, 4.0, np.float32)}
    assert training.clip(grads, 1.0) == 10
    np.testing.assert_allclose(grads["a"], 0.3)
    np.testing.assert_allclose(grads["b"], 0.4, rtol=1e-6)
    assert training.clip(grads, None) == pytest.approx(1)
    np.testing.assert_allclose(grads["a"], 0.3)


@pytest.mark.parametrize(("schedule", "middle"), [("constant", 1), ("linear", 0.5), ("cosine", 0.5)])
def test_schedules(schedule, middle):
    rate = training.SCHEDULES[schedule]
    assert rate(0) == 1
    assert rate(0.5) == pytest.approx(middle)
    assert rate(1) == (1 if schedule == "constant" else 0)


# --- What is learned --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ragged", [False, True])
def test_classifier_learns(ragged):
    X, y = problem(300, ragged=ragged)
    y = np.where(y > 0, "up", "down")
    classifier = GRUClassifier(8, max_iter=30, random_state=0).fit(X[:200], y[:200])
    assert classifier.classes_.tolist() == ["down", "up"]
    assert classifier.score(X[200:], y[200:]) > 0.9
    p = classifier.predict_proba(X[200:])
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(classifier.classes_[p.argmax(1)], classifier.predict(X[200:]))
    np.testing.assert_array_equal(p[3], classifier.predict_proba(X[203:204])[0])  # whatever the batch


@pytest.mark.parametrize("bidirectional", [False, True])
def test_regressor_learns(bidirectional):
    X, y = problem(300, ragged=True)
    Y = np.stack([1000 * y + 7, -y], 1)
    options = {"max_iter": 40, "random_state": 0, "bidirectional": bidirectional, "schedule": "cosine"}
    regressor = GRURegressor(12, **options).fit(X[:200], Y[:200])
    assert regressor.score(X[200:], Y[200:]) > 0.9
    assert regressor.predict(X).shape == (300, 2)
    assert GRURegressor(**SMALL).fit(X, y).predict(X).shape == (300,)


def test_forms_of_input_are_equal():
    X, y = problem(40, features=1)
    as_array = GRURegressor(**SMALL).fit(X, y)
    for form in (list(X), X[:, :, 0], pd.DataFrame(X[:, :, 0], columns=[f"t{t}" for t in range(12)])):
        np.testing.assert_allclose(GRURegressor(**SMALL).fit(form, y).predict(form), as_array.predict(X), rtol=1e-5)
    ragged = np.empty(40, object)
    ragged[:] = list(X)
    np.testing.assert_allclose(as_array.predict(ragged), as_array.predict(X), rtol=1e-6)
    assert as_array.n_features_in_ == 1
    assert GRURegressor(**SMALL).fit(X[:, :, 0], y).n_features_in_ == 12


@pytest.mark.parametrize("standardize", [False, True])
def test_sample_weights_are_repeated_samples(standardize):
    X, y = problem(20, ragged=True)
    weight = np.random.default_rng(0).integers(0, 4, 20)
    repeated = np.repeat(np.arange(20), weight)
    options = {**SMALL, "dtype": "float64", "batch_size": 100, "standardize": standardize}
    one = GRURegressor(**options).fit(X, y, sample_weight=weight)
    other = GRURegressor(**options).fit([X[i] for i in repeated], y[repeated])
    np.testing.assert_allclose(one.predict(X), other.predict(X), rtol=1e-10)
    assert np.abs(one.predict(X) - GRURegressor(**options).fit(X, y).predict(X)).max() > 1e-4


def test_class_weights_are_sample_weights():
    X, y = problem(30)
    y = (y > 1).astype(int)
    one = GRUClassifier(**SMALL, class_weight={0: 1, 1: 3}).fit(X, y)
    other = GRUClassifier(**SMALL).fit(X, y, sample_weight=1 + 2 * y)
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), rtol=1e-6)
    balanced = GRUClassifier(**SMALL, class_weight="balanced").fit(X, y)
    assert np.abs(balanced.predict_proba(X) - one.predict_proba(X)).max() > 1e-4


def test_repeatable_by_random_state():
    X, y = problem(40)
    options = {**SMALL, "num_layers": 2, "dropout": 0.3, "early_stopping": True}
    one, other = (GRURegressor(**options).fit(X, y).predict(X) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert (GRURegressor(**{**options, "random_state": 1}).fit(X, y).predict(X) != one).any()


def test_early_stopping_keeps_the_best():
    X, y = problem(60)
    y = y + 3 * np.random.default_rng(1).standard_normal(60)  # much to learn by heart
    options = {
        "hidden_size": 16,
        "early_stopping": True,
        "n_iter_no_change": 5,
        "validation_fraction": 0.3,
        "random_state": 0,
    }
    stopped = GRURegressor(max_iter=200, learning_rate=0.02, **options).fit(X, y)
    assert stopped.n_iter_ < 200
    assert stopped.best_iter_ == 1 + int(np.argmin(stopped.validation_curve_)) == stopped.n_iter_ - 5
    again = GRURegressor(max_iter=stopped.best_iter_, learning_rate=0.02, **options).fit(X, y)
    np.testing.assert_array_equal(again.predict(X), stopped.predict(X))


def test_warm_start_and_partial_fit_go_on():
    X, y = problem(40)
    whole = GRURegressor(**{**SMALL, "max_iter": 6}).fit(X, y)
    parts = GRURegressor(**SMALL)
    for _ in range(6):
        parts.partial_fit(X, y)
    np.testing.assert_array_equal(parts.predict(X), whole.predict(X))
    warm = GRURegressor(**SMALL, warm_start=True).fit(X, y)
    first = warm.loss_curve_
    assert warm.fit(X, y).loss_curve_[-1] < first[-1]
    cold = GRURegressor(**SMALL).fit(X, y)
    assert cold.fit(X, y).loss_curve_ == first
    with pytest.raises(ValueError, match="hidden_size: expected 6 as in the network there is, got 7"):
        warm.set_params(hidden_size=7).fit(X, y)


def test_partial_fit_of_classes():
    X, y = problem(40)
    y = np.where(y > 0, 5, 3)
    classifier = GRUClassifier(**SMALL)
    with pytest.raises(ValueError, match="classes: expected all of them at the first call of partial_fit, got None"):
        classifier.partial_fit(X, y)
    classifier.partial_fit(X[y == 3], y[y == 3], classes=[5, 4, 3])
    assert classifier.classes_.tolist() == [3, 4, 5]
    classifier.partial_fit(X, y)
    assert classifier.predict_proba(X).shape == (40, 3)
    with pytest.raises(ValueError, match=re.escape("classes: expected [3 4 5] as at the first call, got [3 4]")):
        classifier.partial_fit(X, y, classes=[3, 4])
    with pytest.raises(ValueError, match=re.escape("y: expected the classes [3 4 5], as at the first fit, got [9]")):
        classifier.partial_fit(X, np.full(40, 9))


# --- The forecaster ---------------------------------------------------------------------------------------------------

WAVE = np.sin(np.arange(300) / 4) + np.arange(300) / 50


@pytest.fixture(scope="module")
def forecaster():
    return GRUForecaster(6, 12, difference=True, window=50, max_iter=80, random_state=0).fit(WAVE[:260])


def test_forecaster_learns(forecaster):
    np.testing.assert_allclose(forecaster.predict(), WAVE[260:266], atol=0.35)
    assert forecaster.score(WAVE) > 0.9
    forecasts = forecaster.backtest(WAVE)
    np.testing.assert_allclose(forecasts[259], forecaster.predict(), rtol=1e-6)
    true = np.stack([WAVE[t + 1 : t + 7] for t in range(294)])
    error = ((true - forecasts[:294]) ** 2).sum() / ((true - WAVE[:294, None]) ** 2).sum()
    assert forecaster.score(WAVE) == pytest.approx(1 - error)


def test_forecaster_has_seen_nothing_later(forecaster):
    changed = WAVE.copy()
    changed[200:] += 5
    before, after = forecaster.backtest(WAVE), forecaster.backtest(changed)
    np.testing.assert_array_equal(before[:200], after[:200])
    assert np.abs(before[200:] - after[200:]).min() > 0.01
    # Held out is held out: other values there, other errors, but not one weight.
    options = {
        "horizon": 4,
        "hidden_size": 4,
        "max_iter": 3,
        "n_iter_no_change": 99,
        "random_state": 0,
        "learning_rate": 1e-3,
    }
    one = GRUForecaster(**options).fit(WAVE)
    other = GRUForecaster(**options).fit(np.where(np.arange(300) < 240, WAVE, WAVE + 0.1))
    for name in ("input_mean_", "target_scale_", "loss_curve_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_forecaster_of_several_series():
    series = np.stack([WAVE, 100 * np.cos(np.arange(300) / 4)], 1)
    both = GRUForecaster(6, 16, window=50, max_iter=60, random_state=0).fit(series[:260])
    assert both.predict().shape == (6, 2)
    assert both.backtest(series).shape == (300, 6, 2)
    assert np.abs(both.predict(3)[:, 1] - series[260:263, 1]).max() < 40
    lower, upper = both.predict_interval(2)
    assert lower.shape == upper.shape == (2, 2)
    assert (lower <= upper).all()
    assert GRUForecaster(2, **SMALL).fit(WAVE[:, None]).predict().shape == (2, 1)


def test_intervals_are_quantiles_of_errors(forecaster):
    held = 26  # half of the fifth of 260 held out; the other half stops training
    forecasts = forecaster.backtest(WAVE[:260])
    errors = np.array([[WAVE[t] - forecasts[t - k, k - 1] for k in range(1, 7)] for t in range(260 - held, 260)])
    np.testing.assert_allclose(forecaster.residuals_, errors, atol=1e-6)
    sizes = np.sort(np.abs(errors), axis=0)
    for coverage, rank in [(0.6, 17), (0.8, 22), (0.96, 26)]:  # ceil(27 * coverage)
        lower, upper = forecaster.predict_interval(coverage=coverage)
        np.testing.assert_allclose(lower, forecaster.predict() - sizes[rank - 1], atol=1e-6)
        np.testing.assert_allclose(upper, forecaster.predict() + sizes[rank - 1], atol=1e-6)
    assert forecaster.predict_interval(4, coverage=0.95)[0].shape == (4,)
    lower, upper = forecaster.predict_interval(coverage=0.97)  # ceil(27 * 0.97) > 26
    assert (lower == -np.inf).all()
    assert (upper == np.inf).all()


def test_forecaster_streams(forecaster):
    stream = forecaster.stream()
    whole = forecaster.backtest(WAVE)
    np.testing.assert_array_equal(stream.predict(), forecaster.predict())
    for t in range(260, 280):
        np.testing.assert_array_equal(stream.step(WAVE[t]), whole[t])
    for ours, theirs in zip(
        stream.predict_interval(3), forecaster.predict_interval(3, history=WAVE[:280]), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    stream.reset()
    np.testing.assert_array_equal(stream.predict(2), forecaster.predict(2))
    fresh = forecaster.stream(history=[])
    with pytest.raises(RuntimeError, match="stream: expected a value before a forecast"):
        fresh.predict()
    np.testing.assert_array_equal(fresh.process(WAVE[:9]), whole[:9])
    np.testing.assert_array_equal(forecaster.stream(history=WAVE[:9]).predict(), whole[8])


# --- Streams, files, scikit-learn's tools -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_streams_say_what_predict_says(dtype):
    X, y = problem(40)
    classifier = GRUClassifier(**SMALL, dtype=dtype, num_layers=2).fit(X, np.where(y > 0, "up", "down"))
    regressor = GRURegressor(**SMALL, dtype=dtype).fit(X, np.stack([y, y], 1))
    labels, numbers = classifier.stream(), regressor.stream()
    for t, row in enumerate(X[0]):
        assert labels.step(row) == classifier.predict(X[:1, : t + 1])[0]
        np.testing.assert_allclose(labels.predict_proba(), classifier.predict_proba(X[:1, : t + 1])[0], rtol=1e-12)
        np.testing.assert_allclose(numbers.step(row), regressor.predict(X[:1, : t + 1])[0], rtol=1e-12)
    labels.reset()
    assert labels.process(X[1])[-1] == classifier.predict(X[1:2])[0]
    for wrong, message in [
        ([1.0], "x: expected (2,) numbers, got (1,)"),
        ([1, np.nan], "x: expected finite numbers, got nan"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            labels.step(wrong)
    with pytest.raises(ValueError, match="expected a GRU that reads forwards"):
        GRURegressor(**SMALL, bidirectional=True).fit(X, y).stream()


def fitted():
    X, y = problem(30)
    table = pd.DataFrame(X[:, :, 0], columns=[f"t{t}" for t in range(12)])
    labels = np.where(y > 0, "up", "down")
    yield GRUClassifier(**SMALL, class_weight={"up": 2, "down": 1}).fit(X, labels), X
    yield GRUClassifier(**SMALL, bidirectional=True, num_layers=2).fit(X, labels.astype(object)), X
    yield GRUClassifier(**SMALL, dtype=np.float64).fit(table, y > 0), table
    yield GRURegressor(**SMALL, learning_rate=np.float64(0.01)).fit(list(X), y), X
    yield GRURegressor(**SMALL).fit(X, np.stack([y, y], 1)), X
    yield GRUForecaster(3, **SMALL).fit(WAVE), WAVE
    yield (
        GRUForecaster(3, **SMALL, difference=True, dtype="float64").fit(np.stack([WAVE, WAVE], 1)),
        np.stack([WAVE, WAVE], 1),
    )


def answers(estimator, X):
    if isinstance(estimator, GRUForecaster):
        return [estimator.backtest(X), estimator.predict(), *estimator.predict_interval()]
    extra = [estimator.predict_proba(X), estimator.classes_] if isinstance(estimator, GRUClassifier) else []
    return [estimator.predict(X), *extra]


def test_saved_pickled_and_cloned(tmp_path):
    for estimator, X in fitted():
        path = tmp_path / "model.safetensors"
        estimator.save(path)
        loaded = type(estimator).load(path)
        for twin in (loaded, pickle.loads(pickle.dumps(estimator))):
            for ours, theirs in zip(answers(estimator, X), answers(twin, X), strict=True):
                np.testing.assert_array_equal(ours, theirs)
                assert ours.dtype == theirs.dtype
        for name, value in estimator.get_params().items():
            assert loaded.get_params()[name] == value or np.dtype(loaded.dtype) == np.dtype(value)
        x = np.ones((5, 2, estimator.gru_.input_size), estimator.gru_.dtype)
        np.testing.assert_array_equal(cgru.load(path)(x)[0], estimator.gru_(x)[0])
        with pytest.raises(NotFittedError):
            clone(loaded).save(path)
        if not isinstance(estimator, GRUForecaster):
            assert (loaded.n_features_in_, loaded.n_iter_) == (estimator.n_features_in_, 4)
            assert getattr(loaded, "feature_names_in_", None) is None or list(loaded.feature_names_in_) == list(
                X.columns
            )
        else:
            np.testing.assert_array_equal(loaded.stream().step(X[0]), estimator.stream().step(X[0]))


def test_loaded_ones_train_on(tmp_path):
    X, y = problem(30)
    one = GRURegressor(**SMALL, warm_start=True).fit(X, y)
    one.save(tmp_path / "one.safetensors")
    loaded = GRURegressor.load(tmp_path / "one.safetensors")
    np.testing.assert_array_equal(loaded.fit(X, y).predict(X), one.fit(X, y).predict(X))
    loaded = GRURegressor.load(tmp_path / "one.safetensors").partial_fit(X, y)
    assert loaded.n_iter_ == 1


def test_damaged_files(tmp_path):
    import safetensors.numpy

    X, y = problem(30)
    path = tmp_path / "model.safetensors"
    GRUClassifier(**SMALL).fit(X, y > 0).save(path)
    tensors = safetensors.numpy.load_file(path)
    with safetensors.safe_open(path, framework="numpy") as file:
        text = file.metadata()["cgru.sklearn"]

    def refused(message, change=None, tensor=None, cls=GRUClassifier):
        description = json.loads(text)
        if change is not None:
            change(description)
        new = {**tensors, **(tensor or {})}
        new = {name: array for name, array in new.items() if array is not None}
        safetensors.numpy.save_file(new, path, metadata={"cgru.sklearn": json.dumps(description)})
        with pytest.raises(cgru.FormatError, match=re.escape(message)) as caught:
            cls.load(path)
        assert str(path) in str(caught.value)

    refused("class: expected GRURegressor, got 'GRUClassifier'", cls=GRURegressor)
    refused("hidden_size: expected an integer", lambda d: d["parameters"].update(hidden_size=-1))
    refused("got (18, 2)", lambda d: d["parameters"].update(hidden_size=10**9 // 2))
    refused("parameters: expected", lambda d: d["parameters"].pop("tol"))
    refused("parameters", lambda d: d.pop("parameters"))
    refused("n_iter_: expected int, got '4'", lambda d: d["fitted"].update(n_iter_="4"))
    refused("fitted: expected", lambda d: d["fitted"].pop("n_iter_"))
    refused("classes: expected 2", lambda d: d["classes"].update(values=[True]))
    refused("classes: expected them in order", lambda d: d["classes"].update(values=[True, True]))
    refused("classes: expected 2 of text", lambda d: d["classes"].update(kind="V8"))
    refused("head.weight: expected (2, 6) float64, got (2, 5)", tensor={"head.weight": np.zeros((2, 5))})
    refused("input_mean_: expected finite numbers, got nan", tensor={"input_mean_": np.array([0, np.nan])})
    refused("tensors: expected", tensor={"input_mean_": None})
    refused("unknown weight", tensor={"gru.weight": np.zeros(3)})
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(cgru.FormatError, match=r"expected a whole \.safetensors file"):
        GRUClassifier.load(path)
    cgru.GRU(2, 3).save(path)
    with pytest.raises(cgru.FormatError, match=r"metadata: expected 'cgru\.sklearn'"):
        GRUClassifier.load(path)
    with pytest.raises(FileNotFoundError):
        GRUClassifier.load(tmp_path / "none.safetensors")
    odd = GRUClassifier(**SMALL).fit(X, y > 0)
    odd.classes_ = np.array([b"a", b"b"])
    with pytest.raises(TypeError, match="classes_: expected text, numbers or truth values in a file"):
        odd.save(path)


def test_pipeline_and_grid_search():
    X, y = problem(60, features=1)
    pipeline = make_pipeline(StandardScaler(), GRURegressor(**SMALL))
    search = GridSearchCV(pipeline, {"gruregressor__hidden_size": [4, 8]}, cv=3, n_jobs=2).fit(X[:, :, 0], y)
    assert search.best_params_["gruregressor__hidden_size"] in (4, 8)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    doubled = make_pipeline(
        FunctionTransformer(lambda X: [2 * x for x in X]), GRUClassifier(8, max_iter=15, random_state=0)
    )
    ragged, y = problem(90, ragged=True)
    assert cross_val_score(doubled, ragged, y > 0, cv=3).mean() > 0.7


def test_cross_validation_of_a_forecaster():
    series = pd.Series(WAVE, index=pd.date_range("2000-01-01", periods=300))
    options = {"hidden_size": 8, "difference": True, "max_iter": 30, "random_state": 0}
    scores = cross_val_score(GRUForecaster(4, **options), series, cv=TimeSeriesSplit(3, max_train_size=150))
    assert scores.shape == (3,)
    assert (scores > 0.3).all()


def test_damage_anywhere_is_refused_or_harmless(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "model.safetensors"
    X, y = problem(30)
    for estimator in (GRUClassifier(**SMALL).fit(X, y > 0), GRUForecaster(3, **SMALL).fit(WAVE)):
        estimator.save(path)
        data = path.read_bytes()
        header = 8 + int.from_bytes(data[:8], "little")
        refused = 0
        for _ in range(300):
            damaged = bytearray(data)
            damaged[rng.integers(header)] = rng.choice(list(b'0123456789{}[]":,tfn-'))
            path.write_bytes(bytes(damaged))
            try:
                type(estimator).load(path)
            except cgru.FormatError:
                refused += 1
        assert refused > 200


def test_threads_of_workers(monkeypatch):
    estimators = [GRURegressor(), GRURegressor(num_threads=2)]
    with joblib.parallel_backend("threading", n_jobs=2):
        threads = joblib.Parallel()(joblib.delayed(estimator._threads)() for estimator in estimators)
    assert threads == [1, 2]
    assert [estimator._threads() for estimator in estimators] == [None, 2]
    seen = set()
    record = cgru.GRU.record

    def spy(self, *arguments, **options):
        seen.add(options["num_threads"])
        return record(self, *arguments, **options)

    monkeypatch.setattr(cgru.GRU, "record", spy)
    GRURegressor(**SMALL, num_threads=2).fit(*problem(10))
    assert seen == {2}


# --- What goes wrong --------------------------------------------------------------------------------------------------

BAD_PARAMETERS = [
    ({"hidden_size": 0}, ValueError, "hidden_size: expected an integer from 1"),
    ({"num_layers": 1.5}, TypeError, "num_layers: expected an integer from 1"),
    ({"dropout": 1.0}, ValueError, "dropout: expected a number from 0 to below 1, got 1.0"),
    ({"max_iter": 0}, ValueError, "max_iter: expected an integer from 1"),
    ({"batch_size": "auto"}, TypeError, "batch_size: expected an integer from 1"),
    ({"learning_rate": 0}, ValueError, "learning_rate: expected a number above 0, got 0"),
    ({"learning_rate": "adaptive"}, TypeError, "learning_rate: expected a number above 0, got 'adaptive'"),
    ({"learning_rate": float("nan")}, ValueError, "learning_rate: expected a number above 0, got nan"),
    ({"schedule": "exponential"}, ValueError, "schedule: expected 'constant' or 'linear' or 'cosine', got 'exponential'"),
    ({"clip_norm": -1}, ValueError, "clip_norm: expected a number above 0, got -1"),
    ({"weight_decay": -0.1}, ValueError, "weight_decay: expected a number from 0, got -0.1"),
    ({"early_stopping": "yes"}, TypeError, "early_stopping: expected True or False, got 'yes'"),
    ({"validation_fraction": 1}, ValueError, "validation_fraction: expected a number above 0 and below 1, got 1"),
    ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64, got 'float16'"),
    ({"num_threads": 0}, ValueError, "num_threads: expected an integer from 1 to 1024, got 0"),
    ({"verbose": -1}, ValueError, "verbose: expected an integer from 0"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "error", "message"), BAD_PARAMETERS)
@pytest.mark.parametrize("cls", [GRUClassifier, GRURegressor, GRUForecaster])
def test_parameters(cls, change, error, message):
    X, y = problem(10)
    with pytest.raises(error, match=re.escape(message)):
        cls(**change).fit(*((WAVE,) if cls is GRUForecaster else (X, y > 0)))


def nan_in(X):
    X = [x.copy() for x in X]
    X[3][5, 1] = np.nan
    return X


BAD_DATA = {
    "too few labels": (lambda X, y: (X, y[:-1]), "inconsistent numbers of samples: [10, 9]"),
    "no labels": (lambda X, y: (X, None), "requires y to be passed, but the target y is None"),
    "nan in a list": (lambda X, y: (nan_in(X), y), "X[3]: expected an array (t, I) of numbers, got nan at step 5, feature 1"),
    "nan in an array": (lambda X, y: (np.array(nan_in(X)), y), "Input X contains NaN"),
    "nan in a table": (lambda X, y: (np.full((10, 3), np.nan), y), "Input X contains NaN"),
    "empty sequence": (lambda X, y: ([*X[:9], X[9][:0]], y), "X[9]: expected an array (t, I) of numbers with at least one step and one feature, got (0, 2)"),
    "empty sequences": (lambda X, y: (X[:, :0], y), "X: expected (N, T, I) with at least one step and one feature, got (10, 0, 2)"),
    "no sequences": (lambda X, y: (X[:0], y[:0]), "0 sample(s)"),
    "an empty list": (lambda X, y: ([], []), "X: expected at least one sequence, got none"),
    "other features": (lambda X, y: ([*X[:9], X[9][:, :1]], y), "X[9]: expected an array (t, I) of numbers with 2 features as X[0], got 1"),
    "one axis in a list": (lambda X, y: ([*X[:9], X[9][:, 0]], y), "X[9]: expected an array (t, I) of numbers, got (12,); one feature is (t, 1)"),
    "words": (lambda X, y: ([*X[:9], [["a", "b"]]], y), "X[9]: expected an array (t, I) of numbers: could not convert"),
    "four axes": (lambda X, y: (X[..., None], y), "4"),
    "complex": (lambda X, y: (X + 1j, y), "Complex data not supported"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_DATA)
@pytest.mark.parametrize("cls", [GRUClassifier, GRURegressor])
def test_data(cls, case):
    change, message = BAD_DATA[case]
    X, y = problem(10)
    with pytest.raises(ValueError, match=re.escape(message)):
        cls(**SMALL).fit(*change(X, (y > 0).astype(int)))


def test_targets_and_weights():
    X, y = problem(10)
    for estimator, target, message in [
        (GRURegressor(**SMALL), np.where(np.arange(10) == 4, np.nan, y), "Input y contains NaN"),
        (GRUClassifier(**SMALL), np.where(np.arange(10) == 4, np.nan, y > 0), "Input y contains NaN"),
        (GRUClassifier(**SMALL), y, "Unknown label type: continuous"),
        (GRURegressor(**SMALL), np.zeros((10, 2, 2)), "dim 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            estimator.fit(X, target)
    for weight, message in [
        (np.full(10, np.nan), "Input sample_weight contains NaN"),
        (np.full(9, 1.0), r"sample_weight.shape == \(9,\), expected \(10,\)"),
        (-np.ones(10), "sample_weight: expected numbers from 0, got -1"),
        (np.zeros(10), "(?i)sample.?weight"),
    ]:
        with pytest.raises(ValueError, match=message):
            GRURegressor(**SMALL).fit(X, y, sample_weight=weight)
    with pytest.raises(ValueError, match=r"validation_fraction: cannot hold out 0\.1 of 2 sequences"):
        GRUClassifier(**SMALL, early_stopping=True).fit(X[:2], [0, 1])
    two = GRURegressor(**SMALL).fit(X, np.stack([y, y], 1))
    with pytest.raises(ValueError, match=re.escape("y: expected (N, 2) as at the first fit, got (10,)")):
        two.partial_fit(X, y)


def test_predict_wants_what_fit_got():
    X, y = problem(10)
    with pytest.raises(NotFittedError):
        GRURegressor().predict(X)
    with pytest.raises(NotFittedError):
        GRUForecaster().predict()
    with pytest.raises(NotFittedError):
        GRUClassifier().stream()
    regressor = GRURegressor(**SMALL).fit(X, y)
    with pytest.raises(ValueError, match="X has 3 features, but GRURegressor is expecting 2 features as input"):
        regressor.predict(np.zeros((4, 5, 3)))
    with pytest.raises(ValueError, match=re.escape("X: expected (N, T, I) or a list of (t, I) as in fit, got (N, F)")):
        regressor.predict(X[:, :, 0])
    with pytest.raises(ValueError, match=re.escape("X: expected (N, F) as in fit, got (N, T, I) or a list of (t, I)")):
        GRURegressor(**SMALL).fit(X[:, :, 0], y).predict(X)


def test_a_refused_fit_changes_nothing():
    X, y = problem(20)
    for estimator, target, wrong in [
        (GRUClassifier(**SMALL), y > 0, np.arange(20)),
        (GRURegressor(**SMALL), y, np.stack([y, y], 1)),
    ]:
        expected = estimator.fit(X, target).predict(X)
        for bad in [(X[:, :, :1], wrong[:-1]), (X[:, :, 0], wrong, -np.ones(20)), (nan_in(X), wrong)]:
            with pytest.raises(ValueError):
                estimator.fit(*bad)
            np.testing.assert_array_equal(estimator.predict(X), expected)
        for parameters in ({"dropout": 2}, {"early_stopping": True, "validation_fraction": 0.99}):
            with pytest.raises(ValueError):
                estimator.set_params(**parameters).fit(X[:2, :, :1], wrong[:2])
            np.testing.assert_array_equal(estimator.predict(X), expected)
            estimator.set_params(dropout=0.0)
    forecaster = GRUForecaster(3, **SMALL).fit(WAVE)
    expected = forecaster.backtest(WAVE)
    with pytest.raises(ValueError):
        forecaster.fit(np.ones((4, 2)))
    np.testing.assert_array_equal(forecaster.backtest(WAVE), expected)


def test_series():
    for series, message in [
        (WAVE[:4], "series: expected 6 values or more for a horizon of 3 (1 held out), got 4"),
        (np.where(np.arange(300) == 7, np.nan, WAVE), "Input series contains NaN"),
        (np.zeros((5, 2, 2)), "3"),
        ([], "0"),
    ]:
        options = {"early_stopping": True, "validation_fraction": 0.2}
        if len(series) == 4:
            message = "validation_fraction: expected to hold out 3 values, the horizon, or more, got 1 of 4"
        with pytest.raises(ValueError, match=re.escape(message)):
            GRUForecaster(3, **SMALL, **options).fit(series)
    with pytest.raises(
        ValueError, match=re.escape("series: expected 5 values or more for a horizon of 3 (0 held out), got 4")
    ):
        GRUForecaster(3, **SMALL, early_stopping=False).fit(WAVE[:4])
    short = GRUForecaster(3, **SMALL, early_stopping=False).fit(WAVE[:5])
    assert short.predict_interval()[0].shape == (3,)
    for call, message in [
        (lambda: short.predict(4), "horizon: expected an integer from 1 to 3, got 4"),
        (lambda: short.predict_interval(coverage=1), "coverage: expected a number above 0 and below 1, got 1"),
        (lambda: short.predict(history=np.zeros((9, 2))), "history has 2 features, but GRUForecaster is expecting 1"),
        (lambda: short.score(WAVE[:3]), "series: expected more values than the horizon, 3, got 3"),
        (lambda: GRUForecaster(0).fit(WAVE), "horizon: expected an integer from 1"),
        (lambda: GRUForecaster(window=1).fit(WAVE), "window: expected an integer from 2"),
    ]:
        with pytest.raises(ValueError, match=re.escape(message)):
            call()


def broken_at(monkeypatch, count, what):
    """Let the computation of the loss go wrong at its count-th call."""
    loss, calls = network.Network.loss, []

    def breaking(self, *arguments):
        calls.append(1)
        if len(calls) == count:
            if what is KeyboardInterrupt:
                raise KeyboardInterrupt
            value, grads = loss(self, *arguments)
            grads["weight_hh_l0"][0, 0] = what
            return value, grads
        return loss(self, *arguments)

    monkeypatch.setattr(network.Network, "loss", breaking)


def test_a_loss_that_is_no_number_any_more(monkeypatch):
    X, y = problem(40)
    expected = GRURegressor(**{**SMALL, "max_iter": 2}).fit(X, y).predict(X)
    regressor = GRURegressor(**SMALL)
    broken_at(monkeypatch, 6, np.nan)  # two batches an epoch
    message = r"in step 6, epoch 3; the gradient by weight_hh_l0 is not finite; the largest gradient in the step before: \d\S*, of \S+\. The estimator keeps the weights of epoch 2"
    with pytest.raises(FloatingPointError, match=message):
        regressor.fit(X, y)
    np.testing.assert_array_equal(regressor.predict(X), expected)
    broken_at(monkeypatch, 1, np.inf)
    fresh = GRURegressor(**SMALL)
    with pytest.raises(FloatingPointError, match=r"in step 1, epoch 1.*keeps nothing of this training"):
        fresh.fit(X, y)
    with pytest.raises(NotFittedError):
        fresh.predict(X)
    forecaster = GRUForecaster(3, **SMALL)
    broken_at(monkeypatch, 4, np.nan)
    with pytest.raises(FloatingPointError):
        forecaster.fit(WAVE)
    assert forecaster.predict().shape == (3,)


def test_diverges_in_earnest():
    X, y = problem(40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # NumPy's, of overflow
        with pytest.raises(FloatingPointError, match="loss: "):
            GRURegressor(8, learning_rate=1e200, random_state=0, clip_norm=None).fit(X, y)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_interrupted(monkeypatch, early_stopping):
    X, y = problem(40)
    options = {**SMALL, "early_stopping": early_stopping, "max_iter": 9, "learning_rate": 0.003}
    whole = GRURegressor(**{**options, "max_iter": 3}).fit(X, y)
    regressor = GRURegressor(**options)
    broken_at(monkeypatch, 7, KeyboardInterrupt)  # at the start of the fourth epoch
    which = "best epoch, 3" if early_stopping else "last step before it"
    with pytest.warns(
        UserWarning,
        match=f"GRURegressor: training was interrupted in epoch 4; the estimator keeps the weights of the {which}",
    ):
        regressor.fit(X, y)
    np.testing.assert_array_equal(regressor.predict(X), whole.predict(X))
    assert regressor.n_iter_ == 3


def test_progress(capsys, monkeypatch):
    X, y = problem(20)
    GRURegressor(**SMALL).fit(X, y)
    assert capsys.readouterr().err == ""
    GRURegressor(**SMALL, verbose=1, early_stopping=True).fit(X, y)
    assert re.search(r"GRURegressor: 100%.*4/4.*loss \S+, held out \d", capsys.readouterr().err)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r'pip install "cgru\[sklearn\]"'):
        GRURegressor(**SMALL, verbose=True).fit(X, y)


def test_without_scikit_learn():
    code = (
        "import sys, cgru\nassert 'sklearn' not in sys.modules and 'joblib' not in sys.modules\n"
        "sys.modules['sklearn'] = None\ntry: cgru.sklearn\nexcept ImportError as e: print(e)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'cgru.sklearn needs scikit-learn: pip install "cgru[sklearn]"' in run.stdout, run.stderr

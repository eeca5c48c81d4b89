"""cgru.sklearn: names of columns, forms of sequences, and numbers of any size, in inputs and in targets."""

import re
import warnings

import numpy as np
import pytest
from sklearn.metrics import r2_score

from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor, scaling

OPTIONS = {"hidden_size": 4, "max_iter": 3, "random_state": 0}
LABELS = np.array(["a", "b"] * 10)
RNG = np.random.default_rng(0)
RAGGED = [RNG.standard_normal((steps, 2)) for steps in range(3, 23)]
FLAT = [x[:, 0] for x in RAGGED]
X = RNG.standard_normal((20, 6, 2))
Y = X[:, :, 0].sum(1)
SERIES = np.cumsum(RNG.standard_normal(80))


def classifier():
    return GRUClassifier(**OPTIONS)


@pytest.fixture
def frames():
    pandas = pytest.importorskip("pandas", reason="frames are pandas'")
    return [pandas.DataFrame(x, columns=["a", "b"]) for x in RAGGED]


# --- Names ------------------------------------------------------------------------------------------------------------


def test_names_of_frames_in_a_list(frames, tmp_path):
    fitted = classifier().fit(frames, LABELS)
    assert fitted.feature_names_in_.tolist() == ["a", "b"]
    expected = classifier().fit(RAGGED, LABELS).predict_proba(RAGGED)
    np.testing.assert_array_equal(fitted.predict_proba(frames), expected)
    fitted.save(tmp_path / "named.safetensors")
    for estimator in (fitted, GRUClassifier.load(tmp_path / "named.safetensors")):
        for columns in (["b", "a"], ["a", "c"]):
            changed = [frame.set_axis(["a", "b"], axis=1).rename(columns={"b": "c"}) for frame in frames]
            wrong = [frame[columns] for frame in (changed if "c" in columns else frames)]
            for call in (estimator.predict, lambda given: fitted.partial_fit(given, LABELS)):
                with pytest.raises(
                    ValueError, match="The feature names should match those that were passed during fit"
                ):
                    call(wrong)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        np.testing.assert_array_equal(fitted.predict_proba(RAGGED), expected)
    with pytest.warns(UserWarning, match="but GRUClassifier was fitted without feature names"):
        classifier().fit(RAGGED, LABELS).predict(frames)
    assert not hasattr(fitted.fit(RAGGED, LABELS), "feature_names_in_")


def test_frames_of_a_list_agree(frames):
    for other in (frames[3][["b", "a"]], RAGGED[3]):
        with pytest.raises(ValueError, match=re.escape("X[3]: expected columns ['a', 'b'] as X[0], got ")):
            classifier().fit([*frames[:3], other, *frames[4:]], LABELS)


def test_names_of_a_table_and_of_a_series(frames):
    import pandas

    table = pandas.DataFrame(X[:, :, 0], columns=list("abcdef"))
    fitted = GRURegressor(**OPTIONS).fit(table, Y)
    with pytest.raises(ValueError, match="The feature names should match"):
        fitted.predict(table[list("fedcba")])
    series = pandas.DataFrame({"one": SERIES, "two": SERIES**2})
    forecaster = GRUForecaster(2, **OPTIONS).fit(series)
    assert forecaster.predict(history=series).shape == (2, 2)
    for call in (forecaster.backtest, forecaster.score, forecaster.partial_fit, forecaster.calibrate):
        with pytest.raises(ValueError, match="Feature names must be in the same order as they were in fit"):
            call(series[["two", "one"]])


# --- Forms ------------------------------------------------------------------------------------------------------------


def test_sequences_of_one_axis_have_one_feature():
    columns = [x[:, None] for x in FLAT]
    expected = classifier().fit(columns, LABELS).predict_proba(columns)
    objects = np.empty(20, object)
    objects[:] = FLAT
    for form in (FLAT, tuple(FLAT), objects, [x.tolist() for x in FLAT]):
        fitted = classifier().fit(form, LABELS)
        assert fitted.n_features_in_ == 1
        for given in (FLAT, columns, objects):
            np.testing.assert_array_equal(fitted.predict_proba(given), expected)
    equal = [x[:3] for x in FLAT]  # of one length: what they are, fit has said
    np.testing.assert_array_equal(fitted.predict_proba(equal), fitted.predict_proba([x[:3] for x in columns]))
    np.testing.assert_array_equal(fitted.predict_proba(FLAT[:1])[0], expected[0])
    rows = classifier().fit(equal, LABELS)
    assert rows.n_features_in_ == 3
    with pytest.raises(ValueError, match=r"X: expected \(N, F\) as in fit.*a table has rows of one length"):
        rows.predict(FLAT)
    with pytest.raises(ValueError, match="X has 1 features, but GRUClassifier is expecting 2"):
        classifier().fit(RAGGED, LABELS).predict(FLAT)


def test_columns_of_sequences(frames):
    import pandas

    expected = classifier().fit(RAGGED, LABELS).predict_proba(RAGGED)
    column = pandas.Series(RAGGED, index=range(100, 120))
    np.testing.assert_array_equal(classifier().fit(column, pandas.Series(LABELS)).predict_proba(column), expected)
    np.testing.assert_array_equal(
        classifier().fit(pandas.Series(FLAT), LABELS).predict_proba(FLAT),
        classifier().fit(FLAT, LABELS).predict_proba(FLAT),
    )
    with pytest.raises(
        ValueError, match="expected numbers in a table, got ndarray; of sequences give their column alone"
    ):
        classifier().fit(column.to_frame(), LABELS)


def test_refused_forms_say_the_mend():
    fitted = classifier().fit(RAGGED, LABELS)
    for empty in ([], (), np.empty(0, object)):
        with pytest.raises(ValueError, match="X: expected at least one sequence, got none"):
            classifier().fit(empty, [])
        with pytest.raises(ValueError, match="X: expected at least one sequence, got none"):
            fitted.predict(empty)
    with pytest.raises(ValueError, match=re.escape("as in fit, got (N, F); one sequence x alone is [x]")):
        fitted.predict(RAGGED[0])
    with pytest.raises(TypeError, match=re.escape("got a generator; make a list of it: list(X)")):
        classifier().fit((x for x in RAGGED), LABELS)
    with pytest.raises(
        ValueError, match=re.escape("X[1]: expected an array (t, I) of numbers, got (4,); one feature is (t, 1)")
    ):
        classifier().fit([RAGGED[0], FLAT[1], *RAGGED[2:]], LABELS)


# --- Sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1e299, 1e39, 1e-30, 1e-200])
def test_targets_of_any_size(size, dtype):
    options = {**OPTIONS, "dtype": dtype, "early_stopping": True}
    one, scaled = (GRURegressor(**options).fit(X, y) for y in (Y, Y * size))
    np.testing.assert_allclose(scaled.predict(X) / size, one.predict(X), rtol=1e-4)
    assert scaled.score(X, Y * size) == pytest.approx(r2_score(Y, one.predict(X)), rel=1e-4)
    plain, huge = (GRUForecaster(2, **OPTIONS, dtype=dtype).fit(series) for series in (SERIES, SERIES * size))
    np.testing.assert_allclose(huge.backtest(SERIES * size) / size, plain.backtest(SERIES), rtol=1e-3)
    assert huge.score(SERIES * size) == pytest.approx(plain.score(SERIES), rel=1e-3)
    for ours, theirs in zip(huge.predict_interval(), plain.predict_interval(), strict=True):
        np.testing.assert_allclose(ours / size, theirs, rtol=1e-3)


@pytest.mark.parametrize("size", [1e300, 1e39, 1e-200])
@pytest.mark.parametrize("ragged", [False, True])
def test_inputs_of_any_size(size, ragged):
    given = RAGGED if ragged else X
    larger = [x * size for x in given]
    one, scaled = (classifier().fit(x if ragged else np.array(x), LABELS) for x in (given, larger))
    np.testing.assert_allclose(scaled.predict_proba(larger), one.predict_proba(list(given)), rtol=1e-4)


def test_weights_of_any_size():
    one = GRURegressor(**OPTIONS).fit(X, Y, sample_weight=np.arange(20))
    huge = GRURegressor(**OPTIONS).fit(X, Y, sample_weight=np.arange(20) * 2.0**1018)
    np.testing.assert_array_equal(huge.predict(X), one.predict(X))


@pytest.mark.parametrize("constant", [0.0, 5.0, -1e300, 1e-300, 5e-324])
def test_constant_targets(constant):
    fitted = GRURegressor(**OPTIONS).fit(X, np.full(20, constant))
    np.testing.assert_allclose(fitted.predict(X), constant, rtol=0.2, atol=0.5)
    forecaster = GRUForecaster(2, **OPTIONS).fit(np.full(60, constant))
    np.testing.assert_allclose(forecaster.predict(), constant, rtol=0.2, atol=0.5)
    assert forecaster.score(np.full(60, constant)) in (0, 1)


def test_standardization_changes_no_other_number():
    y, weight = 3 + RNG.standard_normal((50, 3)) * [1, 1e-5, 1e9], RNG.uniform(size=50)
    mean, scale = scaling.standardization(y, lambda v: np.average(v, 0, weight))
    np.testing.assert_array_equal(mean, np.average(y, 0, weight))
    np.testing.assert_array_equal(scale, np.sqrt(np.average((y - mean) ** 2, 0, weight)))


def test_numbers_too_large():
    regressor = GRURegressor(**OPTIONS).fit(X, Y)
    forecaster = GRUForecaster(2, **OPTIONS).fit(SERIES)
    plain = GRURegressor(**OPTIONS, standardize=False)
    wide = np.where(np.arange(20) == 7, -1.7e308, 1.7e308)
    for call, message in [
        (lambda: GRURegressor(**OPTIONS).fit(X, Y * 1e305), "y: expected numbers up to 1e.300 in size"),
        (
            lambda: GRURegressor(**OPTIONS).fit(wide[:, None, None] + 0 * X, Y),
            "X: expected numbers up to 1.8e.19 in size",
        ),
        (
            lambda: regressor.partial_fit(X, Y * 1e250),
            "y: expected numbers up to 1.8e.19 in size once scaled, as float32",
        ),
        (
            lambda: regressor.predict([*X[:3], X[3] * 1e200]),
            r"X\[3\]: expected numbers up to 1.8e.19 .*; scale X first",
        ),
        (lambda: regressor.predict(X * 1e300), "X: expected numbers up to"),
        (lambda: plain.fit(X * 1e39, Y), "X: expected numbers up to 1.8e.19 .*taken less 0 and divided by 1; scale X"),
        (lambda: GRUForecaster(2).fit(SERIES * 1e305), "series: expected numbers up to 1e.300 in size"),
        (lambda: forecaster.predict(history=SERIES * 1e100), "history: expected numbers up to 1.8e.19"),
        (lambda: forecaster.backtest(SERIES * 1e100), "series: expected numbers up to 1.8e.19"),
        (lambda: forecaster.partial_fit(SERIES * 1e100), "series: expected numbers up to 1.8e.19"),
    ]:
        with np.errstate(over="ignore"), pytest.raises(ValueError, match=message):
            call()


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (LABELS, "y: expected numbers, got text"),
        (LABELS.astype(object), "y: expected numbers, got text"),
        (np.arange(20).astype(str), "y: expected numbers, got text"),
        ([*Y[:19], None], "Input y contains NaN"),
        ([*Y[:19], {}], "y: expected numbers: float"),
        ([*Y[:19], [1.0, 2.0]], "y: expected numbers in one array"),
        (np.arange(20).astype("datetime64[s]"), "y: expected numbers, got datetime64"),
        (Y + 1j, "Complex data not supported"),
    ],
)
def test_targets_that_are_no_numbers(y, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        GRURegressor(**OPTIONS).fit(X, y)


def test_numbers_as_objects_and_classes_of_two_kinds():
    expected = GRURegressor(**OPTIONS).fit(X, Y).predict(X)
    np.testing.assert_array_equal(GRURegressor(**OPTIONS).fit(X, Y.astype(object)).predict(X), expected)
    for labels in ([1, "a"] * 10, [None, "a"] * 10):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # scikit-learn's, of labels that it does not know
            with pytest.raises((ValueError, TypeError), match=r"y: expected classes of one kind|label"):
                classifier().fit(X, np.array(labels, object))
    with pytest.raises(ValueError, match="Unknown label type: continuous"):
        classifier().fit(X, Y * 1e300)

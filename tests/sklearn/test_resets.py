"""Estimators of sequences that start anew within: as if only the last piece of each were given."""

import numpy as np
import pytest
from sklearn.base import clone

from cgru.sklearn import GRUClassifier, GRURegressor

RNG = np.random.default_rng(0)
LENGTHS = [5, 9, 7, 9, 6, 8]
LISTED = [RNG.standard_normal((t, 2)) for t in LENGTHS]
CUTS = [2, 4, 3, 8, 1, 5]
STARTS = [np.arange(t) == cut for t, cut in zip(LENGTHS, CUTS, strict=True)]
LAST = [x[cut:] for x, cut in zip(LISTED, CUTS, strict=True)]
ESTIMATORS = [
    (GRUClassifier(8, max_iter=5, standardize=False, random_state=0), np.array([0, 1, 2, 0, 1, 2])),
    (GRURegressor(8, 2, max_iter=5, dropout=0.0, standardize=False, random_state=0), np.arange(6.0)),
]
each = pytest.mark.parametrize(("estimator", "y"), ESTIMATORS, ids=["classifier", "regressor"])


@each
def test_only_the_last_piece_counts(estimator, y):
    pieces = clone(estimator).fit(LAST, y)
    whole = clone(estimator).fit(LISTED, y, resets=STARTS)
    np.testing.assert_allclose(whole.loss_curve_, pieces.loss_curve_, rtol=1e-4)
    np.testing.assert_allclose(whole.head_weight_, pieces.head_weight_, rtol=0, atol=1e-4)
    name = "predict_proba" if hasattr(estimator, "predict_proba") else "predict"
    got = getattr(pieces, name)(LISTED, resets=STARTS)
    np.testing.assert_allclose(got, getattr(pieces, name)(LAST), rtol=0, atol=1e-6)
    assert not np.allclose(got, getattr(pieces, name)(LISTED), rtol=0, atol=1e-6)
    assert pieces.score(LISTED, y, resets=STARTS) == pytest.approx(pieces.score(LAST, y), abs=1e-6)


@each
def test_arrays_and_batches(estimator, y):
    x, starts = RNG.standard_normal((6, 7, 2)), np.zeros((6, 7), bool)
    starts[:, 3] = True
    trained = [clone(estimator).set_params(batch_size=4) for _ in range(2)]
    trained[0].fit(x, y, resets=starts)
    trained[1].fit(list(x), y, resets=list(starts))
    np.testing.assert_array_equal(trained[0].predict(x, resets=starts), trained[1].predict(list(x), resets=starts))
    np.testing.assert_allclose(trained[0].loss_curve_, trained[1].loss_curve_, rtol=1e-6)
    more = [clone(estimator), clone(estimator)]
    for model, (given, where) in zip(more, [(x, starts), (x[:, 3:], None)], strict=True):
        classes = {"classes": [0, 1, 2]} if isinstance(model, GRUClassifier) else {}
        model.partial_fit(given, y, resets=where, **classes)
    np.testing.assert_allclose(more[0].loss_curve_, more[1].loss_curve_, rtol=1e-4)


@pytest.mark.parametrize(
    ("resets", "error", "message"),
    [
        (STARTS[:5], ValueError, r"resets: expected \(N, T\) or a list of \(t,\), for 6 sequences, got 5"),
        (True, ValueError, "resets: expected .* for 6 sequences, got True"),
        ([*STARTS[:5], STARTS[0]], ValueError, r"resets\[5\]: expected \(8,\) bool as X\[5\], got \(5,\)"),
        ([start.astype(int) for start in STARTS], TypeError, r"resets\[0\]: expected \(5,\) bool as X\[0\], got int64"),
    ],
    ids=["count", "no array", "length", "dtype"],
)
def test_bad_input(resets, error, message):
    estimator, y = ESTIMATORS[1]
    with pytest.raises(error, match=message):
        clone(estimator).fit(LISTED, y, resets=resets)

"""Pruning while estimators train."""

import numpy as np
import pytest
from sklearn.base import clone

from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor, Prune

X = np.random.default_rng(0).standard_normal((96, 12, 3))
SUMS = X[:, -4:, 0].sum(1)


def zeros(estimator):
    weights = {k: v for k, v in estimator.gru_.state_dict().items() if k.startswith("weight")}
    return {name: (array == 0).mean() for name, array in weights.items()}


@pytest.mark.parametrize(
    ("estimator", "data"),
    [
        (GRUClassifier(64, max_iter=6, random_state=0), (X, SUMS > 0)),
        (GRURegressor(64, 2, max_iter=6, random_state=0, early_stopping=True), (X, SUMS)),
        (GRUForecaster(2, 64, max_iter=6, random_state=0), (np.sin(np.arange(300) / 5),)),
    ],
    ids=["classifier", "regressor", "forecaster"],
)
def test_a_fifth_of_the_blocks_stays(estimator, data):
    pruned = clone(estimator).set_params(callback=Prune(0.2)).fit(*data)
    assert all(0.7 < share < 0.85 for share in zeros(pruned).values())
    assert pruned.gru_.value.block == (8, 4)
    assert ".prune(" in repr(pruned.gru_)
    assert max(zeros(estimator.fit(*data)).values()) == 0


def test_pruned_weights_are_gone_as_training_goes_on():
    """Adam's moments move a weight whose gradient is zero."""
    seen = []

    class Watch(Prune):
        def __call__(self, network, progress):
            before = network.gru.density
            super().__call__(network, progress)
            seen.append((progress, before, network.gru.density))

    model = GRURegressor(64, max_iter=5, batch_size=16, callback=Watch(0.25, start=0.2, end=0.6), random_state=0)
    model.fit(X, SUMS)
    early = [density for progress, _, density in seen if progress < 0.2]
    late = [density for progress, _, density in seen if progress >= 0.6]
    assert set(early) == {1.0}
    assert max(late) < 0.27
    densities = [density for _, _, density in seen]
    assert densities == sorted(densities, reverse=True)


def test_it_still_learns():
    dense, sparse = (
        GRURegressor(64, max_iter=60, callback=callback, random_state=0).fit(X, SUMS).score(X, SUMS)
        for callback in (None, Prune(0.3))
    )
    assert sparse > 0.9 * dense > 0.7


def test_files_hold_no_callback(tmp_path):
    model = GRURegressor(64, max_iter=2, callback=Prune(0.2), random_state=0).fit(X, SUMS)
    model.save(tmp_path / "m.safetensors")
    loaded = GRURegressor.load(tmp_path / "m.safetensors")
    assert loaded.callback is None
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_any_callable():
    progress = []
    model = GRURegressor(4, max_iter=2, batch_size=48, callback=lambda network, p: progress.append(p), random_state=0)
    model.fit(X, SUMS)
    assert progress == [0, 0.25, 0.5, 0.75, 1]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Prune(0), ValueError, "density: expected a number above 0"),
        (lambda: Prune(0.2, (8,)), ValueError, "block: expected units and inputs"),
        (
            lambda: Prune(0.2, start=0.5, end=0.5),
            ValueError,
            "start, end: expected 0 <= start < end <= 1, got 0.5 and 0.5",
        ),
        (lambda: Prune(0.2, end=2), ValueError, "start, end: expected 0 <= start < end <= 1, got 0.0 and 2"),
        (lambda: GRURegressor(callback=3).fit(X, SUMS), TypeError, "callback: expected a callable or None, got 3"),
    ],
)
def test_bad_input(make, error, message):
    with pytest.raises(error, match=message):
        make()

"""cgru.sklearn: a fit that fails or is interrupted at any moment leaves the earlier estimator, or the new one, whole."""

import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone

import cgru.sklearn
from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor
from cgru.sklearn.network import Network
from cgru.sklearn.training import Adam

FOLDER = str(Path(cgru.sklearn.__file__).parent)
RNG = np.random.default_rng(0)
OLD, NEW = RNG.standard_normal((12, 4, 2)), RNG.standard_normal((9, 5, 3))
OPTIONS = {"hidden_size": 3, "max_iter": 3, "batch_size": 6, "random_state": 0}
STOPPING = {**OPTIONS, "early_stopping": True, "validation_fraction": 0.3}
SERIES = RNG.standard_normal(40)
OLD_LABELS, NEW_LABELS = np.arange(12) % 2, np.array(["a", "b", "c"] * 3)


def interrupted(call, count, error):
    """Raise an error at the count-th instruction within cgru.sklearn; the number of those that ran, and what came out."""
    ran, before = 0, sys.gettrace()

    def within(frame, event, argument):
        nonlocal ran
        if event == "opcode":
            ran += 1
            if ran == count:
                raise error
        return within

    def trace(frame, event, argument):
        if not frame.f_code.co_filename.startswith(FOLDER):
            return None
        frame.f_trace_opcodes = True
        return within

    sys.settrace(trace)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the notice of an interrupted training
            call()
    except (KeyboardInterrupt, MemoryError) as caught:
        return ran, caught
    finally:
        sys.settrace(before)
    return ran, None


def state(value):
    """Everything of an estimator, by value."""
    if isinstance(value, np.ndarray):
        return value.dtype.str, value.shape, tuple(value.ravel().tolist())
    if isinstance(value, dict):
        return {name: state(item) for name, item in value.items()}
    if isinstance(value, cgru.GRU):
        return state(value.state_dict())
    if isinstance(value, np.random.Generator):
        return state(value.bit_generator.state)
    if isinstance(value, (Network, Adam, GRUClassifier, GRURegressor, GRUForecaster)):
        return state(vars(value))
    return repr(value)


CASES = {
    "fit of a classifier": (lambda: GRUClassifier(**OPTIONS).fit(OLD, OLD_LABELS), lambda e: e.fit(NEW, NEW_LABELS)),
    "fit of a regressor": (lambda: GRURegressor(**STOPPING).fit(OLD, OLD[:, 0]), lambda e: e.fit(NEW, NEW[:, 0, 0])),
    "fit of a forecaster": (
        lambda: GRUForecaster(2, **OPTIONS).fit(SERIES),
        lambda e: e.fit(np.stack([SERIES, SERIES**2], 1)),
    ),
    "first fit": (lambda: GRUClassifier(**STOPPING), lambda e: e.fit(OLD, OLD_LABELS)),
    "warm start": (
        lambda: GRUClassifier(**OPTIONS, warm_start=True).fit(OLD, OLD_LABELS),
        lambda e: e.fit(OLD[::-1], OLD_LABELS),
    ),
    "first partial_fit": (
        lambda: GRUClassifier(**OPTIONS),
        lambda e: e.partial_fit(OLD, OLD_LABELS, classes=[0, 1, 2]),
    ),
    "partial_fit of a classifier": (
        lambda: GRUClassifier(**OPTIONS).fit(OLD, OLD_LABELS),
        lambda e: e.partial_fit(OLD[::-1], OLD_LABELS),
    ),
    "partial_fit of a forecaster": (
        lambda: GRUForecaster(2, **OPTIONS).fit(SERIES),
        lambda e: e.partial_fit(SERIES[::-1]),
    ),
    "calibrate": (lambda: GRUForecaster(2, **OPTIONS).fit(SERIES), lambda e: e.calibrate(SERIES[::-1])),
}


def moments(total, between):
    """Instructions to stop at: the first and the last ones, and so many between."""
    return sorted({*range(1, 10), *np.linspace(10, total, between, dtype=int).tolist(), *range(total - 40, total + 1)})


@pytest.mark.parametrize("between", [20, pytest.param(120, marks=pytest.mark.full)])
@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
@pytest.mark.parametrize("case", CASES)
def test_interrupted_anywhere(case, error, between):
    make, refit = CASES[case]
    estimator = make()
    before = state(estimator)
    whole = make()
    total, _ = interrupted(lambda: refit(whole), 0, error)
    after = state(whole)
    assert after != before
    outcomes = {"before": 0, "after": 0, "between": 0}
    for count in moments(total, between):
        estimator = make()
        ran, caught = interrupted(lambda: refit(estimator), count, error())  # noqa: B023 - it is called at once
        assert ran >= count
        found = state(estimator)
        outcome = "before" if found == before else "after" if found == after else "between"
        outcomes[outcome] += 1
        if outcome == "between":  # Ctrl-C after the first epoch: the weights there are, of this training alone
            assert error is KeyboardInterrupt
            assert caught is None
            assert set(found) == set(after)
            assert 1 <= estimator.n_iter_ <= 3
            assert estimator.loss_curve_ == whole.loss_curve_[: estimator.n_iter_]
            assert estimator.validation_curve_ == whole.validation_curve_[: estimator.n_iter_]
            assert found["gru_"] == state(estimator._network.gru)
            assert found["_adam"] == state(Adam())  # those there were may be of half a step
            assert estimator.head_weight_ is estimator._network.head_weight
            trained = ("gru_", "_network", "head_weight_", "head_bias_", "state_", "residuals_")
            history = ("loss_curve_", "validation_curve_", "n_iter_", "best_iter_", "_adam", "_rng")
            for name in set(after) - {*trained, *history}:
                assert found[name] == after[name], name
    assert outcomes["before"] > 0
    assert outcomes["after"] > 0
    assert (outcomes["between"] > 0) == (error is KeyboardInterrupt and "partial" not in case and case != "calibrate")


def test_interrupted_while_arguments_are_read():
    class Interrupts:
        def __array__(self, *arguments, **options):
            raise KeyboardInterrupt

    for arguments in [
        (NEW, NEW_LABELS, Interrupts()),
        (NEW, Interrupts()),
        ([*NEW[:8], Interrupts()], NEW_LABELS),
    ]:
        estimator = GRUClassifier(**OPTIONS).fit(OLD, OLD_LABELS)
        before = estimator.predict_proba(OLD)
        for call in (estimator.fit, estimator.partial_fit):
            with pytest.raises((KeyboardInterrupt, ValueError)):
                call(*arguments)
            np.testing.assert_array_equal(estimator.predict_proba(OLD), before)


def test_what_others_hold_stays_as_it_was():
    estimator = GRUClassifier(**OPTIONS).fit(OLD, OLD_LABELS)
    gru, weights = estimator.gru_, estimator.gru_.state_dict()
    twin = clone(estimator)
    twin.__dict__.update(vars(estimator))  # shares network, moments and generator
    expected = estimator.partial_fit(OLD, OLD_LABELS).predict_proba(OLD)
    for name, array in gru.state_dict().items():
        np.testing.assert_array_equal(array, weights[name])
    np.testing.assert_array_equal(twin.partial_fit(OLD, OLD_LABELS).predict_proba(OLD), expected)


def test_interrupted_in_the_first_epoch(monkeypatch):
    monkeypatch.setattr(Network, "loss", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        GRURegressor(**OPTIONS).fit(OLD, OLD[:, 0])


def test_warnings_as_errors_find_the_new_estimator(monkeypatch):
    loss, calls = Network.loss, []

    def interrupting(*arguments):
        calls.append(1)
        if len(calls) == 3:  # of two batches an epoch
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(Network, "loss", interrupting)
    estimator = GRURegressor(**OPTIONS)
    with pytest.raises(UserWarning, match="training was interrupted in epoch 2"):
        estimator.fit(OLD, OLD[:, 0])
    assert estimator.predict(OLD).shape == (12, 2)

"""cgru.sklearn's estimators among scikit-learn's tools: its own checks, pipelines, searches, workers."""

import subprocess
import sys

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import cgru
from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor

from ..support.estimators import SMALL, WAVE, problem

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


def test_without_scikit_learn():
    code = (
        "import sys, cgru\nassert 'sklearn' not in sys.modules and 'joblib' not in sys.modules\n"
        "sys.modules['sklearn'] = None\ntry: cgru.sklearn\nexcept ImportError as e: print(e)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert 'cgru.sklearn needs scikit-learn: pip install "cgru[sklearn]"' in run.stdout, run.stderr

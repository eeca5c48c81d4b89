"""Estimators in files: saved, pickled, cloned, trained on, damaged."""

import json
import pickle
import re

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError

import cgru
from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor

from ..support.estimators import SMALL, WAVE, answers, fitted, problem


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
    long = {"kind": "str", "values": ["a", "b" * (1 << 24)]}
    refused(
        "classes: expected text of at most 67108864 bytes as an array, got 134217728", lambda d: d.update(classes=long)
    )
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

"""Files that earlier versions saved load and give what they gave: `tests/saved/VERSION` has one of each kind."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

import cgru
from cgru.formats.safetensors import VERSION

safetensors = pytest.importorskip("safetensors.numpy")

SAVED = sorted(path for path in (Path(__file__).parent / "saved").iterdir() if path.is_dir())
MODELS = ("float32", "float64", "bfloat16", "float16", "int8", "reverse")


@pytest.fixture(params=SAVED, ids=lambda path: path.name)
def saved(request):
    with np.load(request.param / "expected.npz") as expected:
        return request.param, dict(expected)


@pytest.mark.parametrize("kind", ["safetensors", "pickle"])
@pytest.mark.parametrize("name", MODELS)
def test_models(saved, name, kind):
    folder, expected = saved
    path = folder / f"{name}.{kind}"
    model = cgru.load(path) if kind == "safetensors" else pickle.loads(path.read_bytes())
    assert model.precision == (name if name in ("bfloat16", "float16", "int8") else "float32")
    y, _ = model(expected["x"].astype(model.dtype))
    np.testing.assert_allclose(y, expected[name], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["float32.onnx", "float32.json"])
def test_other_formats(saved, name):
    folder, expected = saved
    model = cgru.load(folder / name)
    x = expected["x"].swapaxes(0, 1) if model.batch_first else expected["x"]
    y = model(np.ascontiguousarray(x))[0]
    np.testing.assert_allclose(y.swapaxes(0, 1) if model.batch_first else y, expected["float32"], rtol=0, atol=1e-5)


def test_pickled_cells_and_streams(saved):
    folder, expected = saved
    cell = pickle.loads((folder / "cell.pickle").read_bytes())
    np.testing.assert_allclose(cell(expected["x"][0]), expected["cell"], rtol=0, atol=1e-5)
    for name, dtype in (("stream", np.float32), ("double_stream", np.float64)):
        stream = pickle.loads((folder / f"{name}.pickle").read_bytes())
        rest = stream.process(expected["x"][3:, 0].astype(dtype))
        np.testing.assert_allclose(rest, expected[name], rtol=0, atol=1e-5)


def test_estimators(saved):
    pytest.importorskip("sklearn")
    from cgru.sklearn import GRUClassifier, GRUForecaster, GRURegressor

    folder, expected = saved
    found = {
        "classifier": GRUClassifier.load(folder / "classifier.safetensors").predict_proba(expected["X"]),
        "regressor": GRURegressor.load(folder / "regressor.safetensors").predict(expected["X"]),
        "forecaster": GRUForecaster.load(folder / "forecaster.safetensors").predict(),
    }
    for name, array in found.items():
        np.testing.assert_allclose(array, expected[name], rtol=0, atol=1e-5)


def with_version(path, version):
    """The same file of another version; None: of none."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header["__metadata__"].pop("cgru.version")
    if version is not None:
        header["__metadata__"]["cgru.version"] = version
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


@pytest.mark.parametrize("estimator", [False, True])
def test_versions(tmp_path, estimator):
    path = tmp_path / "m.safetensors"
    if estimator:
        pytest.importorskip("sklearn")
        from cgru.sklearn import GRURegressor

        x = np.random.default_rng(0).standard_normal((20, 4, 2))
        GRURegressor(4, max_iter=1, random_state=0).fit(x, x[:, 0, 0]).save(path)
        load = GRURegressor.load
    else:
        cgru.GRU(3, 4).save(path)
        load = cgru.load
    current = path.read_bytes()
    for version in (None, "0", str(VERSION)):
        path.write_bytes(current)
        with_version(path, version)
        load(path)
    for version in (str(VERSION + 1), "one", ""):
        path.write_bytes(current)
        with_version(path, version)
        with pytest.raises(cgru.FormatError, match=f"cgru.version: expected a version up to {VERSION}"):
            load(path)

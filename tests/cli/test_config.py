"""`--config`: files of weights alone, in every command that reads a model."""

import numpy as np
import pytest

import cgru

from ..support.commands import command, random, refused, saved
from ..support.keras_models import KERAS_WARNINGS, keras

pytestmark = pytest.mark.filterwarnings(*KERAS_WARNINGS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of weights, and one of what they are of."""
    folder = tmp_path_factory.mktemp("weights")
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(5, name="a"), keras.layers.Dense(2)])
    model.save_weights(folder / "m.weights.h5")
    (folder / "m.json").write_text(model.to_json())
    np.save(folder / "x.npy", random(2, 9, 3))
    return folder


def test_every_command(weights, tmp_path):
    file, config, x = weights / "m.weights.h5", weights / "m.json", weights / "x.npy"
    gru = cgru.load(file, config=config)
    assert (gru.input_size, gru.hidden_size) == (3, 5)
    assert "GRU(3, 5, batch_first=True)" in command("info", file, "--config", config).stdout
    command("convert", file, tmp_path / "m.safetensors", "--config", config, "--name", "a")
    np.testing.assert_array_equal(cgru.load(tmp_path / "m.safetensors")(np.load(x))[0], gru(np.load(x))[0])
    command("run", file, x, "-o", tmp_path / "y.npy", "--config", config)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), gru(np.load(x))[0])
    assert "int8" in command("compare", file, x, "--precision", "int8", "--config", config).stdout


def test_what_is_refused(weights, tmp_path):
    file = weights / "m.weights.h5"
    refused(1, "on the command line --config of a file with this JSON", "info", file)
    refused(1, f"{tmp_path / 'none.json'}: no such file", "info", file, "--config", tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("GRU(5)")
    refused(1, "bad.json: config: expected JSON", "info", file, "--config", tmp_path / "bad.json")
    other = saved(cgru.GRU(3, 4), tmp_path)
    message = f"{other}: config: expected None, since .safetensors files tell all that is needed"
    refused(1, message, "info", other, "--config", weights / "m.json")


def test_forms_of_a_configuration(weights):
    file, text = weights / "m.weights.h5", (weights / "m.json").read_text()
    for config in (text, "  \n" + text, str(weights / "m.json"), weights / "m.json"):
        assert cgru.load(file, config=config).hidden_size == 5
    with pytest.raises(cgru.FormatError, match="config: expected a JSON object, got list"):
        cgru.load(file, config=f"[{text}]")
    with pytest.raises(TypeError, match="config: expected a mapping, JSON text or the path of it, got int"):
        cgru.load(file, config=3)
    with pytest.raises(
        cgru.FormatError, match=r"config: expected the configuration of a layer or model, got the fields"
    ):
        cgru.load(file, config={"name": "a"})

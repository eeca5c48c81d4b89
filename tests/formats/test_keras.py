"""Keras' GRUs in and out: live layers over their options, files of every layout, the same numbers, and round trips."""

import doctest
import itertools
import json
import re

import h5py
import numpy as np
import pytest

import cgru
from cgru.formats import keras as format_keras
from cgru.formats.keras import live

from ..support.keras_models import FUNCTIONS, KERAS_WARNINGS, keras, output, randomized, save_keras_2, save_legacy
from ..support.options import relative_error

L = keras.layers
pytestmark = pytest.mark.filterwarnings(*KERAS_WARNINGS)


def assert_same(gru, model, tolerance, sequences=True):
    """cgru's and Keras' outputs to random sequences."""
    x = np.random.default_rng(1).standard_normal((3, 7, gru.input_size)).astype(gru.dtype)
    y, _ = gru(x)
    assert relative_error(y if sequences else y[:, -1], output(model, x)) < tolerance


def built(layer, inputs=5):
    layer.build((None, None, inputs))
    return randomized(layer)


@pytest.mark.parametrize(
    ("reset_after", "use_bias", "double", "bidirectional"), list(itertools.product([False, True], repeat=4))
)
def test_layers(reset_after, use_bias, double, bidirectional):
    dtype = "float64" if double else "float32"
    layer = L.GRU(4, reset_after=reset_after, use_bias=use_bias, return_sequences=True, dtype=dtype)
    layer = built(L.Bidirectional(layer, dtype=dtype) if bidirectional else layer)
    gru = cgru.from_keras(layer)
    assert (gru.input_size, gru.hidden_size, gru.bias, gru.reset_after) == (5, 4, use_bias, reset_after)
    assert (gru.batch_first, gru.bidirectional, gru.dtype) == (True, bidirectional, np.dtype(dtype))
    exact = double and reset_after  # of the other kind Keras' torch backend computes a product in float32
    assert_same(gru, layer, 1e-13 if exact else 1e-6)
    again = gru.to_keras()
    assert type(again) is type(layer)
    for ours, theirs in zip(again.get_weights(), layer.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_directions_added_up(tmp_path):
    layer = built(L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode="sum"))
    keras.Sequential([keras.Input((None, 5)), layer]).save(tmp_path / "m.keras")
    for gru in (cgru.from_keras(layer), cgru.load(tmp_path / "m.keras")):
        assert (gru.merge, gru.bidirectional) == ("sum", True)
        assert_same(gru, layer, 1e-6)
    again = gru.to_keras()
    assert again.merge_mode == "sum"
    for ours, theirs in zip(again.get_weights(), layer.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(cgru.FormatError, match="reverse: Keras leaves the outputs of go_backwards reversed"):
        cgru.GRU(3, 4, reverse=True).to_keras()


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("field", ["activation", "recurrent_activation"])
def test_activations(name, field):
    layer = built(L.GRU(4, return_sequences=True, dtype="float64", **{field: name}))
    gru = cgru.from_keras(layer)
    assert_same(gru, layer, 1e-8 if name == "softplus" else 1e-13)  # torch's softplus is linear above 20
    again = gru.to_keras()
    assert getattr(again, field) is getattr(layer, field)
    assert cgru.from_keras(again).options == gru.options


def test_no_activation_is_linear():
    assert cgru.from_keras(built(L.GRU(4, activation=None))).activation == "linear"


def test_activations_without_a_counterpart_are_refused_by_name():
    known = {getattr(keras.activations, name).__name__ for name in dir(keras.activations) if not name.startswith("_")}
    for name in sorted(known - {"get", "serialize", "deserialize", *FUNCTIONS}):
        with pytest.raises(cgru.FormatError, match=f"activation: expected one of tanh, .*, got {name}"):
            cgru.from_keras(built(L.GRU(4, activation=name)))
    with pytest.raises(cgru.FormatError, match="got LeakyReLU"):
        cgru.from_keras(built(L.GRU(4, activation=L.LeakyReLU())))

    def tanh(x):
        return x

    with pytest.raises(cgru.FormatError, match="activation: expected Keras' own function, got another tanh"):
        cgru.from_keras(built(L.GRU(4, activation=tanh)))


def test_cells():
    for reset_after in (True, False):
        cell = L.GRUCell(4, reset_after=reset_after)
        cell.build((None, 5))
        randomized(cell)
        ours = cgru.from_keras(cell)
        assert isinstance(ours, cgru.GRUCell)
        rng = np.random.default_rng(0)
        x, h = rng.standard_normal((3, 5)).astype(np.float32), rng.standard_normal((3, 4)).astype(np.float32)
        expected, _ = cell(x, [keras.ops.convert_to_tensor(h)])
        assert relative_error(ours(x, h), keras.ops.convert_to_numpy(expected)) < 1e-6
        for a, b in zip(ours.to_keras().get_weights(), cell.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
        layer = built(L.RNN(L.GRUCell(4, reset_after=reset_after), return_sequences=True))
        assert_same(cgru.from_keras(layer), layer, 1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed_float16"])
def test_narrow_weights_are_widened_exactly(dtype, tmp_path):
    layer = L.GRU(4, dtype=dtype, recurrent_initializer="glorot_uniform", bias_initializer="glorot_uniform")
    model = keras.Sequential([keras.Input((None, 5)), layer])
    model.save(tmp_path / "m.keras")
    for gru in (cgru.from_keras(layer), format_keras.load(tmp_path / "m.keras")):
        assert gru.dtype == np.float32
        for ours, theirs in zip(gru.to_keras().get_weights(), layer.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs.astype(np.float32))


def stack(bidirectional=False, functional=False):
    layers = [L.GRU(4, return_sequences=True) for _ in range(3)]
    if bidirectional:
        layers = [L.Bidirectional(layer) for layer in layers]
    x = keras.Input((None, 5))
    parts = [layers[0], L.Dropout(0.25), layers[1], L.Dropout(0.25), layers[2]]
    if not functional:
        return keras.Sequential([x, *parts])
    y = x
    for part in parts:
        y = part(y)
    return keras.Model(x, y)


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_stacks(bidirectional, functional):
    model = randomized(stack(bidirectional, functional))
    gru = cgru.from_keras(model)
    assert (gru.num_layers, gru.dropout, gru.bidirectional) == (3, 0.25, bidirectional)
    assert_same(gru, model, 1e-6)
    again = gru.to_keras()
    for ours, theirs in zip(again.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_update_gate_and_what_keras_lacks():
    for recurrent_activation in ("sigmoid", ("hard_sigmoid", 1 / 6, 0.5)):
        gru = cgru.GRU(
            5, 4, batch_first=True, update_gate="candidate", recurrent_activation=recurrent_activation, dtype="float64"
        )
        assert_same(gru, gru.to_keras(), 1e-13)
    cases = [
        ({"clip": 2.0}, "clip: Keras knows None only, got 2.0"),
        ({"activation": "affine"}, "activation: Keras knows tanh, "),
        ({"recurrent_activation": "hard_sigmoid"}, "recurrent_activation: Keras knows tanh, "),
        ({"activation": ("leaky_relu", 0.3, 0)}, "got ('leaky_relu', 0.3, 0.0)"),
        ({"recurrent_activation": "tanh", "update_gate": "candidate"}, "update_gate: with 'tanh' Keras knows 'state' only"),
    ]  # fmt: skip
    for options, message in cases:
        for model in (cgru.GRU(5, 4, **options), cgru.GRUCell(5, 4, **options)):
            with pytest.raises(cgru.FormatError, match=re.escape(message)):
                model.to_keras()


def test_refused_layers():
    class GRU(L.GRU):  # another layer of the same name
        pass

    backward = L.GRU(4, go_backwards=True, activation="relu")
    summed = [L.Bidirectional(L.GRU(4, return_sequences=True), merge_mode="sum") for _ in range(2)]
    unlike = [L.GRU(4, return_sequences=True), L.GRU(4, activation="relu")]
    cases = [
        (3, "layer: expected a Keras layer or model, got int"),
        (L.LSTM(4), "expected a GRU, RNN(GRUCell) or Bidirectional(GRU) layer, got none"),
        (GRU(4), "got none"),
        (L.Bidirectional(L.LSTM(4)), "got none"),
        (L.Bidirectional(L.GRU(4), backward_layer=backward), "activation: expected 'tanh' everywhere, got 'relu'"),
        (L.Bidirectional(L.GRU(4, go_backwards=True), backward_layer=L.GRU(4)), "go_backwards: expected False forward"),
        *[(L.Bidirectional(L.GRU(4), merge_mode=m), f"merge_mode: expected 'concat' or 'sum', got {m!r}") for m in ("ave", "mul", None)],
        (keras.Sequential([keras.Input((None, 5)), *summed]), "merge: expected 'concat' unless there is one layer"),
        (keras.Sequential([keras.Input((None, 5)), *unlike]), "activation: expected 'tanh' everywhere, got 'relu'"),
    ]  # fmt: skip
    for layer, message in cases:
        if isinstance(layer, L.Layer) and not layer.built:
            layer.build((None, None, 5))
        with pytest.raises(cgru.FormatError, match=re.escape(message)):
            cgru.from_keras(layer)
    with pytest.raises(cgru.FormatError, match="gru: expected a built layer: call it, or"):
        cgru.from_keras(L.GRU(4, name="gru"))


def chain(*layers):
    return keras.Sequential([keras.Input((None, 5)), *layers])


def test_several_layers_that_are_no_stack():
    gru = lambda name, **options: L.GRU(4, name=name, **options)  # noqa: E731
    whole = {"return_sequences": True}
    x = keras.Input((None, 5))
    a, b = gru("a", **whole)(x), gru("b", **whole)(x)
    twice = gru("a", **whole)
    hidden, state = L.GRU(5, name="a", return_sequences=True, return_state=True)(x)
    models = [
        chain(gru("a", **whole), L.Dense(5), gru("b")),
        chain(gru("a", **whole), L.GRU(3, name="b")),
        chain(gru("a"), L.RepeatVector(3), gru("b")),
        keras.Model(x, L.Add()([a, b])),
        keras.Model(x, [gru("b")(twice(x)), twice(L.Dense(5)(x))]),
        keras.Model(x, L.GRU(5, name="b")(hidden, initial_state=state)),
    ]
    for model in models:
        with pytest.raises(
            cgru.FormatError, match=r"choose one of a, b by|got the layers (a, b|b, a); choose one by name="
        ):
            cgru.from_keras(model)
        assert cgru.from_keras(model, "a").num_layers == 1
        with pytest.raises(cgru.FormatError, match=r"name: expected one of the GRU layers (a, b|b, a), got 'c'"):
            cgru.from_keras(model, "c")


def nested():
    """An encoder of two layers within a model that has a GRU of its own."""
    encoder = keras.Sequential(
        [keras.Input((None, 5)), L.GRU(4, name="a", return_sequences=True), L.GRU(4, name="b", return_sequences=True)],
        name="encoder",
    )
    x = keras.Input((None, 5))
    return randomized(keras.Model(x, L.Dense(2)(L.GRU(3, name="a")(L.Dense(6)(encoder(x))))))


def test_nested_models(tmp_path):
    model = nested()
    model.save(tmp_path / "m.keras")
    save_legacy(model, tmp_path / "m.h5")
    sources = [
        lambda name=None: cgru.from_keras(model, name),
        lambda name=None: format_keras.load(tmp_path / "m.keras", name),
        lambda name=None: format_keras.load(tmp_path / "m.h5", name),
    ]
    for source in sources:
        with pytest.raises(cgru.FormatError, match="got the layers encoder/a, encoder/b, a; choose one by name="):
            source()
        assert_same(source("encoder"), model.get_layer("encoder"), 1e-6)
        assert (source("encoder/a").input_size, source("encoder/b").input_size, source("a").input_size) == (5, 4, 6)
        np.testing.assert_array_equal(
            source("b").to_keras().get_weights()[0], model.get_layer("encoder").get_layer("b").get_weights()[0]
        )


MODELS = {
    "one": lambda: chain(L.GRU(4, return_sequences=True)),
    "before": lambda: chain(L.GRU(4, return_sequences=True, reset_after=False, recurrent_activation="hard_sigmoid")),
    "no bias": lambda: chain(L.GRU(4, return_sequences=True, use_bias=False)),
    "dropout": lambda: chain(L.GRU(4, return_sequences=True, dropout=0.2, recurrent_dropout=0.1)),
    "cell": lambda: chain(L.RNN(L.GRUCell(4), return_sequences=True)),
    "double": lambda: keras.Sequential(
        [keras.Input((None, 5), dtype="float64"), L.GRU(4, return_sequences=True, dtype="float64")]
    ),
    "bidirectional": lambda: chain(L.Bidirectional(L.GRU(4, return_sequences=True))),
    "stack": stack,
    "stack of bidirectional": lambda: stack(True),
    "functional stack": lambda: stack(False, True),
}


@pytest.mark.parametrize("kind", MODELS)
def test_files_that_keras_3_writes(kind, tmp_path):
    model = randomized(MODELS[kind]())
    model.save(tmp_path / "m.keras")
    save_legacy(model, tmp_path / "m.h5")
    model.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "m.json").write_text(model.to_json())
    tree = json.loads(model.to_json())
    files = [("m.keras", {}), ("m.h5", {})]
    files += [("m.weights.h5", {"config": config}) for config in (tree, tree["config"], tmp_path / "m.json")]
    first, *others = [layer for layer in model.layers if not isinstance(layer, (L.Dropout, L.InputLayer))]
    if not others:
        files += [("m.weights.h5", {"config": first.get_config()})]
    for name, arguments in files:
        gru = format_keras.load(tmp_path / name, **arguments)
        assert_same(gru, model, 1e-12 if gru.dtype == np.float64 else 1e-6)
        for ours, theirs in zip(gru.to_keras().get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(cgru.FormatError, match=r"m.weights.h5: config: expected a layer's or model's configuration"):
        format_keras.load(tmp_path / "m.weights.h5")
    for name in ("m.keras", "m.h5"):
        assert repr(cgru.load(tmp_path / name)) == repr(format_keras.load(tmp_path / name))
        with pytest.raises(cgru.FormatError, match="config: expected None, since the file has its own"):
            format_keras.load(tmp_path / name, config=tree)


def test_weights_alone_by_a_layers_configuration(tmp_path):
    model = nested()
    path = tmp_path / "m.weights.h5"
    model.save_weights(path)
    encoder = model.get_layer("encoder")
    for name in ("a", "b"):
        layer = encoder.get_layer(name)
        for arguments in ({}, {"name": name}):
            gru = format_keras.load(path, config=layer.get_config(), **arguments)
            np.testing.assert_array_equal(gru.to_keras().get_weights()[0], layer.get_weights()[0])
    config = L.GRU(4).get_config()
    with pytest.raises(cgru.FormatError, match="got the layers a, b; choose one by name="):
        format_keras.load(path, config=config)
    del config["reset_after"]  # the shape of the bias tells
    assert format_keras.load(path, "b", config).reset_after
    with pytest.raises(cgru.FormatError, match="b: expected kernel, recurrent_kernel, got 3 arrays"):
        format_keras.load(path, "b", {**config, "use_bias": False})
    with pytest.raises(cgru.FormatError, match=re.escape("b: bias: expected (12,), got (2, 12)")):
        format_keras.load(path, "b", {**config, "reset_after": False})
    model = chain(L.GRU(4, use_bias=False))
    model.save_weights(tmp_path / "no_bias.weights.h5")
    with pytest.raises(cgru.FormatError, match="reset_after: expected True or False, got a layer without it"):
        format_keras.load(tmp_path / "no_bias.weights.h5", config={**config, "use_bias": False})
    with pytest.raises(cgru.FormatError, match="config: expected a GRU's, got LSTM"):
        format_keras.load(path, "b", {"class_name": "LSTM", "config": config})


def keras_2_arrays(layer, prefix):
    kinds = ("kernel", "recurrent_kernel", "bias")
    return {f"{prefix}/gru_cell/{kind}:0": array for kind, array in zip(kinds, layer.get_weights(), strict=False)}


@pytest.mark.parametrize("functional", [False, True])
@pytest.mark.parametrize("version", ["2.15.0", "2.2.4-tf"])
def test_files_of_keras_2(functional, version, tmp_path):
    """A stack with hard_sigmoid, whose slope was 0.2 in Keras 2."""
    layers = [built(L.GRU(4), 5), built(L.GRU(4), 4)]
    config = {"units": 4, "activation": "tanh", "recurrent_activation": "hard_sigmoid", "use_bias": True}
    config |= {"reset_after": True, "return_sequences": True, "go_backwards": False, "time_major": False}
    entries = [
        ("InputLayer", {"name": "input_1", "batch_input_shape": [None, None, 5]}, {}),
        *[("GRU", {**config, "name": name}, keras_2_arrays(layer, name)) for name, layer in zip("ab", layers, strict=True)],
        ("Dense", {"name": "dense", "units": 1}, {"dense/kernel:0": np.zeros((4, 1), np.float32)}),
    ]  # fmt: skip
    gru = format_keras.load(save_keras_2(tmp_path / "m.h5", entries, version, functional))
    assert (gru.num_layers, gru.recurrent_activation, gru.batch_first) == (2, "hard_sigmoid", True)
    expected = np.concatenate([array.ravel() for layer in layers for array in layer.get_weights()])
    standard = cgru.GRU(5, 4, 2)
    standard.load_state_dict(gru.state_dict())
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in standard.to_keras().get_weights()]), expected)
    if not functional:
        gru = format_keras.load(save_keras_2(tmp_path / "list.h5", entries, version, sequential_list=True))
        assert gru.num_layers == 2
    entries[1][1]["time_major"] = entries[2][1]["time_major"] = True
    assert not format_keras.load(save_keras_2(tmp_path / "m.h5", entries, version, functional)).batch_first


def test_bidirectional_of_keras_2(tmp_path):
    layer = built(L.Bidirectional(L.GRU(4, return_sequences=True)))
    config = {**layer.forward_layer.get_config(), "name": "gru"}
    arrays = keras_2_arrays(layer.forward_layer, "b/forward_gru") | keras_2_arrays(
        layer.backward_layer, "b/backward_gru"
    )
    wrapped = {"name": "b", "merge_mode": "concat", "layer": {"class_name": "GRU", "config": config}}
    path = save_keras_2(tmp_path / "m.h5", [("Bidirectional", wrapped, arrays)])
    assert_same(format_keras.load(path), layer, 1e-6)
    with h5py.File(path, "r+") as file:  # long lists are stored in parts
        attributes = file["model_weights/b"].attrs
        names = attributes.pop("weight_names")
        attributes["weight_names0"], attributes["weight_names1"] = names[:2], names[2:]
    assert_same(format_keras.load(path), layer, 1e-6)
    with h5py.File(tmp_path / "w.h5", "w") as file, h5py.File(path) as whole:  # save_weights of Keras 2
        whole["model_weights"].copy("b", file)
        file.attrs["layer_names"], file.attrs["keras_version"] = [b"b"], b"2.4.0"
    assert_same(format_keras.load(tmp_path / "w.h5", config=wrapped), layer, 1e-6)


def test_weights_of_keras_2_13(tmp_path):
    """There the group "layers" had another name."""
    model = randomized(chain(L.GRU(4, recurrent_activation="hard_sigmoid")))
    path = tmp_path / "m.weights.h5"
    model.save_weights(path)
    with h5py.File(path, "r+") as file:
        file.move("layers", "_layer_checkpoint_dependencies")
    gru = format_keras.load(path, config=model.layers[0].get_config())
    assert gru.recurrent_activation == "hard_sigmoid"
    assert gru.options == format_keras.load(path, config=model.get_config()).options


def test_examples_in_docstrings():
    result = doctest.testmod(live)
    assert result.attempted > 0
    assert result.failed == 0

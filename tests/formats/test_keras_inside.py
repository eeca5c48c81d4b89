"""GRUs of Keras inside what is no plain model: layers and models of somebody's own, wrappers, RNNs of several cells."""

import json
import re

import numpy as np
import pytest

import cgru

from ..support.keras_models import KERAS_WARNINGS, keras, output, randomized, save_legacy
from ..support.options import relative_error

L = keras.layers
pytestmark = pytest.mark.filterwarnings(*KERAS_WARNINGS)


class Nameless(L.Layer):
    """Without **kwargs, so that its configuration is empty."""

    def __init__(self):
        super().__init__()

    def call(self, h):
        return h * keras.ops.softmax(h, axis=1)


class Unsaid(L.Layer):
    """Without a configuration, with a GRU inside."""

    def __init__(self, units, inner):
        super().__init__()
        self.inner = inner

    def call(self, x):
        return self.inner(x)


@keras.saving.register_keras_serializable()
class Wrapper(L.Layer):
    """Which tells its layers in its configuration, and holds one of them under another name."""

    def __init__(self, first, second, **options):
        super().__init__(**options)
        self.first, self.another = first, second

    def call(self, x):
        return self.another(self.first(x))

    def get_config(self):
        parts = {"first": self.first, "second": self.another}
        return {
            **super().get_config(),
            **{key: keras.saving.serialize_keras_object(part) for key, part in parts.items()},
        }


class Own(L.RNN):
    """Of which only its author knows what it does with its cell."""


@keras.saving.register_keras_serializable()
class Net(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.encoder = L.GRU(4, return_sequences=True, activation="relu")
        self.others = [L.Bidirectional(L.GRU(3, return_sequences=True)), L.LSTM(4)]

    def call(self, x):
        return self.others[1](self.others[0](self.encoder(x)))


def chain(*layers):
    return randomized(keras.Sequential([keras.Input((None, 5)), *layers]))


def gru(units=4, **options):
    return L.GRU(units, return_sequences=True, **options)


def numbers(*shape):
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def assert_same(ours, layer, inputs=5):
    """cgru's outputs and those of Keras' layer, which may return the last alone."""
    x = numbers(3, 7, inputs)
    expected = output(layer, x)
    y, h_n = ours(x)
    last = np.concatenate(h_n[-2 if ours.bidirectional else -1 :], axis=-1)
    y = y[:, ::-1] if ours.reverse else y
    assert relative_error(y if expected.ndim == 3 else last, expected) < 1e-6


def sources(model, folder, legacy=True):
    """The model itself, and in files."""
    model.save(folder / "m.keras")
    result = [lambda name=None: cgru.from_keras(model, name), lambda name=None: cgru.load(folder / "m.keras", name)]
    if legacy:
        save_legacy(model, folder / "m.h5")
        result.append(lambda name=None: cgru.load(folder / "m.h5", name))
    return result


def test_layers_without_a_name(tmp_path):
    model = chain(gru(), Nameless(), L.Dense(2))
    for source in sources(model, tmp_path):
        assert_same(source(), model.layers[0])
    model = chain(gru(name="a"), Nameless(), gru(name="b"))  # no stack
    for source in sources(model, tmp_path):
        with pytest.raises(cgru.FormatError, match="got the layers a, b; choose one by name="):
            source()
        assert_same(source("b"), model.layers[2], 4)


def test_layers_that_borrow_names_of_keras(tmp_path):
    class Dropout(L.Dropout):
        def call(self, x):
            return x * 2

    class GRU(L.GRU):
        pass

    model = chain(gru(name="a"), Dropout(0.5), gru(name="b"), GRU(4))
    for source in sources(model, tmp_path, legacy=False):  # which does not tell them from Keras' own
        with pytest.raises(cgru.FormatError, match="got the layers a, b; choose one by name="):
            source()


@pytest.mark.parametrize("inner", [gru, lambda: L.GRU(4), lambda: L.Bidirectional(L.GRU(4))])
def test_time_distributed(inner, tmp_path):
    x = keras.Input((4, None, 5))
    layer = inner()
    model = randomized(keras.Model(x, L.TimeDistributed(layer, name="frames")(x)))
    for source in sources(model, tmp_path):
        for name in (None, "frames", layer.name, f"frames/{layer.name}"):
            assert_same(source(name), layer)
    assert_same(cgru.from_keras(model.layers[1]), layer)
    stack = keras.Sequential([keras.Input((None, 5)), gru(), gru()])
    model = randomized(keras.Model(x, L.TimeDistributed(stack)(x)))
    for source in sources(model, tmp_path):
        assert source().num_layers == 2
        assert_same(source(), stack)


def test_layers_around_layers(tmp_path):
    first, second = gru(name="a"), L.GRU(6, name="b")
    model = chain(Wrapper(first, second))
    live, archive, legacy = sources(model, tmp_path)
    for source in (live, legacy):
        with pytest.raises(cgru.FormatError, match=r"got the layers wrapper.*/a, wrapper.*/b; choose one by name="):
            source()
        assert_same(source("a"), first)
        assert_same(source("b"), second, 4)
    assert_same(archive("a"), first)
    place = "layers/wrapper/another"
    with pytest.raises(
        cgru.FormatError, match=f"/b: expected weights in layers/wrapper/second/cell/vars.* {place}, .*: give"
    ):
        archive("b")
    assert_same(cgru.load(tmp_path / "m.keras", place, second.get_config()), second, 4)


@pytest.mark.parametrize("functional", [False, True])
def test_models_with_layers_that_have_no_configuration(functional):
    inner = gru()
    model = chain(Unsaid(3, inner), Nameless())
    if functional:
        x = keras.Input((None, 5))
        model = keras.Model(x, Unsaid(3, inner)(x))
        with pytest.raises(NotImplementedError):
            model.get_config()
    assert_same(cgru.from_keras(model), inner)
    assert_same(cgru.from_keras(model, inner.name), inner)


def test_operations_between_layers(tmp_path):
    x = keras.Input((None, 5))
    first, second = gru(name="a"), gru(name="b")
    model = randomized(keras.Model(x, second(first(x * 2) + 1)))
    for source in sources(model, tmp_path):
        with pytest.raises(cgru.FormatError, match="got the layers a, b; choose one by name="):
            source()
        assert_same(source("a"), first)


def test_a_sequence_of_layers_that_is_called_otherwise():
    class Around(keras.Sequential):
        def call(self, x):
            return self.layers[1](2 * self.layers[0](x))

    model = Around([gru(name="a"), gru(name="b")])
    model(numbers(1, 2, 5))
    with pytest.raises(cgru.FormatError, match="got the layers a, b; choose one by name="):
        cgru.from_keras(model)


def test_a_layer_in_two_places_is_one():
    class Twice(keras.Model):
        def __init__(self, inner):
            super().__init__()
            self.inner, self.again = inner, keras.Sequential([inner])

        def call(self, x):
            return self.again(x)

    model = Twice(gru())
    model(numbers(1, 2, 5))
    assert_same(cgru.from_keras(randomized(model)), model.inner)


def test_subclassed_models(tmp_path):
    model = Net()
    model(numbers(2, 3, 5))
    randomized(model)
    with pytest.raises(cgru.FormatError, match=r"got the layers gru.*, bidirectional.*; choose one by name="):
        cgru.from_keras(model)
    for layer, inputs in ((model.encoder, 5), (model.others[0], 4)):
        assert_same(cgru.from_keras(model, layer.name), layer, inputs)
    model.save(tmp_path / "m.keras")
    save_legacy(model, tmp_path / "m.h5")
    model.save_weights(tmp_path / "m.weights.h5")
    place = "encoder, layers/bidirectional/backward_layer, layers/bidirectional/forward_layer"
    with pytest.raises(
        cgru.FormatError, match=f"got none in the model's configuration; .* like a GRU's in {place}: give"
    ):
        cgru.load(tmp_path / "m.keras")
    for file in ("m.keras", "m.h5", "m.weights.h5"):
        for layer, inputs in ((model.encoder, 5), (model.others[0], 4)):
            node = keras.saving.serialize_keras_object(layer)
            for config in (layer.get_config(), node, json.dumps(node)):
                assert_same(cgru.load(tmp_path / file, config=config), layer, inputs)
                assert_same(cgru.load(tmp_path / file, layer.name, config), layer, inputs)
    assert_same(cgru.load(tmp_path / "m.keras", "encoder", model.encoder.get_config()), model.encoder)
    with pytest.raises(cgru.FormatError, match=r"m.keras: name: expected one of the GRU layers gru.*, got 'decoder'"):
        cgru.load(tmp_path / "m.keras", "decoder", model.encoder.get_config())


@pytest.mark.parametrize("options", [{}, {"return_sequences": True}, {"return_sequences": True, "go_backwards": True}])
def test_several_cells_in_one_layer(options, tmp_path):
    layer = L.RNN([L.GRUCell(4) for _ in range(3)], name="rnn", **options)
    model = chain(layer)
    for source in sources(model, tmp_path):
        for name in (None, "rnn"):
            assert (source(name).num_layers, source(name).reverse) == (3, "go_backwards" in options)
            assert_same(source(name), layer)
        assert_same(source("rnn/gru_cell"), L.RNN(layer.cell.cells[0], **options))
    model.save_weights(tmp_path / "m.weights.h5")
    assert_same(cgru.load(tmp_path / "m.weights.h5", config=layer.get_config()), layer)


def test_cells_that_are_no_stack(tmp_path):
    unlike = chain(L.RNN([L.GRUCell(4), L.GRUCell(3)], name="rnn"))
    for source in sources(unlike, tmp_path):
        with pytest.raises(
            cgru.FormatError, match="hidden_size: expected 4 everywhere, got 3; choose one of rnn/gru_cell"
        ):
            source()
        assert source("rnn/gru_cell_1").hidden_size == 3
    for mixed in (
        L.RNN([L.GRUCell(4), L.LSTMCell(4)]),
        L.RNN(L.LSTMCell(4)),
        L.Bidirectional(L.GRU(4), backward_layer=L.LSTM(4, go_backwards=True)),
        Own(L.GRUCell(4)),
    ):
        for source in sources(chain(mixed), tmp_path):
            with pytest.raises(cgru.FormatError, match="got none"):
                source()


def test_directions_of_several_cells(tmp_path):
    """Each a stack of its own, where a GRU joins directions after each layer."""
    layer = L.Bidirectional(L.RNN([L.GRUCell(4), L.GRUCell(4)], return_sequences=True), name="both")
    model = chain(layer)
    names = [side.name for side in (layer.forward_layer, layer.backward_layer)]
    for source in sources(model, tmp_path):
        with pytest.raises(cgru.FormatError, match=r"got the layers both/.*; choose one by name="):
            source()
        for name, side in zip(names, (layer.forward_layer, layer.backward_layer), strict=True):
            assert_same(source(f"both/{name}"), side)


@pytest.mark.parametrize("layer", [gru, lambda **k: L.GRU(4, **k), lambda **k: L.RNN(L.GRUCell(4), **k)])
def test_layers_that_read_backwards(layer, tmp_path):
    layer = layer(go_backwards=True)
    for source in sources(chain(layer), tmp_path):
        ours = source()
        assert ours.reverse
        assert_same(ours, layer)
        x = numbers(3, 7, 5)
        np.testing.assert_array_equal(ours(x)[1][0], ours(x)[0][:, 0])


def test_layers_that_read_what_was_turned_round(tmp_path):
    first, second = gru(name="a", go_backwards=True), gru(name="b")
    for others, message in [
        ([first, second], "a: go_backwards: expected False of a layer that b reads, since Keras gives it the outputs turned"),
        ([first, gru(name="c", go_backwards=True)], "a: go_backwards: expected False of a layer that c reads"),
        ([second, gru(name="d", go_backwards=True)], "d: reverse: expected False everywhere, got True; choose one of b, d"),
    ]:  # fmt: skip
        for source in sources(chain(*others), tmp_path):
            with pytest.raises(cgru.FormatError, match=re.escape(message)):
                source()
    model = chain(first, second)
    a, b = (cgru.from_keras(model, name) for name in "ab")
    x = numbers(3, 7, 5)
    y, _ = b(a(x)[0][:, ::-1])  # as the message says
    assert relative_error(y, output(model, x)) < 1e-6


def test_cells_in_layers_of_somebodys_own(tmp_path):
    class Decoder(keras.Model):
        def __init__(self):
            super().__init__()
            self.cell = L.GRUCell(4)

        def call(self, x):
            return self.cell(x, [keras.ops.zeros((len(x), 4))])[0]

    model = Decoder()
    x = numbers(3, 5)
    model(x)
    randomized(model)
    model.save(tmp_path / "m.keras")
    config = keras.saving.serialize_keras_object(model.cell)
    for cell in (cgru.from_keras(model), cgru.load(tmp_path / "m.keras", config=config)):
        assert isinstance(cell, cgru.GRUCell)
        assert relative_error(cell(x), output(model, x)) < 1e-6

"""Keras models as networks: every known layer, live and from files, compared with Keras itself."""

import numpy as np
import pytest

import cgru
from cgru.formats.keras.network import network_of
from cgru.model.interpret import run
from cgru.model.stepping import Stream

from ..support.keras_models import KERAS_WARNINGS, keras

pytestmark = pytest.mark.filterwarnings(*KERAS_WARNINGS)
L = keras.layers


TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
"""Of Keras in float32, with weights, epsilons and inputs that make a wrong formula differ by far more."""


def randomized(model, seed=0):
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "seed" not in variable.path:
            variable.assign(rng.uniform(0.2, 0.9, variable.shape) * rng.choice([-1, 1], variable.shape))
            if "variance" in variable.path:
                variable.assign(rng.uniform(0.2, 0.9, variable.shape))
    return model


def normal(rng, *shape):
    """Numbers of float32."""
    return rng.standard_normal(shape).astype(np.float32)


def called(model, inputs):
    results = model(inputs, training=False)
    results = results if isinstance(results, (list, tuple)) else [results]
    return [keras.ops.convert_to_numpy(result) for result in results]


def sequential(*layers, inputs=(None, 5)):
    return randomized(keras.Sequential([L.Input(inputs), *layers]))


def compared(model, steps=11, rng=None):
    """Compare a model of one input with its network, for two lengths where there is time."""
    graph = network_of(model)
    ((name, shape),) = graph.inputs.items()
    rng = np.random.default_rng(1)
    for length in (steps, steps + 4) if "T" in shape else (steps,):
        x = normal(rng, *({"B": 3, "T": length}.get(size, size) for size in shape))
        expected = called(model, x)
        outputs, _ = run(graph, {name: x})
        assert len(outputs) == len(expected)
        for got, wanted in zip(outputs.values(), expected, strict=True):
            np.testing.assert_allclose(got, wanted, **TOLERANCE)
    return graph, x, expected


def streamed(model, rows=3):
    """Compare a stream's frames with the model's."""
    graph, x, expected = compared(model)
    stream = Stream(graph, batch_size=rows)
    ((name, _),) = graph.inputs.items()
    steps = [stream.step({name: x[:, t]}) for t in range(x.shape[1])]
    last = stream.flush()
    for key, wanted in zip(graph.outputs, expected, strict=True):
        got = np.concatenate([np.stack([step[key] for step in steps], 1), last[key]], axis=1)
        np.testing.assert_allclose(got[:, stream.delay :], wanted, **TOLERANCE)
    return stream


FRAMES = {
    "dense": lambda: [L.Dense(7, activation="relu"), L.Dense(4, use_bias=False, activation="gelu"), L.Dense(3)],
    "gru": lambda: [L.GRU(4, return_sequences=True), L.GRU(3, return_sequences=True, reset_after=False)],
    "rnn of cells": lambda: [L.RNN([L.GRUCell(4), L.GRUCell(4)], return_sequences=True)],
    "simple rnn": lambda: [L.SimpleRNN(4, return_sequences=True, activation="relu"), L.SimpleRNN(3, return_sequences=True, use_bias=False)],
    "causal": lambda: [L.Conv1D(6, 3, padding="causal", dilation_rate=2, groups=1), L.Conv1D(4, 3, padding="causal", groups=2, use_bias=False)],
    "norms": lambda: [L.BatchNormalization(epsilon=0.1), L.LayerNormalization(epsilon=0.2), L.BatchNormalization(scale=False), L.BatchNormalization(center=False), L.LayerNormalization(scale=False), L.LayerNormalization(center=False)],
    "separable": lambda: [L.SeparableConv1D(6, 3, padding="same", depth_multiplier=2), L.DepthwiseConv1D(3, padding="same", depth_multiplier=2, activation="tanh")],
    "same": lambda: [L.Conv1D(4, 4, padding="same"), L.Conv1D(3, 5, padding="same", dilation_rate=2)],
    "idle": lambda: [L.Dropout(0.5), L.SpatialDropout1D(0.3), L.GaussianNoise(0.3), L.GaussianDropout(0.2), L.AlphaDropout(0.1), L.Identity(), L.Dense(3)],
    "distributed": lambda: [L.TimeDistributed(L.Dense(6, activation="elu")), L.TimeDistributed(L.Reshape((2, 3))), L.TimeDistributed(L.Flatten())],
    "activations": lambda: [L.LeakyReLU(0.15), L.ELU(0.7), L.PReLU(shared_axes=[1]), L.Dense(4, activation=L.LeakyReLU(0.4)), L.Softmax()],
    "rescaled": lambda: [L.Rescaling(0.25, offset=0.5), L.Rescaling([1.0, 2.0, 3.0, 4.0, 5.0])],
    "padded": lambda: [L.ZeroPadding1D((4, 0)), L.Conv1D(3, 5), L.ZeroPadding1D(2), L.Cropping1D((2, 2))],
    "nested": lambda: [keras.Sequential([L.Input((None, 5)), L.Dense(4, activation="tanh"), keras.Sequential([L.Input((None, 4)), L.GRU(3, return_sequences=True)])]), L.Dense(2)],
}  # fmt: skip


@pytest.mark.parametrize("layers", FRAMES)
def test_layers_that_run_over_time(layers):
    stream = streamed(sequential(*FRAMES[layers]()))
    assert stream.graph.kind == "sequence"
    assert stream.graph.inputs == {"x": ("B", "T", 5)}
    assert list(stream.graph.outputs) == ["y"]


WHOLE = {
    "last state": lambda: [L.GRU(4), L.Dense(2)],
    "last step of an RNN": lambda: [L.SimpleRNN(4)],
    "backwards": lambda: [L.GRU(4, return_sequences=True, go_backwards=True), L.SimpleRNN(3, return_sequences=True, go_backwards=True), L.GRU(2, go_backwards=True)],
    "both ways": lambda: [L.Bidirectional(L.GRU(4, return_sequences=True)), L.Bidirectional(L.GRU(3, return_sequences=True), merge_mode="sum"), L.Bidirectional(L.GRU(3), merge_mode="mul")],
    "both ways of RNNs": lambda: [L.Bidirectional(L.SimpleRNN(4, return_sequences=True), merge_mode="ave"), L.Bidirectional(L.SimpleRNN(3))],
    "pooling": lambda: [L.MaxPooling1D(2), L.AveragePooling1D(3, strides=1), L.Conv1D(4, 2, strides=2), L.GlobalAveragePooling1D()],
    "global": lambda: [L.GlobalMaxPooling1D(keepdims=True), L.Flatten(), L.Dense(3)],
    "up": lambda: [L.UpSampling1D(3), L.Conv1D(2, 2)],
    "repeated": lambda: [L.GRU(4), L.RepeatVector(3), L.Permute((2, 1)), L.Reshape((3, 4)), L.Reshape((-1,))],
}  # fmt: skip


@pytest.mark.parametrize("layers", WHOLE)
def test_layers_that_run_whole(layers):
    graph, _, _ = compared(sequential(*WHOLE[layers]()))
    assert graph.inputs == {"x": ("B", "T", 5)}


def test_last_states_in_a_stream():
    model = sequential(L.GRU(4), L.Dense(2))
    graph, x, (expected,) = compared(model)
    stream = Stream(graph, batch_size=3)
    for t in range(x.shape[1]):
        y = stream.step({"x": x[:, t]})["y"]
    np.testing.assert_allclose(y, expected, **TOLERANCE)


def test_a_shared_layer_has_its_weights_once():
    shared, x = L.Dense(30, activation="tanh"), L.Input((None, 30))
    graph = network_of(keras.Model(x, shared(shared(shared(x)))))
    assert sum(node.operator == "MatMul" for node in graph.nodes) == 3
    assert graph.nbytes == 31 * 30 * 4


def test_models_that_call_each_other_without_end():
    model = keras.Sequential([L.Input((2,)), L.Activation("tanh")])
    for _ in range(16):
        x = L.Input((2,))
        model = keras.Model(x, model(model(x)))
    with pytest.raises(cgru.FormatError, match="expected at most 20,000 nodes, got more"):
        network_of(model)


FIXED = {
    "flat": ((8, 5), lambda: [L.Conv1D(4, 3, strides=2, padding="same"), L.PReLU(), L.Flatten(), L.Dense(3, activation="softmax")]),
    "pooled": ((9, 4), lambda: [L.MaxPooling1D(2, padding="same"), L.AveragePooling1D(2, padding="same"), L.Permute((2, 1))]),
    "images": ((6, 7, 2), lambda: [L.Conv2D(3, (3, 2), padding="same", activation="relu"), L.MaxPooling2D(2), L.DepthwiseConv2D(2), L.GlobalAveragePooling2D()]),
    "channels first": ((4, 9), lambda: [L.Conv1D(6, 3, groups=2, data_format="channels_first"), L.MaxPooling1D(2, data_format="channels_first"), L.BatchNormalization(axis=1), L.GlobalAveragePooling1D(data_format="channels_first")]),
    "vectors": ((5,), lambda: [L.Dense(4), L.BatchNormalization(), L.Dense(2)]),
    "axes": ((4, 3), lambda: [L.BatchNormalization(axis=1), L.LayerNormalization(axis=[1, 2]), L.Softmax(axis=1)]),
}  # fmt: skip


@pytest.mark.parametrize("layers", FIXED)
def test_shapes_that_are_fixed(layers):
    shape, make = FIXED[layers]
    graph, _, _ = compared(sequential(*make(), inputs=shape))
    assert graph.inputs == {"x": ("B", *shape)}


@pytest.mark.parametrize("options", [
    {}, {"max_value": 0.9}, {"negative_slope": 0.2}, {"threshold": 0.3}, {"max_value": 0.9, "negative_slope": 0.2, "threshold": 0.3}
], ids=str)  # fmt: skip
def test_relu(options):
    compared(sequential(L.ReLU(**options)), steps=5)


NAMES = "relu relu6 tanh sigmoid hard_sigmoid softmax log_softmax elu selu celu gelu silu hard_silu mish leaky_relu softplus softsign exponential log_sigmoid tanh_shrink hard_tanh hard_shrink soft_shrink glu linear"  # fmt: skip


@pytest.mark.parametrize("name", NAMES.split())
def test_activations_by_name(name):
    compared(sequential(L.Dense(6), L.Activation(name), inputs=(None, 3)), steps=5)


def functional():
    """Two inputs, a shared layer, states, an initial state, operators between tensors, and a nested model."""
    a, b = L.Input((None, 5), name="a"), L.Input((None, 5), name="b")
    shared = L.Dense(4, activation="relu", name="shared")
    joined = L.Concatenate()([shared(a), shared(b)])
    both, left, right = L.Bidirectional(L.GRU(3, return_sequences=True, return_state=True), name="both")(joined)
    steps = L.GRU(6, return_sequences=True, name="steps")(both, initial_state=L.Concatenate()([left, right]))
    inner_in = L.Input((None, 6), name="inner_in")
    inner = keras.Model(inner_in, [L.Conv1D(4, 2, padding="causal")(inner_in), L.Dense(4)(inner_in)], name="inner")
    c, d = inner(steps)
    e, f = inner(both)
    mixed = L.Add(name="mixed")([c, d, L.Rescaling(2)(e), L.Multiply()([c, f])])
    parts = [L.Average()([c, d]), L.Maximum()([c, d]), L.Minimum()([e, f]), L.Subtract()([c, f])]
    out = L.Concatenate(name="out")([*parts, mixed * 0.5 + c / 2.0, 1.0 - d[:, :, 1:3], -c])
    last, state = L.GRU(2, return_state=True, name="last")(out)
    return randomized(keras.Model([a, b], [out, last, state, left, f]))


@pytest.mark.parametrize("source", ["live", "keras", "h5"])
def test_functional_models(source, tmp_path):
    model = functional()
    given = model
    if source != "live":
        given = tmp_path / f"model.{source}"
        model.save(given)
    graph = network_of(given)
    assert graph.inputs == {"a": ("B", "T", 5), "b": ("B", "T", 5)}
    assert graph.outputs == {
        "out": ("B", "T", 26),
        "last": ("B", 2),
        "last_1": ("B", 2),
        "both": ("B", 3),
        "inner": ("B", "T", 4),
    }
    rng = np.random.default_rng(1)
    x = {name: normal(rng, 2, 7, 5) for name in ("a", "b")}
    outputs, _ = run(graph, x)
    for got, wanted in zip(outputs.values(), called(model, list(x.values())), strict=True):
        np.testing.assert_allclose(got, wanted, **TOLERANCE)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
@pytest.mark.parametrize("layers", ["norms", "distributed", "nested", "simple rnn", "separable", "activations"])
def test_files_hold_what_models_are(suffix, layers, tmp_path):
    model = sequential(*FRAMES[layers]())
    path = tmp_path / f"model.{suffix}"
    model.save(path)
    read, live = network_of(str(path)), network_of(model)
    assert [node.operator for node in read.nodes] == [node.operator for node in live.nodes]
    x = np.random.default_rng(0).standard_normal((2, 9, 5))
    np.testing.assert_array_equal(run(read, {"x": x})[0]["y"], run(live, {"x": x})[0]["y"])


def test_models_as_keras_2_wrote_them(tmp_path):
    """Lists in the place of Keras 3's dicts of calls, nested models counted from 1; hard_sigmoid of another slope."""
    from cgru.formats.keras import live
    from cgru.formats.keras.network import _network

    x, h = L.Input((None, 3), name="x"), L.Input((4,), name="h")
    a = L.Input((None, 3), name="a")
    inner = keras.Model(a, L.Dense(3, activation="hard_sigmoid", name="dense")(a), name="inner")
    chain = keras.Sequential([L.Input((None, 3)), L.Dense(3, name="other")], name="chain")
    model = randomized(keras.Model([x, h], L.GRU(4, name="gru")(inner(chain(inner(x))), initial_state=h)))
    node, store = live.described(model), live.store()
    node["class_name"] = "Model"
    calls = {
        "inner": [[["x", 0, 0, {}]], [["chain", 1, 0, {}]]],
        "chain": [[["inner", 1, 0, {}]]],
        "gru": [[["inner", 2, 0, {}], ["h", 0, 0, {}]]],
    }
    for layer in node["config"]["layers"]:
        layer["inbound_nodes"] = calls.get(layer["name"], [])
        for part in layer["config"].get("layers", []):
            part["inbound_nodes"] = [[["a", 0, 0, {}]]] if part["config"]["name"] == "dense" else []
    graph = _network(node, store, "model", 10**9)
    rng = np.random.default_rng(0)
    given = {"x": normal(rng, 2, 5, 3), "h": normal(rng, 2, 4)}
    np.testing.assert_allclose(run(graph, given)[0]["gru"], called(model, list(given.values()))[0], **TOLERANCE)
    store.version = 2
    slopes = {
        node.attributes["alpha"]
        for node in _network(node, store, "model", 10**9).nodes
        if node.operator == "HardSigmoid"
    }
    assert slopes == {0.2}


def test_indices():
    model = randomized(
        keras.Sequential([L.Input((None,), dtype="int32"), L.Embedding(9, 4), L.GRU(3, return_sequences=True)])
    )
    graph = network_of(model)
    assert graph.inputs == {"x": ("B", "T")}
    assert graph.types["x"] == np.int32
    x = np.random.default_rng(0).integers(0, 9, (2, 6)).astype(np.int32)
    np.testing.assert_allclose(run(graph, {"x": x})[0]["y"], called(model, x)[0], **TOLERANCE)
    model = sequential(L.Embedding(9, 4, mask_zero=True), L.Dense(2), inputs=(None,))  # indices as floating point
    np.testing.assert_allclose(
        run(network_of(model), {"x": x.astype(np.float32)})[0]["y"], called(model, x.astype(np.float64))[0], **TOLERANCE
    )


def test_types():
    """A network is of its model's type; Keras rounds inputs of float64 to float32 on the way."""
    graph = network_of(sequential(*FRAMES["nested"](), L.BatchNormalization()))
    assert {graph.types[name] for name in graph.shapes} == {np.dtype(np.float32)}
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("float64")
        graph, _, _ = compared(sequential(*FRAMES["nested"](), L.BatchNormalization(), L.ReLU(1.0)))
        assert {graph.types[name] for name in graph.shapes} == {np.dtype(np.float64)}
        keras.config.set_dtype_policy("mixed_bfloat16")
        graph = network_of(sequential(*FRAMES["nested"]()))
        assert {graph.types[name] for name in graph.shapes} == {np.dtype(np.float32)}
    finally:
        keras.config.set_dtype_policy(policy)


# --- What is refused --------------------------------------------------------------------------------------------------


class Own(L.Layer):
    """A layer of somebody's own."""

    def call(self, x):
        return x


@pytest.mark.parametrize(("layers", "message"), [
    (lambda: [L.LSTM(3, return_sequences=True, name="a"), Own(name="b"), L.Lambda(abs, name="c"), L.LSTM(2, name="d")],
     r"LSTM \('a', 'd'\); Own \('b'\); Lambda \('c'\)\. LSTM: .* not built yet"),
    (lambda: [L.Bidirectional(L.LSTM(3), name="a")], r"Bidirectional\(LSTM\) \('a'\)"),
    (lambda: [L.TimeDistributed(Own(name="b"), name="a")], r"Own \('a/b'\)"),
    (lambda: [keras.Sequential([L.Input((None, 5)), Own(name="b")], name="a")], r"Own \('a/b'\)"),
    (lambda: [L.SimpleRNN(3, activation="sigmoid", name="a")], r"SimpleRNN 'a': activation: expected 'tanh' or 'relu', got 'sigmoid'"),
    (lambda: [L.Dense(3, activation=abs, name="a")], r"Dense 'a': activation: expected one of linear, relu"),
    (lambda: [L.GRU(3, activation=abs, name="a")], r"a: activation: expected one of"),
    (lambda: [L.MaxPooling1D(2, padding="same", strides=3, name="a")], r"MaxPool 'a.*': auto_pad: expected pads"),
    (lambda: [L.Conv1D(2, 3, strides=2, padding="same", name="a")], r"Conv 'a.*': auto_pad: expected pads"),
])  # fmt: skip
def test_layers_that_are_refused(layers, message):
    with pytest.raises(cgru.FormatError, match=f"^Sequential: .*{message}"):
        network_of(sequential(*layers()))


def test_masks_are_refused():
    model = keras.Sequential([L.Input((None,)), L.Embedding(9, 4, mask_zero=True, name="words"), L.GRU(3, name="gru")])
    with pytest.raises(cgru.FormatError, match="mask_zero: expected False, got True of words beside gru"):
        network_of(model)


def test_other_things_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"model: expected a keras\.Model, got Dense"):
        network_of(L.Dense(3))

    class Mine(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(cgru.FormatError, match="Mine: expected a Sequential or Functional model, got Mine"):
        network_of(Mine())
    with pytest.raises(cgru.FormatError, match=r"begin the model with keras\.Input"):
        network_of(keras.Sequential([L.Dense(3)]))
    path = tmp_path / "model.weights.h5"
    sequential(L.Dense(3)).save_weights(path)
    with pytest.raises(cgru.FormatError, match="expected a whole model, got weights alone"):
        network_of(path)
    path = tmp_path / "model.keras"
    sequential(L.Dense(3)).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(cgru.FormatError, match=r"model\.keras: expected a whole Keras file"):
        network_of(path)

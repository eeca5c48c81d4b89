"""Keras for the tests: imported on the torch backend, and files written in the layouts of Keras 2 and 3."""

import json
import os
import warnings
from pathlib import Path

import h5py
import numpy as np

os.environ["KERAS_BACKEND"] = "torch"  # before the import
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its own imports', by version
    import keras

KERAS_WARNINGS = ["ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"]
"""Raised within Keras' torch backend."""

# functions with an exact counterpart; the names are Keras'
FUNCTIONS = ["tanh", "sigmoid", "relu", "softsign", "softplus", "linear", "elu", "leaky_relu", "hard_sigmoid"]


def output(model, x, **arguments):
    """What Keras computes, as a NumPy array; it would take arrays of float64 as float32."""
    return keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(x, x.dtype.name), **arguments))


def randomized(layer, seed=0):
    """The same layer with small random weights, biases too."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.uniform(-0.5, 0.5, array.shape).astype(array.dtype) for array in layer.get_weights()])
    return layer


def save_legacy(model, path):
    """A whole model's .h5 as Keras 3 still writes it."""
    model.save(path)  # warns through the logger
    return path


def save_keras_2(path, layers, version="2.15.0", functional=False, sequential_list=False):
    """A whole model's .h5 in the layout of Keras 2, by h5py alone.

    `layers` holds (class name, config, {weight's name: array}) in order; names of weights as Keras 2 lists them.
    """
    nodes = [{"class_name": kind, "config": config} for kind, config, _ in layers]
    if functional:
        names = [config["name"] for _, config, _ in layers]
        for node, name, before in zip(nodes, names, [None, *names], strict=False):
            node["name"] = name
            node["inbound_nodes"] = [[[before, 0, 0, {}]]] if before else []
    config = nodes if sequential_list else {"name": "model", "layers": nodes}
    tree = {"class_name": "Functional" if functional else "Sequential", "config": config}
    with h5py.File(path, "w") as file:
        file.attrs["keras_version"] = version.encode()
        file.attrs["backend"] = b"tensorflow"
        file.attrs["model_config"] = json.dumps(tree).encode()
        weights = file.create_group("model_weights")
        weights.attrs["layer_names"] = [config["name"].encode() for _, config, _ in layers]
        for _, layer, arrays in layers:
            group = weights.create_group(layer["name"])
            group.attrs["weight_names"] = [name.encode() for name in arrays]
            for name, array in arrays.items():
                group.create_dataset(name, data=array)
    return Path(path)

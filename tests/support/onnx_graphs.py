"""ONNX models for the tests: one GRU node of any attributes, and what ONNX Runtime answers."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper


def value(name, shape=None, kind=TensorProto.FLOAT):
    return helper.make_tensor_value_info(name, kind, shape)


def model(nodes, inputs, outputs, constants, opset=14):
    """A model of nodes, names of inputs with their shapes, names of outputs, and constant arrays."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [value(name, shape, kind) for name, (shape, kind) in inputs.items()],
        [value(name) for name in outputs],
        [a if isinstance(a, TensorProto) else numpy_helper.from_array(a, name) for name, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def weights(rng, inputs=3, hidden=4, directions=1, bias=True, bound=0.7):
    shapes = {"W": (directions, 3 * hidden, inputs), "R": (directions, 3 * hidden, hidden)}
    if bias:
        shapes["B"] = (directions, 6 * hidden)
    return {name: rng.uniform(-bound, bound, shape).astype(np.float32) for name, shape in shapes.items()}


def one_gru(arrays, inputs=("X", "W", "R", "B"), opset=14, name="one", extra=(), graph_inputs=None, **attributes):
    """A model of one GRU node; inputs that no array gives are the graph's."""
    inputs = [i if i in arrays or i not in "WRB" else "" for i in inputs]
    node = helper.make_node("GRU", inputs, ["Y", "Y_h"], name=name, **attributes)
    kinds = {"X": TensorProto.FLOAT, "L": TensorProto.INT32, "H0": TensorProto.FLOAT}
    shapes = {"X": [None, None, arrays["W"].shape[-1]], "L": [None], "H0": [None, None, arrays["R"].shape[-1]]}
    given = graph_inputs or [i for i in inputs if i in kinds and i not in arrays]
    return model([*extra, node], {i: (shapes[i], kinds[i]) for i in given}, ["Y", "Y_h"], arrays, opset)


def session(proto, optimized=True):
    """Where not optimized, each node computes what it says, float16 rounded between two of them."""
    options = onnxruntime.SessionOptions()
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    data = proto if isinstance(proto, str) else proto.SerializeToString()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def side_by_side(y):
    """(T, D, B, H) as (T, B, D*H)."""
    return np.concatenate(list(np.moveaxis(y, 1, 0)), axis=-1)

"""Compiled programs against the ONNX standard's own node cases: what runs is right, what does not is refused."""

from collections import Counter

import numpy as np
import pytest
from onnx import TensorProto, numpy_helper

import cgru
from cgru.engines.host.program.elements import PARAMETERS, UNARY
from cgru.model.interpret import run
from cgru.model.nodes import OPERATORS

from ..support import compiled
from ..support.networks import Net
from ..support.onnx_cases import node_cases
from .test_onnx_cases import known_here, to_array

FIXED = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "GRU": (1, 2, 3), "RNN": (1, 2, 3), "Gemm": (1,), "MatMul": (1,),
    "BatchNormalization": (1, 2, 3, 4), "Gather": (0,), "ScatterND": (1,),
}  # fmt: skip
"""Inputs that a program wants constant, as trained weights are."""

LEAST = 533
"""Cases that run; they may rise."""


def trained(model, given):
    """The model with weights in it, and the inputs that are left."""
    for node in model.graph.node:
        for position in FIXED.get(node.op_type, ()):
            name = node.input[position] if position < len(node.input) else ""
            if name in given and len(given) > 1:
                model.graph.initializer.append(numpy_helper.from_array(given.pop(name), name))
                del model.graph.input[[value.name for value in model.graph.input].index(name)]
    return model, given


def refusal(case):
    """Why a case cannot be run; None where it was, and gave what the standard says."""
    missing = sorted({node.op_type for node in case.model.graph.node} - OPERATORS.keys() - {"Constant"})
    if missing:
        return f"operators {', '.join(missing)}"
    for inputs, expected in case.data_sets:
        if any(array is None or isinstance(array, list) for array in inputs):
            return "inputs that are no arrays"
        model, given = trained(*known_here(case.model, [to_array(array) for array in inputs]))
        try:
            net = cgru.Network.from_onnx(model, states={})
            got = net(as_taken(net, given))
        except (cgru.FormatError, ValueError) as error:
            return f"{type(error).__name__}: {error}"
        got = got if isinstance(got, dict) else dict(zip(net.outputs, [got], strict=True))
        for value, array in zip(case.model.graph.output, map(to_array, expected), strict=True):
            assert got[value.name].shape == array.shape, case.name
            tolerance = {"rtol": max(case.rtol, 1e-5), "atol": max(case.atol, 1e-6)}
            np.testing.assert_allclose(got[value.name], array, err_msg=case.name, **tolerance)
            assert got[value.name].dtype == (np.float32 if array.dtype.kind == "f" else array.dtype), case.name
    return None


def as_taken(net, given):
    """Arrays as the network takes them: floating point ones are float32."""
    return {name: a.astype(np.float32) if (a := given[name]).dtype.kind == "f" else a for name in net.inputs}


def test_the_standards_cases(capsys):
    found, refused = Counter(), {}
    for case in node_cases():
        if not {node.op_type for node in case.model.graph.node} & OPERATORS.keys():
            continue
        reason = refusal(case)
        found["run" if reason is None else "refused"] += 1
        if reason is not None:
            refused[case.name] = reason
    with capsys.disabled():
        print(f"\n{found['run']} cases run as programs; {found['refused']} refused:")
        for name, reason in sorted(refused.items(), key=lambda item: item[1]):
            print(f"  {name}: {reason[:150]}")
    assert found["run"] >= LEAST, found


SPECIAL = np.array(
    [0, -0.0, 1, -1, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-30, -1e-30, 3e38, -3e38, 1e10, -1e10, 88, 89, 100, -88, -100, -104,
     20, -20, 9, -9, 6, np.inf, -np.inf, np.nan], np.float32,
)  # fmt: skip
"""Numbers at the edges of functions; subnormal ones are zero to compiled code."""

ATTRIBUTES = [
    {}, {"alpha": 0.5}, {"alpha": -0.5}, {"alpha": 0.3, "gamma": 2.0}, {"alpha": 0.3, "beta": 0.1},
    {"lambd": 1.2, "bias": 0.3}, {"approximate": "tanh"},
]  # fmt: skip


def as_numpy(net, given, dtype=np.float64, tolerance=2e-6):
    """Compare with the specification, number by number; NaN and infinities are where NumPy has them."""
    with np.errstate(all="ignore"):
        expected = run(net.graph, given, dtype=dtype)[0]["y0"].astype(np.float32)
        np.testing.assert_allclose(net(given).astype(np.float32), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("operator", [*UNARY, *PARAMETERS, "Gelu"])
def test_functions_of_special_numbers(operator):
    ran = 0
    for attributes in ATTRIBUTES:
        net = Net(0, 22)
        x = net.input("x", SPECIAL.shape, TensorProto.BOOL if operator == "Not" else TensorProto.FLOAT)
        try:
            net = cgru.Network.from_onnx(net.model(net.op(operator, x, **attributes)))
        except cgru.FormatError:  # an attribute that it has not
            continue
        as_numpy(net, {"x": SPECIAL.astype(bool) if operator == "Not" else SPECIAL})
        ran += 1
    assert ran or operator == "Swish"  # which is newer than the operator sets here


PAIRS = [
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "PRelu", "Equal", "Greater", "GreaterOrEqual", "Less",
    "LessOrEqual", "Where", "And", "Or", "Xor",
]  # fmt: skip


@pytest.mark.parametrize("operator", PAIRS)
def test_pairs_of_special_numbers(operator):
    a, b = (array.ravel() for array in np.meshgrid(SPECIAL, SPECIAL))
    logical = operator in ("And", "Or", "Xor")
    net, kind = Net(0), TensorProto.BOOL if logical else TensorProto.FLOAT
    x, y = (net.input(name, a.shape, kind) for name in "xy")
    inputs = [net.op("Greater", x, y), x, y] if operator == "Where" else [x, y]
    net = cgru.Network.from_onnx(net.model(net.op(operator, *inputs, **({"fmod": 1} if operator == "Mod" else {}))))
    as_numpy(net, {"x": a.astype(bool), "y": b.astype(bool)} if logical else {"x": a, "y": b})


ROWS = [
    [1, 2, np.inf], [1, np.nan, 3], [np.nan, np.inf, 1], [-np.inf] * 3, [np.inf] * 3, [3e38] * 3, [1e-30] * 3,
    [0] * 3, [-0.0, 0, -0.0], [1e4, -1e4, 0], [2, 2, 1], [1, 2, 2],
]  # fmt: skip
ALONG = [
    "Softmax", "LogSoftmax", "ArgMax", "ArgMin", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceProd", "ReduceL1",
    "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare",
]  # fmt: skip


@pytest.mark.parametrize("operator", ALONG)
@pytest.mark.parametrize("axis", [0, 1])
def test_special_numbers_along_axes(operator, axis):
    for row in ROWS:
        x = np.array([row] * 5, np.float32)
        x = x if axis else x.T.copy()
        net = Net(0)
        of = {"axis": axis} if operator in ALONG[:4] else {"axes": [axis]}
        net = cgru.Network.from_onnx(net.model(net.op(operator, net.input("x", x.shape), **of)))
        as_numpy(net, {"x": x}, np.float32)


@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("axes", [1, 2])
def test_convolutions(operator, axes):
    """Kernels, strides, dilations, groups and paddings together, beside ONNX Runtime."""
    ran, rng = 0, np.random.default_rng(axes)
    for seed in range(120):
        kernel, strides, dilations = (rng.integers(1, 4, axes).tolist() for _ in range(3))
        pads, sizes = rng.integers(0, 3, 2 * axes).tolist(), rng.integers(1, 9, axes).tolist()
        group, batch, out = int(rng.choice([1, 2, 4])), int(rng.integers(1, 3)), 4 * int(rng.integers(1, 3))
        net = Net(seed)
        x = net.input("x", [batch, 4, *sizes])
        w = net.weight(*((out, 4 // group) if operator == "Conv" else (4, out // group)), *kernel)
        y = net.op(operator, x, w, net.weight(out), kernel_shape=kernel, strides=strides, dilations=dilations,
                   group=group, pads=pads)  # fmt: skip
        model = net.model(net.op("LeakyRelu", y))
        try:
            net = cgru.Network.from_onnx(model)
        except cgru.FormatError:  # nothing is left
            continue
        compiled.as_specified(net, {"x": rng.standard_normal((batch, 4, *sizes)).astype(np.float32)}, model)
        ran += 1
    assert ran > 80


def test_pooling():
    """With ceil_mode, beside the specification; ONNX Runtime's mean of what is behind the end is its own."""
    ran, rng = 0, np.random.default_rng(0)
    for seed in range(120):
        kernel, strides, sizes = (rng.integers(1, most, 2).tolist() for most in (4, 4, 9))
        net, dilations = Net(seed, 19), rng.integers(1, 3, 2).tolist()
        mean = bool(rng.integers(2))
        attributes = {"count_include_pad": int(rng.integers(2))} if mean else {}
        y = net.op("AveragePool" if mean else "MaxPool", net.input("x", [2, 3, *sizes]), kernel_shape=kernel,
                   strides=strides, dilations=dilations, ceil_mode=int(rng.integers(2)),
                   pads=[int(rng.integers(0, k)) for k in kernel * 2], **attributes)  # fmt: skip
        try:
            net = cgru.Network.from_onnx(net.model(y))
        except cgru.FormatError:
            continue
        with np.errstate(invalid="ignore"):
            compiled.as_specified(net, {"x": rng.standard_normal((2, 3, *sizes)).astype(np.float32)})
        ran += 1
    assert ran > 80


REFUSED = {
    "7 axes": (lambda net: net.op("Tanh", net.input("x", [2] * 7)), "at most 6 axes"),
    "33 inputs": (lambda net: net.op("Sum", *(net.input(f"x{i}", [2]) for i in range(33))), "at most 32 inputs"),
    "uint16": (lambda net: net.op("Cast", net.input("x", [2], TensorProto.UINT16), to=1), "got uint16"),
    "integers added": (
        lambda net: net.op("Cast", net.op("Add", *[net.input("x", [2], TensorProto.INT64)] * 2), to=1),
        "floating point",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_program_has_is_refused_at_loading(case):
    write, message = REFUSED[case]
    net = Net(0)
    y = write(net)
    with pytest.raises(cgru.FormatError, match=message):
        cgru.Network.from_onnx(net.model(y))

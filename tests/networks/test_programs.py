"""Compiled programs against the ONNX standard's own node cases: what runs is right, what does not is refused."""

from collections import Counter

import numpy as np
from onnx import numpy_helper

import cgru
from cgru.model.nodes import OPERATORS

from ..support.onnx_cases import node_cases
from .test_onnx_cases import known_here, to_array

FIXED = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "GRU": (1, 2, 3), "RNN": (1, 2, 3), "Gemm": (1,), "MatMul": (1,),
    "BatchNormalization": (1, 2, 3, 4), "Gather": (0,), "ScatterND": (1,),
}  # fmt: skip
"""Inputs that a program wants constant, as trained weights are."""

LEAST = 600
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

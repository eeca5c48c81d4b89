"""Every operator against the ONNX standard's own node cases: inputs and outputs of one node, or of its written-out form."""

from collections import Counter

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

import cgru
from cgru.formats.onnx.network import from_onnx
from cgru.model.interpret import run
from cgru.model.nodes import OPERATORS
from cgru.model.nodes.table import NEWEST

from ..support.onnx_cases import node_cases

LEAST = {"run": 664, "nodes": 593}
"""Cases that run, and those among them of one node; they may rise."""


def cases():
    return [case for case in node_cases() if {n.op_type for n in case.model.graph.node} & OPERATORS.keys()]


def to_array(value):
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def known_here(model, inputs):
    """A model whose inputs are constants where an operator must know them, as the shape of a Reshape, and the rest."""
    model = onnx.ModelProto.FromString(model.SerializeToString())
    names = [value.name for value in model.graph.input]
    fixed = set()
    for node in model.graph.node:
        row = OPERATORS.get(node.op_type)
        positions = row.known if row is not None else ()
        fixed |= {name for i, name in enumerate(node.input) if i in positions}
    given = dict(zip(names, inputs, strict=True))
    for name in fixed & given.keys():
        model.graph.initializer.append(numpy_helper.from_array(given.pop(name), name))
        del model.graph.input[[value.name for value in model.graph.input].index(name)]
    for entry in model.opset_import:
        if entry.domain == "" and entry.version > NEWEST:
            entry.version = NEWEST  # which changed types alone since then
    return model, given


def refusal(case):
    """Why a case cannot be run; None where it was, and gave what the standard says."""
    model = case.model
    missing = sorted({n.op_type for n in model.graph.node} - OPERATORS.keys())
    if missing:
        return f"operators {', '.join(missing)}"
    for inputs, expected in case.data_sets:
        if any(array is None or isinstance(array, list) for array in inputs):
            return "inputs that are no arrays"
        inputs = [to_array(array) for array in inputs]
        model, given = known_here(case.model, inputs)
        try:
            graph = from_onnx(model, states={})
        except cgru.FormatError as error:
            return str(error)
        outputs, _ = run(graph, {name: given[name] for name in graph.inputs}, {}, dtype=np.float32)
        for value, array in zip(case.model.graph.output, map(to_array, expected), strict=True):
            got = outputs[value.name]
            assert got.shape == array.shape, case.name
            tolerance = {"rtol": max(case.rtol, 1e-5), "atol": max(case.atol, 1e-6)}
            np.testing.assert_allclose(got, array, err_msg=case.name, **tolerance)
            assert got.dtype == (np.float32 if array.dtype.kind == "f" else array.dtype), case.name
    return None


def test_the_standards_cases(capsys):
    found = Counter()
    refused = {}
    for case in cases():
        reason = refusal(case)
        found["run" if reason is None else "refused"] += 1
        found["nodes"] += reason is None and len(case.model.graph.node) == 1
        if reason is not None:
            refused[case.name] = reason
    with capsys.disabled():
        print(f"\n{found['run']} cases run, {found['nodes']} of them of one node; {found['refused']} refused:")
        for name, reason in sorted(refused.items(), key=lambda item: item[1]):
            print(f"  {name}: {reason[:150]}")
    assert all(found[key] >= least for key, least in LEAST.items()), found

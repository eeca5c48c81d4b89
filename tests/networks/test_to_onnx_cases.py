"""The ONNX standard's node cases, read, written and read again, and beside ONNX Runtime."""

import numpy as np
import pytest

import cgru
from cgru.formats.onnx.network import from_onnx
from cgru.formats.onnx.writing import to_onnx
from cgru.model.interpret import run

from ..support import onnx_graphs
from .test_onnx_cases import cases, known_here, to_array

onnxruntime = pytest.importorskip("onnxruntime")

LEAST = {"written": 895, "beside": 885}
"""Cases that are written, and those among them that ONNX Runtime runs."""

NOT_THERE = ("NOT_IMPLEMENTED", "not defined for empty set with bool type")
"""What ONNX Runtime says of types that it has not."""


def beside(model, values):
    """What ONNX Runtime makes of a model; None where it has not all of its types."""
    try:
        return onnx_graphs.session(model).run(None, values)
    except Exception as error:
        if not any(reason in str(error) for reason in NOT_THERE):
            raise
        return None


def test_the_standards_cases():
    found = dict.fromkeys(LEAST, 0)
    for case in cases():
        inputs, _ = case.data_sets[0]
        if any(array is None or isinstance(array, list) for array in inputs):
            continue
        proto, values = known_here(case.model, [to_array(array) for array in inputs])
        try:
            graph = from_onnx(proto, states={})
        except cgru.FormatError:
            continue
        model = to_onnx(graph)
        again = from_onnx(model, states={})
        values = {name: values[name] for name in graph.inputs}
        with np.errstate(all="ignore"):  # some cases have infinite inputs
            outputs, _ = run(graph, values, {}, dtype=np.float32)
            outputs_again, _ = run(again, values, {}, dtype=np.float32)
        found["written"] += 1
        results = beside(model, values)
        found["beside"] += results is not None
        for position, value in enumerate(model.graph.output):
            array = outputs[value.name]
            np.testing.assert_allclose(outputs_again[value.name], array, rtol=1e-5, atol=1e-6, err_msg=case.name)
            if results is not None:
                tolerance = {"rtol": max(case.rtol, 1e-4), "atol": max(case.atol, 1e-5)}
                np.testing.assert_allclose(results[position], array, err_msg=case.name, **tolerance)
    assert all(found[key] >= least for key, least in LEAST.items()), found

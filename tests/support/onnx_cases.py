"""The ONNX standard's own cases of nodes: models of one operator, with inputs and outputs."""

import functools
import warnings


@functools.cache
def node_cases():
    """All of them: who asks the standard for one operator's would get no others in the same process."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(collect_testcases(None))

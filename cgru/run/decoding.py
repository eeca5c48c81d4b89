"""Decoding: the index that a network gives is its next input, until one that ends it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks
from cgru.model.nodes import movement
from cgru.run import frames

if TYPE_CHECKING:
    from cgru.model.graph import Graph
    from cgru.run.network import NetworkStream
    from cgru.types import Array


def choice(graph: Graph) -> tuple[str, str]:
    """The output that is an ArgMax over a row's logits, and these; ValueError where there is none, or not one."""
    producers = graph.producers
    found = []
    for name in graph.outputs:
        node = producers.get(name)
        while node is not None and (
            (node.operator in movement.OPERATORS and node.row.moves) or node.operator == "Cast"
        ):
            node = producers.get(node.inputs[0])
        if node is not None and node.operator == "ArgMax":
            found.append((name, node.inputs[0]))
    if len(found) != 1:
        raise ValueError(
            "decode: expected a network with one output that is an ArgMax, got "
            f"{len(found)} among {checks.listed(graph.outputs)}"
        )
    return found[0]


def with_logits(graph: Graph, logits: str) -> Graph:
    """The network with one more output."""
    if logits in graph.outputs:
        return graph
    return replace(graph, outputs={**graph.outputs, logits: graph.shapes[logits]})


def decode(
    stream: NetworkStream, start: Any, stop: Any, limit: int, seed: Any, temperature: Any
) -> Array | list[Array]:
    """See `NetworkStream.decode`."""
    graph, ready = stream._net.graph, stream._ready
    limit = checks.integer("limit", limit, 1)
    stop = None if stop is None else checks.integer("stop", stop, 0)
    output, logits = choice(graph)
    names = list(graph.inputs)
    form = stream._inputs[0]
    rows = stream.numbers.shape[0]
    if len(names) != 1 or form.dtype.kind not in "iu" or math.prod(int(size) for size in form.shape) != rows:
        raise ValueError(f"decode: expected a network whose one input is an index, got {graph.inputs}")
    if stream.delay:
        raise ValueError(f"decode: expected a network that does not look ahead, got a delay of {stream.delay} frames")
    tokens = np.array(start)
    single = stream._batch_size is None
    if tokens.shape not in ((), (rows,)) or tokens.dtype.kind not in "iu":
        raise ValueError(f"start: expected an integer, or {rows} of them, got {start!r}")
    first = np.broadcast_to(tokens, (rows,)).astype(form.dtype).reshape(form.shape)
    frames.checked(form, first, {}, ready.compiled.program.limits)
    sampling = None
    if seed is not None or temperature is not None:
        temperature = 1.0 if temperature is None else float(temperature)
        if not 0 < temperature < np.inf:
            raise ValueError(f"temperature: expected a positive number, got {temperature}")
        seed = (
            int(np.random.default_rng().integers(2**63)) if seed is None else checks.integer("seed", seed, 0, 2**63 - 1)
        )
        sampling = (seed, temperature)
    twin = stream if sampling is None else _sampling(stream, logits)
    values = np.array(first.reshape(rows), np.int64)
    chosen = list(twin._net.graph.outputs).index(output if sampling is None else logits)
    bound = []
    for i, own in enumerate(twin._outputs):
        shape = tuple(int(size) for size in own.shape)
        if i != chosen:
            bound.append((np.empty(shape, own.dtype), own.time, own.rows))
        elif sampling is None:
            if math.prod(shape) != rows:
                raise ValueError(f"decode: expected one index a row, got {checks.describe(shape)}")
            bound.append((np.empty(rows, np.int64), -1, 0))
        else:
            bound.append((np.empty((rows, math.prod(shape) // rows), np.float32), -1, 0))
    indices = np.empty((limit, rows), np.int64)
    lengths = twin._decode(limit, values, (values, -1, 0), bound, chosen, stop, indices, sampling)
    if twin is not stream:
        stream.state = twin.state
    found = [indices[: lengths[row], row].copy() for row in range(rows)]
    return found[0] if single else found


def _sampling(stream: NetworkStream, logits: str) -> Any:
    """The stream of a network that gives its logits, too, in the same state."""
    if stream._twin is None:
        net = stream._net
        other = type(net)._of(with_logits(net.graph, logits), net.dtype, net.precise)
        stream._twin = type(stream)(other, stream._batch_size)
    stream._twin.state = stream.state
    return stream._twin

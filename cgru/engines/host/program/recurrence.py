"""Recurrent layers: over time, where their states are the rows'; or over an axis of a frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.engines.host import packed
from cgru.engines.host.program import side_by_side
from cgru.engines.host.program.plan import Use, View
from cgru.model.nodes import stack
from cgru.model.spec import from_options
from cgru.model.stacks import value_of
from cgru.model.value import Value

if TYPE_CHECKING:
    from cgru.engines.host.program.lowering import Compiler, Lower
    from cgru.model.graph import Node
    from cgru.model.layer import Layer


OPEN = 100.0
"""The argument of a gate that stands open: its sigmoid is 1, and that of its negative nothing beside any number."""


def gru(compiler: Compiler, node: Node) -> None:
    """A GRU of ONNX's, or a whole model, layer by layer."""
    own = node.operator == stack.NAME
    initial = node.inputs[1] if own and len(node.inputs) > 1 else ""
    if not own:
        initial = node.inputs[5] if len(node.inputs) > 5 else ""
        if len(node.inputs) > 4 and node.inputs[4]:
            compiler.refuse("sequences of one length", "sequence_lens")
    parameters = node.inputs[2:] if own else node.inputs[1:4]
    data = [name for name in parameters if name and compiler.constant(name) is None]
    if data:
        compiler.refuse("weights that are constant", f"{data[0]!r}, which is data")
    known = compiler.options.get("values", {}).get(node.name)
    value = known or (plain(compiler, node) if node.operator == "RNN" else value_of(compiler.graph, node))
    spec = value.spec
    x = compiler.view(node.inputs[0])
    if spec.batch_first:
        x = x.transposed((1, 0, 2))
    over_time = compiler.streams and compiler.graph.timing.roles.get(node.name) == "recurrent"
    start = compiler.view(initial) if initial else None
    states = spec.num_layers * spec.directions, x.shape[1], spec.hidden_size
    if start is not None and not own and spec.batch_first:
        start = start.transposed((1, 0, 2))
    weights = packed.prepare(value.stack).weights
    wanted = len(node.outputs) > 1 and bool(node.outputs[1])
    ends = compiler.new(states, node.outputs[1] if wanted else node.name)
    kept = None
    if over_time and start is not None and start.buffer.space == "state":
        kept, start = start, None  # the network says itself what its states become
    elif over_time and initial in compiler.from_states:
        pass  # the same, by way of other nodes: each frame starts from what they compute
    elif over_time:
        kept = View(compiler.put_fresh(np.zeros(states, np.float32), node.name), 0, states, ends.strides)
        known_start = compiler.constant(initial) if initial else None
        if known_start is not None:
            whole = known_start.transpose((1, 0, 2)) if not own and spec.batch_first else known_start
            compiler.fresh[-1] = np.broadcast_to(whole, states).astype(np.float32).ravel()
            start = None
        compiler.keep_view(ends, kept.buffer)
    for k in range(spec.num_layers):
        steps, lines, _ = x.shape
        out = compiler.new((steps, lines, spec.directions, spec.hidden_size), node.outputs[0])
        layers = value.stack.layers[k]
        small = all(map(side_by_side.is_small, layers, weights[k * len(layers) :]))
        reads_gaps = small and (not over_time or x.buffer.space in ("arena", "ring"))
        if not reads_gaps and ((x.strides[2] != 1 and x.shape[2] > 1) or x.buffer.space not in ("arena", "ring")):
            x = compiler.copied(x)
        for d in range(spec.directions):
            index = k * spec.directions + d
            made = looked_up(compiler, x, weights[index]) if k == 0 and not small else None
            one(compiler, weights[index], x if made is None else made, out, d, start, kept, ends, index,
                spec.reverse or d == 1, over_time, layers[d] if small else None, made is not None)  # fmt: skip
        x = View(out.buffer, 0, (steps, lines, spec.directions * spec.hidden_size),
                 (out.strides[0], out.strides[1], 1))  # fmt: skip
    if own:
        if spec.merge == "sum":
            halves = [x.part(2, d * spec.hidden_size, spec.hidden_size) for d in range(2)]
            x = compiler.elementwise("add", compiler.new(halves[0].shape, node.outputs[0]), *halves)
        compiler.views[node.outputs[0]] = x.transposed((1, 0, 2)) if spec.batch_first else x
    else:
        # (T, D, B, H), or (B, T, D, H)
        order = (1, 0, 2, 3) if spec.batch_first else (0, 2, 1, 3)
        compiler.views[node.outputs[0]] = out.transposed(order)
    if wanted:
        compiler.views[node.outputs[1]] = ends.transposed((1, 0, 2)) if not own and spec.batch_first else ends


def looked_up(compiler: Compiler, x: View, weights: Any) -> View | None:
    """What a layer makes of inputs that are rows of a table: rows of a table of that, if it saves as many weights."""
    step = next((one for one in compiler.steps if one.written.view.buffer is x.buffer), None)
    if step is None or step.kind != "lookup" or x.buffer.space != "arena":
        return None
    count, inputs, rows = step.sizes
    table = compiler.numbers(step.read[1].view) if step.read[1] else None
    aligned = not any(place % inputs for place in (x.inside, *x.strides[:2]))
    if table is None or inputs != x.shape[2] or rows > inputs or x.strides[2] != 1 or not aligned:
        return None
    products = weights.products(table.reshape(rows, inputs))
    if products is None:
        return None
    width = products.shape[1]
    out = compiler.new((count, width))
    compiler.emit("lookup", Use(out), step.read[0], Use(compiler.put_constant(products)), sizes=(count, width, rows))
    strides = (*(stride // inputs * width for stride in x.strides[:2]), 1)
    return View(out.buffer, x.inside // inputs * width, (*x.shape[:2], width), strides)


def plain(compiler: Compiler, node: Node) -> Value:
    """The GRU that a plain RNN is: its gates stand open, reset at 1 and update at 0, to the last bit."""
    w, r, b = (compiler.constant(name) if name else None for name in (*node.inputs[1:4], "")[:3])
    assert w is not None
    assert r is not None
    hidden, number = r.shape[2], len(w)
    functions = {activation.lower() for activation in node.attributes["activations"] or ("Tanh",)}
    if len(functions) > 1:
        compiler.refuse("one activation for both directions", " and ".join(sorted(functions)))
    if node.attributes["clip"] is not None:
        compiler.refuse("no clip", node.attributes["clip"])
    parameters = {}
    for d, end in enumerate(("", "_reverse")[:number]):
        bias = np.zeros(2 * hidden, np.float32) if b is None else b[d]
        for key, matrix in (("weight_ih_l0", w[d]), ("weight_hh_l0", r[d])):
            parameters[key + end] = np.concatenate([np.zeros((2 * hidden, matrix.shape[1]), np.float32), matrix])
        open_gates = np.repeat(np.array([OPEN, -OPEN], np.float32), hidden)
        parameters["bias_ih_l0" + end] = np.concatenate([open_gates, bias[:hidden]])
        parameters["bias_hh_l0" + end] = np.concatenate([np.zeros(2 * hidden, np.float32), bias[hidden:]])
    options = {
        "input_size": w.shape[2], "hidden_size": hidden, "activation": functions.pop(),
        "bidirectional": node.attributes["direction"] == "bidirectional",
        "reverse": node.attributes["direction"] == "reverse", "batch_first": node.attributes["layout"] == 1,
    }  # fmt: skip
    return Value.of(from_options("GRU", options), parameters)


def one(
    compiler: Compiler, weights: Any, x: View, out: View, direction: int, start: View | None, kept: View | None,
    ends: View, index: int, reverse: bool, over_time: bool, small: Layer | None, made: bool,
) -> None:  # fmt: skip
    """One direction of one layer."""
    steps, lines, inputs = x.shape
    hidden = ends.shape[2]

    def layer(states: View) -> Use:
        part = states.part(0, index, 1)
        if part.strides[2] != 1 and hidden > 1:
            part = compiler.copied(part)
        return Use(part, (0, part.strides[1]))

    given = None if start is None else layer(start)
    own = layer(kept) if kept is not None else given
    y = out.part(2, direction, 1)
    gates = 3 * hidden * (inputs + hidden)
    compiler.emit(
        "recurrent", Use(y, (out.strides[0] if not over_time else out.buffer.size, out.strides[1])),
        Use(x, (x.strides[0] if not over_time else x.buffer.size, *x.strides[1:])), own, layer(ends),
        given if kept is not None else None,
        sizes=(steps, lines), weights=weights, layer=small, over_time=over_time, reverse=reverse, made=made,
        work=2.0 * steps * lines * gates, weight_bytes=gates * 4,
    )  # fmt: skip


LOWER: dict[str, Lower] = {"GRU": gru, "RNN": gru, stack.NAME: gru}

"""Operators of single elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from cgru.engines.host.program.lowering import Compiler, Lower
    from cgru.engines.host.program.plan import View
    from cgru.model.graph import Node

UNARY = {
    "Neg": "neg", "Abs": "abs", "Sign": "sign", "Sqrt": "sqrt", "Exp": "exp", "Log": "log",
    "Reciprocal": "reciprocal", "Erf": "erf", "Floor": "floor", "Ceil": "ceil", "Round": "round", "Not": "not",
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Relu": "relu", "HardSwish": "hard_swish", "Softplus": "softplus",
    "Softsign": "softsign", "Mish": "mish",
}  # fmt: skip
"""Without parameters."""

PARAMETERS = {
    "LeakyRelu": ("leaky_relu", "alpha"), "Elu": ("elu", "alpha"), "Celu": ("celu", "alpha"),
    "ThresholdedRelu": ("thresholded_relu", "alpha"), "Swish": ("swish", "alpha"),
    "Selu": ("selu", "alpha", "gamma"), "HardSigmoid": ("hard_sigmoid", "alpha", "beta"),
    "Shrink": ("shrink", "lambd", "bias"),
}  # fmt: skip

BINARY = {
    "Add": "add", "Sub": "sub", "Mul": "mul", "Div": "div", "Pow": "pow", "Max": "max", "Min": "min", "Sum": "add",
    "Equal": "equal", "Greater": "greater", "GreaterOrEqual": "greater_or_equal", "Less": "less",
    "LessOrEqual": "less_or_equal", "And": "and", "Or": "or", "Xor": "xor", "PRelu": "prelu",
}  # fmt: skip
"""Of two operands, or of more, one after the other."""

COUNTING = ("Neg", "Abs", "Sign", "Relu", "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Clip", "PRelu")
"""What integers of data are refused for: float32 has those up to 2^24 alone."""


def _new(compiler: Compiler, node: Node, *operands: View) -> View:
    """Room for a result, which lies as the largest operand does."""
    shape = compiler.shape(node.outputs[0])
    for view in operands:
        if view.shape == shape and view.buffer.space != "constant" and 0 not in [
            stride for size, stride in zip(view.shape, view.strides, strict=True) if size > 1
        ]:  # fmt: skip
            order = sorted(range(len(shape)), key=lambda axis: (-abs(view.strides[axis]) * (shape[axis] > 1), axis))
            if view.contiguous:
                break
            return compiler.new(shape, node.outputs[0], order)
    return compiler.new(shape, node.outputs[0])


def check_type(compiler: Compiler, node: Node) -> None:
    """Refuse arithmetic with integers."""
    kind = compiler.graph.types[node.inputs[0]].kind
    if kind in "iu" and node.operator in COUNTING:
        compiler.refuse("arithmetic with floating point numbers", f"{compiler.graph.types[node.inputs[0]]}; use Cast")


def unary(compiler: Compiler, node: Node) -> None:
    """One operand."""
    check_type(compiler, node)
    x = compiler.view(node.inputs[0])
    code, *names = PARAMETERS.get(node.operator) or (UNARY[node.operator],)
    attributes = compiler.attributes(node)
    p, q = [float(attributes[name]) for name in names] + [0.0] * (2 - len(names))
    compiler.views[node.outputs[0]] = compiler.elementwise(code, _new(compiler, node, x), x, p=p, q=q)


def gelu(compiler: Compiler, node: Node) -> None:
    """By the error function, or nearly so."""
    x = compiler.view(node.inputs[0])
    code = "gelu_tanh" if node.attributes["approximate"] == "tanh" else "gelu"
    compiler.views[node.outputs[0]] = compiler.elementwise(code, _new(compiler, node, x), x)


def binary(compiler: Compiler, node: Node) -> None:
    """Operands that broadcast together, the first two, then each further one with the result."""
    check_type(compiler, node)
    code = BINARY[node.operator]
    if len(node.inputs) == 2 and node.operator != "Pow" and _by_parts(compiler, node, code):
        return
    views = [compiler.view(name) for name in node.inputs]
    if node.operator == "Pow":
        exponent = compiler.number(node.inputs[1])
        simple = {2.0: "square", 0.5: "sqrt", 1.0: "copy", -1.0: "reciprocal"}
        if exponent in simple and views[0].shape == compiler.shape(node.outputs[0]):
            code, views = simple[exponent], views[:1]
    out = _new(compiler, node, *views)
    compiler.elementwise(code if len(views) > 1 or node.operator == "Pow" else "copy", out, *views[:2])
    for view in views[2:]:
        compiler.elementwise(code, out, out, view)
    compiler.views[node.outputs[0]] = out


def _by_parts(compiler: Compiler, node: Node, code: str) -> bool:
    """Whether one operand, which lies in several places, is read from each of them; the result is there, then."""
    apart = [compiler.parts(name) for name in node.inputs]
    shape = compiler.shape(node.outputs[0])
    for place, parts in enumerate(apart):
        if parts is None or apart[1 - place] is not None or compiler.shape(node.inputs[place]) != shape:
            continue
        other = compiler.view(node.inputs[1 - place])
        out = _new(compiler, node, other)
        for at, part in parts:
            beside = other.broadcast(shape).parts(at)
            compiler.elementwise(code, out.parts(at), *((part, beside) if place == 0 else (beside, part)))
        compiler.views[node.outputs[0]] = out
        return True
    return False


def mean(compiler: Compiler, node: Node) -> None:
    """A sum, and a share of it."""
    views = [compiler.view(name) for name in node.inputs]
    out = _new(compiler, node, *views)
    compiler.elementwise("copy", out, views[0])
    for view in views[1:]:
        compiler.elementwise("add", out, out, view)
    number = compiler.put_constant(np.float32(len(views)))
    compiler.views[node.outputs[0]] = compiler.elementwise("div", out, out, number)


def modulo(compiler: Compiler, node: Node) -> None:
    """The remainder."""
    check_type(compiler, node)
    views = [compiler.view(name) for name in node.inputs]
    code = "fmod" if node.attributes["fmod"] else "mod"
    compiler.views[node.outputs[0]] = compiler.elementwise(code, _new(compiler, node, *views), *views)


def where(compiler: Compiler, node: Node) -> None:
    """One of two, by a condition."""
    views = [compiler.view(name) for name in node.inputs]
    out = _new(compiler, node, *views[1:], views[0])
    compiler.views[node.outputs[0]] = compiler.elementwise("where", out, *views)


def clip(compiler: Compiler, node: Node) -> None:
    """Bounds, of which each may be absent."""
    check_type(compiler, node)
    x = compiler.view(node.inputs[0])
    out = _new(compiler, node, x)
    bounds = [(code, name) for code, name in zip(("max", "min"), node.inputs[1:], strict=False) if name]
    for code, name in bounds:
        bound = compiler.view(name).reshaped(*(1,) * len(out.shape))
        assert bound is not None
        x = compiler.elementwise(code, out, x, bound)
    compiler.views[node.outputs[0]] = x if bounds else compiler.elementwise("copy", out, x)


def cast(compiler: Compiler, node: Node) -> None:
    """Numbers of another type: all are float32 here, so what changes is what the type cannot have."""
    x = compiler.view(node.inputs[0])
    before, after = (compiler.graph.types[name] for name in (node.inputs[0], node.outputs[0]))
    if after.kind == "b" and before.kind != "b":
        zero = compiler.put_constant(np.float32(0))
        equal = compiler.elementwise("equal", _new(compiler, node, x), x, zero)
        compiler.views[node.outputs[0]] = compiler.elementwise("not", _new(compiler, node, x), equal)
    elif after.kind in "iu" and before.kind == "f":
        compiler.views[node.outputs[0]] = compiler.elementwise("trunc", _new(compiler, node, x), x)
    else:  # those that change nothing are no steps
        compiler.refuse("casts of integers to types that hold them", f"{before} to {after}")


LOWER: dict[str, Lower] = {
    **dict.fromkeys((*UNARY, *PARAMETERS), unary),
    **dict.fromkeys(BINARY, binary),
    "Gelu": gelu,
    "Mean": mean,
    "Mod": modulo,
    "Where": where,
    "Clip": clip,
    "Cast": cast,
}

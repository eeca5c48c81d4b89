"""Products of rows with matrices of weights, and of two arrays that are both data."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import _program
from cgru.engines.host.program.plan import Section, Use, View, collapsed
from cgru.model.nodes.dense import parts
from cgru.model.precision import narrow

if TYPE_CHECKING:
    from cgru.engines.host.program.lowering import Compiler, Lower
    from cgru.model.graph import Node
    from cgru.types import Array


def sections(weights: Array, bias: Array | None, storage: str = "float32", limit: float | None = None) -> list[Section]:
    """A matrix (outputs, inputs) in blocks of three vectors, and of two for the rest."""
    lanes = _program.LANES
    outputs = len(weights)
    vectors = -(-outputs // lanes)
    threes = (
        max(0, vectors - 2) // 3 if vectors % 3 == 2 else max(0, vectors - 4) // 3 if vectors % 3 == 1 else vectors // 3
    )
    given = np.zeros(outputs, np.float32) if bias is None else np.asarray(bias, np.float32)
    numbers: Array = np.asarray(weights, np.float32)
    scale = None
    if storage != "float32":
        matrix = narrow("weights", numbers, storage)
        numbers, scale = matrix.numbers, matrix.scale
    found = []
    first = 0
    for width, blocks in ((3, threes), (2, -(-(vectors - 3 * threes) // 2))):
        size = width * blocks * lanes
        if not blocks:
            continue
        held = slice(first, min(first + size, outputs))

        def laid(array: Array, width: int = width, blocks: int = blocks, held: slice = held) -> Array:
            own = array[held]
            whole = np.zeros((width * blocks * lanes, *own.shape[1:]), own.dtype)
            whole[: len(own)] = own
            return np.ascontiguousarray(
                whole.reshape(blocks, width, lanes, *own.shape[1:]).swapaxes(0, 1).reshape(whole.shape)
            )

        scales = None if scale is None else laid(scale)
        found.append(Section(width, laid(numbers), laid(given), storage, scales, limit))
        first += size
    return found


def group_section(weights: Array, bias: Array | None) -> Section:
    """Matrices of groups (groups, outputs, inputs), each a block of one vector or two."""
    lanes = _program.LANES
    groups, outputs, inputs = weights.shape
    vectors = -(-outputs // lanes)
    numbers = np.zeros((vectors, groups, lanes, inputs), np.float32)
    biases = np.zeros((vectors, groups, lanes), np.float32)
    for v in range(vectors):
        own = weights[:, v * lanes : (v + 1) * lanes]
        numbers[v, :, : own.shape[1]] = own
        if bias is not None:
            biases[v, :, : own.shape[1]] = bias[:, v * lanes : (v + 1) * lanes]
    return Section(vectors, numbers.reshape(biases.size, inputs), biases.ravel(), "float32", None, None)


def storage_of(compiler: Compiler) -> tuple[str, float | None]:
    """How the weights of the node in hand are stored, and the bound of its inputs."""
    storage: tuple[str, float | None] = compiler.options.get("storage", lambda node: ("float32", None))(compiler.node)
    return storage


def in_groups(compiler: Compiler, outputs: int) -> bool:
    """Whether so many outputs, of each of several groups, are computed side by side."""
    return outputs <= 2 * _program.LANES and storage_of(compiler)[0] == "float32"


def product(
    compiler: Compiler, weights: Array, bias: Array | None, x: View, out: View,
    *, positions: tuple[Any, ...], pieces: tuple[int, int] = (0, 0), distances: tuple[int, int] = (0, 0),
    length: int = 0, next_group: tuple[int, int] = (0, 0), whole: View | None = None, axis: int = -1,
) -> None:  # fmt: skip
    """out := x W^T + bias at every position: sizes of at most two axes, and how far x and out move along each.

    Where all results of a node are these, `whole` is their view, and `axis` that of the outputs; what joins the product
    is computed at once, then. Weights (groups, outputs, inputs) are those of groups, whose inputs and outputs lie
    `next_group` behind each other.
    """
    sizes, of_x, of_out = positions
    after = compiler.fused[compiler.node.name].after if whole is not None and compiler.node else ()
    others = [_beside(compiler, function.other, whole, axis) for function in after if function.other and whole]
    along = [
        [stride for place, stride in enumerate(view.strides) if place in positions_of(view, axis)] for view in others
    ]
    sizes, strides = collapsed(sizes, of_x, of_out, *along)
    assert len(sizes) <= 2, sizes
    padding = [[0] * (2 - len(sizes)) + list(own) for own in strides]
    sizes = [1] * (2 - len(sizes)) + sizes
    places = iter(range(1, len(others) + 1))
    functions = [(one.code, one.p, one.q, next(places) if one.other else 0) for one in after]
    storage, limit = storage_of(compiler)
    if pieces[0]:  # kernels of float32 alone read inputs in pieces
        storage, limit = "float32", None
    if weights.ndim == 2 and storage == "float32" and len(weights) <= _program.LANES:
        weights, bias = weights[None], None if bias is None else bias[None]
    groups = (0, 0, 0)
    if weights.ndim == 3:
        groups = len(weights), *next_group
        parts = [group_section(weights, bias)]
        if not pieces[0]:
            pieces, length = (1, 1), weights.shape[2]
    else:
        parts = sections(weights, bias, storage, limit)
    compiler.emit(
        "product", Use(out, padding[1]), Use(x, padding[0]),
        *(Use(view, own) for view, own in zip(others, padding[2:], strict=True)), sizes=sizes, sections=parts,
        groups=groups, outputs=math.prod(weights.shape[:-1]), after=functions,
        pieces=pieces, distances=distances, length=length,
        work=2.0 * weights.size * math.prod(sizes), weight_bytes=weights.size * 4,
    )  # fmt: skip


def positions_of(view: View, axis: int) -> list[int]:
    """The axes of a product's results along which it has positions: all but outputs, and a convolution's batch."""
    return list(range(2, len(view.shape))) if axis == 1 else list(range(len(view.shape) - 1))


def _beside(compiler: Compiler, name: str, whole: View, axis: int) -> View:
    """A value as a product reads it beside its results, whose outputs lie side by side."""
    known = compiler.constant(name)
    if known is not None:
        known = np.broadcast_to(known.reshape(-1), whole.shape[axis : axis + 1 or None])
        shape = [1] * len(whole.shape)
        shape[axis] = len(known)
        return compiler.put_constant(known.reshape(shape)).broadcast(whole.shape)
    view = compiler.beside(name).broadcast(whole.shape)
    if view.strides[axis] == 1 or view.shape[axis] == 1:
        return view
    return compiler.copied(view, sorted(range(len(view.shape)), key=lambda place: -abs(whole.strides[place])))


def finish(compiler: Compiler, node: Node, out: View) -> None:
    """What joins a product, where its results are not all made at once."""
    for code, p, q, other in compiler.fused[node.name].after:
        compiler.elementwise(code, out, out, *([compiler.beside(other)] if other else []), p=p, q=q)


def rows_by(compiler: Compiler, x: View, weights: Array, bias: Array | None, name: str) -> View:
    """x (..., K) by weights (N, K): (..., N)."""
    if len(x.shape) == 1:
        found = rows_by(compiler, x._replace(shape=(1, *x.shape), strides=(0, *x.strides)), weights, bias, name)
        return found._replace(shape=found.shape[1:], strides=found.strides[1:])
    shape = (*x.shape[:-1], len(weights))
    out = compiler.new(shape, name)
    leading = collapsed(x.shape[:-1], x.strides[:-1], out.strides[:-1])[0]
    if (x.strides[-1] != 1 and x.shape[-1] > 1) or len(leading) > 2:
        x = compiler.copied(x)
    joined = compiler.node is not None and compiler.node.name in compiler.fused
    product(
        compiler, weights, bias, x, out, positions=(x.shape[:-1], x.strides[:-1], out.strides[:-1]),
        whole=out if joined else None,
    )  # fmt: skip
    return out


def matmul(compiler: Compiler, node: Node) -> None:
    """(..., M, K) by (K, N), or two arrays that are data."""
    left, right = node.inputs
    name = node.outputs[0]
    weights = compiler.constant(right)
    if weights is not None and weights.ndim == 2:
        fused = compiler.fused[node.name]
        x = compiler.view(left)
        compiler.views[fused.result] = rows_by(compiler, x, fused.weights(weights.T), fused.bias(None), fused.result)
        return
    if weights is not None and weights.ndim == 1:
        found = rows_by(compiler, compiler.view(left), weights[None], None, name)
        compiler.views[name] = found._replace(shape=found.shape[:-1], strides=found.strides[:-1])
        return
    weights = compiler.constant(left)
    x = compiler.view(right)
    if weights is not None and weights.ndim == 2 and len(x.shape) >= 2:
        order = (*range(len(x.shape) - 2), len(x.shape) - 1, len(x.shape) - 2)
        compiler.views[name] = rows_by(compiler, x.transposed(order), weights, None, name).transposed(order)
        return
    a, b = compiler.view(left), compiler.view(right)
    both_data(compiler, a, b, node)


def both_data(compiler: Compiler, a: View, b: View, node: Node) -> None:
    """(..., M, K) by (..., K, N)."""
    shape = compiler.shape(node.outputs[0])
    if len(a.shape) == 1:
        a = a._replace(shape=(1, *a.shape), strides=(0, *a.strides))
    if len(b.shape) == 1:
        b = b._replace(shape=(*b.shape, 1), strides=(*b.strides, 1))
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    a, b = (compiler.dense(view.broadcast((*batch, *view.shape[-2:]))) for view in (a, b))
    m, k, n = a.shape[-2], a.shape[-1], b.shape[-1]
    out = compiler.new(shape, node.outputs[0])
    count = math.prod(batch)
    compiler.emit(
        "multiply", Use(out, (m * n,)), Use(a, (m * k,)), Use(b, (k * n,)), sizes=(count, m, k, n),
        work=2.0 * count * m * k * n,
    )  # fmt: skip
    compiler.views[node.outputs[0]] = out


def gemm(compiler: Compiler, node: Node) -> None:
    """alpha A B + beta C."""
    attributes = node.attributes
    a, b, *c = node.inputs
    x, weights = compiler.view(a), compiler.constant(b)
    if attributes["transA"]:
        x = x.transposed((1, 0))
    addend = c[0] if c and c[0] else ""
    bias = None
    shape = compiler.shape(node.outputs[0])
    known = compiler.constant(addend) if addend else None
    if known is not None and (known.ndim < 2 or known.shape[0] == 1):
        bias, addend = attributes["beta"] * np.broadcast_to(known.reshape(-1), shape[-1:]), ""
    if weights is not None:
        matrix = attributes["alpha"] * (weights if attributes["transB"] else weights.T)
        if not addend:
            fused = compiler.fused[node.name]
            compiler.views[fused.result] = rows_by(compiler, x, fused.weights(matrix), fused.bias(bias), fused.result)
            return
        out = rows_by(compiler, x, matrix, bias, node.outputs[0])
    else:
        y = compiler.view(b)
        both_data(compiler, x, y.transposed((1, 0)) if attributes["transB"] else y, node)
        out = compiler.views[node.outputs[0]]
        if attributes["alpha"] != 1:
            compiler.elementwise("mul", out, out, compiler.put_constant(np.float32(attributes["alpha"])))
        if bias is not None:
            compiler.elementwise("add", out, out, compiler.put_constant(bias))
    if addend:
        more = compiler.view(addend)
        if attributes["beta"] != 1:
            factor = compiler.put_constant(np.float32(attributes["beta"]))
            more = compiler.elementwise("mul", compiler.new(more.shape), more, factor)
        compiler.elementwise("add", out, out, more)
    compiler.views[node.outputs[0]] = out


def einsum(compiler: Compiler, node: Node) -> None:
    """A linear layer, perhaps one for each of several groups: one of two operands is constant."""
    letters, result = parts(node.attributes["equation"], len(node.inputs))
    if len(letters) == 1:
        view = compiler.view(node.inputs[0])
        if set(letters[0]) != set(result):
            compiler.refuse("an equation of two operands, or one that moves axes", node.attributes["equation"])
        compiler.views[node.outputs[0]] = view.transposed([letters[0].index(letter) for letter in result])
        return
    constants = [compiler.constant(name) for name in node.inputs]
    if constants[0] is not None:
        letters, constants = letters[::-1], constants[::-1]
        data = node.inputs[1]
    else:
        data = node.inputs[0]
    (of_x, of_w), weights = letters, constants[1]
    x = compiler.view(data)
    summed = [letter for letter in of_x if letter in of_w and letter not in result]
    groups = [letter for letter in of_x if letter in of_w and letter in result]
    written = [letter for letter in of_w if letter not in of_x]
    kept = [letter for letter in of_x if letter not in of_w]
    if weights is None or not summed or not set(written + kept) <= set(result):
        compiler.refuse("an equation that is a linear layer, one operand constant", node.attributes["equation"])
    assert weights is not None
    size = dict(zip(of_x, x.shape, strict=True)) | dict(zip(of_w, weights.shape, strict=True))
    x = x.transposed([of_x.index(letter) for letter in (*groups, *kept, *summed)])
    joined = *x.shape[: len(groups) + len(kept)], math.prod(size[letter] for letter in summed)
    flat = x.reshaped(*joined)
    if flat is None or (flat.strides[-1] != 1 and flat.shape[-1] > 1):
        flat = compiler.copied(x).reshaped(*joined)
    assert flat is not None
    matrix = weights.transpose([of_w.index(letter) for letter in (*groups, *written, *summed)])
    width = math.prod(size[letter] for letter in written)
    matrix = matrix.reshape(*(size[letter] for letter in groups), width, -1)
    # groups stand before what each writes, so that results lie as most equations want them
    out = compiler.new(
        [*(size[letter] for letter in kept), *(size[letter] for letter in groups), width], node.outputs[0]
    )
    _by_group(compiler, flat, matrix, out, len(groups), len(kept))
    order = [*kept, *groups, *written]
    whole = out.reshaped(*(size[letter] for letter in order))
    assert whole is not None
    compiler.views[node.outputs[0]] = whole.transposed([order.index(letter) for letter in result])


def _by_group(compiler: Compiler, x: View, weights: Array, out: View, groups: int, kept: int) -> None:
    """out (kept..., groups..., N) := x (groups..., kept..., K) by weights (groups..., N, K)."""

    def without(view: View, axis: int, count: int) -> View:
        """The first element along some axes, and they gone."""
        shape, strides = (own[:axis] + own[axis + count :] for own in (view.shape, view.strides))
        return view._replace(shape=shape, strides=strides)

    def put(x: View, weights: Array, out: View, **more: Any) -> None:
        positions = x.shape[:-1], x.strides[:-1], out.strides[:-1]
        product(compiler, weights, None, x, out, positions=positions, **more)

    if groups == 1 and in_groups(compiler, weights.shape[1]):
        put(without(x, 0, 1), weights, without(out, kept, 1), next_group=(x.strides[0], out.strides[kept]))
        return
    for index in np.ndindex(*x.shape[:groups]):
        own, to = x, out
        for axis, place in enumerate(index):
            own, to = own.part(axis, place, 1), to.part(kept + axis, place, 1)
        put(without(own, 0, groups), weights[index], without(to, kept, groups))


LOWER: dict[str, Lower] = {"MatMul": matmul, "Gemm": gemm, "Einsum": einsum}

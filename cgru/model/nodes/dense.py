"""Products with matrices: Gemm, MatMul, and Einsum where it is one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cgru.model.nodes import sizes
from cgru.model.nodes.table import Attribute, Operator, Sizes, broadcast, require

if TYPE_CHECKING:
    from cgru.model.nodes.sizes import Size
    from cgru.types import Array


def gemm(a: Array, b: Array, c: Array | None = None, *, alpha: float, beta: float, transA: int, transB: int) -> Array:
    """alpha * A B + beta * C, A and B perhaps transposed."""
    product = alpha * ((a.T if transA else a) @ (b.T if transB else b))
    return product if c is None else product + beta * c


def gemm_shape(
    a: Sizes, b: Sizes, c: Sizes | None = None, *, alpha: float, beta: float, transA: int, transB: int
) -> Sizes:
    """(M, N) of (M, K) and (K, N)."""
    require(len(a) == 2 and len(b) == 2, "two axes of A and of B", f"{a} and {b}")
    rows, inner = reversed(a) if transA else a
    other, columns = reversed(b) if transB else b
    require(inner == other, f"{inner} rows of B as A has columns", other)
    require(
        c is None or broadcast((rows, columns), c) == (rows, columns), f"a C that broadcasts to ({rows}, {columns})", c
    )
    return rows, columns


def matmul_shape(a: Sizes, b: Sizes) -> Sizes:
    """(..., M, N) of (..., M, K) and (..., K, N); vectors are a row, or a column."""
    require(len(a) > 0 and len(b) > 0, "one axis or more", "a number")
    inner, other = a[-1], b[-1] if len(b) == 1 else b[-2]
    require(inner == other, f"{inner} rows of the second input, as the first has columns", b)
    return (*broadcast(a[:-2], b[:-2]), *a[-2:-1], *(b[-1:] if len(b) > 1 else ()))


def _matmul_over(a: Sizes, b: Sizes) -> tuple[int, ...]:
    return (len(a) - 1,)


def parts(equation: str, inputs: int) -> tuple[list[str], str]:
    """The letters of an equation's inputs, and of its result."""
    left, arrow, result = equation.replace(" ", "").partition("->")
    letters = left.split(",")
    if not arrow:
        joined = "".join(letters)
        result = "".join(sorted(letter for letter in set(joined) if joined.count(letter) == 1))
    whole = all(part.isascii() and (part.isalpha() or not part) for part in (*letters, result))
    once = all(len(set(part)) == len(part) for part in (*letters, result))
    require(
        whole and once and set(result) <= set("".join(letters)),
        "an equation of letters, each once in an input, as 'btgi,gih->btgh'", repr(equation),
    )  # fmt: skip
    require(len(letters) == inputs, f"an equation of {inputs} inputs", repr(equation))
    return letters, result


def einsum(*arrays: Array, equation: str) -> Array:
    """Sums of products over the letters that the result has not."""
    letters, result = parts(equation, len(arrays))
    return np.einsum(f"{','.join(letters)}->{result}", *arrays)


def einsum_shape(*shapes: Sizes, equation: str) -> Sizes:
    """The sizes of the result's letters."""
    letters, result = parts(equation, len(shapes))
    found: dict[str, object] = {}
    for part, shape in zip(letters, shapes, strict=True):
        require(len(part) == len(shape), f"{len(part)} axes for {part!r}", shape)
        for letter, size in zip(part, shape, strict=True):
            require(found.setdefault(letter, size) == size, f"{letter} of one size", f"{found[letter]} and {size}")
    return tuple(found[letter] for letter in result)  # type: ignore[misc]


def _einsum_over(*shapes: Sizes, equation: str) -> tuple[int, ...]:
    letters, result = parts(equation, len(shapes))
    return tuple(axis for axis, letter in enumerate(letters[0]) if letter not in result)


def _rows_by(a: Sizes, *others: Sizes | None, **attributes: object) -> tuple[int | Size, int]:
    """The elements of all inputs multiplied: more than products take."""
    return sizes.product(a) * sizes.product((others or ((),))[0] or ()), 0


OPERATORS = {
    "Gemm": Operator(
        gemm,
        gemm_shape,
        inputs=(2, 3),
        attributes={
            "alpha": Attribute("float", 1.0),
            "beta": Attribute("float", 1.0),
            "transA": Attribute("int", 0, choices=(0, 1)),
            "transB": Attribute("int", 0, choices=(0, 1)),
        },
        over=lambda a, b, c=None, *, transA, **attributes: (0 if transA else 1,),
        work=_rows_by,
    ),
    "MatMul": Operator(np.matmul, matmul_shape, ("n",), (2, 2), over=_matmul_over, work=_rows_by),
    "Einsum": Operator(
        einsum,
        einsum_shape,
        ("n",),
        (1, 2),
        attributes={"equation": Attribute("text")},
        over=_einsum_over,
        work=_rows_by,
    ),
}

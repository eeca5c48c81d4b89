"""ATen's arithmetic, comparisons, products with matrices, and operators that reduce axes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.formats.aten.activations import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cgru.formats.aten.program import Program, Tensor


# --- Elements ---------------------------------------------------------------------------------------------------------


def binary(operator: str, turned: bool = False) -> Callable[..., Any]:
    """Of two values, one of them perhaps a number, in the type of the result; `alpha` is a factor of the second."""

    def write(p: Program, a: Any, b: Any, alpha: float = 1) -> Any:
        first, second = p.cast(a, p.dtype), p.cast(b, p.dtype)
        if alpha != 1:
            second = p.op("Mul", second, p.constant(p.number(alpha), p.dtype))
        return p.op(operator, *((second, first) if turned else (first, second)))

    return write


def compared(operator: str, negated: bool = False) -> Callable[..., Any]:
    """A comparison of two values, or of one with a number."""

    def write(p: Program, a: Tensor, b: Any) -> Any:
        dtype = common(a, b)
        found = p.op(operator, p.cast(a, dtype), p.cast(b, dtype))
        return p.op("Not", found) if negated else found

    return write


def common(a: Tensor, b: Any) -> np.dtype[Any]:
    """The type in which two values are compared, as torch and NumPy promote them."""
    if hasattr(b, "dtype"):
        return a.dtype if a.dtype.kind == "f" and b.dtype.kind != "f" else np.result_type(a.dtype, b.dtype)
    if isinstance(b, float) and a.dtype.kind != "f":
        return np.dtype(np.float32)
    return np.dtype(np.int64) if a.dtype.kind == "b" and not isinstance(b, bool) else a.dtype


def divide(p: Program, a: Any, b: Any, rounding_mode: str | None = None) -> Any:
    """a / b, perhaps rounded down."""
    if rounding_mode not in (None, "floor") or (rounding_mode and p.dtype.kind != "f"):
        raise p.refused("floating point numbers and a rounding_mode None or 'floor'", rounding_mode)
    result = binary("Div")(p, a, b)
    return p.op("Floor", result) if rounding_mode else result


def logical(operator: str) -> Callable[..., Any]:
    """Of values as bool."""

    def write(p: Program, *values: Tensor) -> Any:
        return p.op(operator, *(p.cast(value, np.dtype(bool)) for value in values))

    return write


def bits(operator: str) -> Callable[..., Any]:
    """A bitwise operator of bool."""

    def write(p: Program, *values: Tensor) -> Any:
        if p.dtype.kind != "b":
            raise p.refused("bool", p.dtype)
        return logical(operator)(p, *values)

    return write


def unary(operator: str) -> Callable[..., Any]:
    """Of each element, of integers as floating point numbers where the result is one."""
    return lambda p, x: p.op(operator, p.cast(x, p.dtype))


def where(p: Program, condition: Tensor, a: Any, b: Any) -> Any:
    """One value or the other."""
    return p.op("Where", condition, p.cast(a, p.dtype), p.cast(b, p.dtype))


def power(p: Program, a: Any, b: Any) -> Any:
    """a ** b."""
    return p.op("Pow", p.cast(a, p.dtype), p.cast(b, p.dtype))


# --- Products ---------------------------------------------------------------------------------------------------------


def linear(p: Program, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    """x W' + b."""
    y = p.op("MatMul", x, transposed(p, weight))
    return y if bias is None else p.op("Add", y, bias)


def transposed(p: Program, weight: Tensor) -> str:
    """W', as a constant where W is one."""
    if weight.array is not None:
        return p.constant(np.ascontiguousarray(weight.array.T))
    return str(p.op("Transpose", weight, perm=(1, 0)))


def added_product(p: Program, c: Tensor, a: Tensor, b: Tensor, beta: float = 1, alpha: float = 1) -> Any:
    """beta C + alpha A B."""
    parts = []
    for value, factor in ((p.op("MatMul", a, b), alpha), (c.name, beta)):
        parts.append(value if factor == 1 else p.op("Mul", value, p.constant(p.number(factor), p.dtype)))
    return p.op("Add", *parts)


def product(p: Program, a: Tensor, b: Tensor) -> Any:
    """A B."""
    return p.op("MatMul", a, b)


def einsum(p: Program, equation: str, values: Sequence[Tensor], path: Any = None) -> Any:
    """Sums of products."""
    if len(values) > 2:
        raise p.refused("one or two values", len(values))
    return p.op("Einsum", *values, equation=equation)


# --- Axes -------------------------------------------------------------------------------------------------------------


def reduced(operator: str) -> Callable[..., Any]:
    """Over some axes, or all."""

    def write(p: Program, x: Tensor, axes: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
        axes = [axes] if isinstance(axes, int) else axes
        axes = tuple(axes) if axes else tuple(range(len(x.shape)))
        value = p.cast(x, p.dtype)
        return p.op(operator, value, axes=axes, keepdims=int(keepdim)) if axes else value

    return write


def extreme(operator: str, index: str) -> Callable[..., Any]:
    """The extreme of an axis and where it is."""

    def write(p: Program, x: Tensor, axis: int, keepdim: bool = False) -> Any:
        return (
            p.op(operator, x, axes=(axis,), keepdims=int(keepdim)),
            p.op(index, x, axis=axis, keepdims=int(keepdim)),
        )

    return write


def place(operator: str) -> Callable[..., Any]:
    """Where the extreme of an axis is, or that of all elements."""

    def write(p: Program, x: Tensor, axis: int | None = None, keepdim: bool = False) -> Any:
        if axis is None:
            return p.op("Squeeze", p.op(operator, p.op("Reshape", x, shape=(-1,)), axis=0), axes=(0,))
        return p.op(operator, x, axis=axis, keepdims=int(keepdim))

    return write


def variance(root: bool) -> Callable[..., Any]:
    """The variance of axes, or its root; `correction` is what is taken from the number of elements."""

    def write(
        p: Program, x: Tensor, axes: Any = None, *, correction: float | None = None, keepdim: bool = False
    ) -> Any:
        axes = tuple(axis % len(x.shape) for axis in axes) if axes else tuple(range(len(x.shape)))
        sizes = [x.shape[axis] for axis in axes]
        if not all(isinstance(size, int) for size in sizes):
            raise p.refused("axes of sizes that are known", sizes)
        count = int(np.prod(sizes))
        centred = p.op("Sub", x, p.op("ReduceMean", x, axes=axes))
        total = p.op("ReduceSumSquare", centred, axes=axes, keepdims=int(keepdim))
        result = p.op("Div", total, p.constant(count - (1 if correction is None else correction), x.dtype))
        return p.op("Sqrt", result) if root else result

    return write


def norm(p: Program, x: Tensor, order: Any = 2, axes: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """The 1-norm or 2-norm of axes."""
    if order not in (1, 2):
        raise p.refused("a norm of order 1 or 2", order)
    return reduced(f"ReduceL{int(order)}")(p, x, axes, keepdim)


OPERATORS = {
    "add.Tensor": binary("Add"),
    "add.Scalar": binary("Add"),
    "sub.Tensor": binary("Sub"),
    "sub.Scalar": binary("Sub"),
    "rsub.Tensor": lambda p, a, b, alpha=1: binary("Sub")(p, b, a, alpha),
    "rsub.Scalar": lambda p, a, b, alpha=1: binary("Sub")(p, b, a, alpha),
    "mul": binary("Mul"),
    "div": divide,
    "true_divide": divide,
    "floor_divide": lambda p, a, b: divide(p, a, b, "floor"),
    "remainder": binary("Mod"),
    "maximum": binary("Max"),
    "minimum": binary("Min"),
    "pow": power,
    "square": lambda p, x: p.op("Mul", x, x),
    "eq": compared("Equal"),
    "ne": compared("Equal", negated=True),
    "lt": compared("Less"),
    "le": compared("LessOrEqual"),
    "gt": compared("Greater"),
    "ge": compared("GreaterOrEqual"),
    "logical_and": logical("And"),
    "logical_or": logical("Or"),
    "logical_xor": logical("Xor"),
    "logical_not": logical("Not"),
    "bitwise_and": bits("And"),
    "bitwise_or": bits("Or"),
    "bitwise_xor": bits("Xor"),
    "bitwise_not": bits("Not"),
    "where.self": where,
    "where.ScalarOther": where,
    "where.ScalarSelf": where,
    "where.Scalar": where,
    "masked_fill": lambda p, x, mask, value: where(p, mask, value, x),
    "neg": unary("Neg"),
    "abs": unary("Abs"),
    "sign": unary("Sign"),
    "sgn": unary("Sign"),
    "sqrt": unary("Sqrt"),
    "rsqrt": lambda p, x: p.op("Reciprocal", p.op("Sqrt", p.cast(x, p.dtype))),
    "reciprocal": unary("Reciprocal"),
    "exp": unary("Exp"),
    "log": unary("Log"),
    "log1p": lambda p, x: p.op("Log", p.op("Add", x, p.constant(1, x.dtype))),
    "erf": unary("Erf"),
    "floor": plain("Floor"),
    "ceil": plain("Ceil"),
    "round.default": plain("Round"),
    "linear": linear,
    "addmm": added_product,
    "baddbmm": added_product,
    "mm": product,
    "bmm": product,
    "mv": product,
    "dot": product,
    "matmul": product,
    "einsum": einsum,
    "mean.default": lambda p, x, dtype=None: reduced("ReduceMean")(p, x),
    "mean.dim": reduced("ReduceMean"),
    "sum.default": lambda p, x, dtype=None: reduced("ReduceSum")(p, x),
    "sum.dim_IntList": reduced("ReduceSum"),
    "amax": reduced("ReduceMax"),
    "amin": reduced("ReduceMin"),
    "max.default": reduced("ReduceMax"),
    "min.default": reduced("ReduceMin"),
    "prod.default": lambda p, x, dtype=None: reduced("ReduceProd")(p, x),
    "prod.dim_int": reduced("ReduceProd"),
    "logsumexp": reduced("ReduceLogSumExp"),
    "linalg_vector_norm": norm,
    "norm.ScalarOpt_dim": norm,
    "max.dim": extreme("ReduceMax", "ArgMax"),
    "min.dim": extreme("ReduceMin", "ArgMin"),
    "argmax": place("ArgMax"),
    "argmin": place("ArgMin"),
    "var.correction": variance(root=False),
    "std.correction": variance(root=True),
    "var.dim": lambda p, x, axes, unbiased=True, keepdim=False: variance(root=False)(
        p, x, axes, correction=int(unbiased), keepdim=keepdim
    ),
    "std.dim": lambda p, x, axes, unbiased=True, keepdim=False: variance(root=True)(
        p, x, axes, correction=int(unbiased), keepdim=keepdim
    ),
}

"""Sizes of axes that are known when a network runs: names such as T, and sums and products of them.

A `Size` is its text, so that shapes print and compare as ("T", "B", 40) does, and it has integers' arithmetic, so that
arrays of sizes go through the same operators as arrays of integers. A name stands for a size of 1 and more.
"""

from __future__ import annotations

import ast
import operator
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
LONGEST = 200
"""Characters of a size's text: exporters' have ten."""


class Quotient(NamedTuple):
    """What of a size is divided by an integer, rounded down."""

    size: Size
    divisor: int

    def __str__(self) -> str:
        inner = str(self.size)
        return f"({inner if NAME.fullmatch(inner) else f'({inner})'}//{self.divisor})"


Factor = str | Quotient
Terms = dict[tuple[Factor, ...], int]
"""A sum: the products of factors, sorted, and what each is multiplied by; () is the integer."""


class Size(str):
    """A size with at least one name in it.

    >>> t = Size("T")
    >>> (2 * t + 3 - t, t * Size("B"), (t + 1) // 2)
    ('T+3', 'B*T', '((T+1)//2)')
    >>> (t + 2) - t, (4 * t + 2) // 4, t == "T"
    (2, 'T', True)
    >>> ((t + 1) // 2).at({"T": 4})
    2
    """

    terms: Terms

    def __new__(cls, name: str) -> Size:
        """A name's size."""
        if not NAME.fullmatch(name) or len(name) > LONGEST:
            raise ValueError(f"expected a name of letters, digits and _ for an axis, got {name[:LONGEST]!r}")
        return cls._of({(name,): 1})

    @classmethod
    def _of(cls, terms: Terms) -> Size:
        products = sorted(terms, key=lambda product: (-len(product), [str(factor) for factor in product]))
        text = ""
        for product in products:
            count, names = terms[product], "*".join(str(factor) for factor in product)
            text += "-" if count < 0 else "+"
            text += names if abs(count) == 1 and names else f"{abs(count)}*{names}" if names else str(abs(count))
        if len(text) > LONGEST:
            raise ValueError(f"expected a size of at most {LONGEST} characters, got {text[:LONGEST]} ...")
        size = super().__new__(cls, text.removeprefix("+"))
        size.terms = terms
        return size

    def __reduce__(self) -> tuple[object, ...]:
        return parse, (str(self),)

    @property
    def names(self) -> frozenset[str]:
        """The names that it depends on."""
        found: set[str] = set()
        for product in self.terms:
            for factor in product:
                found |= {factor} if isinstance(factor, str) else factor.size.names
        return frozenset(found)

    def at(self, known: Mapping[str, int]) -> int:
        """The integer where names stand for these."""
        total = 0
        for product, count in self.terms.items():
            for factor in product:
                count *= known[factor] if isinstance(factor, str) else factor.size.at(known) // factor.divisor
            total += count
        return total

    def __add__(self, other: object) -> int | Size:  # type: ignore[override]
        terms = dict(self.terms)
        for product, count in _terms(other).items():
            terms[product] = terms.get(product, 0) + count
        return _made(terms)

    __radd__ = __add__

    def __mul__(self, other: object) -> int | Size:  # type: ignore[override]
        terms: Terms = {}
        for left, count in self.terms.items():
            for right, times in _terms(other).items():
                product = tuple(sorted((*left, *right), key=str))
                terms[product] = terms.get(product, 0) + count * times
        return _made(terms)

    __rmul__ = __mul__  # type: ignore[assignment]

    def __neg__(self) -> int | Size:
        return self * -1

    def __sub__(self, other: object) -> int | Size:
        return self + (other * -1 if isinstance(other, Size) else -_integer(other))

    def __rsub__(self, other: object) -> int | Size:
        return self * -1 + _integer(other)

    def __floordiv__(self, other: object) -> int | Size:
        divisor = _integer(other)
        if divisor < 1:
            raise ValueError(f"expected a divisor of 1 or more for the size {self}, got {divisor}")
        whole = {product: count // divisor for product, count in self.terms.items() if count % divisor == 0}
        rest = {product: count for product, count in self.terms.items() if count % divisor}
        left = _made(rest)
        if isinstance(left, int):
            return _made(whole) + left // divisor
        return _made(whole) + Size._of({(Quotient(left, divisor),): 1})

    def __lt__(self, other: object) -> bool:
        return sign(self - other) < 0

    def __gt__(self, other: object) -> bool:
        return sign(self - other) > 0

    def __le__(self, other: object) -> bool:
        return not self > other

    def __ge__(self, other: object) -> bool:
        return not self < other


def _integer(value: object) -> int:
    return operator.index(value)  # type: ignore[arg-type]


def _terms(value: object) -> Terms:
    return value.terms if isinstance(value, Size) else {(): _integer(value)}


def _made(terms: Terms) -> int | Size:
    terms = {product: count for product, count in terms.items() if count}
    return Size._of(terms) if terms.keys() - {()} else terms.get((), 0)


def sign(difference: int | Size) -> int:
    """-1, 0 or 1; TypeError where the names' sizes decide it."""
    if isinstance(difference, int):
        return (difference > 0) - (difference < 0)
    ones = at_least(difference)
    for direction in (1, -1):
        grows = all(count * direction > 0 for product, count in difference.terms.items() if product)
        if grows and ones * direction > 0:
            return direction
    raise TypeError(f"expected a size that is known, got one that depends on {', '.join(sorted(difference.names))}")


def equal(a: int | Size, b: int | Size) -> bool:
    """Whether two sizes are one, whatever the names stand for; TypeError where that depends on them."""
    return a == b or sign(a - b) == 0


def divided(a: int | Size, b: int | Size) -> int | Size | None:
    """a / b where that is whole, whatever the names stand for; None where it is not."""
    if isinstance(a, int) and isinstance(b, int):
        return a // b if b and a % b == 0 else None
    if isinstance(b, int) or len(b.terms) > 1:
        if a == b:
            return 1
        if isinstance(b, Size) or not b or any(count % b for count in _terms(a).values()):
            return None
        return a // b
    ((factors, count),) = b.terms.items()
    terms: Terms = {}
    for product, times in _terms(a).items():
        left = list(product)
        for factor in factors:
            if factor not in left:
                return None
            left.remove(factor)
        if times % count:
            return None
        terms[tuple(left)] = times // count
    return _made(terms)


OPERATIONS: dict[type, Callable[[int | Size, int | Size], int | Size]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


def parse(text: str) -> int | Size:
    """The size that a text means.

    >>> parse("((T+1)//2)*B-3")
    '((T+1)//2)*B-3'
    """
    if len(text) > LONGEST:
        raise ValueError(f"expected a size of at most {LONGEST} characters, got {len(text)}")

    def made(node: ast.expr) -> int | Size:
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            return OPERATIONS[type(node.op)](made(node.left), made(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -made(node.operand)
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.Name):
            return Size(node.id)
        raise ValueError(f"expected a size as T+1, got {text!r}")

    try:
        return made(ast.parse(text, mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError, ArithmeticError) as error:
        raise ValueError(f"expected a size as T+1, got {text!r}") from error


def resolved(sizes: Iterable[int | str], known: Mapping[str, int]) -> tuple[int, ...]:
    """Sizes where names stand for these."""
    return tuple(size.at(known) if isinstance(size, Size) else int(size) for size in sizes)


def at_least(size: int | Size) -> int:
    """The size where every name stands for 1."""
    return size.at(dict.fromkeys(size.names, 1)) if isinstance(size, Size) else size


def product(sizes: Iterable[int | Size]) -> int | Size:
    """Of all sizes."""
    total: int | Size = 1
    for size in sizes:
        total = total * size
    return total

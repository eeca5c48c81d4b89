"""Which inputs of a network are its states, and which outputs they come out of."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from cgru import checks
from cgru.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    from cgru.model.nodes.table import Sizes

MARKS = re.compile(r"(?:^|(?<=[^A-Za-z0-9]))(?:in|out|new)(?=[^A-Za-z0-9]|$)", re.IGNORECASE)
"""Words of names that say which side of a step a state is on."""


def stem(name: str) -> str:
    """A name without what says in or out.

    >>> stem("h_in") == stem("h_out") == stem("h.new") == stem("h")
    True
    """
    return re.sub(r"[^A-Za-z0-9]+", "_", MARKS.sub("", name)).strip("_").lower()


def paired(
    inputs: Mapping[str, Sizes],
    outputs: Mapping[str, Sizes],
    types: Mapping[str, np.dtype[Any]],
    states: Mapping[str, str] | None,
    source: str,
) -> dict[str, str]:
    """The pairs {input: output}: those given, or those found by shape, type and name.

    FormatError where given ones do not exist or do not fit, or where an input has more than one output of its name.
    """
    if states is not None:
        for name, result in states.items():
            if name not in inputs or result not in outputs:
                missing, known = (name, inputs) if name not in inputs else (result, outputs)
                raise FormatError(f"{source}: states: expected names of {checks.listed(known)}, got {missing!r}")
            if inputs[name] != outputs[result] or types[name] != types[result]:
                both = " and ".join(
                    f"{checks.describe(shapes[one])} {types[one]}"
                    for one, shapes in ((name, inputs), (result, outputs))
                )
                raise FormatError(
                    f"{source}: states: expected {name!r} and {result!r} of one shape and type, got {both}"
                )
        if len(set(states.values())) < len(states):
            raise FormatError(f"{source}: states: expected a different output for each input, got {dict(states)}")
        return dict(states)
    by_stem: dict[tuple[str, Sizes, str], list[str]] = {}
    for name, shape in outputs.items():
        by_stem.setdefault((stem(name), shape, str(types[name])), []).append(name)
    found: dict[str, str] = {}
    claimed: dict[str, list[str]] = {}
    for name, shape in inputs.items():
        candidates = by_stem.get((stem(name), shape, str(types[name])), []) if stem(name) else []
        if len(candidates) > 1:
            raise _ambiguous(
                source, f"{name!r}", f"the outputs {checks.listed(map(repr, candidates))}", name, candidates[0]
            )
        for result in candidates:
            found[name] = result
            claimed.setdefault(result, []).append(name)
    for result, names in claimed.items():
        if len(names) > 1:
            raise _ambiguous(source, f"{result!r}", f"the inputs {checks.listed(map(repr, names))}", names[0], result)
    return found


def _ambiguous(source: str, name: str, candidates: str, first: str, second: str) -> FormatError:
    return FormatError(
        f"{source}: states: expected one partner of {name}, got {candidates}; say which, as in "
        f"states={{{first!r}: {second!r}}}, or states={{}} for none"
    )

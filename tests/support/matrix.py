"""Matrices of which a part runs by default and the rest in the full run (`-m full`)."""

import itertools

import pytest


def thinned(every, **axes):
    """Parametrize a test over all combinations of values: every so many always run, the others in the full run.

    Those that always run are spread so that every value stands in some of them.
    """
    points = list(itertools.product(*map(range, map(len, axes.values()))))
    kept = [point for point in points if sum(point) % every == 0]
    for axis, (name, values) in enumerate(axes.items()):
        assert {point[axis] for point in kept} == set(range(len(values))), f"{name}: a value that never runs"
    parameters = [
        pytest.param(
            *(values[index] for values, index in zip(axes.values(), point, strict=True)),
            marks=[] if point in kept else pytest.mark.full,
        )
        for point in points
    ]
    return pytest.mark.parametrize(
        tuple(axes), parameters, ids=lambda value: str(value) if isinstance(value, dict) else None
    )

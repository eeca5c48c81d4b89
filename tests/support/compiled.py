"""Compiled networks beside their specification, and every way of running one beside the whole call."""

import numpy as np

from cgru.model.interpret import run

from . import onnx_graphs

CLOSE = 2e-5


def by_name(net, got):
    """Outputs as a dict, also where there is one."""
    return got if isinstance(got, dict) else dict(zip(net.outputs, [got], strict=True))


def near(got, expected, title=""):
    """As close as networks promise to be; NaN and infinities where they belong."""
    expected = np.asarray(expected)
    assert got.shape == expected.shape, (title, got.shape, expected.shape)
    finite = expected[np.isfinite(expected)] if expected.dtype.kind == "f" else expected
    scale = max(1, np.abs(finite.astype(np.float64)).max(initial=0))
    np.testing.assert_allclose(got / scale, expected / scale, atol=CLOSE, rtol=0, err_msg=title)


def same(got, expected, title=""):
    """The same bits, but for the payloads of NaN."""
    np.testing.assert_array_equal(got, expected, err_msg=title)


def as_specified(net, inputs, peer=None):
    """Run a network whole, beside the specification, and perhaps beside ONNX Runtime's session of the same model."""
    got = by_name(net, net(inputs))
    with np.errstate(all="ignore"):
        expected, _ = run(net.graph, inputs)
    for name, array in got.items():
        near(array, expected[name], name)
    if peer is not None:
        session = onnx_graphs.session(peer)
        results = session.run(None, {name: inputs[name] for name in (value.name for value in session.get_inputs())})
        for value, array in zip(session.get_outputs(), results, strict=True):
            if value.name in got:
                near(got[value.name], array, f"{value.name} beside ONNX Runtime")
    return got


def frames(net, name, array, first, size):
    """Some frames of a value."""
    axis = net.graph.time[name]
    return array if axis is None else array[(slice(None),) * axis + (slice(first, first + size),)]


def frame(net, name, array, t):
    """One frame of a value, without the axis of time."""
    axis = net.graph.time[name]
    return array if axis is None else array.take(t, axis)


def streamed(stream, net, inputs, lengths, by_step=False):
    """Outputs of a stream over chunks of some lengths, the delay taken off and what is left flushed out."""
    found = {name: [] for name in net.outputs}
    first = 0
    for length in lengths:
        piece = {name: frames(net, name, array, first, length) for name, array in inputs.items()}
        if by_step:
            assert length == 1
            got = by_name(net, stream.step({name: frame(net, name, array, 0) for name, array in piece.items()}))
            got = {
                name: array if net.graph.time[name] is None else np.expand_dims(array, net.graph.time[name])
                for name, array in got.items()
            }
        else:
            got = by_name(net, stream.process(piece))
        for name, array in got.items():
            found[name].append(array)
        first += length
    for name, array in by_name(net, stream.flush()).items():
        found[name].append(array)
    outputs = {}
    for name, pieces in found.items():
        axis = net.graph.time[name]
        if axis is None:
            outputs[name] = pieces[-1]
            continue
        whole = np.concatenate(pieces, axis)
        silent, kept = np.split(whole, [min(stream.delay, whole.shape[axis])], axis)
        assert not silent.any(), name
        outputs[name] = kept
    return outputs


def pooled(net, inputs, rng, rows, steps):
    """Outputs of a pool whose streams go on in random groups, each at its own pace; a row of it is a row of the batch."""
    pool = net.pool(rows + 2)
    ids = [pool.open() for _ in range(rows)]
    at = np.zeros(rows, int)
    batch = {name: net.graph.shapes[name].index(net.graph.batch) if net.graph.batch in net.graph.shapes[name] else None
             for name in (*net.inputs, *net.outputs)}  # fmt: skip
    found = [[] for _ in range(rows)]
    while (at < steps).any():
        waiting = np.flatnonzero(at < steps)
        chosen = rng.permutation(waiting)[: rng.integers(1, len(waiting) + 1)]
        given = {}
        for name, array in inputs.items():
            parts = []
            for row in chosen:
                own = array if batch[name] is None else array.take([row], batch[name])
                parts.append(frame(net, name, own, at[row]))
            where = _rows_axis(net, name, batch[name])
            given[name] = np.stack(parts) if where is None else np.concatenate(parts, where)
        got = by_name(net, pool.step([ids[row] for row in chosen], given))
        for k, row in enumerate(chosen):
            found[row].append({
                name: array[k] if (where := _rows_axis(net, name, batch[name])) is None else array.take([k], where)
                for name, array in got.items()
            })  # fmt: skip
        at[chosen] += 1
    return found


def _rows_axis(net, name, batch):
    if batch is None:
        return None
    time = net.graph.time[name]
    return batch - (time is not None and batch > time)

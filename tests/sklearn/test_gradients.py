"""What trains the estimators: gradients of the whole loss, the optimizer, schedules."""

import numpy as np
import pytest

import cgru
from cgru.sklearn import network, training


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("loss", "every_step"), [("cross_entropy", False), ("squared_error", False), ("squared_error", True)]
)
def test_gradients_are_central_differences(loss, bidirectional, every_step):
    rng = np.random.default_rng(0)
    gru = cgru.GRU(2, 4, num_layers=2, bidirectional=bidirectional, dtype=np.float64, rng=1)
    net = network.Network(gru, 3, every_step, rng)
    x, how = rng.standard_normal((5, 6, 2)), {"resets": rng.random((5, 6)) < 0.3}
    if not every_step:
        how["lengths"] = np.array([5, 1, 3, 5, 2, 4])
    weight = rng.uniform(0.5, 2, 6)
    if loss == "cross_entropy":
        criterion = network.cross_entropy(rng.integers(0, 3, 6), weight)
    else:
        shape = (5, 6, 3) if every_step else (6, 3)
        criterion = network.squared_error(rng.standard_normal(shape), weight[:, None])
    value, grads = net.loss(x, how, criterion, rng, 1)
    np.testing.assert_allclose(value, criterion(net(x, how, 1))[0], rtol=1e-14)
    weights = net.weights
    assert set(grads) == set(weights)
    for name, array in weights.items():
        for _ in range(4):
            at = tuple(rng.integers(0, n) for n in array.shape)
            moved = []
            for step in (1e-5, -1e-5):
                net.load(
                    {
                        **weights,
                        name: array
                        + step * np.eye(1, array.size, np.ravel_multi_index(at, array.shape)).reshape(array.shape),
                    }
                )
                moved.append(criterion(net(x, how, 1))[0])
            np.testing.assert_allclose((moved[0] - moved[1]) / 2e-5, grads[name][at], rtol=1e-6, atol=1e-9)


def test_adam_is_torchs():
    import torch

    rng = np.random.default_rng(0)
    start, grads = rng.standard_normal((3, 4)), rng.standard_normal((20, 3, 4))
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    adam, ours = training.Adam(), {"w": start}
    for grad in grads:
        theirs.grad = torch.tensor(grad)
        optimizer.step()
        ours = adam.step(ours, {"w": grad}, 0.01, 0.1)
    np.testing.assert_allclose(ours["w"], theirs.detach().numpy(), rtol=1e-12)


def test_clip():
    grads = {"a": np.full(4, 3.0), "b": np.full(4, 4.0, np.float32)}
    assert training.clip(grads, 1.0) == 10
    np.testing.assert_allclose(grads["a"], 0.3)
    np.testing.assert_allclose(grads["b"], 0.4, rtol=1e-6)
    assert training.clip(grads, None) == pytest.approx(1)
    np.testing.assert_allclose(grads["a"], 0.3)


@pytest.mark.parametrize(("schedule", "middle"), [("constant", 1), ("linear", 0.5), ("cosine", 0.5)])
def test_schedules(schedule, middle):
    rate = training.SCHEDULES[schedule]
    assert rate(0) == 1
    assert rate(0.5) == pytest.approx(middle)
    assert rate(1) == (1 if schedule == "constant" else 0)

"""Flax' own cells beside cgru's; `test_flax.py` runs this file in a process of its own."""

import jax
import numpy as np
from flax import linen as nn
from flax import nnx

import cgru

from .options import relative_error


def randomized(tree):
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jax.numpy.asarray(rng.uniform(-0.5, 0.5, leaf.shape), leaf.dtype), tree)


def test_equals_linen():
    x = np.random.default_rng(1).standard_normal((2, 6, 3)).astype(np.float32)
    rnn = nn.RNN(nn.GRUCell(4))
    params = randomized(rnn.init(jax.random.key(0), x))
    assert relative_error(cgru.from_flax(params)(x)[0], rnn.apply(params, x)) < 1e-6
    other = nn.RNN(nn.GRUCell(4, gate_fn=jax.nn.hard_sigmoid, activation_fn=jax.nn.softplus))
    gru = cgru.from_flax(params, activation="softplus", recurrent_activation=("hard_sigmoid", 1 / 6, 0.5))
    assert relative_error(gru(x)[0], other.apply(params, x)) < 1e-6
    both = nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4)))
    params = randomized(both.init(jax.random.key(0), x))
    assert relative_error(cgru.from_flax(params, bidirectional=True)(x)[0], both.apply(params, x)) < 1e-6

    class Model(nn.Module):
        @nn.compact
        def __call__(self, x):
            for _ in range(2):
                x = nn.RNN(nn.GRUCell(4))(x)
            return nn.Bidirectional(nn.RNN(nn.GRUCell(4)), nn.RNN(nn.GRUCell(4)))(x)

    params = randomized(Model().init(jax.random.key(0), x))
    y, _ = cgru.from_flax(params, ["GRUCell_0", "GRUCell_1"])(x)
    y, _ = cgru.from_flax(params, ["GRUCell_2", "GRUCell_3"], bidirectional=True)(y)
    assert relative_error(y, Model().apply(params, x)) < 1e-6
    boxed = nn.GRUCell(4, kernel_init=nn.with_partitioning(nn.initializers.lecun_normal(), (None, "x")))
    params = boxed.init(jax.random.key(0), x[:, 0, :1].repeat(4, 1), x[:, 0])
    kernel = cgru.from_flax(params).state_dict()["weight_ih_l0"][:4].T
    np.testing.assert_array_equal(kernel, params["params"]["ir"]["kernel"].unbox())


def test_equals_nnx():
    x = np.random.default_rng(1).standard_normal((2, 6, 3)).astype(np.float32)
    rngs = nnx.Rngs(0)
    rnn = nnx.RNN(nnx.GRUCell(3, 4, rngs=rngs, bias_init=nnx.initializers.normal()), rngs=rngs)
    state = nnx.state(rnn, nnx.Param)
    for params in (rnn, nnx.state(rnn), state, nnx.to_pure_dict(state), rnn.cell):
        assert relative_error(cgru.from_flax(params)(x)[0], rnn(x)) < 1e-6
    narrow = nnx.GRUCell(
        3, 4, rngs=rngs, param_dtype=jax.numpy.bfloat16, recurrent_kernel_init=nnx.initializers.normal()
    )
    gru = cgru.from_flax(narrow)
    assert gru.dtype == np.float32
    np.testing.assert_array_equal(gru.state_dict()["weight_hh_l0"].T, np.asarray(narrow.dense_h.kernel, np.float32))
    both = nnx.Bidirectional(nnx.RNN(nnx.GRUCell(3, 4, rngs=rngs)), nnx.RNN(nnx.GRUCell(3, 4, rngs=rngs)))
    assert relative_error(cgru.from_flax(both, bidirectional=True)(x)[0], both(x)) < 1e-6

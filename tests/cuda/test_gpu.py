"""What only a GPU can show; run with `pytest -m gpu` where CuPy, a driver and a device are.

The rest of the CUDA engine's tests run its kernels on the processor (tests/support/cuda_on_cpu.py). These hold the device to the
processor's results and to torch.nn.GRU's there, and try what has no likeness on a processor: streams, several devices.
"""

import itertools

import numpy as np
import pytest

import cgru

from ..support.options import BOUNDED, UNBOUNDED, Problem, points, relative_error

pytestmark = pytest.mark.gpu

TOLERANCE = {np.float64: 1e-12, np.float32: 1e-5}


@pytest.fixture(scope="module")
def cupy():
    return pytest.importorskip("cupy")


def check(cupy, problem, engine="auto", tolerance=None):
    model = problem.gru.to("cuda")
    h0 = cupy.asarray(problem.h0)
    y, h_n = model(cupy.asarray(problem.x), h0, lengths=problem.lengths, engine=engine)
    expected_y, expected_h = problem.expected()
    assert isinstance(y, cupy.ndarray)
    assert relative_error(cupy.asnumpy(y), expected_y) < (tolerance or TOLERANCE[problem.dtype])
    assert relative_error(cupy.asnumpy(h_n), expected_h) < (tolerance or TOLERANCE[problem.dtype])


@pytest.mark.parametrize(("hidden", "batch", "steps"), [(64, 1, 100), (128, 32, 100), (300, 64, 30), (1024, 8, 20)])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_as_torch_on_the_device(cupy, hidden, batch, steps, bidirectional):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no GPU here")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    module = torch.nn.GRU(40, hidden, num_layers=2, bidirectional=bidirectional).cuda()
    model = cgru.from_torch(module).to("cuda")
    x = torch.randn(steps, batch, 40, device="cuda", requires_grad=True)
    y, h_n = module(x)
    ours, last, tape = model.record(x.detach())
    assert relative_error(cupy.asnumpy(ours), y.detach().cpu().numpy()) < 1e-5
    assert relative_error(cupy.asnumpy(last), h_n.detach().cpu().numpy()) < 1e-5
    weight = torch.randn_like(y)
    (y * weight).sum().backward()
    grads = tape.backward(weight)
    wanted = {"x": x.grad, **{name: p.grad for name, p in module.named_parameters()}}
    for name, gradient in wanted.items():
        got = grads.x if name == "x" else grads[name]
        assert relative_error(cupy.asnumpy(got), gradient.cpu().numpy()) < 1e-4, name


@pytest.mark.parametrize("engine", ["steps", "fused"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_option_matrix(cupy, engine, dtype):
    for options, ragged in itertools.product(points(num_layers=[1]), (False, True)):
        check(cupy, Problem(options, batch=5, ragged=ragged, dtype=dtype), engine)


@pytest.mark.parametrize("engine", ["steps", "fused"])
def test_activations(cupy, engine):
    for function in BOUNDED + UNBOUNDED:
        check(cupy, Problem({"activation": function}), engine)
        check(cupy, Problem({"recurrent_activation": function, "reset_after": False}), engine)


@pytest.mark.parametrize("hidden", [1, 31, 32, 33, 96, 128, 137, 138, 256, 400, 512])
@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16"])
def test_sizes(cupy, hidden, precision):
    for batch, engine in itertools.product((1, 3, 70), ("steps", "fused")):
        problem = Problem({}, steps=20, batch=batch, hidden=hidden, dtype=np.float32)
        if precision != "float32":
            problem.gru = problem.gru.quantize(precision)
        check(cupy, problem, engine)


def test_every_kernel_loads(cupy):
    from cgru.engines.cuda import device, forward

    gpu = device.find(0)
    with gpu.use():
        for real, stored in (*((np.float32, s) for s in forward.STORED.values()), (np.float64, "Real")):
            for rows, kind, place in itertools.product((1, 4), ("after", "before"), ("resident", "streamed")):
                assert gpu.kernel(f"fused_{kind}_{place}_{rows}", np.dtype(real), stored).local_size_bytes == 0


def test_the_current_stream_is_used(cupy):
    """A call on a stream that waits for an event does not return late, and its result comes after the event."""
    problem = Problem({}, steps=50, batch=8, hidden=64, dtype=np.float32)
    model = problem.gru.to("cuda")
    x = cupy.asarray(problem.x)
    model(x)
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    before = cupy.cuda.Event()
    with stream:
        busy = cupy.zeros((4096, 4096), np.float32)
        for _ in range(50):
            busy = busy @ busy
        before.record(stream)
        y, _ = model(x)
        assert not before.done  # the call came back while what stands before it still runs
        stream.synchronize()
    problem.h0 = np.zeros_like(problem.h0)
    assert relative_error(cupy.asnumpy(y), problem.expected()[0]) < 1e-5


def test_dlpack_and_out(cupy):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch has no GPU here")
    gru = cgru.GRU(3, 8, rng=0)
    x = torch.randn(5, 4, 3, device="cuda")
    out = cupy.empty((5, 4, 8), np.float32)
    y, _ = gru.to("cuda")(x, out=out)
    assert y is out
    assert relative_error(cupy.asnumpy(out), gru(x.cpu().numpy())[0]) < 1e-5
    with pytest.raises(TypeError, match="in host memory"):
        gru.to("cuda")(x.cpu())
    with pytest.raises(TypeError, match="in a GPU's memory"):
        gru(cupy.asarray(x))


def test_streams_and_pools(cupy):
    gru = cgru.GRU(7, 13, num_layers=2, rng=0)
    x = np.random.default_rng(0).standard_normal((20, 4, 7)).astype(np.float32)
    expected, h_n = gru(x)
    stream = gru.to("cuda").stream(batch_size=4)
    y = [cupy.asnumpy(stream.step(cupy.asarray(v))) for v in x[:10]]
    y += [*cupy.asnumpy(stream.process(cupy.asarray(x[10:])))]
    assert relative_error(np.array(y), expected) < 1e-5
    assert relative_error(cupy.asnumpy(stream.state), h_n) < 1e-5
    pool = gru.to("cuda").pool(10)
    ids = [pool.open() for _ in range(4)]
    y = [cupy.asnumpy(pool.step(ids[::-1], cupy.asarray(v[::-1].copy())))[::-1] for v in x]
    assert relative_error(np.array(y), expected) < 1e-5


def test_several_devices(cupy):
    if cupy.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one GPU")
    gru = cgru.GRU(3, 8, rng=0)
    model = gru.to("cuda:1")
    assert model.device == "cuda:1"
    x = np.ones((5, 4, 3), np.float32)
    with cupy.cuda.Device(1):
        there = cupy.asarray(x)
    y, _ = model(there)
    assert y.device.id == 1
    assert relative_error(cupy.asnumpy(y), gru(x)[0]) < 1e-5
    with pytest.raises(ValueError, match="got an array on cuda:0"), cupy.cuda.Device(0):
        model(cupy.asarray(x))
    assert relative_error(cupy.asnumpy(gru.to("cuda:0").to("cuda:1")(there)[0]), gru(x)[0]) < 1e-5


def test_memory_does_not_grow_with_time(cupy):
    model = cgru.GRU(8, 32, rng=0).to("cuda")
    pool = cupy.get_default_memory_pool()
    used = []
    for steps in (200_000, 400_000):
        x = cupy.zeros((steps, 1, 8), np.float32)
        out = cupy.empty((steps, 1, 32), np.float32)
        pool.free_all_blocks()
        before = pool.total_bytes()
        model(x, out=out, engine="fused")
        used.append(pool.total_bytes() - before)
    assert used[1] < 1.2 * used[0] + (1 << 20)


def test_copies(cupy):
    import copy
    import pickle

    model = cgru.GRU(3, 8, rng=0).to("cuda")
    x = cupy.ones((5, 4, 3), np.float32)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(cupy.asnumpy(twin(x)[0]), cupy.asnumpy(model(x)[0]))

"""The operators cgru::gru and cgru::gru_backward, and the programs that hold them: compiled, exported, distributed."""

import copy
import io
import multiprocessing
import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch.nn.utils.rnn import pad_packed_sequence

import cgru.torch as bridge
from cgru.engines.host import training
from cgru.torch import dynamo, kept, operators

from ..support.bridge import pair, same

pytestmark = [  # PyTorch warns of its own compiler
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("DeprecationWarning", "UserWarning", "FutureWarning")
]


class Model(torch.nn.Module):
    """A layer among others, as models have it."""

    def __init__(self, gru):
        super().__init__()
        self.gru = gru

    def forward(self, x, h0=None):
        y, h_n = self.gru(x.tanh(), h0)
        return y.relu() + 1, h_n


def arguments(
    sizes,
    num_layers=1,
    bidirectional=False,
    batch_first=False,
    bias=True,
    one=False,
    state=False,
    lengths=None,
    seed=None,
    keep=True,
):
    """Those of a call of so many steps, inputs and units: each step and layer is traced, and differentiated twice."""
    steps, inputs, hidden = sizes
    theirs = torch.nn.GRU(inputs, hidden, num_layers, bias=bias, bidirectional=bidirectional)
    shape = [steps] if one else [2, steps] if batch_first else [steps, 2]
    x = torch.randn(*shape, inputs, requires_grad=True)
    h0 = torch.randn(num_layers * (1 + bidirectional), *([] if one else [2]), hidden, requires_grad=True)
    options = (num_layers, batch_first, bidirectional, 0.0 if seed is None else 0.4)
    lengths = None if lengths is None else torch.tensor(lengths(steps))
    seed = None if seed is None else torch.tensor(seed)
    return (x, h0 if state else None, list(theirs.parameters()), lengths, seed, *options, keep)


CASES = {
    "plain": {},
    "every option": {"bidirectional": True, "batch_first": True, "state": True},
    "layers": {"num_layers": 2, "bidirectional": True},
    "no bias, one sequence": {"bias": False, "one": True, "state": True},
    "lengths": {"bidirectional": True, "lengths": lambda steps: [steps, 1], "state": True},
    "dropout": {"num_layers": 2, "seed": 3},
    "nothing kept": {"keep": False},
}


def check_backward(given, *ways):
    y, h_n, kept = operators.gru(*given)
    y, h_n, kept = y.detach(), h_n.detach(), [tensor.detach() for tensor in kept]
    for grads in ((torch.randn_like(y), torch.randn_like(h_n)), (None, torch.randn_like(h_n))):
        torch.library.opcheck(operators.gru_backward, (*grads, kept, True, *given[:-1]), test_utils=ways)


@pytest.mark.parametrize("case", CASES)
def test_opcheck(case):
    given = arguments((2, 5, 4), **CASES[case])
    torch.library.opcheck(operators.gru, given)
    check_backward(given, "test_schema", "test_autograd_registration", "test_faketensor")


@pytest.mark.parametrize(
    "case",  # without those whose second derivatives depend on values, which are not traced
    [
        "every option",
        *(
            pytest.param(case, marks=pytest.mark.full)
            for case in ("plain", "layers", "no bias, one sequence", "nothing kept")
        ),
    ],
)
def test_opcheck_of_traced_gradients(case):
    check_backward(arguments((2, 5, 4), **CASES[case]), "test_aot_dispatch_dynamic")


@pytest.mark.parametrize("case", ["plain", "every option", "layers", "lengths", "nothing kept"])
def test_gradients_of_the_operator(case):
    x, h0, weights, *rest = arguments((2, 1, 2), **CASES[case])
    doubles = [None if t is None else t.detach().double().requires_grad_() for t in (x, h0, *weights)]
    leaves = [t for t in doubles if t is not None]

    def function(*leaves):
        leaves = iter(leaves)
        x, h0, *weights = [None if t is None else next(leaves) for t in doubles]
        return operators.gru(x, h0, weights, *rest)[:2]

    assert torch.autograd.gradcheck(function, leaves)
    assert torch.autograd.gradgradcheck(function, leaves)


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("options", [{}, {"bidirectional": True, "batch_first": True, "num_layers": 2}])
def test_compiled_whole(backend, options):
    """Results and gradients of compiled models, in one graph, for other inputs and changed weights too."""
    torch._dynamo.reset()
    ours, theirs = (Model(module) for module in pair(3, 4, **options))
    compiled = torch.compile(ours, fullgraph=True, backend=backend)
    h0 = torch.randn(options.get("num_layers", 1) * (1 + options.get("bidirectional", False)), 5, 4)
    for state in (None, h0):
        x = torch.randn(5, 5, 3, requires_grad=True)
        found = []
        for model, source in ((compiled, ours), (theirs, theirs)):
            y, h_n = model(x, state)
            found.append([y, h_n, *torch.autograd.grad(y.square().sum() + h_n.sum(), [x, *source.parameters()])])
        same(*found, 2e-5)
        with torch.no_grad():
            same(compiled(x, state), theirs(x, state), 2e-6)
        for model in (ours, theirs):
            model.gru.weight_hh_l0.data.mul_(0.5)


def test_compiled_alone_and_for_any_length():
    torch._dynamo.reset()
    ours, theirs = pair(3, 4)
    counter = CompileCounter()
    compiled = torch.compile(ours, fullgraph=True, dynamic=True, backend=counter)
    for steps in (5, 6, 9):
        x = torch.randn(steps, 2, 3)
        same(compiled(x), theirs(x), 2e-6)
    assert counter.frame_count == 1


def test_the_compiler_treats_other_modules_as_ever():
    torch._dynamo.reset()
    ours, theirs = (Model(module) for module in pair(3, 4))
    x = torch.randn(5, 2, 3)
    torch.compile(ours, fullgraph=True, backend="eager")(x)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="GRU"):
        torch.compile(theirs, fullgraph=True, backend="eager")(x)
    assert not torch._dynamo.config.allow_rnn


def test_compiled_calls_keep_their_weights(monkeypatch):
    torch._dynamo.reset()
    ours, _ = pair(3, 4)
    made = []
    make = kept._made
    monkeypatch.setattr(kept, "_made", lambda *a: (made.append(a), make(*a))[1])
    compiled = torch.compile(Model(ours), fullgraph=True, backend="aot_eager")
    for _ in range(3):
        compiled(torch.randn(5, 2, 3))[0].sum().backward()
    assert len(made) == 1


def test_compiled_with_dropout():
    """Masks follow torch's seed, and differ from call to call."""
    torch._dynamo.reset()
    ours = bridge.GRU(3, 40, 2, dropout=0.5)
    compiled = torch.compile(Model(ours), fullgraph=True, backend="aot_eager")
    x = torch.randn(6, 4, 3, requires_grad=True)

    def seeded(model):
        torch.manual_seed(3)
        y, _ = model(x)
        return [y, *torch.autograd.grad(y.square().sum(), [x, *ours.parameters()])]

    same(seeded(compiled), seeded(Model(ours)), 1e-5)
    assert not torch.equal(compiled(x)[0], compiled(x)[0])


def test_compiled_parametrizations_and_transforms():
    torch._dynamo.reset()
    ours, theirs = pair(4, 4)
    for module in (ours, theirs):
        torch.nn.utils.parametrizations.weight_norm(module, "weight_hh_l0")
    x = torch.randn(5, 2, 4)
    compiled = torch.compile(Model(ours), fullgraph=True, backend="aot_eager")
    same(compiled(x), Model(theirs)(x), 2e-6)
    plain, other = pair(4, 4)
    gradient = torch.func.grad(lambda x: Model(plain)(x)[0].sum())
    found = torch.compile(gradient, fullgraph=True, backend="aot_eager")(x)
    same([found], [torch.func.grad(lambda x: Model(other)(x)[0].sum())(x)], 2e-5)


def test_what_the_compiler_may_become():
    """Where PyTorch refuses no GRU any more there is nothing to do; where the refusal is elsewhere, cgru says so."""

    class Builder:
        config = object()
        VariableBuilder = None

    dynamo._allow(bridge.GRU, Builder)
    Builder.config = torch._dynamo.config
    with pytest.warns(RuntimeWarning, match=r"torch.compile .* may refuse cgru.torch.GRU,.*allow_rnn = True"):
        dynamo._allow(bridge.GRU, Builder)


def test_compiled_under_autocast():
    torch._dynamo.reset()
    ours, theirs = (Model(module) for module in pair(3, 4))
    x = torch.randn(5, 2, 3)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        same(torch.compile(ours, backend="aot_eager")(x), theirs(x), 1e-2)


@pytest.mark.parametrize("strict", [False, True])
def test_exported(strict):
    ours, theirs = (Model(module) for module in pair(3, 4, 2, bidirectional=True))
    x = torch.randn(5, 2, 3)
    steps = torch.export.Dim("T", min=2, max=1000)
    program = torch.export.export(ours, (x,), dynamic_shapes={"x": {0: steps}}, strict=strict)
    assert any(node.target is torch.ops.cgru.gru.default for node in program.graph.nodes)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for other in (x, torch.randn(7, 2, 3)):
        same(program.module()(other), theirs(other), 2e-6)
        same(loaded(other), theirs(other), 2e-6)
    assert {name: tuple(t.shape) for name, t in program.state_dict.items()} == {
        name: tuple(t.shape) for name, t in theirs.state_dict().items()
    }


@pytest.mark.long
@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="it is compiled as C++")
def test_ahead_of_time(tmp_path):
    """A package of AOTInductor, loaded where cgru.torch is imported: for it the operator is Python."""
    ours, theirs = (Model(module).eval() for module in pair(3, 4, 2, bidirectional=True))
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        shapes = {"x": {0: torch.export.Dim("T", min=2, max=1000)}, "h0": None}
        program = torch.export.export(ours, (x, None), dynamic_shapes=shapes)
        package = torch._inductor.aoti_compile_and_package(program, package_path=str(tmp_path / "model.pt2"))
        loaded = torch._inductor.aoti_load_package(package)
        for other in (x, torch.randn(9, 2, 3)):
            same(loaded(other, None), theirs(other), 2e-6)


def parts_of_a_batch(rank, count, store, states, results):
    """One process of DistributedDataParallel: two steps on its part of the sequences, eager or compiled."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
    found = []
    for compiled in (False, True):
        ours = bridge.GRU(3, 4, 2)
        ours.load_state_dict(states[0])
        model = torch.nn.parallel.DistributedDataParallel(ours)
        if compiled:
            model = torch.compile(model, backend="aot_eager")
        sgd = torch.optim.SGD(ours.parameters(), 0.1)
        for x in states[1]:
            sgd.zero_grad()
            model(x[:, rank::count])[0].square().mean().backward()
            sgd.step()
        found.append([parameter.detach().numpy() for parameter in ours.parameters()])
    results.put((rank, found))
    torch.distributed.destroy_process_group()


def test_distributed(tmp_path, monkeypatch):
    """DistributedDataParallel of two processes, beside torch.nn.GRU on the whole batch."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    theirs = torch.nn.GRU(3, 4, 2)
    states = copy.deepcopy(theirs.state_dict()), torch.randn(2, 5, 6, 3)
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    processes = [
        context.Process(target=parts_of_a_batch, args=(rank, 2, tmp_path / "store", states, results), daemon=True)
        for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        found = dict(results.get(timeout=300) for _ in processes)
    finally:
        for process in processes:
            process.join(10)
            process.kill()
    sgd = torch.optim.SGD(theirs.parameters(), 0.1)
    for x in states[1]:
        sgd.zero_grad()
        theirs(x)[0].square().mean().backward()
        sgd.step()
    for rank in range(2):
        for parameters in found[rank]:
            same([torch.from_numpy(array) for array in parameters], list(theirs.parameters()), 1e-5)


@pytest.fixture
def runs(monkeypatch):
    """The inputs of calls that were recorded by running them."""
    seen = []
    record = training.Pass._record
    monkeypatch.setattr(training.Pass, "_record", lambda self, *a: (seen.append(self.x), record(self, *a))[1])
    return seen


def test_calls_are_recorded_once(runs):
    """The way back uses what the call recorded; once more only where that has been used up."""
    torch._dynamo.reset()
    ours, _ = pair(3, 4)
    packed = torch.nn.utils.rnn.pack_sequence([torch.randn(5, 3), torch.randn(2, 3)])
    pad_packed_sequence(ours(packed)[0])[0].sum().backward()
    ours(torch.randn(5, 2, 3))[0].sum().backward()
    assert len(runs) == 2
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    for count in (3, 4):
        loss = compiled(torch.randn(5, 2, 3, requires_grad=True))[0].sum()
        assert len(runs) == count
        loss.backward()
        assert len(runs) == count
    loss = ours(torch.randn(5, 2, 3))[0].sum()
    loss.backward(retain_graph=True)
    loss.backward()
    assert len(runs) == 6


def test_compiled_calls_without_gradients_record_nothing(runs):
    torch._dynamo.reset()
    ours, theirs = pair(3, 4)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x = torch.randn(5, 2, 3)
    with torch.no_grad():
        same(compiled(x), theirs(x), 2e-6)
    ours.requires_grad_(False)
    same(compiled(x), theirs(x), 2e-6)
    assert not runs


def test_compiled_writes_to_outputs_and_gradients_twice():
    """What is kept is no part of what a program writes to, and is as it was after the way back."""
    torch._dynamo.reset()
    ours, theirs = pair(3, 4, 2, bidirectional=True)
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    x, found = torch.randn(5, 2, 3), []
    for module, forward in ((ours, compiled), (theirs, theirs)):
        y, h_n = forward(x)
        y.add_(1)
        h_n.mul_(y[0, 0, 0])
        loss, leaves = y.square().sum() + h_n.sum(), list(module.parameters())
        found.append(
            [y, h_n, *torch.autograd.grad(loss, leaves, retain_graph=True), *torch.autograd.grad(loss, leaves)]
        )
    same(*found, 2e-5)

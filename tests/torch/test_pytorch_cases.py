"""What PyTorch's own tests ask of torch.nn.GRU and GRUCell, asked of cgru's: the same questions, written anew.

After the recurrent parts of PyTorch's test/test_nn.py and torch/testing/_internal/common_modules.py, and what
test/test_modules.py and test/nn/ ask of every module.

Here, by the names that they have there:

- test_nn: test_rnn_args_check, test_cudnn_forward_exception (its checks are those of any device), test_rnn_initial_
  hidden_state, test_projections_errors_on_gru_and_rnn, test_RNN_cpu_vs_cudnn_* (beside torch.nn.GRU in the GPU's
  place), test_rnn_fused (likewise), test_partial_flat_weights (with another dtype for another device), test_RNN_dropout
  and test_RNN_dropout_state, test_RNN_change_dropout, test_error_RNN_seq_len_zero, test_RNN_input_size_zero,
  test_variable_sequence, test_rnn_retain_variables, test_GRU_grad_and_gradgrad, test_cudnn_weight_tying (on the CPU),
  test_RNN_cell, test_RNN_cell_no_broadcasting, test_RNN_cell_forward_zero_hidden_size
- module_inputs_torch_nn_RNN_GRU and _Cell, for test_modules' forward, factory kwargs, repr, pickle, grad, gradgrad,
  non-contiguous tensors, save and load, to_empty; module_error_inputs_torch_nn_RNN_GRU and _Cell
- test_pruning's and test_parametrization's of recurrent layers: test_weights.py; hooks: test_autograd.py

Not here, since they ask nothing of a GRU on the CPU: what is of LSTM, of projections, or of RNN's nonlinearity; devices
(test_rnn_check_device, test_multiple_device_transfer, test_cpu_gpu_parity, test_cudnn_weight_format, test_RNN_cudnn_
weight_norm, test_cudnn_rnn_dropout_states_device, test_pack_sequence_batch_sizes_throw); what is of PackedSequence
alone (test_packed_sequence); memory formats, which are of four dimensions.
"""

import copy
import io
import itertools
import pickle
import re

import pytest
import torch
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence, pad_sequence

import cgru.torch as bridge

from ..support.bridge import pair, same

OPTIONS = [
    dict(zip(("bias", "batch_first", "bidirectional"), values, strict=True))
    for values in itertools.product((False, True), repeat=3)
]


def refusal(call):
    """What a call is refused by."""
    with pytest.raises(Exception) as caught:
        call()
    return caught.value


def refused_alike(call, *kinds):
    """Both kinds of module refuse a call by the same exception and words."""
    ours, theirs = (refusal(lambda kind=kind: call(kind)) for kind in kinds)
    assert type(ours) is type(theirs)
    assert str(ours) == str(theirs)
    return theirs


GRUS = bridge.GRU, torch.nn.GRU
CELLS = bridge.GRUCell, torch.nn.GRUCell


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize(
    ("x", "h0"),
    [
        ((6, 7, 3), (2, 4, 5)),  # batch
        ((6, 4, 3), (2, 7, 5)),
        ((6, 4, 7), (2, 4, 5)),  # inputs
        ((6, 4, 7), None),
        ((6, 4, 3), (2, 4, 7)),  # hidden
        ((6, 4, 3), (7, 4, 5)),  # layers
        ((6, 4, 3), (2, 5)),  # dimensions
        ((6, 3), (2, 1, 5)),
        ((6, 3), (2, 4)),
        ((6, 7), None),
        ((3,), None),
        ((2, 6, 4, 3), None),
    ],
)
def test_sizes_that_do_not_fit(x, h0, batch_first, grad):
    """As PyTorch refuses them."""
    if batch_first and len(x) == 3:
        x = (x[1], x[0], x[2])
    h0 = None if h0 is None else torch.randn(h0)
    with torch.set_grad_enabled(grad):
        refused_alike(lambda kind: kind(3, 5, 2, batch_first=batch_first)(torch.randn(x), h0), *GRUS)


@pytest.mark.parametrize("h0", [None, (2, 3, 5), (2, 2, 4), (3, 2, 5), (2, 5)])
@pytest.mark.parametrize("inputs", [3, 4])
def test_packed_sizes_that_do_not_fit(inputs, h0):
    packed = pack_sequence([torch.randn(4, inputs), torch.randn(2, inputs)])
    h0 = None if h0 is None else torch.randn(h0)
    if inputs == 3 and h0 is None:
        packed = PackedSequence(torch.randn(3, 2, 3), torch.tensor([2, 1]))
    refused_alike(lambda kind: kind(3, 5, 2)(packed, h0), *GRUS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int64])
def test_dtypes_that_do_not_fit(dtype):
    x = torch.ones(2, 4, 3, dtype=dtype)
    message = str(refused_alike(lambda kind: kind(3, 5)(x), *GRUS))
    assert re.search(r"does not match weight dtype .* Convert input", message)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("x", [(0, 10, 5), (0, 5)])
def test_no_steps(x, bidirectional):
    refused_alike(lambda kind: kind(5, 6, bidirectional=bidirectional)(torch.ones(x)), *GRUS)
    for module in pair(5, 6, bidirectional=bidirectional, batch_first=True):
        assert refusal(lambda module=module: module(torch.ones(10, 0, 5)))


def test_no_sequences():
    for module in pair(3, 4, 2, bidirectional=True):
        y, h_n = module(torch.zeros(5, 0, 3))
        assert (y.shape, h_n.shape) == ((5, 0, 8), (4, 0, 4))
        y.sum().backward()
        assert all(not parameter.grad.any() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((30, 20, 2), {"proj_size": 10}),
        ((10, 0, 1), {}),
        ((10, 10, 0), {}),
        ((0, 5), {}),
        ((-1, 5), {}),
        ((3.0, 5), {}),
        (("10", 5), {}),
        ((3, 5.0), {}),
        *(((3, 5), {name: value}) for name in ("bias", "batch_first") for value in (0, 1, "True")),
        *(((3, 5, 2), {"dropout": value}) for value in (-0.5, 1.5, "half", True)),
    ],
)
def test_what_cannot_be_constructed(arguments, options):
    refused_alike(lambda kind: kind(*arguments, **options), *GRUS)


def test_zeros_are_the_initial_state():
    ours, _ = pair(30, 20, 2)
    x, h0 = torch.randn(10, 32, 30), torch.zeros(2, 32, 20)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            assert all(torch.equal(a, b) for a, b in zip(ours(x, h0), ours(x), strict=True))


def striped(tensor):
    """The same values, each beside a zero in memory."""
    return torch.stack([torch.zeros_like(tensor), tensor], -1).select(-1, 1)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("lengths", [None, [7, 5, 5, 2, 1, 1], torch.tensor([7, 5, 5, 2, 1, 1])])
@pytest.mark.parametrize("dropout", [0, 1])
def test_results_and_gradients(options, dense, lengths, dropout):
    """Beside torch.nn.GRU: every option, strides, packed sequences, gradients by y and h_n; all dropped, or nothing."""
    ours, theirs = (module.train() for module in pair(10, 6, 2, dropout=dropout, dtype=torch.float64, **options))
    directions = 1 + options["bidirectional"]
    shape = (6, 7) if options["batch_first"] else (7, 6)
    tensors = [
        torch.randn(size, dtype=torch.float64)
        for size in ((*shape, 10), (2 * directions, 6, 6), (*shape, 6 * directions), (2 * directions, 6, 6))
    ]
    x, h0, by_y, by_h = tensors if dense else map(striped, tensors)
    if lengths is not None:
        by_y = pack_padded_sequence(by_y, lengths, options["batch_first"]).data
    found = []
    for module in (ours, theirs):
        leaves = [x.detach().requires_grad_(), h0.detach().requires_grad_()]
        given = leaves[0]
        if lengths is not None:
            given = pack_padded_sequence(given, lengths, options["batch_first"])
        y, h_n = module(given, leaves[1])
        y = y.data if lengths is not None else y
        leaves += module.parameters()
        found.append([y, h_n, *torch.autograd.grad([y, h_n], leaves, [by_y, by_h])])
    same(*found, 1e-11)


@pytest.mark.parametrize("in_order", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_sequences_packed_and_alone(in_order, bidirectional):
    """Results and gradients of each sequence of a pack, beside the sequence alone."""
    gru = bridge.GRU(3, 4, 2, bidirectional=bidirectional, dtype=torch.float64)
    lengths = [10, 10, 6, 2, 2, 1, 1] if in_order else [2, 10, 1, 6, 10, 1, 2]
    sequences = [torch.randn(length, 3, dtype=torch.float64, requires_grad=True) for length in lengths]
    alone = [gru(sequence) for sequence in sequences]
    packed, h_n = gru(pack_sequence(sequences, enforce_sorted=in_order))
    y, found_lengths = pad_packed_sequence(packed)
    assert found_lengths.tolist() == lengths
    same([y], [pad_sequence([each for each, _ in alone])], 1e-13)
    same([h_n], [torch.stack([each for _, each in alone], 1)], 1e-13)
    leaves = [*sequences, *gru.parameters()]
    together = torch.autograd.grad(y.sin().sum() + h_n.sum(), leaves)
    apart = torch.autograd.grad(sum(each.sin().sum() + last.sum() for each, last in alone), leaves)
    same(together, apart, 1e-11)


def test_weights_that_are_gone_for_a_while():
    """A weight is deleted, the module is moved to another dtype, the weight comes back."""
    found = []
    for module in pair(10, 6, 2):
        x = torch.randn(3, 2, 10, generator=torch.Generator().manual_seed(0))
        before = module(x)[0]
        weight = module.weight_hh_l0
        del module.weight_hh_l0
        assert not hasattr(module, "weight_hh_l0")
        module.double()
        module.weight_hh_l0 = torch.nn.Parameter(weight.double())
        after = module(x.double())[0]
        assert (after - before).abs().max() < 1e-6
        found.append([after])
    same(*found, 1e-13)


@pytest.mark.parametrize("p", [0, 0.276, 0.731, 1])
@pytest.mark.parametrize("train", [False, True])
def test_dropout_is_between_layers(p, train):
    """The second layer's input is the first's output or zero, scaled; first states and outputs are untouched."""
    gru = bridge.GRU(10, 1000, 2, bias=False, dropout=p, dtype=torch.float64).train(train)
    for name, weight in gru.named_parameters():
        weight.data.zero_()
        if name == "weight_ih_l0":
            weight.data[2000:] = 0.01  # n of all units is tanh(0.1), z a half
        if name == "weight_ih_l1":
            weight.data[2000:] = 1e-3  # sums what comes
    y, h_n = gru(torch.ones(1, 1, 10, dtype=torch.float64), torch.zeros(2, 1, 1000, dtype=torch.float64))
    first = torch.tensor(0.1, dtype=torch.float64).tanh() / 2
    assert (h_n[0] - first).abs().max() < 1e-15
    assert torch.equal(h_n[1], y[0])
    assert y.max() - y.min() < 1e-15
    kept = float((2 * y.detach()[0, 0, 0]).atanh() / first)  # the share that went on, scaled
    if p == 0 or not train:
        assert abs(kept - 1) < 1e-12
    elif p == 1:
        assert kept == 0
    else:
        assert abs(kept - 1) < 0.2
        assert abs(kept * 1000 * (1 - p) - round(kept * 1000 * (1 - p))) < 1e-6  # a whole number of units


@pytest.mark.parametrize("p", [0, 0.1234])
@pytest.mark.parametrize("train", [False, True])
def test_dropout_of_a_module_from_a_file(p, train):
    gru = bridge.GRU(100, 100, 2, bias=False, dropout=p).train(train)
    x, h0 = torch.rand(1, 1, 100), torch.rand(2, 1, 100)
    file = io.BytesIO()
    torch.save(gru, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    loaded.flatten_parameters()
    first, second, third = (module(x, h0) for module in (gru, gru, loaded))
    for i in range(2):
        assert torch.equal(first[i], second[i]) == torch.equal(first[i], third[i]) == (p == 0 or not train)


@pytest.mark.parametrize("train", [False, True])
def test_dropout_that_changes(train):
    gru = bridge.GRU(100, 100, 2).train(train)
    x, before = torch.rand(3, 2, 100), None
    for p in (0, 0.5, 0, 0.7, 0.2, 1, 0.2, 0):
        gru.dropout = p
        y, again = gru(x)[0], gru(x)[0]
        assert torch.equal(y, again) == (p in (0, 1) or not train)
        assert before is None or torch.equal(y, before) == (not train)
        before = y
    for gru.dropout in (-0.5, 2.0):
        theirs = torch.nn.GRU(100, 100, 2).train(train)
        theirs.dropout = gru.dropout
        if train:
            assert str(refusal(lambda: gru(x))) == str(refusal(lambda theirs=theirs: theirs(x)))
        else:
            assert torch.equal(gru(x)[0], before)


def test_the_same_gradients_each_time():
    gru = bridge.GRU(10, 20, 2)
    x = torch.randn(5, 6, 10, requires_grad=True)
    y, h_n = gru(x)
    leaves = [x, *gru.parameters()]
    first = torch.autograd.grad(y.sum() + h_n.sum(), leaves, retain_graph=True)
    for _ in range(4):
        again = torch.autograd.grad(y.sum() + h_n.sum(), leaves, retain_graph=True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("bias", [False, True])
def test_gradcheck_and_gradgradcheck(bias):
    gru = bridge.GRU(4, 4, 2, bias=bias, dtype=torch.float64)
    inputs = [torch.rand(shape, dtype=torch.float64, requires_grad=True) for shape in ((1, 3, 4), (2, 3, 4))]
    assert torch.autograd.gradcheck(gru, inputs)
    assert torch.autograd.gradgradcheck(gru, inputs)


def test_tied_biases():
    found = []
    for module in pair(10, 20, batch_first=True, bidirectional=True, dtype=torch.float64):
        module.bias_ih_l0_reverse = module.bias_ih_l0
        assert len(list(module.parameters())) == 7
        generator = torch.Generator().manual_seed(0)
        x, h0 = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((5, 4, 10), (2, 5, 20)))
        sgd = torch.optim.SGD(module.parameters(), 0.1)
        module(x, h0)[0].sum().backward()
        sgd.step()
        found.append([*module(x, h0), module.bias_ih_l0.grad])
    same(*found, 1e-11)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("state", [False, True])
def test_one_sequence(options, state):
    """It is the batch of one."""
    gru = bridge.GRU(2, 3, 2, **options)
    x, h0 = torch.randn(3, 2), torch.randn(2 * (1 + options["bidirectional"]), 3) if state else None
    batch = 0 if options["batch_first"] else 1
    y, h_n = gru(x.unsqueeze(batch), None if h0 is None else h0.unsqueeze(1))
    same(gru(x, h0), [y.squeeze(batch), h_n.squeeze(1)], 1e-7)


@pytest.mark.parametrize("lengths", [[5, 3], [5, 3, 3, 2, 2]])
@pytest.mark.parametrize("options", OPTIONS)
def test_packs_as_they_are(options, lengths):
    """A pack has no layout: batch_first says nothing of it, and its data are what gradients go to."""
    found = []
    data = pack_padded_sequence(torch.randn(5, len(lengths), 2, dtype=torch.float64), lengths)
    for module in pair(2, 3, 2, dtype=torch.float64, **options):
        packed = data._replace(data=data.data.detach().requires_grad_())
        y, h_n = module(packed)
        gradient = torch.autograd.grad(y.data.square().sum() + h_n.sum(), [packed.data, *module.parameters()])
        found.append([y.data, h_n, *gradient])
    same(*found, 1e-11)


@pytest.mark.parametrize("kind", ["GRU", "GRUCell"])
def test_constructed_copied_printed(kind):
    """Factory keywords, repr, pickle, deepcopy, state_dict, device meta and to_empty."""
    ours, theirs = (getattr(module, kind)(2, 3, bias=True, dtype=torch.float64) for module in (bridge, torch.nn))
    assert repr(ours) == repr(theirs)
    assert all(parameter.dtype == torch.float64 for parameter in ours.parameters())
    assert list(ours.state_dict()) == list(theirs.state_dict())
    x = torch.randn(4, 2, dtype=torch.float64)
    y = ours(x)
    for twin in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert all(torch.equal(a, b) for a, b in zip(twin(x), y, strict=True))
    empty = getattr(bridge, kind)(2, 3, device="meta")
    assert all(parameter.is_meta for parameter in empty.parameters())
    assert empty(x.float().to("meta"))[0].is_meta
    empty.to_empty(device="cpu").double().load_state_dict(theirs.state_dict())
    same(empty(x), theirs(x), 1e-13)
    torch.manual_seed(0)
    ours.reset_parameters()
    torch.manual_seed(0)
    theirs.reset_parameters()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_views_that_pytorch_negates():
    """Their memory holds other values than they have."""
    values = torch.view_as_complex(torch.randn(5, 2, 3, 2)).conj()
    ours, theirs = pair(3, 4)
    for x in (values.imag, torch._neg_view(torch.randn(5, 2, 3)), values.real):
        same(ours(x), theirs(x), 2e-6)
    for module in (ours, theirs):
        module.weight_hh_l0.data = torch._neg_view(module.weight_hh_l0.data)
    same(ours(values.real), theirs(values.real), 2e-6)


@pytest.mark.parametrize("bias", [False, True])
def test_cells_step_by_step(bias):
    ours, theirs = (kind(10, 20, bias=bias) for kind in CELLS)
    ours.load_state_dict(theirs.state_dict())
    x, h0 = torch.randn(3, 10), torch.randn(3, 20)
    found = []
    for cell in (ours, theirs):
        h = h0
        for _ in range(6):
            h = cell(x, h)
        found.append([h, *torch.autograd.grad(h.sum(), list(cell.parameters()))])
    same(*found, 2e-5)


@pytest.mark.parametrize(
    ("x", "h"),
    [
        ((3, 10), (1, 20)), ((3, 10), (3, 1)), ((3, 1), (3, 20)), ((3, 11), (3, 20)), ((3, 10), (3, 21)),
        ((3, 10), (5, 20)), ((3, 10), (3, 1, 1, 20)), ((2, 3, 10), None), ((11,), None), ((10,), (21,)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bias", [False, True])
def test_cells_of_sizes_that_do_not_fit(x, h, bias):
    h = None if h is None else torch.randn(h)
    refused_alike(lambda kind: kind(10, 20, bias)(torch.randn(x), h), *CELLS)


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_cells_without_units():
    for kind in CELLS:
        assert kind(10, 0)(torch.randn(3, 10), torch.randn(3, 0)).shape == (3, 0)
        assert kind(0, 4)(torch.randn(3, 0)).shape == (3, 4)

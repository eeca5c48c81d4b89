"""No weight of cgru.torch.GRU goes unseen: however it is written, computed, shared or replaced, the next call has it."""

import copy
import multiprocessing
import warnings

import numpy as np
import pytest
import torch
from torch.nn.utils import parametrizations, parametrize, prune

import cgru.torch as bridge
from cgru.torch import kept

from ..support.bridge import pair, same


def through_data(module):
    for parameter in module.parameters():
        parameter.data.copy_(0.9 * parameter.data + 0.1)


def through_numpy(module):
    module.weight_hh_l0.detach().numpy()[1, 2] = 3


def through_initialisation(module):
    torch.nn.init.orthogonal_(module.weight_hh_l0.data)


def one_bias(module):
    module.bias_hh_l0.data[-1] -= 1


def to_nan(module):
    module.weight_ih_l0.data[0, 0] = torch.nan


def new_tensor_at_the_old_address(module):
    memory = module.weight_hh_l0.data
    module.weight_hh_l0 = torch.nn.Parameter(memory)
    memory *= -1


def _double(tensor):
    tensor *= 2


def in_another_process(module):
    module.share_memory()
    with torch.no_grad():
        module(torch.zeros(1, 1, 3))  # shared memory is new memory: keep this one, too
    process = multiprocessing.get_context("fork").Process(target=_double, args=(module.weight_hh_l0.data,))
    process.start()
    process.join()
    assert process.exitcode == 0


WRITERS = [
    through_data, through_numpy, through_initialisation, one_bias, to_nan, new_tensor_at_the_old_address,
    in_another_process,
]  # fmt: skip


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("grad", [False, True])
def test_a_weight_written_unseen_is_used_by_the_next_call(write, grad):
    torch.manual_seed(0)
    ours, theirs = pair(3, 4)
    x = torch.randn(5, 2, 3)
    with torch.set_grad_enabled(grad):
        before = ours(x)[0]
        write(ours)
        theirs.load_state_dict(ours.state_dict())
        expected = theirs(x)
        if write is to_nan:
            assert ours(x)[0].isnan().any()
            assert torch.equal(ours(x)[0].isnan(), expected[0].isnan())
        else:
            same(ours(x), expected, 2e-6)
            assert not torch.allclose(ours(x)[0], before, atol=1e-4)


def test_negative_zero_is_another_weight():
    """0 * inf is NaN, and -0.0 == 0.0: contents are compared by their bits."""
    ours, _ = pair(3, 4)
    with torch.no_grad():
        ours.weight_ih_l0.zero_()
        model = kept.model_of(kept.Options(1, False, False, 0.0), list(ours.parameters()))
        ours.weight_ih_l0.data.neg_()
        other = kept.model_of(kept.Options(1, False, False, 0.0), list(ours.parameters()))
        ours.weight_ih_l0.data.fill_(torch.nan)
        third = kept.model_of(kept.Options(1, False, False, 0.0), list(ours.parameters()))
    assert model is not other is not third
    assert third is kept.model_of(kept.Options(1, False, False, 0.0), list(ours.parameters()))


def test_unchanged_weights_are_packed_once(monkeypatch):
    made = []
    make = kept._made
    monkeypatch.setattr(kept, "_made", lambda *a: (made.append(a), make(*a))[1])
    ours, _ = pair(3, 4)
    x = torch.randn(5, 2, 3)
    for _ in range(3):
        ours(x)[0].sum().backward()
        with torch.no_grad():
            ours(x)
    assert len(made) == 1
    ours.weight_hh_l0.data += 1
    ours(x)
    assert len(made) == 2


def test_options_changed_after_a_call():
    ours, theirs = pair(3, 4, 2, dropout=0.25)
    x = torch.randn(3, 3, 3)
    ours(x)
    for module in (ours, theirs):
        module.batch_first = True
    same(ours(x), theirs(x), 2e-6)
    for step in range(20):  # a schedule of dropout
        ours.train().dropout = step / 40
        ours(x)
    (models,) = [models for key, models in kept._kept.items() if key is ours.weight_ih_l0]
    assert len(models) <= kept.MOST


class Half(torch.nn.Module):
    def forward(self, weight):
        return weight * 0.5


class Turned(torch.nn.Module):
    """A weight that is not contiguous."""

    def forward(self, weight):
        return (weight * 2).T.contiguous().T


def parametrized(module):
    parametrize.register_parametrization(module, "weight_hh_l0", Half())


def not_contiguous(module):
    parametrize.register_parametrization(module, "weight_hh_l0", Turned())


def weight_norm(module):
    parametrizations.weight_norm(module, "weight_hh_l0", dim=0)


def earlier_weight_norm(module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.weight_norm(module, "weight_ih_l0")


def orthogonal(module):
    torch.manual_seed(0)
    parametrizations.orthogonal(module, "weight_hh_l0")


def spectral_norm(module):
    torch.manual_seed(0)
    parametrizations.spectral_norm(module, "weight_hh_l0")


def earlier_spectral_norm(module):
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.nn.utils.spectral_norm(module, "weight_hh_l0")


def pruned(module):
    prune.l1_unstructured(module, "weight_hh_l0", 0.5)


def tied(module):
    module.weight_ih_l0 = module.weight_hh_l0
    module.bias_hh_l0 = module.bias_ih_l0


def frozen(module):
    module.weight_hh_l0.requires_grad_(False)


COMPUTED = [
    parametrized, not_contiguous, weight_norm, earlier_weight_norm, orthogonal, spectral_norm, earlier_spectral_norm,
    pruned, tied, frozen,
]  # fmt: skip


@pytest.mark.parametrize("change", COMPUTED)
def test_computed_weights(change):
    """Their results, the gradients by the originals, and the same after a step of those."""
    ours, theirs = pair(4, 4, dtype=torch.float64)
    x = torch.randn(5, 3, 4, dtype=torch.float64)
    ours(x)  # what is kept of the weights before must not stay
    for module in (ours, theirs):
        change(module)
    wanted = [parameter for parameter in theirs.parameters() if parameter.requires_grad]
    for _ in range(2):
        for module in (ours, theirs):
            module.zero_grad()
        results, expected = ours(x), theirs(x)
        same(results, expected, 1e-12)
        for y, _ in (results, expected):
            y.square().sum().backward()
        found = [parameter for parameter in ours.parameters() if parameter.requires_grad]
        same([parameter.grad for parameter in found], [parameter.grad for parameter in wanted], 1e-11)
        for module in (ours, theirs):
            with torch.no_grad():
                for parameter in module.parameters():
                    if parameter.requires_grad:
                        parameter -= 0.1 * parameter.grad
    with torch.no_grad():
        same(ours(x), theirs(x), 1e-12)
        twins = [copy.deepcopy(module) for module in (ours, theirs)] if change is not earlier_spectral_norm else []
        same([twin(x)[0] for twin in twins[:1]], [twin(x)[0] for twin in twins[1:]], 1e-12)


def test_parametrizations_that_are_removed_or_cached():
    ours, theirs = pair(3, 4)
    x = torch.randn(5, 2, 3)
    for module in (ours, theirs):
        parametrized(module)
    assert isinstance(ours, bridge.GRU)
    with parametrize.cached():
        same(ours(x), theirs(x), 2e-6)
    for module in (ours, theirs):
        parametrize.remove_parametrizations(module, "weight_hh_l0")
    assert type(ours) is bridge.GRU
    same(ours(x), theirs(x), 2e-6)


def test_functional_call():
    ours, theirs = pair(3, 4, 2, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    before = ours(x)[0]
    given = {name: torch.randn_like(weight) for name, weight in ours.named_parameters()}
    some = {name: weight for name, weight in given.items() if "l1" in name}
    for weights in (given, some):
        found = []
        for module in (ours, theirs):
            leaves = {name: weight.clone().requires_grad_() for name, weight in weights.items()}
            y, h_n = torch.func.functional_call(module, leaves, (x,))
            found.append([y, h_n, *torch.autograd.grad(y.square().sum(), list(leaves.values()))])
        same(*found, 1e-11)
    assert torch.equal(ours(x)[0], before)


def test_averaged_and_copied_models():
    torch.manual_seed(0)
    ours, theirs = pair(3, 4)
    x, averages = torch.randn(5, 2, 3), []
    for module in (ours, theirs):
        average = torch.optim.swa_utils.AveragedModel(module)
        sgd = torch.optim.SGD(module.parameters(), 0.5)
        for _ in range(3):
            sgd.zero_grad()
            module(x)[0].square().sum().backward()
            sgd.step()
            average.update_parameters(module)
            average(x)
        averages.append(average(x))
    same(*averages, 1e-5)
    twin = copy.deepcopy(ours)
    twin.weight_hh_l0.data.zero_()
    assert not torch.equal(twin(x)[0], ours(x)[0])
    twin.load_state_dict(ours.state_dict(), assign=True)
    assert torch.equal(twin(x)[0], ours(x)[0])


def test_modules_that_share_weights():
    """Two layouts of the same parameters side by side, and a module whose options differ."""
    ours, theirs = pair(3, 4)
    other, expected = (kind(3, 4, batch_first=True) for kind in (bridge.GRU, torch.nn.GRU))
    for module, source in ((other, ours), (expected, theirs)):
        for name, parameter in source.named_parameters():
            setattr(module, name, parameter)
    x = torch.randn(3, 3, 3)
    for _ in range(2):
        same(ours(x), theirs(x), 2e-6)
        same(other(x), expected(x), 2e-6)
        for module in (ours, theirs):
            module.bias_ih_l0.data += 0.25


def test_kept_models_go_with_their_weights():
    before = len(kept._kept)
    ours, _ = pair(3, 4)
    with torch.no_grad():
        ours(torch.zeros(1, 1, 3))
    assert len(kept._kept) == before + 1
    del ours
    assert len(kept._kept) == before


def test_results_are_no_views_of_what_is_kept():
    ours, _ = pair(3, 4)
    x = torch.zeros(2, 2, 3)
    with torch.no_grad():
        expected = ours(x)[0].numpy().copy()
        ours(x)[0].mul_(5)
        np.testing.assert_array_equal(ours(x)[0].numpy(), expected)

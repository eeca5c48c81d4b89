"""Files that the command line's tests begin with."""

import pytest
import torch

import cgru


@pytest.fixture
def model(tmp_path):
    gru = cgru.GRU(3, 5, num_layers=2, rng=0)
    gru.save(tmp_path / "m.safetensors")
    return gru, tmp_path / "m.safetensors"


@pytest.fixture
def several(tmp_path):
    modules = torch.nn.ModuleDict({"a": torch.nn.GRU(3, 5), "b": torch.nn.GRU(3, 4)})
    torch.save(modules.state_dict(), tmp_path / "two.pt")
    return modules, tmp_path / "two.pt"

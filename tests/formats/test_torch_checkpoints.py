"""PyTorch's weights as training programs leave them: dicts in dicts, wrapped modules, folders and shards."""

import re

import pytest
import torch

import cgru

from .test_torch_files import Model, same


def saved(path, content):
    torch.save(content, path)
    return path


def optimizer_of(model):
    """The state of an optimizer after a step."""
    optimizer = torch.optim.Adam(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    optimizer.step()
    return optimizer.state_dict()


def nested(model):
    return {"state": {"net": model.state_dict()}}


def beside_an_optimizer(model):
    return {"epoch": 3, "model_state_dict": model.state_dict(), "optimizer": optimizer_of(model), "loss": [0.5, 0.25]}


def in_a_list(model):
    return {"args": {"lr": 0.1}, "models": [{"kind": "gru", "weights": model.state_dict()}]}


def of_lightning(model):
    """As a Trainer of Lightning 2.6 writes it, with callbacks and saved hyper-parameters."""
    score = torch.tensor(0.25)
    return {
        "epoch": 0,
        "global_step": 4,
        "pytorch-lightning_version": "2.6.6",
        "state_dict": model.state_dict(),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 1, "completed": 0}}}},
        "callbacks": {
            "EarlyStopping{'monitor': 'loss', 'mode': 'min'}": {"best_score": score, "patience": 3},
            "ModelCheckpoint{'monitor': 'loss'}": {"best_k_models": {"/tmp/light.ckpt": score}, "kth_value": score},
        },
        "optimizer_states": [optimizer_of(model)],
        "lr_schedulers": [],
        "hparams_name": "kwargs",
        "hyper_parameters": {"hidden": 7},
    }


@pytest.mark.parametrize("wrap", [nested, beside_an_optimizer, in_a_list, of_lightning], ids=lambda wrap: wrap.__name__)
def test_state_dicts_at_any_depth(wrap, tmp_path):
    model = Model(num_layers=2, bidirectional=True)
    path = saved(tmp_path / "last.ckpt", wrap(model))
    for gru in (cgru.load(path), cgru.load(path, "recurrent.gru"), cgru.from_torch(path)):
        same(gru, model.recurrent["gru"])
    if wrap is not in_a_list:
        same(cgru.from_torch(torch.load(path)), model.recurrent["gru"])


def test_averages_beside_the_weights(tmp_path):
    """Either may be meant."""
    model, average = Model(), Model()
    content = {**of_lightning(model), "current_model_state": average.state_dict(), "averaging_state": {"n": 1}}
    path = saved(tmp_path / "last.ckpt", content)
    listed = "choose one by its name: 'state_dict.recurrent.gru' (GRU), 'current_model_state.recurrent.gru' (GRU)"
    for name in (None, "recurrent.gru"):
        with pytest.raises(
            cgru.FormatError, match=re.escape("'state_dict.recurrent.gru' (GRU), 'current_model_state.")
        ):
            cgru.load(path, name)
    with pytest.raises(cgru.FormatError, match=re.escape(listed)):
        cgru.load(path)
    same(cgru.load(path, "state_dict.recurrent.gru"), model.recurrent["gru"])
    same(cgru.load(path, "current_model_state.recurrent.gru"), average.recurrent["gru"])
    same(cgru.from_torch(content, "current_model_state.recurrent.gru"), average.recurrent["gru"])


def test_parts_in_several_dicts_are_refused(tmp_path):
    state = torch.nn.GRU(5, 7).state_dict()
    biases = {key: state.pop(key) for key in ("bias_ih_l0", "bias_hh_l0")}
    for content in ({"weights": state, "biases": biases}, {**state, "biases": biases}):
        with pytest.raises(cgru.FormatError, match="bias_ih_l0"):
            cgru.load(saved(tmp_path / "m.pt", content))
        with pytest.raises(cgru.FormatError, match="bias_ih_l0"):
            cgru.from_torch(content)


def test_keys_that_join_to_one_name(tmp_path):
    state = torch.nn.GRU(5, 7).state_dict()
    with pytest.raises(cgru.FormatError, match=r"expected each name once, got a\.b"):
        cgru.load(saved(tmp_path / "m.pt", {"a": {"b": state}, "a.b": state}))
    circle = {"a": dict(state)}
    circle["a"]["b"] = circle
    with pytest.raises(cgru.FormatError, match="expected a dict in 64 places at most, 100 levels deep at most"):
        cgru.load(saved(tmp_path / "m.pt", circle))


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._fsdp_wrapped_module.", "net."]
)
@pytest.mark.parametrize("inner", ["", "_orig_mod.", "_checkpoint_wrapped_module."])
def test_wrapped_modules(prefix, inner, tmp_path):
    """DataParallel, torch.compile and FSDP put words into names."""
    model = Model()
    state = {f"{prefix}{key.replace('gru.', f'gru.{inner}')}": value for key, value in model.state_dict().items()}
    own = f"{prefix}recurrent.gru.{inner}"
    for name in (None, own, own.rstrip("."), ("net." if prefix == "net." else "") + "recurrent.gru"):
        same(cgru.from_torch(state, name), model.recurrent["gru"])
    with pytest.raises(cgru.FormatError, match="name: expected a module"):
        cgru.from_torch(state, "gru")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_wrappers_of_pytorch_itself():
    model = Model()
    for wrapped in (torch.nn.DataParallel(model), torch.optim.swa_utils.AveragedModel(model), torch.compile(model)):
        same(cgru.from_torch(wrapped.state_dict(), "recurrent.gru"), model.recurrent["gru"])


def test_one_module_wrapped_and_not():
    model = Model()
    state = {**model.state_dict(), **{f"module.{key}": value for key, value in model.state_dict().items()}}
    with pytest.raises(cgru.FormatError, match="choose one by its name"):
        cgru.from_torch(state)
    same(cgru.from_torch(state, "module.recurrent.gru"), model.recurrent["gru"])

"""PyTorch's weights among others: state_dicts of whole models, files of torch.save, quantized modules."""

import io
import re
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torch.nn.utils.prune

import cgru

from ..support.options import relative_error


class Model(torch.nn.Module):
    """A recogniser with one GRU among other layers."""

    def __init__(self, **options):
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 5)
        self.recurrent = torch.nn.ModuleDict({"gru": torch.nn.GRU(5, 7, **options)})
        self.fc = torch.nn.Linear(7, 2)


class Pair(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder, self.lstm = torch.nn.GRU(5, 7), torch.nn.GRUCell(3, 7), torch.nn.LSTM(5, 7)


def same(gru, module):
    for name, value in module.state_dict().items():
        np.testing.assert_array_equal(
            gru.state_dict()[name], value.float().numpy() if value.dtype.itemsize == 2 else value.numpy()
        )


def test_one_gru_among_other_weights():
    model = Model(num_layers=2, bidirectional=True)
    for name in (None, "recurrent.gru", "recurrent.gru."):
        gru = cgru.from_torch(model.state_dict(), name)
        assert repr(gru) == "GRU(5, 7, num_layers=2, bidirectional=True)"
        same(gru, model.recurrent["gru"])


def test_several_recurrent_layers():
    pair = Pair()
    state = pair.state_dict()
    same(cgru.from_torch(state, "encoder"), pair.encoder)
    same(cgru.from_torch(state, name="decoder"), pair.decoder)
    listed = "'encoder' (GRU), 'decoder' (GRU), 'lstm' (an LSTM)"
    for name, message in [
        (None, f"choose one by its name: {listed}"),
        ("", f"expected a module of weight_ih_l0, ...: {listed}; got ''"),
        ("gru", f"expected a module of weight_ih_l0, ...: {listed}; got 'gru'"),
        ("lstm", "lstm: expected (3H, H) of a GRU, got an LSTM's"),
    ]:
        with pytest.raises(cgru.FormatError, match=re.escape(message)):
            cgru.from_torch(state, name)
    del state["decoder.weight_hh"]
    same(cgru.from_torch(state), pair.encoder)  # a GRU, an LSTM and half a cell
    with pytest.raises(cgru.FormatError, match="state_dict: expected weight_hh, got weight_ih"):
        cgru.from_torch(state, "decoder")


def test_what_is_more_than_a_gru():
    """Parameters beside a GRU's own in one module, as subclasses and parametrizations have them."""
    state = Model().state_dict()
    with pytest.raises(cgru.FormatError, match=re.escape("got ['recurrent.gru.h0']")):
        cgru.from_torch({**state, "recurrent.gru.h0": torch.zeros(1, 7)})
    module = torch.nn.utils.parametrizations.weight_norm(torch.nn.GRU(5, 7), "weight_hh_l0")
    with pytest.raises(cgru.FormatError, match="got"):
        cgru.from_torch(module.state_dict())


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin"])
@pytest.mark.parametrize("wrap", [
    lambda state: state, lambda state: {"epoch": 3, "loss": [0.5], "state_dict": state},
    lambda state: {"model": state, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]}},
])  # fmt: skip
def test_files(suffix, wrap, tmp_path):
    model = Model(num_layers=2)
    path = tmp_path / f"model{suffix}"
    torch.save(wrap(model.state_dict()), path)
    for gru in (cgru.load(path), cgru.load(str(path), "recurrent.gru"), cgru.from_torch(path)):
        same(gru, model.recurrent["gru"])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_kinds_of_numbers_in_files(dtype, tmp_path):
    module = torch.nn.GRU(5, 7).to(dtype)
    path = tmp_path / "model.pt"
    torch.save(module.state_dict(), path)
    gru = cgru.load(path)
    assert gru.dtype == (np.float64 if dtype == torch.float64 else np.float32)
    same(gru, module)


def test_two_state_dicts_in_a_file(tmp_path):
    modules = [torch.nn.GRU(5, 7), torch.nn.GRU(5, 7)]
    path = tmp_path / "model.pt"
    torch.save({"model": modules[0].state_dict(), "average": modules[1].state_dict()}, path)
    with pytest.raises(cgru.FormatError, match=re.escape(str(path)) + ".*'model' \\(GRU\\), 'average' \\(GRU\\)"):
        cgru.load(path)
    same(cgru.load(path, "average"), modules[1])


def repacked(path, change, compression=zipfile.ZIP_STORED):
    """The archive with its pickle changed."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as before, zipfile.ZipFile(path, "w", compression) as after:
        for name in before.namelist():
            data = before.read(name)
            after.writestr(name, change(data) if name.endswith("data.pkl") else data)


def test_refused_files(tmp_path):
    path = tmp_path / "model.pt"
    module = torch.nn.GRU(5, 7)

    def refused(message):
        with pytest.raises(cgru.FormatError, match=re.escape(str(path)) + ".*" + re.escape(message)):
            cgru.load(path)

    torch.save(module, path)  # a pickled module: would run its code
    refused("expected dicts and tensors only, got torch.nn.modules.rnn GRU; save module.state_dict() alone")
    torch.save([1, 2], path)
    refused("expected weight_ih_l0, weight_hh_l0, ... of one GRU, got nothing")
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=False)
    refused("got a file of PyTorch before 1.6; write it again, torch.save(torch.load(")
    torch.save(torch.nn.LSTM(5, 7).state_dict(), path)
    refused("got an LSTM's")
    torch.save(
        {name: value.to_sparse() if value.ndim == 2 else value for name, value in module.state_dict().items()}, path
    )
    refused("expected dicts and tensors only")
    torch.save({**module.state_dict(), "weight_ih_l0": torch.zeros(1).expand(30_000, 30_000)}, path)
    refused("weight_ih_l0: expected a tensor kept in the file")

    torch.save({"a": 1}, path)
    repacked(path, lambda _: b"\x80\x02cposix\nsystem\nX\x04\x00\x00\x00true\x85R.")
    refused("expected dicts and tensors only, got posix system")
    repacked(path, lambda _: b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.")
    refused("expected dicts and tensors only, got builtins bytearray")
    torch.save(module.state_dict(), path)
    repacked(path, lambda data: data, zipfile.ZIP_DEFLATED)
    refused("expected an archive without compression")
    torch.save(module.state_dict(), path)
    repacked(path, lambda data: data.replace(b"K\x15K\x05\x86", b"J\x00\xca\x9a\x3bK\x05\x86", 1))  # 10**9 rows
    refused("")


def quantized(module, config="default_dynamic_qconfig"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces another interface
        configuration = {type(module): getattr(torch.ao.quantization, config)}
        return torch.ao.quantization.quantize_dynamic(torch.nn.Sequential(module), configuration)[0]


@pytest.mark.parametrize("config", ["default_dynamic_qconfig", "per_channel_dynamic_qconfig"])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}])
def test_quantised_modules_stay_in_int8(options, config):
    module = torch.nn.GRU(5, 7, **options)
    small = quantized(module, config)
    gru = cgru.from_torch(small)
    assert repr(gru) == repr(cgru.from_torch(module)) + ".quantize('int8')"
    for name, weight in small.get_weight().items():
        matrix = gru.value.parameters[name]
        np.testing.assert_array_equal(matrix.numbers, weight.int_repr().numpy())
        per_row = weight.qscheme() == torch.per_channel_affine
        scale = weight.q_per_channel_scales().numpy() if per_row else np.full(21, weight.q_scale())
        np.testing.assert_array_equal(matrix.scale, scale.astype(np.float32))
    for name, bias in small.get_bias().items():
        np.testing.assert_array_equal(gru.state_dict()[name], bias.detach().numpy())
    x = torch.randn(6, 4, 5)
    with torch.no_grad():
        assert relative_error(gru(x.numpy())[0], small(x)[0].numpy()) < 0.05  # inputs are rounded otherwise


def test_quantised_modules_of_halves():
    module = torch.nn.GRU(5, 7)
    half = cgru.from_torch(quantized(module, "float16_dynamic_qconfig"))
    for name, value in module.state_dict().items():
        rounded = value.half().float() if value.ndim == 2 else value
        np.testing.assert_array_equal(half.state_dict()[name], rounded.detach().numpy())


def test_quantised_tensors_about_another_number():
    """They have no place in int8 rows: the model is one of float32."""
    module = torch.nn.GRU(5, 7)
    state = dict(module.state_dict())
    state["weight_ih_l0"] = torch.quantize_per_tensor(state["weight_ih_l0"], 0.01, 3, torch.qint8)
    state["weight_hh_l0"] = torch.quantize_per_tensor(state["weight_hh_l0"], 0.01, 0, torch.qint8)
    gru = cgru.from_torch(state)
    assert gru.precision == "float32"
    for name in ("weight_ih_l0", "weight_hh_l0"):
        np.testing.assert_array_equal(gru.state_dict()[name], state[name].dequantize().numpy())


def test_quantised_cell():
    small = quantized(torch.nn.GRUCell(5, 7))
    x, h = torch.randn(4, 5), torch.randn(4, 7)
    assert relative_error(cgru.from_torch(small)(x.numpy(), h.numpy()), small(x, h).detach().numpy()) < 0.05


# --- Weights that are computed ----------------------------------------------------------------------------------------


def weight_norm_of_today(gru):
    torch.nn.utils.parametrizations.weight_norm(gru, "weight_hh_l0")


def weight_norm_of_before(gru):
    torch.nn.utils.weight_norm(gru, "weight_hh_l0")


def orthogonal(gru):
    torch.nn.utils.parametrizations.orthogonal(gru, "weight_hh_l0")


def spectral_norm(gru):
    torch.nn.utils.spectral_norm(gru, "weight_ih_l1")


def pruned(gru):
    torch.nn.utils.prune.random_unstructured(gru, "weight_hh_l1", amount=0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize(
    "wrap", [weight_norm_of_today, weight_norm_of_before, orthogonal, spectral_norm, pruned], ids=lambda f: f.__name__
)
def test_modules_give_the_weights_that_they_use_and_state_dicts_none(wrap):
    torch.manual_seed(0)
    gru, x = torch.nn.GRU(4, 8, 2), torch.randn(5, 3, 4)
    wrap(gru)
    state = {name: value * 1.25 if value.is_floating_point() else value for name, value in gru.state_dict().items()}
    with torch.no_grad():
        gru.load_state_dict(state)  # what a hook has computed is stale from here to the next call
        ours = cgru.from_torch(gru)
        assert gru.training
        expected = gru.eval()(x)[0].numpy()
    assert relative_error(ours(x.numpy())[0], expected) < 2e-6
    with pytest.raises(
        cgru.FormatError, match=r"expected weights as they are used, got .*, from which one is computed"
    ):
        cgru.from_torch(gru.state_dict())
    with pytest.raises(cgru.FormatError, match="expected weights as they are used"):
        cgru.from_torch({f"net.{name}": value for name, value in gru.state_dict().items()})


def test_weights_of_a_dropped_out_copy_are_refused():
    gru = torch.nn.GRU(4, 8)
    state = {"rnn.weight_hh_l0_raw": gru.weight_hh_l0, **{f"rnn.module.{k}": v for k, v in gru.state_dict().items()}}
    with pytest.raises(cgru.FormatError, match=r"expected weights as they are used, got rnn\.weight_hh_l0_raw"):
        cgru.from_torch(state)
    beside = {"norm.weight_hh_l0_raw": gru.weight_hh_l0, **{f"rnn.{k}": v for k, v in gru.state_dict().items()}}
    assert cgru.from_torch(beside).hidden_size == 8


# --- Never a smaller GRU than is there --------------------------------------------------------------------------------


def moved(state, names, change):
    """A state_dict in which some parameters stand elsewhere, or under other names."""
    return {change(key) if any(name in key for name in names) else key: value for key, value in state.items()}


@pytest.mark.parametrize("names", [["_l1"], ["reverse"], ["bias"], ["bias_hh"], ["weight_hh_l1"], ["l0_reverse"]])
@pytest.mark.parametrize(
    "change",
    [
        lambda key: f"gru.part.{key.removeprefix('gru.')}",
        lambda key: f"other.{key.removeprefix('gru.')}",
        lambda key: key.removeprefix("gru."),
        lambda key: f"gru_{key.removeprefix('gru.')}",
        lambda key: f"{key}_",
        lambda key: f"gru.biases.{key.count('hh')}{key.count('l1')}{key.count('reverse')}{key.count('weight')}",
    ],
    ids=["inside", "beside", "around", "joined", "renamed", "unnamed"],
)
def test_parts_of_a_gru_that_stand_elsewhere_are_refused(names, change):
    gru = torch.nn.GRU(5, 7, 2, bidirectional=True)
    state = {f"gru.{key}": value for key, value in gru.state_dict().items()} | {"fc.weight": torch.zeros(2, 7)}
    changed = moved(state, names, change)
    assert len(changed) == len(state)
    for name in (None, "gru"):
        with pytest.raises(cgru.FormatError, match="expected"):
            cgru.from_torch(changed, name)


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (["_l1"], "weight_ih_l1"),  # of three layers
        (["l1_reverse"], "weight_ih_l1_reverse"),
        (["l0"], "weight_ih_l0"),
        (["bias_hh"], "bias_hh_l0"),
        (["bias_ih_l2"], "bias_ih_l2"),
        (["l0", "l1_", "l2_"], "weight_ih_l0"),
    ],
)
def test_what_is_missing_is_named(names, missing):
    state = torch.nn.GRU(5, 7, 3, bidirectional=True).state_dict()
    left = {key: value for key, value in state.items() if not any(name in key for name in names)}
    with pytest.raises(cgru.FormatError, match=f"missing {missing}|expected {missing}"):
        cgru.from_torch(left)
    only_reverse = {key: value for key, value in state.items() if "reverse" in key}
    with pytest.raises(cgru.FormatError, match="expected weight_ih_l0, got weight_ih_l0_reverse"):
        cgru.from_torch(only_reverse)


def test_a_whole_gru_beside_parts_of_other_layers():
    gru, cell = torch.nn.GRU(5, 7, bias=False), torch.nn.GRUCell(5, 7)
    state = {f"gru.{key}": value for key, value in gru.state_dict().items()}
    same(cgru.from_torch({**state, "cell.weight_ih": cell.weight_ih, "scale.weight_hh_norm": torch.ones(1)}), gru)
    beside = {**state, "gru2.bias_ih_l0": torch.zeros(21)}
    with pytest.raises(cgru.FormatError, match=r"in one module, as in 'gru', got gru2\.bias_ih_l0 besides"):
        cgru.from_torch(beside)
    same(cgru.from_torch({key: value for key, value in beside.items() if key in state}), gru)
    alone = {f"cell.{key}": value for key, value in torch.nn.GRUCell(5, 7, bias=False).state_dict().items()}
    with pytest.raises(cgru.FormatError, match=r"as in 'cell', got biases\.bias_ih besides"):
        cgru.from_torch({**alone, "biases.bias_ih": torch.zeros(21)})

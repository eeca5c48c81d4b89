"""PyTorch: modules, their state_dict, and files of one. PyTorch's convention is the canonical one."""

from __future__ import annotations

import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru.errors import FormatError
from cgru.formats import files, names, others
from cgru.model.precision import Matrix
from cgru.model.spec import from_options
from cgru.model.value import face

if TYPE_CHECKING:
    from cgru.gru import GRU, GRUCell
    from cgru.model.value import Value
    from cgru.types import Array

FILE_GLOBALS = re.compile(
    r"collections OrderedDict|torch\._utils _rebuild_(tensor_v2|parameter|qtensor)|torch \w+Storage|torch Size"
    r"|torch device|torch b?float\d*|torch u?int\d*|torch bool|torch per_\w+"
)
"""What a file's pickle may call for: dicts and tensors. torch.load allows a little more, some of which a file could use
to ask for any amount of memory."""

PADDLE = re.compile(r"((?:.*\.)?)(\d{1,4})\.(cell|cell_fw|cell_bw)\.((?:weight|bias)_(?:ih|hh))", re.DOTALL)
"""PaddlePaddle's second name of a weight: what is before it, the layer, the direction, the weight."""

NUMBERS = tuple(f"{system}.{kind}" for system in ("torch", "paddle") for kind in ("float32", "float64"))
"""What tensors hold."""

CONTAINERS = (Mapping, list, tuple)
"""What holds tensors and further containers in a file."""

SUPPORTED = {
    "reset_after": True,
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "clip": None,
    "reverse": False,
    "merge": "concat",
}
"""Options that PyTorch does not have, and what its modules are."""

QUANTIZED = ("torch.ao.nn.quantized.dynamic.modules.rnn.GRU", "torch.ao.nn.quantized.dynamic.modules.rnn.GRUCell")
"""Modules of dynamically quantized weights, by name, as torch may not have them for ever."""


def from_torch(module_or_state_dict: Any, name: str | None = None) -> GRU | GRUCell:
    """The same model as a cgru.GRU or GRUCell, its parameters copied.

    Parameters
    ----------
    module_or_state_dict : torch.nn.GRU, torch.nn.GRUCell, the state_dict of a module, or the path of a file of one
        A state_dict, PaddlePaddle's too, may stand in a dict of dicts, as checkpoints have it. It does not tell
        batch_first and dropout: they are False and 0 then. A dynamically quantized GRU or
        GRUCell (torch.ao.nn.quantized.dynamic) of int8 weights about zero stays one of int8, with the same integers
        and scales in float32; of other weights it is one of float32, with scale * (q - zero_point).
    name : str, optional
        Which GRU of a state_dict that holds other weights, too: the module's name, as "encoder.gru". Without it there
        must be one.

    Raises
    ------
    cgru.FormatError
        Something else, several GRUs, or parameters that do not make one whole GRU of float32 or float64.

    Examples
    --------
    >>> import torch, cgru
    >>> cgru.from_torch(torch.nn.GRU(4, 8, bidirectional=True))
    GRU(4, 8, bidirectional=True)
    >>> model = torch.nn.ModuleDict({"gru": torch.nn.GRU(4, 8), "out": torch.nn.Linear(8, 2)})
    >>> cgru.from_torch(model.state_dict())
    GRU(4, 8)
    """
    if isinstance(module_or_state_dict, (str, os.PathLike)):
        return load(Path(module_or_state_dict), name)
    model: GRU | GRUCell = face(_of_object(module_or_state_dict, name))
    return model


def _of_object(module_or_state_dict: Any, name: str | None) -> Value:
    """The value of a module or a state_dict."""
    if isinstance(module_or_state_dict, Mapping):
        return _from_state_dict("state_dict", module_or_state_dict, name, {})
    module = module_or_state_dict
    kind = f"{type(module).__module__}.{type(module).__name__}"
    if kind in QUANTIZED:
        parameters = {**module.get_weight(), **module.get_bias()}
    elif _is_module(module):
        parameters = _as_used(module)
    else:
        raise FormatError(
            "module_or_state_dict: expected a torch.nn.GRU, a torch.nn.GRUCell or a state_dict of one, "
            f"got {type(module).__name__}"
        )
    layered = hasattr(module, "num_layers")
    options = {"batch_first": module.batch_first, "dropout": float(module.dropout)} if layered else {}
    return _from_state_dict("state_dict", parameters, name, options)


def _is_module(value: Any) -> bool:
    try:
        import torch
    except ImportError:
        return False
    return isinstance(value, (torch.nn.GRU, torch.nn.GRUCell))


def _as_used(module: Any) -> dict[str, Any]:
    """The parameters that a call of a module in eval() uses, by name: computed ones, too, and not what makes them.

    Parametrizations compute theirs when they are read; older wrappers, torch.nn.utils' weight_norm, spectral_norm and
    prune, in a hook before each call.
    """
    import torch

    training = module.training
    try:
        module.training = False
        for hook in module._forward_pre_hooks.values():
            if type(hook).__module__.startswith("torch.nn.utils."):
                with torch.no_grad():
                    hook(module, ())
    finally:
        module.training = training
    kind = "GRU" if isinstance(module, torch.nn.GRU) else "GRUCell"
    names_of = ("input_size", "hidden_size", "bias", *(("num_layers", "bidirectional") if kind == "GRU" else ()))
    shapes = from_options(kind, {option: getattr(module, option) for option in names_of}).shapes
    state = {name: value for name, value in module.state_dict().items() if not names.COMPUTED.fullmatch(name)}
    return {**state, **{name: getattr(module, name) for name in shapes}}


def _from_state_dict(source: str, state_dict: Mapping[Any, Any], name: str | None, options: dict[str, Any]) -> Value:
    values = _of_paddle(source, names.flat(source, state_dict, lambda _: True))
    shapes = {key: tuple(getattr(value, "shape", ())) for key, value in values.items()}
    chosen = names.choose(source, shapes, name)
    parameters: dict[str, Any] = {short: _integers(values[full]) for short, full in chosen.items()}
    if any(parameters[short] is None for short in parameters if short.startswith("weight")):
        parameters = dict.fromkeys(parameters)  # the weights of a model are all of int8, or none
    for short, full in chosen.items():
        if parameters[short] is None:
            parameters[short] = _array(full, values[full])
    return names.assemble(source, parameters, options)


def _of_paddle(source: str, values: dict[str, Any]) -> dict[str, Any]:
    """The weights without PaddlePaddle's second names of them: its GRU has those of its cells besides PyTorch's.

    Its equations are PyTorch's, and so are gates and shapes. Without one of the biases its cells have zeros there.
    """
    kept = dict(values)
    for full, value in values.items():
        match = PADDLE.fullmatch(full)
        if match and f"{match[1]}weight_ih_l0" in values:
            name = f"{match[1]}{match[4]}_l{match[2]}{'_reverse' * (match[3] == 'cell_bw')}"
            own = _array(full, kept.pop(full))
            if not np.array_equal(own, _array(name, kept.setdefault(name, value)), equal_nan=True):
                raise FormatError(
                    f"{source}: expected the same weights under both of PaddlePaddle's names, {name} and {full}"
                )
    return kept


def _integers(value: Any) -> Matrix | None:
    """A quantized tensor as an int8 matrix, if it is one: of a scale for all or one for each row, and zero at zero."""
    if not getattr(value, "is_quantized", False) or value.dim() != 2:
        return None
    rows = value.shape[0]
    if str(value.qscheme()) == "torch.per_tensor_affine":
        scale, zero = np.full(rows, value.q_scale()), np.full(rows, value.q_zero_point())
    elif str(value.qscheme()) == "torch.per_channel_affine" and value.q_per_channel_axis() == 0:
        scale, zero = value.q_per_channel_scales().numpy(), value.q_per_channel_zero_points().numpy()
    else:
        return None
    if zero.any() or str(value.int_repr().dtype) != "torch.int8":
        return None
    return Matrix("int8", value.int_repr().numpy(), scale.astype(np.float32))


def _array(name: str, value: Any) -> Array:
    """A tensor or array as a NumPy array of float32 or float64."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        if getattr(value, "is_quantized", False):
            value = value.dequantize()
        if str(value.dtype) not in NUMBERS:
            raise FormatError(
                f"{name}: expected float32 or float64, got {value.dtype}; convert the module with .float()"
            )
        value = value.numpy()
    if not isinstance(value, np.ndarray) or value.dtype not in (np.float32, np.float64):
        kind = value.dtype if isinstance(value, np.ndarray) else type(value).__name__
        raise FormatError(f"{name}: expected a float32 or float64 tensor or array, got {kind}")
    return value


def load(path: Path, name: str | None = None) -> GRU | GRUCell:
    """The model in a file; see `read`."""
    model: GRU | GRUCell = face(read(path, name))
    return model


def read(path: Path, name: str | None = None) -> Value:
    """The GRU in a file that torch.save wrote of a state_dict, or of a dict with one in it ({"model": ...}).

    Such a file is a pickle; torch.load reads it with weights_only=True, which makes tensors and containers, and calls
    nothing. float16 and bfloat16 are widened exactly to float32.
    """
    files.refuse_lone_shard(path)
    weights = Weights(path)
    chosen = names.choose(str(path), weights.shapes, name)
    return names.assemble(str(path), weights.arrays(chosen), {})


class Weights:
    """The tensors in a file, by name."""

    def __init__(self, path: Path) -> None:
        _check_archive(path)
        import torch

        if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
            raise ImportError(f"PyTorch's files are safe to read from torch 2.6 on, got {torch.__version__}")
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # damaged pickles fail in every way
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            raise FormatError(f"{path}: expected a state_dict that torch.save wrote, got {reason}") from error
        is_container = isinstance(content, CONTAINERS)
        self.path = path
        self._values = names.flat(str(path), content, _is_tensor, CONTAINERS) if is_container else {}
        self.shapes = {key: tuple(value.shape) for key, value in self._values.items()}

    def arrays(self, chosen: Mapping[str, str]) -> dict[str, Array]:
        """Some of the tensors, under other names; float16 and bfloat16 as float32."""
        import torch

        arrays = {}
        whole, size = self.path.stat().st_size, 0
        for short, full in chosen.items():
            value = self._values[full]
            own = value.numel() * value.element_size()
            size += own
            if value.layout != torch.strided or own > whole or size > names.MAX_USES * whole:
                raise FormatError(f"{self.path}: {full}: expected a tensor kept in the file, got {tuple(value.shape)}")
            half = value.dtype in (torch.float16, torch.bfloat16)
            arrays[short] = _array(f"{self.path}: {full}", value.float() if half else value)
        return arrays


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "detach")


def _check_archive(path: Path) -> None:
    """Refuse what unpacks to more than it is, and a pickle that asks for more than dicts and tensors."""
    try:
        with zipfile.ZipFile(path) as archive:
            others.refuse(path, b"", archive.namelist())
            size = sum(entry.file_size for entry in archive.infolist())
            if size > path.stat().st_size:
                raise FormatError(f"{path}: expected entries of their own bytes each, got {size} in all")
            if any(i.compress_type != zipfile.ZIP_STORED or i.file_size > i.compress_size for i in archive.infolist()):
                raise FormatError(f"{path}: expected an archive without compression, as torch.save writes it")
            pickles = [entry for entry in archive.namelist() if entry.endswith("data.pkl")]
            for entry in pickles:
                for opcode, argument, _ in pickletools.genops(archive.read(entry)):
                    known = opcode.name != "GLOBAL" or FILE_GLOBALS.fullmatch(str(argument))
                    if not known or opcode.name in ("STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX"):
                        raise FormatError(
                            f"{path}: {entry}: expected dicts and tensors only, got {argument or opcode.name}; "
                            "save module.state_dict() alone; of a file that you trust, "
                            "torch.load(path, weights_only=False) gives it"
                        )
    except FormatError:
        raise
    except Exception as error:  # damaged archives fail in every way
        raise FormatError(f"{path}: expected a whole archive that torch.save wrote: {error}") from error


def to_torch(value: Value) -> Any:
    """The same model as a torch.nn.GRU or GRUCell on the CPU."""
    names.refuse_unknown(value, "PyTorch")
    import torch

    spec = value.spec
    name = f"torch.nn.{spec.kind}"
    for option, known in SUPPORTED.items():
        if getattr(spec, option) != known:
            raise FormatError(f"{option}: {name} knows {known!r} only, got {getattr(spec, option)!r}")
    dtype = {"float32": torch.float32, "float64": torch.float64}[spec.dtype.name]
    if spec.stacked:
        module = torch.nn.GRU(
            spec.input_size, spec.hidden_size, spec.num_layers, spec.bias, spec.batch_first, spec.dropout,
            spec.bidirectional, dtype=dtype,
        )  # fmt: skip
    else:
        module = torch.nn.GRUCell(spec.input_size, spec.hidden_size, spec.bias, dtype=dtype)
    module.load_state_dict({key: torch.tensor(array) for key, array in value.weighing_state().items()})
    return module


def save(value: Value, path: str | os.PathLike[str]) -> None:
    """Write a state_dict; torch.load(path, weights_only=True) reads it."""
    import torch

    torch.save(to_torch(value).state_dict(), path)

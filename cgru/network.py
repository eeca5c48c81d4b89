"""Network: a whole trained model, compiled; arguments checked, results made, and the work handed to its program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cgru import checks, config
from cgru.engines.host.network import Runner
from cgru.errors import FormatError
from cgru.formats import network as own
from cgru.model.graph import MAX_MEMORY, Graph
from cgru.model.interpret import run
from cgru.model.joining import join
from cgru.run import frames
from cgru.run.precision import Precision, quantized

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping, Sequence

    from numpy.typing import DTypeLike

    from cgru.model.nodes.table import Sizes
    from cgru.run.network import NetworkStream
    from cgru.run.network_pool import NetworkPool
    from cgru.run.wide import WidePool, WideStream
    from cgru.types import Array


class Network:
    """A trained network that runs in one compiled program.

    >>> import numpy as np, cgru
    >>> net = cgru.Network([cgru.nodes.Linear(40, 64, activation="relu", rng=0), cgru.GRU(64, 32, rng=0)])
    >>> net.inputs, net.outputs
    ({'x': ('T', 'B', 40)}, {'y': ('T', 'B', 32)})
    >>> net(np.zeros((100, 2, 40), np.float32)).shape
    (100, 2, 32)
    >>> stream = net.stream()
    >>> stream.step(np.zeros((1, 40), np.float32)).shape
    (1, 32)

    Parameters
    ----------
    layers : sequence of layers
        Of `cgru.nodes`, cgru.GRU and cgru.MinGRU, one after the other; the ends are called "x" and "y".

    Raises
    ------
    TypeError, ValueError
        A layer is none, or its inputs are not what the one before it gives.
    """

    def __init__(self, layers: Sequence[Any] | Graph, *, dtype: DTypeLike = np.float32) -> None:
        self._set(layers if isinstance(layers, Graph) else _graph_of(layers), dtype, None)

    def _set(self, graph: Graph, dtype: DTypeLike, precision: Precision | None) -> None:
        self.graph = graph
        """The network as a value; see cgru/model/graph.py."""
        self.dtype = checks.floating("dtype", dtype)
        """What it computes in: float32, compiled; or float64, by the NumPy reference, which is slow."""
        self.precise = precision
        self.runner = Runner(graph, {} if precision is None else precision.options(graph))
        if self.dtype == np.float32:
            self.runner.check()

    @classmethod
    def _of(cls, graph: Graph, dtype: DTypeLike = np.float32, precision: Precision | None = None) -> Network:
        net = cls.__new__(cls)
        net._set(graph, dtype, precision)
        return net

    # --- Into it ------------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        name: str | None = None,
        states: Mapping[str, str] | None = None,
        max_memory: int = MAX_MEMORY,
        dtype: DTypeLike = np.float32,
    ) -> Network:
        """The network in a file: .onnx, .keras, .h5, RTNeural's .json, or cgru's own .safetensors.

        Parameters
        ----------
        path : path
        name : str, optional
            Of the network, in a file that holds several.
        states : mapping, optional
            Of a frame graph, inputs that are states and the outputs that are those after a step; without it pairs are
            found by shape, and by names that differ in in, out, new and the like alone.
        max_memory : int
            Bytes that the values of the network may take.
        dtype
            float32, or float64: then NumPy runs it, slowly.

        Raises
        ------
        cgru.FormatError
            A damaged file, or one that holds what cgru has not; the message lists all operators and nodes.
        OSError
            The file cannot be read.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".onnx":
            return cls.from_onnx(path, states=states, max_memory=max_memory, dtype=dtype)
        if suffix == ".safetensors":
            graph, quantized_as = own.load(path, max_memory=max_memory)
            if quantized_as is None:
                return cls._of(graph, dtype)
            if checks.floating("dtype", dtype) != np.float32:
                raise ValueError(f"dtype: expected float32 for a network of {quantized_as[0]}, got {np.dtype(dtype)}")
            return cls._of(graph, dtype, Precision(*quantized_as))
        if suffix in (".keras", ".h5", ".hdf5"):
            return cls.from_keras(path, max_memory=max_memory, dtype=dtype)
        if suffix == ".json":
            from cgru.formats.rtneural_network import network_of

            return cls._of(network_of(path, max_memory), dtype)
        raise FormatError(
            f"{path}: expected a network in .onnx, .safetensors, .keras, .h5 or RTNeural's .json, got "
            f"{suffix or 'no suffix'}"
        )

    @classmethod
    def from_onnx(
        cls,
        model: Any,
        states: Mapping[str, str] | None = None,
        max_memory: int = MAX_MEMORY,
        dtype: DTypeLike = np.float32,
    ) -> Network:
        """The network of an onnx.ModelProto, or of the file at a path; see `load`."""
        from cgru.formats import FORMATS

        with FORMATS["onnx"].using():
            from cgru.formats.onnx.network import from_onnx
        return cls._of(from_onnx(model, states, max_memory), dtype)

    @classmethod
    def from_keras(cls, model: Any, max_memory: int = MAX_MEMORY, dtype: DTypeLike = np.float32) -> Network:
        """The network that a Sequential or functional Keras model is, live or in a .keras or .h5 file; see `load`."""
        from cgru.formats.keras.network import network_of

        return cls._of(network_of(model, max_memory), dtype)

    @classmethod
    def from_torch(
        cls,
        module: Any,
        example: Any = None,
        *,
        axes: Mapping[str, Any] | None = None,
        input_names: Sequence[str] | None = None,
        output_names: Sequence[str] | None = None,
        states: Mapping[str, str] | None = None,
        max_memory: int = MAX_MEMORY,
        dtype: DTypeLike = np.float32,
    ) -> Network:
        """The network that a torch.nn.Module is in eval().

        Parameters
        ----------
        module : torch.nn.Module
            An nn.Sequential of known layers, or any module that torch.export takes.
        example : tensor or tuple of tensors, optional
            What the module is called with, where it is no nn.Sequential.
        axes, input_names, output_names
            See `cgru.formats.aten.network_of`.
        states, max_memory, dtype
            See `load`.

        Raises
        ------
        cgru.FormatError
            Operators that cgru has not, all of them listed.
        """
        from cgru.formats.aten import network_of

        graph = network_of(
            module, example, axes=axes, input_names=input_names, output_names=output_names, states=states,
            max_memory=max_memory,
        )  # fmt: skip
        return cls._of(graph, dtype)

    @classmethod
    def join(cls, networks: Sequence[Network] | Mapping[str, Network], max_memory: int = MAX_MEMORY) -> Network:
        """The network that several make together: an output of one is the input of the same name of another.

        Parameters
        ----------
        networks : sequence or mapping
            In any order.
        max_memory : int
            As in `load`.

        Raises
        ------
        cgru.FormatError
            They do not go together; see `cgru.model.joining.join`.
        ValueError
            They are quantized, or of different dtypes.
        """
        pairs = networks.items() if isinstance(networks, dict) else enumerate(networks)
        named: dict[str, Any] = {str(name): net for name, net in pairs}
        for name, net in named.items():
            if not isinstance(net, Network):
                raise TypeError(f"networks: expected cgru.Network objects, got {type(net).__name__} as {name!r}")
            if net.precise is not None:
                raise ValueError(
                    f"networks: expected float32 weights, got {name!r} of {net.precise.name}; quantize the result"
                )
        dtypes = {net.dtype for net in named.values()}
        if len(dtypes) > 1:
            raise ValueError("networks: expected one dtype, got float32 and float64")
        graph = join({name: net.graph for name, net in named.items()}, max_memory)
        return cls._of(graph, dtypes.pop())

    # --- Facts --------------------------------------------------------------------------------------------------------

    @property
    def inputs(self) -> dict[str, Sizes]:
        """Shapes by name, without states; an axis that is dynamic is a name."""
        return dict(self.graph.inputs)

    @property
    def outputs(self) -> dict[str, Sizes]:
        """Shapes by name, without states."""
        return dict(self.graph.outputs)

    @property
    def states(self) -> dict[str, Sizes]:
        """Shapes of the states that go in and come out, by the names they have as inputs."""
        return {name: self.graph.shapes[name] for name in self.graph.states}

    @property
    def precision(self) -> str:
        """What weights are stored as."""
        return "float32" if self.precise is None else self.precise.name

    @property
    def delay(self) -> int:
        """Frames that a stream's outputs come after the inputs that they belong to."""
        return self.graph.delay

    def state_dict(self) -> dict[str, Array]:
        """The constants, by name: copies."""
        return {name: array.copy() for name, array in self.graph.constants.items()}

    # --- Running ------------------------------------------------------------------------------------------------------

    def __call__(self, x: Any, out: Any = None, *, num_threads: int | None = None) -> Any:
        """Run whole inputs; of a frame graph one frame, from states of zero.

        Parameters
        ----------
        x : array, or dict of arrays by name
            As `inputs` says, float32 but for indices; any number of steps and sequences where these are dynamic.
        out : array, or dict of arrays by name, optional
            Where to write the outputs; must not overlap x.
        num_threads : int, optional
            Threads this call may use; results do not depend on it.

        Returns
        -------
        y : array, or dict of arrays by name
            As `outputs` says.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit.
        """
        if self.dtype == np.float64:
            return self._wide(x, out)
        graph = self.graph
        threads = config.threads_for(num_threads)
        given = frames.named(x, tuple(graph.inputs))
        sizes: dict[str, int] = {}
        arrays = {}
        for name in graph.inputs:
            form = frames.Form(name, graph.shapes[name], -1, -1, frames.dtype_of(graph, name))
            arrays[name] = frames.checked(form, given[name], sizes, {})
        steps, batch = (sizes.get(str(name), 1) for name in (graph.steps, graph.batch))
        if 0 in (steps, batch):
            raise ValueError(f"inputs: expected one step and one sequence or more, got {steps} and {batch}")
        graph.check_length(sizes)
        ready = self.runner.whole(steps, batch)
        limits = ready.compiled.program.limits
        forms = [frames.whole(graph, ready, name) for name in graph.inputs]
        for form in forms:
            frames.checked(form, arrays[form.name], dict(sizes), limits)
        results = [frames.whole(graph, ready, name) for name in graph.outputs]
        outputs = frames.written(results, out, sizes, arrays)
        rows = batch if any(axes.rows >= 0 for axes in ready.axes.values()) else 1
        wrong = ready.door.run(
            [form.port(arrays[form.name]) for form in forms],
            [form.port(outputs[form.name]) for form in results],
            steps if ready.compiled.streams else 1, rows, threads,
        )  # fmt: skip
        if wrong >= 0:
            raise ValueError(
                f"{ready.compiled.program.steps[wrong].title}: expected indices within its table, got others"
            )
        return frames.given_back(outputs)

    def _wide(self, x: Any, out: Any) -> Any:
        """The same in float64."""
        from cgru.run.wide import ready, widened

        known, sizes = ready(self), dict[str, int]()
        given = frames.named(x, tuple(self.graph.inputs))
        forms = [widened(frames.whole(self.graph, known, name)) for name in self.graph.inputs]
        arrays = {form.name: frames.checked(form, given[form.name], sizes, {}) for form in forms}
        self.graph.check_length(sizes)
        results = [widened(frames.whole(self.graph, known, name)) for name in self.graph.outputs]
        outputs = frames.written(results, out, sizes, arrays)
        for name, array in run(self.graph, arrays)[0].items():
            outputs[name][...] = array
        return frames.given_back(outputs)

    def stream(self, batch_size: int | None = None) -> NetworkStream | WideStream:
        """States kept between frames.

        Parameters
        ----------
        batch_size : int, optional
            How many sequences run in lockstep, where the batch is dynamic; 1 without it.

        Raises
        ------
        ValueError
            The network cannot run while time passes; the message names the nodes.
        """
        from cgru.run.network import NetworkStream
        from cgru.run.wide import WideStream

        return (NetworkStream if self.dtype == np.float32 else WideStream)(self, batch_size)

    def pool(self, capacity: int) -> NetworkPool | WidePool:
        """So many streams served together; see `stream`."""
        from cgru.run.network_pool import NetworkPool
        from cgru.run.wide import WidePool

        return (NetworkPool if self.dtype == np.float32 else WidePool)(self, capacity)

    def quantize(self, precision: str, calibrate: Any = None) -> Network:
        """The network with the weights of its products and recurrent layers in fewer bits.

        Parameters
        ----------
        precision : "int8", "bfloat16" or "float16"
        calibrate : array, dict of arrays, or a list of these, optional
            Inputs as the network takes them, for int8: bounds of what recurrent layers meet are chosen by them.

        Raises
        ------
        ValueError
            Another precision, a network of float64, or one that is quantized already.
        """
        if self.dtype != np.float32 or self.precise is not None:
            raise ValueError(
                f"expected a network of float32 weights, got {self.precise.name if self.precise else self.dtype}"
            )
        return self._of(self.graph, self.dtype, quantized(self.graph, precision, calibrate))

    # --- Out of it ----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to cgru's own .safetensors; the file appears whole, or the one before it stays.

        Of a quantized network recurrent layers are written in fewer bits; loaded again it gives the same bits.

        Raises
        ------
        OSError
            The file cannot be written.
        """
        own.save(self.graph, path, None if self.precise is None else (self.precise.name, self.precise.values))

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write the network as an ONNX file of standard operators; the file appears whole, or the one before it stays.

        Raises
        ------
        ValueError
            A layer that ONNX cannot say, or a quantized network: write the one that it was made from.
        OSError
            The file cannot be written.
        """
        from cgru.formats import FORMATS

        if self.precise is not None:
            raise ValueError(
                f"to_onnx: expected a network of float32 weights, got one of {self.precise.name}; write the network "
                "that it was made from"
            )
        with FORMATS["onnx"].using():
            from cgru.formats.onnx.writing import to_onnx
        to_onnx(self.graph, path)

    def to(self, device: str) -> Network:
        """The network on a device: itself on "cpu"; others are refused for now."""
        if device != "cpu":
            raise ValueError(f"device: expected 'cpu', as networks run on processors alone for now, got {device!r}")
        return self

    def __repr__(self) -> str:
        from cgru.engines.host.program.report import described

        return described(self)

    def __copy__(self) -> Network:
        return type(self)._of(self.graph, self.dtype, self.precise)

    def __deepcopy__(self, memo: object) -> Network:
        return self.__copy__()

    def __reduce__(self) -> Any:
        return _restored, (self.graph, self.dtype, self.precise)


def _restored(graph: Graph, dtype: DTypeLike, precision: Precision | None) -> Network:
    return Network._of(graph, dtype, precision)


def _graph_of(layers: Sequence[Any]) -> Graph:
    from cgru.nodes import graph_of

    return graph_of(layers)

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
from cgru.run import frames

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping, Sequence

    from cgru.model.nodes.table import Sizes
    from cgru.run.network import NetworkPool, NetworkStream
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

    def __init__(self, layers: Sequence[Any] | Graph) -> None:
        self._set(layers if isinstance(layers, Graph) else _graph_of(layers), {})

    def _set(self, graph: Graph, options: Mapping[str, Any]) -> None:
        self.graph = graph
        """The network as a value; see cgru/model/graph.py."""
        self.runner = Runner(graph, options)

    @classmethod
    def _of(cls, graph: Graph, options: Mapping[str, Any] | None = None) -> Network:
        net = cls.__new__(cls)
        net._set(graph, options or {})
        return net

    # --- Into it ------------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        name: str | None = None,
        states: Mapping[str, str] | None = None,
        max_memory: int = MAX_MEMORY,
    ) -> Network:
        """The network in a file: .onnx, or cgru's own .safetensors.

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
            return cls.from_onnx(path, states=states, max_memory=max_memory)
        if suffix == ".safetensors":
            return cls._of(own.load(path, max_memory=max_memory))
        raise FormatError(f"{path}: expected a network in .onnx or .safetensors, got {suffix or 'no suffix'}")

    @classmethod
    def from_onnx(
        cls, model: Any, states: Mapping[str, str] | None = None, max_memory: int = MAX_MEMORY
    ) -> Network:
        """The network of an onnx.ModelProto, or of the file at a path; see `load`."""
        from cgru.formats import FORMATS

        with FORMATS["onnx"].using():
            from cgru.formats.onnx.network import from_onnx
        return cls._of(from_onnx(model, states, max_memory))

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
    def dtype(self) -> np.dtype[Any]:
        """What it computes in."""
        return np.dtype(np.float32)

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
            raise ValueError(f"{ready.compiled.program.steps[wrong].title}: expected indices within its table, got others")
        return frames.given_back(outputs)

    def stream(self, batch_size: int | None = None) -> NetworkStream:
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

        return NetworkStream(self, batch_size)

    def pool(self, capacity: int) -> NetworkPool:
        """So many streams served together; see `stream`."""
        from cgru.run.network import NetworkPool

        return NetworkPool(self, capacity)

    # --- Out of it ----------------------------------------------------------------------------------------------------

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the network to cgru's own .safetensors; the file appears whole, or the one before it stays."""
        own.save(self.graph, path)

    def to(self, device: str) -> Network:
        """The network on a device: itself on "cpu"; others are refused for now."""
        if device != "cpu":
            raise ValueError(f"device: expected 'cpu', as networks run on processors alone for now, got {device!r}")
        return self

    def __repr__(self) -> str:
        from cgru.engines.host.program.report import described

        return described(self)

    def __copy__(self) -> Network:
        return type(self)._of(self.graph, self.runner.options)

    def __deepcopy__(self, memo: object) -> Network:
        return self.__copy__()

    def __reduce__(self) -> Any:
        return _restored, (self.graph, self.runner.options)


def _restored(graph: Graph, options: Mapping[str, Any]) -> Network:
    return Network._of(graph, options)


def _graph_of(layers: Iterable[Any]) -> Graph:
    from cgru.nodes import graph_of

    return graph_of(layers)




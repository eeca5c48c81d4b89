"""What the estimators share: parameters and their checks, fitting, files."""

from __future__ import annotations

import copy
import math
import warnings
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from joblib.parallel import get_active_backend
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from cgru import checks, config
from cgru.gru import GRU
from cgru.sklearn import files
from cgru.sklearn.network import Network
from cgru.sklearn.training import SCHEDULES, Adam, Plan, Trainer

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable

    from typing_extensions import Self

    from cgru.sklearn.training import Batch, History
    from cgru.types import Array


class Estimator(BaseEstimator):  # type: ignore[misc] # scikit-learn is not typed
    """A network in training, and after it."""

    gru_: GRU
    _network: Network
    _rng: np.random.Generator  # that partial_fit goes on with, and its optimizer
    _adam: Adam
    _every_step: ClassVar[bool] = False  # whether there are outputs after every step, or after the last
    _facts: ClassVar[tuple[str, ...]] = ()  # what is fitted and no array

    def _check_parameters(self) -> None:
        """Refuse parameters that are of the wrong kind or out of range, each by its name."""
        for name in ("hidden_size", "num_layers", "max_iter", "batch_size", "n_iter_no_change"):
            checks.integer(name, getattr(self, name), 1)
        for name in ("bidirectional", "standardize", "early_stopping", "warm_start", "difference"):
            if hasattr(self, name):
                checks.flag(name, getattr(self, name))
        for name, low, high in (
            ("learning_rate", 0, math.inf),
            ("weight_decay", 0, math.inf),
            ("tol", 0, math.inf),
            ("validation_fraction", 0, 1),
            ("clip_norm", 0, math.inf),
        ):
            value = getattr(self, name)
            zero = name in ("weight_decay", "tol")
            if name == "clip_norm" and value is None:
                continue
            expected = f"{name}: expected a number {'from' if zero else 'above'} {low}"
            expected += f" and below {high}" if high < math.inf else ""
            if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, float, np.integer, np.floating)):
                raise TypeError(f"{expected}, got {value!r}")
            if not (low < value < high or (zero and value == low)):
                raise ValueError(f"{expected}, got {value!r}")
        GRU(1, 1, dropout=self.dropout, rng=0)  # refuses what no GRU takes
        checks.choice("schedule", self.schedule, SCHEDULES)
        checks.floating("dtype", self.dtype)
        if self.callback is not None and not callable(self.callback):
            raise TypeError(f"callback: expected a callable or None, got {self.callback!r}")
        checks.integer("verbose", int(self.verbose) if isinstance(self.verbose, bool) else self.verbose, 0)
        if self.num_threads is not None:
            checks.integer("num_threads", self.num_threads, 1, config.MAX_THREADS)

    def _refit(self, *arguments: Any, **options: Any) -> Self:
        """Fit a copy, which then takes this estimator's place in one act.

        Whatever fails or interrupts it before, this estimator stays as it was, wholly; after, it is wholly the new one.
        """
        new = object.__new__(type(self))
        new.__dict__.update(vars(self))
        history = new._fit(*arguments, **options)
        self.__dict__ = new.__dict__  # one step of the interpreter, and no signal is served within
        if history.notice is not None:
            warnings.warn(history.notice, stacklevel=3)
        if history.failure is not None:
            raise history.failure
        return self

    def _fit(self, *arguments: Any, **options: Any) -> History:
        """Train a copy that `_refit` made; what it shares with the estimator, arrays or generators, is not changed."""
        raise NotImplementedError

    def _generator(self, proceed: bool = False) -> np.random.Generator:
        """A generator by random_state, or, to proceed, a copy of the one that partial_fit goes on with."""
        if proceed:
            return copy.deepcopy(self._rng)
        return np.random.default_rng(check_random_state(self.random_state).randint(2**31 - 1))

    def _threads(self) -> int | None:
        """num_threads; where that is None, one within a joblib worker, whose fellows have the other cores."""
        if self.num_threads is None and get_active_backend()[0].nesting_level:
            return 1
        return self.num_threads

    def _gru_options(self, inputs: int) -> dict[str, Any]:
        """The GRU's options that are parameters of the estimator."""
        names = ("hidden_size", "num_layers", "bidirectional", "dropout")
        found = {name: getattr(self, name) for name in names if hasattr(self, name)}
        return {"input_size": inputs, "dtype": np.dtype(self.dtype), **found}

    def _make(self, inputs: int, outputs: int, rng: np.random.Generator) -> Network:
        return Network(GRU(**self._gru_options(inputs), rng=rng), outputs, self._every_step, rng)

    def _trained_before(self, inputs: int, outputs: int) -> Network:
        """A copy of the network, to train further, if it is of the shape that the parameters ask for."""
        network = copy.deepcopy(self._network)
        for name, value in self._gru_options(inputs).items():
            if network.gru.options[name] != value:
                raise ValueError(
                    f"{name}: expected {network.gru.options[name]} as in the network there is, got {value}"
                )
        if len(network.head_bias) != outputs:
            raise ValueError(f"expected {len(network.head_bias)} outputs as in the network there is, got {outputs}")
        return network

    def _set_network(self, network: Network) -> None:
        self._network = network
        self.gru_, self.head_weight_, self.head_bias_ = network.gru, network.head_weight, network.head_bias

    def _train(
        self,
        network: Network,
        batches: Callable[[], Iterable[Batch]],
        validate: Callable[[], float] | None,
        rng: np.random.Generator,
        again: bool,
        once: bool,
    ) -> History:
        """Train a network, for one epoch if `once`, and take it over; `again` goes on with the moments there are."""
        plan = Plan(
            epochs=1 if once else self.max_iter,
            rate=self.learning_rate,
            schedule="constant" if once else self.schedule,
            clip_norm=self.clip_norm,
            decay=self.weight_decay,
            patience=self.n_iter_no_change,
            tolerance=self.tol,
            threads=self._threads(),
            verbose=int(self.verbose),
            callback=self.callback,
            name=type(self).__name__,
        )
        trainer = Trainer(network, copy.deepcopy(self._adam) if once and again else Adam(), plan, rng)
        history = trainer.run(batches, validate)
        self._adam = trainer.adam
        self._set_network(network)
        self.loss_curve_, self.validation_curve_ = history.losses, history.validation
        self.n_iter_, self.best_iter_ = len(history.losses), history.kept
        return history

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "gru_")

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a .safetensors file: weights, head, scaling, and every parameter in its metadata.

        The file appears whole or not at all; `cgru.load` reads its GRU alone. It holds no state of the training and
        of random_state no more than an integer: a fit or partial_fit after loading starts with new moments. Needs the
        package safetensors: pip install "cgru[sklearn]".

        Raises
        ------
        sklearn.exceptions.NotFittedError
            There is nothing to save.
        TypeError
            A class is of a kind that a file does not hold: neither text, number nor truth value.
        """
        check_is_fitted(self)
        files.save(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The estimator in a file that `save` wrote; nothing in it is run.

        Raises
        ------
        cgru.FormatError
            The file is damaged or holds something else.
        OSError
            The file cannot be read.
        """
        return files.load(cls, path)

    def _arrays(self) -> dict[str, Array]:
        """What was fitted besides the network, by attribute."""
        return {name: getattr(self, name) for name in self._array_shapes()}

    def _array_shapes(self) -> dict[str, tuple[int | str, ...]]:
        raise NotImplementedError

"""GRUClassifier and GRURegressor: a class, or one or more numbers, of a whole sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)

from cgru.sklearn import scaling, sequences
from cgru.sklearn.base import Estimator
from cgru.sklearn.network import cross_entropy, probabilities, squared_error
from cgru.sklearn.streams import ClassifierStream, RegressorStream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Self

    from cgru.sklearn.network import Criterion, Network
    from cgru.sklearn.sequences import Sequences
    from cgru.sklearn.training import Batch, History
    from cgru.types import Array

PREDICTED = 256
"""Sequences in a batch of predict."""


class Supervised(Estimator):
    """What both share: fit, partial_fit and outputs for sequences."""

    def __init__(
        self,
        hidden_size: int = 32,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        standardize: bool = True,
        max_iter: int = 100,
        batch_size: int = 32,
        learning_rate: float = 0.01,
        schedule: str = "constant",
        clip_norm: float | None = 1.0,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        warm_start: bool = False,
        dtype: str = "float32",
        random_state: Any = None,
        num_threads: int | None = None,
        verbose: int = 0,
        callback: Any = None,
    ) -> None:
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.standardize = standardize
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.schedule = schedule
        self.clip_norm = clip_norm
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.warm_start = warm_start
        self.dtype = dtype
        self.random_state = random_state
        self.num_threads = num_threads
        self.verbose = verbose
        self.callback = callback

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    # What differs: targets (N,) or (N, K) as the loss wants them, and the loss.
    def _read_targets(self, y: Any, count: int, reset: bool) -> Array:
        raise NotImplementedError

    def _learn_scale(self, y: Array, weight: Array) -> None:
        """Learn the targets' scaling from what is trained on."""

    def _scaled_targets(self, y: Array, dtype: np.dtype[Any]) -> Array:
        return y

    def _criterion(self, y: Array, weight: Array) -> Criterion:
        raise NotImplementedError

    def _weight(self, y: Array, weight: Array) -> Array:
        return weight

    def _outputs(self) -> int:
        raise NotImplementedError

    def _labels(self, y: Array) -> Array | None:
        """What a share held out is to have in equal parts."""
        return None

    def fit(self, X: Any, y: Any, sample_weight: Any = None, resets: Any = None) -> Self:
        """Train on sequences.

        Parameters
        ----------
        X : (N, T, I), list of N arrays or frames (t, I) or (t,), or (N, F)
            Sequences of one length or of different ones; or rows of F values, each a sequence of F steps of one
            feature. Sequences (t,) of different lengths have one feature, as (t, 1); of one length they are rows. A
            tuple, an array of objects or a Series serves as a list. Columns' names, where there are some, are to be the
            same in all frames and in all later calls.
        y : (N,), or for a regressor (N, K), too
        sample_weight : (N,), optional
            How often a sequence counts; 0 leaves it out.
        resets : (N, T) or list of N arrays (t,) of bool, optional
            True at a step starts its sequence anew there: the GRU's state becomes 0 before it.

        Raises
        ------
        TypeError, ValueError
            An argument or a parameter does not fit; the message names it.
        FloatingPointError
            The loss is no number any more; the estimator keeps the weights of the best epoch before.
        KeyboardInterrupt
            Ctrl-C within the first epoch or outside of training. Later, training ends with a warning, and the estimator
            keeps the weights of the best epoch with early_stopping, else the last ones.

        Whatever else is raised, the estimator stays as it was before the call.
        """
        return self._refit(X, y, sample_weight, resets, again=self.warm_start and hasattr(self, "gru_"))

    def _fit(self, X: Any, y: Any, sample_weight: Any, resets: Any, again: bool, once: bool = False) -> History:
        self._check_parameters()
        given, targets, weight = self._read(X, y, sample_weight, resets, reset=not again)
        self._rng = rng = self._generator(proceed=once and again)
        counted = np.flatnonzero(weight)  # a sequence that does not count is as one that is not there
        held: Array = counted[:0]
        if self.early_stopping and not once:
            counted, held = self._held_out(counted, targets, rng)
        if again:
            network = self._trained_before(given.features, self._outputs())
        else:
            mean, scale = np.zeros(given.features), np.ones(given.features)
            if self.standardize:
                mean, scale = given.take(counted).statistics(weight[counted])
            self.input_mean_, self.input_scale_ = mean, scale
            self._learn_scale(targets[counted], weight[counted])
            network = self._make(given.features, self._outputs(), rng)
        weight = weight / weight[counted].mean()
        inputs = given.standardized(self.input_mean_, self.input_scale_, network.gru.dtype)
        targets = self._scaled_targets(targets, network.gru.dtype)

        def batches() -> Iterator[Batch]:
            order = rng.permutation(counted)
            for first in range(0, len(order), self.batch_size):
                index = order[first : first + self.batch_size]
                criterion = self._criterion(targets[index], weight[index])
                yield (*inputs.take(index).batch(), criterion, len(index) / len(order))

        def validate() -> float:
            outputs = self._run(network, inputs.take(held))
            return self._criterion(targets[held], weight[held] / weight[held].mean())(outputs)[0]

        return self._train(network, batches, validate if len(held) else None, rng, again, once)

    def _read(self, X: Any, y: Any, sample_weight: Any, resets: Any, reset: bool) -> tuple[Sequences, Array, Array]:
        """Sequences, targets and weights, checked."""
        if y is None:
            raise ValueError(f"This {type(self).__name__} estimator requires y to be passed, but the target y is None")
        given = sequences.read(self, X, reset, resets)
        check_consistent_length(given.items, y)
        targets = self._read_targets(y, len(given), reset)
        weight = _check_sample_weight(sample_weight, given.items, dtype=np.float64)
        if (weight < 0).any():
            raise ValueError(f"sample_weight: expected numbers from 0, got {weight.min()}")
        weight = self._weight(targets, weight)
        if not weight.any():
            raise ValueError("sample_weight: expected a number above 0 among them, got none")
        return given, targets, np.ldexp(weight, -scaling.exponent_of(weight.max()))  # so that their sum is finite

    def _held_out(self, counted: Array, targets: Array, rng: np.random.Generator) -> tuple[Array, Array]:
        """The sequences to train on, and those to judge by."""
        labels = self._labels(targets)
        try:
            kept, held = train_test_split(
                counted,
                test_size=self.validation_fraction,
                random_state=int(rng.integers(2**31 - 1)),
                stratify=None if labels is None else labels[counted],
            )
        except ValueError as error:
            raise ValueError(
                f"validation_fraction: cannot hold out {self.validation_fraction} of {len(counted)} sequences: {error}"
            ) from error
        return kept, held

    def _run(self, network: Network, inputs: Sequences) -> Array:
        """Outputs (N, K)."""
        parts = []
        for first in range(0, len(inputs), PREDICTED):
            part = inputs.take(np.arange(first, min(first + PREDICTED, len(inputs))))
            parts.append(network(*part.batch(), self._threads()))
        return np.concatenate(parts)

    def _outputs_of(self, X: Any, resets: Any) -> Array:
        check_is_fitted(self)
        given = sequences.read(self, X, reset=False, resets=resets)
        return self._run(self._network, given.standardized(self.input_mean_, self.input_scale_, self.gru_.dtype))


class GRUClassifier(ClassifierMixin, Supervised):  # type: ignore[misc]
    """The class of a sequence: a GRU, and softmax of a linear head on its last state; cross-entropy.

    Parameters
    ----------
    hidden_size, num_layers, bidirectional, dropout
        Of the `cgru.GRU`. A bidirectional one cannot stream.
    standardize : bool
        Whether each feature is given to the GRU less its mean and divided by its deviation, over all steps of all
        training sequences. The first partial_fit decides for those that follow.
    max_iter : int
        Epochs, with early_stopping at most.
    batch_size : int
        Sequences in a step of Adam.
    learning_rate : float
    schedule : {"constant", "linear", "cosine"}
        How the learning rate falls, the latter two to 0 at the end of max_iter epochs; constant in partial_fit.
    clip_norm : float, optional
        Largest norm of all gradients together; larger ones are scaled down to it. None: as they are.
    weight_decay : float
        Share of each matrix, times the learning rate, that is taken off it in a step.
    early_stopping : bool
        Whether to hold out validation_fraction of the sequences, to stop when the loss on them has not fallen by tol
        for n_iter_no_change epochs, and to keep the weights of the epoch in which it was lowest.
    validation_fraction, n_iter_no_change, tol
        See early_stopping.
    warm_start : bool
        Whether fit goes on from the weights and the scaling that there are.
    dtype : {"float32", "float64"}
        Of the GRU; the head is in float64.
    random_state : int, RandomState, optional
        Of initial weights, the order of sequences, dropout and the share held out.
    num_threads : int, optional
        None: one within a joblib worker (GridSearchCV with n_jobs), else `cgru.get_num_threads()`.
    verbose : int
        1 shows a progress bar, by the package tqdm.
    callback : callable, optional
        Called after each step with the network, whose `gru` it may exchange for another of the same options, and how
        much of the training is done, from 0 to 1; and once more at the end. `cgru.sklearn.Prune` is one. No file holds
        it.
    class_weight : dict, "balanced", optional
        By how much the sequences of a class count, as in scikit-learn; besides sample_weight.

    Attributes
    ----------
    gru_ : cgru.GRU
    head_weight_, head_bias_ : (K, H), (K,)
    classes_ : (K,)
    n_features_in_ : int
    loss_curve_, validation_curve_ : list of float
        By epoch.
    n_iter_, best_iter_ : int
        Epochs done, and the one, from 1 on, whose weights were kept.
    """

    classes_: Array
    _facts: ClassVar[tuple[str, ...]] = ("n_features_in_", "n_iter_", "best_iter_", "_takes_sequences")

    def __init__(
        self,
        hidden_size: int = 32,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        dropout: float = 0.0,
        standardize: bool = True,
        class_weight: Any = None,
        max_iter: int = 100,
        batch_size: int = 32,
        learning_rate: float = 0.01,
        schedule: str = "constant",
        clip_norm: float | None = 1.0,
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        warm_start: bool = False,
        dtype: str = "float32",
        random_state: Any = None,
        num_threads: int | None = None,
        verbose: int = 0,
        callback: Any = None,
    ) -> None:
        options = {k: v for k, v in locals().items() if k not in ("self", "class_weight", "__class__")}
        super().__init__(**options)
        self.class_weight = class_weight

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None, resets: Any = None) -> Self:
        """One epoch on these sequences, from the weights that there are; the first call needs all classes.

        Parameters
        ----------
        X, y, sample_weight, resets
            As in fit.
        classes : (K,), at the first call
        """
        again = hasattr(self, "gru_")
        if classes is None and not again:
            raise ValueError("classes: expected all of them at the first call of partial_fit, got None")
        return self._refit(X, y, sample_weight, resets, again, once=True, classes=classes)

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, resets: Any, again: bool, once: bool = False, classes: Any = None
    ) -> History:
        if classes is not None:
            classes = unique_labels(classes)
            if again and not np.array_equal(self.classes_, classes):
                raise ValueError(f"classes: expected {self.classes_} as at the first call, got {classes}")
        if classes is not None:
            self.classes_ = classes
        elif not again:
            self.__dict__.pop("classes_", None)  # those of y are learned
        return super()._fit(X, y, sample_weight, resets, again, once)

    def _read_targets(self, y: Any, count: int, reset: bool) -> Array:
        y = column_or_1d(y, warn=True)
        if y.dtype.kind == "f" and not np.isfinite(y).all():
            raise ValueError("Input y contains NaN or infinity.")
        with np.errstate(invalid="ignore"):  # scikit-learn tries whether 1e300 is an integer
            check_classification_targets(y)
        try:
            classes = np.unique(y)
        except TypeError as error:
            raise ValueError(f"y: expected classes of one kind, text or numbers: {error}") from error
        if not hasattr(self, "classes_"):
            self.classes_ = classes
        unknown = classes[~np.isin(classes, self.classes_)]
        if len(unknown):
            raise ValueError(f"y: expected the classes {self.classes_}, as at the first fit, got {unknown}")
        return np.searchsorted(self.classes_, y)

    def _weight(self, y: Array, weight: Array) -> Array:
        if self.class_weight is None:
            return weight
        return weight * compute_sample_weight(self.class_weight, self.classes_[y])

    def _labels(self, y: Array) -> Array:
        return y

    def _outputs(self) -> int:
        return len(self.classes_)

    def _criterion(self, y: Array, weight: Array) -> Criterion:
        return cross_entropy(y, weight)

    def predict_proba(self, X: Any, resets: Any = None) -> Array:
        """Each class' probability, (N, K), in the order of classes_; X and resets as in fit."""
        return probabilities(self._outputs_of(X, resets))

    def predict(self, X: Any, resets: Any = None) -> Array:
        """The most probable class of each sequence, (N,); X and resets as in fit."""
        outputs = self._outputs_of(X, resets)
        return self.classes_[outputs.argmax(1)]

    def score(self, X: Any, y: Any, sample_weight: Any = None, resets: Any = None) -> float:
        """The share of sequences whose class is predicted; X and resets as in fit."""
        return float(accuracy_score(y, self.predict(X, resets), sample_weight=sample_weight))

    def stream(self) -> ClassifierStream:
        """The prediction after each step of a sequence as it arrives; see `ClassifierStream`."""
        check_is_fitted(self)
        return ClassifierStream(self)

    def _array_shapes(self) -> dict[str, tuple[int | str, ...]]:
        return {"input_mean_": ("I",), "input_scale_": ("I",)}


class GRURegressor(RegressorMixin, Supervised):  # type: ignore[misc]
    """A number, or several, of a sequence: a GRU, and a linear head on its last state; squared error.

    Targets are standardized within, each by itself. Parameters are those of GRUClassifier without class_weight.

    Attributes
    ----------
    gru_ : cgru.GRU
    head_weight_, head_bias_ : (K, H), (K,)
        Of the standardized targets: y = target_mean_ + target_scale_ * (head_weight_ @ h + head_bias_).
    n_features_in_ : int
    loss_curve_, validation_curve_ : list of float
        By epoch.
    n_iter_, best_iter_ : int
        Epochs done, and the one, from 1 on, whose weights were kept.
    """

    _facts: ClassVar[tuple[str, ...]] = ("n_features_in_", "n_iter_", "best_iter_", "_takes_sequences", "_single")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, resets: Any = None) -> Self:
        """One epoch on these sequences, from the weights that there are; arguments are those of fit."""
        return self._refit(X, y, sample_weight, resets, hasattr(self, "gru_"), once=True)

    def _read_targets(self, y: Any, count: int, reset: bool) -> Array:
        y = scaling.numbers("y", y)
        if reset:
            self._single = y.ndim == 1
        targets = y.reshape(count, -1)
        if not reset and (targets.shape[1] != len(self.target_mean_) or self._single != (y.ndim == 1)):
            expected = "(N,)" if self._single else f"(N, {len(self.target_mean_)})"
            raise ValueError(f"y: expected {expected} as at the first fit, got {y.shape}")
        return targets

    def _learn_scale(self, y: Array, weight: Array) -> None:
        self.target_mean_, self.target_scale_ = scaling.standardization(y, lambda v: np.average(v, 0, weight))

    def _scaled_targets(self, y: Array, dtype: np.dtype[Any]) -> Array:
        return scaling.scaled("y", y, self.target_mean_, self.target_scale_, dtype)  # gradients are in this dtype

    def _outputs(self) -> int:
        return len(self.target_mean_)

    def _criterion(self, y: Array, weight: Array) -> Criterion:
        return squared_error(y, weight[:, None])

    def _values(self, outputs: Array) -> Array:
        """Targets (..., K), or (...) where they were single, of outputs (..., K)."""
        values = self.target_mean_ + self.target_scale_ * outputs
        return values[..., 0] if self._single else values

    def predict(self, X: Any, resets: Any = None) -> Array:
        """The numbers of each sequence, (N,) or (N, K); X and resets as in fit."""
        return self._values(self._outputs_of(X, resets))

    def score(self, X: Any, y: Any, sample_weight: Any = None, resets: Any = None) -> float:
        """R squared of the predictions, the mean of all targets', as scikit-learn has it; numbers may be huge."""
        y = scaling.numbers("y", y)
        predicted = self.predict(X, resets)
        exponent = -scaling.exponent_of(np.maximum(np.abs(y).max(0), np.abs(predicted).max(0)))
        # R squared is the same of all numbers times a power of two, and then squares are finite.
        return float(r2_score(np.ldexp(y, exponent), np.ldexp(predicted, exponent), sample_weight=sample_weight))

    def stream(self) -> RegressorStream:
        """The prediction after each step of a sequence as it arrives; see `RegressorStream`."""
        check_is_fitted(self)
        return RegressorStream(self)

    def _array_shapes(self) -> dict[str, tuple[int | str, ...]]:
        return {"input_mean_": ("I",), "input_scale_": ("I",), "target_mean_": ("K",), "target_scale_": ("K",)}

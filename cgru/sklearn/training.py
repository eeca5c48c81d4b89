"""The training loop of the estimators: Adam, the learning rate's schedule, clipped gradients, when to stop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from cgru.sklearn.network import Criterion, Network
    from cgru.types import Array

    Batch = tuple[Array, dict[str, Array], Criterion, float]
    """x (T, B, I), lengths and resets, the loss on them, and their share of an epoch."""

SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1 - progress,
    "cosine": lambda progress: (1 + math.cos(math.pi * progress)) / 2,
}
"""By what the learning rate is multiplied, when so much of the training is done, from 0 to 1."""


class Adam:
    """Kingma and Ba, 2015 (arXiv:1412.6980), algorithm 1, with the decoupled decay of arXiv:1711.05101."""

    def __init__(self, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8) -> None:
        self.beta1, self.beta2, self.epsilon = beta1, beta2, epsilon
        self.steps = 0
        self.first: dict[str, Array] = {}  # moments of the gradients
        self.second: dict[str, Array] = {}

    def step(
        self, weights: dict[str, Array], grads: dict[str, Array], rate: float, decay: float = 0.0
    ) -> dict[str, Array]:
        """New weights; those given stay as they are. Matrices decay, biases do not."""
        self.steps += 1
        updated = {}
        for name, grad in grads.items():
            if name not in self.first:
                self.first[name], self.second[name] = np.zeros_like(grad), np.zeros_like(grad)
            first, second = self.first[name], self.second[name]
            first += (1 - self.beta1) * (grad - first)
            second += (1 - self.beta2) * (grad * grad - second)
            direction = first / (1 - self.beta1**self.steps)
            direction /= np.sqrt(second / (1 - self.beta2**self.steps)) + self.epsilon
            weight = weights[name]
            kept = weight * (1 - rate * decay) if weight.ndim == 2 and decay else weight
            updated[name] = (kept - rate * direction).astype(weight.dtype)
        return updated


def clip(grads: dict[str, Array], largest_norm: float | None) -> float:
    """Scale gradients, in place, to a norm of all together of at most so much; what it was."""
    norm = math.sqrt(sum(float(np.sum(np.square(grad, dtype=np.float64))) for grad in grads.values()))
    if largest_norm is not None and norm > largest_norm and math.isfinite(norm):
        for grad in grads.values():
            grad *= grad.dtype.type(largest_norm / norm)
    return norm


@dataclass
class Plan:
    """How long and how to train."""

    epochs: int
    rate: float
    schedule: str
    clip_norm: float | None
    decay: float
    patience: int
    tolerance: float
    threads: int | None
    verbose: int
    callback: Callable[[Network, float], None] | None
    name: str  # of the estimator, for the progress bar and messages


@dataclass
class History:
    """What happened: losses by epoch, the epoch, from 1 on, whose weights were kept, and what ended training early."""

    losses: list[float]
    validation: list[float]
    kept: int
    notice: str | None = None  # training was interrupted; the network is whole
    failure: DivergedError | None = None  # training diverged; the network is that of the epoch kept


class DivergedError(FloatingPointError):
    """The loss or a gradient is no number any more."""


class Trainer:
    """Training of one network, epoch by epoch."""

    def __init__(self, network: Network, adam: Adam, plan: Plan, rng: np.random.Generator) -> None:
        self.network, self.adam, self.plan, self.rng = network, adam, plan, rng
        self.weights = network.weights  # of the last whole step
        self.epochs: list[tuple[float, float]] = []  # loss in training, and the one that an epoch is judged by
        self.best = (math.inf, 0, self.weights)  # lowest loss judged by, its epoch from 1 on, the weights then
        self.largest = "none was computed"  # gradient, of the step before

    def run(self, batches: Callable[[], Iterable[Batch]], validate: Callable[[], float] | None) -> History:
        """Train until the plan or held-out data end it; the network then has the weights that were kept.

        Without held-out data those are the last, with them the best. So they are when Ctrl-C interrupts training after
        the first epoch; the history then has a notice. Within the first or only epoch nothing is worth keeping, and
        KeyboardInterrupt goes on: a loop over partial_fit ends. Where training diverges, the network has the weights of
        the best epoch before, and the history has the exception, which goes on where there was no such epoch.

        Parameters
        ----------
        batches : callable
            Those of one epoch, anew at each call.
        validate : callable, optional
            The network's loss on held-out data; with it training stops early.
        """
        plan, waited = self.plan, 0
        keep_best = validate is not None
        notice, failure = None, None
        bar = progress_bar(plan) if plan.verbose else None
        try:
            for epoch in range(plan.epochs):
                loss = self._epoch(epoch, batches)
                judged = loss if validate is None else validate()
                lowest = self.best[0]
                self.epochs.append((loss, judged))
                if judged < lowest:
                    self.best = (judged, epoch + 1, self.weights)
                waited = 0 if judged < lowest - plan.tolerance else waited + 1
                if bar is not None:
                    bar.set_postfix_str(f"loss {loss:.4g}" + f", held out {judged:.4g}" * keep_best)
                    bar.update()
                if keep_best and waited >= plan.patience:
                    break
        except DivergedError as error:
            if not self.best[1]:
                raise
            keep_best, failure = True, error
        except KeyboardInterrupt:
            if not self.best[1] or plan.epochs == 1:
                raise
            self.adam = Adam()  # the moments may be those of half a step
            which = f"best epoch, {self.best[1]}" if keep_best else "last step before it"
            notice = (
                f"{plan.name}: training was interrupted in epoch {len(self.epochs) + 1}; "
                f"the estimator keeps the weights of the {which}"
            )
        finally:
            if bar is not None:
                bar.close()
        losses = [loss for loss, _ in self.epochs]
        validation = [judged for _, judged in self.epochs] if validate is not None else []
        self.network.load(self.best[2] if keep_best else self.weights)
        if plan.callback is not None:
            plan.callback(self.network, 1.0)
        return History(losses, validation, self.best[1] if keep_best else len(losses), notice, failure)

    def _epoch(self, epoch: int, batches: Callable[[], Iterable[Batch]]) -> float:
        """One pass over the batches; their mean loss."""
        plan, mean, done = self.plan, 0.0, 0.0
        for x, how, criterion, share in batches():
            loss, grads = self.network.loss(x, how, criterion, self.rng, plan.threads)
            norm = clip(grads, plan.clip_norm)
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._refuse(epoch, loss, grads)
            size, name = max((float(np.abs(grad).max()), name) for name, grad in grads.items())
            self.largest = f"{size * max(1.0, norm / (plan.clip_norm or math.inf)):.3g}, of {name}"
            progress = (epoch + done) / plan.epochs
            rate = plan.rate * SCHEDULES[plan.schedule](progress)
            self.weights = self.adam.step(self.weights, grads, rate, plan.decay)
            self.network.load(self.weights)
            if plan.callback is not None:
                plan.callback(self.network, progress)
                self.weights = self.network.weights
            mean, done = mean + share * loss, done + share
        return mean

    def _refuse(self, epoch: int, loss: float, grads: dict[str, Array]) -> NoReturn:
        broken = [name for name, grad in grads.items() if not np.isfinite(grad).all()]
        what = f"the gradient by {', '.join(broken)} is not finite" if broken else "gradients are finite"
        best = self.best[1]
        kept = f"keeps the weights of epoch {best}" if best else "keeps nothing of this training"
        raise DivergedError(
            f"loss: {loss} in step {self.adam.steps + 1}, epoch {epoch + 1}; {what}; the largest gradient in the step "
            f"before: {self.largest}. The estimator {kept}; try a smaller learning_rate"
        )


def progress_bar(plan: Plan) -> Any:
    """tqdm's, over epochs."""
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(f'verbose needs the package tqdm: pip install "cgru[sklearn]" ({error})') from error
    return tqdm(total=plan.epochs, desc=plan.name, unit="epoch")

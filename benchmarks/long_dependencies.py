"""What gates are for: python benchmarks/long_dependencies.py [--task adding-400 ...] [--json FILE] [--plot FILE]

A GRU trained through gru.record and a plain tanh RNN in NumPy learn to carry something over hundreds of steps. Both
have as many units, orthogonal recurrent weights, Adam and clipped gradients. The GRU has three times the weights, and
update gates that keep at first; "default" is one as cgru.GRU makes it. Adding (Hochreiter & Schmidhuber 1997): two of T
numbers between 0 and 1 are marked, one in each half; what is their sum? Copy: eight symbols, then T steps of nothing,
then all eight again in order.

Training ends when the error of 500 sequences never trained on (adding: squared, mean; copy: cross-entropy, nats a
symbol) is below 0.01, or when --seconds or --steps are over. Before and after, the gradient of the last step's loss by
every state before it is measured: how far back training can hear.
"""

import argparse
import itertools
import time

import numpy as np
import output

import cgru
from cgru import bench

GOAL = 0.01
BATCH = 64
LOSS_EVERY = 25
"""Training steps between looks at the held-out sequences."""


# --- A recurrent layer without gates ----------------------------------------------------------------------------------


class PlainRNN:
    """h' = tanh(W x + b + U h), with the calls of a cgru.GRU that training takes: so both train by the same code."""

    def __init__(self, input_size, hidden_size, dtype=np.float32, rng=None):
        self.input_size, self.hidden_size = input_size, hidden_size
        bound, rng = hidden_size**-0.5, np.random.default_rng(rng)
        shapes = {"weight_ih_l0": (hidden_size, input_size), "weight_hh_l0": (hidden_size, hidden_size),
                  "bias_ih_l0": (hidden_size,)}  # fmt: skip
        self.load_state_dict({name: rng.uniform(-bound, bound, shape).astype(dtype) for name, shape in shapes.items()})

    def state_dict(self):
        """Parameters by name."""
        return dict(self._parameters)

    def load_state_dict(self, parameters):
        """Take these parameters, uncopied."""
        self._parameters = parameters

    def __call__(self, x, h0=None):
        """x (T, B, I) to all states y (T, B, H) and the last (1, B, H)."""
        recurrent = self._parameters["weight_hh_l0"].T
        y = x @ self._parameters["weight_ih_l0"].T + self._parameters["bias_ih_l0"]
        state = np.zeros_like(y[0]) if h0 is None else h0[0]
        for step in y:
            step += state @ recurrent
            state = np.tanh(step, out=step)
        return y, state[None]

    def record(self, x, h0=None):
        """As a call, and a tape for the way back."""
        h0 = np.zeros((1, x.shape[1], self.hidden_size), x.dtype) if h0 is None else h0
        y, h_n = self(x, h0)
        return y, h_n, PlainTape(self._parameters, x, h0, y)


class PlainTape:
    """A recorded call of a PlainRNN."""

    def __init__(self, parameters, x, h0, y):
        self.parameters, self.x, self.h0, self.y = parameters, x, h0, y

    def backward(self, grad_y=None, grad_h_n=None):
        """A loss' gradients, from those by y and h_n."""
        recurrent = self.parameters["weight_hh_l0"]
        grad_sum = np.zeros_like(self.y) if grad_y is None else grad_y.copy()  # by y, then by tanh's argument
        slope = 1 - self.y**2
        grad_state = np.zeros_like(self.h0[0]) if grad_h_n is None else grad_h_n[0]
        for t in reversed(range(len(self.y))):
            grad_sum[t] += grad_state
            grad_sum[t] *= slope[t]
            grad_state = grad_sum[t] @ recurrent
        before = np.concatenate([self.h0, self.y[:-1]])
        return PlainGradients(grad_state[None], {
            "weight_ih_l0": np.tensordot(grad_sum, self.x, ((0, 1), (0, 1))),
            "weight_hh_l0": np.tensordot(grad_sum, before, ((0, 1), (0, 1))),
            "bias_ih_l0": grad_sum.sum((0, 1)),
        })  # fmt: skip


class PlainGradients(dict):
    """By the parameters' names, and `h0`."""

    def __init__(self, h0, by_name):
        super().__init__(by_name)
        self.h0 = h0


def gradient_error(rng, width=1e-5):
    """PlainRNN's gradients beside central differences, float64: the largest difference over the largest gradient."""
    rnn = PlainRNN(2, 5, np.float64, rng)
    x, h0 = rng.standard_normal((7, 3, 2)), rng.standard_normal((1, 3, 5))
    grad_y, grad_h_n = rng.standard_normal((7, 3, 5)), rng.standard_normal((1, 3, 5))
    _, _, tape = rnn.record(x, h0)
    grads = tape.backward(grad_y, grad_h_n)

    def loss():
        y, h_n = rnn(x, h0)
        return np.sum(y * grad_y) + np.sum(h_n * grad_h_n)

    errors = []
    for values, found in [(h0, grads.h0), *((rnn.state_dict()[name], grads[name]) for name in grads)]:
        for place in np.ndindex(values.shape):
            kept = values[place]
            values[place] = kept + width
            above = loss()
            values[place] = kept - width
            errors.append(abs((above - loss()) / (2 * width) - found[place]) / np.abs(found).max())
            values[place] = kept
    return max(errors)


# --- Tasks ------------------------------------------------------------------------------------------------------------


class Adding:
    """Numbers and marks (T, B, 2); the sum of the two marked numbers, read off the last state."""

    inputs, hidden, outputs, reads = 2, 32, 1, 1
    unit = "mean squared error"
    chance = 1 / 6  # the error of always answering 1: the variance of two uniform numbers' sum

    def __init__(self, steps):
        self.steps = steps

    def batch(self, rng, size):
        """Sequences (T, size, 2) and their sums (size,)."""
        x = np.zeros((self.steps, size, 2), np.float32)
        x[:, :, 0] = rng.random((self.steps, size), np.float32)
        half, every = self.steps // 2, np.arange(size)
        for start, stop in ((0, half), (half, self.steps)):
            x[rng.integers(start, stop, size), every, 1] = 1
        return x, np.sum(x[:, :, 0] * x[:, :, 1], 0)

    @staticmethod
    def loss(answers, target):
        """Mean squared error of answers (1, B, 1) to target (B,), and its gradient by the answers."""
        errors = answers - target[:, None]
        return np.mean(errors**2), 2 / errors.size * errors


class Copy:
    """Eight of eight symbols, T steps of nothing, and a ninth sign at the first of eight steps that repeat them."""

    length = symbols = 8
    inputs, hidden, outputs, reads = 10, 64, 8, 8
    unit = "nats a symbol"
    chance = float(np.log(8))

    def __init__(self, steps):
        self.steps = steps

    def batch(self, rng, size):
        """Sequences (8 + T + 8, size, 10), one of ten signs set, and the symbols (8, size)."""
        said = rng.integers(0, self.symbols, (self.length, size))
        nothing, go = np.full((self.steps, size), 8), np.full((1, size), 9)
        heard = np.concatenate([said, nothing, go, nothing[: self.length - 1]])
        return np.eye(10, dtype=np.float32)[heard], said

    @staticmethod
    def loss(answers, target):
        """Cross-entropy of answers (8, B, 8) with target (8, B), nats a symbol, and its gradient by the answers."""
        answers = answers - answers.max(-1, keepdims=True)
        log_shares = answers - np.log(np.exp(answers).sum(-1, keepdims=True))
        at_target = np.take_along_axis(log_shares, target[:, :, None], -1)
        grad = np.exp(log_shares)
        np.put_along_axis(grad, target[:, :, None], np.exp(at_target) - 1, -1)
        return -np.mean(at_target), grad / target.size


TASKS = {f"adding-{steps}": Adding(steps) for steps in (25, 100, 400, 1000, 10_000)} | {"copy-50": Copy(50)}
USUAL = [name for name in TASKS if name != "adding-10000"]


# --- Training ---------------------------------------------------------------------------------------------------------


def orthogonal(rng, size):
    q, r = np.linalg.qr(rng.standard_normal((size, size)))
    return (q * np.sign(np.diag(r))).astype(np.float32)


def new_gru(task, rng):
    """Orthogonal recurrent weights, and update gates that keep a state for 1 to T steps (Tallec & Ollivier 2018)."""
    hidden = task.hidden
    gru = cgru.GRU(task.inputs, hidden, rng=rng)
    parameters = gru.state_dict()
    parameters["weight_hh_l0"] = np.concatenate([orthogonal(rng, hidden) for _ in range(3)])
    parameters["bias_ih_l0"][:] = parameters["bias_hh_l0"][:] = 0
    parameters["bias_ih_l0"][hidden : 2 * hidden] = np.log(rng.uniform(1, task.steps, hidden))
    gru.load_state_dict(parameters)
    return gru


def new_rnn(task, rng):
    rnn = PlainRNN(task.inputs, task.hidden, rng=rng)
    parameters = rnn.state_dict()
    parameters["weight_hh_l0"] = orthogonal(rng, task.hidden)
    parameters["bias_ih_l0"][:] = 0
    rnn.load_state_dict(parameters)
    return rnn


def default_gru(task, rng):
    """As cgru.GRU makes it: update gates of about a half, which forget in a few steps until trained to keep."""
    return cgru.GRU(task.inputs, task.hidden, rng=rng)


LAYERS = {"GRU": (new_gru, 0.02), "GRU, default": (default_gru, 0.02), "RNN": (new_rnn, 0.001)}
"""How each is made, and its learning rate."""


class Network:
    """A recurrent layer and a linear readout of its last states."""

    def __init__(self, layer, task, rng):
        self.layer, self.task = layer, task
        bound = layer.hidden_size**-0.5
        self.weight = rng.uniform(-bound, bound, (layer.hidden_size, task.outputs)).astype(np.float32)
        self.bias = np.zeros(task.outputs, np.float32)

    def parameters(self):
        """The layer's and the readout's, by name."""
        return {**self.layer.state_dict(), "readout": self.weight, "readout_bias": self.bias}

    def load(self, parameters):
        """Take them back, in the same order."""
        *layer, self.weight, self.bias = parameters.values()
        self.layer.load_state_dict(dict(zip(self.layer.state_dict(), layer, strict=True)))

    def loss(self, x, target):
        """Of sequences (T, B, I)."""
        y, _ = self.layer(x)
        return float(self.task.loss(y[-self.task.reads :] @ self.weight + self.bias, target)[0])

    def gradients(self, x, target):
        """The loss' by every parameter."""
        y, _, tape = self.layer.record(x)
        read = y[-self.task.reads :]
        _, grad = self.task.loss(read @ self.weight + self.bias, target)
        grad_y = np.zeros_like(y)
        grad_y[-self.task.reads :] = grad @ self.weight.T
        by_readout = np.tensordot(read, grad, ((0, 1), (0, 1)))
        return {**tape.backward(grad_y), "readout": by_readout, "readout_bias": grad.sum((0, 1))}

    def gradients_by_states(self, x, target):
        """Norm of the gradient of the last step's loss by the state 0, 1, 2, ... steps before, mean over sequences.

        A step at a time, from the end: each one's gradient by its initial state is the next one's by its last.
        """
        y, _ = self.layer(x)
        _, grad = self.task.loss(y[-self.task.reads :] @ self.weight + self.bias, target)
        grad_h = grad[-1:] @ self.weight.T
        norms = [np.linalg.norm(grad_h, axis=-1).mean()]
        for t in reversed(range(1, len(x))):
            _, _, tape = self.layer.record(x[t : t + 1], y[t - 1 : t])
            grad_h = tape.backward(grad_h_n=grad_h).h0
            norms.append(np.linalg.norm(grad_h, axis=-1).mean())
        return [float(norm) for norm in norms]


class Adam:
    """Kingma & Ba 2015, after clipping the gradients' common norm."""

    def __init__(self, parameters, rate, clip=1.0, decays=(0.9, 0.99)):
        self.rate, self.clip, self.decays, self.steps = rate, clip, decays, 0
        self.mean = {name: np.zeros_like(value) for name, value in parameters.items()}
        self.square = {name: np.zeros_like(value) for name, value in parameters.items()}

    def step(self, parameters, gradients):
        """The next parameters."""
        self.steps += 1
        norm = np.sqrt(sum(np.vdot(grad, grad) for grad in gradients.values()))
        scale = min(1, self.clip / (norm + 1e-12))
        first, second = (1 - decay**self.steps for decay in self.decays)
        result = {}
        for name, value in parameters.items():
            mean, square, grad = self.mean[name], self.square[name], scale * gradients[name]
            mean += (1 - self.decays[0]) * (grad - mean)
            square += (1 - self.decays[1]) * (grad**2 - square)
            result[name] = value - self.rate * (mean / first) / (np.sqrt(square / second) + 1e-8)
        return result


def train(name, task, seed, limits):
    """A network of this layer until the goal or the limits: losses of held-out sequences, gradients by states."""
    rng = np.random.default_rng(seed)
    new, rate = LAYERS[name]
    network = Network(new(task, rng), task, rng)
    held_out = task.batch(np.random.default_rng(seed + 1000), 500)
    few = task.batch(np.random.default_rng(seed + 2000), 20)
    before = network.gradients_by_states(*few)
    adam = Adam(network.parameters(), rate)
    start, curve = time.perf_counter(), []
    for step in range(limits.steps + 1):
        if step % LOSS_EVERY == 0 or step == limits.steps:
            curve.append((step, time.perf_counter() - start, network.loss(*held_out)))
            if curve[-1][2] < GOAL or curve[-1][1] > limits.seconds:
                break
        network.load(adam.step(network.parameters(), network.gradients(*task.batch(rng, BATCH))))
    return {"layer": name, "seed": seed, "curve": curve, "reached": curve[-1][2] < GOAL,
            "gradients": {"before": before, "after": network.gradients_by_states(*few)}}  # fmt: skip


def handful(curve, count=6):
    """Points of a loss curve, evenly apart, the last among them."""
    return [curve[i] for i in np.unique(np.linspace(0, len(curve) - 1, count).round().astype(int))]


def report(result):
    """Print a training's curve, its outcome, and its gradients by states 10, 20, 50, ... steps before the last."""
    step, seconds, loss = result["curve"][-1]
    outcome = f"{GOAL} reached at step {step}, {seconds:.1f} s" if result["reached"] else (
        f"{loss:.4f} after {step} steps, {seconds:.1f} s")  # fmt: skip
    print(f"  {result['layer']}; seed {result['seed']}: {outcome}")
    print("    loss           ", *(f"{step}: {loss:.4f}" for step, _, loss in handful(result["curve"])), sep="  ")
    for when, norms in result["gradients"].items():
        shown = [steps for steps in (10, 20, 50, 100, 200, 400, 900, 9000) if steps < len(norms)]
        print(f"    gradient {when:6}", *(f"{k} back: {norms[k] / max(norms[0], 1e-30):.1g}" for k in shown), sep="  ")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--task", nargs="+", choices=TASKS, default=USUAL, help="with its T")
    parser.add_argument("--layer", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=100_000, help="of training, at most")
    parser.add_argument("--seconds", type=float, default=30, help="of each training, at most")
    arguments = output.add_arguments(parser)
    error = gradient_error(np.random.default_rng(0))
    if not error < 1e-7:
        raise RuntimeError(f"RNN: its gradients differ from central differences by {error:.2g}")
    print(f"batches of {BATCH}, {cgru.get_num_threads()} threads")
    print(f"the RNN's gradients differ from central differences by {error:.1g}")
    print("gradient: by the state so many steps before the last, over that by the last")
    kept = []
    with bench.blas_threads(1):  # its threads would spin on the cores of cgru's
        for name in arguments.task:
            task = TASKS[name]
            print(f"\n{name}: {task.unit}, {task.chance:.3f} by chance; H {task.hidden}", flush=True)
            for layer, seed in itertools.product(arguments.layer, arguments.seeds):
                kept.append({"task": name, **train(layer, task, seed, arguments)})
                report(kept[-1])
    output.keep(arguments, kept, plot, columns=2)


def plot(losses, gradients, kept):
    """Of the first seed: errors over training in the first kind of task, gradients over distance in its longest."""
    kind, seed = kept[0]["task"].split("-")[0], kept[0]["seed"]
    rows = [row for row in kept if row["task"].startswith(kind) and row["seed"] == seed]
    longest = max(len(row["gradients"]["before"]) for row in rows)
    for row in rows:
        color, (steps, _, errors) = f"C{list(LAYERS).index(row['layer'])}", zip(*row["curve"][1:], strict=True)
        last = len(row["gradients"]["before"]) == longest
        losses.plot(steps, errors, color=color, linewidth=1, label=row["layer"] if last else None)
        losses.annotate("T " + row["task"].split("-")[1], (steps[-1], errors[-1]), color=color, fontsize=7,
                        xytext=(2, -2), textcoords="offset points")  # fmt: skip
        for when, style in (("before", ":"), ("after", "-")) if last else ():
            norms = np.array(row["gradients"][when])
            gradients.plot(norms / norms[0], style, color=color, label=f"{row['layer']}, {when} training")
    losses.set(xlabel="training steps", ylabel=TASKS[rows[0]["task"]].unit, title=kind.capitalize(),
               xscale="log", yscale="log")  # fmt: skip
    gradients.set(xlabel="steps before the last", ylabel="gradient by the state, over that by the last",
                  title=f"{kind.capitalize()}, {longest} steps", yscale="log", ylim=(1e-12, 1e2))  # fmt: skip


if __name__ == "__main__":
    main()

"""Layers for `cgru.Network([...])`: torch.nn's names, arguments and parameters, and an `activation` of the result.

Features are the last axis everywhere, also of convolutions, which run over time. Weights are drawn as torch.nn draws
them, or given: `weight=`, `bias=` and the like take arrays of torch's shapes, `load_state_dict` takes all at once.
Networks are for inference: dropout changes nothing, and norms use what training kept.

>>> import cgru
>>> from cgru.nodes import Conv1d, LayerNorm, Linear, Residual
>>> graph = graph_of([Conv1d(40, 64, 3, padding="causal"), Residual([LayerNorm(64), cgru.GRU(64, 64)]), Linear(64, 2)])
>>> graph.inputs, graph.outputs, graph.delay
({'x': ('T', 'B', 40)}, {'y': ('T', 'B', 2)}, 0)
"""

from __future__ import annotations

from cgru.nodes.functions import GLU, Activation, ArgMax, Dropout, LogSoftmax, PReLU, Softmax
from cgru.nodes.lists import graph_of
from cgru.nodes.norms import BatchNorm1d, InstanceNorm1d, LayerNorm
from cgru.nodes.products import RNN, Embedding, Linear
from cgru.nodes.shapes import Flatten, LastStep, Residual
from cgru.nodes.windows import AvgPool1d, Conv1d, MaxPool1d

__all__ = [
    "GLU",
    "RNN",
    "Activation",
    "ArgMax",
    "AvgPool1d",
    "BatchNorm1d",
    "Conv1d",
    "Dropout",
    "Embedding",
    "Flatten",
    "InstanceNorm1d",
    "LastStep",
    "LayerNorm",
    "Linear",
    "LogSoftmax",
    "MaxPool1d",
    "PReLU",
    "Residual",
    "Softmax",
    "graph_of",
]

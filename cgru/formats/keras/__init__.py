"""Keras: GRU, GRUCell, RNN, Bidirectional, CuDNNGRU and stacks of them, as live layers and in files of Keras 1 to 3.

`live.py` has the layers, which need Keras 3; `files.py` the files, which are read without it.
"""

from cgru.formats.keras.files import load, read
from cgru.formats.keras.live import from_keras, save, to_keras

__all__ = ["from_keras", "load", "read", "save", "to_keras"]

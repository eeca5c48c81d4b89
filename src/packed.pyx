# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The packed engine's door: weights packed once a layer, and calls handed to the kernels without the GIL.

No arithmetic here: layouts and kernels are in kernels/packed.h, the loop over time in kernels/sequence.cpp. Arrays are
checked before they arrive (cgru/checks.py).
"""

import numpy as np

from libc.stdint cimport int64_t

from kernels cimport Activation, Kernels, PackedCall, PackedLayer, kernels, run_packed_call, runnable_sets

cdef const Kernels* table = kernels()
if table == NULL:
    import os
    raise ImportError(f"CGRU_ISA: expected one of {', '.join(runnable_sets().decode().split())} on this machine, "
                      f"got {os.environ['CGRU_ISA']}")


def blocks_of(array, int64_t lanes, groups):
    """Gate rows (G*H, K) as [blocks][K][G][lanes] for each group of gates, one group behind the other; padded by zero.

    `groups` lists the gates of each group: [[0, 1, 2]], or [[0, 1], [2]].
    """
    gates = np.concatenate(groups).size
    hidden, count = array.shape[0] // gates, array.shape[1]
    padded = np.zeros((gates, (hidden + lanes - 1) // lanes * lanes, count), np.float32)
    padded[:, :hidden] = array.reshape(gates, hidden, count)
    by_block = padded.reshape(gates, -1, lanes, count).transpose(1, 3, 0, 2)  # (blocks, K, G, lanes)
    return np.concatenate([by_block[:, :, group].ravel() for group in groups])


cdef class Weights:
    """A layer packed for the kernels of the instruction set in use."""
    cdef object arrays  # kept alive
    cdef PackedLayer layer

    def __init__(self, layer):
        cdef int64_t lanes = table.packed.lanes, hidden = layer.hidden_size
        together = [[0, 1, 2]]
        bias = layer.bias[:3].reshape(3 * hidden, 1)
        self.arrays = [
            aligned(blocks_of(layer.w_ih, lanes, together)),
            aligned(blocks_of(layer.w_hh, lanes, together if layer.reset_after else [[0, 1], [2]])),
            aligned(blocks_of(bias, lanes, together)),
            aligned(blocks_of(layer.bias[3].reshape(hidden, 1), lanes, [[0]])),
        ]
        addresses = [array.ctypes.data for array in self.arrays]
        self.layer.inputs = layer.w_ih.shape[1]
        self.layer.hidden = hidden
        self.layer.blocks = (hidden + lanes - 1) // lanes
        self.layer.input_weights = <const float*> <size_t> addresses[0]
        self.layer.recurrent_weights = <const float*> <size_t> addresses[1]
        self.layer.bias = <const float*> <size_t> addresses[2]
        self.layer.candidate_bias = <const float*> <size_t> addresses[3]
        self.layer.gate = Activation(layer.gate.code, layer.gate.alpha, layer.gate.beta, layer.clip)
        self.layer.candidate = Activation(layer.candidate.code, layer.candidate.alpha, layer.candidate.beta, layer.clip)
        self.layer.reset_after, self.layer.flip = layer.reset_after, layer.flip
        self.layer.usual = (layer.gate.name, layer.candidate.name, layer.clip, layer.flip) == (
            "sigmoid", "tanh", float("inf"), False)


def aligned(array):
    """A copy that begins at a cache line, so that no vector of weights straddles two."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    result = memory[start:start + array.nbytes].view(array.dtype)
    result[...] = array
    return result


def forward(Weights weights,
            const float[:, :, :] x,        # (T, B, I)
            float[:, ::1] state,           # (B, H), in order of falling length; h0 on entry, h_n on return
            float[:, :, :] y,              # (T, B, H), units contiguous; written
            const int64_t[::1] order,      # (B,) the sequence of each row of state, or None: as they come
            const int64_t[::1] lengths,    # (B,) falling, or None: all T
            bint reverse, int threads):
    """Run one direction of one layer over T >= 1 steps of B >= 1 sequences."""
    cdef int64_t size = sizeof(float)
    cdef PackedCall call
    call.layer = &weights.layer
    call.steps, call.batch = x.shape[0], x.shape[1]
    call.x = &x[0, 0, 0]
    call.x_step, call.x_sequence, call.x_feature = x.strides[0] // size, x.strides[1] // size, x.strides[2] // size
    call.state = &state[0, 0]
    call.y = &y[0, 0, 0]
    call.y_step, call.y_sequence = y.strides[0] // size, y.strides[1] // size
    call.order = NULL
    call.lengths = NULL
    if order is not None:
        call.order = &order[0]
        call.lengths = &lengths[0]
    call.reverse = reverse
    call.threads = threads
    cdef int failed
    with nogil:
        failed = run_packed_call(table.packed, call)
    if failed:
        raise MemoryError("no memory for the scratch of this call")

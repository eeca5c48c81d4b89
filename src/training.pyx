# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The training engine's door: weights laid out once a layer, and passes handed to the kernels without the GIL.

No arithmetic here: the loops over time are in training/training.cpp, products in training/products.h, gates in
cells/gradients.h. Arrays are checked before they arrive (cgru/checks.py).
"""

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int64_t, uint8_t

from interrupt cimport ask_signals, finish
from kernels cimport (
    Activation, Cell, Kernels, Outcome, Panels, TrainingCall, TrainingKernels, TrainingLayer, cell_named, cells,
    is_usual, run_backward, run_record
)

from cgru._packed import KERNELS

cdef const Kernels* table = <const Kernels*> PyCapsule_GetPointer(KERNELS, "cgru.kernels")

ctypedef fused real:
    float
    double


cdef const TrainingKernels[real]* training_kernels(real unused) noexcept nogil:
    if real is float:
        return &table.training32
    else:
        return &table.training64


# The matrix (N, K), transposed, laid out for products at `memory`, which moves on behind it; to measure, only that.
cdef Panels[real] panels_of(const real[:, :] transposed, real** memory, bint measure):
    cdef Panels[real] panels
    cdef const TrainingKernels[real]* kernels = training_kernels[real](0)
    cdef int64_t size = sizeof(real)
    panels.inner, panels.outer = transposed.shape[1], transposed.shape[0]
    panels.values = memory[0]
    if not measure:
        kernels.pack(&transposed[0, 0], transposed.strides[1] // size, transposed.strides[0] // size, panels.inner,
                     panels.outer, memory[0])
    memory[0] += kernels.panels_size(panels.inner, panels.outer)
    return panels


# Lay a layer out at `memory`; only measured, the return tells how many values that takes.
cdef int64_t lay_out(object layer, TrainingLayer[real]* made, real* memory, bint measure):
    cdef const real[:, :] w = layer.w_ih
    cdef const real[:, ::1] bias = layer.bias
    cdef int64_t H = layer.hidden_size
    cdef real* start = memory
    cdef int p
    cdef Cell cell
    made.inputs, made.hidden = w.shape[1], H
    made.bias = &bias[0, 0]
    made.cell, made.flip = cell_named(layer.cell), layer.flip
    cell = cells[made.cell]
    made.gate = Activation(layer.gate.code, layer.gate.alpha, layer.gate.beta, layer.clip)
    made.candidate_function = Activation(layer.candidate.code, layer.candidate.alpha, layer.candidate.beta, layer.clip)
    made.usual = is_usual(cell, made.gate, made.candidate_function, made.flip)
    made.input = panels_of[real](w, &memory, measure)
    made.input_back = panels_of[real](w.T, &memory, measure)
    for p in range(cell.phases):
        made.recurrent[p].values = made.recurrent_back[p].values = NULL
        if cell.phase[p].gates == 0:
            continue
        rows = layer.w_hh[cell.phase[p].first * H:][:cell.phase[p].gates * H]
        made.recurrent[p] = panels_of[real](rows, &memory, measure)
        rows = np.roll(rows, cell.phase[p].rolled * H, axis=0)  # in the order in which their gradients lie
        made.recurrent_back[p] = panels_of[real](rows.T, &memory, measure)
    return memory - start


# All matrices of a layer in one piece of memory, whose vectors begin at cache lines; the arrays to keep alive.
cdef list prepare(object layer, TrainingLayer[real]* made, real unused):
    cdef int64_t line = 64 // <int64_t> sizeof(real)
    array = np.empty(lay_out[real](layer, made, NULL, True) + line, layer.bias.dtype)
    cdef real[::1] values = array
    cdef int64_t skipped = -(<int64_t> <size_t> &values[0] // <int64_t> sizeof(real)) & (line - 1)
    lay_out[real](layer, made, &values[skipped], False)
    return [array, layer.bias]


cdef class Weights:
    """A layer laid out for the products of both ways; for float32 or float64."""
    cdef list kept_alive
    cdef readonly int kept  # values a unit of a recorded step
    cdef TrainingLayer[float] layer32
    cdef TrainingLayer[double] layer64

    def __init__(self, layer):
        self.kept = cells[cell_named(layer.cell)].kept
        if layer.bias.dtype == np.float32:
            self.kept_alive = prepare[float](layer, &self.layer32, 0)
        else:
            self.kept_alive = prepare[double](layer, &self.layer64, 0)


# The arguments that both passes share.
cdef TrainingCall[real] call_of(Weights weights, const real[:, :, :] x, real[:, ::1] state, const real[:, :, :] y,
                                real[:, :, :, ::1] kept, const int64_t[::1] order, const int64_t[::1] lengths,
                                const uint8_t[:, ::1] fresh, const real[:, ::1] start, bint reverse, int threads):
    cdef TrainingCall[real] call
    cdef int64_t size = sizeof(real)
    if real is float:
        call.layer = &weights.layer32
    else:
        call.layer = &weights.layer64
    call.steps, call.batch = x.shape[0], x.shape[1]
    call.reverse, call.threads = reverse, threads
    call.interrupted = ask_signals
    call.order = call.lengths = NULL
    if order is not None:
        call.order, call.lengths = &order[0], &lengths[0]
    call.fresh = call.start = NULL
    if fresh is not None:
        call.fresh, call.start = &fresh[0, 0], &start[0, 0]
    call.x = &x[0, 0, 0]
    call.x_step, call.x_sequence = x.strides[0] // size, x.strides[1] // size
    call.y = <real*> &y[0, 0, 0]
    call.y_step, call.y_sequence = y.strides[0] // size, y.strides[1] // size
    call.state = &state[0, 0]
    call.kept = &kept[0, 0, 0, 0]
    return call


def record(Weights weights,
           const real[:, :, :] x,       # (T, B, I), T and B at least 1, features contiguous
           real[:, ::1] state,          # (B, H), in order of falling length; h0 on entry, h_n on return
           real[:, :, :] y,             # (T, B, H), units contiguous; written
           real[:, :, :, ::1] kept,     # (T, B, the cell's values kept, H); written
           const int64_t[::1] order,    # (B,) the sequence of each row of state and kept, or None: as they come
           const int64_t[::1] lengths,  # (B,) falling, or None: all T
           const uint8_t[:, ::1] fresh,  # (T, B), in the rows' order: 1 where one starts anew before a step; or None
           const real[:, ::1] start,    # (B, H), in the rows' order: the states they start from
           bint reverse, int threads):
    """Run one direction of one layer and keep what `backward` needs."""
    cdef TrainingCall[real] call = call_of[real](weights, x, state, y, kept, order, lengths, fresh, start, reverse,
                                                 threads)
    cdef const TrainingKernels[real]* kernels = training_kernels[real](0)
    cdef Outcome outcome
    with nogil:
        outcome = run_record(kernels[0], call)
    finish(outcome)


def backward(Weights weights,
             const real[:, :, :] x,       # as recorded
             real[:, ::1] state,          # h0, in the rows' order
             const real[:, :, :] y,       # as recorded
             real[:, :, :, ::1] kept,     # as recorded; gradients on return
             const int64_t[::1] order, const int64_t[::1] lengths,
             const uint8_t[:, ::1] fresh, const real[:, ::1] start, bint reverse, int threads,
             const real[:, :, :] grad_y,  # (T, B, H), units contiguous, or None: zero
             real[:, ::1] carry,          # (B, H), in the rows' order: the gradient by h_n on entry, by h0 on return
             real[:, ::1] grad_start,     # (B, H), in the rows' order: by start, added to; or None: not wanted
             real[:, :, :] grad_x,        # (T, B, I), features contiguous, or None: not wanted
             bint add,                    # to grad_x, and not over what it holds
             real[:, ::1] grad_w,         # as the weights, and (the cell's values kept, H); added to
             real[:, ::1] grad_u,
             real[:, ::1] grad_bias):
    """Backpropagation through time for what was recorded."""
    cdef TrainingCall[real] call = call_of[real](weights, x, state, y, kept, order, lengths, fresh, start, reverse,
                                                 threads)
    cdef const TrainingKernels[real]* kernels = training_kernels[real](0)
    cdef int64_t size = sizeof(real)
    cdef Outcome outcome
    call.grad_y = NULL
    if grad_y is not None:
        call.grad_y = &grad_y[0, 0, 0]
        call.grad_y_step, call.grad_y_sequence = grad_y.strides[0] // size, grad_y.strides[1] // size
    call.carry = &carry[0, 0]
    call.grad_start = NULL
    if grad_start is not None:
        call.grad_start = &grad_start[0, 0]
    call.grad_x = NULL
    call.add = add
    if grad_x is not None:
        call.grad_x = &grad_x[0, 0, 0]
        call.grad_x_step, call.grad_x_sequence = grad_x.strides[0] // size, grad_x.strides[1] // size
    call.grad_w, call.grad_u, call.grad_bias = &grad_w[0, 0], &grad_u[0, 0], &grad_bias[0, 0]
    with nogil:
        outcome = run_backward(kernels[0], call)
    finish(outcome)

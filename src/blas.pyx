# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The BLAS engine: products by SciPy's BLAS, everything else by the vector kernels in OpenMP loops.

`forward` runs one direction of one layer. Arrays are checked and dimensions bounded before (cgru/checks.py);
the Python side (cgru/engines/blas.py) arranges rows by length. BLAS is never called inside a parallel region.
"""

import numpy as np

from cpython.pycapsule cimport PyCapsule_GetPointer
from cython.parallel cimport prange
from libc.stdint cimport int64_t, uint8_t
from libc.string cimport memcpy, memset

from blas cimport product, real, row_product, transposed_product
from interrupt cimport ask_signals, raise_pending
from kernels cimport (
    Activation, Cell, FlushDenormals, GateKernels, GateStep, Kernels, Phase, Watch, cell_named, cells, is_usual,
    piece_flops, recurrent_gates
)

from cgru._packed import KERNELS
from cgru.model.precision import wide

cdef const Kernels* table = <const Kernels*> PyCapsule_GetPointer(KERNELS, "cgru.kernels")

# The input product is made for a chunk of steps at once. It stays near the core and is long enough for BLAS.
cdef int64_t CHUNK_BYTES = 512 * 1024

cdef int64_t FEW_ROWS = 8
cdef int64_t MANY_ROWS = 64

# Long loops and products run in pieces, between which a call may end. A unit takes about as long as so much arithmetic.
cdef int64_t FEWEST_COLUMNS = 256  # BLAS lays out W anew for each piece
cdef int64_t PIECE_UNITS = 1 << 22
cdef double UNIT_FLOPS = 200

ctypedef void (*StepKernel)(const GateStep[real]&, int64_t, int64_t) noexcept nogil


cdef const GateKernels[real]* gate_kernels(real unused) noexcept nogil:
    if real is float:
        return &table.gates32
    else:
        return &table.gates64


# Run a kernel on all lines, shared out among threads if they hold `parallel_units` values or more.
cdef void run(StepKernel kernel, const GateStep[real]* step, int threads, int64_t parallel_units,
              Watch& watch) noexcept nogil:
    cdef int part
    cdef int64_t first = 0, size, piece
    if step.lines * step.width < parallel_units:
        threads = 1
    piece = max(1, PIECE_UNITS // step.width) * threads
    while first < step.lines and watch.goes_on(UNIT_FLOPS * step.width):
        size = min(piece, step.lines - first)
        if threads == 1:
            kernel(step[0], first, first + size)
        else:
            for part in prange(threads, num_threads=threads, schedule="static", chunksize=1):
                kernel(step[0], first + size * part // threads, first + size * (part + 1) // threads)
        first += size


# Element strides of x (T, B, I).
cdef struct Strides:
    int64_t step, sequence, feature


# rows (steps, batch, I) := the steps [0, steps) of x, dense and in the order of the state's rows.
cdef void gather(const real* x, Strides s, const int64_t* order, real* rows,
                 int64_t steps, int64_t batch, int64_t inputs) noexcept nogil:
    cdef int64_t t, b, i
    cdef const real* row
    for t in range(steps):
        for b in range(batch):
            row = x + t * s.step + (b if order == NULL else order[b]) * s.sequence
            if s.feature == 1:
                memcpy(rows, row, inputs * sizeof(real))
            else:
                for i in range(inputs):
                    rows[i] = row[i * s.feature]
            rows += inputs


# output[order[b]] := column b of state (H, B), for the first rows; the other rows 0.
cdef void emit(const real* state, int64_t batch, int64_t hidden, int64_t rows, const int64_t* order,
               real* output, int64_t stride, Watch& watch) noexcept nogil:
    cdef int64_t b, j, first, last
    cdef real* row
    if batch == 1 and rows == 1:
        memcpy(output, state, hidden * sizeof(real))
        return
    for first in range(0, hidden, 16):  # a cache line of each sequence at a time
        if not watch.goes_on(UNIT_FLOPS * rows):
            return
        last = min(first + 16, hidden)
        for b in range(rows):
            row = output + (b if order == NULL else order[b]) * stride
            for j in range(first, last):
                row[j] = state[j * batch + b]
    for b in range(rows, batch):
        memset(output + order[b] * stride, 0, hidden * sizeof(real))


# Sequences that start anew before a step, of the first rows, take the states they start from: columns of state (H, B).
cdef void restart(const uint8_t* fresh, const real* start, real* state, int64_t batch, int64_t rows,
                  int64_t hidden) noexcept nogil:
    cdef int64_t b, j
    for b in range(rows):
        if fresh[b]:
            for j in range(hidden):
                state[j * batch + b] = start[b * hidden + j]


# How many sequences have a step t; lengths fall, so they are the first ones.
cdef int64_t running(const int64_t* length, int64_t batch, int64_t t) noexcept nogil:
    cdef int64_t low = 0, high = batch, middle
    if length == NULL:
        return batch
    while low < high:
        middle = (low + high) // 2
        if length[middle] > t:
            low = middle + 1
        else:
            high = middle
    return low


# inputs (n, M) := x W', W (M, K), for n steps of a single sequence, by the quickest of three ways (H 64 to 256, AVX2):
# row by row; as one product of the form that is quick for few rows, then transposed; as one product.
cdef void single_input_product(const real* x, int64_t stride, const real* w, const real* w_t, real* inputs, real* spare,
                               int64_t n, int64_t k, int64_t m, Watch& watch) noexcept nogil:
    cdef int64_t row
    if n < FEW_ROWS:
        for row in range(n):
            row_product(x + row * stride, w_t, m, inputs + row * m, k, m)
    elif n < MANY_ROWS:
        transposed_product(w, x, stride, True, spare, n, n, k, m)
        emit(<const real*> spare, n, m, n, NULL, inputs, m, watch)
    else:
        product(x, stride, w_t, inputs, n, k, m)


# `transposed_product` in pieces of some columns of C.
cdef void long_product(const real* w, const real* a, int64_t a_stride, bint a_is_rows, real* c, int64_t c_stride,
                       int64_t n, int64_t k, int64_t m, Watch& watch) noexcept nogil:
    cdef double column = 2.0 * k * m
    cdef int64_t first = 0, piece = max(FEWEST_COLUMNS, <int64_t> (piece_flops / column))
    while first < n and watch.goes_on(column * min(piece, n)):
        transposed_product(w, a + first * (a_stride if a_is_rows else 1), a_stride, a_is_rows, c + first, c_stride,
                           min(piece, n - first), k, m)
        first += piece


# out := U h of a phase's gates, of `gates` that U has, for the first rows of h (H, B).
cdef void recurrent_product(const real* u, const real* h, real* out, int64_t batch, int64_t rows, int64_t hidden,
                            Phase phase, int64_t gates, Watch& watch) noexcept nogil:
    cdef int64_t first = phase.first, width = phase.gates * hidden
    if width == 0:
        return
    if batch == 1:
        row_product(h, u + first * hidden, gates * hidden, out + first * hidden, hidden, width)
    else:
        long_product(u + first * hidden * hidden, h, batch, False, out + first * hidden * batch, batch, rows, hidden,
                     width, watch)


def activate(int code, double alpha, double beta, double clip, const real[::1] x, real[::1] out):
    """out := f(x) with the kernel of an activation, x bounded to [-clip, clip]; for tests and the curious."""
    cdef Activation f = Activation(code, alpha, beta, clip)
    cdef int64_t count = x.shape[0]
    if out.shape[0] != count:
        raise ValueError(f"out: expected ({count},), got ({out.shape[0]},)")
    if count:
        with nogil:
            gate_kernels[real](0).activate(f, &x[0], &out[0], count)


cdef class Weights:
    """A layer's arrays and options as the loops need them, looked up once a layer and not once a call."""
    cdef object arrays  # kept alive
    cdef void* w_ih     # (gates * H, I)
    cdef void* w_ih_t   # (I, gates * H), for one sequence only
    cdef void* w_hh     # (gates * H, H), or (H, gates * H) for one sequence
    cdef void* bias     # (biases, H)
    cdef int64_t inputs, hidden
    cdef bint one_sequence, is_double, flip, usual
    cdef int cell
    cdef Activation gate, candidate

    def __init__(self, layer, bint one_sequence):
        w_ih, w_hh = wide(layer.w_ih), wide(layer.w_hh)
        w_hh, w_ih_t = (w_hh.T, w_ih.T) if one_sequence else (w_hh, w_ih)
        self.arrays = [np.ascontiguousarray(array) for array in (w_ih, w_ih_t, w_hh, layer.bias)]
        self.is_double = layer.bias.dtype == np.float64
        addresses = [array.ctypes.data for array in self.arrays]
        self.w_ih = <void*> <size_t> addresses[0]
        self.w_ih_t = <void*> <size_t> addresses[1]
        self.w_hh = <void*> <size_t> addresses[2]
        self.bias = <void*> <size_t> addresses[3]
        self.one_sequence = one_sequence
        self.inputs, self.hidden = layer.w_ih.shape[1], layer.hidden_size
        self.cell = cell_named(layer.cell)
        self.flip = layer.flip
        self.gate = Activation(layer.gate.code, layer.gate.alpha, layer.gate.beta, layer.clip)
        self.candidate = Activation(layer.candidate.code, layer.candidate.alpha, layer.candidate.beta, layer.clip)
        self.usual = is_usual(cells[self.cell], self.gate, self.candidate, self.flip)


def forward(Weights layer,
            const real[:, :, :] x,            # (T, B, I)
            real[:, ::1] state,               # (H, B), in order of falling length; h0 on entry, h_n on return
            real[:, :, :] y,                  # (T, B, H), units contiguous; written
            const int64_t[::1] order,         # (B,) the sequence of each column of state, or None: as they come
            const int64_t[::1] lengths,       # (B,) falling, or None: all T
            const uint8_t[:, ::1] fresh,      # (T, B), in the states' order: 1 where one starts anew; or None
            const real[:, ::1] start,         # (B, H), in that order: the states they start from
            bint reverse, int threads, int64_t parallel_units):
    """Run one direction of one layer over T >= 1 steps of B >= 1 sequences.

    Many sequences are worked on unit by unit, all sequences of a unit side by side; a single one with its units side by
    side. Each has the weights in the form that its products read fastest.
    """
    cdef int64_t T = x.shape[0], B = x.shape[1], I = layer.inputs, H = layer.hidden, size = sizeof(real)
    if layer.one_sequence != (B == 1) or layer.is_double != (size == 8):
        raise ValueError("layer: prepared for another kind of call")
    cdef Cell cell = cells[layer.cell]
    cdef int kind = layer.cell
    cdef int64_t gates = cell.gates, of_state = recurrent_gates(cell)
    cdef int64_t chunk = min(T, max(1, CHUNK_BYTES // (B * gates * H * size)))
    cdef Strides xs = Strides(x.strides[0] // size, x.strides[1] // size, x.strides[2] // size)
    cdef int64_t x_row = xs.step if B == 1 else xs.sequence
    cdef bint direct = xs.feature == 1 and x_row >= I and order is None and (B == 1 or T == 1 or xs.step == B * x_row)
    cdef int64_t y_step = y.strides[0] // size, y_sequence = y.strides[1] // size

    # scratch: the input product of a chunk, the same transposed, the recurrent product, r * h, and rows of x to be
    # copied
    cdef int64_t inputs_size = chunk * B * gates * H
    cdef int64_t spare_size = min(chunk, MANY_ROWS) * gates * H if B == 1 and chunk >= FEW_ROWS else 0
    cdef int64_t dense_size = 0 if direct else chunk * B * I
    cdef real[::1] scratch = np.empty(inputs_size + spare_size + (of_state + 1) * B * H + dense_size,
                                      np.float32 if real is float else np.float64)
    cdef real* inputs = &scratch[0]
    cdef real* spare = inputs + inputs_size
    cdef real* dense = spare + spare_size + (of_state + 1) * B * H

    cdef GateStep[real] step
    step.one_sequence = layer.one_sequence
    step.recurrent = spare + spare_size
    step.recurrent_gate = B * H
    step.state = &state[0, 0]
    step.reset_state = step.recurrent + of_state * B * H
    step.line = B
    step.bias = <const real*> layer.bias
    step.bias_gate = H
    step.gate = layer.gate
    step.candidate = layer.candidate
    step.flip, step.usual = layer.flip, layer.usual
    cdef const GateKernels[real]* kernel = gate_kernels[real](0)

    cdef const real* w = <const real*> layer.w_ih
    cdef const real* w_t = <const real*> layer.w_ih_t
    cdef const real* u = <const real*> layer.w_hh
    cdef const real* x_first = &x[0, 0, 0]
    cdef const real* x_rows
    cdef real* y_first = &y[0, 0, 0]
    cdef const int64_t* sequence = NULL
    cdef const int64_t* length = NULL
    if order is not None:
        sequence = &order[0]
        length = &lengths[0]
    cdef int64_t first, stop, k, t, columns, rows
    cdef int p
    cdef FlushDenormals mode
    cdef Watch watch
    watch.question = ask_signals

    with nogil:
        for k in range((T + chunk - 1) // chunk):
            first = k * chunk
            if reverse:
                first = max(0, T - first - chunk)
                stop = T - k * chunk
            else:
                stop = min(T, first + chunk)
            columns = running(length, B, first)  # sequences that have any step here
            x_rows = x_first + first * xs.step
            if not direct and columns:
                gather(x_rows, xs, sequence, dense, stop - first, columns, I)
                x_rows, x_row = dense, I
            if B == 1:
                single_input_product(x_rows, x_row, w, w_t, inputs, spare, stop - first, I, gates * H, watch)
                step.input_line, step.input_gate = gates * H, H
                step.lines, step.width = 1, H
            elif columns:
                step.input_line = (stop - first) * columns
                step.input_gate = H * step.input_line
                step.lines = H
                long_product(w, x_rows, x_row, True, inputs, step.input_line, step.input_line, I, gates * H, watch)
            for t in range(stop - first):
                if not watch.goes_on(UNIT_FLOPS * (B + H)):
                    break
                if reverse:
                    t = stop - first - 1 - t
                rows = running(length, B, first + t)
                if fresh is not None:
                    restart(&fresh[first + t, 0], &start[0, 0], &state[0, 0], B, rows, H)
                if B == 1:
                    step.input = inputs + t * gates * H
                else:
                    step.input = inputs + t * columns
                    step.width = rows
                if rows:
                    for p in range(cell.phases):
                        recurrent_product(u, step.reset_state if p else step.state, step.recurrent, B, rows, H,
                                          cell.phase[p], of_state, watch)
                        run[real](kernel.of[kind][p], &step, threads, parallel_units, watch)
                emit(<const real*> step.state, B, H, rows, sequence, y_first + (first + t) * y_step, y_sequence,
                     watch)
            if watch.stopped():
                break
    if watch.stopped():
        raise_pending()

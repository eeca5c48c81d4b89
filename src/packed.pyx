# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The packed engine's door: weights packed once a layer, and calls handed to the kernels without the GIL.

No arithmetic here: layouts are in packed/layout.h, kernels in packed/tiles.h, the loop over time in packed/sequence.*.
Arrays are checked before they arrive (cgru/checks.py).
"""

import numpy as np

cimport numpy as cnp
from libc.stdint cimport int64_t, uint8_t, uintptr_t
from cpython.pycapsule cimport PyCapsule_New
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from interrupt cimport ask_signals, finish
from kernels cimport (
    Activation, CanonicalLayer, CanonicalMatrix, Kernels, Machine, Outcome, PackedCall, PackedLayer, PackedStream,
    Sharing, ThreadCounts, cell_named, cells, history, input_products, kernels, machine, pack_layer, run_packed_call,
    runnable_sets, set_sharing, sharing_measured, sharing_none, sharing_rows, sharing_units, storage_bfloat16,
    storage_bfloat16_products, storage_float16, storage_float32, storage_int8, storage_sparse_float32,
    storage_sparse_int8, thread_counts, weights_of
)

from cgru._exclusive cimport Exclusive

from cgru import checks
from cgru.model.precision import Matrix

cnp.import_array()

cdef const Kernels* table = kernels()
if table == NULL:
    import os
    raise ImportError(f"CGRU_ISA: expected one of {', '.join(runnable_sets().decode().split())} on this machine, "
                      f"got {os.environ['CGRU_ISA']}")


ISA = table.name.decode()
RUNNABLE_ISAS = tuple(runnable_sets().decode().split())
HISTORY = PyCapsule_New(<void*> &history(), "cgru.history", NULL)  # of threads: one for all modules
KERNELS = PyCapsule_New(<void*> table, "cgru.kernels", NULL)  # for the BLAS engine, so that there is one copy of them

STORAGES = {
    "float32": storage_float32,
    "bfloat16": storage_bfloat16,
    "float16": storage_float16,
    "int8": storage_int8,
    "bfloat16 products": storage_bfloat16_products,
    "sparse float32": storage_sparse_float32,
    "sparse int8": storage_sparse_int8,
}


cdef class Weights:
    """A layer packed for the kernels of the instruction set in use."""
    cdef object memory  # kept alive
    cdef PackedLayer layer

    def __init__(self, layer, str storage):
        cdef CanonicalLayer given
        cdef int64_t size
        cdef char* start
        arrays = []  # kept alive until they are packed
        given.inputs, given.hidden = layer.w_ih.shape[1], layer.hidden_size
        given.storage = STORAGES[storage]
        given.input = canonical(layer.w_ih, layer.input_limit, arrays)
        given.recurrent = canonical(layer.w_hh, None, arrays)
        given.bias = <const float*> address(layer.bias, arrays)
        given.gate = Activation(layer.gate.code, layer.gate.alpha, layer.gate.beta, layer.clip)
        given.candidate = Activation(layer.candidate.code, layer.candidate.alpha, layer.candidate.beta, layer.clip)
        given.cell = cell_named(layer.cell)
        given.flip = layer.flip
        size = pack_layer(table.packed, given, NULL, self.layer)
        self.memory = np.empty(size + 64, np.uint8)
        start = <char*> cnp.PyArray_DATA(<cnp.ndarray> self.memory)
        pack_layer(table.packed, given, start + (-<uintptr_t> start & 63), self.layer)

    @property
    def address(self):
        """Where the layer is, for programs: valid as long as this object is alive."""
        return <uintptr_t> &self.layer

    def products(self, rows):
        """What steps with these inputs (N, I) start from: (N, numbers) float32; None where none are made ahead."""
        cdef cnp.ndarray x = np.ascontiguousarray(rows, np.float32)
        cdef int64_t i, count = x.shape[0], width = input_products(table.packed, self.layer, NULL, 0, NULL)
        cdef cnp.ndarray found
        cdef const float** addresses
        if x.ndim != 2 or x.shape[1] != self.layer.inputs:
            raise ValueError(f"rows: expected (N, {self.layer.inputs}), got {(<object> x).shape}")
        if width == 0:
            return None
        found = np.empty((count, width), np.float32)
        addresses = <const float**> malloc(max(1, count) * sizeof(float*))
        if addresses == NULL:
            raise MemoryError()
        for i in range(count):
            addresses[i] = <const float*> cnp.PyArray_DATA(x) + i * self.layer.inputs
        with nogil:
            input_products(table.packed, self.layer, addresses, count, <float*> cnp.PyArray_DATA(found))
        free(addresses)
        return found

    @property
    def usual(self):
        """Whether its cell's usual functions are its own."""
        return bool(self.layer.usual)


# A matrix as it is packed from; `arrays` keeps its memory.
cdef CanonicalMatrix canonical(matrix, limit, list arrays):
    cdef CanonicalMatrix result
    result.numbers = address(matrix.numbers if isinstance(matrix, Matrix) else matrix, arrays)
    result.scale = NULL
    if isinstance(matrix, Matrix) and matrix.scale is not None:
        result.scale = <const float*> address(matrix.scale, arrays)
    result.limit = float("inf") if limit is None else limit
    return result


# Where a contiguous form of an array is, which `arrays` keeps.
cdef const void* address(array, list arrays):
    contiguous = np.ascontiguousarray(array)
    arrays.append(contiguous)
    return cnp.PyArray_DATA(<cnp.ndarray> contiguous)


# An array as it may go to the kernels: float32, so many axes, aligned, every stride a number of floats. It is no
# subclass, whose own ways may surprise: cgru/checks.py makes plain arrays of those.
cdef inline bint is_array(object array, int axes):
    cdef cnp.ndarray a
    cdef int axis
    if not cnp.PyArray_CheckExact(array):
        return False
    a = <cnp.ndarray> array
    if cnp.PyArray_TYPE(a) != cnp.NPY_FLOAT32 or cnp.PyArray_NDIM(a) != axes or not cnp.PyArray_ISBEHAVED_RO(a):
        return False
    for axis in range(axes):
        if cnp.PyArray_STRIDE(a, axis) % <cnp.npy_intp> sizeof(float):
            return False
    return True


cdef inline int64_t step_of(cnp.ndarray a, int axis):
    """A stride in floats."""
    return cnp.PyArray_STRIDE(a, axis) // <int64_t> sizeof(float)


# All sequences are whole ones, in their own order.
cdef inline void usual(PackedCall& call) noexcept:
    call.order = call.lengths = NULL
    call.fresh[0] = call.fresh[1] = NULL
    call.start = NULL


cdef class Stack:
    """The packed layers of a model, ready to be called; cgru/engines/packed.py makes it."""
    cdef readonly list weights  # [L * D]
    cdef const PackedLayer** layers
    cdef int64_t depth, directions, inputs, hidden
    cdef bint reverse

    def __cinit__(self, list weights, int64_t directions, bint reverse):
        cdef int64_t k
        self.reverse = reverse
        self.weights = weights
        self.layers = <const PackedLayer**> malloc(len(weights) * sizeof(PackedLayer*))
        if self.layers == NULL:
            raise MemoryError()
        for k in range(len(weights)):
            self.layers[k] = &(<Weights> weights[k]).layer
        self.depth, self.directions = len(weights) // directions, directions
        self.inputs, self.hidden = self.layers[0].inputs, self.layers[0].hidden

    def __dealloc__(self):
        free(self.layers)

    def run(self,
            cnp.ndarray x,       # (T, B, I), T and B at least 1; float32, any strides
            cnp.ndarray state,   # (L*D, B, H) contiguous, in order of falling length; h0 on entry, h_n on return
            cnp.ndarray y,       # (T, B, D*H), units contiguous; written
            order,               # (B,) intp: the sequence of each row of state; or None: as they come
            lengths,             # (B,) int64, falling; or None: all T
            fresh,               # (D, T, B) uint8 contiguous, in the states' order: 1 where one starts anew; or None
            start,               # (L*D, B, H) contiguous: the states they start from
            int threads):
        """Run a call whose arrays have been checked."""
        cdef PackedCall call
        cdef int64_t d
        call.x_step, call.x_sequence, call.x_feature = step_of(x, 0), step_of(x, 1), step_of(x, 2)
        call.y_step, call.y_sequence = step_of(y, 0), step_of(y, 1)
        usual(call)
        if order is not None:
            call.order = <const int64_t*> cnp.PyArray_DATA(<cnp.ndarray?> order)
            call.lengths = <const int64_t*> cnp.PyArray_DATA(<cnp.ndarray?> lengths)
        if fresh is not None:
            for d in range(self.directions):
                call.fresh[d] = <const uint8_t*> cnp.PyArray_DATA(<cnp.ndarray?> fresh[d])
            call.start = <const float*> cnp.PyArray_DATA(<cnp.ndarray?> start)
        call.steps, call.batch = cnp.PyArray_DIM(x, 0), cnp.PyArray_DIM(x, 1)
        call.x = <const float*> cnp.PyArray_DATA(x)
        call.state = <float*> cnp.PyArray_DATA(state)
        call.y = <float*> cnp.PyArray_DATA(y)
        self.compute(call, threads)

    cdef compute(self, PackedCall& call, int threads):
        cdef Outcome outcome
        call.layers = self.layers
        call.depth, call.directions, call.reverse = self.depth, self.directions, self.reverse
        call.threads = threads
        call.interrupted = ask_signals
        with nogil:
            outcome = run_packed_call(table.packed, call)
        finish(outcome)

    def call(self, x, h0, bint batch_first, int threads):
        """The outputs (y, h_n) of whole sequences, for arguments of the usual form; None where one is not.

        This is the short way for `gru(x)` and `gru(x, h0)`: small models run in less time than the careful checks take.
        """
        cdef PackedCall call
        cdef cnp.npy_intp y_shape[3]
        cdef cnp.npy_intp state_shape[3]
        cdef cnp.ndarray a, y, h_n, h
        cdef int axes = 3, steps, sequences
        if not is_array(x, 3):
            if not is_array(x, 2):
                return None
            axes = 2
        a = <cnp.ndarray> x
        steps, sequences = (1, 0) if batch_first and axes == 3 else (0, 1)
        call.steps = cnp.PyArray_DIM(a, steps)
        call.batch = cnp.PyArray_DIM(a, sequences) if axes == 3 else 1
        if call.steps == 0 or call.batch == 0 or cnp.PyArray_DIM(a, axes - 1) != self.inputs:
            return None
        state_shape[0] = self.depth * self.directions
        state_shape[axes - 1], state_shape[1] = self.hidden, call.batch
        if axes == 2:
            state_shape[1] = self.hidden
        if h0 is None:
            h_n = cnp.PyArray_ZEROS(axes, state_shape, cnp.NPY_FLOAT32, 0)
        else:
            if not is_array(h0, axes):
                return None
            h = <cnp.ndarray> h0
            if cnp.PyArray_DIM(h, 0) != state_shape[0] or cnp.PyArray_DIM(h, 1) != state_shape[1] or (
                    axes == 3 and cnp.PyArray_DIM(h, 2) != self.hidden):
                return None
            h_n = cnp.PyArray_NewCopy(h, cnp.NPY_CORDER)
        y_shape[0], y_shape[1] = cnp.PyArray_DIM(a, 0), cnp.PyArray_DIM(a, 1)
        y_shape[axes - 1] = self.directions * self.hidden
        y = cnp.PyArray_EMPTY(axes, y_shape, cnp.NPY_FLOAT32, 0)
        call.x_step, call.x_feature = step_of(a, steps), step_of(a, axes - 1)
        call.y_step = step_of(y, steps)
        call.x_sequence = call.y_sequence = 0
        if axes == 3:
            call.x_sequence, call.y_sequence = step_of(a, sequences), step_of(y, sequences)
        usual(call)
        call.x = <const float*> cnp.PyArray_DATA(a)
        call.state = <float*> cnp.PyArray_DATA(h_n)
        call.y = <float*> cnp.PyArray_DATA(y)
        self.compute(call, threads)
        return y, h_n


SHARING = {"measured": sharing_measured, "rows": sharing_rows, "units": sharing_units, "none": sharing_none}


def share(str way):
    """How calls use threads: as "measured", or for tests and benchmarks by "rows", "units", "none" where possible."""
    set_sharing(<Sharing> <int> SHARING[way])


def counts():
    """Calls that so far ran on more than one thread, and of those the ones that other processes made finish on one."""
    cdef ThreadCounts c = thread_counts()
    return c.shared, c.abandoned


def machine_speed():
    """What was measured of this machine: flops and bytes a second, and the seconds that threads cost."""
    cdef Machine m = machine(table.packed, False)
    return {"flops": m.flops, "bytes": m.bytes, "hot start": m.hot_start, "cold start": m.cold_start,
            "meeting": m.meeting}


def probe_flops(int64_t rounds):
    """Multiply-adds from registers; the number of floating-point operations done."""
    cdef double flops
    with nogil:
        flops = table.packed.multiply_adds(rounds)
    return flops


def probe_read(const float[::1] memory, int times):
    """Read memory so many times, upwards and downwards by turns, as the kernels do with weights."""
    cdef int i
    with nogil:
        for i in range(times):
            table.packed.read(&memory[0], memory.shape[0], i & 1)


# From so many multiply-adds a step on, a step lets other threads run; below, that would cost more than the step.
cdef int64_t RELEASE_WORK = 1 << 20


cdef class Stream(Exclusive):
    """States of a stack of layers kept between steps; cgru/stream.py gives it its face.

    A step allocates nothing when it is given `out`, takes no lock, starts no thread and makes no system call.
    """
    cdef PackedStream* stream
    cdef object weights  # kept alive
    cdef int64_t layers, batch, inputs, hidden, work
    cdef bint one_sequence

    def __cinit__(self, list weights, batch_size):
        cdef int64_t k
        cdef const PackedLayer** layers = <const PackedLayer**> malloc(len(weights) * sizeof(PackedLayer*))
        if layers == NULL:
            raise MemoryError()
        self.weights = weights
        self.layers = len(weights)
        self.one_sequence = batch_size is None
        self.batch = 1 if self.one_sequence else batch_size
        for k in range(self.layers):
            layers[k] = &(<Weights> weights[k]).layer
            self.work += self.batch * <int64_t> weights_of(cells[layers[k].cell], layers[k].inputs, layers[k].hidden)
        self.inputs, self.hidden = layers[0].inputs, layers[0].hidden
        self.stream = new PackedStream(table.packed, layers, self.layers, self.batch)
        free(layers)
        if not self.stream.valid():
            raise MemoryError(f"no memory for {self.batch} streams")

    def __dealloc__(self):
        del self.stream

    # An array as it may go to the kernels: float32, of this shape, values of a row contiguous and aligned; no subclass.
    cdef inline bint fits(self, object array, int64_t width):
        cdef cnp.ndarray a
        if not cnp.PyArray_CheckExact(array):
            return False
        a = <cnp.ndarray> array
        return (cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT32 and cnp.PyArray_ISBEHAVED_RO(a)
                and cnp.PyArray_NDIM(a) == (1 if self.one_sequence else 2)
                and cnp.PyArray_DIM(a, 0) == (width if self.one_sequence else self.batch)
                and (self.one_sequence or cnp.PyArray_DIM(a, 1) == width)
                and cnp.PyArray_STRIDE(a, 0 if self.one_sequence else 1) == sizeof(float)
                and (self.one_sequence or cnp.PyArray_STRIDE(a, 0) >= <cnp.npy_intp> (width * sizeof(float)))
                and (self.one_sequence or cnp.PyArray_STRIDE(a, 0) % <cnp.npy_intp> sizeof(float) == 0))

    # Whether a step can read x and write out as they are.
    cdef inline bint direct(self, object x, object out):
        return (self.fits(x, self.inputs) and self.fits(out, self.hidden) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out)
                and not self.overlap(<cnp.ndarray> x, <cnp.ndarray> out))

    # Whether the extents of two arrays meet; both have passed `fits`.
    cdef inline bint overlap(self, cnp.ndarray x, cnp.ndarray out):
        cdef uintptr_t a = <uintptr_t> cnp.PyArray_DATA(x), b = <uintptr_t> cnp.PyArray_DATA(out)
        cdef uintptr_t a_end = a + self.inputs * sizeof(float), b_end = b + self.hidden * sizeof(float)
        if not self.one_sequence:
            a_end += (self.batch - 1) * cnp.PyArray_STRIDE(x, 0)
            b_end += (self.batch - 1) * cnp.PyArray_STRIDE(out, 0)
        return a < b_end and b < a_end

    def step(self, x, out=None):
        """The output of one more step.

        Parameters
        ----------
        x : (I,), or (B, I) for a lockstep stream
            float32; any strides, contiguous rows being fastest.
        out : (H,) or (B, H), optional
            Where to write the output; must not overlap x. With it the call allocates nothing.

        Returns
        -------
        y : (H,) or (B, H)
            The last layer's state; `out` where that is given.

        Raises
        ------
        TypeError, ValueError
            An argument does not fit; the state is as it was.
        RuntimeError
            Another thread is using this stream.
        """
        cdef cnp.npy_intp shape[2]
        if out is None:
            shape[0], shape[1] = self.hidden if self.one_sequence else self.batch, self.hidden
            out = cnp.PyArray_EMPTY(1 if self.one_sequence else 2, shape, cnp.NPY_FLOAT32, 0)
        # A short step need not take the stream: from here to its end no other thread runs, nor does any Python code.
        if not self.thread and self.work < RELEASE_WORK and self.direct(x, out):
            self.advance(<cnp.ndarray> x, <cnp.ndarray> out)
            return out
        self.take()
        try:
            return self.careful(x, out)
        finally:
            self.free()

    # A step whose arguments may need a look, and a copy where they lie unusually; all that can fail comes before it.
    cdef object careful(self, object x, object out):
        if self.direct(x, out):
            self.advance(<cnp.ndarray> x, <cnp.ndarray> out)
            return out
        dtype = np.dtype(np.float32)
        source = checks.array("x", x, dtype, self.shape(self.inputs))
        result = target = checks.output(out, dtype, self.shape(self.hidden), {"x": source})
        if not self.fits(source, self.inputs):
            source = np.array(source, order="C")
        if not self.fits(target, self.hidden):
            target = np.empty(self.shape(self.hidden), dtype)
        self.advance(<cnp.ndarray> source, <cnp.ndarray> target)
        if target is not result:
            result[...] = target
        return result

    cdef void advance(self, cnp.ndarray x, cnp.ndarray out) noexcept:
        cdef const float* x_first = <const float*> cnp.PyArray_DATA(x)
        cdef float* out_first = <float*> cnp.PyArray_DATA(out)
        cdef int64_t x_stride = 0, out_stride = 0
        if not self.one_sequence:
            x_stride = cnp.PyArray_STRIDE(x, 0) // <int64_t> sizeof(float)
            out_stride = cnp.PyArray_STRIDE(out, 0) // <int64_t> sizeof(float)
        if self.work < RELEASE_WORK:
            self.stream.step(x_first, x_stride, out_first, out_stride)
        else:
            with nogil:
                self.stream.step(x_first, x_stride, out_first, out_stride)

    cdef tuple shape(self, int64_t width):
        if self.one_sequence:
            return (width,)
        return (self.batch, width)

    @property
    def _states(self):
        """A copy of the states (L, B, H); set, they are replaced."""
        cdef float[:, :, ::1] states = np.empty((self.layers, self.batch, self.hidden), np.float32)
        self.stream.get_state(&states[0, 0, 0])
        return np.asarray(states)

    @_states.setter
    def _states(self, const float[:, :, ::1] states not None):
        if (states.shape[0], states.shape[1], states.shape[2]) != (self.layers, self.batch, self.hidden):
            raise ValueError(f"states: expected {(self.layers, self.batch, self.hidden)}")
        self.stream.set_state(&states[0, 0, 0])


def put(states, rows, values):
    """states[:, rows] = values, both of (L, N, H) and contiguous, rows (n,) intp.

    It keeps the GIL: a process that forks meanwhile has all of it or nothing.
    """
    cdef const char[:, :, ::1] source = values.view(np.int8)
    cdef char[:, :, ::1] target = states.view(np.int8)
    cdef const cnp.npy_intp[::1] chosen = rows
    cdef int64_t k, i, width = target.shape[2]
    if (source.shape[0], source.shape[1], source.shape[2]) != (target.shape[0], chosen.shape[0], width):
        raise ValueError(f"values: expected {(len(states), len(rows), states.shape[2])}, got {values.shape}")
    for i in range(chosen.shape[0]):
        if not 0 <= chosen[i] < target.shape[1]:
            raise ValueError(f"rows: expected numbers below {target.shape[1]}, got {chosen[i]}")
    for k in range(target.shape[0]):
        for i in range(chosen.shape[0]):
            memcpy(&target[k, chosen[i], 0], &source[k, i, 0], width)

# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The packed engine's door: weights packed once a layer, and calls handed to the kernels without the GIL.

No arithmetic here: layouts and kernels are in kernels/packed.h, the loop over time in kernels/sequence.cpp. Arrays are
checked before they arrive (cgru/checks.py).
"""

import numpy as np

cimport numpy as cnp
from libc.stdint cimport int64_t, uintptr_t
from libc.stdlib cimport free, malloc

from kernels cimport (
    Activation, Kernels, PackedCall, PackedLayer, PackedStream, kernels, run_packed_call, runnable_sets
)

from cgru import checks

cnp.import_array()

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


# From so many multiply-adds a step on, a step lets other threads run; below, that would cost more than the step.
cdef int64_t RELEASE_WORK = 1 << 20


cdef class Stream:
    """States of a stack of layers kept between steps; cgru/stream.py gives it its face.

    A step allocates nothing when it is given `out`, takes no lock, starts no thread and makes no system call.
    """
    cdef PackedStream* stream
    cdef object weights  # kept alive
    cdef int64_t layers, batch, inputs, hidden, work
    cdef bint single, busy

    def __cinit__(self, list weights, batch_size):
        cdef int64_t k
        cdef const PackedLayer** layers = <const PackedLayer**> malloc(len(weights) * sizeof(PackedLayer*))
        if layers == NULL:
            raise MemoryError()
        self.weights = weights
        self.layers = len(weights)
        self.single = batch_size is None
        self.batch = 1 if self.single else batch_size
        for k in range(self.layers):
            layers[k] = &(<Weights> weights[k]).layer
            self.work += self.batch * 3 * layers[k].hidden * (layers[k].inputs + layers[k].hidden)
        self.inputs, self.hidden = layers[0].inputs, layers[0].hidden
        self.stream = new PackedStream(table.packed, layers, self.layers, self.batch)
        free(layers)
        if not self.stream.valid():
            raise MemoryError(f"no memory for {self.batch} streams")

    def __dealloc__(self):
        del self.stream

    # An array as it may go to the kernels: float32, of this shape, values of a row contiguous and aligned.
    cdef inline bint fits(self, object array, int64_t width):
        cdef cnp.ndarray a
        if not isinstance(array, cnp.ndarray):
            return False
        a = <cnp.ndarray> array
        return (cnp.PyArray_TYPE(a) == cnp.NPY_FLOAT32 and cnp.PyArray_ISBEHAVED_RO(a)
                and cnp.PyArray_NDIM(a) == (1 if self.single else 2)
                and cnp.PyArray_DIM(a, 0) == (width if self.single else self.batch)
                and (self.single or cnp.PyArray_DIM(a, 1) == width)
                and cnp.PyArray_STRIDE(a, 0 if self.single else 1) == sizeof(float)
                and (self.single or cnp.PyArray_STRIDE(a, 0) >= <cnp.npy_intp> (width * sizeof(float)))
                and (self.single or cnp.PyArray_STRIDE(a, 0) % <cnp.npy_intp> sizeof(float) == 0))

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
        if self.busy:
            raise RuntimeError("this stream is in use by another thread: a stream belongs to one thread at a time")
        cdef cnp.npy_intp shape[2]
        if not self.fits(x, self.inputs):
            x = self.checked(x)
        if out is None:
            shape[0], shape[1] = self.hidden if self.single else self.batch, self.hidden
            out = cnp.PyArray_EMPTY(1 if self.single else 2, shape, cnp.NPY_FLOAT32, 0)
        cdef cnp.ndarray source = <cnp.ndarray> x
        cdef cnp.ndarray target
        result = out
        if self.fits(out, self.hidden) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out) and not self.overlap(source, out):
            target = <cnp.ndarray> out
        else:
            target = self.checked_out(x, out)
        cdef const float* x_first = <const float*> cnp.PyArray_DATA(source)
        cdef float* y_first = <float*> cnp.PyArray_DATA(target)
        cdef int64_t x_stride = 0, y_stride = 0
        if not self.single:
            x_stride = cnp.PyArray_STRIDE(source, 0) // <int64_t> sizeof(float)
            y_stride = cnp.PyArray_STRIDE(target, 0) // <int64_t> sizeof(float)
        if self.work < RELEASE_WORK:
            self.stream.step(x_first, x_stride, y_first, y_stride)
        else:
            self.busy = True
            with nogil:
                self.stream.step(x_first, x_stride, y_first, y_stride)
            self.busy = False
        if target is not result:
            result[...] = target
        return result

    # Whether the extents of two arrays meet; both have passed `fits`.
    cdef inline bint overlap(self, cnp.ndarray x, object out):
        cdef uintptr_t a = <uintptr_t> cnp.PyArray_DATA(x), b = <uintptr_t> cnp.PyArray_DATA(<cnp.ndarray> out)
        cdef uintptr_t a_end = a + self.inputs * sizeof(float), b_end = b + self.hidden * sizeof(float)
        if not self.single:
            a_end += (self.batch - 1) * cnp.PyArray_STRIDE(x, 0)
            b_end += (self.batch - 1) * cnp.PyArray_STRIDE(<cnp.ndarray> out, 0)
        return a < b_end and b < a_end

    cdef tuple shape(self, int64_t width):
        if self.single:
            return (width,)
        return (self.batch, width)

    def checked(self, x):
        """x in a form that fits, or the error that says why there is none."""
        return np.array(checks.array("x", x, np.dtype(np.float32), self.shape(self.inputs)), order="C")

    def checked_out(self, x, out):
        """Memory to compute into for an `out` of unusual strides, or the error that says why it cannot be."""
        return np.empty_like(checks.output(out, np.dtype(np.float32), self.shape(self.hidden), {"x": x}), order="C")

    def read(self):
        """A copy of the states (L, B, H)."""
        cdef float[:, :, ::1] states = np.empty((self.layers, self.batch, self.hidden), np.float32)
        self.stream.get_state(&states[0, 0, 0])
        return np.asarray(states)

    def write(self, const float[:, :, ::1] states):
        """Set the states (L, B, H)."""
        self.stream.set_state(&states[0, 0, 0])

    def claim(self):
        """Mark the stream as in use by this thread until `release`."""
        if self.busy:
            raise RuntimeError("this stream is in use by another thread: a stream belongs to one thread at a time")
        self.busy = True

    def release(self):
        """Mark the stream as free."""
        self.busy = False

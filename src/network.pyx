# distutils: language = c++
# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""A network's program in compiled form: what cgru/engines/host/program/ has written, and the states of who runs it.

No arithmetic here, and no choice: program/program.h says what a program is. Arrays are checked before they arrive, but
those of the usual step and chunk, which are looked at here.
"""

import numpy as np

cimport numpy as cnp
from cpython.pycapsule cimport PyCapsule_GetPointer
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free
from libc.string cimport memset

from interrupt cimport ask_signals, finish
from kernels cimport (
    CanonicalLayer, CanonicalMatrix, History, Kernels, Outcome, PackedLayer, elementwise_count, most_slots, pack_dense,
    storage_bfloat16, storage_float16, storage_float32, storage_int8, use_history
)
from program cimport *

from cgru._exclusive cimport Exclusive
from cgru._packed import HISTORY, KERNELS

cnp.import_array()

cdef const Kernels* table = <const Kernels*> PyCapsule_GetPointer(KERNELS, "cgru.kernels")
use_history(<History*> PyCapsule_GetPointer(HISTORY, "cgru.history"))

LANES = table.packed.lanes
AXES, PORTS, MEMBERS, SLOTS = most_axes, most_ports, most_members, most_slots
include "steps.pxi"


cdef class States(Exclusive):
    """The states of rows that a program runs on: a stream's, or a pool's."""
    cdef Program program
    cdef readonly object numbers  # (rows, size) float32, each row a state
    cdef readonly object places   # (rows, 2) int64: where its windows are, and how many frames it has seen
    cdef object memory
    cdef Shape shape
    cdef float** state_rows
    cdef Place** place_rows
    cdef int64_t work
    cdef bint simple  # one input and one output, float32
    cdef int64_t axes[2]
    cdef int64_t sizes[2][8]
    cdef int row_axis[2]
    cdef int frame_axis[2]  # of chunks; beside it their axes are those of a step

    def __cinit__(self, Program program, int64_t rows, int64_t block_rows, int64_t frames, int64_t room, *args,
                  **kwargs):
        cdef int64_t r
        self.program = program
        self.shape = Shape(block_rows, frames, room)
        size = (state_size(program.program, room) + 15) // 16 * 16
        self.numbers = aligned((rows, size), np.float32)
        self.places = np.zeros((rows, 2), np.int64)
        self.memory = aligned((memory_size(program.program, self.shape) + 64,), np.uint8)
        self.state_rows = <float**> calloc(rows, sizeof(float*))
        self.place_rows = <Place**> calloc(rows, sizeof(Place*))
        if not self.state_rows or not self.place_rows:
            raise MemoryError(f"no memory for {rows} states")
        self.work = <int64_t> (program.program.flops * rows)
        self.point()
        for r in range(rows):
            self.begin(r)

    def __dealloc__(self):
        free(self.state_rows)
        free(self.place_rows)

    # Where the states are, after they have been replaced.
    cdef void point(self):
        cdef int64_t r
        cdef cnp.ndarray numbers = self.numbers, places = self.places
        for r in range(cnp.PyArray_DIM(numbers, 0)):
            self.state_rows[r] = <float*> (<char*> cnp.PyArray_DATA(numbers) + r * cnp.PyArray_STRIDE(numbers, 0))
            self.place_rows[r] = <Place*> (<char*> cnp.PyArray_DATA(places) + r * cnp.PyArray_STRIDE(places, 0))

    def ring_start(self, int64_t ring):
        """Where a ring begins in a state."""
        cdef int64_t i, at = self.program.program.plain
        for i in range(ring):
            at += (self.program.rings[i].history + self.shape.room) * self.program.rings[i].frame
        return at

    def replace(self, numbers, places):
        """Other states, of as many rows."""
        fresh = aligned(self.numbers.shape, np.float32)
        fresh[...] = numbers
        self.numbers, self.places = fresh, np.array(places, np.int64)
        self.point()

    def begin(self, int64_t row):
        """The state of a sequence that begins."""
        cdef Advance call
        cdef int64_t wrong = -1, early = self.program.program.early
        begin_state(self.program.program, self.shape.room, self.state_rows[row])
        self.place_rows[row].position, self.place_rows[row].seen = 0, -early
        if early:  # no frame is written, and none is read
            self.begin_call(call)
            call.rows, call.frames, call.early, call.given = 1, early, early, 0
            call.states, call.places = self.state_rows + row, self.place_rows + row
            call.inputs = call.outputs = NULL
            advance(self.program.program, call, wrong)

    def simply(self, input_sizes, int input_rows, int input_frames, output_sizes, int output_rows, int output_frames):
        """Let `step` and `chunk` take arrays of these shapes as they are; an axis may be rows, -1: none is.

        Of a chunk there is one axis more, that of its frames.
        """
        self.simple = True
        self.frame_axis[0], self.frame_axis[1] = input_frames, output_frames
        for k, (sizes, rows) in enumerate(((input_sizes, input_rows), (output_sizes, output_rows))):
            self.axes[k], self.row_axis[k] = len(sizes), rows
            for i, size in enumerate(sizes):
                self.sizes[k][i] = size

    cdef inline bint fits(self, object array, int which, int64_t frames=-1):
        cdef cnp.ndarray a
        cdef int axis, own
        if not cnp.PyArray_CheckExact(array):
            return False
        a = <cnp.ndarray> array
        if cnp.PyArray_TYPE(a) != cnp.NPY_FLOAT32 or cnp.PyArray_NDIM(a) != self.axes[which] + (frames >= 0) or (
                not cnp.PyArray_ISBEHAVED_RO(a)):
            return False
        for own in range(self.axes[which]):
            axis = own + (frames >= 0 and own >= self.frame_axis[which])
            if cnp.PyArray_DIM(a, axis) != self.sizes[which][own]:
                return False
        return frames < 0 or cnp.PyArray_DIM(a, self.frame_axis[which]) == frames

    cdef void bind(self, Array& to, cnp.ndarray array, int which, bint frames=False):
        cdef int axis, own, place = most_axes - 1
        to.data = <char*> cnp.PyArray_DATA(array)
        to.type = type_float32
        to.frame_stride = to.row_stride = 0
        if frames:
            to.frame_stride = cnp.PyArray_STRIDE(array, self.frame_axis[which])
        for axis in range(most_axes):
            to.stride[axis] = 0
        for own in range(self.axes[which] - 1, -1, -1):
            axis = own + (frames and own >= self.frame_axis[which])
            if own == self.row_axis[which]:
                to.row_stride = cnp.PyArray_STRIDE(array, axis)
            else:
                to.stride[place] = cnp.PyArray_STRIDE(array, axis)
                place -= 1

    def step(self, x, out=None):
        """One frame of each row; see the classes made of this one."""
        cdef cnp.npy_intp sizes[8]
        cdef Array given, written
        cdef Advance call
        cdef int axis
        self.take()
        try:
            if self.simple and self.fits(x, 0):
                if out is None:
                    for axis in range(self.axes[1]):
                        sizes[axis] = self.sizes[1][axis]
                    out = cnp.PyArray_EMPTY(<int> self.axes[1], sizes, cnp.NPY_FLOAT32, 0)
                elif not self.fits(out, 1) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out):
                    return self._step(x, out)
                self.bind(given, <cnp.ndarray> x, 0)
                self.bind(written, <cnp.ndarray> out, 1)
                self.begin_call(call)
                call.inputs, call.outputs = &given, &written
                self.go(call)
                return out
            return self._step(x, out)
        finally:
            self.free()

    def chunk(self, x, out, int threads):
        """Some frames of each row, where arrays are of the usual form; None where they need a look."""
        cdef cnp.npy_intp sizes[8]
        cdef Array given, written
        cdef Advance call
        cdef int64_t frames
        cdef int axis, own
        cdef cnp.ndarray a
        if not self.simple or self.frame_axis[0] < 0 or self.frame_axis[1] < 0 or not cnp.PyArray_CheckExact(x):
            return None
        a = <cnp.ndarray> x
        if cnp.PyArray_NDIM(a) != self.axes[0] + 1:
            return None
        frames = cnp.PyArray_DIM(a, self.frame_axis[0])
        if frames < 1 or self.work * frames > MOST_WORK or not self.fits(x, 0, frames):
            return None
        if out is None:
            for axis in range(self.axes[1] + 1):
                own = axis - (axis > self.frame_axis[1])
                sizes[axis] = frames if axis == self.frame_axis[1] else self.sizes[1][own]
            out = cnp.PyArray_EMPTY(<int> self.axes[1] + 1, sizes, cnp.NPY_FLOAT32, 0)
        elif not self.fits(out, 1, frames) or not cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out) or (
                not cnp.PyArray_IS_C_CONTIGUOUS(<cnp.ndarray> out) or not cnp.PyArray_IS_C_CONTIGUOUS(a)
                or meets(a, <cnp.ndarray> out)):
            return None
        self.bind(given, a, 0, True)
        self.bind(written, <cnp.ndarray> out, 1, True)
        self.begin_call(call)
        call.shape = Shape(self.shape.rows, min(frames, self.shape.frames), self.shape.room)
        call.frames = frames
        call.inputs, call.outputs = &given, &written
        self.go(call, threads)
        return out

    # Run a call; one that takes long lets other threads run, and is shared among as many as it may use.
    cdef int go(self, Advance& call, int threads=1) except -1:
        cdef int64_t wrong = -1
        cdef int result
        if threads > 1 and self.work * call.frames >= SHARED_WORK:
            with nogil:
                result = advance_rows(self.program.program, call, threads, wrong)
            finish(<Outcome> result)
            result = advance_index if wrong >= 0 else advance_done
        elif self.work * call.frames < RELEASE_WORK:
            result = advance(self.program.program, call, wrong)
        else:
            with nogil:
                result = advance(self.program.program, call, wrong)
        if result == advance_index:
            self._out_of_range(wrong)
        return 0

    # A call of one frame of all rows.
    cdef void begin_call(self, Advance& call):
        call.shape = Shape(self.shape.rows, 1, self.shape.room)
        call.memory = <char*> cnp.PyArray_DATA(<cnp.ndarray> self.memory)
        call.rows, call.frames = cnp.PyArray_DIM(<cnp.ndarray> self.numbers, 0), 1
        call.states, call.places = self.state_rows, self.place_rows
        call.given = call.end = endless
        call.early = call.late = 0
        call.watch = NULL

    def advance(self, rows, inputs, outputs, int64_t frames, given, end, int64_t late, int threads):
        """Some rows, or all, by some frames: arrays with their axes of time and of rows, in the order of the ports.

        Returns -1, or the number of the step that met an index out of range.
        """
        cdef Advance call
        cdef Array[32] read
        cdef Array[32] written
        cdef int64_t wrong = -1, i, count
        cdef Outcome outcome
        cdef float** states = self.state_rows
        cdef Place** places = self.place_rows
        cdef const int64_t[::1] numbers
        for i, (array, time, axis) in enumerate(inputs):
            self.program.bind(read[i], array, time, axis)
        for i, (array, time, axis) in enumerate(outputs):
            self.program.bind(written[i], array, time, axis)
        self.begin_call(call)
        call.shape = Shape(self.shape.rows, min(frames, self.shape.frames), self.shape.room)
        call.frames, call.late = frames, late
        if given is not None:
            call.given = given
        if end is not None:
            call.end = end
        call.inputs, call.outputs = read, written
        try:
            if rows is not None:
                count = call.rows = len(rows)
                states = <float**> calloc(count + 1, sizeof(float*))
                places = <Place**> calloc(count + 1, sizeof(Place*))
                if not states or not places:
                    raise MemoryError(f"no memory for {count} rows")
                numbers = rows
                for i in range(count):
                    states[i], places[i] = self.state_rows[numbers[i]], self.place_rows[numbers[i]]
            call.states, call.places = states, places
            with nogil:
                outcome = advance_rows(self.program.program, call, threads, wrong)
        finally:
            if rows is not None:
                free(states)
                free(places)
        finish(outcome)
        return wrong


    def decode_rows(self, int64_t[::1] tokens, input, outputs, int chosen, stop, cnp.ndarray indices, sampling):
        """Feed each row the index that comes out, until all have met `stop` or `indices` (limit, rows) is full.

        `tokens` (rows,) is what the array of `input` holds; of `outputs` the chosen one has the indices, (rows,), or,
        where `sampling` (seed, temperature) is given, the logits (rows, V). Returns the length of each row.
        """
        cdef Advance call
        cdef Array read
        cdef Array[32] written
        cdef int64_t wrong = -1, k, row, rows = tokens.shape[0], limit = cnp.PyArray_DIM(indices, 0), running = rows
        cdef int64_t end = -1 if stop is None else stop, size = 0
        cdef int64_t* found = <int64_t*> cnp.PyArray_DATA(indices)
        cdef int64_t* lengths
        cdef int64_t* best = NULL
        cdef float* logits = NULL
        cdef double temperature = 1
        cdef uint64_t seed = 0
        cdef cnp.ndarray result = outputs[chosen][0], counts = np.full(rows, limit, np.int64)
        lengths = <int64_t*> cnp.PyArray_DATA(counts)
        if sampling is None:
            best = <int64_t*> cnp.PyArray_DATA(result)
        else:
            seed, temperature = sampling
            logits, size = <float*> cnp.PyArray_DATA(result), cnp.PyArray_DIM(result, 1)
        self.program.bind(read, input[0], input[1], input[2])
        for i, (array, time, axis) in enumerate(outputs):
            self.program.bind(written[i], array, time, axis)
        self.begin_call(call)
        call.inputs, call.outputs = &read, written
        with nogil:
            for k in range(limit):
                if advance(self.program.program, call, wrong) == advance_index:
                    break
                for row in range(rows):
                    if best != NULL:
                        tokens[row] = best[row]
                    else:
                        tokens[row] = sample_index(logits + row * size, size, temperature, seed, k, row)
                    found[k * rows + row] = tokens[row]
                    if lengths[row] == limit and tokens[row] == end:
                        lengths[row] = k
                        running -= 1
                if running == 0:
                    break
        if wrong >= 0:
            self._out_of_range(wrong)
        return counts


# Whether two contiguous arrays share memory.
cdef inline bint meets(cnp.ndarray a, cnp.ndarray b):
    cdef uintptr_t first = <uintptr_t> cnp.PyArray_DATA(a), second = <uintptr_t> cnp.PyArray_DATA(b)
    return first < second + <uintptr_t> cnp.PyArray_NBYTES(b) and second < first + <uintptr_t> cnp.PyArray_NBYTES(a)

# From so many operations on a chunk may be shared among threads.
cdef int64_t SHARED_WORK = 1_000_000

# Up to so many operations a chunk is not interrupted.
cdef int64_t MOST_WORK = 1 << 31


# From so many operations a step on, a step lets other threads run; below, that would cost more than the step.
cdef int64_t RELEASE_WORK = 1 << 21


def aligned(shape, dtype):
    """Zeros from a cache line on."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)

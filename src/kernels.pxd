# The C++ kernels as Cython sees them; what each does is written in kernels.h and cells/cell.h.

from libc.stdint cimport int64_t, uint8_t


cdef extern from "nodes/node.h" namespace "cgru" nogil:
    const int elementwise_count

    cdef cppclass NodeKernels[T]:
        pass


cdef extern from "kernels.h" namespace "cgru" nogil:
    cdef struct Activation:
        int code
        double alpha, beta, clip

    cdef struct Phase:
        int first, gates, rolled

    cdef struct Cell:
        const char* name
        int gates, biases, kept, phases
        Phase phase[2]

    const int cell_count
    const Cell cells[3]
    int recurrent_gates(const Cell&)
    double weights_of(const Cell&, int64_t, int64_t)

    bint is_usual(const Cell&, const Activation&, const Activation&, int)

    cdef cppclass GateStep[T]:
        int64_t lines, width
        int one_sequence
        const T* input
        int64_t input_line, input_gate
        T* recurrent
        int64_t recurrent_gate
        T* state
        T* reset_state
        int64_t line
        const T* bias
        int64_t bias_gate
        Activation gate, candidate
        int flip, usual

    cdef cppclass GateKernels[T]:
        void (*of[3][2])(const GateStep[T]&, int64_t, int64_t) noexcept nogil
        void (*activate)(const Activation&, const T*, T*, int64_t) noexcept nogil

    cdef enum:
        storage_float32, storage_bfloat16, storage_float16, storage_int8, storage_bfloat16_products,
        storage_sparse_float32, storage_sparse_int8

    cdef struct CanonicalMatrix:
        const void* numbers
        const float* scale
        float limit

    cdef struct CanonicalLayer:
        int64_t inputs, hidden
        int storage
        CanonicalMatrix input, recurrent
        const float* bias
        int cell
        Activation gate, candidate
        int flip

    cdef struct PackedLayer:
        int64_t inputs, hidden
        int cell, usual

    cdef enum Answer:
        answer_go_on, answer_stop, answer_never_ask

    ctypedef Answer (*Interrupted)() noexcept nogil

    cdef enum Outcome:
        outcome_done, outcome_no_memory, outcome_interrupted

    cdef struct PackedCall:
        const PackedLayer* const* layers
        int64_t depth, directions
        int reverse
        int64_t steps, batch
        const float* x
        int64_t x_step, x_sequence, x_feature
        float* state
        float* y
        int64_t y_step, y_sequence
        const int64_t* order
        const int64_t* lengths
        const uint8_t* fresh[2]
        const float* start
        int threads
        Interrupted interrupted

    const int most_slots

    cdef struct LaneStep:
        int cell
        int64_t inputs, hidden, steps, input_stride
        const float *first
        const float *masks

    cdef struct PackedKernels:
        int64_t lanes
        double (*multiply_adds)(int64_t) noexcept nogil
        void (*read)(const float*, int64_t, int) noexcept nogil

    int64_t pack_layer(const PackedKernels&, const CanonicalLayer&, char*, PackedLayer&)
    int64_t input_products(const PackedKernels&, const PackedLayer&, const float* const*, int64_t, float*)
    int64_t pack_dense(const PackedKernels&, const CanonicalLayer&, char*, PackedLayer&)

    cdef struct Machine:
        double flops, bytes, hot_start, cold_start, meeting

    Machine machine(const PackedKernels&, bint)

    cdef enum Sharing:
        sharing_measured, sharing_rows, sharing_units, sharing_none

    void set_sharing(Sharing)

    cdef struct ThreadCounts:
        int64_t shared, abandoned

    ThreadCounts thread_counts()

    cppclass History:
        pass
    History& history()
    void use_history(History*)

    cdef cppclass PackedStream:
        PackedStream(const PackedKernels&, const PackedLayer* const*, int64_t, int64_t)
        bint valid()
        void step(const float*, int64_t, float*, int64_t)
        void get_state(float*)
        void set_state(const float*)

    Outcome run_packed_call(const PackedKernels&, const PackedCall&)

    cdef cppclass Panels[T]:
        const T* values
        int64_t inner, outer

    cdef cppclass TrainingKernels[T]:
        int64_t (*panels_size)(int64_t, int64_t) noexcept nogil
        void (*pack)(const T*, int64_t, int64_t, int64_t, int64_t, T*) noexcept nogil

    cdef cppclass Kernels:
        const char* name
        GateKernels[float] gates32
        GateKernels[double] gates64
        PackedKernels packed
        TrainingKernels[float] training32
        TrainingKernels[double] training64
        const NodeKernels[float]* nodes32

    cdef cppclass TrainingLayer[T]:
        int64_t inputs, hidden
        Panels[T] input, input_back
        Panels[T]* recurrent  # [2], by phase
        Panels[T]* recurrent_back
        const T* bias
        int cell
        Activation gate, candidate_function
        int flip, usual

    cdef cppclass TrainingCall[T]:
        const TrainingLayer[T]* layer
        int64_t steps, batch
        int reverse, threads
        Interrupted interrupted
        const int64_t* order
        const int64_t* lengths
        const uint8_t* fresh
        const T* start
        const T* x
        int64_t x_step, x_sequence
        T* y
        int64_t y_step, y_sequence
        T* state
        T* kept
        const T* grad_y
        int64_t grad_y_step, grad_y_sequence
        T* carry
        T* grad_start
        T* grad_x
        int64_t grad_x_step, grad_x_sequence
        int add
        T* grad_w
        T* grad_u
        T* grad_bias

    Outcome run_record[T](const TrainingKernels[T]&, const TrainingCall[T]&)
    Outcome run_backward[T](const TrainingKernels[T]&, const TrainingCall[T]&)

    const Kernels* kernels()
    const char* runnable_sets()

    cdef cppclass FlushDenormals:
        FlushDenormals()


cdef extern from "threads/watch.h" namespace "cgru" nogil:
    const double piece_flops

    cdef cppclass Watch:
        Watch()
        Interrupted question
        bint stopped()
        bint goes_on(double)


# The cell that goes by a name (cgru/model/layer.py).
cdef inline int cell_named(str name) except -1:
    cdef int code
    for code in range(cell_count):
        if cells[code].name == <bytes> name.encode():
            return code
    raise ValueError(f"cell: the compiled kernels have none called {name!r}")

# A network's program as Cython sees it; what each is is written in program/program.h.

from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

from kernels cimport Interrupted, LaneStep, NodeKernels, Outcome, PackedKernels, PackedLayer


cdef extern from "program/program.h" namespace "cgru" nogil:
    const int most_axes, most_operands, most_ports, most_members
    const char* elementwise_names[]
    const int elementwise_operands[]

    cdef enum:
        space_none, space_arena, space_constant, space_state, space_ring
        step_elementwise, step_product, step_recurrent, step_side_by_side, step_reduce, step_softmax, step_log_softmax,
        step_arg_max, step_normalise, step_window, step_multiply, step_lookup, step_list, step_fill, step_latest
        type_float32, type_float64, type_int64, type_int32, type_int16, type_int8, type_uint8, type_bool
        advance_done, advance_stopped, advance_index

    cdef struct Operand:
        int space
        int64_t offset, row, inside
        int64_t stride[6]

    cdef struct After:
        int code, operand
        double p, q

    cdef struct Step:
        int kind, code
        int64_t ahead, more
        int clears
        Operand out
        Operand operands "in"[4]
        int64_t size[6]
        int64_t strides[6]
        double p, q
        int flat, sections
        PackedLayer section[2]
        int64_t outputs
        int64_t pieces[2]
        int64_t distances[2]
        int64_t length, groups, x_next, y_next
        int afters
        After after[3]
        const PackedLayer* layer
        int over_time, reverse, has_start, has_end, made, has_initial
        const int32_t *to
        const int32_t *source "from"
        const Step* members
        int64_t member_count, slots
        LaneStep lanes
        const float* lane_weights

    cdef struct Kept:
        Operand source "from"
        int64_t to, count

    cdef struct Ring:
        int64_t frame, history
        float empty

    cdef struct Port:
        Operand at
        int64_t size[6]
        int over_time
        int64_t more

    cdef struct Array:
        char* data
        int type
        int64_t frame_stride, row_stride
        int64_t stride[6]

    cdef struct CProgram "cgru::Program":
        const PackedKernels* packed
        const NodeKernels[float]* nodes
        const Step* steps
        int64_t step_count
        const Kept* kept
        int64_t kept_count
        const Ring* rings
        int64_t ring_count
        const Port *inputs
        const Port *outputs
        int64_t input_count, output_count
        const float* constants
        const float* fresh
        int64_t arena, plain, delay, early, tail
        double flops
        const uint8_t* meets

    void find_meetings(const CProgram&, uint8_t*)

    cdef struct Shape:
        int64_t rows, frames, room

    cdef struct Place:
        int64_t position, seen

    cdef struct Advance:
        Shape shape
        char* memory
        int64_t rows, frames
        float** states
        Place** places
        const Array *inputs
        const Array *outputs
        int64_t early, given, end, late
        void* watch

    cdef struct Sequences:
        int64_t steps, batch
        const Array *inputs
        const Array *outputs
        int threads
        Interrupted interrupted

    const int64_t endless
    int64_t state_size(const CProgram&, int64_t)
    int64_t memory_size(const CProgram&, const Shape&)
    void begin_state(const CProgram&, int64_t, float*)
    int advance(const CProgram&, const Advance&, int64_t&)
    Outcome advance_rows(const CProgram&, const Advance&, int, int64_t&)
    int64_t sample_index(const float*, int64_t, double, uint64_t, int64_t, int64_t)
    Outcome run_sequences(const CProgram&, const Sequences&, int64_t&)

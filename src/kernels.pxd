# The C++ kernels as Cython sees them; what each does is written in kernels/kernels.h.

from libc.stdint cimport int64_t


cdef extern from "kernels/kernels.h" namespace "cgru" nogil:
    cdef struct Activation:
        int code
        double alpha, beta, clip

    cdef cppclass GateStep[T]:
        int64_t lines, width
        int single
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
        int flip

    cdef cppclass GateKernels[T]:
        void (*reset_after)(const GateStep[T]&, int64_t, int64_t) noexcept nogil
        void (*reset_before)(const GateStep[T]&, int64_t, int64_t) noexcept nogil
        void (*update_state)(const GateStep[T]&, int64_t, int64_t) noexcept nogil
        void (*activate)(const Activation&, const T*, T*, int64_t) noexcept nogil

    cdef cppclass Kernels:
        const char* name
        GateKernels[float] single
        GateKernels[double] twice

    const Kernels* kernels()
    const char* runnable_sets()

    cdef cppclass FlushDenormals:
        FlushDenormals()

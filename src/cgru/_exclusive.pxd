# What one thread at a time may use, for the extension types that derive from it; see exclusive.pyx.

cdef class Exclusive:
    cdef unsigned long thread, generation
    cdef int take(self) except -1
    cdef void free(self) noexcept

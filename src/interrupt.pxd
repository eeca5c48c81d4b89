# Signals while a call runs without the GIL; how is written in interrupt.h.

from kernels cimport Answer, Outcome, outcome_interrupted, outcome_no_memory


cdef extern from "interrupt.h" namespace "cgru":
    Answer ask_signals() noexcept nogil
    int raise_pending() except -1


# Raise what a call ended with.
cdef inline int finish(Outcome outcome) except -1:
    if outcome == outcome_interrupted:
        raise_pending()
    if outcome == outcome_no_memory:
        raise MemoryError("no memory for the scratch of this call")
    return 0

# cython: language_level=3
"""What one thread at a time may use: streams, pools and tapes. A second thread gets a RuntimeError.

To ask whether an object is free and to take it is one act: no Python code runs in between, so no other thread does. It
is freed in the same compiled function that took it. Python raises KeyboardInterrupt between two of its own
instructions, and there are none between taking an object and the `try` that frees it.

A process that forks leaves its other threads behind. What they held is free in the child.
"""

import functools
import os

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident

cdef unsigned long generation = 1  # of processes: one more in a forked child
cdef unsigned long survivor = 0    # the one thread that came into the child


def _forked():
    global generation, survivor
    generation += 1
    survivor = PyThread_get_thread_ident()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


@cython.auto_pickle(False)
cdef class Exclusive:
    """A base of what one thread at a time may use; its methods that touch the state are marked by `alone`."""
    # cdef unsigned long thread       which has it; 0: none
    # cdef unsigned long generation   of the process in which that thread took it

    _kind = "object"  # what messages call it

    cdef int take(self) except -1:
        """Take it for this thread, or raise a RuntimeError if another, or this one, has it."""
        cdef unsigned long me = PyThread_get_thread_ident()
        if self.thread and (self.generation == generation or self.thread == survivor):
            user = "another thread" if self.thread != me else "this thread itself"
            raise RuntimeError(f"this {self._kind} is in use by {user}: "
                               f"a {self._kind} belongs to one thread at a time")
        self.thread, self.generation = me, generation

    cdef void free(self) noexcept:
        self.thread = 0


def alone(method):
    """A method of an `Exclusive`, during which no other of these may run."""

    @functools.wraps(method)
    def taken(Exclusive self not None, *args, **kwargs):
        self.take()
        try:
            return method(self, *args, **kwargs)
        finally:
            self.free()

    return taken

// Signals while a call runs without the GIL: what its watch asks (threads/watch.h). Python's handlers run in the main
// thread alone, so calls of other threads ask once and never wait for the GIL again.
#pragma once

#include <Python.h>

#include "kernels.h"

namespace cgru {

// Whether this thread is Python's main one; -1 with an exception set.
static int is_main_thread(void) {
    int result = -1;
    PyObject* threading = PyImport_ImportModule("threading");
    PyObject* thread = threading ? PyObject_CallMethod(threading, "main_thread", NULL) : NULL;
    PyObject* ident = thread ? PyObject_GetAttrString(thread, "ident") : NULL;
    if (ident) {
        const unsigned long number = PyLong_AsUnsignedLong(ident);
        result = PyErr_Occurred() ? -1 : number == PyThread_get_thread_ident();
    }
    Py_XDECREF(ident);
    Py_XDECREF(thread);
    Py_XDECREF(threading);
    return result;
}

// Let the handlers of signals run. Where one has raised, the call stops, and its exception waits for `raise_pending`.
static Answer ask_signals(void) {
    const PyGILState_STATE state = PyGILState_Ensure();
    const int main = PyErr_CheckSignals() ? -1 : is_main_thread();
    PyGILState_Release(state);
    return main < 0 ? answer_stop : main ? answer_go_on : answer_never_ask;
}

// For Cython, to which -1 means that an exception is set.
static int raise_pending(void) { return -1; }

}  // namespace cgru

// The elementwise half of a GRU step (gru.h), for the BLAS engine: gates, candidate and new state from the two
// products.
//
// One loop per kernel serves every width: whole vectors, then the lanes left over. The usual layer (sigmoid, tanh, no
// clip) has its functions compiled in; `Any` has all others'.
#pragma once

#include "cells/gru.h"

namespace cgru {
namespace CGRU_SET {

// Addresses of one line.
template <class T, bool single> struct Line {
    typedef typename Vector<T>::Value V;
    const T* input[3];
    T* recurrent[3];
    const T* bias[4];
    T *state, *reset_state;

    CGRU_MEMBER Line(const GateStep<T>& s, int64_t i) {
        for (int g = 0; g < 3; ++g) {
            input[g] = s.input + g * s.input_gate + i * s.input_line;
            recurrent[g] = s.recurrent + g * s.recurrent_gate + i * s.line;
        }
        for (int g = 0; g < 4; ++g) bias[g] = s.bias + g * s.bias_gate + i;
        state = s.state + i * s.line;
        reset_state = s.reset_state + i * s.line;
    }
    template <class... Lanes> CGRU_MEMBER V load_bias(int g, int64_t j, Lanes... lanes) const {
        return single ? load<T>(bias[g] + j, lanes...) : broadcast<T>(*bias[g]);
    }
    // W x + U h + b of the gate r (0) or z (1)
    template <class... Lanes> CGRU_MEMBER V sum(int g, int64_t j, Lanes... lanes) const {
        return load<T>(input[g] + j, lanes...) + load<T>(recurrent[g] + j, lanes...) + load_bias(g, j, lanes...);
    }
};

// One vector of values from j on; `Lanes` is empty for whole vectors or holds the count of the last, partial one.
struct BlasAfter {
    template <class T, class L, class F, class... Lanes>
    static CGRU_MEMBER void run(const L& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const V r = f.gate(w.sum(0, j, lanes...));
        const Shares<T> shares = f.shares(f.gate(w.sum(1, j, lanes...)));
        const V u = load<T>(w.recurrent[2] + j, lanes...) + w.load_bias(3, j, lanes...);
        const V n = f.candidate(fma(r, u, load<T>(w.input[2] + j, lanes...) + w.load_bias(2, j, lanes...)));
        store<T>(w.state + j, new_state<T>(shares, load<T>(w.state + j, lanes...), n), lanes...);
    }
};

struct BlasGatesBefore {
    template <class T, class L, class F, class... Lanes>
    static CGRU_MEMBER void run(const L& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const V r = f.gate(w.sum(0, j, lanes...));
        const V z = f.gate(w.sum(1, j, lanes...));
        store<T>(w.reset_state + j, r * load<T>(w.state + j, lanes...), lanes...);
        store<T>(w.recurrent[1] + j, z, lanes...);
    }
};

struct BlasStateBefore {
    template <class T, class L, class F, class... Lanes>
    static CGRU_MEMBER void run(const L& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const Shares<T> shares = f.shares(load<T>(w.recurrent[1] + j, lanes...));
        const V n = f.candidate(w.sum(2, j, lanes...));
        store<T>(w.state + j, new_state<T>(shares, load<T>(w.state + j, lanes...), n), lanes...);
    }
};

// The loops of every kernel: lines, whole vectors, the rest of a line.
template <class T, class Kernel, class Functions, bool single>
static void run_lines(const GateStep<T>& s, int64_t first, int64_t last) {
    const Functions f(s);
    const int64_t whole = s.width - s.width % Vector<T>::lanes;
    for (int64_t i = first; i < last; ++i) {
        const Line<T, single> w(s, i);
        for (int64_t j = 0; j < whole; j += Vector<T>::lanes) Kernel::template run<T>(w, f, j);
        if (whole < s.width) Kernel::template run<T>(w, f, whole, s.width - whole);
    }
}

template <class T, class Kernel> static void run_step(const GateStep<T>& s, int64_t first, int64_t last) {
    FlushDenormals mode;
    if (is_usual(s.gate, s.candidate, s.flip))
        (s.single ? run_lines<T, Kernel, Usual<T>, true> : run_lines<T, Kernel, Usual<T>, false>)(
            s, first, last);
    else
        (s.single ? run_lines<T, Kernel, Any<T>, true> : run_lines<T, Kernel, Any<T>, false>)(
            s, first, last);
}

template <class T> static void activate(const Activation& a, const T* x, T* y, int64_t count) {
    const AnyActivation<T> f(a);
    const int64_t whole = count - count % Vector<T>::lanes;
    for (int64_t j = 0; j < whole; j += Vector<T>::lanes) store<T>(y + j, f(load<T>(x + j)));
    if (whole < count) store<T>(y + whole, f(load<T>(x + whole, count - whole)), count - whole);
}

template <class T> constexpr GateKernels<T> gate_kernels() {
    return {{{run_step<T, BlasGatesBefore>, run_step<T, BlasStateBefore>}, {run_step<T, BlasAfter>, nullptr}},
            activate<T>};
}

}  // namespace CGRU_SET
}  // namespace cgru

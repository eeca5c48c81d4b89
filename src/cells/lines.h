// The elementwise half of a step for the BLAS engine, whose values lie in lines: what its loops are; what a cell's
// phases see of a line.
//
// One loop per kernel serves every width: whole vectors, then the lanes left over.
#pragma once

#include "cells/state.h"

namespace cgru {
namespace CGRU_SET {

// Addresses of one line.
template <class T, bool one_sequence> struct Line {
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
        return one_sequence ? load<T>(bias[g] + j, lanes...) : broadcast<T>(*bias[g]);
    }
    // W x + U h + b of a gate
    template <class... Lanes> CGRU_MEMBER V sum(int g, int64_t j, Lanes... lanes) const {
        return load<T>(input[g] + j, lanes...) + load<T>(recurrent[g] + j, lanes...) + load_bias(g, j, lanes...);
    }
};

// The loops of every kernel: lines, whole vectors, the rest of a line.
template <class T, class Phase, class Functions, bool one_sequence>
static void run_lines(const GateStep<T>& s, int64_t first, int64_t last) {
    const Functions f(s);
    const int64_t whole = s.width - s.width % Vector<T>::lanes;
    for (int64_t i = first; i < last; ++i) {
        const Line<T, one_sequence> w(s, i);
        for (int64_t j = 0; j < whole; j += Vector<T>::lanes) Phase::template run<T>(w, f, j);
        if (whole < s.width) Phase::template run<T>(w, f, whole, s.width - whole);
    }
}

template <class T, class Phase, class Functions>
static void run_all_lines(const GateStep<T>& s, int64_t first, int64_t last) {
    (s.one_sequence ? run_lines<T, Phase, Functions, true> : run_lines<T, Phase, Functions, false>)(s, first, last);
}

template <class T, class Phase> static void run_step(const GateStep<T>& s, int64_t first, int64_t last) {
    FlushDenormals mode;
    (s.usual ? run_all_lines<T, Phase, typename Phase::template Functions<T>>
             : run_all_lines<T, Phase, Any<T>>)(s, first, last);
}

template <class T> static void activate(const Activation& a, const T* x, T* y, int64_t count) {
    const AnyActivation<T> f(a);
    const int64_t whole = count - count % Vector<T>::lanes;
    for (int64_t j = 0; j < whole; j += Vector<T>::lanes) store<T>(y + j, f(load<T>(x + j)));
    if (whole < count) store<T>(y + whole, f(load<T>(x + whole, count - whole)), count - whole);
}

}  // namespace CGRU_SET
}  // namespace cgru

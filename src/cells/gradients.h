// The elementwise part of a step in training: recording what the way back needs, and the way back itself.
//
// A usual layer (sigmoid, tanh, no clip) keeps the values r, z, n, of which its functions' slopes are r (1 - r), z (1 -
// z), 1 - n^2. Any other layer keeps the arguments: slopes of other functions do not follow from their values. Beside
// them stands u, the candidate's recurrent product U_n h + c_n, or r * h with the reset gate before the product.
//
// With e the loss' gradient by h' and a_v the one by the argument of v's function (cgru/reference.py has the
// equations):
//
//   a_n = e (1 - z) g'     a_z = e (h - n) f'     and e z goes on to h
//   after:   a_r = a_n u f'             p = a_n r, by the recurrent product
//   before:  a_r = (U_n' a_n) h f'      and (U_n' a_n) r goes on to h
#pragma once

#include "cells/gru.h"

namespace cgru {
namespace CGRU_SET {

template <class T> struct UsualTraining : Usual<T> {
    typedef typename Vector<T>::Value V;
    using Usual<T>::Usual;
    static CGRU_MEMBER V kept(V, V value) { return value; }
    static CGRU_MEMBER V gate_of_kept(V kept) { return kept; }
    static CGRU_MEMBER V candidate_of_kept(V kept) { return kept; }
    static CGRU_MEMBER V gate_slope(V kept) { return kept * (T(1) - kept); }
    static CGRU_MEMBER V candidate_slope(V kept) { return T(1) - kept * kept; }
};

template <class T> struct AnyTraining : Any<T> {
    typedef typename Vector<T>::Value V;
    using Any<T>::Any;
    V kept(V argument, V) const { return argument; }
    V gate_of_kept(V kept) const { return this->f(kept); }
    V candidate_of_kept(V kept) const { return this->g(kept); }
    V gate_slope(V kept) const { return this->f.derivative(kept); }
    V candidate_slope(V kept) const { return this->g.derivative(kept); }
};

// One row of a step; `lanes` is empty for whole vectors or holds the count of the last, partial one.
template <class T> struct TrainingRow {
    typedef typename Vector<T>::Value V;
    const TrainingStep<T>& s;
    T *kept, *recurrent, *state, *reset_state;
    int64_t row;

    CGRU_MEMBER TrainingRow(const TrainingStep<T>& s, int64_t row)
        : s(s), kept(s.kept + row * 4 * s.hidden), recurrent(s.recurrent + row * s.recurrent_stride),
          state(s.state + row * s.stride), reset_state(s.reset_state + row * s.stride), row(row) {}

    // u, r, z, n of kept; gates 0, 1, 2 of recurrent; and so on: arrays of H values one after the other
    template <class... Lanes> CGRU_MEMBER V from(const T* arrays, int at, int64_t j, Lanes... lanes) const {
        return load<T>(arrays + at * s.hidden + j, lanes...);
    }
    template <class... Lanes> CGRU_MEMBER void to(T* arrays, int at, int64_t j, V value, Lanes... lanes) const {
        store<T>(arrays + at * s.hidden + j, value, lanes...);
    }
    // W x + U h + b of gate 0, 1, 2
    template <class... Lanes> CGRU_MEMBER V sum(int gate, int64_t j, Lanes... lanes) const {
        return from(kept, 1 + gate, j, lanes...) + from(recurrent, gate, j, lanes...) + from(s.bias, gate, j, lanes...);
    }
    template <class... Lanes> CGRU_MEMBER void add_grad_bias(int at, int64_t j, V value, Lanes... lanes) const {
        to(s.grad_bias, at, j, from(s.grad_bias, at, j, lanes...) + value, lanes...);
    }
    // The loss' gradient by h'.
    template <class... Lanes> CGRU_MEMBER V grad_state(int64_t j, Lanes... lanes) const {
        const V carried = from(state, 0, j, lanes...);
        return s.grad_y ? carried + from(s.grad_y[row], 0, j, lanes...) : carried;
    }
};

enum { kept_u, kept_r, kept_z, kept_n };

struct RecordAfter {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const V at_r = w.sum(0, j, lanes...), at_z = w.sum(1, j, lanes...);
        const V r = f.gate(at_r), z = f.gate(at_z);
        const V u = w.from(w.recurrent, 2, j, lanes...) + w.from(w.s.bias, 3, j, lanes...);
        const V at_n = fma(r, u, w.from(w.kept, kept_n, j, lanes...) + w.from(w.s.bias, 2, j, lanes...));
        const V n = f.candidate(at_n);
        const V h = new_state<T>(f.shares(z), w.from(w.state, 0, j, lanes...), n);
        w.to(w.kept, kept_u, j, u, lanes...);
        w.to(w.kept, kept_r, j, f.kept(at_r, r), lanes...);
        w.to(w.kept, kept_z, j, f.kept(at_z, z), lanes...);
        w.to(w.kept, kept_n, j, f.kept(at_n, n), lanes...);
        w.to(w.state, 0, j, h, lanes...);
        w.to(w.s.y[w.row], 0, j, h, lanes...);
    }
};

struct RecordGatesBefore {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const V at_r = w.sum(0, j, lanes...), at_z = w.sum(1, j, lanes...);
        const V r = f.gate(at_r), z = f.gate(at_z), reset = r * w.from(w.state, 0, j, lanes...);
        w.to(w.kept, kept_u, j, reset, lanes...);
        w.to(w.kept, kept_r, j, f.kept(at_r, r), lanes...);
        w.to(w.kept, kept_z, j, f.kept(at_z, z), lanes...);
        w.to(w.reset_state, 0, j, reset, lanes...);
    }
};

struct RecordStateBefore {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const V z = f.gate_of_kept(w.from(w.kept, kept_z, j, lanes...));
        const V at_n = w.sum(2, j, lanes...), n = f.candidate(at_n);
        const V h = new_state<T>(f.shares(z), w.from(w.state, 0, j, lanes...), n);
        w.to(w.kept, kept_n, j, f.kept(at_n, n), lanes...);
        w.to(w.state, 0, j, h, lanes...);
        w.to(w.s.y[w.row], 0, j, h, lanes...);
    }
};

// What is the same wherever the reset gate is: a_z and a_n to kept, and what of e goes on to h to the state.
template <class T, class F, class... Lanes>
CGRU_INLINE typename Vector<T>::Value backward_state(const TrainingRow<T>& w, const F& f, int64_t j,
                                                     typename Vector<T>::Value& a_z, Lanes... lanes) {
    typedef typename Vector<T>::Value V;
    const V e = w.grad_state(j, lanes...), h = w.from(w.s.before[w.row], 0, j, lanes...);
    const V kept_at_z = w.from(w.kept, kept_z, j, lanes...), kept_at_n = w.from(w.kept, kept_n, j, lanes...);
    const Shares<T> shares = f.shares(f.gate_of_kept(kept_at_z));
    const V n = f.candidate_of_kept(kept_at_n);
    for (int at = kept_u; at <= kept_n; ++at) prefetch(w.kept + w.s.next + at * w.s.hidden + j);
    const V by_weight = e * (h - n);
    const V a_n = e * shares.candidate * f.candidate_slope(kept_at_n);
    a_z = (w.s.flip ? -by_weight : by_weight) * f.gate_slope(kept_at_z);
    w.to(w.kept, kept_z, j, a_z, lanes...);
    w.to(w.kept, kept_n, j, a_n, lanes...);
    w.to(w.state, 0, j, e * shares.state, lanes...);
    w.add_grad_bias(kept_z, j, a_z, lanes...);
    w.add_grad_bias(kept_n, j, a_n, lanes...);
    return a_n;
}

struct BackwardAfter {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        V a_z;
        const V a_n = backward_state(w, f, j, a_z, lanes...);
        const V kept_at_r = w.from(w.kept, kept_r, j, lanes...);
        const V p = a_n * f.gate_of_kept(kept_at_r);
        const V a_r = a_n * w.from(w.kept, kept_u, j, lanes...) * f.gate_slope(kept_at_r);
        w.to(w.kept, kept_u, j, p, lanes...);
        w.to(w.kept, kept_r, j, a_r, lanes...);
        w.to(w.recurrent, 0, j, p, lanes...);
        w.to(w.recurrent, 1, j, a_r, lanes...);
        w.to(w.recurrent, 2, j, a_z, lanes...);
        w.add_grad_bias(kept_u, j, p, lanes...);
        w.add_grad_bias(kept_r, j, a_r, lanes...);
    }
};

struct BackwardStateBefore {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typename Vector<T>::Value a_z;
        w.to(w.recurrent, 0, j, backward_state(w, f, j, a_z, lanes...), lanes...);
    }
};

struct BackwardGatesBefore {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const V by_reset = w.from(w.reset_state, 0, j, lanes...), kept_at_r = w.from(w.kept, kept_r, j, lanes...);
        const V a_r = by_reset * w.from(w.s.before[w.row], 0, j, lanes...) * f.gate_slope(kept_at_r);
        w.to(w.state, 0, j, fma(by_reset, f.gate_of_kept(kept_at_r), w.from(w.state, 0, j, lanes...)), lanes...);
        w.to(w.kept, kept_r, j, a_r, lanes...);
        w.to(w.recurrent, 0, j, a_r, lanes...);
        w.to(w.recurrent, 1, j, w.from(w.kept, kept_z, j, lanes...), lanes...);
        w.add_grad_bias(kept_r, j, a_r, lanes...);
    }
};

template <class T, class Kernel, class F> static void run_training_rows(const TrainingStep<T>& s) {
    const F f(s);
    const int64_t whole = s.hidden - s.hidden % Vector<T>::lanes;
    for (int64_t row = 0; row < s.rows; ++row) {
        const TrainingRow<T> w(s, row);
        for (int64_t j = 0; j < whole; j += Vector<T>::lanes) Kernel::run(w, f, j);
        if (whole < s.hidden) Kernel::run(w, f, whole, s.hidden - whole);
    }
}

template <class T, class Kernel> static void run_training(const TrainingStep<T>& s) {
    (s.usual ? run_training_rows<T, Kernel, UsualTraining<T>> : run_training_rows<T, Kernel, AnyTraining<T>>)(s);
}

}  // namespace CGRU_SET
}  // namespace cgru

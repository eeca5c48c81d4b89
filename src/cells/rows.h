// The elementwise part of a step in training, whose values lie in rows: recording what the way back needs, and the way
// back itself. What its loops are, what a cell's phases see of a row, and the gradient of the new state.
//
// With e the loss' gradient by h' and a_v the one by the argument of v's function (cgru/model/cells has the equations):
//
//   a_n = e (1 - z) g'     a_z = e (h - n) f'     and e z goes on to h
#pragma once

#include "cells/state.h"

namespace cgru {
namespace CGRU_SET {

// Functions of any layer: kept are their arguments, since slopes do not always follow from values.
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
        : s(s), kept(s.kept + row * s.kept_stride), recurrent(s.recurrent + row * s.recurrent_stride),
          state(s.state + row * s.stride), reset_state(s.reset_state + row * s.stride), row(row) {}

    // Values of kept, gates of recurrent, and so on: arrays of H values one after the other
    template <class... Lanes> CGRU_MEMBER V from(const T* arrays, int at, int64_t j, Lanes... lanes) const {
        return load<T>(arrays + at * s.hidden + j, lanes...);
    }
    template <class... Lanes> CGRU_MEMBER void to(T* arrays, int at, int64_t j, V value, Lanes... lanes) const {
        store<T>(arrays + at * s.hidden + j, value, lanes...);
    }
    // W x + U h + b of gate 0, 1, 2, of which the first stands behind one other value
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

// What is the same in all cells: a_z and a_n to kept, where z and n were, and what of e goes on to h to the state.
template <int kept_z, int kept_n, class T, class F, class... Lanes>
CGRU_INLINE typename Vector<T>::Value backward_state(const TrainingRow<T>& w, const F& f, int64_t j,
                                                     typename Vector<T>::Value& a_z, Lanes... lanes) {
    typedef typename Vector<T>::Value V;
    const V e = w.grad_state(j, lanes...), h = w.from(w.s.before[w.row], 0, j, lanes...);
    const V kept_at_z = w.from(w.kept, kept_z, j, lanes...), kept_at_n = w.from(w.kept, kept_n, j, lanes...);
    const Shares<T> shares = f.shares(f.gate_of_kept(kept_at_z));
    const V n = f.candidate_of_kept(kept_at_n);
    for (int at = 0; at <= kept_n; ++at) prefetch(w.kept + w.s.next + at * w.s.hidden + j);
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

template <class T, class Phase, class F> static void run_training_rows(const TrainingStep<T>& s) {
    const F f(s);
    const int64_t whole = s.hidden - s.hidden % Vector<T>::lanes;
    for (int64_t row = 0; row < s.rows; ++row) {
        const TrainingRow<T> w(s, row);
        for (int64_t j = 0; j < whole; j += Vector<T>::lanes) Phase::run(w, f, j);
        if (whole < s.hidden) Phase::run(w, f, whole, s.hidden - whole);
    }
}

template <class T, class Phase> static void run_training(const TrainingStep<T>& s) {
    (s.usual ? run_training_rows<T, Phase, typename Phase::template Functions<T>>
             : run_training_rows<T, Phase, AnyTraining<T>>)(s);
}

}  // namespace CGRU_SET
}  // namespace cgru

// The minimal GRU's step ("Were RNNs all we needed?", Feng et al. 2024), for each engine. It has no recurrent product:
//
//   z = f(W_z x + b_z)      n = g(W_n x + b_n)      h' = (1 - z) h + z n
//
// cgru/model/cells/mingru.py is the specification.
#pragma once

#include "cells/lines.h"
#include "cells/rows.h"
#include "cells/tile.h"

namespace cgru {
namespace CGRU_SET {

// The usual layer's functions: a sigmoid, and the paper's positive g.
template <class T> struct UsualMin {
    static const bool compiled = true;
    typedef typename Vector<T>::Value V;
    template <class Layer> explicit UsualMin(const Layer&) {}
    CGRU_MEMBER V gate(V x) const { return sigmoid<T>(x); }
    CGRU_MEMBER V candidate(V x) const { return positive<T>(x); }
    template <int N> CGRU_MEMBER void gates(V (&x)[N]) const { sigmoids<T, N>(x); }
    template <int N> CGRU_MEMBER void candidates(V (&x)[N]) const { CGRU_EACH(i, N) x[i] = positive<T>(x[i]); }
    CGRU_MEMBER Shares<T> shares(V z) const { return {T(1) - z, z}; }
};

struct OfMin {
    template <class T> using Functions = UsualMin<T>;
};

struct BlasMin : OfMin {
    template <class T, class L, class F, class... Lanes>
    static CGRU_MEMBER void run(const L& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const V at_z = load<T>(w.input[0] + j, lanes...) + w.load_bias(0, j, lanes...);
        const V at_n = load<T>(w.input[1] + j, lanes...) + w.load_bias(1, j, lanes...);
        const V h = load<T>(w.state + j, lanes...);
        store<T>(w.state + j, new_state<T>(f.shares(f.gate(at_z)), h, f.candidate(at_n)), lanes...);
    }
};

// Kept are the arguments z and n of every layer: where g is a half, its slope does not follow from its value.
struct OfMinInTraining {
    template <class T> using Functions = AnyTraining<T>;
};

struct RecordMin : OfMinInTraining {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const V at_z = w.from(w.kept, 0, j, lanes...) + w.from(w.s.bias, 0, j, lanes...);
        const V at_n = w.from(w.kept, 1, j, lanes...) + w.from(w.s.bias, 1, j, lanes...);
        const Shares<T> shares = f.shares(f.gate(at_z));
        const V h = new_state<T>(shares, w.from(w.state, 0, j, lanes...), f.candidate(at_n));
        w.to(w.kept, 0, j, at_z, lanes...);
        w.to(w.kept, 1, j, at_n, lanes...);
        w.to(w.state, 0, j, h, lanes...);
        w.to(w.s.y[w.row], 0, j, h, lanes...);
    }
};

struct BackwardMin : OfMinInTraining {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typename Vector<T>::Value a_z;
        backward_state<0, 1>(w, f, j, a_z, lanes...);
    }
};

struct PackedMin : OfMin {
    static const int all = 2, first = 0, gates = 2, kept = 0;
    static const bool recurrent = false;
    static CGRU_MEMBER const float* operand(const PackedStep& step) { return step.state; }

    template <int R, int B>
    static CGRU_MEMBER void keep(const Tile<R, B>&, const PackedLayer&, FloatVector (&)[R][B][2],
                                 float (*)[1][lanes]) {}
    template <int N, class F>
    static CGRU_MEMBER void gate(const Units (&)[N], const PackedStep&, const F& f, FloatVector (&sums)[2][N],
                                 const float (*)[1][lanes], FloatVector (&argument)[N], FloatVector (&z)[N]) {
        CGRU_EACH(i, N) argument[i] = sums[1][i];
        CGRU_EACH(i, N) z[i] = sums[0][i];
        f.gates(z);
    }
    template <int N, class F>
    static CGRU_MEMBER void state(const Units (&at)[N], const PackedLayer& layer, const PackedStep& step, const F& f,
                                  FloatVector (&argument)[N], const FloatVector (&z)[N]) {
        update(at, layer, step, f, z, argument);
    }
};

}  // namespace CGRU_SET
}  // namespace cgru

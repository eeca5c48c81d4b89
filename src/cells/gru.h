// The gated recurrent unit's step, phase by phase, for each engine.
//
//   r = f(W_r x + U_r h + b_r)      z = f(W_z x + U_z h + b_z)
//   after:   n = g(W_n x + b_n + r * (U_n h + c_n))
//   before:  n = g(W_n x + b_n + U_n (r * h))             (c_n is part of b_n)
//
// and h' of state.h; cgru/model/cells/gru.py is the specification.
#pragma once

#include "cells/lines.h"
#include "cells/rows.h"
#include "cells/tile.h"

namespace cgru {
namespace CGRU_SET {

// ---------------------------------------------------------------------------------------------------------------------
// The BLAS engine: one vector of a line's values from j on; `lanes` is empty for whole vectors or holds the count of
// the last, partial one.

struct OfGru {
    template <class T> using Functions = Usual<T>;
};

struct BlasAfter : OfGru {
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

struct BlasGatesBefore : OfGru {
    template <class T, class L, class F, class... Lanes>
    static CGRU_MEMBER void run(const L& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const V r = f.gate(w.sum(0, j, lanes...));
        const V z = f.gate(w.sum(1, j, lanes...));
        store<T>(w.reset_state + j, r * load<T>(w.state + j, lanes...), lanes...);
        store<T>(w.recurrent[1] + j, z, lanes...);
    }
};

struct BlasStateBefore : OfGru {
    template <class T, class L, class F, class... Lanes>
    static CGRU_MEMBER void run(const L& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        const Shares<T> shares = f.shares(load<T>(w.recurrent[1] + j, lanes...));
        const V n = f.candidate(w.sum(2, j, lanes...));
        store<T>(w.state + j, new_state<T>(shares, load<T>(w.state + j, lanes...), n), lanes...);
    }
};

// ---------------------------------------------------------------------------------------------------------------------
// Training. A usual layer keeps the values r, z, n, of which its functions' slopes are r (1 - r), z (1 - z), 1 - n^2;
// any other one their arguments. Beside them stands u, the candidate's recurrent product U_n h + c_n, or r * h with the
// reset gate before the product. On the way back:
//
//   after:   a_r = a_n u f'             p = a_n r, by the recurrent product
//   before:  a_r = (U_n' a_n) h f'      and (U_n' a_n) r goes on to h

template <class T> struct UsualTraining : Usual<T> {
    typedef typename Vector<T>::Value V;
    using Usual<T>::Usual;
    static CGRU_MEMBER V kept(V, V value) { return value; }
    static CGRU_MEMBER V gate_of_kept(V kept) { return kept; }
    static CGRU_MEMBER V candidate_of_kept(V kept) { return kept; }
    static CGRU_MEMBER V gate_slope(V kept) { return kept * (T(1) - kept); }
    static CGRU_MEMBER V candidate_slope(V kept) { return T(1) - kept * kept; }
};

struct OfGruInTraining {
    template <class T> using Functions = UsualTraining<T>;
};

enum { kept_u, kept_r, kept_z, kept_n };

struct RecordAfter : OfGruInTraining {
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

struct RecordGatesBefore : OfGruInTraining {
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

struct RecordStateBefore : OfGruInTraining {
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

struct BackwardAfter : OfGruInTraining {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typedef typename Vector<T>::Value V;
        V a_z;
        const V a_n = backward_state<kept_z, kept_n>(w, f, j, a_z, lanes...);
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

struct BackwardStateBefore : OfGruInTraining {
    template <class T, class F, class... Lanes>
    static CGRU_MEMBER void run(const TrainingRow<T>& w, const F& f, int64_t j, Lanes... lanes) {
        typename Vector<T>::Value a_z;
        w.to(w.recurrent, 0, j, backward_state<kept_z, kept_n>(w, f, j, a_z, lanes...), lanes...);
    }
};

struct BackwardGatesBefore : OfGruInTraining {
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

// ---------------------------------------------------------------------------------------------------------------------
// The packed engine: what a phase multiplies, and what it makes of the sums of its gates, for N vectors of units side
// by side. `keep` puts aside, in `kept` vectors a block of a row, what of the sums with the input waits in memory:
// registers are for the sums with the state.

// Reset after the product; aside is the candidate's part of the input.
struct PackedAfter : OfGru {
    static const int all = 3, first = 0, gates = 3, kept = 1;
    static const bool recurrent = true;
    static CGRU_MEMBER const float* operand(const PackedStep& step) { return step.state; }

    template <int R, int B>
    static CGRU_MEMBER void keep(const Tile<R, B>& tile, const PackedLayer& layer, FloatVector (&sums)[R][B][3],
                                 float (*input)[1][lanes]) {
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b) {
                store<float>(input[r * B + b][0], sums[r][b][2]);
                sums[r][b][2] = load<float>(layer.recurrent_bias + (tile.block + b) * lanes);
            }
    }
    template <int N, class F>
    static CGRU_MEMBER void gate(const Units (&)[N], const PackedStep&, const F& f, FloatVector (&sums)[3][N],
                                 const float (*input)[1][lanes], FloatVector (&argument)[N], FloatVector (&z)[N]) {
        f.gates(sums[0]);
        f.gates(sums[1]);
        CGRU_EACH(i, N) argument[i] = fma(sums[0][i], sums[2][i], load<float>(input[i][0]));
        CGRU_EACH(i, N) z[i] = sums[1][i];
    }
    template <int N, class F>
    static CGRU_MEMBER void state(const Units (&at)[N], const PackedLayer& layer, const PackedStep& step, const F& f,
                                  FloatVector (&argument)[N], const FloatVector (&z)[N]) {
        update(at, layer, step, f, z, argument);
    }
};

// Reset before the product, first phase: z, and r * h of all units, which the second multiplies.
struct PackedGatesBefore : OfGru {
    static const int all = 3, first = 0, gates = 2, kept = 0;
    static const bool recurrent = true;
    static CGRU_MEMBER const float* operand(const PackedStep& step) { return step.state; }

    template <int R, int B>
    static CGRU_MEMBER void keep(const Tile<R, B>&, const PackedLayer&, FloatVector (&)[R][B][2],
                                 float (*)[1][lanes]) {}
    template <int N, class F>
    static CGRU_MEMBER void gate(const Units (&at)[N], const PackedStep& step, const F& f, FloatVector (&sums)[2][N],
                                 const float (*)[1][lanes], FloatVector (&argument)[N], FloatVector (&z)[N]) {
        f.gates(sums[0]);
        f.gates(sums[1]);
        CGRU_EACH(i, N) argument[i] = sums[0][i] * load<float>(step.state + at[i].at);
        CGRU_EACH(i, N) z[i] = sums[1][i];
    }
    template <int N, class F>
    static CGRU_MEMBER void state(const Units (&at)[N], const PackedLayer&, const PackedStep& step, const F&,
                                  FloatVector (&argument)[N], const FloatVector (&z)[N]) {
        CGRU_EACH(i, N) store<float>(step.reset_state + at[i].at, argument[i]);
        CGRU_EACH(i, N) store<float>(step.update + at[i].at, z[i]);
    }
};

struct PackedStateBefore : OfGru {
    static const int all = 3, first = 2, gates = 1, kept = 0;
    static const bool recurrent = true;
    static CGRU_MEMBER const float* operand(const PackedStep& step) { return step.reset_state; }

    template <int R, int B>
    static CGRU_MEMBER void keep(const Tile<R, B>&, const PackedLayer&, FloatVector (&)[R][B][1],
                                 float (*)[1][lanes]) {}
    template <int N, class F>
    static CGRU_MEMBER void gate(const Units (&at)[N], const PackedStep& step, const F&, FloatVector (&sums)[1][N],
                                 const float (*)[1][lanes], FloatVector (&argument)[N], FloatVector (&z)[N]) {
        CGRU_EACH(i, N) argument[i] = sums[0][i];
        CGRU_EACH(i, N) z[i] = load<float>(step.update + at[i].at);
    }
    template <int N, class F>
    static CGRU_MEMBER void state(const Units (&at)[N], const PackedLayer& layer, const PackedStep& step, const F& f,
                                  FloatVector (&argument)[N], const FloatVector (&z)[N]) {
        update(at, layer, step, f, z, argument);
    }
};

}  // namespace CGRU_SET
}  // namespace cgru

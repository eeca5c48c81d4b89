// GRUs of so few units that a vector has room for several: a vector is cut into slots of H lanes, and each slot is a
// row of a layer of its own. So groups, directions and rows stand side by side, and a step costs the same for all.
//
//   H 4, 16 lanes     | group 0 forwards | group 0 backwards | group 1 forwards | group 1 backwards |
//   H 8, 16 lanes     |          row 0 of a layer            |         row 1 of the layer           |
//
// A lane's sums have the order of tiles.h, and its functions are the same: a result has the bits that the packed
// kernels give it, whatever stands beside it. All steps run in one loop, in which the states stay in registers. The
// products of the next step's inputs do not wait for them: a processor makes those while it waits for the gates.
#pragma once

#include <type_traits>

#include "cells/state.h"

namespace cgru {
namespace CGRU_SET {

static const int inputs_together = 4;  // inputs whose lanes are brought together before they are multiplied

// to := H of the numbers at `from`, of which there are at most as many as a vector has.
CGRU_INLINE void copy_units(float* to, const float* from, int64_t H) {
    const auto some = [&](auto count) CGRU_LAMBDA {
        if (count <= lanes) memcpy(to, from, count * sizeof(float));
        to += count, from += count;
    };
    const std::integral_constant<int64_t, 16> sixteen{};
    const std::integral_constant<int64_t, 8> eight{};
    const std::integral_constant<int64_t, 4> four{};
    const std::integral_constant<int64_t, 2> two{};
    const std::integral_constant<int64_t, 1> one{};
    if (H == 4) return some(four);
    if (H == 8) return some(eight);
    if (H == 16) return some(sixteen);
    if (H & 8) some(eight);
    if (H & 4) some(four);
    if (H & 2) some(two);
    if (H & 1) some(one);
}

// A vector's states before the first step; and behind the last one to where they are wanted.
static CGRU_NOINLINE void read_states(const LaneStep& step, const LaneVector& of, float (&states)[lanes]) {
    memset(states, 0, sizeof states);
    CGRU_LOOP for (int64_t s = 0; s < of.slots; ++s)
        if (of.slot[s].start) copy_units(states + s * step.hidden, of.slot[s].start, step.hidden);
}
static CGRU_NOINLINE void write_states(const LaneStep& step, const LaneVector& of, const float (&states)[lanes]) {
    CGRU_LOOP for (int64_t s = 0; s < of.slots; ++s)
        if (of.slot[s].end) copy_units(of.slot[s].end, states + s * step.hidden, step.hidden);
}

// x[j] := in every lane its slot's input k + j at step t
template <int K>
CGRU_INLINE void find_inputs(const LaneStep& step, const LaneVector& of, int64_t t, int64_t k, FloatVector (&x)[K]) {
    const int64_t unit = step.input_stride;
    if (of.slots == 1) {
        const float* from = of.slot[0].x + t * of.slot[0].x_step + k * unit;
        CGRU_EACH(j, K) x[j] = broadcast<float>(from[j * unit]);
        return;
    }
    FloatBits bits[K] = {};
    CGRU_LOOP for (int64_t s = 0; s < of.slots; ++s) {
        const FloatBits mask = same_bits<FloatBits>(load<float>(step.masks + s * lanes));
        const float* from = of.slot[s].x + t * of.slot[s].x_step + k * unit;
        CGRU_EACH(j, K) bits[j] |= bits_of(broadcast<float>(from[j * unit])) & mask;
    }
    CGRU_EACH(j, K) x[j] = from_bits(bits[j]);
}

// The sums of N vectors: of r and then z, and of the candidate.
template <int N> struct LaneSums {
    FloatVector gates[2 * N], candidate[N];

    // += W x[j] of input k + j
    template <int K>
    CGRU_MEMBER void add_inputs(const LaneStep& step, const LaneVector* of, int64_t t, int64_t k) {
        CGRU_EACH(i, N) {
            FloatVector x[K];
            find_inputs(step, of[i], t, k, x);
            const float* weights = of[i].weights + (4 + 3 * k) * lanes;
            CGRU_EACH(j, K) {
                gates[i] = fma(load<float>(weights + 3 * j * lanes), x[j], gates[i]);
                gates[N + i] = fma(load<float>(weights + (3 * j + 1) * lanes), x[j], gates[N + i]);
                candidate[i] = fma(load<float>(weights + (3 * j + 2) * lanes), x[j], candidate[i]);
            }
        }
    }
};

// N vectors side by side through all steps.
template <int N> static CGRU_NOINLINE void run_lanes(const LaneStep& step, const LaneVector* of) {
    const int64_t I = step.inputs, H = step.hidden;
    const int64_t recurrent = (4 + 3 * I) * lanes;
    const IntegerVector first = same_bits<IntegerVector>(load<float>(step.first));
    float now[N][lanes];
    for (int i = 0; i < N; ++i) read_states(step, of[i], now[i]);
    FloatVector h[N];
    CGRU_EACH(i, N) h[i] = load<float>(now[i]);
    CGRU_LOOP for (int64_t t = 0; t < step.steps; ++t) {
        LaneSums<N> sums;
        CGRU_EACH(i, N) {
            sums.gates[i] = load<float>(of[i].weights);
            sums.gates[N + i] = load<float>(of[i].weights + lanes);
            sums.candidate[i] = load<float>(of[i].weights + 2 * lanes);
        }
        int64_t k = 0;
        CGRU_LOOP for (; k + inputs_together <= I; k += inputs_together)
            sums.template add_inputs<inputs_together>(step, of, t, k);
        CGRU_LOOP for (; k < I; ++k) sums.template add_inputs<1>(step, of, t, k);
        FloatVector product[N];  // U h of the candidate, where the reset gate comes behind it
        CGRU_EACH(i, N) product[i] = load<float>(of[i].weights + 3 * lanes);
        CGRU_LOOP for (int64_t k = 0; k < H; ++k)
            CGRU_EACH(i, N) {
                const FloatVector state = pick_lanes(h[i], first + int32_t(k));
                const float* weights = of[i].weights + recurrent + 3 * k * lanes;
                sums.gates[i] = fma(load<float>(weights), state, sums.gates[i]);
                sums.gates[N + i] = fma(load<float>(weights + lanes), state, sums.gates[N + i]);
                product[i] = fma(load<float>(weights + 2 * lanes), state, product[i]);
            }
        sigmoids<float, 2 * N>(sums.gates);
        if (step.cell == cell_gru_after) {
            CGRU_EACH(i, N) sums.candidate[i] = fma(sums.gates[i], product[i], sums.candidate[i]);
        } else {
            FloatVector reset[N];
            CGRU_EACH(i, N) reset[i] = sums.gates[i] * h[i];
            CGRU_LOOP for (int64_t k = 0; k < H; ++k)
                CGRU_EACH(i, N) sums.candidate[i] =
                    fma(load<float>(of[i].weights + recurrent + (3 * k + 2) * lanes),
                        pick_lanes(reset[i], first + int32_t(k)), sums.candidate[i]);
        }
        tanhs<float, N>(sums.candidate);
        CGRU_EACH(i, N) {
            const FloatVector z = sums.gates[N + i];
            h[i] = new_state<float>({z, 1.0f - z}, h[i], sums.candidate[i]);
            store<float>(now[i], h[i]);
        }
        CGRU_LOOP for (int i = 0; i < N; ++i)
            CGRU_LOOP for (int64_t s = 0; s < of[i].slots; ++s)
                copy_units(of[i].slot[s].y + t * of[i].slot[s].y_step, now[i] + s * H, H);
    }
    for (int i = 0; i < N; ++i) write_states(step, of[i], now[i]);
}

// The kernel of the table. A step is a chain of operations that wait for each other: of several vectors they stand side
// by side.
static void run_side_by_side(const LaneStep& step, const LaneVector* of, int64_t count) {
    for (; count >= 4; of += 4, count -= 4) run_lanes<4>(step, of);
    if (count >= 2) run_lanes<2>(step, of), of += 2, count -= 2;
    if (count) run_lanes<1>(step, of);
}

}  // namespace CGRU_SET
}  // namespace cgru

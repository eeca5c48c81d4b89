// What a cell's phases see of the packed engine's tiles: the sums of their products are in registers, and become the
// new state there.
#pragma once

#include "cells/state.h"

namespace cgru {
namespace CGRU_SET {

// A tile's first row and block.
template <int R, int B> struct Tile {
    int64_t row, block;
};

// A vector of a row's units: where it begins in the row, and in arrays of rows at the states' stride.
struct Units {
    int64_t row, unit, at;
};

// next := the new state of N vectors of units, also to y
template <int N, class F>
CGRU_INLINE void update(const Units (&at)[N], const PackedLayer& layer, const PackedStep& step, const F& f,
                        const FloatVector (&z)[N], FloatVector (&n)[N]) {
    FloatVector h[N];
    f.candidates(n);
    CGRU_EACH(i, N) h[i] = new_state<float>(f.shares(z[i]), load<float>(step.state + at[i].at), n[i]);
    CGRU_EACH(i, N) store<float>(step.next + at[i].at, h[i]);
    CGRU_EACH(i, N) {
        const int64_t left = layer.hidden - at[i].unit;
        if (left >= lanes)
            store<float>(step.y[at[i].row] + at[i].unit, h[i]);
        else
            store<float>(step.y[at[i].row] + at[i].unit, h[i], left);
    }
}

}  // namespace CGRU_SET
}  // namespace cgru

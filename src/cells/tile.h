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

// next := the new state of a block's units, also to y
template <int R, int B, class F>
CGRU_INLINE void update(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F& f, int r,
                        int b, FloatVector z, FloatVector candidate) {
    const int64_t unit = (tile.block + b) * lanes, row = tile.row + r;
    const FloatVector n = f.candidate(candidate);
    const FloatVector h = new_state<float>(f.shares(z), load<float>(step.state + row * step.stride + unit), n);
    store<float>(step.next + row * step.stride + unit, h);
    const int64_t left = layer.hidden - unit;
    if (left >= lanes)
        store<float>(step.y[row] + unit, h);
    else
        store<float>(step.y[row] + unit, h, left);
}

}  // namespace CGRU_SET
}  // namespace cgru

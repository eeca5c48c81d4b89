// Products of groups side by side, each of few outputs and with inputs of its own: grouped convolutions and linear
// layers. A group is a block of one vector or two of a matrix as `pack_dense` lays it out. The order of sums is that of
// packed/tiles.h; a product of few outputs is one group.
#pragma once

#include "kernels.h"
#include "nodes/middle.h"

namespace cgru {
namespace CGRU_SET {

// R rows by B groups of G vectors.
template <int G, int R, int B>
CGRU_INLINE void group_tile(const PackedLayer& layer, const DenseStep& step, int64_t row, int64_t group) {
    FloatVector sums[R][B][G];
    const float *x[R][B], *weights[B];
    CGRU_UNROLL for (int b = 0; b < B; ++b) {
        weights[b] = static_cast<const float*>(layer.input.weights) + (group + b) * layer.inputs * G * lanes;
        CGRU_UNROLL for (int r = 0; r < R; ++r) {
            x[r][b] = step.x[row + r] + (group + b) * step.x_next;
            CGRU_UNROLL for (int g = 0; g < G; ++g)
                sums[r][b][g] = load<float>(layer.bias + ((group + b) * G + g) * lanes);
        }
    }
    for (int64_t i = 0; i < step.pieces[0]; ++i)
        for (int64_t j = 0; j < step.pieces[1]; ++j) {
            const int64_t at = i * step.distances[0] + j * step.distances[1];
            for (int64_t k = 0; k < step.length; ++k)
                CGRU_UNROLL for (int b = 0; b < B; ++b) {
                    CGRU_UNROLL for (int g = 0; g < G; ++g) {
                        const FloatVector w = load<float>(weights[b] + g * lanes);
                        CGRU_UNROLL for (int r = 0; r < R; ++r)
                            sums[r][b][g] = fma(w, broadcast<float>(x[r][b][at + k]), sums[r][b][g]);
                    }
                    weights[b] += G * lanes;
                }
        }
    CGRU_UNROLL for (int r = 0; r < R; ++r)
        CGRU_UNROLL for (int b = 0; b < B; ++b)
            CGRU_UNROLL for (int g = 0; g < G; ++g) {
                const int64_t left = step.outputs - g * lanes;
                float* y = step.y[row + r] + (group + b) * step.y_next + g * lanes;
                if (left >= lanes)
                    store<float>(y, sums[r][b][g]);
                else if (left > 0)
                    store<float>(y, sums[r][b][g], left);
            }
}

template <int G> static void grouped(const PackedLayer& layer, const DenseStep& step) {
    int64_t row = step.first_row;
    for (; row + 8 <= step.last_row && lanes > 4; row += 8)
        for (int64_t group = 0; group < layer.blocks; ++group) group_tile<G, 8, 1>(layer, step, row, group);
    for (; row + 4 <= step.last_row; row += 4)
        for (int64_t group = 0; group < layer.blocks; ++group) group_tile<G, 4, 1>(layer, step, row, group);
    for (; row < step.last_row; ++row) {
        int64_t group = 0;
        for (; group + 4 <= layer.blocks; group += 4) group_tile<G, 1, 4>(layer, step, row, group);
        for (; group < layer.blocks; ++group) group_tile<G, 1, 1>(layer, step, row, group);
    }
}

}  // namespace CGRU_SET
}  // namespace cgru

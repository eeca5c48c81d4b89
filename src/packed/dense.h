// Products of rows with a matrix, bias included: the input product of a layer without a state, whose outputs go where
// they are wanted. The tiles, and the order of sums, are those of tiles.h.
#pragma once

#include "packed/tiles.h"

namespace cgru {
namespace CGRU_SET {

// Whether there are such products with a storage; and whether a row of inputs may be in pieces.
template <class S> struct HasDense {
    static const bool value = !S::sparse && !std::is_same<S, Storage<storage_bfloat16_products>>::value;
    static const bool pieces = std::is_same<S, Float32>::value;
};

template <class S, int G, bool large, bool pieces> struct DenseProduct {
    const PackedLayer& layer;
    const DenseStep& step;

    DenseProduct(const PackedLayer& layer, const DenseStep& step) : layer(layer), step(step) {
        prepare_inputs<S>(layer, step);
    }
    template <int R, int B> CGRU_MEMBER void run(const Tile<R, B>& tile) {
        FloatVector sums[R][B][G];
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    sums[r][b][g] = load<float>(layer.bias + ((tile.block + b) * G + g) * lanes);
        add(tile, sums, std::integral_constant<bool, pieces>());
        CGRU_UNROLL for (int r = 0; r < R; ++r) {
            float* y = step.y[tile.row + r];
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g) {
                    const int64_t at = ((tile.block + b) * G + g) * lanes, left = step.outputs - at;
                    if (left >= lanes)
                        store<float>(y + at, sums[r][b][g]);
                    else if (left > 0)
                        store<float>(y + at, sums[r][b][g], left);
                }
        }
    }
    void finish() {}

  private:
    template <int R, int B>
    CGRU_MEMBER void add(const Tile<R, B>& tile, FloatVector (&sums)[R][B][G], std::false_type) {
        add_input<S, large>(tile, layer, step, sums);
    }
    template <int R, int B>
    CGRU_MEMBER void add(const Tile<R, B>& tile, FloatVector (&sums)[R][B][G], std::true_type) {
        typename S::Row rows[R];
        Block<S> blocks[B];
        CGRU_UNROLL for (int b = 0; b < B; ++b) blocks[b] = input_block<S, G>(layer, tile.block + b);
        CGRU_LOOP for (int64_t i = 0; i < step.pieces[0]; ++i)
            CGRU_LOOP for (int64_t j = 0; j < step.pieces[1]; ++j) {
                const int64_t at = i * step.distances[0] + j * step.distances[1];
                CGRU_UNROLL for (int r = 0; r < R; ++r)
                    rows[r] = S::row(step.x[tile.row + r] + at, step.narrow_x, tile.row + r);
                S::add(sums, blocks, rows, step.length);
                CGRU_UNROLL for (int b = 0; b < B; ++b) blocks[b].weights += units_of<S>(step.length, G);
            }
    }
};

template <class S, int G> static void run_dense(const PackedLayer& layer, const DenseStep& step) {
    const bool fetches = weights_ahead > 0 && !S::narrow;
    const bool large = layer.blocks * layer.inputs * G * lanes * S::bytes > large_weights;
    if (HasDense<S>::pieces && step.pieces[0])
        run_tiles<DenseProduct<S, G, false, HasDense<S>::pieces>>(layer, step);
    else if (large)
        run_tiles<DenseProduct<S, G, fetches, false>>(layer, step);
    else
        run_tiles<DenseProduct<S, G, false, false>>(layer, step);
}

// The kernels of the table, for blocks of two vectors and of three; null where there are none.
template <class S, bool there = HasDense<S>::value> struct DenseKernels {
    static constexpr DenseKernel of[2] = {run_dense<S, 2>, run_dense<S, 3>};
};
template <class S> struct DenseKernels<S, false> {
    static constexpr DenseKernel of[2] = {nullptr, nullptr};
};

}  // namespace CGRU_SET
}  // namespace cgru

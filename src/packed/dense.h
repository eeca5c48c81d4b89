// Products of rows with a matrix, bias included: the input product of a layer without a state, whose outputs go where
// they are wanted. The order of sums is that of tiles.h; there are fewer kinds of tiles, as each is code for every
// storage.
#pragma once

#include "packed/tiles.h"

namespace cgru {
namespace CGRU_SET {

// Whether there are such products with a storage; and whether a row of inputs may be in pieces.
template <class S> struct HasDense {
    static const bool value = !S::sparse && !std::is_same<S, Storage<storage_bfloat16_products>>::value;
    static const bool pieces = std::is_same<S, Float32>::value;
};

template <class S, int G, bool pieces> struct DenseProduct {
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

  private:
    template <int R, int B>
    CGRU_MEMBER void add(const Tile<R, B>& tile, FloatVector (&sums)[R][B][G], std::false_type) {
        add_input<S, false>(tile, layer, step, sums);
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

// Many rows go a block at a time, as in `run_tiles`; the last ones two at a time, or one by two blocks.
template <class S, int G, bool pieces> static void dense_tiles(const PackedLayer& layer, const DenseStep& step) {
    DenseProduct<S, G, pieces> product(layer, step);
    const int64_t whole = step.last_row - (step.last_row - step.first_row) % tile_rows;
    for (int64_t block = step.first_block; step.first_row < whole && block < step.last_block; ++block)
        for (int64_t row = step.first_row; row < whole; row += tile_rows) product.run(Tile<tile_rows, 1>{row, block});
    int64_t row = whole;
    for (; row + 2 <= step.last_row; row += 2)
        for (int64_t block = step.first_block; block < step.last_block; ++block) product.run(Tile<2, 1>{row, block});
    if (row == step.last_row) return;
    int64_t block = step.first_block;
    for (; block + 2 <= step.last_block; block += 2) product.run(Tile<1, 2>{row, block});
    if (block < step.last_block) product.run(Tile<1, 1>{row, block});
}

template <class S, int G> static void run_dense(const PackedLayer& layer, const DenseStep& step) {
    if (HasDense<S>::pieces && step.pieces[0])
        dense_tiles<S, G, HasDense<S>::pieces>(layer, step);
    else
        dense_tiles<S, G, false>(layer, step);
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

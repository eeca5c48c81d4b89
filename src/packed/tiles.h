// The fused kernels of the packed engine: products, gates, activations and state update in one pass over the weights,
// which lie as packed/layout.h says.
//
// A tile is a few rows (sequences) by a few blocks whose sums fit the registers. Every sum starts from its bias, adds
// x[0] w[0], x[1] w[1], ..., and then h[0] u[0], h[1] u[1], ..., one fused multiply-add after the other. That order is
// the same in every tile, which is why a result does not depend on what else is computed beside it.
#pragma once

#include "cells/tile.h"
#include "packed/layout.h"
#include "storage/bfloat16.h"
#include "storage/float16.h"
#include "storage/float32.h"
#include "storage/int8.h"
#include "storage/sparse.h"

namespace cgru {
namespace CGRU_SET {

// Blocks of the tiles for one row: enough independent sums to hide a multiply-add's latency, and few enough that the
// next tile's products run beside this one's gates, and that what one step leaves in the nearest cache serves the next.
static const int tile_blocks = 2;

// With 8 lanes, 3 or 4 blocks are one tile: so their gates, and the next step's products, wait for each other less.
// With 16 the products of the next tile do as much in the shadow of the gates.
static const bool one_tile = lanes == 8;

// Before any tile is run, the rows of x, or of h or r * h, are made what they are multiplied as.
template <class S> CGRU_INLINE void prepare_inputs(const PackedLayer& layer, const PackedStep& step) {
    for (int64_t r = step.first_row; S::narrow && r < step.last_row; ++r)
        S::prepare(step.x[r], layer.inputs, layer.input.limit, step.narrow_x, r);
}
template <class S>
CGRU_INLINE void prepare_states(const PackedLayer& layer, const PackedStep& step, const float* state) {
    for (int64_t r = step.first_row; S::narrow && r < step.last_row; ++r)
        S::prepare(state + r * step.stride, layer.hidden, layer.recurrent.limit, step.narrow_state, r);
}

// sums += W x of all G gates
template <class S, int R, int B, int G>
CGRU_INLINE void add_input(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step,
                           FloatVector (&sums)[R][B][G]) {
    typename S::Row rows[R];
    Block<S> blocks[B];
    CGRU_UNROLL for (int r = 0; r < R; ++r) rows[r] = S::row(step.x[tile.row + r], step.narrow_x, tile.row + r);
    CGRU_UNROLL for (int b = 0; b < B; ++b) blocks[b] = input_block<S, G>(layer, tile.block + b);
    S::add(sums, blocks, rows, layer.inputs);
}

// sums += U h, or U (r * h), of a phase's gates
template <class S, class Phase, int R, int B>
CGRU_INLINE void add_recurrent(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step,
                               FloatVector (&sums)[R][B][Phase::gates]) {
    const float* state = Phase::operand(step);
    typename S::Row rows[R];
    Block<S> blocks[B];
    if (S::integer) keep_in_memory(sums);
    CGRU_UNROLL for (int r = 0; r < R; ++r)
        rows[r] = S::row(state + (tile.row + r) * step.stride, step.narrow_state, tile.row + r);
    CGRU_UNROLL for (int b = 0; b < B; ++b) blocks[b] = recurrent_block<S, Phase>(layer, tile.block + b);
    S::add(sums, blocks, rows, layer.hidden);
}

// What sums start from: bias + W x, computed here for all gates; or made before, for G of `all` gates from the `first`
// on.
template <class S, bool from_input> struct Start;
template <class S> struct Start<S, true> {
    template <int all, int first, int R, int B, int G>
    static CGRU_MEMBER void sums(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step,
                                 FloatVector (&sums)[R][B][G]) {
        static_assert(all == G && first == 0, "from x all gates are computed at once");
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    sums[r][b][g] = load<float>(layer.bias + ((tile.block + b) * G + g) * lanes);
        add_input<S>(tile, layer, step, sums);
    }
};
template <class S> struct Start<S, false> {
    template <int all, int first, int R, int B, int G>
    static CGRU_MEMBER void sums(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step,
                                 FloatVector (&sums)[R][B][G]) {
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    sums[r][b][g] = load<float>(step.products + (tile.row + r) * layer.blocks * all * lanes +
                                                ((tile.block + b) * all + first + g) * lanes);
    }
};

// products := bias + W x of a tile of rows, of all G gates, for many steps at once
template <class S, int G> struct InputProduct {
    static CGRU_MEMBER void prepare(const PackedLayer& layer, const PackedStep& step) {
        prepare_inputs<S>(layer, step);
    }
    template <int R, int B, class F>
    static CGRU_MEMBER void run(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F&) {
        FloatVector sums[R][B][G];
        Start<S, true>::template sums<G, 0>(tile, layer, step, sums);
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    store<float>(step.products + (tile.row + r) * layer.blocks * G * lanes +
                                     ((tile.block + b) * G + g) * lanes, sums[r][b][g]);
    }
};

// call(r, b, sums of G gates) for every row and block of a tile: one after the other in the code for one row, for which
// every cycle counts; in a loop for many, whose code would be long.
template <int R, int B, int G> struct Gates {
    template <class Call> static CGRU_MEMBER void each(const FloatVector (&sums)[R][B][G], const Call& call) {
        float kept[R][B][G][lanes];
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g) store<float>(kept[r][b][g], sums[r][b][g]);
        keep_in_memory(kept);
        CGRU_LOOP for (int r = 0; r < R; ++r)
            CGRU_LOOP for (int b = 0; b < B; ++b) {
                FloatVector own[G];
                CGRU_UNROLL for (int g = 0; g < G; ++g) own[g] = load<float>(kept[r][b][g]);
                call(r, b, own);
            }
    }
};
template <int B, int G> struct Gates<1, B, G> {
    template <class Call> static CGRU_MEMBER void each(const FloatVector (&sums)[1][B][G], const Call& call) {
        CGRU_UNROLL for (int b = 0; b < B; ++b) call(0, b, sums[0][b]);
    }
};

// A phase of a step on a tile; from x itself (all gates), or from the input products.
template <class S, class Phase, bool from_input> struct StepPhase {
    static CGRU_MEMBER void prepare(const PackedLayer& layer, const PackedStep& step) {
        if (from_input) prepare_inputs<S>(layer, step);
        if (Phase::recurrent) prepare_states<S>(layer, step, Phase::operand(step));
    }
    template <int R, int B, class F>
    static CGRU_MEMBER void run(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F& f) {
        FloatVector sums[R][B][Phase::gates];
        typename Phase::template Kept<R, B> kept;
        Start<S, from_input>::template sums<Phase::all, Phase::first>(tile, layer, step, sums);
        Phase::keep(kept, tile, layer, sums);
        if (Phase::recurrent) add_recurrent<S, Phase>(tile, layer, step, sums);
        Gates<R, B, Phase::gates>::each(sums, [&](int r, int b, const FloatVector(&own)[Phase::gates]) CGRU_LAMBDA {
            Phase::finish(kept, tile, layer, step, f, r, b, own);
        });
    }
};

// A kernel over all tiles of [first_row, last_row) x [first_block, last_block). Many rows go a block at a time, so that
// its weights stay in the nearest cache for all of them; the rows left over go a few blocks at a time. Blocks are taken
// upwards or downwards: alternating from step to step meets in the cache what the step before left there.
template <class Kernel, class F>
static void run_tiles(const PackedLayer& layer, const PackedStep& step) {
    const F f(layer);
    Kernel::prepare(layer, step);
    const int64_t whole = step.last_row - (step.last_row - step.first_row) % tile_rows;
    const int64_t blocks = step.last_block - step.first_block;
    if (step.first_row < whole)
        for (int64_t i = 0; i < blocks; ++i) {
            const int64_t block = step.downwards ? step.last_block - 1 - i : step.first_block + i;
            for (int64_t row = step.first_row; row < whole; row += tile_rows)
                Kernel::run(Tile<tile_rows, 1>{row, block}, layer, step, f);
        }
    int64_t row = whole;
    for (; row + 2 <= step.last_row; row += 2) {
        int64_t block = step.first_block;
        for (; block + 2 <= step.last_block; block += 2) Kernel::run(Tile<2, 2>{row, block}, layer, step, f);
        for (; block < step.last_block; ++block) Kernel::run(Tile<2, 1>{row, block}, layer, step, f);
    }
    if (row == step.last_row) return;
    if (one_tile && blocks == 3) return Kernel::run(Tile<1, 3>{row, step.first_block}, layer, step, f);
    if (one_tile && blocks == 4) return Kernel::run(Tile<1, 4>{row, step.first_block}, layer, step, f);
    for (int64_t done = 0; done < blocks;) {
        const int64_t size = blocks - done >= tile_blocks ? tile_blocks : blocks - done;
        const int64_t block = step.downwards ? step.last_block - done - size : step.first_block + done;
        if (size == tile_blocks)
            Kernel::run(Tile<1, tile_blocks>{row, block}, layer, step, f);
        else
            Kernel::run(Tile<1, 1>{row, block}, layer, step, f);
        done += size;
    }
}

// The kernels of the table.
template <class S, class Phase, bool from_input>
static void run_phase(const PackedLayer& layer, const PackedStep& step) {
    typedef StepPhase<S, Phase, from_input> Kernel;
    typedef typename Phase::template Functions<float> OfUsual;
    (layer.usual ? run_tiles<Kernel, OfUsual> : run_tiles<Kernel, Any<float>>)(layer, step);
}

template <class S, int gates> static void input_product(const PackedLayer& layer, const PackedStep& step) {
    run_tiles<InputProduct<S, gates>, Usual<float>>(layer, step);
}

}  // namespace CGRU_SET
}  // namespace cgru

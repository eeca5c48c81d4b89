// The fused kernels of the packed engine: products, gates, activations and state update in one pass over the weights,
// which lie as packed/layout.h says.
//
// A tile is a few rows (sequences) by a few blocks whose sums fit the registers. Every sum starts from its bias, adds
// x[0] w[0], x[1] w[1], ..., and then h[0] u[0], h[1] u[1], ..., one fused multiply-add after the other. That order is
// the same in every tile, which is why a result does not depend on what else is computed beside it.
#pragma once

#include "cells/activations.h"
#include "cells/update.h"
#include "packed/layout.h"
#include "storage/bfloat16.h"
#include "storage/float16.h"
#include "storage/float32.h"
#include "storage/int8.h"

namespace cgru {
namespace CGRU_SET {

// Blocks of the tiles for one row: enough independent sums to hide a multiply-add's latency, and few enough that the
// next tile's products run beside this one's gates, and that what one step leaves in the nearest cache serves the next.
static const int tile_blocks = 2;

// A tile's first row and block.
template <int R, int B> struct Tile {
    int64_t row, block;
};

// Before any tile is run, the rows of x, or of h or r * h, are made what they are multiplied as.
template <class S> CGRU_INLINE void prepare_inputs(const PackedLayer& layer, const PackedStep& step) {
    for (int64_t r = step.first_row; S::narrow && r < step.last_row; ++r)
        S::prepare(step.x[r], layer.inputs, layer.input.limit, step.narrow_x, r);
}
template <class S> CGRU_INLINE void prepare_states(const PackedLayer& layer, const PackedStep& step, const float* state) {
    for (int64_t r = step.first_row; S::narrow && r < step.last_row; ++r)
        S::prepare(state + r * step.stride, layer.hidden, layer.recurrent.limit, step.narrow_state, r);
}

// sums += W x of all gates
template <class S, int R, int B>
CGRU_INLINE void add_input(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step,
                           FloatVector (&sums)[R][B][3]) {
    typename S::Row rows[R];
    Block<S> blocks[B];
    CGRU_UNROLL for (int r = 0; r < R; ++r) rows[r] = S::row(step.x[tile.row + r], step.narrow_x, tile.row + r);
    CGRU_UNROLL for (int b = 0; b < B; ++b) blocks[b] = input_block<S>(layer, tile.block + b);
    S::add(sums, blocks, rows, layer.inputs);
}

// sums += U h, or U (r * h), of G gates from the `first` on
template <class S, int R, int B, int G>
CGRU_INLINE void add_recurrent(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, int first,
                               const float* state, FloatVector (&sums)[R][B][G]) {
    typename S::Row rows[R];
    Block<S> blocks[B];
    if (S::integer) keep_in_memory(sums);
    CGRU_UNROLL for (int r = 0; r < R; ++r)
        rows[r] = S::row(state + (tile.row + r) * step.stride, step.narrow_state, tile.row + r);
    CGRU_UNROLL for (int b = 0; b < B; ++b) blocks[b] = recurrent_block<S, G>(layer, first, tile.block + b);
    S::add(sums, blocks, rows, layer.hidden);
}

// sums := bias + W x
template <class S, int R, int B>
CGRU_INLINE void start_from_input(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step,
                                  FloatVector (&sums)[R][B][3]) {
    CGRU_UNROLL for (int r = 0; r < R; ++r)
        CGRU_UNROLL for (int b = 0; b < B; ++b)
            CGRU_UNROLL for (int g = 0; g < 3; ++g)
                sums[r][b][g] = load<float>(layer.bias + ((tile.block + b) * 3 + g) * lanes);
    add_input<S>(tile, layer, step, sums);
}

// sums := the input products made before, G gates from the first on
template <int R, int B, int G>
CGRU_INLINE void start_from_product(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, int first,
                                    FloatVector (&sums)[R][B][G]) {
    CGRU_UNROLL for (int r = 0; r < R; ++r)
        CGRU_UNROLL for (int b = 0; b < B; ++b)
            CGRU_UNROLL for (int g = 0; g < G; ++g)
                sums[r][b][g] = load<float>(step.products + (tile.row + r) * layer.blocks * 3 * lanes +
                                            ((tile.block + b) * 3 + first + g) * lanes);
}

// products := bias + W x of a tile of rows, for many steps at once
template <class S> struct InputProduct {
    static CGRU_MEMBER void prepare(const PackedLayer& layer, const PackedStep& step) {
        prepare_inputs<S>(layer, step);
    }
    template <int R, int B, class F>
    static CGRU_MEMBER void run(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F&) {
        FloatVector sums[R][B][3];
        start_from_input<S>(tile, layer, step, sums);
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < 3; ++g)
                    store<float>(step.products + (tile.row + r) * layer.blocks * 3 * lanes +
                                     ((tile.block + b) * 3 + g) * lanes, sums[r][b][g]);
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

// next := the new state of a block's units, also to y
template <int R, int B, class F>
CGRU_INLINE void update(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F& f, int r, int b,
                        FloatVector z, FloatVector candidate) {
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

// A whole step, reset after the product; from x itself, or from the input products.
template <class S, bool from_input> struct ResetAfterStep {
    static CGRU_MEMBER void prepare(const PackedLayer& layer, const PackedStep& step) {
        if (from_input) prepare_inputs<S>(layer, step);
        prepare_states<S>(layer, step, step.state);
    }
    template <int R, int B, class F>
    static CGRU_MEMBER void run(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F& f) {
        FloatVector sums[R][B][3];
        float input[R][B][lanes];  // the candidate's input part waits in memory: registers are for the sums
        if (from_input)
            start_from_input<S>(tile, layer, step, sums);
        else
            start_from_product(tile, layer, step, 0, sums);
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b) {
                store<float>(input[r][b], sums[r][b][2]);
                sums[r][b][2] = load<float>(layer.candidate_bias + (tile.block + b) * lanes);
            }
        keep_in_memory(input);
        add_recurrent<S>(tile, layer, step, 0, step.state, sums);
        Gates<R, B, 3>::each(sums, [&](int r, int b, const FloatVector(&own)[3]) CGRU_LAMBDA {
            const FloatVector reset = f.gate(own[0]);
            const FloatVector z = f.gate(own[1]);
            update(tile, layer, step, f, r, b, z, fma(reset, own[2], load<float>(input[r][b])));
        });
    }
};

// Reset before the product, first half: z, and r * h of all units, which the second half multiplies.
template <class S> struct ResetBeforeGates {
    static CGRU_MEMBER void prepare(const PackedLayer& layer, const PackedStep& step) {
        prepare_states<S>(layer, step, step.state);
    }
    template <int R, int B, class F>
    static CGRU_MEMBER void run(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F& f) {
        FloatVector sums[R][B][2];
        start_from_product(tile, layer, step, 0, sums);
        add_recurrent<S>(tile, layer, step, 0, step.state, sums);
        Gates<R, B, 2>::each(sums, [&](int r, int b, const FloatVector(&own)[2]) CGRU_LAMBDA {
            const int64_t at = (tile.row + r) * step.stride + (tile.block + b) * lanes;
            store<float>(step.reset_state + at, f.gate(own[0]) * load<float>(step.state + at));
            store<float>(step.update + at, f.gate(own[1]));
        });
    }
};

template <class S> struct ResetBeforeState {
    static CGRU_MEMBER void prepare(const PackedLayer& layer, const PackedStep& step) {
        prepare_states<S>(layer, step, step.reset_state);
    }
    template <int R, int B, class F>
    static CGRU_MEMBER void run(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F& f) {
        FloatVector sums[R][B][1];
        start_from_product(tile, layer, step, 2, sums);
        add_recurrent<S>(tile, layer, step, 2, step.reset_state, sums);
        Gates<R, B, 1>::each(sums, [&](int r, int b, const FloatVector(&own)[1]) CGRU_LAMBDA {
            const int64_t at = (tile.row + r) * step.stride + (tile.block + b) * lanes;
            update(tile, layer, step, f, r, b, load<float>(step.update + at), own[0]);
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

struct UsualLayer {
    explicit UsualLayer(const PackedLayer&) {}
    CGRU_MEMBER FloatVector gate(FloatVector x) const { return sigmoid<float>(x); }
    CGRU_MEMBER FloatVector candidate(FloatVector x) const { return tanh<float>(x); }
    CGRU_MEMBER Shares<float> shares(FloatVector z) const { return shares_of<float>(z); }
};

struct AnyLayer {
    AnyActivation<float> f, g;
    int flip;
    explicit AnyLayer(const PackedLayer& layer) : f(layer.gate), g(layer.candidate), flip(layer.flip) {}
    FloatVector gate(FloatVector x) const { return f(x); }
    FloatVector candidate(FloatVector x) const { return g(x); }
    Shares<float> shares(FloatVector z) const { return shares_of<float>(z, flip); }
};

template <class Kernel> static void run_packed(const PackedLayer& layer, const PackedStep& step) {
    if (layer.usual)
        run_tiles<Kernel, UsualLayer>(layer, step);
    else
        run_tiles<Kernel, AnyLayer>(layer, step);
}

template <class S> static void input_product(const PackedLayer& layer, const PackedStep& step) {
    run_tiles<InputProduct<S>, UsualLayer>(layer, step);
}

template <class S> constexpr StorageKernels storage_kernels() {
    return {S::bytes,
            S::rate,
            S::narrow,
            pack_layer<S>,
            input_product<S>,
            run_packed<ResetAfterStep<S, true>>,
            run_packed<ResetAfterStep<S, false>>,
            run_packed<ResetBeforeGates<S>>,
            run_packed<ResetBeforeState<S>>};
}

}  // namespace CGRU_SET
}  // namespace cgru

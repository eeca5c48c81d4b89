// The fused kernels of the packed engine: products, gates, activations and state update in one pass over the weights,
// which lie as packed/layout.h says.
//
// A tile is a few rows (sequences) by a few blocks whose sums fit the registers. Every sum starts from its bias, adds
// x[0] w[0], x[1] w[1], ..., and then h[0] u[0], h[1] u[1], ..., one fused multiply-add after the other. That order is
// the same in every tile, which is why a result does not depend on what else is computed beside it.
#pragma once

#include "cells/gru.h"
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
template <class S>
CGRU_INLINE void prepare_states(const PackedLayer& layer, const PackedStep& step, const float* state) {
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

// What sums start from: bias + W x, computed here for all gates, or made before, for G gates from the `first` on.
template <class S, bool from_input> struct Start;
template <class S> struct Start<S, true> {
    template <int R, int B>
    static CGRU_MEMBER void sums(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, int,
                                 FloatVector (&sums)[R][B][3]) {
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < 3; ++g)
                    sums[r][b][g] = load<float>(layer.bias + ((tile.block + b) * 3 + g) * lanes);
        add_input<S>(tile, layer, step, sums);
    }
};
template <class S> struct Start<S, false> {
    template <int R, int B, int G>
    static CGRU_MEMBER void sums(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, int first,
                                 FloatVector (&sums)[R][B][G]) {
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    sums[r][b][g] = load<float>(step.products + (tile.row + r) * layer.blocks * 3 * lanes +
                                                ((tile.block + b) * 3 + first + g) * lanes);
    }
};

// products := bias + W x of a tile of rows, for many steps at once
template <class S> struct InputProduct {
    static CGRU_MEMBER void prepare(const PackedLayer& layer, const PackedStep& step) {
        prepare_inputs<S>(layer, step);
    }
    template <int R, int B, class F>
    static CGRU_MEMBER void run(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F&) {
        FloatVector sums[R][B][3];
        Start<S, true>::sums(tile, layer, step, 0, sums);
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

// The phases of a step, as cells/cell.h has them: what a phase multiplies, and what it makes of the sums of its gates.
// `Kept` is what of the sums with the input waits in memory: registers are for the sums with the state.

// Reset after the product.
struct PackedAfter {
    static const int first = 0, gates = 3;
    static CGRU_MEMBER const float* operand(const PackedStep& step) { return step.state; }

    template <int R, int B> struct Kept {
        float input[R][B][lanes];  // the candidate's part
    };
    template <int R, int B>
    static CGRU_MEMBER void keep(Kept<R, B>& kept, const Tile<R, B>& tile, const PackedLayer& layer,
                                 FloatVector (&sums)[R][B][3]) {
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b) {
                store<float>(kept.input[r][b], sums[r][b][2]);
                sums[r][b][2] = load<float>(layer.candidate_bias + (tile.block + b) * lanes);
            }
        keep_in_memory(kept.input);
    }
    template <int R, int B, class F>
    static CGRU_MEMBER void finish(const Kept<R, B>& kept, const Tile<R, B>& tile, const PackedLayer& layer,
                                   const PackedStep& step, const F& f, int r, int b, const FloatVector (&sums)[3]) {
        const FloatVector reset = f.gate(sums[0]);
        const FloatVector z = f.gate(sums[1]);
        update(tile, layer, step, f, r, b, z, fma(reset, sums[2], load<float>(kept.input[r][b])));
    }
};

// Reset before the product, first phase: z, and r * h of all units, which the second multiplies.
struct PackedGatesBefore {
    static const int first = 0, gates = 2;
    static CGRU_MEMBER const float* operand(const PackedStep& step) { return step.state; }

    template <int R, int B> struct Kept {};
    template <int R, int B>
    static CGRU_MEMBER void keep(Kept<R, B>&, const Tile<R, B>&, const PackedLayer&, FloatVector (&)[R][B][2]) {}
    template <int R, int B, class F>
    static CGRU_MEMBER void finish(const Kept<R, B>&, const Tile<R, B>& tile, const PackedLayer&,
                                   const PackedStep& step, const F& f, int r, int b, const FloatVector (&sums)[2]) {
        const int64_t at = (tile.row + r) * step.stride + (tile.block + b) * lanes;
        store<float>(step.reset_state + at, f.gate(sums[0]) * load<float>(step.state + at));
        store<float>(step.update + at, f.gate(sums[1]));
    }
};

struct PackedStateBefore {
    static const int first = 2, gates = 1;
    static CGRU_MEMBER const float* operand(const PackedStep& step) { return step.reset_state; }

    template <int R, int B> struct Kept {};
    template <int R, int B>
    static CGRU_MEMBER void keep(Kept<R, B>&, const Tile<R, B>&, const PackedLayer&, FloatVector (&)[R][B][1]) {}
    template <int R, int B, class F>
    static CGRU_MEMBER void finish(const Kept<R, B>&, const Tile<R, B>& tile, const PackedLayer& layer,
                                   const PackedStep& step, const F& f, int r, int b, const FloatVector (&sums)[1]) {
        const int64_t at = (tile.row + r) * step.stride + (tile.block + b) * lanes;
        update(tile, layer, step, f, r, b, load<float>(step.update + at), sums[0]);
    }
};

// A phase of a step on a tile; from x itself (all gates), or from the input products.
template <class S, class Phase, bool from_input> struct StepPhase {
    static CGRU_MEMBER void prepare(const PackedLayer& layer, const PackedStep& step) {
        if (from_input) prepare_inputs<S>(layer, step);
        prepare_states<S>(layer, step, Phase::operand(step));
    }
    template <int R, int B, class F>
    static CGRU_MEMBER void run(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step, const F& f) {
        FloatVector sums[R][B][Phase::gates];
        typename Phase::template Kept<R, B> kept;
        Start<S, from_input>::sums(tile, layer, step, Phase::first, sums);
        Phase::keep(kept, tile, layer, sums);
        add_recurrent<S>(tile, layer, step, Phase::first, Phase::operand(step), sums);
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

template <class Kernel> static void run_packed(const PackedLayer& layer, const PackedStep& step) {
    if (layer.usual)
        run_tiles<Kernel, Usual<float>>(layer, step);
    else
        run_tiles<Kernel, Any<float>>(layer, step);
}

template <class S> static void input_product(const PackedLayer& layer, const PackedStep& step) {
    run_tiles<InputProduct<S>, Usual<float>>(layer, step);
}

template <class S> constexpr StorageKernels storage_kernels() {
    return {S::bytes,
            S::inputs,
            S::offset,
            S::rate,
            S::narrow,
            input_product<S>,
            {{nullptr,
              {run_packed<StepPhase<S, PackedGatesBefore, false>>, run_packed<StepPhase<S, PackedStateBefore, false>>}},
             {run_packed<StepPhase<S, PackedAfter, true>>, {run_packed<StepPhase<S, PackedAfter, false>>, nullptr}}}};
}

}  // namespace CGRU_SET
}  // namespace cgru

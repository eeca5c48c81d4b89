// The fused kernels of the packed engine: products, gates, activations and state update in one pass over the weights,
// which lie as packed/layout.h says.
//
// A tile is a few rows (sequences) by a few blocks whose sums fit the registers. Every sum starts from its bias, adds
// x[0] w[0], x[1] w[1], ..., and then h[0] u[0], h[1] u[1], ..., one fused multiply-add after the other. That order is
// the same in every tile, which is why a result does not depend on what else is computed beside it.
#pragma once

#include <type_traits>

#include "cells/tile.h"
#include "packed/layout.h"
#include "storage/bfloat16.h"
#include "storage/float16.h"
#include "storage/float32.h"
#include "storage/int8.h"
#include "storage/sparse.h"

namespace cgru {
namespace CGRU_SET {

// Blocks of the tiles for one row, of which the last three are one tile: enough independent sums to hide a
// multiply-add's latency, and few enough that the next tile's products run beside this one's gates, and that what one
// step leaves in the nearest cache serves the next.
static const int tile_blocks = 2;

// With 8 lanes, 4 blocks are one tile: so their gates, and the next step's products, wait for each other less. With 16
// the products of the next tile do as much in the shadow of the gates.
static const bool one_tile = lanes == 8;

// Vectors whose gates are computed side by side: their chains of operations wait for each other less.
static const int side_by_side = 4;

// Before any tile is run, the rows of x, or of h or r * h, are made what they are multiplied as.
template <class S, class Step> CGRU_INLINE void prepare_inputs(const PackedLayer& layer, const Step& step) {
    for (int64_t r = step.first_row; S::narrow && r < step.last_row; ++r)
        S::prepare(step.x[r], layer.inputs, layer.input.limit, step.narrow_x, r);
}
template <class S>
CGRU_INLINE void prepare_states(const PackedLayer& layer, const PackedStep& step, const float* state) {
    for (int64_t r = step.first_row; S::narrow && r < step.last_row; ++r)
        S::prepare(state + r * step.stride, layer.hidden, layer.recurrent.limit, step.narrow_state, r);
}

// sums += the products of a storage; of large weights, which lie beyond the second-level cache, or of others.
template <class S, bool large> struct Adding {
    template <class... Of> static CGRU_MEMBER void run(Of&... of) { S::add(of...); }
};
template <class S> struct Adding<S, true> {
    template <class... Of> static CGRU_MEMBER void run(Of&... of) { S::add_large(of...); }
};

// sums += W x of all G gates
template <class S, bool large, class Step, int R, int B, int G>
CGRU_INLINE void add_input(const Tile<R, B>& tile, const PackedLayer& layer, const Step& step,
                           FloatVector (&sums)[R][B][G]) {
    typename S::Row rows[R];
    Block<S> blocks[B];
    CGRU_UNROLL for (int r = 0; r < R; ++r) rows[r] = S::row(step.x[tile.row + r], step.narrow_x, tile.row + r);
    CGRU_UNROLL for (int b = 0; b < B; ++b) blocks[b] = input_block<S, G>(layer, tile.block + b);
    Adding<S, large>::run(sums, blocks, rows, layer.inputs);
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
template <class S, bool from_input, bool large = false> struct Start;
template <class S, bool large> struct Start<S, true, large> {
    template <int all, int first, int R, int B, int G>
    static CGRU_MEMBER void sums(const Tile<R, B>& tile, const PackedLayer& layer, const PackedStep& step,
                                 FloatVector (&sums)[R][B][G]) {
        static_assert(all == G && first == 0, "from x all gates are computed at once");
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    sums[r][b][g] = load<float>(layer.bias + ((tile.block + b) * G + g) * lanes);
        add_input<S, large>(tile, layer, step, sums);
    }
};
template <class S> struct Start<S, false, false> {
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
template <class S, int G, bool large> struct InputProduct {
    const PackedLayer& layer;
    const PackedStep& step;

    InputProduct(const PackedLayer& layer, const PackedStep& step) : layer(layer), step(step) {
        prepare_inputs<S>(layer, step);
    }
    template <int R, int B> CGRU_MEMBER void run(const Tile<R, B>& tile) {
        FloatVector sums[R][B][G];
        Start<S, true, large>::template sums<G, 0>(tile, layer, step, sums);
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    store<float>(step.products + (tile.row + r) * layer.blocks * G * lanes +
                                     ((tile.block + b) * G + g) * lanes, sums[r][b][g]);
    }
    void finish() {}
};

// The products of tiles that wait for what follows them. That is a chain of operations, each of which waits for the one
// before; so the products of several tiles are made first, and then come the gates of all, and then the candidates.
template <class Phase> struct Waiting {
    static const int places = 16;
    float sums[places][Phase::gates][lanes];
    float kept[places][Phase::kept + !Phase::kept][lanes];
    float gates[places][2][lanes];
    Units at[places];
    int count = 0;

    template <int N> CGRU_MEMBER void find(int first, FloatVector (&of)[Phase::gates][N], Units (&units)[N]) const {
        CGRU_UNROLL for (int g = 0; g < Phase::gates; ++g) CGRU_EACH(i, N) of[g][i] = load<float>(sums[first + i][g]);
        CGRU_EACH(i, N) units[i] = at[first + i];
    }
};

// A block's units of a row.
CGRU_INLINE Units units_at(const PackedStep& step, int64_t row, int64_t block) {
    return {row, block * lanes, row * step.stride + block * lanes};
}

// Gates and candidates of N vectors, from registers.
template <class Phase, int N, class F>
CGRU_INLINE void finish_at_once(const Units (&at)[N], const PackedLayer& layer, const PackedStep& step, const F& f,
                                FloatVector (&sums)[Phase::gates][N], const float (*kept)[1][lanes]) {
    FloatVector argument[N], z[N];
    Phase::gate(at, step, f, sums, kept, argument, z);
    Phase::state(at, layer, step, f, argument, z);
}

template <class Phase, class F>
static CGRU_NOINLINE void finish_waiting(Waiting<Phase>& waiting, const PackedLayer& layer, const PackedStep& step,
                                         const F& f) {
    const int N = side_by_side;
    const int count = waiting.count;
    waiting.count = 0;
    if (count < N) {
        CGRU_LOOP for (int i = 0; i < count; ++i) {
            FloatVector sums[Phase::gates][1];
            Units at[1];
            waiting.find(i, sums, at);
            finish_at_once<Phase>(at, layer, step, f, sums, waiting.kept + i);
        }
        return;
    }
    // call(first) for N places at a time; the last ones may have been among those before
    const auto each = [&](auto call) CGRU_LAMBDA {
        CGRU_LOOP for (int first = 0; first < count; first += N) call(first + N <= count ? first : count - N);
    };
    each([&](int first) CGRU_LAMBDA {
        FloatVector sums[Phase::gates][N], argument[N], z[N];
        Units at[N];
        waiting.find(first, sums, at);
        Phase::gate(at, step, f, sums, waiting.kept + first, argument, z);
        CGRU_EACH(i, N) store<float>(waiting.gates[first + i][0], argument[i]);
        CGRU_EACH(i, N) store<float>(waiting.gates[first + i][1], z[i]);
    });
    each([&](int first) CGRU_LAMBDA {
        FloatVector argument[N], z[N];
        Units at[N];
        CGRU_EACH(i, N) argument[i] = load<float>(waiting.gates[first + i][0]);
        CGRU_EACH(i, N) z[i] = load<float>(waiting.gates[first + i][1]);
        CGRU_EACH(i, N) at[i] = waiting.at[first + i];
        Phase::state(at, layer, step, f, argument, z);
    });
}

// The functions of a layer, found out where they are called: for tiles that wait all the same, so that their code is
// there once and not for the usual layer and any other.
struct Either {
    static const bool compiled = false;
};

// What waits is finished with a layer's functions.
template <class Phase, class F> struct Finish {
    static void run(Waiting<Phase>& waiting, const PackedLayer& layer, const PackedStep& step) {
        finish_waiting(waiting, layer, step, F(layer));
    }
};
template <class Phase> struct Finish<Phase, Either> {
    static void run(Waiting<Phase>& waiting, const PackedLayer& layer, const PackedStep& step) {
        typedef typename Phase::template Functions<float> OfUsual;
        if (layer.usual)
            finish_waiting(waiting, layer, step, OfUsual(layer));
        else
            finish_waiting(waiting, layer, step, Any<float>(layer));
    }
};

// A phase of a step, from x itself (all gates) or from the input products; tile by tile, and `finish` behind the last.
template <class S, class Phase, bool from_input, class F> struct StepPhase {
    const PackedLayer& layer;
    const PackedStep& step;
    Waiting<Phase> waiting;

    StepPhase(const PackedLayer& layer, const PackedStep& step) : layer(layer), step(step) {
        if (from_input) prepare_inputs<S>(layer, step);
        if (Phase::recurrent) prepare_states<S>(layer, step, Phase::operand(step));
    }
    template <int R, int B> CGRU_MEMBER void run(const Tile<R, B>& tile) {
        if (waiting.count + R * B > waiting.places) finish();
        FloatVector sums[R][B][Phase::gates];
        Start<S, from_input>::template sums<Phase::all, Phase::first>(tile, layer, step, sums);
        Phase::keep(tile, layer, sums, waiting.kept + waiting.count);
        if (Phase::kept) keep_in_memory(waiting.kept);
        if (Phase::recurrent) add_recurrent<S, Phase>(tile, layer, step, sums);
        place(tile, sums, std::integral_constant<bool, R == 1 && F::compiled && std::is_same<S, Float32>::value>());
    }
    // Tiles wait.
    template <int R, int B>
    CGRU_MEMBER void place(const Tile<R, B>& tile, const FloatVector (&sums)[R][B][Phase::gates], std::false_type) {
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b) {
                waiting.at[waiting.count + r * B + b] = units_at(step, tile.row + r, tile.block + b);
                CGRU_UNROLL for (int g = 0; g < Phase::gates; ++g)
                    store<float>(waiting.sums[waiting.count + r * B + b][g], sums[r][b][g]);
            }
        waiting.count += R * B;
    }
    // Those of a single row are small enough that the next one's products run beside their gates: no time to lose. That
    // is much code; so it is there for the usual layer alone.
    template <int B>
    CGRU_MEMBER void place(const Tile<1, B>& tile, const FloatVector (&sums)[1][B][Phase::gates], std::true_type) {
        FloatVector of[Phase::gates][B];
        Units at[B];
        CGRU_UNROLL for (int g = 0; g < Phase::gates; ++g) CGRU_EACH(b, B) of[g][b] = sums[0][b][g];
        CGRU_EACH(b, B) at[b] = units_at(step, tile.row, tile.block + b);
        finish_at_once<Phase>(at, layer, step, F(layer), of, waiting.kept + waiting.count);
    }
    void finish() { Finish<Phase, F>::run(waiting, layer, step); }
};

// A kernel over all tiles of [first_row, last_row) x [first_block, last_block). Many rows go a block at a time, so that
// its weights stay in the nearest cache for all of them; the last rows, fewer than four, go a few blocks at a time.
// Blocks are taken upwards or downwards: alternating from step to step meets in the cache what the step before left
// there.
template <class Kernel, class Step>
static void run_tiles(const PackedLayer& layer, const Step& step) {
    Kernel kernel(layer, step);
    const int64_t whole = step.last_row - (step.last_row - step.first_row) % tile_rows;
    const int64_t blocks = step.last_block - step.first_block;
    const auto each_block = [&](auto call) CGRU_LAMBDA {
        for (int64_t i = 0; i < blocks; ++i) call(step.downwards ? step.last_block - 1 - i : step.first_block + i);
    };
    if (step.first_row < whole)
        each_block([&](int64_t block) CGRU_LAMBDA {
            for (int64_t row = step.first_row; row < whole; row += tile_rows)
                kernel.run(Tile<tile_rows, 1>{row, block});
        });
    int64_t row = whole;
    if (tile_rows > 4 && row + 4 <= step.last_row) {
        each_block([&](int64_t block) CGRU_LAMBDA { kernel.run(Tile<4, 1>{row, block}); });
        row += 4;
    }
    for (; row + 2 <= step.last_row; row += 2) {
        int64_t block = step.first_block;
        for (; block + 2 <= step.last_block; block += 2) kernel.run(Tile<2, 2>{row, block});
        for (; block < step.last_block; ++block) kernel.run(Tile<2, 1>{row, block});
    }
    if (row < step.last_row && one_tile && blocks == 4)
        kernel.run(Tile<1, 4>{row, step.first_block});
    else
        for (int64_t done = 0; row < step.last_row && done < blocks;) {
            const int64_t left = blocks - done, size = left == 3 || left < tile_blocks ? left : tile_blocks;
            const int64_t block = step.downwards ? step.last_block - done - size : step.first_block + done;
            if (size == 3)
                kernel.run(Tile<1, 3>{row, block});
            else if (size == tile_blocks)
                kernel.run(Tile<1, tile_blocks>{row, block});
            else
                kernel.run(Tile<1, 1>{row, block});
            done += size;
        }
    kernel.finish();
}

// The kernels of the table.
template <class S, class Phase, bool from_input>
static void run_phase(const PackedLayer& layer, const PackedStep& step) {
    typedef typename Phase::template Functions<float> OfUsual;
    typedef std::is_same<S, Float32> InRegisters;  // those of the usual layer, of a single row
    typedef typename std::conditional<InRegisters::value, OfUsual, Either>::type OfSingle;
    (layer.usual ? run_tiles<StepPhase<S, Phase, from_input, OfSingle>, PackedStep>
                 : run_tiles<StepPhase<S, Phase, from_input, Either>, PackedStep>)(layer, step);
}

template <class S, int gates> static void input_product(const PackedLayer& layer, const PackedStep& step) {
    const bool fetches = weights_ahead > 0 && !S::narrow && !S::sparse;
    const bool large = layer.blocks * layer.inputs * gates * lanes * S::bytes > large_weights;
    if (large)
        run_tiles<InputProduct<S, gates, fetches>>(layer, step);
    else
        run_tiles<InputProduct<S, gates, false>>(layer, step);
}

}  // namespace CGRU_SET
}  // namespace cgru

// The machine's vectors, under one set of names: Vector<float> and Vector<double> with the operations the kernels use.
// The build names the instruction set, CGRU_SET; its header has all that differs by machine, and no kernel mentions
// one.
//
// Arithmetic on vectors is written with ordinary operators (GCC's and clang's vector extensions). The plain set has one
// lane and is ordinary C++. Only `fma` differs between sets: it is one rounding where the machine has the instruction,
// two where it has not, and never left to the compiler's choice (the build sets -ffp-contract=off), so that the same
// text gives the same bits wherever it is inlined.
//
// A set's header gives: vectors and their lanes, tile_rows, fma, at_least, at_most, widen_halves, IntegerProducts,
// opaque, and PairProducts where the machine has instructions for them; SparseBlock where there are more than 8 lanes.
#pragma once

#include "compiler.h"
#include CGRU_QUOTE(CGRU_SET.h)

namespace cgru {
namespace CGRU_SET {

static const int lanes = Vector<float>::lanes;

#if !defined(CGRU_OWN_PAIR_PRODUCTS)
// sums + x[0] w[0] + x[1] w[1] in every lane, of bfloat16 in the low and the high half; one product after the other.
struct PairProducts {
    static constexpr double rate = 1;  // beside that of float32
    static CGRU_MEMBER FloatVector add(FloatVector sums, FloatBits x, FloatBits w) {
        sums = fma(widen_pair<0>(w), widen_pair<0>(x), sums);
        return fma(widen_pair<1>(w), widen_pair<1>(x), sums);
    }
};
#endif

#if !defined(CGRU_OWN_SPARSE_BLOCK)
// A block of sparse weights (storage/sparse.h): so many units by four inputs, one vector an input.
struct SparseBlock {
    static const int units = lanes, vectors = 4, parts = 1;
    // x[0] for the lanes of the first vector, and so on
    static CGRU_MEMBER void spread(const float* x, FloatVector (&inputs)[4]) {
        CGRU_UNROLL for (int k = 0; k < 4; ++k) inputs[k] = broadcast<float>(x[k]);
    }
    // The sums of all inputs, of all units of a vector.
    static CGRU_MEMBER FloatVector total(const FloatVector (&sums)[1][4]) {
        return (sums[0][0] + sums[0][1]) + (sums[0][2] + sums[0][3]);
    }
    // Of int8: all lanes the four bytes of a block's inputs; there is a block a vector.
    static CGRU_MEMBER IntegerVector spread(const uint8_t* x, const int32_t* inputs) {
        int32_t four;
        memcpy(&four, x + inputs[0], sizeof four);
        return four + IntegerVector{};
    }
    static CGRU_MEMBER IntegerVector total(const IntegerVector (&sums)[1]) { return sums[0]; }
};
#endif

}  // namespace CGRU_SET
}  // namespace cgru

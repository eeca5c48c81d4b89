// The machine's vectors, under one set of names: Vector<float> and Vector<double> with the operations the kernels use.
// The build names the instruction set, CGRU_SET; its header has all that differs by machine, and no kernel mentions
// one.
//
// Arithmetic on vectors is written with ordinary operators (GCC's and clang's vector extensions). The plain set has one
// lane and is ordinary C++. Only `fma` differs between sets: it is one rounding where the machine has the instruction,
// two where it has not, and never left to the compiler's choice (the build sets -ffp-contract=off), so that the same
// text gives the same bits wherever it is inlined.
//
// A set's header gives: vectors and their lanes, tile_rows, weights_ahead, fma, at_least, at_most, widen_halves,
// IntegerProducts, opaque; and PairProducts, SparseProducts, low_bytes, load_first and pick_lanes where they differ
// from what is here and in operations.h. SparseBlock for 16 lanes is in eights.h.
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

#if !defined(CGRU_OWN_SPARSE_PRODUCTS)
typedef IntegerProducts SparseProducts;
#endif

#if CGRU_VECTOR_BYTES != 64
// What a block of sparse weights is multiplied as (storage/sparse.h): the units of one vector, or, with 16 lanes, of
// half of one.
struct SparseBlock {
    static const int units = lanes, parts = 1;
    typedef FloatVector Floats;
    typedef IntegerVector Integers;
    static CGRU_MEMBER Floats add(Floats sums, float x, Floats w) { return fma(w, broadcast<float>(x), sums); }
    static CGRU_MEMBER Integers add(Integers sums, const uint8_t* x, Integers w) {
        return SparseProducts::add(sums, SparseProducts::inputs(x, 0), w);
    }
    static CGRU_MEMBER FloatVector joined(const Floats (&parts)[1]) { return parts[0]; }
    static CGRU_MEMBER IntegerVector joined(const Integers (&parts)[1]) { return parts[0]; }
};
#endif

}  // namespace CGRU_SET
}  // namespace cgru

#if CGRU_VECTOR_BYTES == 64
#include "eights.h"
#endif

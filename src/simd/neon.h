// NEON, which every AArch64 has: 4 lanes, 32 registers.
#pragma once

#include <arm_neon.h>

#define CGRU_VECTOR_BYTES 16
#include "vector_types.h"
#include "operations.h"
#include "without.h"

namespace cgru {
namespace CGRU_SET {

// Rows of the tiles for many rows: three sums a row, and three vectors of weights, must fit the registers.
static const int tile_rows = 8;
static const int weights_ahead = 0;  // the processor does it by itself

// a * b + c
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) {
    return (FloatVector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) {
    return (DoubleVector)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}

// The larger, or smaller, of a bound and x; a NaN in x stays.
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return larger_of(bound, x); }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return smaller_of(bound, x); }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return larger_of(bound, x); }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return smaller_of(bound, x); }

// Numbers of float16 as float32.
CGRU_INLINE FloatVector widen_halves(const uint16_t* p) {
    return (FloatVector)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}

#if !defined(CGRU_OWN_INTEGER_PRODUCTS)  // those of a part of this set
// sum += x[0] w[0] + ... + x[3] w[3] in every lane. Two products are within 127 * 128 * 2, so 16 bits hold them.
struct IntegerProducts : ByteInputs {
    static constexpr double rate = 1;  // beside that of float32
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, IntegerVector x, IntegerVector w) {
        const int8x16_t weights = (int8x16_t)w;
        const int8x8_t inputs = vget_low_s8((int8x16_t)x);
        const int16x8_t low = vmull_s8(vget_low_s8(weights), inputs), high = vmull_s8(vget_high_s8(weights), inputs);
        return (IntegerVector)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
    }
};
#endif

// Make the compiler compute a value, and forget what it knows of it.
CGRU_INLINE void opaque(FloatVector& x) { __asm__ volatile("" : "+w"(x)); }

}  // namespace CGRU_SET
}  // namespace cgru

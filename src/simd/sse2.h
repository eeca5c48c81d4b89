// SSE2, which every x86-64 has: 4 lanes, 16 registers, no multiply-add.
#pragma once

#include <immintrin.h>

#define CGRU_VECTOR_BYTES 16
#include "vector_types.h"
#include "operations.h"
#include "without.h"

namespace cgru {
namespace CGRU_SET {

// Rows of the tiles for many rows: three sums a row, and three vectors of weights, must fit the registers.
static const int tile_rows = 4;
static const int weights_ahead = 0;  // the processor does it by itself

// a * b + c
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) { return multiply_and_add(a, b, c); }
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) { return multiply_and_add(a, b, c); }

// The larger, or smaller, of a bound and x; a NaN in x stays.
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return _mm_max_ps(bound, x); }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return _mm_min_ps(bound, x); }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return larger_of(bound, x); }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return smaller_of(bound, x); }

// Numbers of float16 as float32.
CGRU_INLINE FloatVector widen_halves(const uint16_t* p) { return widen_by_integers(p); }

// sum += x[0] w[0] + ... + x[3] w[3] in every lane, of bytes with a sign; x has `offset` added to each.
// 16-bit numbers, of two lanes at once; then the halves of every lane's sum side by side.
struct IntegerProducts {
    static const int offset = 0;
    static constexpr double rate = 0.5;  // beside that of float32
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, IntegerVector x, IntegerVector w) {
        const __m128i weights = (__m128i)w, inputs = (__m128i)x;
        const __m128i wide = _mm_srai_epi16(_mm_unpacklo_epi8(inputs, inputs), 8);
        const __m128 low = (__m128)_mm_madd_epi16(_mm_srai_epi16(_mm_unpacklo_epi8(weights, weights), 8), wide);
        const __m128 high = (__m128)_mm_madd_epi16(_mm_srai_epi16(_mm_unpackhi_epi8(weights, weights), 8), wide);
        const __m128 even = _mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0));
        const __m128 odd = _mm_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1));
        return sum + (IntegerVector)even + (IntegerVector)odd;
    }
};

// Make the compiler compute a value, and forget what it knows of it.
CGRU_INLINE void opaque(FloatVector& x) { __asm__ volatile("" : "+x"(x)); }

}  // namespace CGRU_SET
}  // namespace cgru

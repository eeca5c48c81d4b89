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

// sum += x[0] w[0] + ... + x[3] w[3] in every lane.
// The even bytes of all lanes as 16-bit numbers, and the odd ones, are multiplied apart: a lane's products stay in it.
struct IntegerProducts : ByteInputs {
    static constexpr double rate = 1;  // beside that of float32
    struct Inputs {
        __m128i even, odd;
    };
    static CGRU_MEMBER Inputs apart(IntegerVector bytes) {
        const __m128i all = (__m128i)bytes;
        return {_mm_srai_epi16(_mm_slli_epi16(all, 8), 8), _mm_srai_epi16(all, 8)};
    }
    static CGRU_MEMBER Inputs inputs(const uint8_t* row, int64_t k) { return apart(broadcast_bytes(row + k)); }
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, const Inputs& x, IntegerVector w) {
        const Inputs weights = apart(w);
        sum += (IntegerVector)_mm_madd_epi16(weights.even, x.even);
        return sum + (IntegerVector)_mm_madd_epi16(weights.odd, x.odd);
    }
};

// Make the compiler compute a value, and forget what it knows of it.
CGRU_INLINE void opaque(FloatVector& x) { __asm__ volatile("" : "+x"(x)); }

}  // namespace CGRU_SET
}  // namespace cgru

// AVX-512, with the extensions that came with Skylake: 16 lanes, 32 registers.
#pragma once

#include <immintrin.h>

#define CGRU_VECTOR_BYTES 64
#include "vector_types.h"
#include "operations.h"
#include "without.h"

namespace cgru {
namespace CGRU_SET {

// Rows of the tiles for many rows: three sums a row, and three vectors of weights, must fit the registers.
static const int tile_rows = 8;

// a * b + c
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) { return _mm512_fmadd_ps(a, b, c); }
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) { return _mm512_fmadd_pd(a, b, c); }

// The larger, or smaller, of a bound and x; a NaN in x stays.
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return _mm512_max_ps(bound, x); }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return _mm512_min_ps(bound, x); }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return _mm512_max_pd(bound, x); }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return _mm512_min_pd(bound, x); }

// Numbers of float16 as float32.
CGRU_INLINE FloatVector widen_halves(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

#if !defined(CGRU_OWN_INTEGER_PRODUCTS)  // those of a part of this set
// sum += x[0] w[0] + ... + x[3] w[3] in every lane, of bytes with a sign; x has `offset` added to each.
// The instruction takes unsigned by signed numbers: |w| by x with the sign of w. Two products are within 16 bits.
struct IntegerProducts {
    static const int offset = 0;
    static constexpr double rate = 1;  // beside that of float32
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, IntegerVector x, IntegerVector w) {
        const __m512i weights = (__m512i)w, inputs = (__m512i)x;
        const __m512i turned =
            _mm512_mask_sub_epi8(inputs, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), inputs);
        const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights), turned);
        return sum + (IntegerVector)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
    }
};
#endif

// A block of sparse weights (storage/sparse.h): eight units by four inputs, two inputs a vector.
#define CGRU_OWN_SPARSE_BLOCK
struct SparseBlock {
    static const int units = 8, vectors = 2, parts = 2;
    // x[0] for the first eight lanes of the first vector, x[1] for the others, and so on
    static CGRU_MEMBER void spread(const float* x, FloatVector (&inputs)[2]) {
        const __m512 four = _mm512_broadcast_f32x4(_mm_loadu_ps(x));
        const __m512i first = _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1);
        inputs[0] = _mm512_permutevar_ps(four, first);
        inputs[1] = _mm512_permutevar_ps(four, _mm512_add_epi32(first, _mm512_set1_epi32(2)));
    }
    // The sums of all inputs, of all units of a vector.
    static CGRU_MEMBER FloatVector total(const FloatVector (&sums)[2][2]) {
        const __m512 low = sums[0][0] + sums[0][1], high = sums[1][0] + sums[1][1];
        return _mm512_shuffle_f32x4(low, high, 0x44) + _mm512_shuffle_f32x4(low, high, 0xee);
    }
    // Of int8: for the first eight lanes the four bytes of a block's inputs, for the others those of the next one's.
    static CGRU_MEMBER IntegerVector spread(const uint8_t* x, const int32_t* inputs) {
        int32_t first, second;
        memcpy(&first, x + inputs[0], sizeof first);
        memcpy(&second, x + inputs[1], sizeof second);
        return (IntegerVector)_mm512_inserti64x4(_mm512_set1_epi32(first), _mm256_set1_epi32(second), 1);
    }
    static CGRU_MEMBER IntegerVector total(const IntegerVector (&sums)[2]) {
        const __m512i low = (__m512i)sums[0], high = (__m512i)sums[1];
        return (IntegerVector)_mm512_shuffle_i32x4(low, high, 0x44) +
               (IntegerVector)_mm512_shuffle_i32x4(low, high, 0xee);
    }
};

// Make the compiler compute a value, and forget what it knows of it.
CGRU_INLINE void opaque(FloatVector& x) { __asm__ volatile("" : "+v"(x)); }

}  // namespace CGRU_SET
}  // namespace cgru

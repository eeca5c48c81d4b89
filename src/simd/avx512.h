// AVX-512, with the extensions that came with Skylake: 16 lanes, 32 registers.
#pragma once

#include <immintrin.h>

#define CGRU_VECTOR_BYTES 64
#define CGRU_OWN_PARTS
#define CGRU_OWN_PICKED_LANES
#include "vector_types.h"
#include "operations.h"
#include "without.h"
#include "turned.h"

namespace cgru {
namespace CGRU_SET {

// Rows of the tiles for many rows: three sums a row, and three vectors of weights, must fit the registers.
static const int tile_rows = 8;
static const int weights_ahead = 0;  // the processor does it by itself

// a * b + c
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) { return _mm512_fmadd_ps(a, b, c); }
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) { return _mm512_fmadd_pd(a, b, c); }

// The larger, or smaller, of a bound and x; a NaN in x stays.
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return _mm512_max_ps(bound, x); }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return _mm512_min_ps(bound, x); }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return _mm512_max_pd(bound, x); }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return _mm512_min_pd(bound, x); }

// The first lanes of a vector, from none to all.
CGRU_INLINE __mmask16 first_lanes(int64_t count) { return __mmask16((1u << count) - 1); }
CGRU_INLINE FloatVector load_first(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(first_lanes(count), p);
}
CGRU_INLINE DoubleVector load_first(const double* p, int64_t count) {
    return _mm512_maskz_loadu_pd(__mmask8(first_lanes(count)), p);
}
CGRU_INLINE void store_first(float* p, FloatVector x, int64_t count) {
    _mm512_mask_storeu_ps(p, first_lanes(count), x);
}
CGRU_INLINE void store_first(double* p, DoubleVector x, int64_t count) {
    _mm512_mask_storeu_pd(p, __mmask8(first_lanes(count)), x);
}

// In every lane the one of x that an index names.
CGRU_INLINE FloatVector pick_lanes(FloatVector x, IntegerVector index) {
    return _mm512_permutexvar_ps((__m512i)index, x);
}

// Numbers of float16 as float32.
CGRU_INLINE FloatVector widen_halves(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

#if !defined(CGRU_OWN_INTEGER_PRODUCTS)  // those of a part of this set
// sum += x[0] w[0] + ... + x[3] w[3] in every lane.
struct IntegerProducts : TurnedInputs {
    static constexpr double rate = 2;  // beside that of float32
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, const Inputs& x, IntegerVector w) {
        const __m512i pairs = _mm512_maddubs_epi16((__m512i)x.sizes, (__m512i)(w ^ x.signs));
        return sum + (IntegerVector)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
    }
};

// The same for sparse weights, of eight lanes: their rows are read with gaps and owe nothing. |w| by x with the sign
// of w.
#define CGRU_OWN_SPARSE_PRODUCTS
struct SparseProducts : ByteInputs {
    static constexpr double rate = 1;
    static CGRU_MEMBER __m256i add(__m256i sum, __m256i x, __m256i w) {
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
        return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
};
#endif

// Make the compiler compute a value, and forget what it knows of it.
CGRU_INLINE void opaque(FloatVector& x) { __asm__ volatile("" : "+v"(x)); }

}  // namespace CGRU_SET
}  // namespace cgru

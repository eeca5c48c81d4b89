// AVX2 with multiply-adds and conversions of halves (Haswell): 8 lanes, 16 registers.
#pragma once

#include <immintrin.h>

#define CGRU_VECTOR_BYTES 32
#define CGRU_OWN_PARTS
#define CGRU_OWN_LOW_BYTES
#define CGRU_OWN_PICKED_LANES
#include "vector_types.h"
#include "operations.h"
#include "without.h"
#include "turned.h"

namespace cgru {
namespace CGRU_SET {

// Rows of the tiles for many rows: three sums a row, and three vectors of weights, must fit the registers.
static const int tile_rows = 4;

// Units of large weights' memory that tiles of many rows fetch ahead: from memory that is far a processor reads only a
// few lines at once by itself, as there are few loads among their multiply-adds.
static const int weights_ahead = 24;

// a * b + c
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) { return _mm256_fmadd_ps(a, b, c); }
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) { return _mm256_fmadd_pd(a, b, c); }

// The larger, or smaller, of a bound and x; a NaN in x stays.
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return _mm256_max_ps(bound, x); }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return _mm256_min_ps(bound, x); }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return _mm256_max_pd(bound, x); }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return _mm256_min_pd(bound, x); }

// The first lanes of a vector, from none to all.
static const int32_t all_and_none[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
CGRU_INLINE __m256i first_lanes(int64_t count, int64_t bytes) {
    const char* middle = reinterpret_cast<const char*>(all_and_none + 8);
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(middle - count * bytes));
}
CGRU_INLINE FloatVector load_first(const float* p, int64_t count) {
    return _mm256_maskload_ps(p, first_lanes(count, 4));
}
CGRU_INLINE DoubleVector load_first(const double* p, int64_t count) {
    return _mm256_maskload_pd(p, first_lanes(count, 8));
}
CGRU_INLINE void store_first(float* p, FloatVector x, int64_t count) {
    _mm256_maskstore_ps(p, first_lanes(count, 4), x);
}
CGRU_INLINE void store_first(double* p, DoubleVector x, int64_t count) {
    _mm256_maskstore_pd(p, first_lanes(count, 8), x);
}

// In every lane the one of x that an index names.
CGRU_INLINE FloatVector pick_lanes(FloatVector x, IntegerVector index) {
    return _mm256_permutevar8x32_ps(x, (__m256i)index);
}

// Numbers of float16 as float32.
CGRU_INLINE FloatVector widen_halves(const uint16_t* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// The lowest byte of each integer. Compilers take them out one by one.
CGRU_INLINE ByteVector low_bytes(FloatBits x) {
    const __m256i low = _mm256_set1_epi32(0x0c080400), fours = _mm256_shuffle_epi8((__m256i)x, low);
    const __m128i all = _mm_unpacklo_epi32(_mm256_castsi256_si128(fours), _mm256_extracti128_si256(fours, 1));
    ByteVector bytes;
    memcpy(&bytes, &all, sizeof bytes);
    return bytes;
}

// sum += x[0] w[0] + ... + x[3] w[3] in every lane.
struct IntegerProducts : TurnedInputs {
    static constexpr double rate = 2;  // beside that of float32
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, const Inputs& x, IntegerVector w) {
        const __m256i pairs = _mm256_maddubs_epi16((__m256i)x.sizes, (__m256i)(w ^ x.signs));
        return sum + (IntegerVector)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
};

// The same for sparse weights, whose rows are read with gaps and owe nothing: |w| by x with the sign of w.
#define CGRU_OWN_SPARSE_PRODUCTS
struct SparseProducts : ByteInputs {
    static constexpr double rate = 1;
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, const Inputs& x, IntegerVector w) {
        const __m256i weights = (__m256i)w;
        const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8((__m256i)x, weights));
        return sum + (IntegerVector)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
};

// Make the compiler compute a value, and forget what it knows of it.
CGRU_INLINE void opaque(FloatVector& x) { __asm__ volatile("" : "+x"(x)); }

}  // namespace CGRU_SET
}  // namespace cgru

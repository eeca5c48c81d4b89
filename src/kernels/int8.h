// Products of integers: weights of int8 with inputs or states that were made integers from -127 to 127.
//
// The weights of four inputs k ... k + 3 to a gate's lane share 32 bits, and so do the four numbers of a row that meet
// them; `add_products` adds their four products to a lane's sum. Sums are exact, so they are the same on every machine and
// in any order; they become floats, times the scales of row and weight, when all inputs have been added.
#pragma once

#include "storage.h"

namespace cgru {
namespace CGRU_NAMESPACE {

static const float largest_integer = 127;
static const float least_bound = 1e-30f;  // where all numbers of a row are smaller than this, they count as zero

CGRU_INLINE IntegerVector load_integers(const void* p) {
    IntegerVector r;
    memcpy(&r, p, sizeof r);
    return r;
}

// All lanes the four bytes at p.
CGRU_INLINE IntegerVector broadcast_bytes(const uint8_t* p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return four + IntegerVector{};
}

// sum += x[0] w[0] + ... + x[3] w[3] in every lane; x offset by `input_offset`
#if defined(CGRU_AVX512VNNI)

static const int input_offset = 128;  // the instruction takes unsigned inputs
static constexpr double integer_rate = 4;
CGRU_INLINE IntegerVector add_products(IntegerVector sum, IntegerVector x, IntegerVector w) {
    return (IntegerVector)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
}

#elif defined(CGRU_NEONDOT)

static const int input_offset = 0;
static constexpr double integer_rate = 4;
CGRU_INLINE IntegerVector add_products(IntegerVector sum, IntegerVector x, IntegerVector w) {
    return (IntegerVector)vdotq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)w);
}

#elif defined(CGRU_AVX512)

// The instruction takes unsigned by signed numbers: |w| by x with the sign of w. Two products are within 16 bits.
static const int input_offset = 0;
static constexpr double integer_rate = 1;
CGRU_INLINE IntegerVector add_products(IntegerVector sum, IntegerVector x, IntegerVector w) {
    const __m512i weights = (__m512i)w, inputs = (__m512i)x;
    const __m512i turned = _mm512_mask_sub_epi8(inputs, _mm512_movepi8_mask(weights), _mm512_setzero_si512(), inputs);
    const __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(weights), turned);
    return sum + (IntegerVector)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
}

#elif defined(CGRU_AVX2)

// As above.
static const int input_offset = 0;
static constexpr double integer_rate = 1;
CGRU_INLINE IntegerVector add_products(IntegerVector sum, IntegerVector x, IntegerVector w) {
    const __m256i weights = (__m256i)w;
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8((__m256i)x, weights));
    return sum + (IntegerVector)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

#elif defined(CGRU_SSE2)

// 16-bit numbers, of two lanes at once; then the halves of every lane's sum side by side.
static const int input_offset = 0;
static constexpr double integer_rate = 0.5;
CGRU_INLINE IntegerVector add_products(IntegerVector sum, IntegerVector x, IntegerVector w) {
    const __m128i weights = (__m128i)w, inputs = (__m128i)x;
    const __m128i wide = _mm_srai_epi16(_mm_unpacklo_epi8(inputs, inputs), 8);
    const __m128 low = (__m128)_mm_madd_epi16(_mm_srai_epi16(_mm_unpacklo_epi8(weights, weights), 8), wide);
    const __m128 high = (__m128)_mm_madd_epi16(_mm_srai_epi16(_mm_unpackhi_epi8(weights, weights), 8), wide);
    const __m128 even = _mm_shuffle_ps(low, high, _MM_SHUFFLE(2, 0, 2, 0));
    const __m128 odd = _mm_shuffle_ps(low, high, _MM_SHUFFLE(3, 1, 3, 1));
    return sum + (IntegerVector)even + (IntegerVector)odd;
}

#elif defined(CGRU_NEON)

static const int input_offset = 0;
static constexpr double integer_rate = 1;
CGRU_INLINE IntegerVector add_products(IntegerVector sum, IntegerVector x, IntegerVector w) {
    const int8x16_t weights = (int8x16_t)w;
    const int8x8_t inputs = vget_low_s8((int8x16_t)x);
    const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(weights), inputs));
    const int32x4_t high = vpaddlq_s16(vmull_s8(vget_high_s8(weights), inputs));
    return sum + (IntegerVector)vpaddq_s32(low, high);
}

#else

static const int input_offset = 0;
static constexpr double integer_rate = 0.5;
CGRU_INLINE IntegerVector add_products(IntegerVector sum, IntegerVector x, IntegerVector w) {
    for (int shift = 0; shift < 32; shift += 8) sum += int8_t(uint32_t(x) >> shift) * int8_t(uint32_t(w) >> shift);
    return sum;
}

#endif

struct Int8 {
    typedef uint32_t Unit;
    static const int inputs = 4;
    static constexpr double bytes = 1, rate = integer_rate;
    static const int offset = input_offset;
};

// A row of float numbers as integers, so that its largest magnitude becomes 127, or the limit, which larger ones do, too.
// Returns the scale. `bytes` has room for whole vectors.
static float make_integers(const float* numbers, int64_t count, float limit, uint8_t* bytes) {
    const int lanes = Vector<float>::lanes;
    const int64_t whole = count - count % lanes;
    // Without their sign, the bits of floats are in the order of their sizes, and infinity and NaN above all.
    IntegerVector sizes{};
    const auto measure = [&](FloatVector x) {
        const IntegerVector size = (IntegerVector)(bits_of(x) & 0x7fffffffu);
        sizes = size > sizes ? size : sizes;
    };
    for (int64_t k = 0; k < whole; k += lanes) measure(load<float>(numbers + k));
    if (whole < count) measure(load<float>(numbers + whole, count - whole));
    int32_t size_of[Vector<float>::lanes], largest = 0;
    memcpy(size_of, &sizes, sizeof sizes);
    for (int i = 0; i < lanes; ++i) largest = size_of[i] > largest ? size_of[i] : largest;
    const bool finite = largest < 0x7f800000;
    float bound;
    memcpy(&bound, &largest, sizeof bound);
    bound = bound < limit ? bound : limit;
    bound = bound > least_bound ? bound : least_bound;
    // Adding 1.5 * 2^23 rounds a small number and leaves it in the low bits.
    const float round = 12582912.0f;
    const float factor = finite ? largest_integer / bound : 0.0f;
    const FloatVector low = broadcast<float>(-largest_integer), high = broadcast<float>(largest_integer);
    const auto write = [&](FloatVector x, int64_t k) {
        const FloatVector rounded = at_most(high, at_least(low, x * factor)) + round;
        const ByteVector result = low_bytes(bits_of(rounded) + uint32_t(input_offset));
        memcpy(bytes + k, &result, sizeof result);
    };
    for (int64_t k = 0; k < whole; k += lanes) write(load<float>(numbers + k), k);
    if (whole < count) write(load<float>(numbers + whole, count - whole), whole);
    return finite ? bound / largest_integer : __builtin_nanf("");
}

}  // namespace CGRU_NAMESPACE
}  // namespace cgru

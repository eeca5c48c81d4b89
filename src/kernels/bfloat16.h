// Products of bfloat16 numbers: weights with inputs or states that were rounded to it, two and two, sums in float32.
//
// The weights of two inputs k, k + 1 share 32 bits, as in storage.h, and so do the two numbers of a row that meet them.
// Instructions for it add both products at once; elsewhere they are multiply-adds of the widened numbers, one after the
// other, which rounds in other places: results are the same however a sequence is computed, but not on every machine.
#pragma once

#include "storage.h"

namespace cgru {
namespace CGRU_NAMESPACE {

struct Bfloat16Products : Bfloat16 {
#if defined(CGRU_AVX512BF16)
    static constexpr double rate = 2;
#endif
};

// sums + x[0] w[0] + x[1] w[1] in every lane
CGRU_INLINE FloatVector add_products(FloatVector sums, FloatBits x, FloatBits w) {
#if defined(CGRU_AVX512BF16)
    return _mm512_dpbf16_ps(sums, (__m512bh)w, (__m512bh)x);
#else
    sums = fma(Bfloat16::widened<0>(w), Bfloat16::widened<0>(x), sums);
    return fma(Bfloat16::widened<1>(w), Bfloat16::widened<1>(x), sums);
#endif
}

// All lanes the two numbers at p.
CGRU_INLINE FloatBits broadcast_pair(const uint8_t* p) {
    uint32_t pair;
    memcpy(&pair, p, sizeof pair);
    return pair + FloatBits{};
}

// A row of float numbers rounded to nearest, ties to even; one behind an odd last is zero. What is not finite stays so.
// `bytes` has room for whole vectors.
static void round_row(const float* numbers, int64_t count, uint8_t* bytes) {
    const int lanes = Vector<float>::lanes;
    const int64_t whole = count - count % lanes;
    const auto write = [&](FloatVector x, int64_t k) {
        const FloatBits bits = bits_of(x), rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        const HalfVector halves = low_halves((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 1u) : rounded);
        memcpy(bytes + 2 * k, &halves, sizeof halves);
    };
    for (int64_t k = 0; k < whole; k += lanes) write(load<float>(numbers + k), k);
    if (whole < count) write(load<float>(numbers + whole, count - whole), whole);
    if (count % 2) memset(bytes + 2 * count, 0, 2);
}

}  // namespace CGRU_NAMESPACE
}  // namespace cgru

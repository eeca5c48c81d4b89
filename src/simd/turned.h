// Products of bytes by the instruction that multiplies unsigned by signed ones and adds two products in 16 bits
// (maddubs): AVX2, and AVX-512 without VNNI.
//
// |x| is unsigned, and the weights take the sign of x: with m = -1 where x < 0 and else 0, w ^ m is -w - 1 where x < 0.
// So, exactly and for every w of 8 bits,
//
//   sum of x w = sum of |x| (w ^ m) + sum of |x| where x < 0
//
// The last sum does not depend on the weights: it is computed once a row and is what the row "owes". Two products are
// within 127 * 128 * 2 = 32,512, so 16 bits hold them.
//
// Instructions for 32 weights, and cycles on Zen (four ports, two of which multiply) and on Intel's (three, two):
//
//   abs, sign of x, maddubs, madd, add     5   2      2      all but the last where numbers are multiplied
//   sign of w, maddubs, madd, add          4   1.5    1.5    and no weight may be -128
//   2 widen, 2 madd, 2 add                 6   1.5    2
//   2 madd, 2 add                          4   1      1.33   weights in 16 bits: twice the bytes
//   xor, maddubs, madd, add                4   1      1.33   this file
//   maddubs, madd, add                     3   1      1      inputs of 7 bits, without a sign
#pragma once

namespace cgru {
namespace CGRU_SET {

struct TurnedInputs {
    static const int offset = 0, spread = 2;
    static const bool owing = true;
    struct Inputs {
        IntegerVector sizes, signs;
    };
    // Four numbers are eight bytes: |x| of each, then m of each.
    static CGRU_MEMBER Inputs inputs(const uint8_t* row, int64_t k) {
        return {broadcast_bytes(row + 2 * k), broadcast_bytes(row + 2 * k + 4)};
    }
    static CGRU_MEMBER void write(uint8_t* row, int64_t k, const ByteVector& numbers) {
        __m128i x = _mm_setzero_si128();
        memcpy(&x, &numbers, sizeof numbers);
        const __m128i sizes = _mm_abs_epi8(x), signs = _mm_cmpgt_epi8(_mm_setzero_si128(), x);
        __m128i* to = reinterpret_cast<__m128i*>(row + 2 * k);
        _mm_storeu_si128(to, _mm_unpacklo_epi32(sizes, signs));
        if (sizeof numbers == 16) _mm_storeu_si128(to + 1, _mm_unpackhi_epi32(sizes, signs));
    }
};

}  // namespace CGRU_SET
}  // namespace cgru

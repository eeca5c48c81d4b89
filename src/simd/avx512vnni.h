// AVX-512 with the instructions for products of int8.
#pragma once

#define CGRU_OWN_INTEGER_PRODUCTS
#include "avx512.h"

namespace cgru {
namespace CGRU_SET {

// sum += x[0] w[0] + ... + x[3] w[3] in every lane.
// The instruction takes unsigned inputs.
struct IntegerProducts : ByteInputs {
    static const int offset = 128;
    static constexpr double rate = 4;  // beside that of float32
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, IntegerVector x, IntegerVector w) {
        return (IntegerVector)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)x, (__m512i)w);
    }
    // The same of eight lanes.
    static CGRU_MEMBER __m256i add(__m256i sum, __m256i x, __m256i w) { return _mm256_dpbusd_epi32(sum, x, w); }
};

}  // namespace CGRU_SET
}  // namespace cgru

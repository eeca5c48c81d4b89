// Blocks of sparse weights with AVX-512: eight units by four inputs are half of a vector an input. Vectors of that size
// take a number from memory for all lanes without a permutation, which would cost as much as the product.
#pragma once

#include "vector.h"

namespace cgru {
namespace CGRU_SET {

struct SparseBlock {
    static const int units = 8, parts = 2;
    typedef float Floats __attribute__((vector_size(32)));
    typedef int32_t Integers __attribute__((vector_size(32)));
    static CGRU_MEMBER Floats add(Floats sums, float x, Floats w) {
        return _mm256_fmadd_ps(w, _mm256_set1_ps(x), sums);
    }
    static CGRU_MEMBER Integers add(Integers sums, const uint8_t* x, Integers w) {
        int32_t four;
        memcpy(&four, x, sizeof four);
        return (Integers)SparseProducts::add((__m256i)sums, _mm256_set1_epi32(four), (__m256i)w);
    }
    static CGRU_MEMBER FloatVector joined(const Floats (&parts)[2]) {
        return _mm512_insertf32x8(_mm512_castps256_ps512(parts[0]), parts[1], 1);
    }
    static CGRU_MEMBER IntegerVector joined(const Integers (&parts)[2]) {
        return (IntegerVector)_mm512_inserti32x8(_mm512_castsi256_si512((__m256i)parts[0]), (__m256i)parts[1], 1);
    }
};

}  // namespace CGRU_SET
}  // namespace cgru

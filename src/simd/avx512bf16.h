// AVX-512 with the instructions for products of bfloat16.
#pragma once

#define CGRU_OWN_PAIR_PRODUCTS
#include "avx512.h"

namespace cgru {
namespace CGRU_SET {

// sums + x[0] w[0] + x[1] w[1] in every lane, of bfloat16 in the low and the high half; both products at once.
struct PairProducts {
    static constexpr double rate = 2;  // beside that of float32
    static CGRU_MEMBER FloatVector add(FloatVector sums, FloatBits x, FloatBits w) {
        return _mm512_dpbf16_ps(sums, (__m512bh)w, (__m512bh)x);
    }
};

}  // namespace CGRU_SET
}  // namespace cgru

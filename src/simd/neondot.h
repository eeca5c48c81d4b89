// NEON with the instructions for products of int8.
#pragma once

#define CGRU_OWN_INTEGER_PRODUCTS
#include "neon.h"

namespace cgru {
namespace CGRU_SET {

// sum += x[0] w[0] + ... + x[3] w[3] in every lane.
struct IntegerProducts : ByteInputs {
    static constexpr double rate = 4;  // beside that of float32
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, IntegerVector x, IntegerVector w) {
        return (IntegerVector)vdotq_s32((int32x4_t)sum, (int8x16_t)x, (int8x16_t)w);
    }
};

}  // namespace CGRU_SET
}  // namespace cgru

// Vectors of CGRU_VECTOR_BYTES, which the machine's header defines before it includes this: GCC's and clang's vector
// extensions, on which ordinary operators work.
#pragma once

#include <stdint.h>

#include "compiler.h"

namespace cgru {
namespace CGRU_SET {

// Lanes of 32 and 64 bits. `Bits` is the unsigned integer of the same shape; for float also the signed one, halves and
// bytes.
template <class T> struct Vector;

template <> struct Vector<float> {
    static const int lanes = CGRU_VECTOR_BYTES / 4;
    typedef float Value __attribute__((vector_size(CGRU_VECTOR_BYTES)));
    typedef uint32_t Bits __attribute__((vector_size(CGRU_VECTOR_BYTES)));
    typedef int32_t Integers __attribute__((vector_size(CGRU_VECTOR_BYTES)));
    typedef uint16_t Halves __attribute__((vector_size(CGRU_VECTOR_BYTES / 2)));
    typedef uint8_t Bytes __attribute__((vector_size(CGRU_VECTOR_BYTES / 4)));
};
template <> struct Vector<double> {
    static const int lanes = CGRU_VECTOR_BYTES / 8;
    typedef double Value __attribute__((vector_size(CGRU_VECTOR_BYTES)));
    typedef uint64_t Bits __attribute__((vector_size(CGRU_VECTOR_BYTES)));
};

// Each lane as another type; integers become floats rounded to nearest.
#define CGRU_CONVERT(x, type) __builtin_convertvector(x, type)

}  // namespace CGRU_SET
}  // namespace cgru

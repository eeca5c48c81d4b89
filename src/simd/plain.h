// Plain C++: one lane, for any machine and compiler.
#pragma once

#include <stdint.h>

#include "compiler.h"

namespace cgru {
namespace CGRU_SET {

template <class T> struct Vector;

template <> struct Vector<float> {
    static const int lanes = 1;
    typedef float Value;
    typedef uint32_t Bits;
    typedef int32_t Integers;
    typedef uint16_t Halves;
    typedef uint8_t Bytes;
};
template <> struct Vector<double> {
    static const int lanes = 1;
    typedef double Value;
    typedef uint64_t Bits;
};

#define CGRU_CONVERT(x, type) type(x)

}  // namespace CGRU_SET
}  // namespace cgru

#include "operations.h"
#include "without.h"

namespace cgru {
namespace CGRU_SET {

// Rows of the tiles for many rows: three sums a row, and three vectors of weights, must fit the registers.
static const int tile_rows = 4;
static const int weights_ahead = 0;  // the processor does it by itself

// a * b + c
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) { return multiply_and_add(a, b, c); }
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) { return multiply_and_add(a, b, c); }

// The larger, or smaller, of a bound and x; a NaN in x stays.
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return larger_of(bound, x); }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return smaller_of(bound, x); }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return larger_of(bound, x); }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return smaller_of(bound, x); }

// Numbers of float16 as float32.
CGRU_INLINE FloatVector widen_halves(const uint16_t* p) { return widen_by_integers(p); }

// sum += x[0] w[0] + ... + x[3] w[3] in every lane.
struct IntegerProducts : ByteInputs {
    static constexpr double rate = 0.5;  // beside that of float32
    static CGRU_MEMBER IntegerVector add(IntegerVector sum, IntegerVector x, IntegerVector w) {
        for (int shift = 0; shift < 32; shift += 8) sum += int8_t(uint32_t(x) >> shift) * int8_t(uint32_t(w) >> shift);
        return sum;
    }
};

// Make the compiler compute a value, and forget what it knows of it.
CGRU_INLINE void opaque(FloatVector& x) {
    volatile float kept = x;
    x = kept;
}

}  // namespace CGRU_SET
}  // namespace cgru

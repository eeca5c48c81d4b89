// For machines without an instruction: the same by others. A machine's header includes this and names what it takes.
#pragma once

namespace cgru {
namespace CGRU_SET {

// a * b + c, rounded twice. Not left to the compiler's choice: the build sets -ffp-contract=off.
template <class V> CGRU_INLINE V multiply_and_add(V a, V b, V c) { return a * b + c; }

// By comparison, which is two instructions where a machine could have one.
template <class V> CGRU_INLINE V larger_of(V bound, V x) { return bound > x ? bound : x; }
template <class V> CGRU_INLINE V smaller_of(V bound, V x) { return bound < x ? bound : x; }

// float16 as float32. Numbers below 2^-14 have no leading one, and are made as integers, since denormal floats are read
// as zero here; infinity and NaN are not among weights.
CGRU_INLINE FloatVector widen_by_integers(const uint16_t* p) {
    uint32_t lane[Vector<float>::lanes];
    for (int i = 0; i < Vector<float>::lanes; ++i) lane[i] = p[i];
    FloatBits half;
    memcpy(&half, lane, sizeof half);
    const FloatBits size = half & 0x7fffu;
    const FloatVector small = (from_bits(size | 0x4b000000u) - 8388608.0f) * 5.9604644775390625e-8f;  // size * 2^-24
    const FloatVector usual = from_bits((size << 13) + (112u << 23));
    return from_bits(bits_of(size < 0x400u ? small : usual) | (half & 0x8000u) << 16);
}

}  // namespace CGRU_SET
}  // namespace cgru

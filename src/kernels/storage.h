// How the numbers of weights are stored, and how they become float32 again, which loses nothing.
//
// A `Unit` of memory holds one number of a gate's lane, or two: bfloat16 is the upper half of a float32, so the numbers of
// two inputs k, k + 1 share 32 bits, and each is a shift or a mask away from the float32 it means.
#pragma once

#include "vector.h"

namespace cgru {
namespace CGRU_NAMESPACE {

struct Float32 {
    static constexpr double bytes = 4, rate = 1;
    static const int offset = 0;
    typedef float Unit;
    typedef FloatVector Raw;
    static const int inputs = 1;
    static CGRU_MEMBER Raw load_raw(const Unit* p) { return load<float>(p); }
    template <int input> static CGRU_MEMBER FloatVector widened(Raw raw) { return raw; }
};

struct Bfloat16 {
    static constexpr double bytes = 2, rate = 1;
    static const int offset = 0;
    typedef uint32_t Unit;
    typedef FloatBits Raw;
    static const int inputs = 2;
    static CGRU_MEMBER Raw load_raw(const Unit* p) {
        Raw raw;
        memcpy(&raw, p, sizeof raw);
        return raw;
    }
    template <int input> static CGRU_MEMBER FloatVector widened(Raw raw) {
        return from_bits(input == 0 ? raw << 16 : raw & 0xffff0000u);
    }
};

struct Float16 {
    static constexpr double bytes = 2, rate = 1;
    static const int offset = 0;
    typedef uint16_t Unit;
    typedef FloatVector Raw;
    static const int inputs = 1;
    template <int input> static CGRU_MEMBER FloatVector widened(Raw raw) { return raw; }
#if defined(CGRU_AVX512)
    static CGRU_MEMBER Raw load_raw(const Unit* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
#elif defined(CGRU_AVX2)
    static CGRU_MEMBER Raw load_raw(const Unit* p) {
        return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    }
#elif defined(CGRU_NEON)
    static CGRU_MEMBER Raw load_raw(const Unit* p) {
        return (FloatVector)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
    }
#else
    // Without an instruction for it. Numbers below 2^-14 have no leading one, and are made as integers, since denormal
    // floats are read as zero here; infinity and NaN are not among weights.
    static CGRU_MEMBER Raw load_raw(const Unit* p) {
        uint32_t lane[Vector<float>::lanes];
        for (int i = 0; i < Vector<float>::lanes; ++i) lane[i] = p[i];
        FloatBits half;
        memcpy(&half, lane, sizeof half);
        const FloatBits size = half & 0x7fffu;
        const FloatVector small = (from_bits(size | 0x4b000000u) - 8388608.0f) * 5.9604644775390625e-8f;  // size * 2^-24
        const FloatVector usual = from_bits((size << 13) + (112u << 23));
        return from_bits(bits_of(size < 0x400u ? small : usual) | (half & 0x8000u) << 16);
    }
#endif
};

// Units of a block's weights for so many inputs and gates.
template <class S> CGRU_INLINE int64_t units_of(int64_t inputs, int64_t gates) {
    return (inputs + S::inputs - 1) / S::inputs * gates * Vector<float>::lanes;
}

}  // namespace CGRU_NAMESPACE
}  // namespace cgru

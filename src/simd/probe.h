// What the machine can do at best with this instruction set: arithmetic from registers, and memory read as weights are.
// The bounds beside which the kernels' times are seen (benchmarks/roofline.py), and by which a call decides whether
// another thread pays (threads/machine.cpp). Whoever calls these takes the time.
#pragma once

#include "simd/vector.h"

namespace cgru {
namespace CGRU_SET {

static const int probe_sums = 12;  // multiply-adds that do not wait for each other

static double multiply_adds(int64_t rounds) {
    FloatVector sums[probe_sums], a = broadcast<float>(0.999f), b = broadcast<float>(0.001f);
    opaque(a);
    opaque(b);
    CGRU_UNROLL for (int i = 0; i < probe_sums; ++i) sums[i] = broadcast<float>(float(i));
    for (int64_t k = 0; k < rounds; ++k) CGRU_UNROLL for (int i = 0; i < probe_sums; ++i) sums[i] = fma(sums[i], a, b);
    CGRU_UNROLL for (int i = 0; i < probe_sums; ++i) opaque(sums[i]);
    return 2.0 * lanes * probe_sums * double(rounds);
}

static void read_memory(const float* memory, int64_t count, int downwards) {
    const int64_t group = probe_sums * lanes, groups = count / group;
    FloatVector sums[probe_sums], a = broadcast<float>(0.999f);
    opaque(a);
    CGRU_UNROLL for (int i = 0; i < probe_sums; ++i) sums[i] = broadcast<float>(0.0f);
    for (int64_t k = 0; k < groups; ++k) {
        const float* at = memory + (downwards ? groups - 1 - k : k) * group;
        CGRU_UNROLL for (int i = 0; i < probe_sums; ++i) sums[i] = fma(load<float>(at + i * lanes), a, sums[i]);
    }
    CGRU_UNROLL for (int i = 0; i < probe_sums; ++i) opaque(sums[i]);
}

}  // namespace CGRU_SET
}  // namespace cgru

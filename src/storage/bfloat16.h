// Weights of bfloat16, the upper half of a float32: the numbers of two inputs k, k + 1 share 32 bits, and each is a
// shift or a mask away from the float32 it means. Two storages hold them so:
//
//   Bfloat16           multiplies them, widened, with inputs and states of float32
//   Bfloat16Products   with inputs and states rounded to bfloat16, two and two, sums in float32
//
// Instructions for the latter add both products at once; elsewhere they are multiply-adds of the widened numbers, one
// after the other, which rounds in other places: results are the same however a sequence is computed, but not on every
// machine.
#pragma once

#include "storage/widened.h"

namespace cgru {
namespace CGRU_SET {

struct Bfloat16 : Widened<Bfloat16> {
    static const int bytes = 2, inputs = 2;
    typedef uint32_t Unit;
    typedef FloatBits Raw;
    static CGRU_MEMBER Raw load_raw(const Unit* p) {
        Raw raw;
        memcpy(&raw, p, sizeof raw);
        return raw;
    }
    template <int input> static CGRU_MEMBER FloatVector widened(Raw raw) { return widen_pair<input>(raw); }
};

// All lanes the two numbers at p.
CGRU_INLINE FloatBits broadcast_pair(const uint8_t* p) {
    uint32_t pair;
    memcpy(&pair, p, sizeof pair);
    return pair + FloatBits{};
}

// A row of float numbers rounded to nearest, ties to even; one behind an odd last is zero. What is not finite stays so.
// `bytes` has room for whole vectors.
static void round_row(const float* numbers, int64_t count, uint8_t* bytes) {
    const int lanes = Vector<float>::lanes;
    const int64_t whole = count - count % lanes;
    const auto write = [&](FloatVector x, int64_t k) {
        const FloatBits bits = bits_of(x), rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
        const HalfVector halves = low_halves((bits & 0x7fffffffu) > 0x7f800000u ? (bits >> 16 | 1u) : rounded);
        memcpy(bytes + 2 * k, &halves, sizeof halves);
    };
    for (int64_t k = 0; k < whole; k += lanes) write(load<float>(numbers + k), k);
    if (whole < count) write(load<float>(numbers + whole, count - whole), whole);
    if (count % 2) memset(bytes + 2 * count, 0, 2);
}

struct Bfloat16Products {
    static constexpr double rate = PairProducts::rate;
    static const int bytes = 2, narrow = 2, offset = 0, inputs = 2;
    static const bool integer = false, sparse = false;
    typedef uint32_t Unit;
    typedef const uint8_t* Row;

    static void prepare(const float* numbers, int64_t count, float, const NarrowRows& to, int64_t row) {
        round_row(numbers, count, to.bytes + row * to.stride);
    }
    static CGRU_MEMBER Row row(const float*, const NarrowRows& rows, int64_t r) { return rows.bytes + r * rows.stride; }

    template <int R, int B, int G>
    static CGRU_MEMBER void add(FloatVector (&sums)[R][B][G], const Block<Bfloat16Products> (&blocks)[B],
                                const Row (&rows)[R], int64_t count) {
        const int64_t pairs = (count + 1) / 2;
        for (int64_t k = 0; k < pairs; ++k) {
            FloatBits w[B][G];
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    w[b][g] = Bfloat16::load_raw(blocks[b].weights + (k * G + g) * lanes);
            CGRU_UNROLL for (int r = 0; r < R; ++r) {
                const FloatBits x = broadcast_pair(rows[r] + 4 * k);
                CGRU_UNROLL for (int b = 0; b < B; ++b)
                    CGRU_UNROLL for (int g = 0; g < G; ++g)
                        sums[r][b][g] = PairProducts::add(sums[r][b][g], x, w[b][g]);
            }
        }
    }
};

template <> struct StorageOf<storage_bfloat16> { typedef Bfloat16 type; };
template <> struct StorageOf<storage_bfloat16_products> { typedef Bfloat16Products type; };

}  // namespace CGRU_SET
}  // namespace cgru

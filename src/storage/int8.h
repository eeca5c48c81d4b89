// Products of integers: weights of int8 with inputs or states that were made integers from -127 to 127.
//
// The weights of four inputs k ... k + 3 to a gate's lane share 32 bits, and so do the four numbers of a row that meet
// them; `IntegerProducts` adds their four products to a lane's sum. Sums are exact, so they are the same on every
// machine and in any order; they become floats, times the scales of row and weight, when all inputs have been added.
#pragma once

#include "storage/storage.h"

namespace cgru {
namespace CGRU_SET {

static const float largest_integer = 127;
static const float least_bound = 1e-30f;  // where all numbers of a row are smaller than this, they count as zero

CGRU_INLINE IntegerVector load_integers(const void* p) {
    IntegerVector r;
    memcpy(&r, p, sizeof r);
    return r;
}

// A row of integers: its bytes, what its products are multiplied by, and what comes to their sums (simd/turned.h).
struct IntegerRow {
    const uint8_t* bytes;
    float scale;
    int32_t owed;
};

// A row of float numbers as integers, so that its largest magnitude becomes 127, or the limit, which larger ones do,
// too. `bytes` has room for whole vectors.
template <class Products>
static IntegerRow make_integers(const float* numbers, int64_t count, float limit, uint8_t* bytes) {
    const int lanes = Vector<float>::lanes;
    const int64_t whole = count - count % lanes;
    // Without their sign, the bits of floats are in the order of their sizes, and infinity and NaN above all.
    IntegerVector sizes{};
    const auto measure = [&](FloatVector x) {
        const IntegerVector size = (IntegerVector)(bits_of(x) & 0x7fffffffu);
        sizes = size > sizes ? size : sizes;
    };
    for (int64_t k = 0; k < whole; k += lanes) measure(load<float>(numbers + k));
    if (whole < count) measure(load<float>(numbers + whole, count - whole));
    int32_t size_of[Vector<float>::lanes], largest = 0;
    memcpy(size_of, &sizes, sizeof sizes);
    for (int i = 0; i < lanes; ++i) largest = size_of[i] > largest ? size_of[i] : largest;
    const bool finite = largest < 0x7f800000;
    float bound;
    memcpy(&bound, &largest, sizeof bound);
    bound = bound < limit ? bound : limit;
    bound = bound > least_bound ? bound : least_bound;
    // Adding 1.5 * 2^23 rounds a small number and leaves it in the low bits.
    const float round = 12582912.0f;
    const uint32_t round_bits = 0x4b400000u;
    IntegerVector negative{};
    const float factor = finite ? largest_integer / bound : 0.0f;
    const FloatVector low = broadcast<float>(-largest_integer), high = broadcast<float>(largest_integer);
    const auto write = [&](FloatVector x, int64_t k) {
        const FloatBits rounded = bits_of(at_most(high, at_least(low, x * factor)) + round);
        Products::write(bytes, k, low_bytes(rounded + uint32_t(Products::offset)));
        const IntegerVector number = (IntegerVector)(rounded - round_bits);
        if (Products::owing) negative += number < 0 ? number : IntegerVector{};
    };
    for (int64_t k = 0; k < whole; k += lanes) write(load<float>(numbers + k), k);
    if (whole < count) write(load<float>(numbers + whole, count - whole), whole);
    uint32_t owed = 0, lane[lanes];
    memcpy(lane, &negative, sizeof negative);
    for (int i = 0; Products::owing && i < lanes; ++i) owed -= lane[i];
    return {bytes, finite ? bound / largest_integer : __builtin_nanf(""), int32_t(owed)};
}

// Rows as a set's products want them. What a row owes stands at the end of its stride, for which there is room.
template <class Products> struct IntegerRows {
    static const int narrow = Products::spread + (Products::owing ? 1 : 0), offset = Products::offset;
    typedef IntegerRow Row;

    static void prepare(const float* numbers, int64_t count, float limit, const NarrowRows& to, int64_t row) {
        const Row made = make_integers<Products>(numbers, count, limit, to.bytes + row * to.stride);
        to.scales[row] = made.scale;
        if (Products::owing) memcpy(end_of(to, row), &made.owed, sizeof made.owed);
    }
    static CGRU_MEMBER Row row(const float*, const NarrowRows& rows, int64_t r) {
        Row row = {rows.bytes + r * rows.stride, rows.scales[r], 0};
        if (Products::owing) memcpy(&row.owed, end_of(rows, r), sizeof row.owed);
        return row;
    }

  private:
    static CGRU_MEMBER uint8_t* end_of(const NarrowRows& rows, int64_t r) {
        return rows.bytes + (r + 1) * rows.stride - sizeof(int32_t);
    }
};

struct Int8 : IntegerRows<IntegerProducts> {
    static constexpr double rate = IntegerProducts::rate;
    static const int bytes = 1, inputs = 4;
    static const bool integer = true, sparse = false;
    typedef uint32_t Unit;

    template <int R, int B, int G>
    static CGRU_MEMBER void add(FloatVector (&sums)[R][B][G], const Block<Int8> (&blocks)[B], const Row (&rows)[R],
                                int64_t count) {
        // Twelve sums, four inputs in two vectors, ones and a product are 16 registers: weights stay in memory.
        static const bool crowded = IntegerProducts::owing && lanes == 8;
        IntegerVector integers[R][B][G];
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    integers[r][b][g] = load_integers(blocks[b].start + g * lanes) + rows[r].owed;
        const int64_t fours = (count + 3) / 4;
        for (int64_t k = 0; k < fours; ++k)
            CGRU_UNROLL for (int r = 0; r < R; ++r) {
                if (crowded) read_again();
                const IntegerProducts::Inputs x = IntegerProducts::inputs(rows[r].bytes, 4 * k);
                CGRU_UNROLL for (int b = 0; b < B; ++b)
                    CGRU_UNROLL for (int g = 0; g < G; ++g) {
                        const IntegerVector w = load_integers(blocks[b].weights + (k * G + g) * lanes);
                        integers[r][b][g] = IntegerProducts::add(integers[r][b][g], x, w);
                    }
            }
        CGRU_UNROLL for (int b = 0; b < B; ++b)
            CGRU_UNROLL for (int g = 0; g < G; ++g) {
                const FloatVector scale = load<float>(blocks[b].scale + g * lanes);
                CGRU_UNROLL for (int r = 0; r < R; ++r)
                    sums[r][b][g] = fma(to_float(integers[r][b][g]), scale * rows[r].scale, sums[r][b][g]);
            }
    }
};

template <> struct StorageOf<storage_int8> { typedef Int8 type; };

}  // namespace CGRU_SET
}  // namespace cgru

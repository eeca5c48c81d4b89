// Products of float32 rows with weights that become float32 in registers, which loses nothing.
#pragma once

#include "storage/storage.h"

namespace cgru {
namespace CGRU_SET {

// For the storage S, which gives: bytes, inputs, Unit, and `Raw` as it is loaded, widened for one input or two.
template <class S> struct Widened {
    static constexpr double rate = 1;
    static const int narrow = 0, offset = 0;
    static const bool integer = false, sparse = false;
    typedef const float* Row;

    static void prepare(const float*, int64_t, float, const NarrowRows&, int64_t) {}
    static CGRU_MEMBER Row row(const float* numbers, const NarrowRows&, int64_t) { return numbers; }

    // sums += rows[.][k] weights[k], for one input k of those that `raw` holds
    template <int input, int R, int B, int G, class Raw>
    static CGRU_MEMBER void add_input(FloatVector (&sums)[R][B][G], const Raw (&raw)[B][G], const Row (&rows)[R],
                                      int64_t k) {
        FloatVector w[B][G];
        CGRU_UNROLL for (int b = 0; b < B; ++b)
            CGRU_UNROLL for (int g = 0; g < G; ++g) w[b][g] = S::template widened<input>(raw[b][g]);
        CGRU_UNROLL for (int r = 0; r < R; ++r) {
            const FloatVector v = broadcast<float>(rows[r][k]);
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g) sums[r][b][g] = fma(w[b][g], v, sums[r][b][g]);
        }
    }

    // sums += rows[.][k] weights[k], for k from 0 to count; fetching those of so many units ahead (0: none)
    template <int ahead, int R, int B, int G>
    static CGRU_MEMBER void add_all(FloatVector (&sums)[R][B][G], const Block<S> (&blocks)[B], const Row (&rows)[R],
                                    int64_t count) {
        typename S::Raw raw[B][G];
        const auto load_group = [&](int64_t group) CGRU_LAMBDA {
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g)
                    raw[b][g] = S::load_raw(blocks[b].weights + (group * G + g) * lanes);
        };
        const int64_t groups = count / S::inputs;
        for (int64_t group = 0; group < groups; ++group) {
            load_group(group);
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int line = 0; ahead && line < G * lanes * int(sizeof(typename S::Unit)); line += 64)
                    prefetch_near(
                        reinterpret_cast<const char*>(blocks[b].weights + (group + ahead) * G * lanes) + line);
            add_input<0>(sums, raw, rows, group * S::inputs);
            if (S::inputs == 2) add_input<1>(sums, raw, rows, group * 2 + 1);
        }
        if (S::inputs == 2 && count % 2) {
            load_group(groups);
            add_input<0>(sums, raw, rows, count - 1);
        }
    }

    template <int R, int B, int G>
    static CGRU_MEMBER void add(FloatVector (&sums)[R][B][G], const Block<S> (&blocks)[B], const Row (&rows)[R],
                                int64_t count) {
        add_all<0>(sums, blocks, rows, count);
    }
    template <int R, int B, int G>
    static CGRU_MEMBER void add_large(FloatVector (&sums)[R][B][G], const Block<S> (&blocks)[B], const Row (&rows)[R],
                                      int64_t count) {
        add_all<R == 1 ? 0 : weights_ahead>(sums, blocks, rows, count);
    }
};

}  // namespace CGRU_SET
}  // namespace cgru

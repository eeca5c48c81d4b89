// Weights of which most are zero: of a block of some units by four inputs all are held, or none.
//
// A list tells which blocks there are of some units (`SparseBlock`) for one gate. The sums of a block's four inputs
// are added up apart and come together at the end, so that one multiply-add need not wait for the other; the order is
// the same in every tile.
#pragma once

#include "storage/int8.h"

namespace cgru {
namespace CGRU_SET {

struct SparseFloat32 {
    static constexpr double rate = 2;
    static const int bytes = 4, narrow = 4, offset = 0, inputs = 1;
    static const bool integer = false, sparse = true;
    typedef float Unit;
    typedef const float* Row;
    static const int block_size = SparseBlock::units * 4;

    // Rows are copied, for behind the last input stand zeros up to a whole block.
    static void prepare(const float* numbers, int64_t count, float, const NarrowRows& to, int64_t row) {
        float* copy = reinterpret_cast<float*>(to.bytes + row * to.stride);
        memcpy(copy, numbers, size_t(count) * sizeof(float));
        for (int64_t k = count; k % 4; ++k) copy[k] = 0;
    }
    static CGRU_MEMBER Row row(const float*, const NarrowRows& rows, int64_t r) {
        return reinterpret_cast<const float*>(rows.bytes + r * rows.stride);
    }

    template <int R, int B, int G>
    static CGRU_MEMBER void add(FloatVector (&sums)[R][B][G], const Block<SparseFloat32> (&blocks)[B],
                                const Row (&rows)[R], int64_t) {
        static const int together = R % 4 == 0 && lanes > 8 ? 4 : R % 2 == 0 ? 2 : 1;
        float added[R][B][G][lanes];
        CGRU_LOOP for (int b = 0; b < B; ++b)
            CGRU_LOOP for (int r = 0; r < R; r += together)
                CGRU_LOOP for (int g = 0; g < G; ++g)
                    add_rows<together>(&added[r][b][g], int64_t(B * G), blocks[b], g, rows + r);
        keep_in_memory(added);
        CGRU_UNROLL for (int r = 0; r < R; ++r)
            CGRU_UNROLL for (int b = 0; b < B; ++b)
                CGRU_UNROLL for (int g = 0; g < G; ++g) sums[r][b][g] += load<float>(added[r][b][g]);
    }

  private:
    // added[r] := the products of R rows, which lie so many vectors apart, with a gate's lists.
    template <int R>
    static CGRU_MEMBER void add_rows(float (*added)[lanes], int64_t stride, const Block<SparseFloat32>& block, int gate,
                                     const Row* rows) {
        typedef SparseBlock::Floats Floats;
        Floats parts[R][SparseBlock::parts];
        CGRU_UNROLL for (int part = 0; part < SparseBlock::parts; ++part) {
            const int32_t* list = block.lists + gate * SparseBlock::parts + part;
            Floats sums[R][4];
            CGRU_UNROLL for (int r = 0; r < R; ++r)
                CGRU_UNROLL for (int k = 0; k < 4; ++k) sums[r][k] = Floats{};
            const float* weights = block.weights + int64_t(list[0]) * block_size;
            CGRU_LOOP for (int32_t i = list[0]; i < list[1]; ++i, weights += block_size) {
                Floats w[4];
                CGRU_UNROLL for (int k = 0; k < 4; ++k)
                    memcpy(&w[k], weights + k * SparseBlock::units, sizeof w[k]);
                CGRU_UNROLL for (int r = 0; r < R; ++r) {
                    const float* x = rows[r] + block.columns[i];
                    CGRU_UNROLL for (int k = 0; k < 4; ++k) sums[r][k] = SparseBlock::add(sums[r][k], x[k], w[k]);
                }
            }
            CGRU_UNROLL for (int r = 0; r < R; ++r)
                parts[r][part] = (sums[r][0] + sums[r][1]) + (sums[r][2] + sums[r][3]);
        }
        CGRU_UNROLL for (int r = 0; r < R; ++r) store<float>(added[r * stride], SparseBlock::joined(parts[r]));
    }
};

// The same of int8. Sums are exact, so results are those of dense weights to the last bit.
struct SparseInt8 : IntegerRows<SparseProducts> {
    static constexpr double rate = 2 * SparseProducts::rate;
    static const int bytes = Int8::bytes, inputs = Int8::inputs;
    static const bool integer = true, sparse = true;
    typedef Int8::Unit Unit;

    template <int R, int B, int G>
    static CGRU_MEMBER void add(FloatVector (&sums)[R][B][G], const Block<SparseInt8> (&blocks)[B],
                                const Row (&rows)[R], int64_t) {
        static const int together = R % 4 == 0 && lanes > 8 ? 4 : R % 2 == 0 ? 2 : 1;
        int32_t added[R][B][G][lanes];
        CGRU_LOOP for (int b = 0; b < B; ++b)
            CGRU_LOOP for (int r = 0; r < R; r += together)
                CGRU_LOOP for (int g = 0; g < G; ++g)
                    add_rows<together>(&added[r][b][g], int64_t(B * G), blocks[b], g, rows + r);
        keep_in_memory(added);
        CGRU_UNROLL for (int b = 0; b < B; ++b)
            CGRU_UNROLL for (int g = 0; g < G; ++g) {
                const IntegerVector start = load_integers(blocks[b].start + g * lanes);
                const FloatVector scale = load<float>(blocks[b].scale + g * lanes);
                CGRU_UNROLL for (int r = 0; r < R; ++r) {
                    const IntegerVector sum = start + load_integers(added[r][b][g]);
                    sums[r][b][g] = fma(to_float(sum), scale * rows[r].scale, sums[r][b][g]);
                }
            }
    }

  private:
    template <int R>
    static CGRU_MEMBER void add_rows(int32_t (*added)[lanes], int64_t stride, const Block<SparseInt8>& block, int gate,
                                     const Row* rows) {
        typedef SparseBlock::Integers Integers;
        Integers parts[R][SparseBlock::parts];
        CGRU_UNROLL for (int part = 0; part < SparseBlock::parts; ++part) {
            const int32_t* list = block.lists + gate * SparseBlock::parts + part;
            Integers sums[R];
            CGRU_UNROLL for (int r = 0; r < R; ++r) sums[r] = Integers{};
            const Unit* weights = block.weights + int64_t(list[0]) * SparseBlock::units;
            CGRU_LOOP for (int32_t i = list[0]; i < list[1]; ++i, weights += SparseBlock::units) {
                Integers w;
                memcpy(&w, weights, sizeof w);
                CGRU_UNROLL for (int r = 0; r < R; ++r)
                    sums[r] = SparseBlock::add(sums[r], rows[r].bytes + block.columns[i], w);
            }
            CGRU_UNROLL for (int r = 0; r < R; ++r) parts[r][part] = sums[r];
        }
        CGRU_UNROLL for (int r = 0; r < R; ++r) {
            const IntegerVector total = SparseBlock::joined(parts[r]);
            memcpy(added[r * stride], &total, sizeof total);
        }
    }
};

template <> struct StorageOf<storage_sparse_float32> { typedef SparseFloat32 type; };
template <> struct StorageOf<storage_sparse_int8> { typedef SparseInt8 type; };

}  // namespace CGRU_SET
}  // namespace cgru

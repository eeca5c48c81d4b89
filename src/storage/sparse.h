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
        static const int together = R % 2 ? 1 : 2;
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
        FloatVector sums[R][SparseBlock::parts][SparseBlock::vectors];
        CGRU_UNROLL for (int part = 0; part < SparseBlock::parts; ++part) {
            const int32_t* list = block.lists + gate * SparseBlock::parts + part;
            FloatVector own[R][SparseBlock::vectors];
            CGRU_UNROLL for (int r = 0; r < R; ++r)
                CGRU_UNROLL for (int v = 0; v < SparseBlock::vectors; ++v) own[r][v] = FloatVector{};
            const float* weights = block.weights + int64_t(list[0]) * block_size;
            CGRU_LOOP for (int32_t i = list[0]; i < list[1]; ++i, weights += block_size) {
                CGRU_UNROLL for (int r = 0; r < R; ++r) {
                    FloatVector x[SparseBlock::vectors];
                    SparseBlock::spread(rows[r] + block.columns[i], x);
                    CGRU_UNROLL for (int v = 0; v < SparseBlock::vectors; ++v)
                        own[r][v] = fma(load<float>(weights + v * lanes), x[v], own[r][v]);
                }
            }
            CGRU_UNROLL for (int r = 0; r < R; ++r)
                CGRU_UNROLL for (int v = 0; v < SparseBlock::vectors; ++v) sums[r][part][v] = own[r][v];
        }
        CGRU_UNROLL for (int r = 0; r < R; ++r) store<float>(added[r * stride], SparseBlock::total(sums[r]));
    }
};

// The same of int8: as many blocks as a vector has parts are added at once, and lists are filled up with zeros to whole
// vectors. Sums are exact, so results are those of dense weights to the last bit.
struct SparseInt8 : Int8 {
    static constexpr double rate = 2 * Int8::rate;
    static const bool sparse = true;

    template <int R, int B, int G>
    static CGRU_MEMBER void add(FloatVector (&sums)[R][B][G], const Block<SparseInt8> (&blocks)[B],
                                const Row (&rows)[R], int64_t) {
        static const int together = R % 2 ? 1 : 2;
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
        IntegerVector sums[R][SparseBlock::parts];
        CGRU_UNROLL for (int part = 0; part < SparseBlock::parts; ++part) {
            const int32_t* list = block.lists + gate * SparseBlock::parts + part;
            IntegerVector own[R];
            CGRU_UNROLL for (int r = 0; r < R; ++r) own[r] = IntegerVector{};
            const Unit* weights = block.weights + int64_t(list[0]) * SparseBlock::units;
            CGRU_LOOP for (int32_t i = list[0]; i < list[1]; i += SparseBlock::parts, weights += lanes) {
                const IntegerVector w = load_integers(weights);
                CGRU_UNROLL for (int r = 0; r < R; ++r)
                    own[r] = IntegerProducts::add(own[r], SparseBlock::spread(rows[r].bytes, block.columns + i), w);
            }
            CGRU_UNROLL for (int r = 0; r < R; ++r) sums[r][part] = own[r];
        }
        CGRU_UNROLL for (int r = 0; r < R; ++r) {
            const IntegerVector total = SparseBlock::total(sums[r]);
            memcpy(added[r * stride], &total, sizeof total);
        }
    }
};

template <> struct StorageOf<storage_sparse_float32> { typedef SparseFloat32 type; };
template <> struct StorageOf<storage_sparse_int8> { typedef SparseInt8 type; };

}  // namespace CGRU_SET
}  // namespace cgru

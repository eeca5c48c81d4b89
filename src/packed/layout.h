// How the weights of the packed engine lie in memory; layout.cpp brings them there.
//
// Weights lie in blocks of as many hidden units as a vector has lanes. A block holds, for every input k in turn, the
// vectors of its gates side by side, so that one broadcast of x[k] or h[k] feeds all of them:
//
//   input weights       [blocks][I][3][lanes]     r, z, n
//   recurrent weights   [blocks][H][3][lanes]     r, z, n         reset after the product
//                       [blocks][H][2][lanes]     r, z; then      reset before the product
//                       [blocks][H][1][lanes]     n
//   bias, scale, start  [blocks][3][lanes]        r, z, n
//   recurrent bias      [blocks][lanes]           n
//
// Sparse weights are blocks in lists, one list a block of units and gate, in the order in which dense ones lie.
//
// That is the GRU; of another cell the gates are others, and their number (cells/cell.h).
//
// Where a unit of memory holds the numbers of two inputs, or four (src/storage), I and H are counted in pairs, or
// fours, and the first of them is in the lowest bits. Units beyond H and inputs beyond the last are zero.
#pragma once

#include "storage/storage.h"

namespace cgru {
namespace CGRU_SET {

// Units of memory of a block's weights for so many inputs and gates; of sparse ones their lists.
template <class S> CGRU_INLINE int64_t units_of(int64_t inputs, int64_t gates) {
    return S::sparse ? gates * SparseBlock::parts : (inputs + S::inputs - 1) / S::inputs * gates * lanes;
}

// The weights of a block, so many units of memory from the first on; its scales, so many gates of [blocks][3] from
// there.
template <class S> CGRU_INLINE Block<S> block_at(const PackedMatrix& matrix, int64_t units, int64_t gates) {
    const auto* weights = static_cast<const typename S::Unit*>(matrix.weights);
    const float* scale = S::integer ? matrix.scale + gates * lanes : nullptr;
    const int32_t* start = S::integer ? matrix.start + gates * lanes : nullptr;
    if (S::sparse) return {weights, scale, start, matrix.lists + units, matrix.columns};
    return {weights + units, scale, start, nullptr, nullptr};
}
// A block's input weights of all G gates; and its recurrent ones of a phase's gates.
template <class S, int G> CGRU_INLINE Block<S> input_block(const PackedLayer& layer, int64_t block) {
    return block_at<S>(layer.input, block * units_of<S>(layer.inputs, G), block * G);
}
template <class S, class Phase> CGRU_INLINE Block<S> recurrent_block(const PackedLayer& layer, int64_t block) {
    const int64_t before = layer.blocks * units_of<S>(layer.hidden, Phase::first);
    const int64_t units = before + block * units_of<S>(layer.hidden, Phase::gates);
    return block_at<S>(layer.recurrent, units, block * Phase::all + Phase::first);
}

}  // namespace CGRU_SET
}  // namespace cgru

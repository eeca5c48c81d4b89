// What a storage is: how the weights of a layer are held, and how they are multiplied. It has
//
//   bytes         of a weight
//   rate          of multiply-adds, about, beside those of float32
//   narrow        bytes of memory for an input's or state's number as it is multiplied; 0: the float32 that it is
//   offset        of an int8 input's byte: 128 where the bytes are unsigned
//   inputs, Unit  the numbers of so many inputs share a unit of memory, for a gate's lane
//   Row           a row of inputs or states, ready to be multiplied: `prepare` writes what is narrow, `row` finds it
//   add           sums += the products of R rows with B blocks of G gates, over `count` inputs
//   sparse        whether weights are blocks in lists (storage/sparse.h)
//   integer       whether sums are integers: `add` has them beside the caller's, and weights have scales
#pragma once

#include "kernels.h"
#include "simd/vector.h"

namespace cgru {
namespace CGRU_SET {

// The storage of a code.
template <int code> struct StorageOf;
template <int code> using Storage = typename StorageOf<code>::type;

// The weights of a block of units for some gates, side by side; of int8 also [gates][lanes] scales, and what sums start
// from.
template <class S> struct Block {
    const typename S::Unit* weights;
    const float* scale;
    const int32_t* start;
    const int32_t *lists, *columns;  // of sparse ones: of each gate and part the first block, and blocks' first inputs
};

}  // namespace CGRU_SET
}  // namespace cgru

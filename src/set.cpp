// The kernels of one instruction set: this text is compiled once for each (setup.py), with its flags and the macro
// CGRU_SET; for a part, CGRU_STORAGE names the storage whose kernels are wanted (sets.def). Everything here has
// internal linkage, so the linker can never hand one set's code to another.
#include "cells/gru.h"
#include "cells/mingru.h"
#include "packed/dense.h"

#define CGRU_NAME_(prefix, set) prefix##set
#define CGRU_NAME(prefix, set) CGRU_NAME_(prefix, set)

namespace cgru {
namespace CGRU_SET {

// The packed kernels of every cell, in the order of cells/cell.h.
template <class S> constexpr StorageKernels storage_kernels() {
    return {S::bytes,
            S::inputs,
            S::offset,
            S::rate,
            S::narrow,
            S::sparse ? SparseBlock::units : 0,
            {{input_product<S, 3>,
              nullptr,
              {run_phase<S, PackedGatesBefore, false>, run_phase<S, PackedStateBefore, false>}},
             {input_product<S, 3>, run_phase<S, PackedAfter, true>, {run_phase<S, PackedAfter, false>}},
             {input_product<S, 2>, nullptr, {run_phase<Storage<storage_float32>, PackedMin, false>}}},  // no weights
            {DenseKernels<S>::of[0], DenseKernels<S>::of[1]}};
}

}  // namespace CGRU_SET
}  // namespace cgru

#if defined(CGRU_STORAGE)

namespace cgru {

extern const PartKernels CGRU_NAME(part_, CGRU_SET) = {
    CGRU_SET::storage_kernels<CGRU_SET::Storage<CGRU_STORAGE>>(),
    CGRU_SET::storage_kernels<CGRU_SET::Storage<sparse_storage(CGRU_STORAGE)>>()};

}  // namespace cgru

#else

#include <utility>

#include "packed/lanes.h"
#include "simd/probe.h"
#include "training/products.h"

namespace cgru {
namespace CGRU_SET {

template <int... code> constexpr PackedKernels packed_kernels(std::integer_sequence<int, code...>) {
    return {lanes,
            tile_rows,
            {storage_kernels<Storage<code>>()...},
            run_side_by_side,
            multiply_adds,
            read_memory};
}

template <class T> constexpr GateKernels<T> gate_kernels() {
    return {{{run_step<T, BlasGatesBefore>, run_step<T, BlasStateBefore>},
             {run_step<T, BlasAfter>},
             {run_step<T, BlasMin>}},
            activate<T>};
}

template <class T> constexpr TrainingKernels<T> training_kernels() {
    return {panels_size<T>,
            pack<T>,
            product<T>,
            rows_size<T>,
            lay_out<T>,
            outer_memory<T>,
            outer_product<T>,
            {{{run_training<T, RecordGatesBefore>, run_training<T, RecordStateBefore>},
              {run_training<T, BackwardGatesBefore>, run_training<T, BackwardStateBefore>}},
             {{run_training<T, RecordAfter>}, {run_training<T, BackwardAfter>}},
             {{run_training<T, RecordMin>}, {run_training<T, BackwardMin>}}}};
}

}  // namespace CGRU_SET

extern const NodeKernels<float> CGRU_NAME(nodes32_, CGRU_SET);  // of nodes.cpp

extern const Kernels CGRU_NAME(kernels_, CGRU_SET) = {
    CGRU_QUOTE(CGRU_SET),
    CGRU_SET::gate_kernels<float>(),
    CGRU_SET::gate_kernels<double>(),
    CGRU_SET::packed_kernels(std::make_integer_sequence<int, storage_count>()),
    CGRU_SET::training_kernels<float>(),
    CGRU_SET::training_kernels<double>(),
    &CGRU_NAME(nodes32_, CGRU_SET)};

}  // namespace cgru

#endif

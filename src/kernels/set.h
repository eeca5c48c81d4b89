// One instruction set's table. Each file that includes this defines CGRU_PLAIN, CGRU_SSE2, CGRU_AVX2, CGRU_AVX512 or
// CGRU_NEON and CGRU_NAMESPACE, and is compiled with that set's flags (setup.py). Everything here has internal linkage,
// so the linker can never hand one set's code to another.
#pragma once

#include "gates.h"
#include "gradients.h"
#include "packed.h"
#include "probe.h"
#include "products.h"

namespace cgru {
namespace CGRU_NAMESPACE {

constexpr PackedKernels packed_kernels() {
    return {lanes,
            tile_rows,
            {storage_kernels<Float32>(), storage_kernels<Bfloat16>(), storage_kernels<Float16>(), storage_kernels<Int8>(),
             storage_kernels<Bfloat16Products>()},
            multiply_adds,
            read_memory};
}

template <class T> constexpr TrainingKernels<T> training_kernels() {
    return {panels_size<T>,
            pack<T>,
            product<T>,
            rows_size<T>,
            lay_out<T>,
            outer_memory<T>,
            outer_product<T>,
            run_training<T, RecordAfter>,
            run_training<T, RecordGatesBefore>,
            run_training<T, RecordStateBefore>,
            run_training<T, BackwardAfter>,
            run_training<T, BackwardStateBefore>,
            run_training<T, BackwardGatesBefore>};
}

}  // namespace CGRU_NAMESPACE

#define CGRU_QUOTE_(x) #x
#define CGRU_QUOTE(x) CGRU_QUOTE_(x)
#define CGRU_TABLE_(set) kernels_##set
#define CGRU_TABLE(set) CGRU_TABLE_(set)

extern const Kernels CGRU_TABLE(CGRU_NAMESPACE) = {CGRU_QUOTE(CGRU_NAMESPACE), CGRU_NAMESPACE::gate_kernels<float>(),
                                            CGRU_NAMESPACE::gate_kernels<double>(), CGRU_NAMESPACE::packed_kernels(),
                                            CGRU_NAMESPACE::training_kernels<float>(),
                                            CGRU_NAMESPACE::training_kernels<double>()};

}  // namespace cgru

// The int8 kernels of an instruction set that has an instruction for them and otherwise is another set; see set.h.
#pragma once

#include "packed.h"

namespace cgru {

#define CGRU_TABLE_(set) int8_##set
#define CGRU_TABLE(set) CGRU_TABLE_(set)

extern const StorageKernels CGRU_TABLE(CGRU_NAMESPACE) = CGRU_NAMESPACE::storage_kernels<CGRU_NAMESPACE::Int8>();

}  // namespace cgru

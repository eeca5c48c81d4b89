// The kernels for weights of one storage, of an instruction set that has an instruction for them and otherwise is another
// set; see set.h, and choose.cpp, which puts them together. A file that includes this defines CGRU_STORAGE, too.
#pragma once

#include "packed.h"

namespace cgru {

#define CGRU_PART_(set) part_##set
#define CGRU_PART(set) CGRU_PART_(set)

extern const StorageKernels CGRU_PART(CGRU_NAMESPACE) = CGRU_NAMESPACE::storage_kernels<CGRU_NAMESPACE::CGRU_STORAGE>();

}  // namespace cgru

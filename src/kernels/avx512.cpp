// The kernels for the instruction set "avx512".
#define CGRU_AVX512
#define CGRU_NAMESPACE avx512
#include "set.h"

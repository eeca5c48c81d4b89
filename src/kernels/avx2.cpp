// The kernels for the instruction set "avx2".
#define CGRU_AVX2
#define CGRU_NAMESPACE avx2
#include "set.h"

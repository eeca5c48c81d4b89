// The int8 kernels for the instruction set "avx512vnni"; it has the others of "avx512".
#define CGRU_AVX512
#define CGRU_AVX512VNNI
#define CGRU_NAMESPACE avx512vnni
#include "int8_set.h"

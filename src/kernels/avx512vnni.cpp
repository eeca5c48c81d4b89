// The kernels for products of int8 with the instructions of "avx512vnni".
#define CGRU_AVX512
#define CGRU_AVX512VNNI
#define CGRU_NAMESPACE avx512vnni
#define CGRU_STORAGE Int8
#include "part.h"

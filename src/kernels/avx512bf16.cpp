// The kernels for products of bfloat16 with the instructions of "avx512bf16".
#define CGRU_AVX512
#define CGRU_AVX512BF16
#define CGRU_NAMESPACE avx512bf16
#define CGRU_STORAGE Bfloat16Products
#include "part.h"

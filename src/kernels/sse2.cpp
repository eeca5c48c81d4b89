// The kernels for the instruction set "sse2".
#define CGRU_SSE2
#define CGRU_NAMESPACE sse2
#include "set.h"

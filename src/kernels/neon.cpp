// The kernels for the instruction set "neon".
#define CGRU_NEON
#define CGRU_NAMESPACE neon
#include "set.h"

// The int8 kernels for the instruction set "neondot"; it has the others of "neon".
#define CGRU_NEON
#define CGRU_NEONDOT
#define CGRU_NAMESPACE neondot
#include "int8_set.h"

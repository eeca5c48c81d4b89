// The kernels for products of int8 with the instructions of "neondot".
#define CGRU_NEON
#define CGRU_NEONDOT
#define CGRU_NAMESPACE neondot
#define CGRU_STORAGE Int8
#include "part.h"

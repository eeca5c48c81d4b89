// The kernels for the instruction set "plain".
#define CGRU_PLAIN
#define CGRU_NAMESPACE plain
#include "set.h"

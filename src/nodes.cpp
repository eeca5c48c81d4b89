// The kernels of networks' nodes for one instruction set: this text is compiled once for each, as set.cpp is.
#include "nodes/grouped.h"
#include "nodes/window.h"

#define CGRU_NAME_(prefix, set) prefix##set
#define CGRU_NAME(prefix, set) CGRU_NAME_(prefix, set)

namespace cgru {
namespace CGRU_SET {

template <class T> constexpr NodeKernels<T> node_kernels() {
    return {{
#define X(name, operands) each_##name<T>,
        CGRU_ELEMENTWISE(X)
#undef X
            },
            {reduce<T, Sum<T>>, reduce<T, Mean<T>>, reduce<T, Largest<T>>, reduce<T, Smallest<T>>,
             reduce<T, Multiplied<T>>, reduce<T, SumSquare<T>>},
            softmax<T, false>,
            softmax<T, true>,
            arg_max<T>,
            normalise<T>,
            window<T>,
            multiply<T>,
            {grouped<1>, grouped<2>}};
}

}  // namespace CGRU_SET

extern const NodeKernels<float> CGRU_NAME(nodes32_, CGRU_SET) = CGRU_SET::node_kernels<float>();

}  // namespace cgru

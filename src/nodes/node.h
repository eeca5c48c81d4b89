// Nodes of a network as data: what their kernels compute, and on what. The arithmetic is in the files beside this one;
// which node has which numbers is decided in program/.
#pragma once

#include <stdint.h>

namespace cgru {

struct PackedLayer;
struct DenseStep;

// Functions of single elements and how many operands each has, by the names that cgru/engines/host/compile uses. With
// parameters p and q where the operator has attributes.
#define CGRU_ELEMENTWISE(X)                                                                                           \
    X(copy, 1) X(neg, 1) X(abs, 1) X(sign, 1) X(sqrt, 1) X(exp, 1) X(log, 1) X(reciprocal, 1) X(erf, 1) X(floor, 1)   \
    X(ceil, 1) X(round, 1) X(trunc, 1) X(not_, 1) X(square, 1) X(one_nan, 1)                                          \
    X(tanh, 1) X(sigmoid, 1) X(relu, 1) X(hard_sigmoid, 1) X(softsign, 1) X(softplus, 1) X(elu, 1) X(leaky_relu, 1)   \
    X(thresholded_relu, 1) X(selu, 1) X(celu, 1) X(hard_swish, 1) X(shrink, 1) X(gelu, 1) X(gelu_tanh, 1) X(swish, 1) \
    X(mish, 1)                                                                                                        \
    X(add, 2) X(sub, 2) X(mul, 2) X(div, 2) X(mod, 2) X(fmod, 2) X(pow, 2) X(max, 2) X(min, 2) X(equal, 2)            \
    X(greater, 2) X(greater_or_equal, 2) X(less, 2) X(less_or_equal, 2) X(and_, 2) X(or_, 2) X(xor_, 2) X(prelu, 2)   \
    X(where, 3) X(multiply_add, 3)

enum {
#define X(name, operands) elementwise_##name,
    CGRU_ELEMENTWISE(X)
#undef X
    elementwise_count
};

// Lines of elements: out[i] = f(in[0][i], in[1][i], in[2][i]) for i of [0, count), and the same for so many lines that
// begin so far behind each other; `out` may be an operand.
template <class T> struct Lines {
    int64_t lines, count;
    T* out;
    const T* in[3];
    int64_t out_next, next[3];
    T p, q;
};
template <class T> using Elementwise = void (*)(const Lines<T>&);

enum { reduce_sum, reduce_mean, reduce_max, reduce_min, reduce_prod, reduce_sum_square, reduce_count };

// (outer, count, inner) contiguous, over the middle axis: a reduction leaves (outer, inner).
template <class T> struct Middle {
    int64_t outer, count, inner;
    const T* x;
    T* y;
};

// y := (x - mean) / sqrt(variance + epsilon) over `count` elements each, times scale plus shift where these are there.
template <class T> struct Normalisation {
    int64_t outer, count;
    const T *x, *scale, *shift;
    T* y;
    double epsilon;
};

// A window over rows of channels: y[c] of a position from x[c] of `taps` rows. Taps lie as a grid of two axes; so do
// positions.
template <class T> struct Window {
    int64_t positions[2], taps[2], channels;
    int64_t x_position[2], x_tap[2], y_position[2];  // distances
    const T* x;
    T* y;
    const T *weights, *bias;  // [taps][channels], [channels]; of a convolution
    double scale;             // of a mean
};
enum { window_products, window_mean, window_max };

// y (m, n) := a (m, k) b (k, n), contiguous.
template <class T> struct MatrixProduct {
    int64_t m, k, n;
    const T *a, *b;
    T* y;
};

template <class T> struct NodeKernels {
    Elementwise<T> of[elementwise_count];
    void (*reduce[reduce_count])(const Middle<T>&);
    void (*softmax)(const Middle<T>&);
    void (*log_softmax)(const Middle<T>&);
    void (*arg_max)(const Middle<T>&, int last);  // of equal ones the first, or the last
    void (*normalise)(const Normalisation<T>&);
    void (*window)(const Window<T>&, int kind);
    void (*multiply)(const MatrixProduct<T>&);
    void (*grouped[2])(const PackedLayer&, const DenseStep&);  // of float32: each block, of one vector or two, is
                                                               // a group with inputs of its own
};

}  // namespace cgru

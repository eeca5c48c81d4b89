// Windows over rows of channels, each channel by itself: depthwise convolutions, and pooling. And products of two
// matrices that are both data.
#pragma once

#include "nodes/middle.h"

namespace cgru {
namespace CGRU_SET {

struct Weighed {
    template <class T, class V> static CGRU_MEMBER V take(V sum, V x, const T* weights, int64_t left) {
        return fma(load<T>(weights, left), x, sum);
    }
};
struct Added {
    template <class T, class V> static CGRU_MEMBER V take(V sum, V x, const T*, int64_t) { return sum + x; }
};
struct Most {
    template <class T, class V> static CGRU_MEMBER V take(V most, V x, const T*, int64_t) {
        return Largest<T>::take(most, x);
    }
};

template <class T, class R> static void run_window(const Window<T>& of, T first) {
    typedef typename Vector<T>::Value V;
    const int64_t lanes = Vector<T>::lanes;
    for (int64_t p = 0; p < of.positions[0]; ++p)
        for (int64_t q = 0; q < of.positions[1]; ++q) {
            const T* x = of.x + p * of.x_position[0] + q * of.x_position[1];
            T* y = of.y + p * of.y_position[0] + q * of.y_position[1];
            for (int64_t c = 0; c < of.channels; c += lanes) {
                const int64_t left = of.channels - c < lanes ? of.channels - c : lanes;
                V sum = of.bias ? load<T>(of.bias + c, left) : broadcast<T>(first);
                const T* weights = of.weights + c;
                for (int64_t i = 0; i < of.taps[0]; ++i)
                    for (int64_t j = 0; j < of.taps[1]; ++j, weights += of.channels)
                        sum = R::template take<T>(sum, load<T>(x + i * of.x_tap[0] + j * of.x_tap[1] + c, left),
                                                  weights, left);
                store<T>(y + c, sum * T(of.scale), left);
            }
        }
}

template <class T> static void window(const Window<T>& of, int kind) {
    if (kind == window_products)
        run_window<T, Weighed>(of, T(0));
    else if (kind == window_mean)
        run_window<T, Added>(of, T(0));
    else
        run_window<T, Most>(of, -Bounds<T>::infinity);
}

template <class T> static void multiply(const MatrixProduct<T>& of) {
    typedef typename Vector<T>::Value V;
    const int64_t lanes = Vector<T>::lanes;
    for (int64_t n = 0; n < of.n; n += lanes) {
        const int64_t left = of.n - n < lanes ? of.n - n : lanes;
        for (int64_t m = 0; m < of.m; ++m) {
            V sum = broadcast<T>(T(0));
            for (int64_t k = 0; k < of.k; ++k)
                sum = fma(load<T>(of.b + k * of.n + n, left), broadcast<T>(of.a[m * of.k + k]), sum);
            store<T>(of.y + m * of.n + n, sum, left);
        }
    }
}

}  // namespace CGRU_SET
}  // namespace cgru

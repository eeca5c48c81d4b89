// Windows over rows of channels, each channel by itself: depthwise convolutions, and pooling. And products of two
// matrices that are both data.
#pragma once

#include "nodes/middle.h"

namespace cgru {
namespace CGRU_SET {

struct Weighed {
    static const bool weighed = true;
    template <class T, class V> static CGRU_MEMBER V take(V sum, V x, V w) { return fma(w, x, sum); }
};
struct Added {
    static const bool weighed = false;
    template <class T, class V> static CGRU_MEMBER V take(V sum, V x, V) { return sum + x; }
};
struct Most {
    static const bool weighed = false;
    template <class T, class V> static CGRU_MEMBER V take(V most, V x, V) { return Largest<T>::take(most, x); }
};

// So many positions at once, one behind the other: their sums do not wait for each other.
template <class T, class R, int N>
CGRU_INLINE void window_at(const Window<T>& of, const T* x, T* y, int64_t c, int64_t left, T first) {
    typedef typename Vector<T>::Value V;
    const T* weights = of.weights + c;
    V sums[N];
    CGRU_UNROLL for (int n = 0; n < N; ++n) sums[n] = of.bias ? load<T>(of.bias + c, left) : broadcast<T>(first);
    for (int64_t i = 0; i < of.taps[0]; ++i)
        for (int64_t j = 0; j < of.taps[1]; ++j, weights += of.channels) {
            const T* at = x + i * of.x_tap[0] + j * of.x_tap[1] + c;
            const V w = R::weighed ? load<T>(weights, left) : V{};
            CGRU_UNROLL for (int n = 0; n < N; ++n)
                sums[n] = R::template take<T>(sums[n], load<T>(at + n * of.x_position[1], left), w);
        }
    CGRU_UNROLL for (int n = 0; n < N; ++n)
        store<T>(y + n * of.y_position[1] + c, sums[n] * T(of.scale), left);
}

template <class T, class R> static void run_window(const Window<T>& of, T first) {
    const int64_t lanes = Vector<T>::lanes, together = 4;
    for (int64_t p = 0; p < of.positions[0]; ++p)
        for (int64_t c = 0; c < of.channels; c += lanes) {
            const int64_t left = of.channels - c < lanes ? of.channels - c : lanes;
            const T* x = of.x + p * of.x_position[0];
            T* y = of.y + p * of.y_position[0];
            int64_t q = 0;
            for (; q + together <= of.positions[1]; q += together)
                window_at<T, R, together>(of, x + q * of.x_position[1], y + q * of.y_position[1], c, left, first);
            for (; q < of.positions[1]; ++q)
                window_at<T, R, 1>(of, x + q * of.x_position[1], y + q * of.y_position[1], c, left, first);
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

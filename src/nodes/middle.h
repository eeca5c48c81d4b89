// Functions of an axis, of arrays that are (outer, count, inner) with that axis in the middle: reductions, softmax,
// normalisations. With inner 1 an axis lies side by side; else its elements lie as far apart as rows are long, and the
// vectors are of elements beside each other. The order of sums depends on the sizes alone.
#pragma once

#include "nodes/elementwise.h"

namespace cgru {
namespace CGRU_SET {

// A reduction takes elements into vectors, merges these, and at last the lanes of one.
template <class T> struct Sum {
    typedef typename Vector<T>::Value V;
    static constexpr T first = T(0);
    static CGRU_MEMBER V take(V sum, V x) { return sum + x; }
    static CGRU_MEMBER V merge(V a, V b) { return a + b; }
    static CGRU_MEMBER T merge_lanes(T a, T b) { return a + b; }
    static CGRU_MEMBER T end(T sum, int64_t) { return sum; }
};
template <class T> struct Mean : Sum<T> {
    static CGRU_MEMBER T end(T sum, int64_t count) { return sum / T(count); }
};
template <class T> struct SumSquare : Sum<T> {
    typedef typename Vector<T>::Value V;
    static CGRU_MEMBER V take(V sum, V x) { return fma(x, x, sum); }
};
template <class T> struct Multiplied {
    typedef typename Vector<T>::Value V;
    static constexpr T first = T(1);
    static CGRU_MEMBER V take(V product, V x) { return product * x; }
    static CGRU_MEMBER V merge(V a, V b) { return a * b; }
    static CGRU_MEMBER T merge_lanes(T a, T b) { return a * b; }
    static CGRU_MEMBER T end(T product, int64_t) { return product; }
};
// A NaN stays.
template <class T> struct Largest {
    typedef typename Vector<T>::Value V;
    static constexpr T first = -Bounds<T>::infinity;
    static CGRU_MEMBER V take(V most, V x) { return Functions<T>::max(most, x, x, 0, 0); }
    static CGRU_MEMBER V merge(V a, V b) { return Functions<T>::max(a, b, b, 0, 0); }
    static CGRU_MEMBER T merge_lanes(T a, T b) { return a != a || a >= b ? a : b; }
    static CGRU_MEMBER T end(T most, int64_t) { return most; }
};
template <class T> struct Smallest {
    typedef typename Vector<T>::Value V;
    static constexpr T first = Bounds<T>::infinity;
    static CGRU_MEMBER V take(V least, V x) { return Functions<T>::min(least, x, x, 0, 0); }
    static CGRU_MEMBER V merge(V a, V b) { return Functions<T>::min(a, b, b, 0, 0); }
    static CGRU_MEMBER T merge_lanes(T a, T b) { return a != a || a <= b ? a : b; }
    static CGRU_MEMBER T end(T least, int64_t) { return least; }
};

// Of elements that lie side by side: into four vectors by turns, the last vector filled up by what changes nothing.
template <class T, class R> CGRU_INLINE T reduced(const T* x, int64_t count) {
    typedef typename Vector<T>::Value V;
    const int64_t lanes = Vector<T>::lanes;
    V of[4];
    CGRU_UNROLL for (int j = 0; j < 4; ++j) of[j] = broadcast<T>(R::first);
    int64_t i = 0;
    for (; i + 4 * lanes <= count; i += 4 * lanes)
        CGRU_UNROLL for (int j = 0; j < 4; ++j) of[j] = R::take(of[j], load<T>(x + i + j * lanes));
    for (; i + lanes <= count; i += lanes) of[0] = R::take(of[0], load<T>(x + i));
    if (i < count) {
        T lane[Vector<T>::lanes];
        store<T>(lane, of[1]);
        const V before = of[1];
        T taken[Vector<T>::lanes];
        store<T>(taken, R::take(before, load<T>(x + i, count - i)));
        for (int64_t k = 0; k < count - i; ++k) lane[k] = taken[k];
        of[1] = load<T>(lane);
    }
    T lane[Vector<T>::lanes];
    store<T>(lane, R::merge(R::merge(of[0], of[1]), R::merge(of[2], of[3])));
    for (int width = Vector<T>::lanes / 2; width; width /= 2)
        for (int k = 0; k < width; ++k) lane[k] = R::merge_lanes(lane[k], lane[k + width]);
    return lane[0];
}

// Of elements that lie `inner` apart, for all that lie beside each other.
template <class T, class R> static void reduce(const Middle<T>& of) {
    typedef typename Vector<T>::Value V;
    const int64_t lanes = Vector<T>::lanes;
    for (int64_t o = 0; o < of.outer; ++o) {
        const T* x = of.x + o * of.count * of.inner;
        T* y = of.y + o * of.inner;
        if (of.inner == 1) {
            *y = R::end(reduced<T, R>(x, of.count), of.count);
            continue;
        }
        for (int64_t i = 0; i < of.inner; i += lanes) {
            const int64_t left = of.inner - i < lanes ? of.inner - i : lanes;
            V sum = broadcast<T>(R::first);
            for (int64_t k = 0; k < of.count; ++k) sum = R::take(sum, load<T>(x + k * of.inner + i, left));
            T lane[Vector<T>::lanes];
            store<T>(lane, sum);
            for (int64_t k = 0; k < left; ++k) y[i + k] = R::end(lane[k], of.count);
        }
    }
}

// exp(x - max) / sum, or x - max - log(sum), over the middle axis.
template <class T, bool log> static void softmax(const Middle<T>& of) {
    typedef typename Vector<T>::Value V;
    const int64_t lanes = Vector<T>::lanes;
    const int64_t at_once = of.inner == 1 ? of.count : lanes;  // elements of a piece that is computed together
    for (int64_t o = 0; o < of.outer; ++o)
        for (int64_t i = 0; i < of.inner; i += lanes) {
            const int64_t left = of.inner - i < lanes ? of.inner - i : lanes;
            const T* x = of.x + o * of.count * of.inner + i;
            T* y = of.y + o * of.count * of.inner + i;
            if (of.inner == 1) {
                const T most = reduced<T, Largest<T>>(x, of.count);
                if (log) {
                    T lane[Vector<T>::lanes];
                    T sum = T(0);
                    for (int64_t k = 0; k < at_once; k += lanes) {
                        const int64_t size = at_once - k < lanes ? at_once - k : lanes;
                        store<T>(lane, exponential<T>(load<T>(x + k, size) - most));
                        for (int64_t j = 0; j < size; ++j) sum += lane[j];
                    }
                    store<T>(lane, logarithm<T>(broadcast<T>(sum)));
                    const T less = lane[0];
                    each<T, 1>(of.count, y, x, x, x, [=](V v, V, V) CGRU_LAMBDA { return v - most - less; });
                } else {
                    each<T, 1>(of.count, y, x, x, x, [=](V v, V, V) CGRU_LAMBDA { return exponential<T>(v - most); });
                    const T sum = reduced<T, Sum<T>>(y, of.count);
                    each<T, 1>(of.count, y, y, y, y, [=](V v, V, V) CGRU_LAMBDA { return v / sum; });
                }
                continue;
            }
            V most = broadcast<T>(-Bounds<T>::infinity), sum = broadcast<T>(T(0));
            for (int64_t k = 0; k < of.count; ++k) most = Largest<T>::take(most, load<T>(x + k * of.inner, left));
            for (int64_t k = 0; k < of.count; ++k) sum += exponential<T>(load<T>(x + k * of.inner, left) - most);
            const V less = log ? logarithm<T>(sum) : sum;
            for (int64_t k = 0; k < of.count; ++k) {
                const V v = load<T>(x + k * of.inner, left) - most;
                store<T>(y + k * of.inner, log ? v - less : exponential<T>(v) / less, left);
            }
        }
}

// The place of the largest, as a number; of a NaN where there is one.
template <class T> static void arg_max(const Middle<T>& of, int last) {
    for (int64_t o = 0; o < of.outer; ++o)
        for (int64_t i = 0; i < of.inner; ++i) {
            const T* x = of.x + o * of.count * of.inner + i;
            int64_t best = 0;
            for (int64_t k = 1; k < of.count; ++k) {
                const T a = x[best * of.inner], b = x[k * of.inner];
                if (a == a && (b != b || b > a || (last && b == a))) best = k;
            }
            of.y[o * of.inner + i] = T(best);
        }
}

template <class T> static void normalise(const Normalisation<T>& of) {
    typedef typename Vector<T>::Value V;
    for (int64_t o = 0; o < of.outer; ++o) {
        const T* x = of.x + o * of.count;
        T* y = of.y + o * of.count;
        const T mean = reduced<T, Sum<T>>(x, of.count) / T(of.count);
        each<T, 1>(of.count, y, x, x, x, [=](V v, V, V) CGRU_LAMBDA { return v - mean; });
        const T variance = reduced<T, SumSquare<T>>(y, of.count) / T(of.count) + T(of.epsilon);
        const T scale = T(1) / sqrt_lane(variance);
        if (!of.scale)
            each<T, 1>(of.count, y, y, y, y, [=](V v, V, V) CGRU_LAMBDA { return v * scale; });
        else if (!of.shift)
            each<T, 2>(of.count, y, y, of.scale, y, [=](V v, V s, V) CGRU_LAMBDA { return v * scale * s; });
        else
            each<T, 3>(of.count, y, y, of.scale, of.shift,
                       [=](V v, V s, V b) CGRU_LAMBDA { return fma(v * scale, s, b); });
    }
}

}  // namespace CGRU_SET
}  // namespace cgru

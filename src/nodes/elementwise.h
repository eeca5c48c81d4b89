// Functions of single elements, on vectors. What each computes is written in cgru/model/nodes/elementwise.py.
#pragma once

#include "cells/activations.h"
#include "nodes/node.h"

namespace cgru {
namespace CGRU_SET {

template <class T> struct Bounds;
template <> struct Bounds<float> {
    static constexpr float log_largest = 88.722839f, exp_safe = 88.0f, infinity = __builtin_inff();
    static constexpr int log_terms = 5;
};
template <> struct Bounds<double> {
    static constexpr double log_largest = 709.782712893384, exp_safe = 709.0, infinity = __builtin_inf();
    static constexpr int log_terms = 11;
};

// exp(x) for any x: beyond `exp_safe` by way of exp(x / 2), whose square is infinite where it must be.
template <class T> CGRU_INLINE typename Vector<T>::Value exponential(typename Vector<T>::Value x) {
    typedef typename Vector<T>::Value V;
    typedef Bounds<T> B;
    const V high = x > B::exp_safe ? broadcast<T>(T(0.5)) : broadcast<T>(T(1));
    V size = x > B::log_largest + 1 ? broadcast<T>(B::log_largest + 1) : x;
    size = size < ExpConstants<T>::lowest ? broadcast<T>(ExpConstants<T>::lowest) : size;
    const V part = exp_bounded<T>(size * high);
    const V y = part * (x > B::exp_safe ? part : broadcast<T>(T(1)));
    return x > B::log_largest ? broadcast<T>(B::infinity) : y;
}

// log(x) = e log(2) + 2 (s + s^3 / 3 + s^5 / 5 + ...), x = 2^e m, s = (m - 1) / (m + 1), m from sqrt(1/2) to sqrt(2).
template <class T> CGRU_INLINE typename Vector<T>::Value logarithm(typename Vector<T>::Value x) {
    typedef typename Vector<T>::Value V;
    typedef ExpConstants<T> C;
    const decltype(C::one) below = (decltype(C::one)(1) << C::mantissa) - 1;
    const T shift = T(below + 1);  // 2^mantissa, whose lowest bits are 0: so an integer there is added to it
    const auto bits = bits_of(x);
    V m = from_bits((bits & below) + C::one);  // from 1 to 2
    const V exponent = from_bits((bits >> C::mantissa) | bits_of(broadcast<T>(shift))) -
                       (shift + T(C::one >> C::mantissa));
    const V large = m > T(1.41421356237309515) ? broadcast<T>(T(1)) : broadcast<T>(T(0));
    m = m * (T(1) - T(0.5) * large);
    const V e = exponent + large, s = (m - T(1)) / (m + T(1)), s2 = s * s;
    V sum = broadcast<T>(T(1) / T(2 * Bounds<T>::log_terms - 1));
    for (int k = Bounds<T>::log_terms - 1; k-- > 0;) sum = fma(sum, s2, broadcast<T>(T(1) / T(2 * k + 1)));
    V y = fma(e, broadcast<T>(C::ln2_low), T(2) * s * sum);
    y = fma(e, broadcast<T>(C::ln2_high), y);
    y = x == Bounds<T>::infinity ? x : y;
    y = x == T(0) ? broadcast<T>(-Bounds<T>::infinity) : y;
    y = x < T(0) ? broadcast<T>(T(__builtin_nan(""))) : y;
    return x == x ? y : x;
}

// Functions that are rare, lane by lane.
CGRU_INLINE float erf_lane(float x) { return ::erff(x); }
CGRU_INLINE double erf_lane(double x) { return ::erf(x); }
CGRU_INLINE float pow_lane(float x, float y) { return ::powf(x, y); }
CGRU_INLINE double pow_lane(double x, double y) { return ::pow(x, y); }
CGRU_INLINE float fmod_lane(float x, float y) { return ::fmodf(x, y); }
CGRU_INLINE double fmod_lane(double x, double y) { return ::fmod(x, y); }
// The remainder of the sign of y.
template <class T> CGRU_INLINE T mod_lane(T x, T y) {
    const T rest = fmod_lane(x, y);
    return rest != 0 && (rest < 0) != (y < 0) ? rest + y : rest == 0 ? (y < 0 ? -T(0) : T(0)) : rest;
}
CGRU_INLINE float floor_lane(float x) { return ::floorf(x); }
CGRU_INLINE double floor_lane(double x) { return ::floor(x); }
CGRU_INLINE float ceil_lane(float x) { return ::ceilf(x); }
CGRU_INLINE double ceil_lane(double x) { return ::ceil(x); }
CGRU_INLINE float round_lane(float x) { return ::nearbyintf(x); }
CGRU_INLINE double round_lane(double x) { return ::nearbyint(x); }
CGRU_INLINE float sqrt_lane(float x) { return ::sqrtf(x); }
CGRU_INLINE double sqrt_lane(double x) { return ::sqrt(x); }

template <class T, class F> CGRU_INLINE typename Vector<T>::Value by_lane(typename Vector<T>::Value x, F f) {
    T lane[Vector<T>::lanes];
    store<T>(lane, x);
    for (int i = 0; i < Vector<T>::lanes; ++i) lane[i] = f(lane[i]);
    return load<T>(lane);
}
template <class T, class F>
CGRU_INLINE typename Vector<T>::Value by_lane(typename Vector<T>::Value x, typename Vector<T>::Value y, F f) {
    T lane[Vector<T>::lanes], other[Vector<T>::lanes];
    store<T>(lane, x);
    store<T>(other, y);
    for (int i = 0; i < Vector<T>::lanes; ++i) lane[i] = f(lane[i], other[i]);
    return load<T>(lane);
}

// One function a name of the table in node.h. Comparisons are written so that NaN passes through them.
template <class T> struct Functions {
    typedef typename Vector<T>::Value V;
    static CGRU_MEMBER V number(T x) { return broadcast<T>(x); }
    static CGRU_MEMBER V any(int code, V x, T p, T q) {
        return AnyActivation<T>(Activation{code, double(p), double(q), double(Bounds<T>::infinity)})(x);
    }
    // exp(x) - 1 for x of at most 0
    static CGRU_MEMBER V expm1(V x) {
        const T low = -ExpConstants<T>::tanh_high * 4;  // exp(low) is nothing beside 1
        return expm1_bounded<T>(x < low ? number(low) : x);
    }
    static CGRU_MEMBER V negative(V x) { return x > T(0) ? number(0) : x; }

    static CGRU_MEMBER V copy(V x, V, V, T, T) { return x; }
    static CGRU_MEMBER V neg(V x, V, V, T, T) { return -x; }
    static CGRU_MEMBER V abs(V x, V, V, T, T) { return from_bits(bits_of(x) & ~bits_of(number(T(-0.0)))); }
    static CGRU_MEMBER V sign(V x, V, V, T, T) {
        const V y = x > T(0) ? number(1) : number(0);
        return x == x ? (x < T(0) ? number(-1) : y) : x;
    }
    static CGRU_MEMBER V sqrt(V x, V, V, T, T) { return by_lane<T>(x, [](T v) { return sqrt_lane(v); }); }
    static CGRU_MEMBER V exp(V x, V, V, T, T) { return exponential<T>(x); }
    static CGRU_MEMBER V log(V x, V, V, T, T) { return logarithm<T>(x); }
    static CGRU_MEMBER V reciprocal(V x, V, V, T, T) { return T(1) / x; }
    static CGRU_MEMBER V erf(V x, V, V, T, T) { return by_lane<T>(x, [](T v) { return erf_lane(v); }); }
    static CGRU_MEMBER V floor(V x, V, V, T, T) { return by_lane<T>(x, [](T v) { return floor_lane(v); }); }
    static CGRU_MEMBER V ceil(V x, V, V, T, T) { return by_lane<T>(x, [](T v) { return ceil_lane(v); }); }
    static CGRU_MEMBER V round(V x, V, V, T, T) { return by_lane<T>(x, [](T v) { return round_lane(v); }); }
    static CGRU_MEMBER V trunc(V x, V, V, T, T) {
        return by_lane<T>(x, [](T v) { return v < 0 ? ceil_lane(v) : floor_lane(v); }) + T(0);  // integers have no -0
    }
    static CGRU_MEMBER V not_(V x, V, V, T, T) { return x == T(0) ? number(1) : number(0); }
    static CGRU_MEMBER V square(V x, V, V, T, T) { return x * x; }
    static CGRU_MEMBER V one_nan(V x, V, V, T, T) { return with_one_nan(x); }

    static CGRU_MEMBER V tanh(V x, V, V, T, T) { return CGRU_SET::tanh<T>(x); }
    static CGRU_MEMBER V sigmoid(V x, V, V, T, T) { return CGRU_SET::sigmoid<T>(x); }
    static CGRU_MEMBER V relu(V x, V, V, T, T) { return x < T(0) ? number(0) : x; }
    static CGRU_MEMBER V hard_sigmoid(V x, V, V, T p, T q) { return any(activation_hard_sigmoid, x, p, q); }
    static CGRU_MEMBER V softsign(V x, V, V, T p, T q) { return any(activation_softsign, x, p, q); }
    static CGRU_MEMBER V softplus(V x, V, V, T, T) { return CGRU_SET::softplus<T>(x); }
    static CGRU_MEMBER V elu(V x, V, V, T p, T) { return x > T(0) ? x : p * expm1(negative(x)); }
    static CGRU_MEMBER V leaky_relu(V x, V, V, T p, T) { return x < T(0) ? p * x : x; }
    static CGRU_MEMBER V thresholded_relu(V x, V, V, T p, T) { return x <= p ? number(0) : x; }
    static CGRU_MEMBER V selu(V x, V, V, T p, T q) { return q * (x > T(0) ? x : p * expm1(negative(x))); }
    static CGRU_MEMBER V celu(V x, V, V, T p, T) {
        // a negative alpha turns the second part around
        const V part = p * (p > T(0) ? expm1(negative(x) / p) : exponential<T>(negative(x) / p) - T(1));
        return (x < T(0) ? number(0) : x) + (part > T(0) ? number(0) : part);
    }
    static CGRU_MEMBER V hard_swish(V x, V, V, T, T) {
        V share = x / T(6) + T(0.5);
        share = share < T(0) ? number(0) : share;
        return x * (share > T(1) ? number(1) : share);
    }
    static CGRU_MEMBER V shrink(V x, V, V, T lambd, T bias) {
        const V y = x > lambd ? x - bias : number(0);
        return x == x ? (x < -lambd ? x + bias : y) : number(0);
    }
    static CGRU_MEMBER V gelu(V x, V, V, T, T) {
        return T(0.5) * x * (T(1) + by_lane<T>(x * T(0.70710678118654752), [](T v) { return erf_lane(v); }));
    }
    static CGRU_MEMBER V gelu_tanh(V x, V, V, T, T) {
        const V inner = T(0.79788456080286536) * (x + T(0.044715) * x * x * x);
        return T(0.5) * x * (T(1) + CGRU_SET::tanh<T>(inner));
    }
    static CGRU_MEMBER V swish(V x, V, V, T p, T) { return x * CGRU_SET::sigmoid<T>(p * x); }
    static CGRU_MEMBER V mish(V x, V, V, T, T) { return x * CGRU_SET::tanh<T>(CGRU_SET::softplus<T>(x)); }

    static CGRU_MEMBER V add(V a, V b, V, T, T) { return a + b; }
    static CGRU_MEMBER V sub(V a, V b, V, T, T) { return a - b; }
    static CGRU_MEMBER V mul(V a, V b, V, T, T) { return a * b; }
    static CGRU_MEMBER V div(V a, V b, V, T, T) { return a / b; }
    static CGRU_MEMBER V mod(V a, V b, V, T, T) { return by_lane<T>(a, b, [](T x, T y) { return mod_lane(x, y); }); }
    static CGRU_MEMBER V fmod(V a, V b, V, T, T) { return by_lane<T>(a, b, [](T x, T y) { return fmod_lane(x, y); }); }
    static CGRU_MEMBER V pow(V a, V b, V, T, T) { return by_lane<T>(a, b, [](T x, T y) { return pow_lane(x, y); }); }
    static CGRU_MEMBER V max(V a, V b, V, T, T) { return a != a ? a : (b != b ? b : (a < b ? b : a)); }
    static CGRU_MEMBER V min(V a, V b, V, T, T) { return a != a ? a : (b != b ? b : (b < a ? b : a)); }
    static CGRU_MEMBER V equal(V a, V b, V, T, T) { return a == b ? number(1) : number(0); }
    static CGRU_MEMBER V greater(V a, V b, V, T, T) { return a > b ? number(1) : number(0); }
    static CGRU_MEMBER V greater_or_equal(V a, V b, V, T, T) { return a >= b ? number(1) : number(0); }
    static CGRU_MEMBER V less(V a, V b, V, T, T) { return a < b ? number(1) : number(0); }
    static CGRU_MEMBER V less_or_equal(V a, V b, V, T, T) { return a <= b ? number(1) : number(0); }
    static CGRU_MEMBER V and_(V a, V b, V, T, T) { return a * b; }  // of 0 and 1
    static CGRU_MEMBER V or_(V a, V b, V, T, T) { return a + b > T(0) ? number(1) : number(0); }
    static CGRU_MEMBER V xor_(V a, V b, V, T, T) { return a == b ? number(0) : number(1); }
    static CGRU_MEMBER V prelu(V a, V b, V, T, T) { return a < T(0) ? b * a : a; }
    static CGRU_MEMBER V where(V a, V b, V c, T, T) { return a == T(0) ? c : b; }
    static CGRU_MEMBER V multiply_add(V a, V b, V c, T, T) { return fma(a, b, c); }
};

// A function over all elements; the last vector may be partly used.
template <class T, int operands, class F>
CGRU_INLINE void each(int64_t count, T* out, const T* a, const T* b, const T* c, F f) {
    typedef typename Vector<T>::Value V;
    const int64_t lanes = Vector<T>::lanes, whole = count - count % lanes, left = count - whole;
    for (int64_t i = 0; i < whole; i += lanes)
        store<T>(out + i, f(load<T>(a + i), operands > 1 ? load<T>(b + i) : V{}, operands > 2 ? load<T>(c + i) : V{}));
    if (left)
        store<T>(out + whole, f(load<T>(a + whole, left), operands > 1 ? load<T>(b + whole, left) : V{},
                                operands > 2 ? load<T>(c + whole, left) : V{}), left);
}

template <class T, int operands, class F> CGRU_INLINE void each_line(const Lines<T>& of, F f) {
    T* out = of.out;
    const T *a = of.in[0], *b = of.in[1], *c = of.in[2];
    for (int64_t line = 0; line < of.lines; ++line) {
        each<T, operands>(of.count, out, a, b, c, f);
        out += of.out_next;
        a += of.next[0];
        if (operands > 1) b += of.next[1];
        if (operands > 2) c += of.next[2];
    }
}

#define X(name, operands)                                                                                            \
    template <class T> static void each_##name(const Lines<T>& of) {                                                 \
        typedef typename Vector<T>::Value V;                                                                         \
        const T p = of.p, q = of.q;                                                                                  \
        each_line<T, operands>(of, [=](V x, V y, V z) CGRU_LAMBDA { return Functions<T>::name(x, y, z, p, q); });    \
    }
CGRU_ELEMENTWISE(X)
#undef X

}  // namespace CGRU_SET
}  // namespace cgru

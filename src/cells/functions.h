// exp, sigmoid and tanh on vectors of float or double, without a branch.
//
// All three rest on  exp(x) = 2^n exp(r),  n = round(x / ln 2),  |r| <= ln(2) / 2,  and a polynomial for exp(r) - 1.
// The coefficients minimise the largest relative error over that interval (linear programming for float, Remez exchange
// for double): 2^-26.2 for float, 2^-58 for double.
//
// Errors over every float, and over dense samples of double (tests/engines/test_functions.py): at most 3 units in the
// last place where the result is a normal number; one below the smallest normal number may come out as any such number,
// or zero. NaN stays NaN, sigmoid(inf) = 1, tanh(+-inf) = +-1, |tanh| <= 1.
//
// A recurrent step waits for these functions, so they are written for few operations in a row: terms that do not depend
// on each other stand side by side, and 1 + exp(x) is one multiply-add from the parts of exp(x).
#pragma once

#include "simd/vector.h"

namespace cgru {
namespace CGRU_SET {

template <class T> struct ExpConstants;

template <> struct ExpConstants<float> {
    static constexpr float log2_e = 1.44269504f;
    static constexpr float ln2_high = 0.693359375f;  // 9 bits: n * ln2_high is exact
    static constexpr float ln2_low = -2.12194440e-4f;
    static constexpr float round = 12582912.0f;      // 1.5 * 2^23: adding it leaves n in the low bits
    static constexpr uint32_t one = 127u << 23;      // the bits of 1.0f
    static constexpr int mantissa = 23;
    static constexpr float lowest = -88.0f;          // exp of it is below the normal numbers; its scale is 0
    static constexpr float highest = 87.34f;         // 1 / exp of it is below the normal numbers
    static constexpr float tanh_high = 9.5f;         // tanh is 1 from here up
    static constexpr int terms = 5;
    static constexpr float term[terms] = {0.4999999701976776f, 0.1666654348373413f, 0.04166720062494278f,
                                          0.0083665382117033f, 0.001388248521834612f};
};

template <> struct ExpConstants<double> {
    static constexpr double log2_e = 1.4426950408889634;
    static constexpr double ln2_high = 6.93147180369123816490e-01;  // 32 low bits zero: n * ln2_high is exact
    static constexpr double ln2_low = 1.90821492927058770002e-10;
    static constexpr double round = 6755399441055744.0;  // 1.5 * 2^52
    static constexpr uint64_t one = uint64_t(1023) << 52;
    static constexpr int mantissa = 52;
    static constexpr double lowest = -709.0;
    static constexpr double highest = 708.4;
    static constexpr double tanh_high = 19.5;
    static constexpr int terms = 11;
    static constexpr double term[terms] = {
        0.500000000000000087,     0.16666666666666671,      0.0416666666666521596,   0.00833333333332608866,
        0.00138888888956425637,   0.000198412698749926532,  0.000024801574480571505, 2.75572551730352872e-6,
        2.75679509287394991e-7,   2.51053144063460727e-8,   1.76878518278541738e-9};
};
#if __cplusplus < 201703L
constexpr float ExpConstants<float>::term[];
constexpr double ExpConstants<double>::term[];
#endif

// c[0] + c[1] r + ... + c[N - 1] r^(N - 1), in pairs: half as many operations in a row as one term after the other.
template <class T, int N> struct Polynomial {
    typedef typename Vector<T>::Value V;
    static CGRU_MEMBER V at(V r, V r2, const T* c) {
        const V pair = fma(broadcast<T>(c[1]), r, broadcast<T>(c[0]));
        return fma(Polynomial<T, N - 2>::at(r, r2, c + 2), r2, pair);
    }
};
template <class T> struct Polynomial<T, 1> {
    typedef typename Vector<T>::Value V;
    static CGRU_MEMBER V at(V, V, const T* c) { return broadcast<T>(c[0]); }
};

// exp(x) = scale * (1 + fraction), for x from `lowest` to `highest`.
template <class T> CGRU_INLINE void split_exp(typename Vector<T>::Value x, typename Vector<T>::Value& fraction,
                                              typename Vector<T>::Value& scale) {
    typedef ExpConstants<T> C;
    typedef typename Vector<T>::Value V;
    const V shifted = fma(x, broadcast<T>(C::log2_e), broadcast<T>(C::round));
    const V n = shifted - C::round;
    V r = fma(n, broadcast<T>(-C::ln2_high), x);
    r = fma(n, broadcast<T>(-C::ln2_low), r);
    const V r2 = r * r;
    fraction = fma(Polynomial<T, C::terms>::at(r, r2, C::term), r2, r);
    scale = from_bits((bits_of(shifted) << C::mantissa) + C::one);
}

// 1 / (1 + exp(-x))
template <class T> CGRU_INLINE typename Vector<T>::Value sigmoid(typename Vector<T>::Value x) {
    typedef ExpConstants<T> C;
    typename Vector<T>::Value fraction, scale;
    split_exp<T>(at_most(broadcast<T>(C::highest), at_least(broadcast<T>(C::lowest), -x)), fraction, scale);
    return T(1) / fma(fraction, scale, scale + T(1));
}

// exp(x) - 1, for x within the range of `split_exp`
template <class T> CGRU_INLINE typename Vector<T>::Value expm1_bounded(typename Vector<T>::Value x) {
    typename Vector<T>::Value fraction, scale;
    split_exp<T>(x, fraction, scale);
    return fma(fraction, scale, scale - T(1));
}

// (exp(2 |x|) - 1) / (exp(2 |x|) + 1), with the sign of x
template <class T> CGRU_INLINE typename Vector<T>::Value tanh(typename Vector<T>::Value x) {
    typedef ExpConstants<T> C;
    typedef typename Vector<T>::Value V;
    const auto sign = bits_of(x) & bits_of(broadcast<T>(T(-0.0)));
    const V size = at_most(broadcast<T>(C::tanh_high), from_bits(bits_of(x) ^ sign));
    V fraction, scale;
    split_exp<T>(size + size, fraction, scale);
    const V ratio = fma(fraction, scale, scale - T(1)) / fma(fraction, scale, scale + T(1));
    return from_bits(bits_of(ratio) | sign);
}

}  // namespace CGRU_SET
}  // namespace cgru

// exp, sigmoid and tanh on vectors of float or double, without a branch.
//
// All three rest on  exp(x) = 2^n exp(r),  n = round(x / ln 2),  |r| <= ln(2) / 2,  and a polynomial for exp(r) - 1.
// The coefficients minimise the largest relative error over that interval (linear programming for float, Remez exchange
// for double): 2^-26.2 for float, 2^-58 for double.
//
// Errors over every float, and over dense samples of double (tests/test_functions.py): at most 3 units in the last
// place where the result is a normal number; a result below the smallest normal number may be flushed to zero. NaN
// stays NaN, sigmoid(-inf) = 0, sigmoid(inf) = 1, tanh(+-inf) = +-1, |tanh| <= 1.
#pragma once

#include "vector.h"

namespace cgru {
namespace CGRU_NAMESPACE {

template <class T> struct ExpConstants;

template <> struct ExpConstants<float> {
    static constexpr float log2_e = 1.44269504f;
    static constexpr float ln2_high = 0.693359375f;  // 9 bits: n * ln2_high is exact
    static constexpr float ln2_low = -2.12194440e-4f;
    static constexpr float round = 12582912.0f;      // 1.5 * 2^23: adding it leaves n in the low bits
    static constexpr uint32_t one = 127u << 23;      // the bits of 1.0f
    static constexpr int mantissa = 23;
    static constexpr float sigmoid_low = -89.0f;     // exp(89) is inf, so sigmoid is 0 from here down
    static constexpr float sigmoid_high = 88.0f;     // exp(-88) is below the normal numbers; its scale is 0
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
    static constexpr double sigmoid_low = -710.0;
    static constexpr double sigmoid_high = 709.0;
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

// exp(x) = scale * (1 + fraction), for x within the range of n.
template <class T> CGRU_INLINE void split_exp(typename Vector<T>::Value x, typename Vector<T>::Value& fraction,
                                              typename Vector<T>::Value& scale) {
    typedef ExpConstants<T> C;
    typedef typename Vector<T>::Value V;
    const V shifted = fma(x, broadcast<T>(C::log2_e), broadcast<T>(C::round));
    const V n = shifted - C::round;
    V r = fma(n, broadcast<T>(-C::ln2_high), x);
    r = fma(n, broadcast<T>(-C::ln2_low), r);
    V p = broadcast<T>(C::term[C::terms - 1]);
    for (int i = C::terms - 2; i >= 0; --i) p = fma(p, r, broadcast<T>(C::term[i]));
    fraction = fma(r * r, p, r);
    scale = from_bits((bits_of(shifted) << C::mantissa) + C::one);
}

// 1 / (1 + exp(-x))
template <class T> CGRU_INLINE typename Vector<T>::Value sigmoid(typename Vector<T>::Value x) {
    typedef ExpConstants<T> C;
    typedef typename Vector<T>::Value V;
    x = x < C::sigmoid_low ? broadcast<T>(C::sigmoid_low) : x;
    x = x > C::sigmoid_high ? broadcast<T>(C::sigmoid_high) : x;
    V fraction, scale;
    split_exp<T>(-x, fraction, scale);
    return T(1) / (T(1) + (T(1) + fraction) * scale);
}

// exp(x) - 1, for x <= 2 tanh_high (below the range it is -1)
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
    V size = from_bits(bits_of(x) ^ sign);
    size = size > C::tanh_high ? broadcast<T>(C::tanh_high) : size;
    const V e = expm1_bounded<T>(size + size);
    return from_bits(bits_of(e / (e + T(2))) | sign);
}

}  // namespace CGRU_NAMESPACE
}  // namespace cgru

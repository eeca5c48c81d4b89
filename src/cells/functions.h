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
    static constexpr float ln2 = 0.693147181f;
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
    static constexpr double ln2 = 0.693147180559945309;
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
CGRU_ONCE constexpr float ExpConstants<float>::term[];
CGRU_ONCE constexpr double ExpConstants<double>::term[];
#endif

// What follows works on N vectors side by side: every operation is done for all of them before the next one is. A
// single one is a chain in which each operation waits for the one before, and a processor looks only so far ahead for
// others.
#define CGRU_EACH(i, N) CGRU_UNROLL for (int i = 0; i < N; ++i)

// sums := c[0] + c[1] r + ... + c[terms - 1] r^(terms - 1), in pairs: half as many operations in a row as one term
// after the other.
template <class T, int terms, int N> struct Polynomial {
    typedef typename Vector<T>::Value V;
    static CGRU_MEMBER void at(const V (&r)[N], const V (&r2)[N], const T* c, V (&sums)[N]) {
        V pair[N];
        Polynomial<T, terms - 2, N>::at(r, r2, c + 2, sums);
        CGRU_EACH(i, N) pair[i] = fma(broadcast<T>(c[1]), r[i], broadcast<T>(c[0]));
        CGRU_EACH(i, N) sums[i] = fma(sums[i], r2[i], pair[i]);
    }
};
template <class T, int N> struct Polynomial<T, 1, N> {
    typedef typename Vector<T>::Value V;
    static CGRU_MEMBER void at(const V (&)[N], const V (&)[N], const T* c, V (&sums)[N]) {
        CGRU_EACH(i, N) sums[i] = broadcast<T>(c[0]);
    }
};

// exp(x) = scale * (1 + fraction), for x from `lowest` to `highest`; of `factor` times x, which is a power of two or
// its negative. `near`: for x of at most 20, of whose exp only so much is asked as tanh needs.
template <class T, int N, bool near = false>
CGRU_INLINE void split_exp(T factor, const typename Vector<T>::Value (&x)[N], typename Vector<T>::Value (&fraction)[N],
                           typename Vector<T>::Value (&scale)[N]) {
    typedef ExpConstants<T> C;
    typename Vector<T>::Value shifted[N], n[N], r[N], r2[N];
    CGRU_EACH(i, N) shifted[i] = fma(x[i], broadcast<T>(factor * C::log2_e), broadcast<T>(C::round));
    CGRU_EACH(i, N) n[i] = shifted[i] - C::round;
    CGRU_EACH(i, N) scale[i] = from_bits((bits_of(shifted[i]) << C::mantissa) + C::one);
    CGRU_EACH(i, N) r[i] = fma(n[i], broadcast<T>(near ? -C::ln2 : -C::ln2_high), factor * x[i]);
    if (!near) CGRU_EACH(i, N) r[i] = fma(n[i], broadcast<T>(-C::ln2_low), r[i]);
    CGRU_EACH(i, N) r2[i] = r[i] * r[i];
    Polynomial<T, C::terms, N>::at(r, r2, C::term, fraction);
    CGRU_EACH(i, N) fraction[i] = fma(fraction[i], r2[i], r[i]);
}

// x := 1 / (1 + exp(-x))
template <class T, int N> CGRU_INLINE void sigmoids(typename Vector<T>::Value (&x)[N]) {
    typedef ExpConstants<T> C;
    typename Vector<T>::Value fraction[N], scale[N];
    CGRU_EACH(i, N) x[i] = at_most(broadcast<T>(-C::lowest), at_least(broadcast<T>(-C::highest), x[i]));
    split_exp<T, N>(T(-1), x, fraction, scale);
    CGRU_EACH(i, N) x[i] = T(1) / fma(fraction[i], scale[i], scale[i] + T(1));
}

// x := (exp(2 |x|) - 1) / (exp(2 |x|) + 1), with the sign of x
template <class T, int N> CGRU_INLINE void tanhs(typename Vector<T>::Value (&x)[N]) {
    typedef ExpConstants<T> C;
    typedef typename Vector<T>::Value V;
    V size[N], fraction[N], scale[N];
    const auto sign = bits_of(broadcast<T>(T(-0.0)));
    CGRU_EACH(i, N) size[i] = at_most(broadcast<T>(C::tanh_high), from_bits(bits_of(x[i]) & ~sign));
    split_exp<T, N, true>(T(2), size, fraction, scale);
    CGRU_EACH(i, N) size[i] = fma(fraction[i], scale[i], scale[i] - T(1)) / fma(fraction[i], scale[i], scale[i] + T(1));
    CGRU_EACH(i, N) x[i] = from_bits(bits_of(size[i]) | (bits_of(x[i]) & sign));
}

// The same of one vector.
template <class T> CGRU_INLINE typename Vector<T>::Value sigmoid(typename Vector<T>::Value x) {
    typename Vector<T>::Value one[1] = {x};
    sigmoids<T, 1>(one);
    return one[0];
}
template <class T> CGRU_INLINE typename Vector<T>::Value tanh(typename Vector<T>::Value x) {
    typename Vector<T>::Value one[1] = {x};
    tanhs<T, 1>(one);
    return one[0];
}

// scale * (1 + fraction), and that less 1, for x within the range of `split_exp`
template <class T> CGRU_INLINE typename Vector<T>::Value exp_bounded(typename Vector<T>::Value x) {
    typename Vector<T>::Value one[1] = {x}, fraction[1], scale[1];
    split_exp<T, 1>(T(1), one, fraction, scale);
    return fma(fraction[0], scale[0], scale[0]);
}
template <class T> CGRU_INLINE typename Vector<T>::Value expm1_bounded(typename Vector<T>::Value x) {
    typename Vector<T>::Value one[1] = {x}, fraction[1], scale[1];
    split_exp<T, 1>(T(1), one, fraction, scale);
    return fma(fraction[0], scale[0], scale[0] - T(1));
}

}  // namespace CGRU_SET
}  // namespace cgru

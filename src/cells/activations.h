// The activation functions of the contract, as function objects on vectors: `Sigmoid` and `Tanh` for the usual layer,
// compiled into the loops, and `AnyActivation`, which looks its function up at every vector, for all others. Formulas
// and the meaning of alpha and beta are those of the ONNX operators; cgru/activations.py is their specification.
#pragma once

#include <math.h>

#include "cells/functions.h"
#include "kernels.h"

namespace cgru {
namespace CGRU_SET {

template <class T> struct Sigmoid {
    typedef typename Vector<T>::Value V;
    CGRU_MEMBER V operator()(V x) const { return sigmoid<T>(x); }
};

template <class T> struct Tanh {
    typedef typename Vector<T>::Value V;
    CGRU_MEMBER V operator()(V x) const { return tanh<T>(x); }
};

CGRU_INLINE float log1p_lane(float x) { return ::log1pf(x); }
CGRU_INLINE double log1p_lane(double x) { return ::log1p(x); }

// max(x, 0) + log(1 + exp(-|x|)); the logarithm lane by lane, this function being rare
template <class T> CGRU_INLINE typename Vector<T>::Value softplus(typename Vector<T>::Value x) {
    typedef typename Vector<T>::Value V;
    const T low = ExpConstants<T>::lowest;
    const V size = x < T(0) ? -x : x;
    T lane[Vector<T>::lanes];
    store<T>(lane, exp_bounded<T>(-size < low ? broadcast<T>(low) : -size));
    for (int i = 0; i < Vector<T>::lanes; ++i) lane[i] = log1p_lane(lane[i]);
    return (x < T(0) ? broadcast<T>(T(0)) : x) + load<T>(lane);
}

// x + 1/2, or left of 0 the sigmoid that meets it there: positive, and x but for a shift where it is large
template <class T> CGRU_INLINE typename Vector<T>::Value positive(typename Vector<T>::Value x) {
    return x < T(0) ? sigmoid<T>(x) : x + T(0.5);
}

// Any activation of the contract, with its bounds: clip limits its argument to [-clip, clip].
// Comparisons are written so that NaN passes through them.
template <class T> struct AnyActivation {
    typedef typename Vector<T>::Value V;
    int code;
    T alpha, beta, clip;

    explicit AnyActivation(const Activation& a) : code(a.code), alpha(T(a.alpha)), beta(T(a.beta)), clip(T(a.clip)) {}

    CGRU_NOINLINE V operator()(V x) const {
        const V zero = broadcast<T>(T(0)), one = broadcast<T>(T(1));
        x = x > clip ? broadcast<T>(clip) : x;
        x = x < -clip ? broadcast<T>(-clip) : x;
        switch (code) {
            case activation_tanh: return tanh<T>(x);
            case activation_sigmoid: return sigmoid<T>(x);
            case activation_relu: return x < T(0) ? zero : x;
            case activation_hard_sigmoid: {
                x = x * alpha + beta;
                x = x < T(0) ? zero : x;
                return x > T(1) ? one : x;
            }
            case activation_softsign: return x / (T(1) + (x < T(0) ? -x : x));
            case activation_softplus: return softplus<T>(x);
            case activation_elu: {
                const T low = -ExpConstants<T>::tanh_high * 4;  // exp(low) is nothing beside 1
                V negative = x > T(0) ? zero : x;
                negative = negative < low ? broadcast<T>(low) : negative;
                return x > T(0) ? x : alpha * expm1_bounded<T>(negative);
            }
            case activation_leaky_relu: return x < T(0) ? alpha * x : x;
            case activation_thresholded_relu: return x <= alpha ? zero : x;
            case activation_scaled_tanh: return alpha * tanh<T>(beta * x);
            case activation_affine: return x * alpha + beta;
            case activation_g: return positive<T>(x);
            default: return x;  // linear
        }
    }

    // f'(x); 0 where the bounds hold the argument
    CGRU_NOINLINE V derivative(V x) const {
        const V zero = broadcast<T>(T(0)), one = broadcast<T>(T(1));
        V slope;
        switch (code) {
            case activation_tanh: slope = one - tanh<T>(x) * tanh<T>(x); break;
            case activation_sigmoid: slope = sigmoid<T>(x) * sigmoid<T>(-x); break;
            case activation_relu: slope = x > T(0) ? one : zero; break;
            case activation_hard_sigmoid: {
                const V y = x * alpha + beta;
                slope = y > T(0) ? broadcast<T>(alpha) : zero;
                slope = y < T(1) ? slope : zero;
                break;
            }
            case activation_softsign: {
                const V size = T(1) + (x < T(0) ? -x : x);
                slope = one / (size * size);
                break;
            }
            case activation_softplus: slope = sigmoid<T>(x); break;
            case activation_elu: {
                const T low = -ExpConstants<T>::tanh_high * 4;
                V negative = x > T(0) ? zero : x;
                negative = negative < low ? broadcast<T>(low) : negative;
                slope = x > T(0) ? one : alpha * expm1_bounded<T>(negative) + alpha;
                break;
            }
            case activation_leaky_relu: slope = x > T(0) ? one : broadcast<T>(alpha); break;
            case activation_thresholded_relu: slope = x <= alpha ? zero : one; break;
            case activation_scaled_tanh: {
                const V y = tanh<T>(beta * x);
                slope = alpha * beta * (one - y * y);
                break;
            }
            case activation_affine: slope = broadcast<T>(alpha); break;
            case activation_g: slope = x < T(0) ? sigmoid<T>(x) * sigmoid<T>(-x) : one; break;
            default: slope = one;  // linear
        }
        slope = x > clip ? zero : slope;
        return x < -clip ? zero : slope;
    }
};

}  // namespace CGRU_SET
}  // namespace cgru

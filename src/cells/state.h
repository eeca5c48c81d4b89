// What the steps of all cells share: a layer's functions, and the new state.
//
//   h' = z h + (1 - z) n          or, where z weighs the candidate,  h' = (1 - z) h + z n
//
// State and candidate are weighed each by itself. n + z (h - n) would be shorter, but loses h beside a huge n, where z
// is 1 too.
#pragma once

#include "cells/activations.h"

namespace cgru {
namespace CGRU_SET {

// What h' takes of the state and of the candidate.
template <class T> struct Shares {
    typename Vector<T>::Value state, candidate;
};

// The functions of a layer: compiled in for a cell's usual one (`is_usual`; here the GRU's: sigmoid, tanh, no clip, no
// flip), looked up for any other. They are made from what has the layer's gate, candidate and flip.
template <class T> struct Usual {
    static const bool compiled = true;
    typedef typename Vector<T>::Value V;
    template <class Layer> explicit Usual(const Layer&) {}
    CGRU_MEMBER V gate(V x) const { return sigmoid<T>(x); }
    CGRU_MEMBER V candidate(V x) const { return tanh<T>(x); }
    template <int N> CGRU_MEMBER void gates(V (&x)[N]) const { sigmoids<T, N>(x); }
    template <int N> CGRU_MEMBER void candidates(V (&x)[N]) const { tanhs<T, N>(x); }
    CGRU_MEMBER Shares<T> shares(V z) const { return {z, T(1) - z}; }
};

template <class T> struct Any {
    static const bool compiled = false;
    typedef typename Vector<T>::Value V;
    AnyActivation<T> f, g;
    int flip;
    template <class Layer> explicit Any(const Layer& layer) : f(layer.gate), g(layer.candidate), flip(layer.flip) {}
    V gate(V x) const { return f(x); }
    V candidate(V x) const { return g(x); }
    template <int N> void gates(V (&x)[N]) const { CGRU_EACH(i, N) x[i] = f(x[i]); }
    template <int N> void candidates(V (&x)[N]) const { CGRU_EACH(i, N) x[i] = g(x[i]); }
    Shares<T> shares(V z) const { return flip ? Shares<T>{T(1) - z, z} : Shares<T>{z, T(1) - z}; }
};

// Whichever NaN a state has become is stored as one and the same. Of two NaN, an instruction hands on the sign and
// payload of its first operand, and compilers exchange operands: tiles of other sizes, of the same numbers, would leave
// other bits.
template <class T>
CGRU_INLINE typename Vector<T>::Value new_state(const Shares<T>& shares, typename Vector<T>::Value state,
                                                typename Vector<T>::Value candidate) {
    return with_one_nan(fma(shares.candidate, candidate, shares.state * state));
}

}  // namespace CGRU_SET
}  // namespace cgru

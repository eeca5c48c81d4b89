// The end of a step, the same in every kernel: the new state from the update gate, the state and the candidate.
//
//   h' = z h + (1 - z) n          or, where z weighs the candidate,  h' = (1 - z) h + z n
//
// Each of the two is weighed by itself. n + z (h - n) would be shorter, but loses h beside a huge n, where z is 1 too.
#pragma once

#include "simd/vector.h"

namespace cgru {
namespace CGRU_SET {

// What h' takes of the state and of the candidate.
template <class T> struct Shares {
    typename Vector<T>::Value state, candidate;
};

template <class T> CGRU_INLINE Shares<T> shares_of(typename Vector<T>::Value z) { return {z, T(1) - z}; }
template <class T> CGRU_INLINE Shares<T> shares_of(typename Vector<T>::Value z, int flip) {
    return flip ? Shares<T>{T(1) - z, z} : shares_of<T>(z);
}

// Whichever NaN a state has become is stored as one and the same. Of two NaN, an instruction hands on the sign and payload
// of its first operand, and compilers exchange operands: tiles of other sizes, of the same numbers, would leave other bits.
template <class T>
CGRU_INLINE typename Vector<T>::Value new_state(const Shares<T>& shares, typename Vector<T>::Value state,
                                                typename Vector<T>::Value candidate) {
    return with_one_nan(fma(shares.candidate, candidate, shares.state * state));
}

}  // namespace CGRU_SET
}  // namespace cgru

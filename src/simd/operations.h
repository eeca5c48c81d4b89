// Operations on vectors that are the same text on every machine. The machine's header includes this behind the types.
#pragma once

#include <stdint.h>
#include <string.h>

namespace cgru {
namespace CGRU_SET {

typedef Vector<float>::Value FloatVector;
typedef Vector<double>::Value DoubleVector;
typedef Vector<float>::Bits FloatBits;
typedef Vector<float>::Integers IntegerVector;
typedef Vector<float>::Halves HalfVector;
typedef Vector<float>::Bytes ByteVector;
typedef Vector<double>::Bits DoubleBits;

// All lanes the same value; subtracting zero keeps even the sign of -0.
template <class T> CGRU_INLINE typename Vector<T>::Value broadcast(T value) {
    return value - typename Vector<T>::Value{};
}

// The same bits seen as another type of the same size.
template <class To, class From> CGRU_INLINE To same_bits(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "types of one size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}
CGRU_INLINE FloatBits bits_of(FloatVector x) { return same_bits<FloatBits>(x); }
CGRU_INLINE DoubleBits bits_of(DoubleVector x) { return same_bits<DoubleBits>(x); }
CGRU_INLINE FloatVector from_bits(FloatBits x) { return same_bits<FloatVector>(x); }
CGRU_INLINE DoubleVector from_bits(DoubleBits x) { return same_bits<DoubleVector>(x); }

// x, every NaN of which is the quiet one without sign and payload.
CGRU_INLINE FloatVector with_one_nan(FloatVector x) { return x == x ? x : from_bits(FloatBits{} + 0x7fc00000u); }
CGRU_INLINE DoubleVector with_one_nan(DoubleVector x) {
    return x == x ? x : from_bits(DoubleBits{} + (uint64_t(0x7ff8) << 48));
}

#if !defined(CGRU_OWN_PICKED_LANES)
// In every lane the one of x that an index names.
CGRU_INLINE FloatVector pick_lanes(FloatVector x, IntegerVector index) {
    float from[Vector<float>::lanes], to[Vector<float>::lanes];
    int32_t at[Vector<float>::lanes];
    memcpy(from, &x, sizeof x);
    memcpy(at, &index, sizeof index);
    for (int i = 0; i < Vector<float>::lanes; ++i) to[i] = from[at[i]];
    memcpy(&x, to, sizeof x);
    return x;
}
#endif

// Integers as floats, rounded to nearest, and the lowest half or byte of each.
CGRU_INLINE FloatVector to_float(IntegerVector x) { return CGRU_CONVERT(x, FloatVector); }
CGRU_INLINE HalfVector low_halves(FloatBits x) { return CGRU_CONVERT(x, HalfVector); }
#if !defined(CGRU_OWN_LOW_BYTES)
CGRU_INLINE ByteVector low_bytes(FloatBits x) { return CGRU_CONVERT(x, ByteVector); }
#endif

// All lanes the four bytes at p.
CGRU_INLINE IntegerVector broadcast_bytes(const uint8_t* p) {
    int32_t four;
    memcpy(&four, p, sizeof four);
    return four + IntegerVector{};
}

// How rows of integers lie before their products, and how four of them meet the weights: as bytes with a sign, side by
// side. A set whose instructions want another form has its own; then `offset` is added to each, numbers are `spread`
// bytes apart, and to the sums comes what a row is `owing`.
struct ByteInputs {
    static const int offset = 0, spread = 1;
    static const bool owing = false;
    typedef IntegerVector Inputs;
    static CGRU_MEMBER Inputs inputs(const uint8_t* row, int64_t k) { return broadcast_bytes(row + k); }
    static CGRU_MEMBER void write(uint8_t* row, int64_t k, const ByteVector& numbers) {
        memcpy(row + k, &numbers, sizeof numbers);
    }
};

// The two numbers of bfloat16 that share 32 bits, as float32: the upper half of its bits are the number.
template <int which> CGRU_INLINE FloatVector widen_pair(FloatBits pair) {
    return from_bits(which == 0 ? pair << 16 : pair & 0xffff0000u);
}

// Bring a cache line that is needed soon to the second-level cache, or to the nearest.
CGRU_INLINE void prefetch(const void* line) {
#if defined(__GNUC__)
    __builtin_prefetch(line, 0, 2);
#else
    (void)line;
#endif
}
CGRU_INLINE void prefetch_near(const void* line) {
#if defined(__GNUC__)
    __builtin_prefetch(line, 0, 3);
#else
    (void)line;
#endif
}

// Make the compiler leave an array in memory rather than in registers across a loop.
template <class A> CGRU_INLINE void keep_in_memory(A& array) {
#if defined(__GNUC__)
    __asm__ volatile("" : : "r"(&array) : "memory");
#else
    (void)array;
#endif
}

// Make the compiler read again what it reads behind this, rather than keep it in registers that it needs.
CGRU_INLINE void read_again() {
#if defined(__GNUC__)
    __asm__ volatile("" : : : "memory");
#endif
}

// Loads and stores at any address; with a count, of the first lanes only (the others read as zero).
template <class T> CGRU_INLINE typename Vector<T>::Value load(const T* p) {
    typename Vector<T>::Value r;
    memcpy(&r, p, sizeof r);
    return r;
}
template <class T> CGRU_INLINE void store(T* p, typename Vector<T>::Value x) { memcpy(p, &x, sizeof x); }
#if defined(CGRU_OWN_PARTS)  // by the machine's masks
CGRU_INLINE FloatVector load_first(const float* p, int64_t count);
CGRU_INLINE DoubleVector load_first(const double* p, int64_t count);
CGRU_INLINE void store_first(float* p, FloatVector x, int64_t count);
CGRU_INLINE void store_first(double* p, DoubleVector x, int64_t count);
#else
template <class T> CGRU_INLINE typename Vector<T>::Value load_first(const T* p, int64_t count) {
    typename Vector<T>::Value r{};
    memcpy(&r, p, size_t(count) * sizeof(T));
    return r;
}
template <class T, class V> CGRU_INLINE void store_first(T* p, V x, int64_t count) {
    memcpy(p, &x, size_t(count) * sizeof(T));
}
#endif
template <class T> CGRU_INLINE typename Vector<T>::Value load(const T* p, int64_t count) {
    return load_first(p, count);
}
template <class T> CGRU_INLINE void store(T* p, typename Vector<T>::Value x, int64_t count) {
    store_first(p, x, count);
}

}  // namespace CGRU_SET
}  // namespace cgru

// The machine's vectors, under one set of names: Vector<float> and Vector<double> with the operations the kernels use.
// Every instruction set's file includes this text once, after naming its set; kernels above it never mention a machine.
//
// Arithmetic on vectors is written with ordinary operators (GCC's and clang's vector extensions). The plain set has one
// lane and is ordinary C++. Only `fma` differs between sets: it is one rounding where the machine has the instruction,
// two where it has not, and never left to the compiler's choice (the build sets -ffp-contract=off), so that the same
// text gives the same bits wherever it is inlined.
#pragma once

#include <stdint.h>
#include <string.h>

#if defined(CGRU_SSE2) || defined(CGRU_AVX2) || defined(CGRU_AVX512)
#include <immintrin.h>
#elif defined(CGRU_NEON)
#include <arm_neon.h>
#endif

#if defined(__GNUC__)
#define CGRU_INLINE static inline __attribute__((always_inline))
#define CGRU_MEMBER inline __attribute__((always_inline))
#define CGRU_RESTRICT __restrict__
#define CGRU_NOINLINE __attribute__((noinline))
#else
#define CGRU_INLINE static inline
#define CGRU_MEMBER inline
#define CGRU_RESTRICT
#define CGRU_NOINLINE
#endif

#if defined(__clang__)
#define CGRU_UNROLL _Pragma("clang loop unroll(full)")
#define CGRU_LOOP _Pragma("clang loop unroll(disable)")
#elif defined(__GNUC__)
#define CGRU_UNROLL _Pragma("GCC unroll 16")
#define CGRU_LOOP _Pragma("GCC unroll 1")
#else
#define CGRU_UNROLL
#define CGRU_LOOP
#endif

namespace cgru {
namespace CGRU_NAMESPACE {

// Lanes of 32 and 64 bits. `Bits` is the unsigned integer of the same shape; for float also the signed one,
// halves and bytes.
template <class T> struct Vector;

#if defined(CGRU_PLAIN)

template <> struct Vector<float> {
    static const int lanes = 1;
    typedef float Value;
    typedef uint32_t Bits;
    typedef int32_t Integers;
    typedef uint16_t Halves;
    typedef uint8_t Bytes;
};
template <> struct Vector<double> {
    static const int lanes = 1;
    typedef double Value;
    typedef uint64_t Bits;
};

#else

#if defined(CGRU_AVX512)
#define CGRU_VECTOR_BYTES 64
#elif defined(CGRU_AVX2)
#define CGRU_VECTOR_BYTES 32
#else
#define CGRU_VECTOR_BYTES 16
#endif

template <> struct Vector<float> {
    static const int lanes = CGRU_VECTOR_BYTES / 4;
    typedef float Value __attribute__((vector_size(CGRU_VECTOR_BYTES)));
    typedef uint32_t Bits __attribute__((vector_size(CGRU_VECTOR_BYTES)));
    typedef int32_t Integers __attribute__((vector_size(CGRU_VECTOR_BYTES)));
    typedef uint16_t Halves __attribute__((vector_size(CGRU_VECTOR_BYTES / 2)));
    typedef uint8_t Bytes __attribute__((vector_size(CGRU_VECTOR_BYTES / 4)));
};
template <> struct Vector<double> {
    static const int lanes = CGRU_VECTOR_BYTES / 8;
    typedef double Value __attribute__((vector_size(CGRU_VECTOR_BYTES)));
    typedef uint64_t Bits __attribute__((vector_size(CGRU_VECTOR_BYTES)));
};

#endif

typedef Vector<float>::Value FloatVector;
typedef Vector<double>::Value DoubleVector;
typedef Vector<float>::Bits FloatBits;
typedef Vector<float>::Integers IntegerVector;
typedef Vector<float>::Halves HalfVector;
typedef Vector<float>::Bytes ByteVector;
typedef Vector<double>::Bits DoubleBits;

// a * b + c
#if defined(CGRU_AVX512)
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) { return _mm512_fmadd_ps(a, b, c); }
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) { return _mm512_fmadd_pd(a, b, c); }
#elif defined(CGRU_AVX2)
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) { return _mm256_fmadd_ps(a, b, c); }
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) { return _mm256_fmadd_pd(a, b, c); }
#elif defined(CGRU_NEON)
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) {
    return (FloatVector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) {
    return (DoubleVector)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
}
#else
CGRU_INLINE FloatVector fma(FloatVector a, FloatVector b, FloatVector c) { return a * b + c; }
CGRU_INLINE DoubleVector fma(DoubleVector a, DoubleVector b, DoubleVector c) { return a * b + c; }
#endif

// The larger, or smaller, of a bound and x; a NaN in x stays. (A comparison would cost two instructions where the machine
// has one for it.)
#if defined(CGRU_AVX512)
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return _mm512_max_ps(bound, x); }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return _mm512_min_ps(bound, x); }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return _mm512_max_pd(bound, x); }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return _mm512_min_pd(bound, x); }
#elif defined(CGRU_AVX2)
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return _mm256_max_ps(bound, x); }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return _mm256_min_ps(bound, x); }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return _mm256_max_pd(bound, x); }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return _mm256_min_pd(bound, x); }
#elif defined(CGRU_SSE2)
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return _mm_max_ps(bound, x); }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return _mm_min_ps(bound, x); }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return _mm_max_pd(bound, x); }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return _mm_min_pd(bound, x); }
#else
CGRU_INLINE FloatVector at_least(FloatVector bound, FloatVector x) { return bound > x ? bound : x; }
CGRU_INLINE FloatVector at_most(FloatVector bound, FloatVector x) { return bound < x ? bound : x; }
CGRU_INLINE DoubleVector at_least(DoubleVector bound, DoubleVector x) { return bound > x ? bound : x; }
CGRU_INLINE DoubleVector at_most(DoubleVector bound, DoubleVector x) { return bound < x ? bound : x; }
#endif

// All lanes the same value; subtracting zero keeps even the sign of -0.
template <class T> CGRU_INLINE typename Vector<T>::Value broadcast(T value) {
    return value - typename Vector<T>::Value{};
}

// The same bits seen as integers, and back.
CGRU_INLINE FloatBits bits_of(FloatVector x) { FloatBits r; memcpy(&r, &x, sizeof r); return r; }
CGRU_INLINE DoubleBits bits_of(DoubleVector x) { DoubleBits r; memcpy(&r, &x, sizeof r); return r; }
CGRU_INLINE FloatVector from_bits(FloatBits x) { FloatVector r; memcpy(&r, &x, sizeof r); return r; }
CGRU_INLINE DoubleVector from_bits(DoubleBits x) { DoubleVector r; memcpy(&r, &x, sizeof r); return r; }

// x, every NaN of which is the quiet one without sign and payload.
CGRU_INLINE FloatVector with_one_nan(FloatVector x) { return x == x ? x : from_bits(FloatBits{} + 0x7fc00000u); }
CGRU_INLINE DoubleVector with_one_nan(DoubleVector x) {
    return x == x ? x : from_bits(DoubleBits{} + (uint64_t(0x7ff8) << 48));
}

// Integers as floats, rounded to nearest, and the lowest half or byte of each.
#if defined(CGRU_PLAIN)
CGRU_INLINE FloatVector to_float(IntegerVector x) { return FloatVector(x); }
CGRU_INLINE HalfVector low_halves(FloatBits x) { return HalfVector(x); }
CGRU_INLINE ByteVector low_bytes(FloatBits x) { return ByteVector(x); }
#else
CGRU_INLINE FloatVector to_float(IntegerVector x) { return __builtin_convertvector(x, FloatVector); }
CGRU_INLINE HalfVector low_halves(FloatBits x) { return __builtin_convertvector(x, HalfVector); }
CGRU_INLINE ByteVector low_bytes(FloatBits x) { return __builtin_convertvector(x, ByteVector); }
#endif

// Bring a cache line that is needed soon to the second-level cache.
CGRU_INLINE void prefetch(const void* line) {
#if defined(__GNUC__)
    __builtin_prefetch(line, 0, 2);
#else
    (void)line;
#endif
}

// Loads and stores at any address; with a count, of the first lanes only (the others read as zero).
template <class T> CGRU_INLINE typename Vector<T>::Value load(const T* p) {
    typename Vector<T>::Value r;
    memcpy(&r, p, sizeof r);
    return r;
}
template <class T> CGRU_INLINE typename Vector<T>::Value load(const T* p, int64_t count) {
    typename Vector<T>::Value r{};
    memcpy(&r, p, size_t(count) * sizeof(T));
    return r;
}
template <class T> CGRU_INLINE void store(T* p, typename Vector<T>::Value x) { memcpy(p, &x, sizeof x); }
template <class T> CGRU_INLINE void store(T* p, typename Vector<T>::Value x, int64_t count) {
    memcpy(p, &x, size_t(count) * sizeof(T));
}

}  // namespace CGRU_NAMESPACE
}  // namespace cgru

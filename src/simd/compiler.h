// What kernels ask of the compiler: code in its place, loops unrolled or left, values kept where they are.
#pragma once

#if defined(__GNUC__)
#define CGRU_INLINE static inline __attribute__((always_inline))
#define CGRU_MEMBER inline __attribute__((always_inline))
#define CGRU_LAMBDA __attribute__((always_inline))
#define CGRU_NOINLINE __attribute__((noinline))
#define CGRU_ONCE __attribute__((weak))  // of several files' definitions of one set any serves
#else
#define CGRU_INLINE static inline
#define CGRU_MEMBER inline
#define CGRU_LAMBDA
#define CGRU_NOINLINE
#define CGRU_ONCE __declspec(selectany)
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

#define CGRU_QUOTE_(x) #x
#define CGRU_QUOTE(x) CGRU_QUOTE_(x)

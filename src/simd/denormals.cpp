// The floating-point mode in which denormal numbers are read and written as zero.
#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64) || defined(__SSE2__)
#include <xmmintrin.h>
#define CGRU_X86
#endif

namespace cgru {

#if defined(CGRU_X86)
FlushDenormals::FlushDenormals() : saved(_mm_getcsr()) { _mm_setcsr(unsigned(saved) | 0x8040); }  // FTZ and DAZ
FlushDenormals::~FlushDenormals() { _mm_setcsr(unsigned(saved)); }
#elif defined(__aarch64__) && defined(__GNUC__)
FlushDenormals::FlushDenormals() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved));
    __asm__ volatile("msr fpcr, %0" : : "r"(saved | (uint64_t(1) << 24)));  // FZ
}
FlushDenormals::~FlushDenormals() { __asm__ volatile("msr fpcr, %0" : : "r"(saved)); }
#else
FlushDenormals::FlushDenormals() : saved(0) {}
FlushDenormals::~FlushDenormals() {}
#endif

}  // namespace cgru

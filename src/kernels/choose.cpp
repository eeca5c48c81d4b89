// Which instruction sets this machine can run, which one is in use, and the floating-point mode.
// CGRU_SETS_... macros (setup.py) say which sets were compiled.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64) || defined(__SSE2__)
#include <xmmintrin.h>
#define CGRU_X86
#endif

namespace cgru {

extern const Kernels kernels_plain, kernels_sse2, kernels_avx2, kernels_avx512, kernels_neon;

static bool always() { return true; }
#if defined(CGRU_HAS_AVX2)
static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
#endif
#if defined(CGRU_HAS_AVX512)
static bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

// Best first.
static const struct Set {
    const Kernels* table;
    bool (*runs_here)();
} sets[] = {
#if defined(CGRU_HAS_AVX512)
    {&kernels_avx512, has_avx512},
#endif
#if defined(CGRU_HAS_AVX2)
    {&kernels_avx2, has_avx2},
#endif
#if defined(CGRU_HAS_SSE2)
    {&kernels_sse2, always},
#endif
#if defined(CGRU_HAS_NEON)
    {&kernels_neon, always},
#endif
    {&kernels_plain, always},
};

const Kernels* kernels() {
    const char* wanted = getenv("CGRU_ISA");
    for (const Set& set : sets) {
        if (wanted && *wanted && strcmp(wanted, set.table->name) != 0) continue;
        if (set.runs_here()) return set.table;
    }
    return nullptr;
}

const char* runnable_sets() {
    static char names[64];
    char* end = names;
    for (const Set& set : sets) {
        if (!set.runs_here()) continue;
        if (end != names) *end++ = ' ';
        const size_t length = strlen(set.table->name);
        memcpy(end, set.table->name, length);
        end += length;
    }
    *end = 0;
    return names;
}

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

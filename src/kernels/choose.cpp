// Which instruction sets this machine can run, and which one is in use.
// CGRU_SETS_... macros (setup.py) say which sets were compiled.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

namespace cgru {

extern const Kernels kernels_plain, kernels_sse2, kernels_avx2, kernels_avx512, kernels_neon;

static bool always() { return true; }
#if defined(CGRU_HAS_AVX2)
static bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"); }
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

}  // namespace cgru

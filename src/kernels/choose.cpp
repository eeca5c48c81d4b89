// Which instruction sets this machine can run, and which one is in use.
// CGRU_SETS_... macros (setup.py) say which sets were compiled.
#include <stdlib.h>
#include <string.h>
#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "kernels.h"

namespace cgru {

extern const Kernels kernels_plain, kernels_sse2, kernels_avx2, kernels_avx512, kernels_neon;
extern const StorageKernels part_avx512vnni, part_avx512bf16, part_neondot;

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

#if defined(CGRU_HAS_AVX512VNNI)
static bool has_avx512vnni() { return has_avx512() && __builtin_cpu_supports("avx512vnni"); }
#endif
#if defined(CGRU_HAS_AVX512BF16)
static bool has_avx512bf16() { return has_avx512vnni() && __builtin_cpu_supports("avx512bf16"); }
#endif
#if defined(CGRU_HAS_NEONDOT)
#if defined(__linux__)
static bool has_neondot() { return getauxval(AT_HWCAP) & HWCAP_ASIMDDP; }
#else
static bool has_neondot() {
#if defined(__ARM_FEATURE_DOTPROD)
    return true;
#else
    return false;
#endif
}
#endif
#endif

// Best first. Some sets are another's kernels but for those of one storage or two.
static const struct Set {
    const char* name;
    const Kernels* table;
    bool (*runs_here)();
    const StorageKernels *int8, *bfloat16_products;
} sets[] = {
#if defined(CGRU_HAS_AVX512BF16)
    {"avx512bf16", &kernels_avx512, has_avx512bf16, &part_avx512vnni, &part_avx512bf16},
#endif
#if defined(CGRU_HAS_AVX512VNNI)
    {"avx512vnni", &kernels_avx512, has_avx512vnni, &part_avx512vnni, nullptr},
#endif
#if defined(CGRU_HAS_AVX512)
    {"avx512", &kernels_avx512, has_avx512, nullptr, nullptr},
#endif
#if defined(CGRU_HAS_AVX2)
    {"avx2", &kernels_avx2, has_avx2, nullptr, nullptr},
#endif
#if defined(CGRU_HAS_SSE2)
    {"sse2", &kernels_sse2, always, nullptr, nullptr},
#endif
#if defined(CGRU_HAS_NEONDOT)
    {"neondot", &kernels_neon, has_neondot, &part_neondot, nullptr},
#endif
#if defined(CGRU_HAS_NEON)
    {"neon", &kernels_neon, always, nullptr, nullptr},
#endif
#if defined(CGRU_HAS_PLAIN)
    {"plain", &kernels_plain, always, nullptr, nullptr},
#endif
};

const Kernels* kernels() {
    const char* wanted = getenv("CGRU_ISA");
    for (const Set& set : sets) {
        if (wanted && *wanted && strcmp(wanted, set.name) != 0) continue;
        if (!set.runs_here()) continue;
        static Kernels chosen = *set.table;
        chosen.name = set.name;
        if (set.int8) chosen.packed.of[storage_int8] = *set.int8;
        if (set.bfloat16_products) chosen.packed.of[storage_bfloat16_products] = *set.bfloat16_products;
        return &chosen;
    }
    return nullptr;
}

const char* runnable_sets() {
    static char names[96];
    char* end = names;
    for (const Set& set : sets) {
        if (!set.runs_here()) continue;
        if (end != names) *end++ = ' ';
        const size_t length = strlen(set.name);
        memcpy(end, set.name, length);
        end += length;
    }
    *end = 0;
    return names;
}

}  // namespace cgru

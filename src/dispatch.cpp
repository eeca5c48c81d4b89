// Which instruction sets this machine can run, and which one is in use. The sets are rows of sets.def; a macro
// CGRU_HAS_<set> says 1 of those that were compiled, and 0 of the others.
#include <stdlib.h>
#include <string.h>
#if defined(__linux__) && defined(__aarch64__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#include "kernels.h"

#define CPU(feature) __builtin_cpu_supports(feature)

// The code, if a macro says 1.
#define CGRU_IF(has, ...) CGRU_IF_(has, __VA_ARGS__)
#define CGRU_IF_(has, ...) CGRU_IF_##has(__VA_ARGS__)
#define CGRU_IF_0(...)
#define CGRU_IF_1(...) __VA_ARGS__

namespace cgru {

#define CGRU_SET(name, ...) CGRU_IF(CGRU_HAS_##name, extern const Kernels kernels_##name;)
#define CGRU_PART(name, ...) CGRU_IF(CGRU_HAS_##name, extern const PartKernels part_##name;)
#include "sets.def"
#undef CGRU_SET
#undef CGRU_PART

namespace {

#if CGRU_HAS_neondot
bool has_dot_products() {
#if defined(__linux__)
    return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#elif defined(__ARM_FEATURE_DOTPROD)
    return true;
#else
    return false;
#endif
}
#endif

struct Set {
    const char* name;
    bool (*runs_here)();
    const Kernels* kernels;      // of a whole set; or null, of a part:
    const Set* base;
    int storage;
    const PartKernels* part;
};

#define CGRU_SET(name, machine, flags, test)                  \
    CGRU_IF(CGRU_HAS_##name, bool runs_##name() { return test; } \
            const Set set_##name = {#name, runs_##name, &kernels_##name, nullptr, 0, nullptr};)
#define CGRU_PART(name, base, storage, flags, test)                           \
    CGRU_IF(CGRU_HAS_##name, bool runs_##name() { return runs_##base() && test; } \
            const Set set_##name = {#name, runs_##name, nullptr, &set_##base, storage, &part_##name};)
#include "sets.def"
#undef CGRU_SET
#undef CGRU_PART

const Set* const sets[] = {
#define CGRU_SET(name, ...) CGRU_IF(CGRU_HAS_##name, &set_##name, )
#define CGRU_PART(name, ...) CGRU_IF(CGRU_HAS_##name, &set_##name, )
#include "sets.def"
};
const int set_count = int(sizeof sets / sizeof *sets);

Kernels kernels_of(const Set& set) {
    if (set.kernels) return *set.kernels;
    Kernels result = kernels_of(*set.base);
    result.name = set.name;
    result.packed.of[set.storage] = set.part->own;
    result.packed.of[sparse_storage(set.storage)] = set.part->sparse;
    return result;
}

}  // namespace

const Kernels* kernels() {
    const char* wanted = getenv("CGRU_ISA");
    for (int i = set_count; i-- > 0;) {
        const Set& set = *sets[i];
        if (wanted && *wanted && strcmp(wanted, set.name) != 0) continue;
        if (!set.runs_here()) continue;
        static const Kernels chosen = kernels_of(set);
        return &chosen;
    }
    return nullptr;
}

const char* runnable_sets() {
    static char names[96];
    char* end = names;
    for (int i = set_count; i-- > 0;) {
        const Set& set = *sets[i];
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

// What the kernels' own programs share: comparisons that are printed and counted, random values, memory of an exact
// size.
//
// Arrays end where their last value ends, so that the address sanitizer sees every access beyond.
#pragma once

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <memory>
#include <vector>

#include "kernels.h"

using namespace cgru;

// The kernels under test: those that CGRU_ISA in the environment names.
static const Kernels* const table = kernels();

static int failures = 0;

static inline void expect(bool fine, const char* what, double figure) {
    printf("%s  %s: %g\n", fine ? "ok  " : "FAIL", what, figure);
    failures += !fine;
}

// The larger of an error and the largest so far; NaN is an error without bounds, where fmax would leave it out.
static inline double larger_error(double worst, double error) {
    return isnan(error) ? HUGE_VAL : error > worst ? error : worst;
}

static inline float uniform() { return float(rand()) / float(RAND_MAX) * 2 - 1; }

template <class T = float> static std::vector<T> random_values(int64_t count, double size = 1) {
    std::vector<T> values(static_cast<size_t>(count));
    for (T& value : values) value = T((uniform() + double(uniform()) / (1 << 24)) * size);  // all bits of a double
    return values;
}

// How many values have other bits.
template <class T> static int64_t differences(const std::vector<T>& a, const std::vector<T>& b) {
    int64_t different = a.size() != b.size();
    for (size_t i = 0; i < a.size() && i < b.size(); ++i) different += memcmp(&a[i], &b[i], sizeof(T)) != 0;
    return different;
}

// Memory for `count` values from a cache line on.
template <class T> class Aligned {
  public:
    explicit Aligned(int64_t count) {
        void* address = nullptr;
        if (posix_memalign(&address, 64, size_t(count) * sizeof(T))) exit(2);
        memory.reset(address);
    }
    T* get() const { return static_cast<T*>(memory.get()); }

  private:
    struct Free {
        void operator()(void* address) const { free(address); }
    };
    std::unique_ptr<void, Free> memory;
};

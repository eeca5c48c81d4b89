// What the programs of the training kernels share: the kernels by type, errors, matrices laid out.
#pragma once

#include <type_traits>

#include "program.h"

template <class T> static const TrainingKernels<T>& training_kernels();
template <> const TrainingKernels<float>& training_kernels<float>() { return table->training32; }
template <> const TrainingKernels<double>& training_kernels<double>() { return table->training64; }

template <class T> static const char* name_of() { return std::is_same<T, float>::value ? "float" : "double"; }
template <class T> static double tolerance() { return std::is_same<T, float>::value ? 2e-5 : 1e-12; }

// The largest difference, relative to the largest value expected (at least 1).
template <class T> static double relative_error(const std::vector<T>& values, const std::vector<double>& expected) {
    double difference = values.size() == expected.size() ? 0 : HUGE_VAL, largest = 1;
    for (size_t i = 0; i < values.size() && i < expected.size(); ++i) {
        difference = larger_error(difference, fabs(double(values[i]) - expected[i]));
        largest = larger_error(largest, fabs(expected[i]));
    }
    return difference / largest;
}

// A matrix laid out; its element (k, n) is at k * inner_stride + n * outer_stride.
template <class T> struct LaidOut {
    Aligned<T> memory;
    Panels<T> panels;
    LaidOut(const T* matrix, int64_t inner_stride, int64_t outer_stride, int64_t inner, int64_t outer)
        : memory(training_kernels<T>().panels_size(inner, outer)), panels{memory.get(), inner, outer} {
        training_kernels<T>().pack(matrix, inner_stride, outer_stride, inner, outer, memory.get());
    }
};

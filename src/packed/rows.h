// How rows of states lie in memory: for the loops around the packed kernels.
#pragma once

#include "kernels.h"

namespace cgru {

const int64_t cache_line = 16;  // floats

// Rows at this stride never all fall into the same sets of a cache.
inline int64_t row_stride(const PackedLayer& layer, int64_t lanes) {
    const int64_t width = (layer.blocks * lanes + cache_line - 1) / cache_line * cache_line;
    return width % (8 * cache_line) ? width : width + cache_line;
}

// Rows of so many bytes at this stride, whose last vector may be partly unused, neither.
inline int64_t narrow_stride(int64_t bytes) {
    const int64_t width = (bytes + 63) / 64 * 64;
    return width % 512 ? width : width + 64;
}

// Hands out parts of one piece of memory, each beginning at a cache line.
class Parts {
  public:
    explicit Parts(char* memory) : at(memory) {}
    template <class T> T* take(int64_t count) {
        at += (64 - (reinterpret_cast<uintptr_t>(at) & 63)) & 63;
        T* part = reinterpret_cast<T*>(at);
        at += count * int64_t(sizeof(T));
        return part;
    }
    // The bytes that a part may need.
    template <class T> static int64_t size(int64_t count) { return count * int64_t(sizeof(T)) + 64; }

    // Rows of so many inputs or states as the kernels of a storage multiply them.
    NarrowRows take_narrow(const StorageKernels& kernels, int64_t rows, int64_t count) {
        if (!kernels.narrow) return {nullptr, nullptr, 0};
        const int64_t stride = narrow_stride(count * kernels.narrow);
        uint8_t* bytes = take<uint8_t>(rows * stride);
        return {bytes, take<float>(rows), stride};
    }
    static int64_t narrow_size(const StorageKernels& kernels, int64_t rows, int64_t count) {
        if (!kernels.narrow) return 0;
        return size<uint8_t>(rows * narrow_stride(count * kernels.narrow)) + size<float>(rows);
    }

  private:
    char* at;
};

}  // namespace cgru

// Training's scratch memory: how much each thread needs, and its parts.
#pragma once

#include <stdint.h>
#include <stdlib.h>

namespace cgru {
namespace {

// Scratch memory: taken part by part, each from a cache line on, once for its size and once for good.
class Scratch {
  public:
    explicit Scratch(char* memory) : memory(memory) {}
    template <class T> T* take(int64_t count) {
        T* part = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
        used += (count * int64_t(sizeof(T)) + 127) / 64 * 64;
        return part;
    }
    int64_t used = 0;

  private:
    char* memory;
};

// Memory for `parts` threads, of a size that a first look tells; null where there is none.
class Memory {
  public:
    Memory(int64_t each, int parts) : each((each + 127) / 64 * 64 + 64) {
        memory = static_cast<char*>(malloc(size_t(this->each * parts + 64)));
    }
    ~Memory() { free(memory); }
    bool valid() const { return memory != nullptr; }
    Scratch scratch(int part) const {
        char* start = memory + part * each;
        return Scratch(start + ((64 - (reinterpret_cast<uintptr_t>(start) & 63)) & 63));
    }

  private:
    Memory(const Memory&);
    const int64_t each;
    char* memory;
};

}  // namespace
}  // namespace cgru

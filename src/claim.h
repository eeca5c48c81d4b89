// Who is using an object: one thread at a time, and nobody who existed only before a fork.
//
// Taking and giving back are one act each, with the GIL and without it. A fork copies a claim that another thread holds to
// a child that has no such thread: there it counts as free, as claims are of a generation, which every fork begins anew.
#pragma once

#include <atomic>

namespace cgru {

inline std::atomic<int>& generation() {
    static std::atomic<int> current{1};
    return current;
}

inline void new_generation() { ++generation(); }

class Claim {
  public:
    // Whether it was free, and now is the caller's.
    bool take() {
        const int now = generation().load(std::memory_order_relaxed);
        int held = holder.load(std::memory_order_relaxed);
        return held != now && holder.compare_exchange_strong(held, now, std::memory_order_acquire);
    }
    void release() { holder.store(0, std::memory_order_release); }

  private:
    std::atomic<int> holder{0};
};

}  // namespace cgru

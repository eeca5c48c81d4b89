// Threads: parts of a call run at once, and teams whose members meet at every step.
//
// OpenMP's threads, of which one region a call is taken. CGRU_STD_THREADS takes the standard library's instead: the
// thread sanitizer understands those (tests/native/test_native.py).
#pragma once

#include "threads/watch.h"

#if defined(_OPENMP)
#include <omp.h>
#elif defined(CGRU_STD_THREADS)
#include <vector>
#endif

namespace cgru {
namespace {

// Whether this build has threads at all.
#if defined(_OPENMP) || defined(CGRU_STD_THREADS)
const bool has_threads = true;
#else
const bool has_threads = false;
#endif

// The cores that this process may run on.
inline int processors() {
#if defined(_OPENMP)
    return omp_get_num_procs();
#else
    return int(std::thread::hardware_concurrency());
#endif
}

// body(0), ..., body(parts - 1), each on a thread of its own, the first on this one. False if there are not so many
// threads to be had; nothing has run then.
template <class Body> bool run_at_once(int parts, const Body& body) {
    if (parts == 1) {
        body(0);
        return true;
    }
#if defined(_OPENMP)
    bool enough = true;
#pragma omp parallel num_threads(parts)
    {
        if (omp_get_num_threads() == parts)
            body(omp_get_thread_num());
        else if (omp_get_thread_num() == 0)
            enough = false;
    }
    return enough;
#elif defined(CGRU_STD_THREADS)
    std::vector<std::thread> others;
    for (int part = 1; part < parts; ++part) others.emplace_back([&body, part] { body(part); });
    body(0);
    for (std::thread& other : others) other.join();
    return true;
#else
    return false;
#endif
}

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) && defined(__GNUC__)
    __asm__ volatile("yield");
#endif
}

// The same for parts that a watch may end. This thread goes on asking while it waits for the others.
template <class Body> bool run_at_once(int parts, Watch& watch, const Body& body) {
    std::atomic<int> finished{0};
    return run_at_once(parts, [&](int part) {
        body(part);
        if (part > 0) {
            finished.fetch_add(1, std::memory_order_release);
            return;
        }
        for (int waited = 0; finished.load(std::memory_order_acquire) < parts - 1; ++waited) {
            if (waited < 4000)
                relax();
            else if (waited < 8000)
                std::this_thread::yield();
            else
                std::this_thread::sleep_for(std::chrono::microseconds(200));
            if (waited >= 4000) watch.goes_on(between_looks);
        }
    });
}

// Where threads wait for each other. Waiting is spinning, a fraction of a microsecond when all of them have a core;
// when not, giving the core away to whom they wait for, and `lost` counts the first member's seconds of that.
class Meeting {
  public:
    explicit Meeting(int size) : size(size) {}
    const int size;
    double lost = 0;  // the first member's own

    // `meetings`: how many this member has been at. False if the call ends; nobody waits then, and some may have left.
    bool wait(int64_t& meetings, int member, Watch& watch) {
        const int64_t all = ++meetings * size;
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == all) return true;
        for (int spins = 0; spins < 4000; ++spins) {
            if (arrived.load(std::memory_order_acquire) >= all) return true;
            relax();
        }
        const double start = member == 0 ? seconds_now() : 0;
        bool met;
        while (!(met = arrived.load(std::memory_order_acquire) >= all) && watch.goes_on(between_looks / 10))
            std::this_thread::yield();
        if (member == 0) lost += seconds_now() - start;
        return met;
    }

  private:
    std::atomic<int64_t> arrived{0};
};

}  // namespace
}  // namespace cgru

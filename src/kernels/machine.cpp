// What the machine does in a second and what its threads cost, measured when a call first might use more than one.
#include <math.h>
#include <stdlib.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "kernels.h"
#include "parallel.h"

namespace cgru {
namespace {

template <class Call> double best_of(int times, const Call& call) {
    double best = 1e9;
    for (int i = 0; i < times; ++i) {
        const double start = seconds_now();
        call();
        best = std::min(best, seconds_now() - start);
    }
    return best;
}

double measure_flops(const PackedKernels& kernels) {
    double flops = 0;
    const double seconds = best_of(8, [&] { flops = kernels.multiply_adds(1000); });
    return flops / seconds;
}

// Too large for the first-level cache of any processor, small enough for the second.
double measure_bytes(const PackedKernels& kernels) {
    const int64_t count = 192 * 1024 / sizeof(float);
    float* memory = static_cast<float*>(calloc(size_t(count), sizeof(float)));
    if (!memory) return 1e10;
    int downwards = 0;
    const double seconds = best_of(12, [&] { kernels.read(memory, count, downwards ^= 1); });
    free(memory);
    return double(count * sizeof(float)) / seconds;
}

double measure_hot_start() {
    double times[15];
    for (double& time : times) {
        const double start = seconds_now();
        if (!run_at_once(2, [](int) {})) return 1;
        time = seconds_now() - start;
    }
    std::sort(times, times + 15);
    return times[7];
}

// From the call that wakes a sleeping thread to its first instruction.
double measure_cold_start() {
    const int rounds = 5;
    double times[rounds];
    std::mutex mutex;
    std::condition_variable wake;
    int asked = 0;
    std::atomic<int> answered{0};
    const auto sleep = [&] {
        std::unique_lock<std::mutex> lock(mutex);
        for (int i = 1; i <= rounds; ++i) {
            wake.wait(lock, [&] { return asked >= i; });
            answered.store(i, std::memory_order_release);
        }
    };
    const auto rouse = [&] {
        for (int i = 1; i <= rounds; ++i) {
            const double rested = seconds_now() + 1e-4;
            while (seconds_now() < rested) relax();
            const double start = seconds_now();
            {
                std::lock_guard<std::mutex> lock(mutex);
                asked = i;
            }
            wake.notify_one();
            while (answered.load(std::memory_order_acquire) < i) std::this_thread::yield();
            times[i - 1] = seconds_now() - start;
        }
    };
    if (!run_at_once(2, [&](int member) { member == 0 ? rouse() : sleep(); })) return 1;
    std::sort(times, times + rounds);
    return times[rounds / 2];
}

double measure_meeting() {
    const int64_t count = 200;
    return best_of(3, [&] {
        Meeting meeting(2);
        run_at_once(2, [&](int member) {
            int64_t meetings = 0;
            while (meetings < count) meeting.wait(meetings, member);
        });
    }) / double(count);
}

Machine measure(const PackedKernels& kernels) {
    Machine m = {measure_flops(kernels), measure_bytes(kernels), 1, 1, 1};
    if (has_threads) {
        m.hot_start = measure_hot_start();
        m.cold_start = std::max(m.hot_start, measure_cold_start());
        m.meeting = measure_meeting();
    }
    return m;
}

const double crowded = 1e-4;  // a start so slow means that others had the cores while this was measured
const double again = 1;       // seconds after which it is measured anew then

}  // namespace

Machine machine(const PackedKernels& kernels) {
    static std::mutex mutex;
    static Machine measured;
    static double until = -1;  // when to measure next; infinity: not again
    std::lock_guard<std::mutex> lock(mutex);
    if (seconds_now() >= until) {
        measured = measure(kernels);
        until = has_threads && measured.hot_start > crowded ? seconds_now() + again : HUGE_VAL;
    }
    return measured;
}

}  // namespace cgru

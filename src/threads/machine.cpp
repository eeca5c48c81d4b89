// What the machine does in a second and what its threads cost, measured when a call first might use more than one.
#include <math.h>
#include <stdlib.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "kernels.h"
#include "threads/history.h"

namespace cgru {
namespace {

const double enough = 2e-3;  // seconds after which a figure is what it is: others have the cores

template <class Call> double best_of(int times, const Call& call) {
    double best = HUGE_VAL;
    const double begin = seconds_now();
    for (int i = 0; i < times && seconds_now() - begin < enough; ++i) {
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
    bool threads = true;
    const double seconds = best_of(20, [&] { threads = threads && run_at_once(2, [](int) {}); });
    return threads ? seconds : HUGE_VAL;
}

// From the call that wakes a sleeping thread to its first instruction.
double measure_cold_start() {
    std::mutex mutex;
    std::condition_variable wake;
    int asked = 0;  // -1: to stop
    std::atomic<int> answered{0};
    double seconds = HUGE_VAL;
    const auto sleep = [&] {
        std::unique_lock<std::mutex> lock(mutex);
        while (asked >= 0) {
            answered.store(asked, std::memory_order_release);
            wake.wait(lock, [&] { return asked != answered.load(); });
        }
    };
    const auto ask = [&](int what) {
        {
            std::lock_guard<std::mutex> lock(mutex);
            asked = what;
        }
        wake.notify_one();
    };
    const auto rouse = [&] {
        double times[5];
        int count = 0;
        const double begin = seconds_now();
        while (count < 5 && seconds_now() - begin < enough) {
            const double rested = seconds_now() + 1e-4;
            while (seconds_now() < rested) relax();
            const double start = seconds_now();
            ask(count + 1);
            while (answered.load(std::memory_order_acquire) <= count) std::this_thread::yield();
            times[count++] = seconds_now() - start;
        }
        ask(-1);
        std::sort(times, times + count);
        seconds = times[count / 2];
    };
    const bool threads = run_at_once(2, [&](int member) { member == 0 ? rouse() : sleep(); });
    return threads ? seconds : HUGE_VAL;
}

// A meeting as the members of a team have it: each has written a part of a state before, and reads the other's after.
double measure_meeting() {
    const int64_t count = 200, floats = 128;
    alignas(64) float states[2][2][floats] = {};  // of this step and the one before, by member
    return best_of(3, [&] {
        Meeting meeting(2);
        Watch unwatched;
        run_at_once(2, [&](int member) {
            int64_t meetings = 0;
            while (meetings < count) {
                const float(&before)[2][floats] = states[meetings % 2];
                float(&next)[floats] = states[1 - meetings % 2][member];
                for (int64_t i = 0; i < floats; ++i) next[i] = 0.5f * before[1 - member][i] + before[member][i];
                meeting.wait(meetings, member, unwatched);
            }
        });
    }) / double(count);
}

const double crowded = 1e-4;  // a start so slow means that others had the cores while this was measured
const double soon = 0.1;      // seconds after which it is measured anew then
const double later = 1;       // seconds after which it is measured anew otherwise: threads move between cores

void measure_threads(Machine& m, bool cold) {
    m.hot_start = measure_hot_start();
    if (cold) m.cold_start = std::max(m.hot_start, measure_cold_start());
    m.meeting = measure_meeting();
}

History own;
History* seen = &own;

}  // namespace

Machine machine(const PackedKernels& kernels, bool spinning) {
    static std::mutex mutex;
    static Machine m = {0, 0, HUGE_VAL, HUGE_VAL, HUGE_VAL};
    static double next = 0;  // when to measure the threads again
    std::lock_guard<std::mutex> lock(mutex);
    const bool first = m.flops == 0;
    if (first) {
        m.flops = measure_flops(kernels);
        m.bytes = measure_bytes(kernels);
    }
    if (has_threads && seconds_now() >= next && (first || spinning || m.hot_start > crowded)) {
        measure_threads(m, first || m.hot_start > crowded);
        next = seconds_now() + (m.hot_start > crowded ? soon : later);
    }
    return m;
}

History& history() { return *seen; }
void use_history(History* other) { seen = other; }

void set_sharing(Sharing way) { history().sharing = way; }
ThreadCounts thread_counts() { return history().counts(); }

}  // namespace cgru

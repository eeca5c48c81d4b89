// Whether a call goes on. The thread that made it asks now and then, by a function that the caller gives: Python's
// waits for signals (src/interrupt.pxd). What it answers is seen by all threads of the call at their next look; each
// leaves where it is, and what the call has written is of no use.
#pragma once

#include <stdint.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "kernels.h"

namespace cgru {

inline double seconds_now() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

const double between_questions = 0.05;  // seconds: a question may wait 5 ms for the GIL
const double between_looks = 1e6;       // flops: some microseconds, in which reading the clock is nothing
const double piece_flops = 1e9;         // kernels that take longer run in pieces of such a size, about 10 ms

class Watch {
  public:
    Watch() {}
    explicit Watch(Interrupted question) : question(question) {}
    Interrupted question = nullptr;

    bool stopped() const { return stop.load(std::memory_order_relaxed); }

    // After so much work, in flops: whether the call goes on.
    bool goes_on(double flops) {
        if (question && std::this_thread::get_id() == owner && (work += flops) > between_looks) look();
        return !stopped();
    }

  private:
    const std::thread::id owner = std::this_thread::get_id();
    double work = 0, next = 0;  // the owner's own
    std::atomic<bool> stop{false};

    void look() {
        work = 0;
        const double now = seconds_now();
        if (now < next) return;
        const bool first = next == 0;
        next = now + between_questions;
        if (first || stopped()) return;
        switch (question()) {
            case answer_go_on: break;
            case answer_stop: stop.store(true, std::memory_order_relaxed); break;
            case answer_never_ask: question = nullptr;
        }
    }
};

}  // namespace cgru

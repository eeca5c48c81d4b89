// What the calls of this process have seen of threads: whether they sleep, and whether others have the cores. One
// history for all engines, as the threads are the same; of modules that are linked apart it is the first one's.
#pragma once

#include "threads/share.h"

namespace cgru {

const double smallest_shared = 1e6;  // flops below which no machine's second thread repays its start
const double burst = 1e-3;           // seconds in which threads that have shared a call still spin for the next
const double worthwhile = 0.9;       // more threads must promise to take at most so much of the time of one

// Calls from several threads at once write this in any order, which may cost one of them its best plan, never its
// result.
class History {
  public:
    std::atomic<int> sharing{sharing_measured};

    // Whether sharing may be tried again after others had the cores; whether the other threads spin.
    bool may_share(double now) const { return patience.may_share(now); }
    bool spinning(double now) const { return now - last_shared.load() < burst; }

    // Whether a call that threads would make faster by `gain` should wake them. In a row of calls it need not repay
    // that alone: they are woken once the calls of the row, this one too, could have saved as much, so no row loses
    // more than twice that.
    bool worth_waking(const Machine& m, double now, double gain) {
        if (cold_start.load() == 0) cold_start = m.cold_start;
        const double could = gain + (now - last_call.load() < burst ? missed.load() : 0);
        const bool wake = could > cold_start.load();
        missed = wake ? 0 : could;
        return wake;
    }

    // A shared call has ended; by `cold` its threads slept before it. `late` are the seconds for which its first thread
    // waited in all, `lost` those for which others had the cores.
    template <class Run> void note_shared(const Run& run, double late, double lost, bool cold) {
        if (cold) {
            cold_start = 0.7 * cold_start.load() + 0.3 * late;
        } else {
            patience.note(run.end, lost);
            abandoned += lost > 0;
        }
        last_shared = run.end;
        shared += run.ran;
    }

    // A call that might have been shared has ended.
    void note_end() { last_call = seconds_now(); }

    ThreadCounts counts() const { return {shared.load(), abandoned.load()}; }

  private:
    std::atomic<int64_t> shared{0}, abandoned{0};      // calls
    std::atomic<double> last_call{0}, last_shared{0};  // when the last call, and the last shared one, ended
    std::atomic<double> cold_start{0};                 // seconds that sleeping threads took to begin; 0: unknown
    std::atomic<double> missed{0};                     // seconds that sharing would have saved in this row of calls
    Patience patience;
};

}  // namespace cgru

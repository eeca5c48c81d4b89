// How rows are shared out among threads, and when it pays: the same for the packed engine and for training.
//
// Rows are sequences in the order of falling length, so those that still run at a step are the first ones. Threads own
// whole tiles of rows. Parts of the same work end at about the same time if every thread has a core of its own: a first
// thread that waits for others has lost its cores to another process, and for a while calls had better stay on one
// thread.
#pragma once

#include "threads/parallel.h"

namespace cgru {
namespace {

inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The steps of so many rows of these lengths.
inline double total(const int64_t* lengths, int64_t count) {
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) sum += double(lengths[i]);
    return sum;
}

// How many of `count` rows have a step t; lengths fall, or are null: all rows.
inline int64_t rows_with(const int64_t* lengths, int64_t count, int64_t t) {
    int64_t low = 0, high = count;
    while (lengths && low < high) {
        const int64_t middle = (low + high) / 2;
        if (lengths[middle] > t)
            low = middle + 1;
        else
            high = middle;
    }
    return high;
}

// The first row of one of so many parts: tiles stay whole, and every part has about as many steps to run.
inline int64_t first_row(const int64_t* lengths, int64_t batch, int64_t tile, int part, int parts) {
    const int64_t tiles = (batch + tile - 1) / tile;
    if (part == parts) return batch;
    if (!lengths) return smaller(batch, tiles * part / parts * tile);
    const double wanted = total(lengths, batch) * part / parts;
    int64_t row = 0;
    for (double sum = 0; row < batch && sum < wanted; row = smaller(row + tile, batch))
        sum += total(lengths + row, smaller(tile, batch - row));
    return row;
}

// body(part) for all parts at once, and what that cost: `waited` are the seconds of this thread for the others, `lost`
// the same where they are more than threads with a core each ever wait.
struct SharedRun {
    bool ran;  // false: there are not so many threads to be had, and nothing has run
    double end, waited, lost;
};
template <class Body> SharedRun run_shared(int parts, Watch& watch, const Body& body) {
    const double start = seconds_now();
    double own = 0;
    const bool ran = run_at_once(parts, watch, [&](int part) {
        body(part);
        if (part == 0) own = seconds_now() - start;
    });
    const double end = seconds_now(), waited = end - start - own;
    return {ran, end, waited, waited > own / 2 + 5e-4 ? waited : 0};
}

}  // namespace

// After seconds lost to other processes: for each of them so many alone. Calls from several threads at once write this
// in any order, which may cost one of them its best plan, never its result.
class Patience {
  public:
    bool may_share(double now) const { return now >= until.load(); }
    void note(double now, double lost) {
        if (lost > 0) until = now + 20 * lost;
    }

  private:
    std::atomic<double> until{0};
};

}  // namespace cgru

// The packed engine's loop over time: which rows run, where their inputs, products, states and outputs are, and which
// thread has them. The arithmetic is in packed.h.
//
// Threads own rows where there are rows enough: each runs its sequences from the first step to the last without meeting
// another. Of a few sequences through large weights each thread owns blocks of units, a part of the weights that its own
// core's cache may hold, and they meet once a step.
#include <stdlib.h>
#include <string.h>

#include <atomic>
#include <thread>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "rows.h"

namespace cgru {
namespace {

const int64_t product_bytes = 128 * 1024;    // of input products made at once: they stay in a core's second-level cache
const double parallel_flops = 4e6;           // work from which a thread more repays its start (some 40 us)
const int64_t split_weights = 3 << 18;       // bytes of recurrent weights from which splitting them repays the meetings,
const double split_flops = 2e7;              // in calls so long (some 300 us) that a busy machine's delays weigh little

int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

#if defined(__x86_64__)
inline void relax() { __builtin_ia32_pause(); }
#else
inline void relax() {}
#endif

// Threads that share the states of their rows, and where they meet. Waiting is spinning, a fraction of a microsecond
// when all of them have a core; when not, giving the core away to whom they wait for.
struct Team {
    const int size;
    float *state = nullptr, *other = nullptr, *reset_state = nullptr, *update = nullptr;
    std::atomic<int64_t> arrived{0};

    explicit Team(int size) : size(size) {}
    void meet(int64_t& meetings) {
        const int64_t all = ++meetings * size;
        if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == all) return;
        for (int spins = 0; arrived.load(std::memory_order_acquire) < all; ++spins) {
            if (spins < 4000)
                relax();
            else
                std::this_thread::yield();
        }
    }
};

// The sequences [first, last) of a call, and their part of the scratch memory; with a team, a member's share of the units.
class Rows {
  public:
    Rows(const PackedKernels& kernels, const PackedCall& call, int64_t first, int64_t last, Team* team = nullptr,
         int member = 0)
        : team(team), member(member), kernels(kernels), call(call), layer(*call.layer), first(first), count(last - first),
          stride(row_stride(layer, kernels.lanes)), width(layer.blocks * 3 * kernels.lanes) {
        together = layer.reset_after && count >= kernels.tile_rows;
        chunk = together ? 1 : larger(1, smaller(call.steps, product_bytes / int64_t(sizeof(float)) / (count * width)));
        dense = call.x_feature != 1;
    }

    // Bytes of scratch that `run` takes; they come zeroed.
    int64_t scratch_size() const {
        return Parts::size<float*>(chunk * count) + Parts::size<float*>(count) + 4 * Parts::size<float>(count * stride) +
               Parts::size<float>(together ? 0 : chunk * count * width) +
               Parts::size<float>(dense ? chunk * count * layer.inputs : 0);
    }

    void run(char* scratch) {
        FlushDenormals mode;
        Parts parts(scratch);
        x_rows = parts.take<const float*>(chunk * count);
        y_rows = parts.take<float*>(count);
        memset(&step, 0, sizeof step);
        step.x = x_rows;
        step.y = y_rows;
        step.stride = stride;
        step.last_block = layer.blocks;
        state = parts.take<float>(count * stride);
        other = parts.take<float>(count * stride);
        step.reset_state = parts.take<float>(count * stride);
        step.update = parts.take<float>(count * stride);
        products = parts.take<float>(together ? 0 : chunk * count * width);
        dense_x = parts.take<float>(dense ? chunk * count * layer.inputs : 0);
        if (team) join();

        for (int64_t done = 0; done < call.steps; done += chunk) {
            const int64_t size = smaller(chunk, call.steps - done);
            run_chunk(call.reverse ? call.steps - done - size : done, size);
        }
        if (!team || member == 0) enter(0);
    }

  private:
    Team* const team;
    const int member;
    int64_t meetings = 0;
    const PackedKernels& kernels;
    const PackedCall& call;
    const PackedLayer& layer;
    const int64_t first, count, stride, width;
    int64_t chunk;
    bool together, dense;
    int64_t running = 0;  // rows whose state is in `state`; the others' is in the call's array
    const float** x_rows;
    float** y_rows;
    float *state, *other, *products, *dense_x;
    PackedStep step;

    // Take the team's states and a share of the blocks; the first member provides the states, with the rows in them.
    void join() {
        step.first_block = layer.blocks * member / team->size;
        step.last_block = layer.blocks * (member + 1) / team->size;
        if (member == 0) {
            enter(count);
            team->state = state;
            team->other = other;
            team->reset_state = step.reset_state;
            team->update = step.update;
        }
        team->meet(meetings);
        state = team->state;
        other = team->other;
        step.reset_state = team->reset_state;
        step.update = team->update;
        running = count;
    }

    int64_t sequence(int64_t row) const { return call.order ? call.order[first + row] : first + row; }

    // How many rows have a step t: lengths fall.
    int64_t rows_at(int64_t t) const {
        if (!call.lengths) return count;
        int64_t low = 0, high = count;
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            if (call.lengths[first + middle] > t)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }

    // Let so many rows run: states of those that begin are fetched, of those that end put back.
    void enter(int64_t rows) {
        const int64_t H = layer.hidden;
        for (int64_t i = running; i < rows; ++i) memcpy(state + i * stride, call.state + (first + i) * H, H * sizeof(float));
        for (int64_t i = rows; i < running; ++i) memcpy(call.state + (first + i) * H, state + i * stride, H * sizeof(float));
        running = rows;
    }

    // Addresses of the inputs of the steps [start, start + size), `rows` a step; copied where a row is not contiguous.
    void find_inputs(int64_t start, int64_t size, int64_t rows) {
        for (int64_t t = 0; t < size; ++t)
            for (int64_t i = 0; i < rows; ++i) {
                const float* x = call.x + (start + t) * call.x_step + sequence(i) * call.x_sequence;
                if (dense) {
                    float* copy = dense_x + (t * rows + i) * layer.inputs;
                    for (int64_t k = 0; k < layer.inputs; ++k) copy[k] = x[k * call.x_feature];
                    x = copy;
                }
                x_rows[t * rows + i] = x;
            }
    }

    void run_chunk(int64_t start, int64_t size) {
        const int64_t most = rows_at(start);
        find_inputs(start, size, most);
        step.first_row = 0;
        if (!together) {
            step.products = products;
            step.last_row = size * most;
            kernels.input_product(layer, step);
        }
        for (int64_t k = 0; k < size; ++k) {
            const int64_t t = call.reverse ? size - 1 - k : k;
            const int64_t rows = rows_at(start + t);
            enter(rows);
            for (int64_t i = 0; i < count; ++i) {
                float* y = call.y + (start + t) * call.y_step + sequence(i) * call.y_sequence;
                y_rows[i] = y;
                if (i >= rows) memset(y, 0, layer.hidden * sizeof(float));
            }
            step.products = together ? nullptr : products + t * most * width;
            step.last_row = rows;
            step.state = state;
            step.next = other;
            step.downwards = !step.downwards;
            if (together) {
                kernels.step_from_input(layer, step);
            } else if (layer.reset_after) {
                kernels.step(layer, step);
            } else {
                kernels.gates_before(layer, step);
                if (team) team->meet(meetings);
                kernels.state_before(layer, step);
            }
            if (team) team->meet(meetings);
            float* swap = state;
            state = other;
            other = swap;
        }
    }
};

// Run the parts that `make` gives, each on a thread of its own. Returns 1 if there is no memory, and 2 if there are not
// threads enough, which parts that meet each other cannot do without; nothing has run then.
template <class Make> int run_parts(const Make& make, int parts, bool all_at_once) {
    int64_t size = 0;
    for (int part = 0; part < parts; ++part) size = larger(size, make(part).scratch_size());
    size = (size + 127) / 64 * 64;
    char* scratch = static_cast<char*>(calloc(1, size_t(parts * size)));
    if (!scratch) return 1;
    int result = 0;
    if (parts == 1) {
        make(0).run(scratch);
    } else if (!all_at_once) {
#pragma omp parallel for num_threads(parts) schedule(static, 1)
        for (int part = 0; part < parts; ++part) make(part).run(scratch + part * size);
    } else {
#if defined(_OPENMP)
#pragma omp parallel num_threads(parts)
        {
            const int part = omp_get_thread_num();
            if (omp_get_num_threads() == parts)
                make(part).run(scratch + part * size);
            else if (part == 0)
                result = 2;
        }
#else
        result = 2;
#endif
    }
    free(scratch);
    return result;
}

}  // namespace

int run_packed_call(const PackedKernels& kernels, const PackedCall& call) {
    const PackedLayer& layer = *call.layer;
    const double flops = 6.0 * double(call.steps) * double(call.batch) * layer.hidden * (layer.inputs + layer.hidden);
    const int64_t threads = smaller(call.threads, 1 + int64_t(flops / parallel_flops));
    const int64_t tiles = (call.batch + kernels.tile_rows - 1) / kernels.tile_rows;
    const int64_t parts = larger(1, smaller(threads, tiles));

    const bool heavy = 3 * layer.hidden * layer.hidden * int64_t(sizeof(float)) >= split_weights;
    if (parts == 1 && threads > 1 && heavy && flops >= split_flops && !call.lengths) {
        Team team(int(smaller(threads, layer.blocks)));
        const auto share = [&](int member) { return Rows(kernels, call, 0, call.batch, &team, member); };
        const int result = run_parts(share, team.size, true);
        if (result != 2) return result;
    }
    // Parts begin at a tile's first row, so that only the last has rows left over.
    const auto edge = [&](int64_t part) { return smaller(call.batch, tiles * part / parts * kernels.tile_rows); };
    const auto rows = [&](int part) { return Rows(kernels, call, edge(part), edge(part + 1)); };
    return run_parts(rows, int(parts), false);
}

}  // namespace cgru

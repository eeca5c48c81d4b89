// The packed engine's loop over time: which rows run, where their inputs, products, states and outputs are, and which
// thread has them. The arithmetic is in packed.h. Threads own rows: each runs its sequences from the first step to the
// last without meeting another.
#include <stdlib.h>
#include <string.h>

#include "rows.h"

namespace cgru {
namespace {

const int64_t product_bytes = 128 * 1024;    // of input products made at once: they stay in a core's second-level cache
const double parallel_flops = 4e6;           // work from which a thread more repays its start (some 40 us)

int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// The sequences [first, last) of a call, and their part of the scratch memory.
class Rows {
  public:
    Rows(const PackedKernels& kernels, const PackedCall& call, int64_t first, int64_t last)
        : kernels(kernels), call(call), layer(*call.layer), first(first), count(last - first),
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
        state = parts.take<float>(count * stride);
        other = parts.take<float>(count * stride);
        memset(&step, 0, sizeof step);
        step.x = x_rows;
        step.y = y_rows;
        step.stride = stride;
        step.last_block = layer.blocks;
        step.reset_state = parts.take<float>(count * stride);
        step.update = parts.take<float>(count * stride);
        products = parts.take<float>(together ? 0 : chunk * count * width);
        dense_x = parts.take<float>(dense ? chunk * count * layer.inputs : 0);

        for (int64_t done = 0; done < call.steps; done += chunk) {
            const int64_t size = smaller(chunk, call.steps - done);
            run_chunk(call.reverse ? call.steps - done - size : done, size);
        }
        enter(0);
    }

  private:
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
                kernels.state_before(layer, step);
            }
            float* swap = state;
            state = other;
            other = swap;
        }
    }
};

}  // namespace

int run_packed_call(const PackedKernels& kernels, const PackedCall& call) {
    const PackedLayer& layer = *call.layer;
    const double flops = 6.0 * double(call.steps) * double(call.batch) * layer.hidden * (layer.inputs + layer.hidden);
    int64_t parts = smaller(call.threads, 1 + int64_t(flops / parallel_flops));
    parts = larger(1, smaller(parts, (call.batch + kernels.tile_rows - 1) / kernels.tile_rows));
    // Parts begin at a tile's first row, so that only the last has rows left over.
    const int64_t tiles = (call.batch + kernels.tile_rows - 1) / kernels.tile_rows;
    const auto edge = [&](int64_t part) { return smaller(call.batch, tiles * part / parts * kernels.tile_rows); };

    int64_t size = 0;
    for (int64_t part = 0; part < parts; ++part)
        size = larger(size, Rows(kernels, call, edge(part), edge(part + 1)).scratch_size());
    size = (size + 127) / 64 * 64;
    char* scratch = static_cast<char*>(calloc(size_t(parts), size_t(size)));
    if (!scratch) return 1;
    if (parts == 1) {
        Rows(kernels, call, 0, call.batch).run(scratch);
    } else {
#pragma omp parallel for num_threads(int(parts)) schedule(static, 1)
        for (int part = 0; part < int(parts); ++part)
            Rows(kernels, call, edge(part), edge(part + 1)).run(scratch + part * size);
    }
    free(scratch);
    return 0;
}

}  // namespace cgru

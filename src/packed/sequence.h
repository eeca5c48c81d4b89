// The packed engine's loop over time for one direction of one layer: which rows run, where their inputs, products,
// states and outputs are. The arithmetic is in tiles.h; which thread has which rows or units is decided in
// sequence.cpp.
#pragma once

#include <string.h>

#include "packed/rows.h"
#include "threads/share.h"

namespace cgru {
namespace {

const int64_t product_bytes = 128 * 1024;  // of input products made at once: they stay in a core's second-level cache
const int64_t large_rows = 64;             // rows for which large input weights are read at once, if as many come
const int64_t fewest_rows = 256;           // of a piece of a kernel, so that a block's weights are read for many
const double step_flops = 200;             // the time of a step's bookkeeping in arithmetic, and of a row's

// One direction of one layer over some steps of all sequences.
struct Pass {
    const PackedLayer* layer;
    int64_t steps, batch;
    const float* x;  // (T, B, I) at these strides; read
    int64_t x_step, x_sequence, x_feature;
    float* state;  // (B, H) contiguous, in the order of `order`
    float* y;      // (T, B, H) at these strides, units contiguous; written
    int64_t y_step, y_sequence;
    const int64_t* order;    // [B] or null
    const int64_t* lengths;  // [B] falling, of these steps; or null
    const uint8_t* fresh;    // (T, B): 1 where a row starts anew before a step; or null
    const float* start;      // (B, H): the states it starts from
    bool reverse;
    Watch* watch;
};

// Threads that share the states of their rows and own a part of the units each; they meet once a step, or twice.
struct Team {
    Meeting meeting;
    float *state = nullptr, *other = nullptr, *reset_state = nullptr, *update = nullptr;
    bool abandoned = false;  // written by the first member before a meeting, read by all after it
    double lost = 0;         // seconds that the first member waited for cores

    explicit Team(int size) : meeting(size) {}
};

// The sequences [first, last) of a pass, and their part of the scratch memory; with a team, a member's share of the
// units.
class Rows {
  public:
    Rows(const PackedKernels& kernels, const Pass& pass, int64_t first, int64_t last, Team* team = nullptr,
         int member = 0)
        : team(team), member(member), kernels(kernels), compute(kernels.of[pass.layer->storage]), pass(pass),
          watch(*pass.watch), layer(*pass.layer), first(first), count(last - first),
          stride(row_stride(layer, kernels.lanes)), width(layer.blocks * cells[layer.cell].gates * kernels.lanes),
          row_flops(flops_of(cells[layer.cell], layer.inputs, layer.hidden, 1)) {
        together = compute.of[layer.cell].from_input && count >= kernels.tile_rows;
        const bool large = width * layer.inputs * compute.bytes > large_weights;
        const int64_t rows = larger(product_bytes / int64_t(sizeof(float)) / width, large ? large_rows : 1);
        const int64_t steps = rows / larger(1, count);
        chunk = together || count == 0 ? 1 : larger(1, smaller(pass.steps, steps));
        dense = pass.x_feature != 1;
        const double fewest = double(fewest_rows) * row_flops;
        piece_rows = larger(1, int64_t(piece_flops / fewest)) * fewest_rows;
        piece_blocks =
            fewest > piece_flops ? larger(1, int64_t(double(layer.blocks) * piece_flops / fewest)) : layer.blocks;
    }

    // Bytes of scratch that `run` takes.
    int64_t scratch_size() const {
        return Parts::size<float*>(chunk * count) + Parts::size<float*>(count) +
               4 * Parts::size<float>(count * stride) + Parts::size<float>(together ? 0 : chunk * count * width) +
               Parts::size<float>(dense ? chunk * count * layer.inputs : 0) +
               Parts::narrow_size(compute, chunk * count, layer.inputs) +
               Parts::narrow_size(compute, count, layer.hidden);
    }

    // Run all steps, or as many as the watch lets.
    void run(char* scratch) {
        if (count == 0) return;
        FlushDenormals mode;
        Parts parts(scratch);
        x_rows = parts.take<const float*>(chunk * count);
        y_rows = parts.take<float*>(count);
        memset(&step, 0, sizeof step);
        step.x = x_rows;
        step.y = y_rows;
        step.stride = stride;
        step.last_block = layer.blocks;
        state = take_states(parts);
        other = take_states(parts);
        step.reset_state = take_states(parts);
        step.update = take_states(parts);
        products = parts.take<float>(together ? 0 : chunk * count * width);
        dense_x = parts.take<float>(dense ? chunk * count * layer.inputs : 0);
        step.narrow_x = parts.take_narrow(compute, chunk * count, layer.inputs);
        step.narrow_state = parts.take_narrow(compute, count, layer.hidden);
        if (team && !join()) return;

        for (int64_t done = 0; done < pass.steps; done += chunk) {
            const int64_t size = smaller(chunk, pass.steps - done);
            const double started = team && member == 0 ? seconds_now() : 0;
            if (!run_chunk(pass.reverse ? pass.steps - done - size : done, size) || (team && !stay(started))) return;
        }
        if (member == 0) enter(0);
    }

  private:
    Team* team;
    const int member;
    int64_t meetings = 0;
    const PackedKernels& kernels;
    const StorageKernels& compute;
    const Pass& pass;
    Watch& watch;
    const PackedLayer& layer;
    const int64_t first, count, stride, width;
    const double row_flops;  // of a step
    int64_t chunk, piece_rows, piece_blocks;
    bool together, dense;
    int64_t running = 0;  // rows whose state is in `state`; the others' is in the pass' array
    const float** x_rows;
    float** y_rows;
    float *state, *other, *products, *dense_x;
    PackedStep step;

    // Room for a state of every row, zero where no unit is.
    float* take_states(Parts& parts) {
        float* states = parts.take<float>(count * stride);
        const size_t unused = size_t(stride - layer.hidden) * sizeof(float);
        for (int64_t i = 0; i < count; ++i) memset(states + i * stride + layer.hidden, 0, unused);
        return states;
    }

    bool meet() { return team->meeting.wait(meetings, member, watch); }

    // Take the team's states and a share of the blocks; the first member provides the states, with the rows in them.
    bool join() {
        step.first_block = layer.blocks * member / team->meeting.size;
        step.last_block = layer.blocks * (member + 1) / team->meeting.size;
        if (member == 0) {
            enter(count);
            team->state = state;
            team->other = other;
            team->reset_state = step.reset_state;
            team->update = step.update;
        }
        if (!meet()) return false;
        state = team->state;
        other = team->other;
        step.reset_state = team->reset_state;
        step.update = team->update;
        running = count;
        return true;
    }

    // After a chunk: whether this member has more to do. If the first member has waited for cores that others had for
    // most of a chunk's time, it goes on alone.
    bool stay(double started) {
        if (member == 0) {
            team->abandoned = team->meeting.lost > 0.5 * (seconds_now() - started);
            team->lost += team->meeting.lost;
            team->meeting.lost = 0;
        }
        if (!meet()) return false;
        if (!team->abandoned) return true;
        if (member > 0) return false;
        team = nullptr;
        step.first_block = 0;
        step.last_block = layer.blocks;
        return true;
    }

    int64_t sequence(int64_t row) const { return pass.order ? pass.order[first + row] : first + row; }

    int64_t rows_at(int64_t t) const { return rows_with(pass.lengths ? pass.lengths + first : nullptr, count, t); }

    // Let so many rows run: states of those that begin are fetched, of those that end put back.
    void enter(int64_t rows) {
        const int64_t H = layer.hidden;
        for (int64_t i = running; i < rows; ++i)
            memcpy(state + i * stride, pass.state + (first + i) * H, H * sizeof(float));
        for (int64_t i = rows; i < running; ++i)
            memcpy(pass.state + (first + i) * H, state + i * stride, H * sizeof(float));
        running = rows;
    }

    // Rows that start anew before step t take the states they start from. False if the call ends.
    bool restart(int64_t t, int64_t rows) {
        const uint8_t* fresh = pass.fresh + t * pass.batch + first;
        if (!memchr(fresh, 1, size_t(rows))) return true;
        const int64_t H = layer.hidden;
        for (int64_t i = 0; i < rows && member == 0; ++i)
            if (fresh[i]) memcpy(state + i * stride, pass.start + (first + i) * H, size_t(H) * sizeof(float));
        return !team || meet();
    }

    // A kernel over the rows of the step, in pieces where that takes long. False if the call ends.
    bool compute_rows(void (*kernel)(const PackedLayer&, const PackedStep&), int64_t rows) {
        step.last_row = rows;
        if (rows <= piece_rows && step.last_block - step.first_block <= piece_blocks) {
            kernel(layer, step);
            return true;
        }
        PackedStep piece = step;
        for (int64_t row = 0; row < rows; row += piece_rows)
            for (int64_t block = step.first_block; block < step.last_block; block += piece_blocks) {
                piece.first_row = row;
                piece.last_row = smaller(rows, row + piece_rows);
                piece.first_block = block;
                piece.last_block = smaller(step.last_block, block + piece_blocks);
                kernel(layer, piece);
                if (!watch.goes_on(between_looks)) return false;
            }
        return true;
    }

    // Addresses of the inputs of the steps [start, start + size), `rows` a step; copied where a row is not contiguous.
    // False if the call ends.
    bool find_inputs(int64_t start, int64_t size, int64_t rows) {
        for (int64_t t = 0; t < size; ++t)
            for (int64_t i = 0; i < rows; ++i) {
                const float* x = pass.x + (start + t) * pass.x_step + sequence(i) * pass.x_sequence;
                if (dense) {
                    float* copy = dense_x + (t * rows + i) * layer.inputs;
                    for (int64_t k = 0; k < layer.inputs; ++k) copy[k] = x[k * pass.x_feature];
                    x = copy;
                    if (!watch.goes_on(step_flops * double(layer.inputs))) return false;
                }
                x_rows[t * rows + i] = x;
            }
        return true;
    }

    // False if the call ends.
    bool run_chunk(int64_t start, int64_t size) {
        const int64_t most = rows_at(start);
        if (!find_inputs(start, size, most)) return false;
        step.first_row = 0;
        if (!together) {
            step.products = products;
            if (!compute_rows(compute.of[layer.cell].input_product, size * most)) return false;
        }
        for (int64_t k = 0; k < size; ++k) {
            const int64_t t = pass.reverse ? size - 1 - k : k;
            const int64_t rows = rows_at(start + t);
            enter(rows);
            if (pass.fresh && !restart(start + t, rows)) return false;
            for (int64_t i = 0; i < count; ++i) {
                float* y = pass.y + (start + t) * pass.y_step + sequence(i) * pass.y_sequence;
                y_rows[i] = y;
                if (i >= rows) memset(y, 0, layer.hidden * sizeof(float));
            }
            step.products = together ? nullptr : products + t * most * width;
            step.state = state;
            step.next = other;
            step.downwards = !step.downwards;
            const PackedCellKernels& cell = compute.of[layer.cell];
            for (int p = 0; p < cells[layer.cell].phases; ++p) {
                if (p && team && !meet()) return false;
                if (!compute_rows(together ? cell.from_input : cell.phase[p], rows)) return false;
            }
            if (team && !meet()) return false;
            float* swap = state;
            state = other;
            other = swap;
        }
        return watch.goes_on(double(size) * (double(most) * row_flops + step_flops * double(1 + count)));
    }
};

}  // namespace
}  // namespace cgru

// Steps that have weights: products, and recurrent layers with their loop over time, on the kernels of packed/.
#pragma once

#include <string.h>

#include "packed/rows.h"
#include "program/elements.h"

namespace cgru {
namespace {

const int64_t at_once = 128;            // rows of a product, or of a recurrent layer, that are taken at once
const int64_t ahead_bytes = 64 * 1024;  // of input products of a recurrent layer made for several steps

struct Layers : Elements {
    using Elements::Elements;

    // What rows of a product go through, while they are still near.
    struct Finish {
        const Step& step;
        const NodeKernels<float>& nodes;
        float** y;                          // [at_once], as long as rows are gathered
        const float** beside[most_after];   // of each function its operand's
        int64_t first_output, outputs;      // those of them that are computed

        // Rows [0, count), of which those that follow each other at one distance are done at once.
        void run(int64_t count) const {
            for (int64_t first = 0; step.afters && first < count;) {
                int64_t last = first + 1;
                while (last < count && follows(first, last)) ++last;
                for (int i = 0; i < step.afters; ++i) apply(i, first, last - first);
                first = last;
            }
        }

      private:
        bool follows(int64_t first, int64_t row) const {
            if (row == first + 1) return true;
            bool all = y[row] - y[row - 1] == y[first + 1] - y[first];
            for (int i = 0; i < step.afters; ++i)
                if (step.after[i].operand)
                    all = all && beside[i][row] - beside[i][row - 1] == beside[i][first + 1] - beside[i][first];
            return all;
        }
        void apply(int i, int64_t first, int64_t rows) const {
            const After& after = step.after[i];
            float* out = y[first] + first_output;
            const float* other = after.operand ? beside[i][first] + first_output : out;
            const int64_t next = rows > 1 ? y[first + 1] - y[first] : outputs;
            const int64_t next_other = rows > 1 && after.operand ? beside[i][first + 1] - beside[i][first] : next;
            Lines<float> lines = {rows, outputs, out, {out, other, other},
                                  next, {next, next_other, next}, float(after.p), float(after.q)};
            if (next == outputs && next_other == next) {
                lines.count *= rows;
                lines.lines = 1;
            }
            nodes.of[after.code](lines);
        }
    };

    // Threads share the positions; of a few, for which each would read all weights, the outputs.
    void product(const Step& step) {
        const StorageKernels& storage = program.packed->of[step.section[0].storage];
        Parts parts(scratch);
        const float** x = parts.take<const float*>(at_once);
        float** y = parts.take<float*>(at_once);
        Outputs own = {false, 0, step.outputs, {0, 0}, {step.section[0].blocks, step.section[1].blocks}};
        if (member) share_outputs(step, own);
        Finish finish = {step, *program.nodes, parts.take<float*>(at_once), {}, own.first, own.count};
        for (const float**& beside : finish.beside) beside = parts.take<const float*>(at_once);
        DenseStep dense;
        dense.x = x;
        dense.y = y;
        dense.first_row = 0;
        dense.downwards = 0;
        for (int i = 0; i < 2; ++i) dense.pieces[i] = step.pieces[i], dense.distances[i] = step.distances[i];
        dense.length = step.length;
        dense.x_next = step.x_next;
        dense.y_next = step.y_next;
        dense.narrow_x = parts.take_narrow(storage, at_once, step.section[0].inputs);
        int64_t count = 0;
        const auto compute = [&]() {
            int64_t first = 0;
            for (int i = 0; i < step.sections; ++i) {
                const PackedLayer& section = step.section[i];
                dense.last_row = count;
                dense.first_block = own.first_block[i];
                dense.last_block = own.last_block[i];
                dense.outputs = step.groups ? step.outputs / step.groups : step.outputs - first;
                (step.groups ? program.nodes->grouped[section.cell - 1] : storage.product[section.cell - 2])(section,
                                                                                                             dense);
                const int64_t width = section.blocks * section.cell * program.packed->lanes;
                for (int64_t k = 0; i + 1 < step.sections && k < count; ++k) y[k] += width;
                first += width;
            }
            finish.run(count);
            goes_on(2 * double(count) * double(own.count) * double(step.section[0].inputs));
            count = 0;
        };
        const auto add = [&](int64_t r, int64_t t, int64_t first, int64_t last) {
            const float* from = at(step.in[0], r, t);
            float* to = at(step.out, r, t);
            int64_t i = 0, j = 0;
            if (first) i = first / step.size[1], j = first % step.size[1];
            for (int64_t n = first; n < last && !left; ++n) {
                x[count] = from + i * step.in[0].stride[0] + j * step.in[0].stride[1];
                finish.y[count] = y[count] = to + i * step.out.stride[0] + j * step.out.stride[1];
                for (int k = 0; k < step.afters; ++k)
                    if (const int operand = step.after[k].operand) {
                        const Operand& of = step.in[operand];
                        finish.beside[k][count] = at(of, r, t) + i * of.stride[0] + j * of.stride[1];
                    }
                if (++count == at_once) compute();
                if (++j == step.size[1]) j = 0, ++i;
            }
        };
        const int64_t positions = step.size[0] * step.size[1];
        if (own.shared)
            for (int64_t n = 0; n < frames() && own.count; ++n) add(n / width, n % width, 0, positions);
        else
            each_part(positions, program.packed->tile_rows, add);
        if (count) compute();
    }

    // Outputs of a product that are this thread's, side by side, and which blocks of its sections they are.
    struct Outputs {
        bool shared;
        int64_t first, count, first_block[2], last_block[2];
    };
    void share_outputs(const Step& step, Outputs& own) const {
        const int64_t rows = frames() * step.size[0] * step.size[1];
        if (member->by_frames || step.groups || rows >= program.packed->tile_rows * member->parts) return;
        int64_t blocks = 0, first, last, begin = 0;
        for (int i = 0; i < step.sections; ++i) blocks += step.section[i].blocks;
        share_of(blocks, 1, member->part, member->parts, first, last);
        own.shared = true;
        own.count = 0;
        for (int i = 0; i < step.sections; ++i) {
            const PackedLayer& section = step.section[i];
            const int64_t size = section.cell * program.packed->lanes, all = section.blocks;
            own.first_block[i] = smaller(all, larger(0, first));
            own.last_block[i] = smaller(all, larger(0, last));
            if (!own.count) own.first = begin + own.first_block[i] * size;
            own.count += (own.last_block[i] - own.first_block[i]) * size;
            begin += all * size;
            first -= all, last -= all;
        }
        own.count = larger(0, smaller(own.count, step.outputs - own.first));
    }
    static int64_t product_scratch(const Program& program, const Step& step) {
        return (3 + most_after) * Parts::size<float*>(at_once) +
               Parts::narrow_size(program.packed->of[step.section[0].storage], at_once, step.section[0].inputs);
    }

    // --- Recurrent layers -----------------------------------------------------------------------------------------

    // A row of a recurrent layer: a line of a frame, or of the frames of a row of the block.
    struct Line {
        const float *x, *start;
        float *y, *end;
        int64_t first, last;  // its steps
    };

    // Threads share the lines, or all run them together; lines of their own frames they have anyway.
    void recurrent(const Step& step) {
        const int64_t lines = step.size[1];
        Line rows[at_once];
        int64_t count = 0, n = 0, first = 0, last = endless;
        if (member && member->way == way_lines && !own_loops(step))
            share_of((step.over_time ? block.rows : frames()) * lines, 1, member->part, member->parts, first, last);
        const auto add = [&](int64_t r, int64_t t) {
            for (int64_t line = 0; line < lines; ++line, ++n) {
                if (n < first || n >= last) continue;
                Line& row = rows[count];
                row.x = at(step.in[0], r, t) + line * step.in[0].stride[1];
                row.y = at(step.out, r, t) + line * step.out.stride[1];
                const bool begins = step.has_initial && block.places[r]->seen == -program.early;
                const Operand& start = step.in[begins ? 3 : 1];
                row.start = start.space ? at(start, r, t) + line * start.stride[1] : nullptr;
                row.end = step.has_end ? at(step.in[2], r, step.over_time ? width - 1 : t) + line * step.in[2].stride[1]
                                       : nullptr;
                row.first = 0;
                row.last = step.size[0];
                if (step.over_time) valid(step.ahead, step.more, r, row.first, row.last);
                if (++count == at_once) run_lines(step, rows, count), count = 0;
            }
        };
        if (step.over_time)
            for (int64_t r = 0; r < block.rows; ++r) add(r, 0);
        else if (!member || member->by_frames)
            each_frame(add);
        else
            for (int64_t i = 0; i < frames(); ++i) add(i / width, i % width);
        if (count) run_lines(step, rows, count);
    }
    bool own_loops(const Step& step) const { return !member || (member->by_frames && !step.over_time); }

    // Rows whose steps differ run one after the other: those at the edges of a sequence, in pools.
    void run_lines(const Step& step, const Line* rows, int64_t count) {
        for (int64_t first = 0; first < count && !left;) {
            int64_t last = first + 1;
            while (last < count && rows[last].first == rows[first].first && rows[last].last == rows[first].last) ++last;
            run_equal(step, rows + first, last - first);
            first = last;
        }
    }

    // Scratch memory of a loop.
    struct Room {
        const float** x;
        float **y, *state, *other, *reset_state, *update, *products;
        NarrowRows narrow_x, narrow_state;

        Room(char* memory, const Program& program, const PackedLayer& layer, int64_t count, int64_t many,
             int64_t width) {
            const StorageKernels& storage = program.packed->of[layer.storage];
            const int64_t stride = row_stride(layer, program.packed->lanes);
            Parts parts(memory);
            x = parts.take<const float*>(many * count);
            y = parts.take<float*>(count);
            state = parts.take<float>(count * stride);
            other = parts.take<float>(count * stride);
            reset_state = parts.take<float>(count * stride);
            update = parts.take<float>(count * stride);
            products = parts.take<float>(many * count * width);
            narrow_x = parts.take_narrow(storage, many * count, layer.inputs);
            narrow_state = parts.take_narrow(storage, count, layer.hidden);
        }
        // What threads that run a loop together have in common lies in the first one's room.
        void share(const Room& first) {
            state = first.state;
            other = first.other;
            reset_state = first.reset_state;
            update = first.update;
            products = first.products;
        }
    };

    void run_equal(const Step& step, const Line* rows, int64_t count) {
        const PackedLayer& layer = *step.layer;
        const Cell& cell = cells[layer.cell];
        const PackedCellKernels& kernels = program.packed->of[layer.storage].of[layer.cell];
        const int64_t H = layer.hidden, stride = row_stride(layer, program.packed->lanes);
        const int64_t steps = rows->last - rows->first;
        const bool together = kernels.from_input && !step.made && (count >= program.packed->tile_rows || steps == 1);
        const int64_t many = together ? 1 : steps_ahead(program, layer, count, steps);
        const int64_t width = layer.blocks * cell.gates * program.packed->lanes;
        const double step_flops = flops_of(cell, layer.inputs, H, double(count));
        bool shared = !own_loops(step) && member->way != way_lines;
        bool units = shared && member->way != way_alone && member->parts > 1;
        const bool first = !shared || member->part == 0;
        Room room(scratch, program, layer, count, many, width);
        if (shared) room.share(Room(member->scratch_of(member->leader), program, layer, count, many, width));
        float *state = room.state, *other = room.other;
        PackedStep packed;
        memset(&packed, 0, sizeof packed);
        packed.stride = stride;
        packed.last_block = layer.blocks;
        packed.reset_state = room.reset_state;
        packed.update = room.update;
        packed.narrow_x = room.narrow_x;
        packed.narrow_state = room.narrow_state;
        packed.y = room.y;
        for (int64_t i = 0; first && i < count; ++i) {
            float* const of[] = {state, other, packed.reset_state, packed.update};
            for (float* row : of) memset(row + i * stride + H, 0, size_t(stride - H) * sizeof(float));
            if (rows[i].start)
                memcpy(state + i * stride, rows[i].start, size_t(H) * sizeof(float));
            else
                memset(state + i * stride, 0, size_t(H) * sizeof(float));
        }
        const int64_t x_step = step.in[0].stride[0], y_step = step.out.stride[0];
        const auto place = [&](int64_t k) { return step.reverse ? rows->last - 1 - k : rows->first + k; };
        for (int64_t done = 0; done < steps; done += many) {
            const int64_t size = smaller(many, steps - done);
            for (int64_t k = 0; k < size; ++k)
                for (int64_t i = 0; i < count; ++i) room.x[k * count + i] = rows[i].x + place(done + k) * x_step;
            if (!together) {
                packed.x = room.x;
                packed.products = room.products;
                packed.first_block = 0;
                packed.last_block = layer.blocks;
                packed.last_row = size * count;
                if (shared)
                    share_of(size * count, program.packed->tile_rows, member->part, member->parts, packed.first_row,
                             packed.last_row);
                if (step.made)
                    for (int64_t i = packed.first_row; i < packed.last_row; ++i)
                        memcpy(room.products + i * width, room.x[i], size_t(width) * sizeof(float));
                else
                    kernels.input_product(layer, packed);
            }
            if (shared && (!together || done == 0) && !meet()) return;
            packed.first_row = 0;
            packed.last_row = count;
            if (units) share_of(layer.blocks, 1, member->part, member->parts, packed.first_block, packed.last_block);
            for (int64_t k = 0; (first || units) && k < size; ++k) {
                for (int64_t i = 0; i < count; ++i) room.y[i] = rows[i].y + place(done + k) * y_step;
                packed.x = room.x + k * count;
                packed.products = room.products + k * count * width;
                packed.state = state;
                packed.next = other;
                packed.downwards = !packed.downwards;
                if (together)
                    kernels.from_input(layer, packed);
                else
                    for (int p = 0; p < cell.phases; ++p) {
                        if (p && units && !meet()) return;
                        kernels.phase[p](layer, packed);
                    }
                if (units && !meet()) return;
                float* const swap = state;
                state = other;
                other = swap;
            }
            if (!goes_on(double(size) * step_flops)) return;
            if (shared && (!together || done % at_once == at_once - 1) && !stay()) return;
            if (shared && !member) {  // alone from here on
                shared = units = false;
                packed.first_block = 0;
                packed.last_block = layer.blocks;
            }
        }
        for (int64_t i = 0; first && i < count; ++i)
            if (rows[i].end) memcpy(rows[i].end, state + i * stride, size_t(H) * sizeof(float));
    }
    // Steps whose input products are made at once.
    static int64_t steps_ahead(const Program& program, const PackedLayer& layer, int64_t count, int64_t steps) {
        const int64_t width = layer.blocks * cells[layer.cell].gates * program.packed->lanes;
        const int64_t rows = larger(1, ahead_bytes / (width * int64_t(sizeof(float))));
        return larger(1, smaller(steps, rows / count));
    }
    static int64_t recurrent_scratch(const Program& program, const Step& step, const Shape& shape) {
        const PackedLayer& layer = *step.layer;
        const StorageKernels& storage = program.packed->of[layer.storage];
        const int64_t all = step.size[1] * shape.rows * (step.over_time ? 1 : shape.frames);
        const int64_t steps = step.over_time ? shape.frames : step.size[0];
        const int64_t most = smaller(at_once, all), stride = row_stride(layer, program.packed->lanes);
        const int64_t width = layer.blocks * cells[layer.cell].gates * program.packed->lanes;
        const int64_t products = larger(most, steps_ahead(program, layer, 1, steps * most));  // rows of them
        return Parts::size<float*>(products) + Parts::size<float*>(most) + 4 * Parts::size<float>(most * stride) +
               Parts::size<float>(products * width) + Parts::narrow_size(storage, products, layer.inputs) +
               Parts::narrow_size(storage, most, layer.hidden);
    }
};

}  // namespace
}  // namespace cgru

// How a network's program runs: see program.h. No arithmetic here: that is in nodes/ and packed/.
#include "program.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "packed/rows.h"
#include "threads/share.h"

namespace cgru {
namespace {

const int64_t at_once = 128;    // rows of a product, or of a recurrent layer, that are taken at once
const int64_t chunk = 256;     // elements of an operand that is read with gaps
const int64_t block_frames = 64;           // of all rows of a block, together
const int64_t arena_bytes = 512 * 1024;    // of a block's arena, about
const double smallest_shared = 1e6;        // flops of a call below which it stays on one thread
const int64_t ahead_bytes = 64 * 1024;  // of input products of a recurrent layer made for several steps

inline void fill_with(float* to, int64_t count, float value) {
    for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// A block of frames while it runs.
struct Run {
    const Program& program;
    const Advance& block;
    const int64_t* rings;  // where each begins in a state
    float* arena;
    char* scratch;
    int64_t width;         // frames of the block
    int64_t begun;         // frames that the rows had seen before the call
    int64_t wrong = -1;    // the step that met an index out of range

    int64_t room() const { return block.shape.rows * block.shape.frames; }
    int64_t frames() const { return block.rows * width; }

    // The frame (r, t) of an operand.
    float* at(const Operand& of, int64_t r, int64_t t) const {
        switch (of.space) {
            case space_arena: return arena + of.offset * room() + (r * width + t) * of.row + of.inside;
            case space_constant: return const_cast<float*>(program.constants) + of.inside;
            case space_state: return block.states[r] + of.inside;
            case space_ring:
                return block.states[r] + rings[of.offset] + (block.places[r]->position + t) * of.row + of.inside;
        }
        return nullptr;
    }

    // call(r, t) for all frames
    template <class F> void each_frame(F call) const {
        for (int64_t r = 0; r < block.rows; ++r)
            for (int64_t t = 0; t < width; ++t) call(r, t);
    }

    // Of the frames of a block those that a late value has: [first, last).
    void valid(int64_t ahead, int64_t more, int64_t r, int64_t& first, int64_t& last) const {
        const int64_t before = ahead - block.places[r]->seen, end = block.end + more + before;
        first = smaller(width, larger(0, before));
        last = larger(first, smaller(width, end));
    }

    // --- Elements -------------------------------------------------------------------------------------------------

    static bool beside(const Operand& of, int axis) { return of.space == space_none || of.stride[axis] == 1; }

    void elementwise(const Step& step) const {
        const Elementwise<float> f = program.nodes->of[step.code];
        const float p = float(step.p), q = float(step.q);
        const int last = most_axes - 1;
        if (step.flat) {
            int64_t count = frames();
            for (int64_t size : step.size) count *= size;
            const float* in[most_operands];
            for (int i = 0; i < most_operands; ++i) in[i] = at(step.in[i], 0, 0);
            f(count, at(step.out, 0, 0), in[0], in[1], in[2], p, q);
            return;
        }
        bool whole = beside(step.out, last);
        for (const Operand& in : step.in) whole = whole && beside(in, last);
        each_frame([&](int64_t r, int64_t t) {
            float* out = at(step.out, r, t);
            const float* in[most_operands];
            for (int i = 0; i < most_operands; ++i) in[i] = at(step.in[i], r, t);
            each_line(step, 0, out, in, [&](float* y, const float* const* x) {
                if (whole)
                    f(step.size[last], y, x[0], x[1], x[2], p, q);
                else
                    with_gaps(step, f, y, x);
            });
        });
    }

    // call(out, in) for each line of the innermost axis
    template <class F>
    void each_line(const Step& step, int axis, float* out, const float* const* in, const F& call) const {
        while (axis < most_axes - 1 && step.size[axis] == 1) ++axis;
        if (axis == most_axes - 1) {
            call(out, in);
            return;
        }
        for (int64_t i = 0; i < step.size[axis]; ++i) {
            const float* moved[most_operands];
            for (int k = 0; k < most_operands; ++k) moved[k] = in[k] + i * step.in[k].stride[axis];
            each_line(step, axis + 1, out + i * step.out.stride[axis], moved, call);
        }
    }

    // A line of operands of which some are one number, or lie apart: those are brought together first.
    static void with_gaps(const Step& step, Elementwise<float> f, float* y, const float* const* x) {
        const int last = most_axes - 1;
        const int64_t count = step.size[last], to = step.out.stride[last];
        float copies[most_operands][chunk], result[chunk];
        for (int64_t i = 0; i < count; i += chunk) {
            const int64_t size = smaller(chunk, count - i);
            const float* in[most_operands];
            for (int k = 0; k < most_operands; ++k) {
                const int64_t apart = step.in[k].stride[last];
                in[k] = x[k] + i * apart;
                if (step.in[k].space == space_none || apart == 1) continue;
                for (int64_t j = 0; j < size; ++j) copies[k][j] = in[k][j * apart];
                in[k] = copies[k];
            }
            f(size, to == 1 ? y + i : result, in[0], in[1], in[2], float(step.p), float(step.q));
            for (int64_t j = 0; to != 1 && j < size; ++j) y[(i + j) * to] = result[j];
        }
    }

    void fill(const Step& step) const {
        const float* none[most_operands] = {};
        each_frame([&](int64_t r, int64_t t) {
            each_line(step, 0, at(step.out, r, t), none, [&](float* y, const float* const*) {
                for (int64_t i = 0; i < step.size[most_axes - 1]; ++i)
                    y[i * step.out.stride[most_axes - 1]] = float(step.p);
            });
        });
    }

    void list(const Step& step) const {
        each_frame([&](int64_t r, int64_t t) {
            float* y = at(step.out, r, t);
            const float* x = at(step.in[0], r, t);
            for (int64_t i = 0; i < step.size[0]; ++i) y[step.to[i]] = x[step.from[i]];
        });
    }

    // The latest frame of a value, in the block's last; from block to block it is kept.
    void latest(const Step& step) const {
        for (int64_t r = 0; r < block.rows; ++r) {
            int64_t first, last;
            valid(step.ahead, step.more, r, first, last);
            const float* from = last > first ? at(step.in[0], r, last - 1) : at(step.in[1], r, 0);
            memcpy(at(step.out, r, width - 1), from, size_t(step.size[0]) * sizeof(float));
        }
    }

    // Rows of a table by index; an index from behind is negative.
    void lookup(const Step& step) {
        const int64_t width = step.size[1], rows = step.size[2];
        each_frame([&](int64_t r, int64_t t) {
            float* y = at(step.out, r, t);
            const float *x = at(step.in[0], r, t), *table = at(step.in[1], r, t);
            for (int64_t i = 0; i < step.size[0]; ++i) {
                float index = x[i * step.in[0].stride[0]];
                index += index < 0 ? float(rows) : 0;
                int64_t row = 0;
                if (index >= 0 && index < float(rows))
                    row = int64_t(index);
                else
                    wrong = &step - program.steps;
                memcpy(y + i * width, table + row * width, size_t(width) * sizeof(float));
            }
        });
    }

    // --- Along an axis --------------------------------------------------------------------------------------------

    template <class F> void each_middle(const Step& step, const F& call) const {
        each_frame([&](int64_t r, int64_t t) {
            call(Middle<float>{step.size[0], step.size[1], step.size[2], at(step.in[0], r, t), at(step.out, r, t)});
        });
    }

    void normalise(const Step& step) const {
        each_frame([&](int64_t r, int64_t t) {
            program.nodes->normalise({step.size[0], step.size[1], at(step.in[0], r, t), at(step.in[1], r, t),
                                      at(step.in[2], r, t), at(step.out, r, t), step.p});
        });
    }

    void window(const Step& step) const {
        const float *weights = program.constants, *bias = nullptr;
        if (step.in[1].space != space_none) weights = at(step.in[1], 0, 0);
        if (step.in[2].space != space_none) bias = at(step.in[2], 0, 0);
        each_frame([&](int64_t r, int64_t t) {
            program.nodes->window({{step.size[0], step.size[1]}, {step.size[2], step.size[3]}, step.size[4],
                                   {step.in[0].stride[0], step.in[0].stride[1]}, {step.strides[0], step.strides[1]},
                                   {step.out.stride[0], step.out.stride[1]}, at(step.in[0], r, t), at(step.out, r, t),
                                   weights, bias, step.p}, step.code);
        });
    }

    void multiply(const Step& step) const {
        each_frame([&](int64_t r, int64_t t) {
            const float *a = at(step.in[0], r, t), *b = at(step.in[1], r, t);
            float* y = at(step.out, r, t);
            for (int64_t i = 0; i < step.size[0]; ++i)
                program.nodes->multiply({step.size[1], step.size[2], step.size[3], a + i * step.in[0].stride[0],
                                         b + i * step.in[1].stride[0], y + i * step.out.stride[0]});
        });
    }

    // --- Products -------------------------------------------------------------------------------------------------

    void product(const Step& step) const {
        const StorageKernels& storage = program.packed->of[step.section[0].storage];
        Parts parts(scratch);
        const float** x = parts.take<const float*>(at_once);
        float** y = parts.take<float*>(at_once);
        DenseStep dense;
        dense.x = x;
        dense.y = y;
        dense.first_row = dense.first_block = 0;
        dense.downwards = 0;
        for (int i = 0; i < 2; ++i) dense.pieces[i] = step.pieces[i], dense.distances[i] = step.distances[i];
        dense.length = step.length;
        dense.narrow_x = parts.take_narrow(storage, at_once, step.section[0].inputs);
        int64_t count = 0;
        float** ends = parts.take<float*>(at_once);
        const Elementwise<float> after = step.code < 0 ? nullptr : program.nodes->of[step.code];
        const float p = float(step.p), q = float(step.q);
        const auto compute = [&]() {
            int64_t first = 0;
            for (int i = 0; i < step.sections; ++i) {
                const PackedLayer& section = step.section[i];
                dense.last_row = count;
                dense.last_block = section.blocks;
                dense.outputs = step.outputs - first;
                storage.product[section.cell - 2](section, dense);
                const int64_t width = section.blocks * section.cell * program.packed->lanes;
                for (int64_t k = 0; i + 1 < step.sections && k < count; ++k) y[k] += width;
                first += width;
            }
            if (after)
                for (int64_t k = 0; k < count; ++k) after(step.outputs, ends[k], ends[k], ends[k], ends[k], p, q);
            count = 0;
        };
        each_frame([&](int64_t r, int64_t t) {
            const float* from = at(step.in[0], r, t);
            float* to = at(step.out, r, t);
            for (int64_t i = 0; i < step.size[0]; ++i)
                for (int64_t j = 0; j < step.size[1]; ++j) {
                    x[count] = from + i * step.in[0].stride[0] + j * step.in[0].stride[1];
                    ends[count] = y[count] = to + i * step.out.stride[0] + j * step.out.stride[1];
                    if (++count == at_once) compute();
                }
        });
        if (count) compute();
    }
    static int64_t product_scratch(const Program& program, const Step& step) {
        return 3 * Parts::size<float*>(at_once) +
               Parts::narrow_size(program.packed->of[step.section[0].storage], at_once, step.section[0].inputs);
    }

    // --- Recurrent layers -----------------------------------------------------------------------------------------

    // A row of a recurrent layer: a line of a frame, or of the frames of a row of the block.
    struct Line {
        const float *x, *start;
        float *y, *end;
        int64_t first, last;  // its steps
    };

    void recurrent(const Step& step) const {
        const int64_t lines = step.size[1];
        Line rows[at_once];
        int64_t count = 0;
        const auto add = [&](int64_t r, int64_t t) {
            for (int64_t line = 0; line < lines; ++line) {
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
        else
            each_frame(add);
        if (count) run_lines(step, rows, count);
    }

    // Rows whose steps differ run one after the other: those at the edges of a sequence, in pools.
    void run_lines(const Step& step, const Line* rows, int64_t count) const {
        for (int64_t first = 0; first < count;) {
            int64_t last = first + 1;
            while (last < count && rows[last].first == rows[first].first && rows[last].last == rows[first].last) ++last;
            run_equal(step, rows + first, last - first);
            first = last;
        }
    }

    void run_equal(const Step& step, const Line* rows, int64_t count) const {
        const PackedLayer& layer = *step.layer;
        const Cell& cell = cells[layer.cell];
        const StorageKernels& storage = program.packed->of[layer.storage];
        const PackedCellKernels& kernels = storage.of[layer.cell];
        const int64_t H = layer.hidden, stride = row_stride(layer, program.packed->lanes);
        const int64_t steps = rows->last - rows->first;
        const bool together = kernels.from_input && (count >= program.packed->tile_rows || steps == 1);
        const int64_t many = together ? 1 : steps_ahead(program, layer, count, steps);
        const int64_t width = layer.blocks * cell.gates * program.packed->lanes;
        Parts parts(scratch);
        PackedStep packed;
        memset(&packed, 0, sizeof packed);
        const float** x = parts.take<const float*>(many * count);
        float** y = parts.take<float*>(count);
        float* state = parts.take<float>(count * stride);
        float* other = parts.take<float>(count * stride);
        packed.x = x;
        packed.y = y;
        packed.stride = stride;
        packed.last_block = layer.blocks;
        packed.reset_state = parts.take<float>(count * stride);
        packed.update = parts.take<float>(count * stride);
        packed.products = parts.take<float>(many * count * width);
        packed.narrow_x = parts.take_narrow(storage, many * count, layer.inputs);
        packed.narrow_state = parts.take_narrow(storage, count, H);
        for (int64_t i = 0; i < count; ++i) {
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
                for (int64_t i = 0; i < count; ++i) x[k * count + i] = rows[i].x + place(done + k) * x_step;
            if (!together) {
                packed.last_row = size * count;
                kernels.input_product(layer, packed);
            }
            float* const products = packed.products;
            packed.last_row = count;
            for (int64_t k = 0; k < size; ++k) {
                for (int64_t i = 0; i < count; ++i) y[i] = rows[i].y + place(done + k) * y_step;
                packed.x = x + k * count;
                packed.products = products + k * count * width;
                packed.state = state;
                packed.next = other;
                packed.downwards = !packed.downwards;
                if (together)
                    kernels.from_input(layer, packed);
                else
                    for (int p = 0; p < cell.phases; ++p) kernels.phase[p](layer, packed);
                float* const swap = state;
                state = other;
                other = swap;
            }
            packed.x = x;
            packed.products = products;
        }
        for (int64_t i = 0; i < count; ++i)
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

    // --- A block --------------------------------------------------------------------------------------------------

    // Frames that are none of the sequence's become zero where later ones look at them.
    void clear(const Step& step) const {
        for (int64_t r = 0; r < block.rows; ++r) {
            int64_t first, last;
            valid(step.ahead, step.more, r, first, last);
            for (int64_t t = 0; t < width; ++t)
                if (t < first || t >= last)
                    fill_with(frame_of(step.out, r, t), step.out.row, program.rings[step.out.offset].empty);
        }
    }
    float* frame_of(const Operand& of, int64_t r, int64_t t) const { return at(of, r, t) - of.inside % of.row; }

    void run(const Step& step) {
        switch (step.kind) {
            case step_elementwise: elementwise(step); break;
            case step_product: product(step); break;
            case step_recurrent: recurrent(step); break;
            case step_reduce:
                each_middle(step, [&](const Middle<float>& of) { program.nodes->reduce[step.code](of); });
                break;
            case step_softmax: each_middle(step, program.nodes->softmax); break;
            case step_log_softmax: each_middle(step, program.nodes->log_softmax); break;
            case step_arg_max:
                each_middle(step, [&](const Middle<float>& of) { program.nodes->arg_max(of, step.code); });
                break;
            case step_normalise: normalise(step); break;
            case step_window: window(step); break;
            case step_multiply: multiply(step); break;
            case step_lookup: lookup(step); break;
            case step_list: list(step); break;
            case step_fill: fill(step); break;
            case step_latest: latest(step); break;
        }
        if (step.clears) clear(step);
    }

    // Move windows back to where they began, so that there is room for the block's frames.
    void make_room() const {
        for (int64_t r = 0; r < block.rows; ++r) {
            Place& place = *block.places[r];
            if (place.position + width <= block.shape.room) continue;
            for (int64_t i = 0; i < program.ring_count; ++i) {
                const Ring& ring = program.rings[i];
                float* frames = block.states[r] + rings[i];
                memmove(frames, frames + place.position * ring.frame,
                        size_t(ring.history * ring.frame) * sizeof(float));
            }
            place.position = 0;
        }
    }

    void keep() const {
        for (int64_t r = 0; r < block.rows; ++r) {
            for (int64_t i = 0; i < program.kept_count; ++i) {
                const Kept& kept = program.kept[i];
                memcpy(block.states[r] + kept.to, at(kept.from, r, width - 1), size_t(kept.count) * sizeof(float));
            }
            block.places[r]->position += width;
            block.places[r]->seen += width;
        }
    }

    // --- In and out -----------------------------------------------------------------------------------------------

    // Whether the numbers of a frame lie in an array as they do in the program.
    static bool alike(const Port& port, const Array& array) {
        int64_t expected = sizeof(float);
        for (int axis = most_axes - 1; axis >= 0; --axis) {
            if (port.size[axis] != 1 && array.stride[axis] != expected) return false;
            expected *= port.size[axis];
        }
        return array.type == type_float32;
    }

    // Frames of the inputs from `done` on; before the first and behind the last there are zeros.
    void read(int64_t done) const {
        for (int64_t i = 0; i < program.input_count; ++i) {
            const Port& port = program.inputs[i];
            const Array array = block.inputs ? block.inputs[i] : Array();
            const int64_t count = port.count(), bytes = count * int64_t(sizeof(float));
            const bool same = alike(port, array);
            const bool together = same && array.frame_stride == bytes && port.at.row == count;
            int64_t first = 0, last = block.inputs ? width : 0;
            if (port.over_time && block.inputs) {
                first = smaller(width, larger(0, block.early - done));
                last = larger(first, smaller(width, block.given + block.early - done));
            }
            for (int64_t r = 0; r < block.rows; ++r) {
                for (int64_t t = 0; t < width; ++t)
                    if (t < first || t >= last) memset(at(port.at, r, t), 0, size_t(bytes));
                const int64_t frame = done - block.early + first;
                const char* from = array.data + r * array.row_stride + frame * array.frame_stride;
                if (together && last > first) {
                    memcpy(at(port.at, r, first), from, size_t((last - first) * bytes));
                    continue;
                }
                for (int64_t t = first; t < last; ++t, from += array.frame_stride)
                    if (same)
                        memcpy(at(port.at, r, t), from, size_t(bytes));
                    else
                        copy_in(port, array, from, 0, at(port.at, r, t));
            }
        }
    }
    static float* copy_in(const Port& port, const Array& array, const char* from, int axis, float* to) {
        if (axis == most_axes - 1) {
            const int64_t count = port.size[axis], stride = array.stride[axis];
            if (array.type == type_float32 && stride == sizeof(float)) {
                memcpy(to, from, size_t(count) * sizeof(float));
                return to + count;
            }
            for (int64_t i = 0; i < count; ++i) *to++ = number_at(array.type, from + i * stride);
            return to;
        }
        for (int64_t i = 0; i < port.size[axis]; ++i)
            to = copy_in(port, array, from + i * array.stride[axis], axis + 1, to);
        return to;
    }
    template <class T> static T read_as(const char* from) {
        T value;
        memcpy(&value, from, sizeof value);
        return value;
    }
    static float number_at(int type, const char* from) {
        switch (type) {
            case type_float32: return read_as<float>(from);
            case type_float64: return float(read_as<double>(from));
            case type_int64: return float(read_as<int64_t>(from));
            case type_int32: return float(read_as<int32_t>(from));
            case type_int16: return float(read_as<int16_t>(from));
            case type_int8: return float(read_as<int8_t>(from));
            case type_uint8: return float(read_as<uint8_t>(from));
        }
        return float(*from != 0);
    }

    // Frames to the outputs, of which the first is that of step `late`; of those that have one a row, the last.
    void write(int64_t done) const {
        for (int64_t i = 0; block.outputs && i < program.output_count; ++i) {
            const Port& port = program.outputs[i];
            const Array& array = block.outputs[i];
            const int64_t count = port.count(), bytes = count * int64_t(sizeof(float));
            const bool same = alike(port, array);
            const bool together = same && array.frame_stride == bytes && port.at.row == count;
            const int64_t step = done - block.early - block.late;  // the block's first frame's
            const int64_t behind = block.end == endless
                                       ? block.frames - block.early
                                       : block.end + (port.over_time ? port.more + program.delay : program.tail) -
                                             block.late - begun - block.early;
            int64_t first = smaller(width, larger(0, -step));
            const int64_t last = larger(first, smaller(width, behind - step));
            if (!port.over_time) {
                if (step + last != behind || last == first) continue;
                first = last - 1;
            }
            for (int64_t r = 0; r < block.rows; ++r) {
                const int64_t frame = port.over_time ? step + first : 0;
                char* to = array.data + r * array.row_stride + frame * array.frame_stride;
                if (together && last > first) {
                    memcpy(to, at(port.at, r, first), size_t((last - first) * bytes));
                    continue;
                }
                for (int64_t t = first; t < last; ++t, to += array.frame_stride)
                    if (same)
                        memcpy(to, at(port.at, r, t), size_t(bytes));
                    else
                        copy_out(port, array, at(port.at, r, t), 0, to);
            }
        }
    }
    static const float* copy_out(const Port& port, const Array& array, const float* from, int axis, char* to) {
        if (axis == most_axes - 1) {
            const int64_t count = port.size[axis], stride = array.stride[axis];
            if (array.type == type_float32 && stride == sizeof(float)) {
                memcpy(to, from, size_t(count) * sizeof(float));
                return from + count;
            }
            for (int64_t i = 0; i < count; ++i) put_number(array.type, to + i * stride, *from++);
            return from;
        }
        for (int64_t i = 0; i < port.size[axis]; ++i)
            from = copy_out(port, array, from, axis + 1, to + i * array.stride[axis]);
        return from;
    }
    template <class T> static void put(char* to, T value) { memcpy(to, &value, sizeof value); }
    static void put_number(int type, char* to, float number) {
        switch (type) {
            case type_float32: return put(to, number);
            case type_float64: return put(to, double(number));
            case type_int64: return put(to, int64_t(number));
            case type_int32: return put(to, int32_t(number));
            case type_int16: return put(to, int16_t(number));
            case type_int8: return put(to, int8_t(number));
            case type_uint8: return put(to, uint8_t(number));
        }
        *to = number != 0;
    }
};

// Where each ring begins in a state; behind the last the state ends.
void find_rings(const Program& program, int64_t room, int64_t* starts) {
    starts[0] = program.plain;
    for (int64_t i = 0; i < program.ring_count; ++i)
        starts[i + 1] = starts[i] + (program.rings[i].history + room) * program.rings[i].frame;
}

}  // namespace

int64_t state_size(const Program& program, int64_t room) {
    int64_t size = program.plain;
    for (int64_t i = 0; i < program.ring_count; ++i)
        size += (program.rings[i].history + room) * program.rings[i].frame;
    return size;
}

int64_t memory_size(const Program& program, const Shape& shape) {
    int64_t scratch = 64;
    for (int64_t i = 0; i < program.step_count; ++i) {
        const Step& step = program.steps[i];
        if (step.kind == step_product) scratch = larger(scratch, Run::product_scratch(program, step));
        if (step.kind == step_recurrent) scratch = larger(scratch, Run::recurrent_scratch(program, step, shape));
    }
    return Parts::size<int64_t>(program.ring_count + 1) +
           Parts::size<float>(program.arena * shape.rows * shape.frames) + scratch;
}

void begin_state(const Program& program, int64_t room, float* state) {
    memcpy(state, program.fresh, size_t(program.plain) * sizeof(float));
    float* at = state + program.plain;
    for (int64_t i = 0; i < program.ring_count; ++i) {
        const Ring& ring = program.rings[i];
        const int64_t count = (ring.history + room) * ring.frame;
        fill_with(at, count, ring.empty);
        at += count;
    }
}

int advance(const Program& program, const Advance& call, int64_t& wrong_step) {
    FlushDenormals mode;
    Parts parts(call.memory);
    int64_t* rings = parts.take<int64_t>(program.ring_count + 1);
    find_rings(program, call.shape.room, rings);
    float* arena = parts.take<float>(program.arena * call.shape.rows * call.shape.frames);
    Run run = {program, call, rings, arena, parts.take<char>(0), 0, call.places[0]->seen};
    for (int64_t done = 0; done < call.frames; done += run.width) {
        run.width = smaller(call.shape.frames, call.frames - done);
        run.make_room();
        run.read(done);
        for (int64_t i = 0; i < program.step_count; ++i) run.run(program.steps[i]);
        if (run.wrong >= 0) {
            wrong_step = run.wrong;
            return advance_index;
        }
        run.write(done);
        run.keep();
        if (call.watch && !call.watch->goes_on(double(run.frames()) * program.flops)) return advance_stopped;
    }
    return advance_done;
}

const char* const elementwise_names[] = {
#define X(name, operands) #name,
    CGRU_ELEMENTWISE(X)
#undef X
};
const int elementwise_operands[] = {
#define X(name, operands) operands,
    CGRU_ELEMENTWISE(X)
#undef X
};

int64_t sample_index(const float* logits, int64_t count, double temperature, uint64_t seed, int64_t step, int64_t row) {
    // SplitMix64 (Steele, Lea and Flood 2014)
    uint64_t z = seed + (uint64_t(step) * 0x100000001u + uint64_t(row) + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    const double uniform = double((z ^ (z >> 31)) >> 11) / 9007199254740992.0;
    double most = logits[0], total = 0;
    for (int64_t i = 1; i < count; ++i) most = logits[i] > most ? double(logits[i]) : most;
    for (int64_t i = 0; i < count; ++i) total += exp((double(logits[i]) - most) / temperature);
    double left = uniform * total;
    for (int64_t i = 0; i < count; ++i)
        if ((left -= exp((double(logits[i]) - most) / temperature)) < 0) return i;
    return count - 1;
}

Outcome advance_rows(const Program& program, const Advance& call, int threads, int64_t& wrong_step) {
    const int64_t size = (memory_size(program, call.shape) + 127) / 64 * 64;
    const double work = program.flops * double(call.rows) * double(call.frames);
    const int64_t tiles = (call.rows + call.shape.rows - 1) / call.shape.rows;
    const int parts = work < smallest_shared ? 1 : int(larger(1, smaller(threads, tiles)));
    char* memory = static_cast<char*>(malloc(size_t(parts * size)));
    if (!memory) return outcome_no_memory;
    std::atomic<int64_t> wrong{-1};
    const auto run_part = [&](int part, int of) {
        for (int64_t tile = tiles * part / of; tile < tiles * (part + 1) / of; ++tile) {
            const int64_t row = tile * call.shape.rows;
            Array inputs[most_ports], outputs[most_ports];
            for (int64_t i = 0; i < program.input_count; ++i) {
                inputs[i] = call.inputs[i];
                inputs[i].data += row * inputs[i].row_stride;
            }
            for (int64_t i = 0; i < program.output_count; ++i) {
                outputs[i] = call.outputs[i];
                outputs[i].data += row * outputs[i].row_stride;
            }
            Advance own = call;
            own.memory = memory + part * size;
            own.rows = smaller(call.shape.rows, call.rows - row);
            own.states += row;
            own.places += row;
            own.inputs = inputs;
            own.outputs = outputs;
            int64_t at = -1;
            if (advance(program, own, at) == advance_index) wrong = at;
        }
    };
    if (parts == 1 || !run_at_once(parts, [&](int part) { run_part(part, parts); })) run_part(0, 1);
    free(memory);
    wrong_step = wrong;
    return outcome_done;
}

Outcome run_sequences(const Program& program, const Sequences& call, int64_t& wrong_step) {
    const int64_t steps = program.early + call.steps + program.tail;
    const int64_t fits = larger(1, arena_bytes / larger(1, program.arena * int64_t(sizeof(float))));
    const int64_t most = smaller(fits, block_frames);  // frames of a block
    const int64_t rows = smaller(call.batch, most), frames = larger(1, smaller(most / rows, steps));
    const Shape shape = {rows, frames, 4 * frames};
    const int64_t state = (state_size(program, shape.room) + 15) / 16 * 16;
    const int64_t size = (Parts::size<float>(state * rows) + Parts::size<Place>(rows) + 2 * Parts::size<char*>(rows) +
                          memory_size(program, shape) + 127) / 64 * 64;
    const double work = program.flops * double(call.steps) * double(call.batch);
    const int parts = work < smallest_shared ? 1 : int(larger(1, smaller(call.threads, (call.batch + 3) / 4)));
    Watch watch(call.interrupted);
    char* memory = static_cast<char*>(malloc(size_t(parts * size)));
    if (!memory) return outcome_no_memory;
    std::atomic<int64_t> wrong{-1};
    const auto run_part = [&](int part, int of) {
        Parts room(memory + part * size);
        float* states = room.take<float>(state * rows);
        Place* places = room.take<Place>(rows);
        float** state_rows = room.take<float*>(rows);
        Place** place_rows = room.take<Place*>(rows);
        Array inputs[most_ports], outputs[most_ports];
        for (int64_t r = 0; r < rows; ++r) {
            state_rows[r] = states + r * state;
            place_rows[r] = places + r;
        }
        const int64_t first = call.batch * part / of, last = call.batch * (part + 1) / of;
        for (int64_t row = first; row < last; row += rows) {
            const int64_t count = smaller(rows, last - row);
            for (int64_t r = 0; r < count; ++r) {
                begin_state(program, shape.room, state_rows[r]);
                places[r] = {0, -program.early};
            }
            for (int64_t i = 0; i < program.input_count; ++i) {
                inputs[i] = call.inputs[i];
                inputs[i].data += row * inputs[i].row_stride;
            }
            for (int64_t i = 0; i < program.output_count; ++i) {
                outputs[i] = call.outputs[i];
                outputs[i].data += row * outputs[i].row_stride;
            }
            const Advance own = {shape, room.take<char>(0), count, steps, state_rows,
                                 place_rows, inputs, outputs, program.early, call.steps, call.steps, program.delay,
                                 &watch};
            int64_t at = -1;
            const int result = advance(program, own, at);
            if (result == advance_index) wrong = at;
            if (result != advance_done) return;
        }
    };
    if (parts == 1 || !run_at_once(parts, watch, [&](int part) { run_part(part, parts); })) run_part(0, 1);
    free(memory);
    wrong_step = wrong;
    return watch.stopped() ? outcome_interrupted : outcome_done;
}

}  // namespace cgru

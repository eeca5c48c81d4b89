// Steps of single elements, of an axis and of windows: loops over frames around the kernels of nodes/.
#pragma once

#include <string.h>

#include "program/frames.h"

namespace cgru {
namespace {

const int64_t chunk = 256;  // elements of an operand that is read with gaps
const int64_t line = 16;    // numbers of a cache line, which no two threads write

struct Elements : Frames {
    using Frames::Frames;

    static bool beside(const Operand& of, int axis) { return of.space == space_none || of.stride[axis] == 1; }

    void elementwise(const Step& step) const {
        const Elementwise<float> f = program.nodes->of[step.code];
        const int last = most_axes - 1, outer = last - 1;
        Lines<float> lines;
        memset(&lines, 0, sizeof lines);
        lines.p = float(step.p);
        lines.q = float(step.q);
        lines.lines = 1;
        lines.count = step.size[last];
        if (step.flat) {
            for (int axis = 0; axis < last; ++axis) lines.count *= step.size[axis];
            int64_t first = 0, end = frames() * lines.count;
            if (member && member->by_frames)
                own_frames(first, end), first *= lines.count, end *= lines.count;
            else if (member)
                share_of(end, line, member->part, member->parts, first, end);
            lines.count = end - first;
            lines.out = at(step.out, 0, 0) + first;
            for (int i = 0; i < 3; ++i) {
                lines.in[i] = at(step.in[i], 0, 0);
                if (lines.in[i]) lines.in[i] += first;
            }
            if (lines.count) f(lines);
            return;
        }
        bool whole = beside(step.out, last);
        for (const Operand& in : step.in) whole = whole && beside(in, last);
        lines.out_next = step.out.stride[outer];
        for (int i = 0; i < 3; ++i) lines.next[i] = step.in[i].stride[outer];
        each_own_plane(step, [&](int64_t count, float* y, const float* const* x) {
            lines.lines = count;
            lines.out = y;
            for (int i = 0; i < 3; ++i) lines.in[i] = x[i];
            if (whole)
                f(lines);
            else if (step.code == elementwise_copy)
                copy_with_gaps(step, count, y, x[0]);
            else
                with_gaps(step, f, lines);
        });
    }

    // call(lines, out, in) for each of the planes of the two innermost axes, of all frames or this thread's: threads
    // share the first axis that there is
    template <class F> void each_own_plane(const Step& step, const F& call) const {
        const int outer = most_axes - 2;
        int axis = 0;
        while (axis < outer && step.size[axis] == 1) ++axis;
        each_part(step.size[axis], 1, [&](int64_t r, int64_t t, int64_t first, int64_t last) {
            const float* in[most_operands];
            for (int i = 0; i < most_operands; ++i) in[i] = at(step.in[i], r, t);
            each_plane(step, axis, first, last, at(step.out, r, t), in, call);
        });
    }

    // the same of those of an axis from `first` to `last`
    template <class F>
    void each_plane(const Step& step, int axis, int64_t first, int64_t last, float* out, const float* const* in,
                    const F& call) const {
        const bool plane = axis == most_axes - 2;
        for (int64_t i = first; i < (plane ? smaller(first + 1, last) : last); ++i) {
            const float* moved[most_operands];
            for (int k = 0; k < most_operands; ++k) moved[k] = in[k] + i * step.in[k].stride[axis];
            float* const y = out + i * step.out.stride[axis];
            if (plane)
                call(last - first, y, moved);
            else
                each_plane(step, axis + 1, 0, step.size[axis + 1], y, moved, call);
        }
    }

    static void copy_with_gaps(const Step& step, int64_t lines, float* y, const float* x) {
        const int last = most_axes - 1;
        const int64_t to = step.out.stride[last], from = step.in[0].stride[last], count = step.size[last];
        for (int64_t i = 0; i < lines; ++i) {
            for (int64_t j = 0; j < count; ++j) y[j * to] = x[j * from];
            y += step.out.stride[last - 1];
            x += step.in[0].stride[last - 1];
        }
    }

    // Whether an operand is one number for all lines.
    static bool alone(const Operand& of, int64_t next) {
        return of.space != space_none && of.stride[most_axes - 1] == 0 && next == 0;
    }

    // Lines of operands of which some are one number, or lie apart: those are brought together first.
    static void with_gaps(const Step& step, Elementwise<float> f, const Lines<float>& of) {
        const int last = most_axes - 1;
        const int64_t to = step.out.stride[last];
        float copies[3][chunk], result[chunk];
        Lines<float> part = of;
        part.lines = 1;
        for (int k = 0; k < 3; ++k)
            if (alone(step.in[k], of.next[k])) {
                for (int64_t j = 0; j < smaller(chunk, of.count); ++j) copies[k][j] = *of.in[k];
                part.in[k] = copies[k];
            }
        for (int64_t line = 0; line < of.lines; ++line)
            for (int64_t i = 0; i < of.count; i += chunk) {
                const int64_t size = smaller(chunk, of.count - i);
                for (int k = 0; k < 3; ++k) {
                    if (alone(step.in[k], of.next[k])) continue;
                    const int64_t apart = step.in[k].stride[last];
                    part.in[k] = of.in[k] + line * of.next[k] + i * apart;
                    if (step.in[k].space == space_none || apart == 1) continue;
                    for (int64_t j = 0; j < size; ++j) copies[k][j] = part.in[k][j * apart];
                    part.in[k] = copies[k];
                }
                float* y = of.out + line * of.out_next + i * to;
                part.out = to == 1 ? y : result;
                part.count = size;
                f(part);
                for (int64_t j = 0; to != 1 && j < size; ++j) y[j * to] = result[j];
            }
    }

    void fill(const Step& step) const {
        each_own_plane(step, [&](int64_t lines, float* y, const float* const*) {
            const int last = most_axes - 1;
            for (int64_t i = 0; i < lines; ++i, y += step.out.stride[last - 1])
                for (int64_t j = 0; j < step.size[last]; ++j) y[j * step.out.stride[last]] = float(step.p);
        });
    }

    void list(const Step& step) const {
        each_part(step.size[0], line, [&](int64_t r, int64_t t, int64_t first, int64_t last) {
            float* y = at(step.out, r, t);
            const float* x = at(step.in[0], r, t);
            for (int64_t i = first; i < last; ++i) y[step.to[i]] = x[step.from[i]];
        });
    }

    // The latest frame of a value, in the block's last; from block to block it is kept.
    void latest(const Step& step) const {
        if (member && member->number > 0) return;
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
        each_part(step.size[0], 1, [&](int64_t r, int64_t t, int64_t first, int64_t last) {
            float* y = at(step.out, r, t);
            const float *x = at(step.in[0], r, t), *table = at(step.in[1], r, t);
            for (int64_t i = first; i < last; ++i) {
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
        const bool whole = step.kind == step_softmax || step.kind == step_log_softmax;  // else one number an axis
        const int64_t x = step.size[1] * step.size[2], y = whole ? x : step.size[2];    // of each outer one
        each_part(step.size[0], 1, [&](int64_t r, int64_t t, int64_t first, int64_t last) {
            call(Middle<float>{last - first, step.size[1], step.size[2], at(step.in[0], r, t) + first * x,
                               at(step.out, r, t) + first * y});
        });
    }

    void normalise(const Step& step) const {
        each_part(step.size[0], 1, [&](int64_t r, int64_t t, int64_t first, int64_t last) {
            const int64_t moved = first * step.size[1];
            program.nodes->normalise({last - first, step.size[1], at(step.in[0], r, t) + moved, at(step.in[1], r, t),
                                      at(step.in[2], r, t), at(step.out, r, t) + moved, step.p});
        });
    }

    // Threads share the first axis of positions that there is.
    void window(const Step& step) const {
        const float *weights = program.constants, *bias = nullptr;
        if (step.in[1].space != space_none) weights = at(step.in[1], 0, 0);
        if (step.in[2].space != space_none) bias = at(step.in[2], 0, 0);
        const int axis = step.size[0] > 1 ? 0 : 1;
        each_part(step.size[axis], 1, [&](int64_t r, int64_t t, int64_t first, int64_t last) {
            const int64_t rows = axis ? step.size[0] : last - first, columns = axis ? last - first : step.size[1];
            program.nodes->window({{rows, columns}, {step.size[2], step.size[3]}, step.size[4],
                                   {step.in[0].stride[0], step.in[0].stride[1]}, {step.strides[0], step.strides[1]},
                                   {step.out.stride[0], step.out.stride[1]},
                                   at(step.in[0], r, t) + first * step.in[0].stride[axis],
                                   at(step.out, r, t) + first * step.out.stride[axis], weights, bias, step.p},
                                  step.code);
        });
    }

    // Threads share the rows of all matrices.
    void multiply(const Step& step) const {
        const int64_t m = step.size[1], k = step.size[2], n = step.size[3];
        each_part(step.size[0] * m, 4, [&](int64_t r, int64_t t, int64_t first, int64_t last) {
            const float *a = at(step.in[0], r, t), *b = at(step.in[1], r, t);
            float* y = at(step.out, r, t);
            for (int64_t i = first / m; i * m < last; ++i) {
                const int64_t row = larger(0, first - i * m), end = smaller(m, last - i * m);
                program.nodes->multiply({end - row, k, n, a + i * step.in[0].stride[0] + row * k,
                                         b + i * step.in[1].stride[0], y + i * step.out.stride[0] + row * n});
            }
        });
    }
};

}  // namespace
}  // namespace cgru

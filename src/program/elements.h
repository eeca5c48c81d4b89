// Steps of single elements, of an axis and of windows: loops over frames around the kernels of nodes/.
#pragma once

#include <string.h>

#include "program/frames.h"

namespace cgru {
namespace {

const int64_t chunk = 256;  // elements of an operand that is read with gaps

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
            lines.count *= frames();
            lines.out = at(step.out, 0, 0);
            for (int i = 0; i < 3; ++i) lines.in[i] = at(step.in[i], 0, 0);
            f(lines);
            return;
        }
        bool whole = beside(step.out, last);
        for (const Operand& in : step.in) whole = whole && beside(in, last);
        lines.lines = step.size[outer];
        lines.out_next = step.out.stride[outer];
        for (int i = 0; i < 3; ++i) lines.next[i] = step.in[i].stride[outer];
        each_frame([&](int64_t r, int64_t t) {
            float* out = at(step.out, r, t);
            const float* in[most_operands];
            for (int i = 0; i < most_operands; ++i) in[i] = at(step.in[i], r, t);
            each_plane(step, 0, out, in, [&](float* y, const float* const* x) {
                lines.out = y;
                for (int i = 0; i < 3; ++i) lines.in[i] = x[i];
                if (whole)
                    f(lines);
                else if (step.code == elementwise_copy)
                    copy_with_gaps(step, y, x[0]);
                else
                    with_gaps(step, f, lines);
            });
        });
    }

    // call(out, in) for each of the planes of the two innermost axes
    template <class F>
    void each_plane(const Step& step, int axis, float* out, const float* const* in, const F& call) const {
        while (axis < most_axes - 2 && step.size[axis] == 1) ++axis;
        if (axis == most_axes - 2) {
            call(out, in);
            return;
        }
        for (int64_t i = 0; i < step.size[axis]; ++i) {
            const float* moved[most_operands];
            for (int k = 0; k < most_operands; ++k) moved[k] = in[k] + i * step.in[k].stride[axis];
            each_plane(step, axis + 1, out + i * step.out.stride[axis], moved, call);
        }
    }

    static void copy_with_gaps(const Step& step, float* y, const float* x) {
        const int last = most_axes - 1;
        const int64_t to = step.out.stride[last], from = step.in[0].stride[last], count = step.size[last];
        for (int64_t i = 0; i < step.size[last - 1]; ++i) {
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
        const float* none[most_operands] = {};
        each_frame([&](int64_t r, int64_t t) {
            each_plane(step, 0, at(step.out, r, t), none, [&](float* y, const float* const*) {
                const int last = most_axes - 1;
                for (int64_t i = 0; i < step.size[last - 1]; ++i, y += step.out.stride[last - 1])
                    for (int64_t j = 0; j < step.size[last]; ++j) y[j * step.out.stride[last]] = float(step.p);
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
};

}  // namespace
}  // namespace cgru

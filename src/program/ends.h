// What goes into a block, and what comes out: arrays of callers, of any strides and type.
#pragma once

#include <string.h>

#include "program/lanes.h"

namespace cgru {
namespace {

struct Ends : SmallLayers {
    using SmallLayers::SmallLayers;

    // Whether the numbers of a frame lie in an array as they do in the program: side by side.
    static bool alike(const Port& port, const Array& array) {
        const int64_t bytes = sizeof(float);
        int64_t expected = 1;
        for (int axis = most_axes - 1; axis >= 0; --axis) {
            if (port.size[axis] != 1 && (array.stride[axis] != expected * bytes || port.at.stride[axis] != expected))
                return false;
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
            each_own_row(port.at, [&](int64_t r, int64_t own, int64_t end) {
                for (int64_t t = own; t < end; ++t)
                    if (t < first || t >= last) copy_in(port, nothing(), nothing().data, 0, at(port.at, r, t));
                const int64_t begin = larger(first, own), behind = smaller(last, end);
                const int64_t frame = done - block.early + begin;
                const char* from = array.data + r * array.row_stride + frame * array.frame_stride;
                if (together && behind > begin) {
                    memcpy(at(port.at, r, begin), from, size_t((behind - begin) * bytes));
                    return;
                }
                for (int64_t t = begin; t < behind; ++t, from += array.frame_stride)
                    if (same)
                        memcpy(at(port.at, r, t), from, size_t(bytes));
                    else
                        copy_in(port, array, from, 0, at(port.at, r, t));
            });
        }
    }
    // call(r, first, last) for each row, with those of its frames that are this thread's. What is in the rows' states
    // has to be out before the first thread changes these: so that one has it.
    template <class F> void each_own_row(const Operand& of, const F& call) const {
        int64_t first = 0, last = frames();
        if (member && of.space != space_state)
            own_frames(first, last);
        else if (member && member->number > 0)
            last = 0;
        for (int64_t r = 0; r < block.rows; ++r)
            call(r, smaller(width, larger(0, first - r * width)), smaller(width, larger(0, last - r * width)));
    }
    // An array that has one number, 0, everywhere.
    static Array nothing() {
        static const double zero = 0;
        Array array = Array();
        array.type = type_float32;
        array.data = reinterpret_cast<char*>(const_cast<double*>(&zero));
        return array;
    }
    static void copy_in(const Port& port, const Array& array, const char* from, int axis, float* to) {
        while (axis < most_axes - 1 && port.size[axis] == 1) ++axis;
        const int64_t count = port.size[axis], stride = array.stride[axis], next = port.at.stride[axis];
        if (axis < most_axes - 1)
            for (int64_t i = 0; i < count; ++i) copy_in(port, array, from + i * stride, axis + 1, to + i * next);
        else if (array.type != type_float32)
            for (int64_t i = 0; i < count; ++i) to[i * next] = number_at(array.type, from + i * stride);
        else if (stride == sizeof(float) && next == 1)
            memcpy(to, from, size_t(count) * sizeof(float));
        else
            for (int64_t i = 0; i < count; ++i) to[i * next] = read_as<float>(from + i * stride);
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
            each_own_row(port.at, [&](int64_t r, int64_t own, int64_t end) {
                const int64_t begin = larger(first, own), behind = smaller(last, end);
                const int64_t frame = port.over_time ? step + begin : 0;
                char* to = array.data + r * array.row_stride + frame * array.frame_stride;
                if (together && behind > begin) {
                    memcpy(to, at(port.at, r, begin), size_t((behind - begin) * bytes));
                    return;
                }
                for (int64_t t = begin; t < behind; ++t, to += array.frame_stride)
                    if (same)
                        memcpy(to, at(port.at, r, t), size_t(bytes));
                    else
                        copy_out(port, array, at(port.at, r, t), 0, to);
            });
        }
    }
    static void copy_out(const Port& port, const Array& array, const float* from, int axis, char* to) {
        while (axis < most_axes - 1 && port.size[axis] == 1) ++axis;
        const int64_t count = port.size[axis], stride = array.stride[axis], next = port.at.stride[axis];
        if (axis < most_axes - 1)
            for (int64_t i = 0; i < count; ++i) copy_out(port, array, from + i * next, axis + 1, to + i * stride);
        else if (array.type != type_float32)
            for (int64_t i = 0; i < count; ++i) put_number(array.type, to + i * stride, from[i * next]);
        else if (stride == sizeof(float) && next == 1)
            memcpy(to, from, size_t(count) * sizeof(float));
        else
            for (int64_t i = 0; i < count; ++i) put(to + i * stride, from[i * next]);
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

}  // namespace
}  // namespace cgru

// Small recurrent layers side by side: which row of which layer has which slot of which vector (packed/lanes.h).
//
// A row has a slot for each of its members: vectors of its own if they fill one, else beside other rows. Rows whose
// steps differ, those at the edges of a sequence in pools, share no vector.
#pragma once

#include <string.h>

#include "program/layers.h"

namespace cgru {
namespace {

const int64_t vectors_at_once = 2 * most_members;

struct SmallLayers : Layers {
    using Layers::Layers;

    // Vectors that wait until there are several.
    struct Waiting {
        const Step& step;
        const LaneKernel kernel;
        const int64_t members, slots, size;  // size: of a pattern's weights
        const int64_t patterns;              // vectors of a row, or of the rows that share one
        const int64_t rows;                  // that share a vector
        LaneStep lanes;
        LaneVector vectors[vectors_at_once];
        int64_t count = 0, row = 0;          // whole ones; of the next ones' rows those that are there

        Waiting(const Program& program, const Step& step)
            : step(step), kernel(program.packed->side_by_side), members(step.member_count),
              slots(step.slots), size((4 + 3 * (step.lanes.inputs + step.lanes.hidden)) * program.packed->lanes),
              patterns(members < slots ? 1 : (members + slots - 1) / slots),
              rows(members < slots ? slots / members : 1), lanes(step.lanes) {
            lanes.steps = 0;
        }
        // The slot of a member of the next row.
        LaneSlot& slot(int64_t member) {
            const int64_t at = row * members + member;
            LaneVector& vector = vectors[count + at / slots];
            vector.slots = at % slots + 1;
            return vector.slot[at % slots];
        }
        // Call before a row's slots are filled, and after it.
        void begin_row(int64_t steps) {
            if (steps != lanes.steps || count + patterns > vectors_at_once) run();
            lanes.steps = steps;
            for (int64_t i = 0; i < patterns; ++i) vectors[count + i].weights = step.lane_weights + i * size;
        }
        void end_row() {
            if (++row == rows) count += patterns, row = 0;
        }
        void run() {
            if (row) count += patterns, row = 0;
            if (count) kernel(lanes, vectors, count);
            count = 0;
        }
    };

    void side_by_side(const Step& step) const {
        Waiting waiting(program, step);
        const int64_t count = step.member_count;
        const auto add = [&](int64_t r, int64_t t) {
            int64_t first = 0, last = step.size[0];
            if (step.over_time) valid(step.ahead, step.more, r, first, last);
            const bool begins = block.places[r]->seen == -program.early;
            LaneSlot slots[most_members];  // of the first line
            const Operand *starts[most_members], *ends[most_members];
            for (int64_t m = 0; m < count; ++m) {
                const Step& member = step.members[m];
                LaneSlot& slot = slots[m];
                starts[m] = &member.in[begins && member.has_initial ? 3 : 1];
                ends[m] = &member.in[2];
                const int64_t turn = member.reverse ? -1 : 1, from = member.reverse ? last - 1 : first;
                slot.x_step = turn * member.in[0].stride[0];
                slot.y_step = turn * member.out.stride[0];
                slot.x = at(member.in[0], r, t) + from * member.in[0].stride[0];
                slot.y = at(member.out, r, t) + from * member.out.stride[0];
                slot.start = starts[m]->space ? at(*starts[m], r, t) : nullptr;
                slot.end = member.has_end ? at(*ends[m], r, step.over_time ? width - 1 : t) : nullptr;
            }
            for (int64_t line = 0; line < step.size[1]; ++line) {
                waiting.begin_row(last - first);
                for (int64_t m = 0; m < count; ++m) {
                    const Step& member = step.members[m];
                    LaneSlot& slot = waiting.slot(m);
                    slot = slots[m];
                    slot.x += line * member.in[0].stride[1];
                    slot.y += line * member.out.stride[1];
                    if (slot.start) slot.start += line * starts[m]->stride[1];
                    if (slot.end) slot.end += line * ends[m]->stride[1];
                }
                waiting.end_row();
            }
        };
        if (!step.over_time)
            each_frame(add);
        else if (!member || member->part == 0)  // too little for several threads
            for (int64_t r = 0; r < block.rows; ++r) add(r, 0);
        waiting.run();
    }
};

}  // namespace
}  // namespace cgru

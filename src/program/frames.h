// A block of frames of a program: where an operand's values are, which frames a late value has, and which are this
// thread's.
#pragma once

#include "program/share.h"

namespace cgru {
namespace {

// A block of frames: where each has its values.
struct Frames {
    const Program& program;
    const Advance& block;
    const int64_t* rings;  // where each begins in a state
    float* arena;
    char* scratch;
    int64_t width;         // frames of the block
    int64_t begun;         // frames that the rows had seen before the call
    int64_t wrong = -1;    // the step that met an index out of range
    Member* member;        // of the threads that share the block; null: this one has all of it
    bool left = false;     // the call ends, or others finish it

    Frames(const Program& program, const Advance& block, const int64_t* rings, float* arena, char* scratch,
           Member* member = nullptr)
        : program(program), block(block), rings(rings), arena(arena), scratch(scratch), width(0),
          begun(block.places[0]->seen), member(member) {}

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

    // call(r, t, first, last) for this thread's share of the `count` parts that each frame has; `grain` stay together.
    template <class F> void each_part(int64_t count, int64_t grain, F call) const {
        if (!member) {
            for (int64_t r = 0; r < block.rows; ++r)
                for (int64_t t = 0; t < width; ++t) call(r, t, 0, count);
            return;
        }
        int64_t from, to;
        if (member->by_frames)
            own_frames(from, to), from *= count, to *= count;
        else
            share_of(frames() * count, grain, member->part, member->parts, from, to);
        for (int64_t n = from / count; n * count < to; ++n)
            call(n / width, n % width, larger(0, from - n * count), smaller(count, to - n * count));
    }

    // call(r, t) for all frames, or this thread's
    template <class F> void each_frame(F call) const {
        each_part(1, 1, [&](int64_t r, int64_t t, int64_t, int64_t) { call(r, t); });
    }

    // This thread's frames of the block, [first, last), where threads have frames of their own.
    void own_frames(int64_t& first, int64_t& last) const {
        const int64_t tile = program.packed->tile_rows;
        share_of(frames(), frames() >= 4 * tile * member->parts ? tile : 1, member->part, member->parts, first, last);
    }

    // Behind so much work, in flops: whether this thread goes on. Calls without a watch are short.
    bool goes_on(double flops) {
        if (block.watch && !block.watch->goes_on(flops)) left = true;
        return !left;
    }

    // Wait for the threads that share this step; whether this one goes on.
    bool meet() {
        if (!member->meet()) left = true;
        return !left;
    }

    // The same where a stretch of work ends; from there on this thread may have all that is left of the block.
    bool stay() {
        bool alone = false;
        if (!member->stay(alone)) left = true;
        if (alone) member = nullptr;
        return !left;
    }

    // Of the frames of a block those that a late value has: [first, last).
    void valid(int64_t ahead, int64_t more, int64_t r, int64_t& first, int64_t& last) const {
        const int64_t before = ahead - block.places[r]->seen, end = block.end + more + before;
        first = smaller(width, larger(0, before));
        last = larger(first, smaller(width, end));
    }
};

}  // namespace
}  // namespace cgru

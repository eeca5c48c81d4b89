// A block of frames of a program: where an operand's values are, and which frames a late value has.
#pragma once

#include "program/program.h"
#include "threads/share.h"

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

    Frames(const Program& program, const Advance& block, const int64_t* rings, float* arena, char* scratch)
        : program(program), block(block), rings(rings), arena(arena), scratch(scratch), width(0),
          begun(block.places[0]->seen) {}

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
};

}  // namespace
}  // namespace cgru

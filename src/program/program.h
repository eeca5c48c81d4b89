// A network as a flat program: steps in order over one arena. cgru/engines/host/compile.py writes it; here it runs.
//
// A program computes a frame of a row: what a network does at one step of one sequence. A block of rows R and frames T
// runs step by step, each for all R * T frames at once. Frame t of row r has its values in the arena at n = r * T + t
// (`Operand`). What lasts from frame to frame is in a row's state: values that are simply kept, and windows over the
// latest frames of a value.
//
// A value may be late: at step s it has the frame s - `ahead`, since windows that see what comes have to wait. Frames
// before the first and behind the last are zeros to who reads them, and do not move a recurrent state.
#pragma once

#include "kernels.h"
#include "threads/watch.h"

namespace cgru {

const int most_axes = 6, most_operands = 4, most_ports = 32, most_members = 16;

// Of the functions in the order of their codes.
extern const char* const elementwise_names[];
extern const int elementwise_operands[];

enum Space {
    space_none,
    space_arena,     // of frame n: arena + offset * N + n * row + inside, where N is how many frames there is room for
    space_constant,  // constants + inside
    space_state,     // of row r: state r + inside
    space_ring       // of frame (r, t): state r + ring `offset` + (position r + t) * row + inside
};

struct Operand {
    int space;
    int64_t offset, row, inside;
    int64_t stride[most_axes];
};

enum StepKind {
    step_elementwise,  // size: axes, the last innermost
    step_product,      // size: positions; strides [0], [1] of operand 0 and of out lead from one to the next
    step_recurrent,    // one direction of one layer
    step_side_by_side, // several of those, all small: members that share vectors
    step_reduce,       // size: outer, count, inner; operands contiguous, as those of the next ones
    step_softmax,
    step_log_softmax,
    step_arg_max,
    step_normalise,    // size: outer, count; operands: x, scale, shift
    step_window,
    step_multiply,     // size: matrices, m, k, n; stride [0] leads from one to the next
    step_lookup,       // size: indices, numbers of a row, rows; operands: indices, the rows
    step_list,         // size: count; out[to[i]] = operand 0 [from[i]]
    step_fill,         // size: axes; out = p
    step_latest        // size: count; the latest frame there is of operand 0, or operand 1 where there is none yet
};

// A function of a product's results, and of the operand of this number; 0: of none.
struct After {
    int code, operand;
    double p, q;
};
const int most_after = 3;

struct Step {
    int kind, code;            // code: of an elementwise function, a reduction, a window
    int64_t ahead, more;       // its results are late so many frames; they are so many more than the sequence has
    int clears;                // 1: frames that are none become zero, as later ones look at them
    Operand out, in[most_operands];
    int64_t size[most_axes];
    int64_t strides[most_axes];  // of a window: taps [0], [1], then x's and y's distances are the operands' strides
    double p, q;
    int flat;                  // elementwise: all operands have their elements side by side, frame behind frame
    // products: sections side by side, each of blocks of as many vectors
    int sections;
    PackedLayer section[2];
    int64_t outputs;
    int64_t pieces[2], distances[2], length;
    int afters;                // what results go through; strides [0], [1] of operands 1 to 3 lead along positions
    After after[most_after];
    int64_t groups;            // 0: none; else each is a block with inputs of its own, `outputs` being those of all
    int64_t x_next, y_next;    // from a group's inputs, and outputs, to those of the next
    // recurrent: size: steps and lines; strides [0], [1] of x and y lead from step to step and from line to line
    const PackedLayer* layer;
    int over_time, reverse;    // over_time: its steps are the frames of a row, and its state is the row's
    int has_start;             // operand 1: the states that it starts from; else zero
    int has_end;               // operand 2: where its states go in the end
    int made;                  // operand 0 is no inputs, but what `input_products` makes of them
    int has_initial;           // operand 3: the states that a row begins with, in the place of operand 1
    const int32_t *to, *from;  // of lists
    // small recurrent layers: steps of their own; slots are rows of members, then members (program/lanes.h)
    const Step* members;
    int64_t member_count, slots;
    LaneStep lanes;            // what is the same for all rows
    const float* lane_weights; // of the patterns of slots that follow each other
};

// What is copied to a row's state when a block has run: from the operand's last frame.
struct Kept {
    Operand from;
    int64_t to, count;
};

// A window over the latest frames of a value, of so many numbers each.
struct Ring {
    int64_t frame, history;
    float empty;               // what frames hold that are none of the sequence's
};

// An array that goes in or comes out, of any strides, in bytes.
enum Type { type_float32, type_float64, type_int64, type_int32, type_int16, type_int8, type_uint8, type_bool };
struct Port {
    Operand at;                // its frame in the program
    int64_t size[most_axes];   // of its axes, the last ones, as the operand's strides
    int over_time;             // of each frame one; else one a row, the latest
    int64_t more;              // it has so many more frames than the sequence

    int64_t count() const {
        int64_t product = 1;
        for (int64_t one : size) product *= one;
        return product;
    }
};
struct Array {
    char* data;
    int type;
    int64_t frame_stride, row_stride, stride[most_axes];
};

struct Program {
    const PackedKernels* packed;
    const NodeKernels<float>* nodes;
    const Step* steps;
    int64_t step_count;
    const Kept* kept;
    int64_t kept_count;
    const Ring* rings;
    int64_t ring_count;
    const Port *inputs, *outputs;
    int64_t input_count, output_count;
    const float* constants;
    const float* fresh;        // the state of a row that begins, without its rings
    int64_t arena;             // numbers of the arena a frame
    int64_t plain;             // numbers of a state without its rings
    int64_t delay;
    int64_t early;             // steps that a row runs before its first frame: some values have frames before that
    int64_t tail;              // steps behind the last frame until every value has all of its frames; delay or more
    double flops;              // of a frame
    const uint8_t* meets;      // [step_count] what `find_meetings` found
};

// Before which steps threads that have frames of their own meet: the step looks at frames of others, or writes where
// others may still read.
void find_meetings(const Program& program, uint8_t* meets);

// Room for a block's rows and frames. A row's state is `plain` numbers, and then of each ring its history and `room`
// frames more.
struct Shape {
    int64_t rows, frames, room;
};
int64_t state_size(const Program& program, int64_t room);
int64_t memory_size(const Program& program, const Shape& shape);  // bytes that a block needs beside states
void begin_state(const Program& program, int64_t room, float* state);

// A row's place in its windows, and how many frames it has seen.
struct Place {
    int64_t position, seen;
};

// Rows that go on by some frames. Where `seen` is below the program's delay it must be one for all rows.
struct Advance {
    Shape shape;               // what there is memory for
    char* memory;
    int64_t rows, frames;      // what runs
    float* const* states;      // [rows]
    Place* const* places;      // [rows]
    const Array *inputs, *outputs;  // their first rows and frames
    int64_t early;             // steps before the inputs' first frame
    int64_t given;             // frames that the inputs have; before and behind them are zeros
    int64_t end;               // frames of the whole sequence, or `endless`
    int64_t late;              // outputs' first frame is that of this step, the early ones not counted
    Watch* watch;              // or null
};
const int64_t endless = int64_t(1) << 60;

enum { advance_done, advance_stopped, advance_index };  // the last: an index was out of range in `wrong_step`
int advance(const Program& program, const Advance& call, int64_t& wrong_step);

// The same for any number of rows, in blocks of as many as there is memory for in `shape`. Threads share the blocks, or
// run every block together where that pays (program/plan.h); results do not depend on it.
Outcome advance_rows(const Program& program, const Advance& call, int threads, int64_t& wrong_step);

// An index drawn by the softmax of logits (count,) over a temperature: by a seed, a step and a row.
int64_t sample_index(const float* logits, int64_t count, double temperature, uint64_t seed, int64_t step, int64_t row);

// Whole sequences; threads share rows, or run every block together where that pays.
struct Sequences {
    int64_t steps, batch;
    const Array *inputs, *outputs;
    int threads;
    Interrupted interrupted;
};
Outcome run_sequences(const Program& program, const Sequences& call, int64_t& wrong_step);

}  // namespace cgru

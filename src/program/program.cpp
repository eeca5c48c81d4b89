// How a network's program runs: see program.h. No arithmetic here: that is in nodes/ and packed/.
#include "program/program.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program/ends.h"

namespace cgru {
namespace {

const int64_t block_frames = 64;         // of all rows of a block, together
const int64_t arena_bytes = 512 * 1024;  // of a block's arena, about
const double smallest_shared = 1e6;      // flops of a call below which it stays on one thread

inline void fill_with(float* to, int64_t count, float value) {
    for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// A block while it runs.
struct Run : Ends {
    using Ends::Ends;

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
            case step_side_by_side: side_by_side(step); break;
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
        for (int64_t i = 0; i < step.member_count; ++i)
            if (step.members[i].clears) clear(step.members[i]);
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
    Run run(program, call, rings, arena, parts.take<char>(0));
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

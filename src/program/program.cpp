// How a network's program runs: see program.h. No arithmetic here: that is in nodes/ and packed/.
#include "program/program.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "program/ends.h"
#include "program/plan.h"

namespace cgru {
namespace {

const int64_t block_frames = 64;         // of all rows of a block, together
const int64_t arena_bytes = 512 * 1024;  // of a block's arena, about
const int64_t large_network = 4 << 20;   // bytes of weights that no second-level cache holds
const int64_t large_arena = 4;           // so many times as much where weights lie far: a block reads them once

inline void fill_with(float* to, int64_t count, float value) {
    for (int64_t i = 0; i < count; ++i) to[i] = value;
}

// A block while it runs.
struct Run : Ends {
    using Ends::Ends;

    // Frames that are none of the sequence's become zero where later ones look at them.
    void clear(const Step& step) const {
        each_frame([&](int64_t r, int64_t t) {
            int64_t first, last;
            valid(step.ahead, step.more, r, first, last);
            if (t < first || t >= last)
                fill_with(frame_of(step.out, r, t), step.out.row, program.rings[step.out.offset].empty);
        });
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
        bool clears = step.clears;
        for (int64_t i = 0; i < step.member_count; ++i) clears = clears || step.members[i].clears;
        if (!clears || left) return;
        // whatever threads wrote the frames that this one clears
        if (member && (!member->by_frames || crosses(step)) && !meet()) return;
        if (step.clears) clear(step);
        for (int64_t i = 0; i < step.member_count; ++i)
            if (step.members[i].clears) clear(step.members[i]);
    }

    // All steps, up to where this thread leaves.
    void run_steps() {
        for (int64_t i = 0; i < program.step_count && !left; ++i) {
            if (member && (!member->by_frames || program.meets[i]) && !meet()) return;
            const Step& step = program.steps[i];
            if (member) member->way = Way(member->team.ways[i]);
            if (member && member->way == way_beside && !own_loops(step))
                run_half(i++);
            else
                run(step);
        }
    }
    // One of two directions, those of step i and the next.
    void run_half(int64_t i) {
        if (member->join_half()) {
            member->way = member->parts > 1 ? way_units : way_alone;
            run(program.steps[i + member->second()]);
        }
        member->leave_half();
    }
    bool is_first() const { return !member || member->number == 0; }

    // Move windows back to where they began, so that there is room for the block's frames; of threads that share it the
    // first does it.
    void make_room() {
        bool moved = false;
        for (int64_t r = 0; r < block.rows; ++r) {
            Place& place = *block.places[r];
            if (place.position + width <= block.shape.room) continue;
            for (int64_t i = 0; is_first() && i < program.ring_count; ++i) {
                const Ring& ring = program.rings[i];
                float* frames = block.states[r] + rings[i];
                memmove(frames, frames + place.position * ring.frame,
                        size_t(ring.history * ring.frame) * sizeof(float));
            }
            place.position = 0;
            moved = true;
        }
        if (member && moved) meet();
    }

    void keep() const {
        for (int64_t r = 0; r < block.rows; ++r) {
            for (int64_t i = 0; is_first() && i < program.kept_count; ++i) {
                const Kept& kept = program.kept[i];
                memcpy(block.states[r] + kept.to, at(kept.from, r, width - 1), size_t(kept.count) * sizeof(float));
            }
            block.places[r]->position += width;
            block.places[r]->seen += width;
        }
    }

    // The block's frames from `done` on. An answer other than that it is done ends the call for this thread. Between
    // the meeting behind the steps and that of `stay` none goes on to where it might find another index.
    int run_block(int64_t done) {
        width = smaller(block.shape.frames, block.frames - done);
        if (member) member->by_frames = have_own_frames({block.rows, width, 1}, member->team.size);
        make_room();
        if (!left) read(done);
        run_steps();
        if (member && wrong >= 0) member->team.wrong = wrong;
        if (!left && member) meet();
        if (member && member->team.wrong >= 0) wrong = member->team.wrong;
        if (left) return advance_stopped;
        if (wrong >= 0) return advance_index;
        write(done);
        keep();
        if (!goes_on(double(frames()) * program.flops) || (member && !stay())) return advance_stopped;
        return advance_done;
    }
};

// Where each ring begins in a state; behind the last the state ends.
void find_rings(const Program& program, int64_t room, int64_t* starts) {
    starts[0] = program.plain;
    for (int64_t i = 0; i < program.ring_count; ++i)
        starts[i + 1] = starts[i] + (program.rings[i].history + room) * program.rings[i].frame;
}

// Where a call's memory has what.
struct Layout {
    int64_t* rings;
    float* arena;
    char* scratch;

    Layout(const Program& program, const Advance& call) {
        Parts parts(call.memory);
        rings = parts.take<int64_t>(program.ring_count + 1);
        find_rings(program, call.shape.room, rings);
        arena = parts.take<float>(program.arena * call.shape.rows * call.shape.frames);
        scratch = parts.take<char>(0);
    }
};

// All blocks, or as many as this thread has a part in.
int run_blocks(Run& run, int64_t& wrong_step) {
    FlushDenormals mode;
    for (int64_t done = 0; done < run.block.frames; done += run.width) {
        const int result = run.run_block(done);
        if (result == advance_index) wrong_step = run.wrong;
        if (result != advance_done) return result;
    }
    return advance_done;
}

// Scratch memory of a thread.
int64_t scratch_size(const Program& program, const Shape& shape) {
    int64_t scratch = 64;
    for (int64_t i = 0; i < program.step_count; ++i) {
        const Step& step = program.steps[i];
        if (step.kind == step_product) scratch = larger(scratch, Run::product_scratch(program, step));
        if (step.kind == step_recurrent) scratch = larger(scratch, Run::recurrent_scratch(program, step, shape));
    }
    return (scratch + 63) / 64 * 64;
}

// Memory of a call that a team shares.
int64_t team_size(const Program& program, const Shape& shape, int team) {
    const int64_t places = Parts::size<Place>(shape.rows) + Parts::size<Place*>(shape.rows);
    return memory_size(program, shape) + 64 + (team - 1) * (scratch_size(program, shape) + places);
}

// A call by a team of threads; or by this one, where there are not so many to be had.
int advance_by_team(const Program& program, const Advance& call, const Division& how, const uint8_t* ways, Watch& watch,
                    int64_t& wrong_step) {
    const Layout layout(program, call);
    const int64_t scratch = scratch_size(program, call.shape), rows = call.rows;
    Team team(how.team, ways, layout.scratch, scratch, watch);
    Parts rest(layout.scratch + how.team * scratch);
    Place* const places = rest.take<Place>((how.team - 1) * rows);
    Place** const place_rows = rest.take<Place*>((how.team - 1) * rows);
    for (int64_t i = 0; i < (how.team - 1) * rows; ++i) {
        places[i] = *call.places[i % rows];
        place_rows[i] = places + i;
    }
    int result = advance_done;
    const SharedRun run = run_shared(how.team, watch, [&](int number) {
        Advance part = call;
        part.watch = &watch;
        if (number) part.places = place_rows + (number - 1) * rows;
        Member member(team, number);
        Run own(program, part, layout.rings, layout.arena, member.scratch_of(number), &member);
        int64_t wrong = -1;
        const int ended = run_blocks(own, wrong);
        if (number) return;
        result = ended;
        wrong_step = wrong;
    });
    history().note_shared(run, run.waited + team.lost, run.lost + (team.abandoned ? team.lost : 0), how.cold);
    return run.ran ? result : advance(program, call, wrong_step);
}

// The arrays of a call from a row on.
struct Ports {
    Array inputs[most_ports], outputs[most_ports];

    Ports(const Program& program, const Array* read, const Array* written, int64_t row) {
        for (int64_t i = 0; i < program.input_count; ++i) {
            inputs[i] = read[i];
            inputs[i].data += row * inputs[i].row_stride;
        }
        for (int64_t i = 0; i < program.output_count; ++i) {
            outputs[i] = written[i];
            outputs[i].data += row * outputs[i].row_stride;
        }
    }
};

// part(0, n), ..., part(n - 1, n) at once, n the parts of a division; or part(0, 1), where none are wanted, or there
// are not so many threads to be had.
template <class Part> void run_parts(const Division& how, Watch& watch, const Part& part) {
    if (how.parts == 1) return part(0, 1);
    const SharedRun run = run_shared(how.parts, watch, [&](int number) { part(number, how.parts); });
    history().note_shared(run, run.waited, run.lost, how.cold);
    if (!run.ran) part(0, 1);
}

// Memory that is given back.
struct Memory {
    char* const start;
    explicit Memory(int64_t size) : start(static_cast<char*>(malloc(size_t(size)))) {}
    ~Memory() { free(start); }
};

}  // namespace

int64_t state_size(const Program& program, int64_t room) {
    int64_t size = program.plain;
    for (int64_t i = 0; i < program.ring_count; ++i)
        size += (program.rings[i].history + room) * program.rings[i].frame;
    return size;
}

int64_t memory_size(const Program& program, const Shape& shape) {
    return Parts::size<int64_t>(program.ring_count + 1) +
           Parts::size<float>(program.arena * shape.rows * shape.frames) + scratch_size(program, shape);
}

void find_meetings(const Program& program, uint8_t* meetings) {
    for (int64_t i = 0, since = 0; i < program.step_count; ++i) {
        bool found = false;
        for (int64_t k = 0; k < program.input_count && since == 0 && !found; ++k)
            found = waits(program.steps[i], program.inputs[k]);
        for (int64_t k = since; k < i && !found; ++k) found = waits(program.steps[i], program.steps[k]);
        meetings[i] = found;
        if (found) since = i;
    }
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
    const Layout layout(program, call);
    Run run(program, call, layout.rings, layout.arena, layout.scratch);
    return run_blocks(run, wrong_step);
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
    const int64_t tiles = (call.rows + call.shape.rows - 1) / call.shape.rows;
    const auto work = [&](int parts, int) -> Work {
        const int64_t own = (tiles + parts - 1) / parts, frames = call.shape.frames;
        const int64_t blocks = own * ((call.frames + frames - 1) / frames);
        return {smaller(call.rows, call.shape.rows), smaller(call.frames, frames), double(blocks)};
    };
    const Memory ways(program.step_count + 1);
    uint8_t* const way_of = reinterpret_cast<uint8_t*>(ways.start);
    if (!way_of) return outcome_no_memory;
    const double flops = program.flops * double(call.rows) * double(call.frames);
    const Division how = divide(program, flops, threads, tiles, work, way_of);
    const int64_t size = (memory_size(program, call.shape) + 127) / 64 * 64;
    const Memory memory(how.team > 1 ? team_size(program, call.shape, how.team) : how.parts * size);
    if (!memory.start) return outcome_no_memory;
    Watch watch;
    std::atomic<int64_t> wrong{-1};
    const auto run_part = [&](int part, int of) {
        for (int64_t tile = tiles * part / of; tile < tiles * (part + 1) / of; ++tile) {
            const int64_t row = tile * call.shape.rows;
            const Ports ports(program, call.inputs, call.outputs, row);
            Advance own = call;
            own.memory = memory.start + part * size;
            own.rows = smaller(call.shape.rows, call.rows - row);
            own.states += row;
            own.places += row;
            own.inputs = ports.inputs;
            own.outputs = ports.outputs;
            int64_t at = -1;
            const int result = how.team > 1 ? advance_by_team(program, own, how, way_of, watch, at)
                                            : advance(program, own, at);
            if (result == advance_index) wrong = at;
        }
    };
    run_parts(how, watch, run_part);
    wrong_step = wrong;
    return outcome_done;
}

// Of all products and recurrent layers, about.
static int64_t weight_bytes(const Program& program) {
    int64_t bytes = 0;
    const auto add = [&](const PackedLayer& layer, int64_t vectors, int64_t inputs) {
        bytes += layer.blocks * vectors * program.packed->lanes * inputs * program.packed->of[layer.storage].bytes;
    };
    for (int64_t i = 0; i < program.step_count; ++i) {
        const Step& step = program.steps[i];
        for (int k = 0; step.kind == step_product && k < step.sections; ++k)
            add(step.section[k], step.section[k].cell, step.section[k].inputs);
        if (step.kind == step_recurrent)
            add(*step.layer, cells[step.layer->cell].gates, step.layer->inputs + step.layer->hidden);
    }
    return bytes;
}

Outcome run_sequences(const Program& program, const Sequences& call, int64_t& wrong_step) {
    const int64_t steps = program.early + call.steps + program.tail;
    const int64_t bytes = weight_bytes(program) > large_network ? large_arena * arena_bytes : arena_bytes;
    const int64_t fits = larger(1, bytes / larger(1, program.arena * int64_t(sizeof(float))));
    const auto rows_of = [&](int parts) { return (call.batch + parts - 1) / parts; };
    const auto shape_of = [&](int parts, int team) -> Shape {
        const int64_t most = smaller(fits, block_frames) * team;  // frames of a block
        const int64_t rows = smaller(rows_of(parts), most), frames = larger(1, smaller(most / rows, steps));
        return {rows, frames, 4 * frames};
    };
    const auto work = [&](int parts, int team) -> Work {
        const Shape shape = shape_of(parts, team);
        const int64_t blocks = (steps + shape.frames - 1) / shape.frames;
        return {shape.rows, shape.frames, double(blocks * ((rows_of(parts) + shape.rows - 1) / shape.rows))};
    };
    const Memory ways(program.step_count + 1);
    uint8_t* const way_of = reinterpret_cast<uint8_t*>(ways.start);
    if (!way_of) return outcome_no_memory;
    const double flops = program.flops * double(call.steps) * double(call.batch);
    const Division how = divide(program, flops, call.threads, (call.batch + 3) / 4, work, way_of);
    const Shape shape = shape_of(how.parts, how.team);
    const int64_t rows = shape.rows, state = (state_size(program, shape.room) + 15) / 16 * 16;
    const int64_t size = (Parts::size<float>(state * rows) + Parts::size<Place>(rows) + 2 * Parts::size<char*>(rows) +
                          team_size(program, shape, how.team) + 127) / 64 * 64;
    const Memory memory(how.parts * size);
    if (!memory.start) return outcome_no_memory;
    Watch watch(call.interrupted);
    std::atomic<int64_t> wrong{-1};
    const auto run_part = [&](int part, int of) {
        Parts room(memory.start + part * size);
        float* states = room.take<float>(state * rows);
        Place* places = room.take<Place>(rows);
        float** state_rows = room.take<float*>(rows);
        Place** place_rows = room.take<Place*>(rows);
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
            const Ports ports(program, call.inputs, call.outputs, row);
            const Advance own = {shape, room.take<char>(0), count, steps, state_rows, place_rows, ports.inputs,
                                 ports.outputs, program.early, call.steps, call.steps, program.delay, &watch};
            int64_t at = -1;
            const int result = how.team > 1 ? advance_by_team(program, own, how, way_of, watch, at)
                                            : advance(program, own, at);
            if (result == advance_index) wrong = at;
            if (result != advance_done) return;
        }
    };
    run_parts(how, watch, run_part);
    wrong_step = wrong;
    return watch.stopped() ? outcome_interrupted : outcome_done;
}

}  // namespace cgru

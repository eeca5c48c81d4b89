// Whether threads shall share a call of a program, and how: by rows, each thread running blocks of its own, or all of
// them together in every block. By what the machine was measured to do, as in the packed engine.
#pragma once

#include "packed/cost.h"
#include "program/share.h"
#include "threads/history.h"

namespace cgru {
namespace {

const double element_seconds = 0.4e-9;  // of an element of steps that are no products, about
const double product_rate = 0.7;        // of the measured peak, about; windows and products of data
const double window_rate = 0.2;

// What runs: rows by frames in a block, and how many blocks of them one after the other.
struct Work {
    int64_t rows, frames;
    double blocks;
};

// How threads share a call: rows in so many parts, or blocks among a team of so many.
struct Division {
    int parts, team;
    bool cold;  // the other threads sleep
};

// --- Where threads meet --------------------------------------------------------------------------------------------

// Whether two operands share numbers of different frames, so that threads with frames of their own may get into each
// other's way. Buffers that are not used at once have the same place; of a window each frame sees others.
inline bool meets(const Operand& a, const Operand& b) {
    if (a.space != b.space) return false;
    if (a.space == space_ring) return a.offset == b.offset;
    if (a.space != space_arena || (a.offset == b.offset && a.row == b.row)) return false;
    return a.offset < b.offset + b.row && b.offset < a.offset + a.row;
}

// Whether a step looks at frames of other threads. Small layers side by side have operands of their own each.
inline bool crosses(const Step& step) {
    return step.kind == step_latest || step.kind == step_side_by_side ||
           (step.kind == step_recurrent && step.over_time);
}

// Whether a step has to wait for all of another one before it.
inline bool waits(const Step& step, const Step& before) {
    if (crosses(step) || crosses(before)) return true;
    const auto written = [](const Step& of, const Operand& by) {
        return meets(of.out, by) || (of.kind == step_recurrent && of.has_end && meets(of.in[2], by));
    };
    const auto meets_any = [&](const Step& writer, const Step& other) {
        if (written(writer, other.out)) return true;
        for (const Operand& in : other.in)
            if (written(writer, in)) return true;
        return false;
    };
    return meets_any(step, before) || meets_any(before, step);
}
inline bool waits(const Step& step, const Port& input) {
    bool found = crosses(step) || meets(step.out, input.at);
    for (const Operand& in : step.in) found = found || meets(in, input.at);
    return found;
}

// --- What steps cost -----------------------------------------------------------------------------------------------

// Of a recurrent layer in a block: its steps, and lines beside each other.
inline int64_t loop_steps(const Step& step, const Work& work) { return step.over_time ? work.frames : step.size[0]; }
inline int64_t loop_lines(const Step& step, const Work& work) {
    return step.size[1] * work.rows * (step.over_time ? 1 : work.frames);
}

// Seconds of a step on one thread in a block.
inline double seconds_of(const Program& program, const Machine& m, const Step& step, const Work& work) {
    const double frames = double(work.rows * work.frames);
    double size = 1;
    for (int64_t one : step.size) size *= double(one);
    switch (step.kind) {
        case step_recurrent: {
            const StepSeconds of = step_seconds(*program.packed, m, *step.layer, double(loop_lines(step, work)));
            return double(loop_steps(step, work)) * (of.inputs + of.recurrent);
        }
        case step_product: {
            const PackedLayer& section = step.section[0];
            const StorageKernels& storage = program.packed->of[section.storage];
            const double weights = double(step.outputs * section.inputs), rows = frames * size;
            const double arithmetic = 2 * rows * weights / (product_rate * m.flops * storage.rate);
            return arithmetic > weights * storage.bytes / m.bytes ? arithmetic : weights * storage.bytes / m.bytes;
        }
        case step_window: return 2 * frames * size / (window_rate * m.flops);
        case step_multiply: return 2 * frames * size / (window_rate * m.flops);
        case step_lookup: return frames * size / double(step.size[2]) * element_seconds;
    }
    return frames * size * element_seconds;
}

// Whether threads of a team have frames of their own.
inline bool have_own_frames(const Work& work, int team) { return work.rows * work.frames >= fewest_frames * team; }

// Whether a step and the next are two directions of a layer: the same inputs, different outputs.
inline bool two_directions(const Program& program, int64_t i) {
    if (i + 1 >= program.step_count) return false;
    const Step &a = program.steps[i], &b = program.steps[i + 1];
    if (a.kind != step_recurrent || b.kind != step_recurrent || a.over_time != b.over_time || a.clears || b.clears)
        return false;
    const auto same = [](const Operand& p, const Operand& q) {
        return p.space == q.space && p.offset == q.offset && p.inside == q.inside;
    };
    bool apart = same(a.in[0], b.in[0]) && !same(a.out, b.out) && a.size[0] == b.size[0] && a.size[1] == b.size[1];
    if (a.has_end) apart = apart && !same(a.in[2], b.in[1]) && !same(a.in[2], b.in[2]);
    return apart && (a.out.offset != b.in[1].offset || a.out.space != b.in[1].space);
}

// The way of a recurrent layer's loop that takes least, and its seconds.
inline double find_way(const Program& program, const Machine& m, const Step& step, const Work& work, int team,
                       int asked, Way& way) {
    const int64_t lines = loop_lines(step, work);
    const double steps = double(loop_steps(step, work));
    const PackedLayer& layer = *step.layer;
    const auto seconds = [&](int64_t rows) { return step_seconds(*program.packed, m, layer, double(rows)); };
    const StepSeconds all = seconds(lines), some = seconds((lines + team - 1) / team);
    double least = steps * (all.inputs / team + all.recurrent);
    way = way_alone;
    const auto consider = [&](Way other, bool wanted, double taken) {
        if (!wanted && (asked != sharing_measured || taken >= least)) return;
        way = other;
        least = taken;
    };
    if (lines > 1) consider(way_lines, asked == sharing_rows, steps * (some.inputs + some.recurrent));
    if (layer.blocks > 1) {
        const double meetings = steps * cells[layer.cell].phases * m.meeting;
        consider(way_units, asked == sharing_units, steps * (all.inputs + all.recurrent) / team + meetings);
    }
    return least;
}

// The ways of all steps, and the seconds of a block.
inline double find_ways(const Program& program, const Machine& m, const Work& work, int team, int asked,
                        uint8_t* ways) {
    const bool frames = have_own_frames(work, team);
    double seconds = 2 * m.meeting;
    for (int64_t i = 0; i < program.step_count; ++i) {
        const Step& step = program.steps[i];
        if (!frames || program.meets[i]) seconds += m.meeting;
        ways[i] = way_alone;
        if (step.kind != step_recurrent || (frames && !step.over_time)) {
            seconds += seconds_of(program, m, step, work) / team;
            continue;
        }
        Way way, next;
        double least = find_way(program, m, step, work, team, asked, way);
        if (two_directions(program, i)) {
            const Step& second = program.steps[i + 1];
            const double both = least + find_way(program, m, second, work, team, asked, next) + m.meeting;
            double beside = seconds_of(program, m, step, work) / (team / 2);
            if (team > 3) beside += double(loop_steps(step, work)) * cells[step.layer->cell].phases * m.meeting;
            if (asked == sharing_rows || (asked == sharing_measured && beside < both)) {
                way = way_beside;
                ways[++i] = way_beside;
                least = beside;
            }
        }
        ways[i - (way == way_beside)] = way;
        seconds += least;
    }
    return seconds;
}

// --- The choice ----------------------------------------------------------------------------------------------------

// How to share a call of so many flops whose rows can be shared out in up to `most_parts` parts. work(parts, team) says
// what blocks one of so many parts runs, or a team of so many threads. `ways` are those of the team, if there is one.
template <class WorkOf>
Division divide(const Program& program, double flops, int threads, int64_t most_parts, const WorkOf& work,
                uint8_t* ways) {
    const Division here = {1, 1, false};
    History& seen = history();
    const int asked = seen.sharing.load();
    if (asked == sharing_measured) threads = int(smaller(threads, processors()));
    if (threads < 2 || !has_threads || asked == sharing_none) return here;
    if (asked == sharing_rows && most_parts > 1) return {int(smaller(threads, most_parts)), 1, false};
    if (asked != sharing_measured) {
        find_ways(program, {1, 1, 0, 0, 0}, work(1, threads), threads, asked, ways);
        return {1, threads, false};
    }
    if (flops < smallest_shared) return here;
    const double now = seconds_now();
    if (!seen.may_share(now)) return here;
    const bool spinning = seen.spinning(now);
    const Machine m = machine(*program.packed, spinning);
    const auto seconds = [&](const Work& of) {
        double sum = 0;
        for (int64_t i = 0; i < program.step_count; ++i) sum += seconds_of(program, m, program.steps[i], of);
        return of.blocks * sum;
    };
    const double one = seconds(work(1, 1));
    double least = worthwhile * one;
    Division best = here;
    const auto consider = [&](int parts, int team, double taken) {
        taken += m.hot_start * (parts * team - 1);
        if (taken >= least) return;
        least = taken;
        best = {parts, team, !spinning};
    };
    for (int64_t parts = smaller(threads, most_parts); parts > 1; parts /= 2)
        consider(int(parts), 1, seconds(work(int(parts), 1)));
    for (int team = threads; team > 1; team /= 2) {
        const Work of = work(1, team);
        consider(1, team, of.blocks * find_ways(program, m, of, team, asked, ways));
    }
    if (best.team > 1) find_ways(program, m, work(1, best.team), best.team, asked, ways);
    return !best.cold || seen.worth_waking(m, now, one - least) ? best : here;
}

}  // namespace
}  // namespace cgru

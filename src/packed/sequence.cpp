// A call of the packed engine: layers one after the other, blocks of time for deep stacks, and which thread has what.
//
// Threads own rows where there are rows enough: each runs its sequences from the first step to the last without meeting
// another. Of a few sequences through large weights each thread owns blocks of units, a part of the weights that its
// own core's cache may hold, and they meet once a step. Two directions run beside each other. Which of these pays is
// reckoned from what machine.cpp measured; results are the same to the last bit whatever is chosen.
#include "packed/sequence.h"

#include <stdlib.h>

#include "packed/cost.h"
#include "threads/history.h"

namespace cgru {
namespace {

const int64_t between_bytes = 1 << 20;  // of states between layers: deep stacks run in blocks of time of this size

// How the directions of a layer are shared out: each in so many parts, of its rows or of its units; all parts at once,
// or one direction after the other on this thread.
struct Plan {
    int parts;
    bool units, at_once, cold;  // cold: the other threads sleep
};

// Seconds of one thread for some rows of a pass.
double seconds_of(const PackedKernels& kernels, const Machine& m, const Pass& pass, double rows) {
    const double steps = pass.lengths ? total(pass.lengths, pass.batch) / double(pass.batch) : double(pass.steps);
    const StepSeconds step = step_seconds(kernels, m, *pass.layer, rows);
    return steps * (step.inputs + step.recurrent);
}

Plan make_plan(const PackedKernels& kernels, const Pass& pass, int directions, int threads) {
    const Plan here = {1, false, false, false};
    Plan best = here;
    History& seen = history();
    const int way = seen.sharing.load();
    if (way == sharing_measured) threads = int(smaller(threads, processors()));
    if (threads < 2 || !has_threads || way == sharing_none) return best;
    const int64_t each = larger(1, threads / directions);
    const int64_t tiles = (pass.batch + kernels.tile_rows - 1) / kernels.tile_rows;
    const int most_rows = int(smaller(each, tiles));
    const int most_units = int(pass.lengths ? 1 : smaller(each, pass.layer->blocks));
    if (way == sharing_rows) return {most_rows, false, true, false};
    if (way == sharing_units) return {most_units, most_units > 1, true, false};

    const double rows = pass.lengths ? total(pass.lengths, pass.batch) : double(pass.steps * pass.batch);
    const double flops = flops_of(cells[pass.layer->cell], pass.layer->inputs, pass.layer->hidden, rows);
    if (directions * flops < smallest_shared) return best;
    const double now = seconds_now();
    if (!seen.may_share(now)) return best;
    const bool spinning = seen.spinning(now);
    const Machine m = machine(kernels, spinning);
    const double alone = seconds_of(kernels, m, pass, double(pass.batch));
    double least = worthwhile * directions * alone;
    const auto consider = [&](int parts, bool units, double seconds) {
        seconds += m.hot_start * (parts * directions - 1);
        if (parts * directions < 2 || seconds >= least) return;
        least = seconds;
        best = {parts, units, true, false};
    };
    for (int parts = 1; parts <= most_rows; ++parts) {
        const int64_t largest = (tiles + parts - 1) / parts * kernels.tile_rows;
        consider(parts, false, seconds_of(kernels, m, pass, double(smaller(largest, pass.batch))));
    }
    const double meetings = double(pass.steps) * cells[pass.layer->cell].phases;
    for (int parts = 2; parts <= most_units; ++parts) consider(parts, true, alone / parts + meetings * m.meeting);
    if (!best.at_once || spinning) return best;
    best.cold = true;
    return seen.worth_waking(m, now, directions * alone - least) ? best : here;
}

const int no_threads = 3;  // beside the outcomes of a call

// Run the directions of a layer by a plan. Returns an outcome, or that there are no threads; nothing has run then.
int run_plan(const PackedKernels& kernels, const Pass* passes, int directions, Plan plan) {
    const int all = plan.parts * directions;
    Team first(plan.parts), second(plan.parts);
    Team* teams[] = {&first, &second};
    const auto rows_of = [&](int part) {
        const int d = part / plan.parts, member = part % plan.parts;
        if (plan.units) return Rows(kernels, passes[d], 0, passes[d].batch, teams[d], member);
        const auto edge = [&](int part) {
            return first_row(passes[d].lengths, passes[d].batch, kernels.tile_rows, part, plan.parts);
        };
        return Rows(kernels, passes[d], edge(member), edge(member + 1));
    };
    int64_t size = 0;
    for (int part = 0; part < all; ++part) size = larger(size, rows_of(part).scratch_size());
    size = (size + 127) / 64 * 64;
    char* scratch = static_cast<char*>(malloc(size_t((plan.at_once ? all : 1) * size)));
    if (!scratch) return outcome_no_memory;
    Watch& watch = *passes->watch;
    int result = outcome_done;
    if (!plan.at_once) {
        for (int part = 0; part < all; ++part) rows_of(part).run(scratch);
    } else {
        const SharedRun run = run_shared(all, watch, [&](int part) { rows_of(part).run(scratch + part * size); });
        double lost = run.lost, late = run.waited;
        for (const Team* team : teams) {
            late += team->lost;
            if (team->abandoned) lost += team->lost;
        }
        history().note_shared(run, late, lost, plan.cold);
        if (!run.ran) result = no_threads;
    }
    free(scratch);
    return watch.stopped() ? outcome_interrupted : result;
}

int run_passes(const PackedKernels& kernels, const Pass* passes, int directions, int threads) {
    const Plan plan = make_plan(kernels, passes[0], directions, threads);
    int result = run_plan(kernels, passes, directions, plan);
    if (result == no_threads) result = run_plan(kernels, passes, directions, {1, false, false, false});
    if (threads > 1) history().note_end();
    return result;
}

}  // namespace

Outcome run_packed_call(const PackedKernels& kernels, const PackedCall& call) {
    const int64_t B = call.batch, H = call.layers[0]->hidden, width = call.directions * H, state = B * H;
    int64_t block = call.steps;
    if (call.depth > 1 && call.directions == 1)
        block = larger(1, smaller(call.steps, between_bytes / int64_t(sizeof(float)) / (B * H)));
    const int64_t between = call.depth > 1 ? block * B * width : 0, buffers = smaller(2, call.depth - 1);
    int64_t* lengths =
        static_cast<int64_t*>(malloc(size_t(B) * sizeof(int64_t) + size_t(buffers * between) * sizeof(float)));
    if (!lengths) return outcome_no_memory;
    Watch watch(call.interrupted);
    float* memory = reinterpret_cast<float*>(lengths + B);
    int result = outcome_done;
    for (int64_t done = 0; done < call.steps && !result; done += block) {
        const int64_t size = smaller(block, call.steps - done), start = call.reverse ? call.steps - done - size : done;
        if (call.lengths)
            for (int64_t i = 0; i < B; ++i) lengths[i] = larger(0, smaller(size, call.lengths[i] - start));
        Pass pass = {nullptr, size, B, call.x + start * call.x_step, call.x_step, call.x_sequence, call.x_feature,
                     nullptr, nullptr, 0, 0, call.order, call.lengths ? lengths : nullptr, nullptr, nullptr, false,
                     &watch};
        for (int64_t k = 0; k < call.depth && !result; ++k) {
            const bool last = k == call.depth - 1;
            float* y = last ? call.y + start * call.y_step : memory + k % 2 * between;
            pass.y_step = last ? call.y_step : B * width;
            pass.y_sequence = last ? call.y_sequence : width;
            Pass passes[2];
            for (int64_t d = 0; d < call.directions; ++d) {
                pass.layer = call.layers[k * call.directions + d];
                pass.state = call.state + (k * call.directions + d) * state;
                pass.y = y + d * H;
                pass.reverse = call.reverse || d == 1;
                if (call.fresh[d]) {
                    pass.fresh = call.fresh[d] + start * B;
                    pass.start = call.start + (k * call.directions + d) * state;
                }
                passes[d] = pass;
            }
            result = run_passes(kernels, passes, int(call.directions), call.threads);
            pass.x = y;
            pass.x_step = pass.y_step;
            pass.x_sequence = pass.y_sequence;
            pass.x_feature = 1;
        }
    }
    free(lengths);
    return Outcome(result);
}

}  // namespace cgru

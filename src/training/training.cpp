// Training's loops over time for one direction of one layer: a pass that records, and backpropagation through it.
//
// Recording: input products for a few steps at once, written to where the gates will be kept, then step by step a
// product with the recurrent weights and the gates. Backward, in the opposite order: the gradients by the gates'
// arguments, written over what was kept, and their product with the recurrent weights, which is the state's gradient;
// only this is sequential. For some rows at a time the gradients by the inputs follow. The gradients by the weights are
// outer products over the rows of all steps, made at the end.
//
// Threads own rows, from the first step to the last, and at the end they own rows of the weights' gradients. So the
// number of parts decides nothing but the order in which the biases' gradients are added up, and it depends on the call
// alone.
#include <stdlib.h>
#include <string.h>

#include "kernels.h"
#include "threads/share.h"
#include "training/memory.h"

namespace cgru {
namespace {

const int64_t group = 64;        // rows of products that need no order: one reading of the weights serves all of them
const int64_t outer_rows = 128;  // rows of an outer product laid out at once
const int64_t row_tile = 8;      // threads own whole tiles of rows
const int64_t fewest_rows = 256; // of a piece of a step, so that weights are read for many
const double step_flops = 500;   // the time of a step's bookkeeping in arithmetic, and of a row's
const double shared = 2e7;       // flops for which a further thread repays its start

Patience patience;               // whether threads may be tried again

// The stride of rows of `count` values: whole cache lines, an odd number of them, so that rows do not meet in a cache's
// set.
template <class T> int64_t padded(int64_t count) {
    const int64_t line = 64 / int64_t(sizeof(T)), lines = (count + line - 1) / line;
    return (lines | 1) * line;
}

// Where the values of a call's rows are, by step and row.
template <class T> struct Places {
    const TrainingCall<T>& call;
    const int64_t H, kept_stride;
    explicit Places(const TrainingCall<T>& call)
        : call(call), H(call.layer->hidden), kept_stride(cells[call.layer->cell].kept * H) {}

    int64_t sequence(int64_t row) const { return call.order ? call.order[row] : row; }
    int64_t length(int64_t row) const { return call.lengths ? call.lengths[row] : call.steps; }
    int64_t rows_at(int64_t t) const { return rows_with(call.lengths, call.batch, t); }
    // The step at which the pass is after `done` others.
    int64_t step(int64_t done) const { return call.reverse ? call.steps - 1 - done : done; }

    const T* x(int64_t t, int64_t row) const { return call.x + t * call.x_step + sequence(row) * call.x_sequence; }
    T* y(int64_t t, int64_t row) const { return call.y + t * call.y_step + sequence(row) * call.y_sequence; }
    T* kept(int64_t t, int64_t row) const { return call.kept + (t * call.batch + row) * kept_stride; }
    // Of what is kept, the part of the gates of the input product.
    T* gates(int64_t t, int64_t row) const {
        const Cell& cell = cells[call.layer->cell];
        return kept(t, row) + (cell.kept - cell.gates) * H;
    }
    const T* grad_y(int64_t t, int64_t row) const {
        return call.grad_y + t * call.grad_y_step + sequence(row) * call.grad_y_sequence;
    }
    T* grad_x(int64_t t, int64_t row) const {
        return call.grad_x + t * call.grad_x_step + sequence(row) * call.grad_x_sequence;
    }
    bool fresh(int64_t t, int64_t row) const { return call.fresh && call.fresh[t * call.batch + row]; }
    // The state before a step.
    const T* before(int64_t t, int64_t row) const {
        if (fresh(t, row)) return call.start + row * H;
        const bool first = call.reverse ? t == length(row) - 1 : t == 0;
        return first ? call.state + row * H : y(call.reverse ? t + 1 : t - 1, row);
    }
};

// Bring values that are written soon nearer: stores end in their order, so each would wait for its own line.
template <class T> inline void fetch_to_write(T* values, int64_t count) {
#if defined(__GNUC__)
    for (int64_t at = 0; at < count; at += 64 / int64_t(sizeof(T))) __builtin_prefetch(values + at, 1, 2);
#else
    (void)values, (void)count;
#endif
}

// Rows collected from several steps and multiplied by a matrix together. They are copied side by side first.
template <class T> class Gathered {
  public:
    Gathered(const TrainingKernels<T>& kernels, const Panels<T>& matrix, bool add)
        : kernels(kernels), matrix(matrix), stride(padded<T>(matrix.inner)), add(add) {}

    void take(Scratch& scratch) {
        copies = scratch.take<T>(group * stride);
        a = scratch.take<const T*>(group);
        c = scratch.take<T*>(group);
    }
    void push(const T* from, T* to) {
        T* copy = copies + count * stride;
        memcpy(copy, from, size_t(matrix.inner) * sizeof(T));
        a[count] = copy;
        c[count] = to;
        if (++count == group) finish();
    }
    void finish() {
        const Product<T> product = {count, a, c, add, 0};
        if (count) kernels.product(matrix, product);
        count = 0;
    }

  private:
    const TrainingKernels<T>& kernels;
    const Panels<T>& matrix;
    const int64_t stride;
    const bool add;
    int64_t count = 0;
    T* copies;
    const T** a;
    T** c;
};

// The rows [first, last) of a call, and the scratch they take.
template <class T> class Rows {
  public:
    Rows(const TrainingKernels<T>& kernels, const TrainingCall<T>& call, Watch& watch, int64_t first, int64_t last)
        : kernels(kernels), call(call), watch(watch), layer(*call.layer), cell(cells[layer.cell]), at(call),
          first(first), count(last - first), H(layer.hidden), stride(padded<T>(H)),
          wide(padded<T>(recurrent_gates(cell) * H)), row_flops(flops_of(cell, layer.inputs, H, 1)),
          piece(larger(1, int64_t(piece_flops / row_flops / double(fewest_rows))) * fewest_rows) {}

    // Take the scratch of a pass; with no memory behind it, to see its size.
    void take(Scratch& scratch, Gathered<T>& gathered) {
        gathered.take(scratch);
        state = scratch.take<T>(count * stride);
        reset_state = scratch.take<T>(count * stride);
        recurrent = scratch.take<T>(count * wide);
        state_rows = scratch.take<T*>(count);
        reset_rows = scratch.take<T*>(count);
        recurrent_rows = scratch.take<T*>(count);
        second_rows = scratch.take<T*>(count);
        y_rows = scratch.take<T*>(count);
        grad_y_rows = scratch.take<const T*>(count);
        before_rows = scratch.take<const T*>(count);
        grad_bias = scratch.take<T>(at.kept_stride);
    }

    void record(Scratch scratch) {
        if (count == 0) return;
        FlushDenormals mode;
        Gathered<T> inputs(kernels, layer.input, false);
        prepare(scratch, inputs, call.state);
        const int64_t chunk = larger(1, group / count);
        for (int64_t done = 0; done < call.steps; ++done) {
            if (done % chunk == 0) {
                for (int64_t next = done; next < smaller(done + chunk, call.steps); ++next) {
                    const int64_t t = at.step(next);
                    if (!in_pieces(rows_at(t), [&](int64_t from, int64_t to) {
                            for (int64_t row = first + from; row < first + to; ++row) {
                                fetch_to_write(at.kept(t, row), at.kept_stride);
                                fetch_to_write(at.y(t, row), H);
                                inputs.push(at.x(t, row), at.gates(t, row));
                            }
                        })) return;
                }
                inputs.finish();
            }
            if (!record_step(at.step(done))) return;
        }
        for (int64_t i = 0; i < count; ++i) memcpy(call.state + (first + i) * H, state_rows[i], size_t(H) * sizeof(T));
    }

    // `bias`: (kept, H), this part's gradients by the biases
    void backward(Scratch scratch, T* bias) {
        if (count == 0) return;
        FlushDenormals mode;
        Gathered<T> gradients(kernels, layer.input_back, call.add != 0);
        prepare(scratch, gradients, call.carry);
        for (int64_t done = call.steps; done-- > 0;) {
            const int64_t t = at.step(done);
            if (!backward_step(t)) return;
            if (!call.grad_x) continue;
            const int64_t rows = rows_at(t);
            if (!in_pieces(rows, [&](int64_t from, int64_t to) {
                    for (int64_t row = first + from; row < first + to; ++row) {
                        fetch_to_write(at.grad_x(t, row), layer.inputs);
                        gradients.push(at.gates(t, row), at.grad_x(t, row));
                    }
                })) return;
            if (!call.add)
                for (int64_t row = first + rows; row < first + count; ++row)
                    memset(at.grad_x(t, row), 0, size_t(layer.inputs) * sizeof(T));
        }
        gradients.finish();
        for (int64_t i = 0; i < count; ++i) memcpy(call.carry + (first + i) * H, state_rows[i], size_t(H) * sizeof(T));
        memcpy(bias, grad_bias, size_t(at.kept_stride) * sizeof(T));
    }

  private:
    const TrainingKernels<T>& kernels;
    const TrainingCall<T>& call;
    Watch& watch;
    const TrainingLayer<T>& layer;
    const Cell& cell;
    const Places<T> at;
    const int64_t first, count, H, stride, wide;
    const double row_flops;  // of a step
    const int64_t piece;     // rows of a step that are worked on at once
    T *state, *reset_state, *recurrent, *grad_bias;
    T **state_rows, **reset_rows, **recurrent_rows, **second_rows, **y_rows;
    const T **grad_y_rows, **before_rows;
    TrainingStep<T> step;
    int downwards = 0;

    int64_t rows_at(int64_t t) const { return larger(0, smaller(count, at.rows_at(t) - first)); }

    // Addresses of the scratch's rows; the states are those of the call.
    void prepare(Scratch& scratch, Gathered<T>& gathered, const T* states) {
        take(scratch, gathered);
        for (int64_t i = 0; i < count; ++i) {
            state_rows[i] = state + i * stride;
            reset_rows[i] = reset_state + i * stride;
            recurrent_rows[i] = recurrent + i * wide;
            second_rows[i] = recurrent_rows[i] + cell.phase[1].first * H;
            memcpy(state_rows[i], states + (first + i) * H, size_t(H) * sizeof(T));
        }
        memset(grad_bias, 0, size_t(at.kept_stride) * sizeof(T));
        memset(&step, 0, sizeof step);
        step.hidden = H;
        step.kept_stride = at.kept_stride;
        step.recurrent_stride = wide;
        step.stride = stride;
        step.bias = layer.bias;
        step.grad_bias = grad_bias;
        step.gate = layer.gate;
        step.candidate = layer.candidate_function;
        step.flip = layer.flip;
        step.usual = layer.usual;
    }

    // body(from, to) for the first rows, a piece after the other. False if the call ends.
    template <class Body> bool in_pieces(int64_t rows, const Body& body) {
        for (int64_t from = 0; from < rows; from += piece) {
            const int64_t to = smaller(rows, from + piece);
            body(from, to);
            if (!watch.goes_on(double(to - from) * row_flops)) return false;
        }
        return true;
    }

    // Let the step be that of the rows [from, to) at time t.
    void place(int64_t t, int64_t from, int64_t to) {
        step.rows = to - from;
        step.kept = at.kept(t, first + from);
        step.recurrent = recurrent_rows[from];
        step.state = state_rows[from];
        step.reset_state = reset_rows[from];
        step.y = y_rows + from;
        step.before = before_rows + from;
        step.grad_y = call.grad_y ? grad_y_rows + from : nullptr;
    }

    void multiply(const Panels<T>& matrix, T* const* a, T* const* c, int64_t from, bool add) {
        if (!matrix.values) return;  // a phase without a product
        const Product<T> product = {step.rows, a + from, c + from, add, downwards};
        kernels.product(matrix, product);
    }

    bool record_step(int64_t t) {
        const int64_t rows = rows_at(t);
        for (int64_t i = 0; i < count; ++i) {
            y_rows[i] = at.y(t, first + i);
            if (i < rows && at.fresh(t, first + i))
                memcpy(state_rows[i], call.start + (first + i) * H, size_t(H) * sizeof(T));
            if (i >= rows) memset(y_rows[i], 0, size_t(H) * sizeof(T));
        }
        const bool goes_on = in_pieces(rows, [&](int64_t from, int64_t to) {
            place(t, from, to);
            for (int p = 0; p < cell.phases; ++p) {
                multiply(layer.recurrent[p], p ? reset_rows : state_rows, p ? second_rows : recurrent_rows, from,
                         false);
                kernels.of[layer.cell].record[p](step);
            }
        });
        downwards = !downwards;
        return goes_on && watch.goes_on(step_flops * double(1 + count));
    }

    // The gradient by the state a row started anew from is the start's, and none goes on to the step before.
    void part_from_start(int64_t i) {
        if (call.grad_start)
            for (int64_t j = 0; j < H; ++j) call.grad_start[(first + i) * H + j] += state_rows[i][j];
        memset(state_rows[i], 0, size_t(H) * sizeof(T));
    }

    bool backward_step(int64_t t) {
        step.next = (call.reverse ? 1 : -1) * call.batch * at.kept_stride;
        const int64_t rows = rows_at(t);
        for (int64_t i = 0; i < rows; ++i) {
            before_rows[i] = at.before(t, first + i);
            if (call.grad_y) grad_y_rows[i] = at.grad_y(t, first + i);
        }
        const bool goes_on = in_pieces(rows, [&](int64_t from, int64_t to) {
            place(t, from, to);
            for (int p = cell.phases; p-- > 0;) {
                kernels.of[layer.cell].backward[p](step);
                multiply(layer.recurrent_back[p], recurrent_rows, p ? reset_rows : state_rows, from, p == 0);
            }
        });
        for (int64_t i = 0; i < rows; ++i)
            if (at.fresh(t, first + i)) part_from_start(i);
        downwards = !downwards;
        return goes_on && watch.goes_on(step_flops * double(1 + count));
    }
};

// A share of the rows of the weights' gradients: outer products of the gradients kept with what was multiplied by the
// weights, over the rows of all steps.
template <class T> class WeightGradients {
  public:
    WeightGradients(const TrainingKernels<T>& kernels, const TrainingCall<T>& call, Watch& watch)
        : kernels(kernels), call(call), watch(watch), cell(cells[call.layer->cell]), at(call), H(call.layer->hidden),
          I(call.layer->inputs) {}

    void take(Scratch& scratch) {
        kept = scratch.take<T*>(outer_rows);
        before = scratch.take<const T*>(outer_rows);
        x = scratch.take<const T*>(outer_rows);
        a = scratch.take<const T*>(outer_rows);
        x_laid_out = scratch.take<T>(kernels.rows_size(outer_rows, I));
        before_laid_out = scratch.take<T>(kernels.rows_size(outer_rows, H));
        kept_laid_out = scratch.take<T>(kernels.rows_size(outer_rows, H));
        memory = scratch.take<T>(kernels.outer_memory(outer_rows));
    }

    void run(Scratch scratch, int part, int parts) {
        FlushDenormals mode;
        take(scratch);
        int64_t count = 0;
        for (int64_t t = 0; t < call.steps; ++t) {
            const int64_t rows = at.rows_at(t);
            for (int64_t row = 0; row < rows; ++row) {
                kept[count] = at.kept(t, row);
                before[count] = at.before(t, row);
                x[count] = at.x(t, row);
                if (++count < outer_rows) continue;
                finish(count, part, parts);
                if (!watch.goes_on(flops_of(cell, I, H, double(outer_rows)) / parts)) return;
            }
        }
        finish(count, part, parts);
    }

  private:
    const TrainingKernels<T>& kernels;
    const TrainingCall<T>& call;
    Watch& watch;
    const Cell& cell;
    const Places<T> at;
    const int64_t H, I;
    T** kept;
    const T **before, **x, **a;
    T *x_laid_out, *before_laid_out, *kept_laid_out, *memory;

    void finish(int64_t& count, int part, int parts) {
        if (count == 0) return;
        kernels.lay_out(x, count, I, x_laid_out);
        kernels.lay_out(before, count, H, before_laid_out);
        const OuterOperand<T> none = {};
        for (const Outer& outer : cell.outer) {
            if (outer.gates == 0) break;
            OuterOperand<T> input = none, recurrent = none;
            if (outer.input >= 0) input = {x_laid_out, I, call.grad_w + outer.input * H * I};
            if (outer.recurrent >= 0) {
                if (outer.operand == operand_kept) kernels.lay_out(kept_at(0, a, count), count, H, kept_laid_out);
                recurrent = {outer.operand == operand_kept ? kept_laid_out : before_laid_out, H,
                             call.grad_u + outer.recurrent * H * H};
            }
            add(count, outer.kept, outer.gates * H, outer.input >= 0 ? input : recurrent,
                outer.input >= 0 ? recurrent : none, part, parts);
        }
        count = 0;
    }

    // Addresses of one of the values in the rows kept.
    const T** kept_at(int which, const T** rows, int64_t count) const {
        for (int64_t i = 0; i < count; ++i) rows[i] = kept[i] + which * H;
        return rows;
    }

    // Of `wide` gradients from one of the values kept on, this part's share.
    void add(int64_t count, int which, int64_t wide, const OuterOperand<T>& one, const OuterOperand<T>& other, int part,
             int parts) {
        const int64_t tiles = (wide + row_tile - 1) / row_tile;
        const OuterProduct<T> product = {count, kept_at(which, a, count), tiles * part / parts * row_tile,
                                         smaller(wide, tiles * (part + 1) / parts * row_tile), {one, other}, memory};
        if (product.first < product.last) kernels.outer_product(product);
    }
};

// body(part, parts) for all parts, at once; or one after the other where threads are not to be had, or have lately
// waited for a core that another process was using. The results are the same.
template <class Body> void share(int parts, Watch& watch, const Body& body) {
    if (parts > 1 && patience.may_share(seconds_now())) {
        const SharedRun run = run_shared(parts, watch, [&](int part) { body(part, parts); });
        if (run.ran) {
            patience.note(run.end, run.lost);
            return;
        }
    }
    for (int part = 0; part < parts; ++part) body(part, parts);
}

template <class T> struct Call {
    const TrainingKernels<T>& kernels;
    const TrainingCall<T>& call;
    Watch& watch;
    int64_t tiles;
    double flops;  // of one of the products of all steps

    Call(const TrainingKernels<T>& kernels, const TrainingCall<T>& call, Watch& watch)
        : kernels(kernels), call(call), watch(watch), tiles((call.batch + row_tile - 1) / row_tile) {
        const double rows = call.lengths ? total(call.lengths, call.batch) : double(call.steps) * double(call.batch);
        flops = flops_of(cells[call.layer->cell], call.layer->inputs, call.layer->hidden, rows);
    }

    int threads(int64_t most) const {
        if (!has_threads) return 1;
        most = smaller(most, smaller(call.threads, processors()));
        return int(larger(1, smaller(most, int64_t(flops / shared))));
    }

    Rows<T> rows(int part, int parts) const {
        const auto edge = [&](int i) { return first_row(call.lengths, call.batch, row_tile, i, parts); };
        return Rows<T>(kernels, call, watch, edge(part), edge(part + 1));
    }

    // Bytes of scratch that any of the parts takes.
    int64_t scratch_size(int parts, const Panels<T>& gathered) const {
        int64_t most = 0;
        for (int part = 0; part < parts; ++part) {
            Scratch scratch(nullptr);
            Gathered<T> group(kernels, gathered, false);
            rows(part, parts).take(scratch, group);
            most = larger(most, scratch.used);
        }
        return most;
    }
};

}  // namespace

template <class T> Outcome run_record(const TrainingKernels<T>& kernels, const TrainingCall<T>& given) {
    Watch watch(given.interrupted);
    const Call<T> call(kernels, given, watch);
    const int parts = call.threads(call.tiles);
    const Memory memory(call.scratch_size(parts, given.layer->input), parts);
    if (!memory.valid()) return outcome_no_memory;
    share(parts, watch, [&](int part, int parts) { call.rows(part, parts).record(memory.scratch(part)); });
    return watch.stopped() ? outcome_interrupted : outcome_done;
}

template <class T> Outcome run_backward(const TrainingKernels<T>& kernels, const TrainingCall<T>& given) {
    Watch watch(given.interrupted);
    const Call<T> call(kernels, given, watch);
    const int parts = call.threads(call.tiles), shares = call.threads(1024);
    const int64_t bias = cells[given.layer->cell].kept * given.layer->hidden;
    Scratch needed(nullptr);
    WeightGradients<T> gradients(kernels, given, watch);
    gradients.take(needed);
    const Memory memory(larger(call.scratch_size(parts, given.layer->input_back), needed.used), larger(parts, shares));
    const Memory biases(parts * bias * int64_t(sizeof(T)), 1);
    if (!memory.valid() || !biases.valid()) return outcome_no_memory;
    T* sums = biases.scratch(0).template take<T>(parts * bias);
    memset(sums, 0, size_t(parts * bias) * sizeof(T));
    share(parts, watch,
          [&](int part, int parts) { call.rows(part, parts).backward(memory.scratch(part), sums + part * bias); });
    if (watch.stopped()) return outcome_interrupted;
    for (int part = 0; part < parts; ++part)
        for (int64_t i = 0; i < bias; ++i) given.grad_bias[i] += sums[part * bias + i];
    share(shares, watch, [&](int part, int parts) {
        WeightGradients<T>(kernels, given, watch).run(memory.scratch(part), part, parts);
    });
    return watch.stopped() ? outcome_interrupted : outcome_done;
}

template Outcome run_record<float>(const TrainingKernels<float>&, const TrainingCall<float>&);
template Outcome run_record<double>(const TrainingKernels<double>&, const TrainingCall<double>&);
template Outcome run_backward<float>(const TrainingKernels<float>&, const TrainingCall<float>&);
template Outcome run_backward<double>(const TrainingKernels<double>&, const TrainingCall<double>&);

}  // namespace cgru

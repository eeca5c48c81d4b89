// The training kernels of an instruction set against scalar C++, without Python: a pass that records and the way back
// against a cell's equations as a textbook has them, one sequence and one step at a time, in double. Prints what it
// compared; exits with 1 on a difference. As kernels.cpp it is built for other processors and with sanitizers.
#include "training.h"

// --- A layer's functions ---------------------------------------------------------------------------------------------

static double at_clip(const Activation& f, double x) { return x > f.clip ? f.clip : x < -f.clip ? -f.clip : x; }

static double value_of(const Activation& f, double x) {
    x = at_clip(f, x);
    switch (f.code) {
        case activation_tanh: return tanh(x);
        case activation_sigmoid: return 1 / (1 + exp(-x));
        case activation_relu: return fmax(x, 0);
        case activation_hard_sigmoid: return fmin(fmax(f.alpha * x + f.beta, 0), 1);
        case activation_softsign: return x / (1 + fabs(x));
        case activation_softplus: return log(1 + exp(x));
        case activation_elu: return x > 0 ? x : f.alpha * (exp(x) - 1);
        case activation_leaky_relu: return x < 0 ? f.alpha * x : x;
        case activation_thresholded_relu: return x > f.alpha ? x : 0;
        case activation_scaled_tanh: return f.alpha * tanh(f.beta * x);
        case activation_affine: return f.alpha * x + f.beta;
        case activation_g: return x < 0 ? 1 / (1 + exp(-x)) : x + 0.5;
        default: return x;
    }
}

static double slope_of(const Activation& f, double x) {
    if (at_clip(f, x) != x) return 0;
    const double y = value_of(f, x);
    switch (f.code) {
        case activation_tanh: return 1 - y * y;
        case activation_sigmoid: return y * (1 - y);
        case activation_relu: return x > 0;
        case activation_hard_sigmoid: return y > 0 && y < 1 ? f.alpha : 0;
        case activation_softsign: return 1 / ((1 + fabs(x)) * (1 + fabs(x)));
        case activation_softplus: return 1 / (1 + exp(-x));
        case activation_elu: return x > 0 ? 1 : f.alpha * exp(x);
        case activation_leaky_relu: return x < 0 ? f.alpha : 1;
        case activation_thresholded_relu: return x > f.alpha;
        case activation_scaled_tanh: return f.beta * (f.alpha - y * y / f.alpha);
        case activation_affine: return f.alpha;
        case activation_g: return x < 0 ? y * (1 - y) : 1;
        default: return 1;
    }
}

struct Functions {
    const char* name;
    Activation gate, candidate;
};

// Every function once at least. The first pair is compiled into the loops.
static const Functions functions[] = {
    {"sigmoid, tanh", {activation_sigmoid, 0, 0, HUGE_VAL}, {activation_tanh, 0, 0, HUGE_VAL}},
    {"sigmoid, tanh, clip", {activation_sigmoid, 0, 0, 0.3}, {activation_tanh, 0, 0, 0.3}},
    {"hard_sigmoid, softsign", {activation_hard_sigmoid, 0.9, 0.5, HUGE_VAL}, {activation_softsign, 0, 0, HUGE_VAL}},
    {"sigmoid, relu", {activation_sigmoid, 0, 0, HUGE_VAL}, {activation_relu, 0, 0, HUGE_VAL}},
    {"affine, leaky_relu", {activation_affine, 0.3, 0.5, HUGE_VAL}, {activation_leaky_relu, 0.1, 0, HUGE_VAL}},
    {"softsign, elu", {activation_softsign, 0, 0, HUGE_VAL}, {activation_elu, 0.7, 0, HUGE_VAL}},
    {"scaled_tanh, softplus", {activation_scaled_tanh, 0.9, 0.7, HUGE_VAL}, {activation_softplus, 0, 0, HUGE_VAL}},
    {"linear, thresholded_relu", {activation_linear, 0, 0, HUGE_VAL}, {activation_thresholded_relu, 0.05, 0, HUGE_VAL}},
    {"sigmoid, g", {activation_sigmoid, 0, 0, HUGE_VAL}, {activation_g, 0, 0, HUGE_VAL}},
};

// --- A layer over time -----------------------------------------------------------------------------------------------

// Values by step, sequence and unit; they lie as (T, B, N), or sequence by sequence as (B, T, N).
template <class T> struct Sequences {
    int64_t step, sequence, width;
    std::vector<T> values;
    Sequences(int64_t steps, int64_t batch, int64_t width, bool batch_first)
        : step(batch_first ? width : batch * width), sequence(batch_first ? steps * width : width), width(width),
          values(random_values<T>(steps * batch * width)) {}
    template <class Other>
    explicit Sequences(const Sequences<Other>& other)
        : step(other.step), sequence(other.sequence), width(other.width),
          values(other.values.begin(), other.values.end()) {}
    T* at(int64_t t, int64_t s) { return &values[size_t(t * step + s * sequence)]; }
    const T* at(int64_t t, int64_t s) const { return &values[size_t(t * step + s * sequence)]; }
};

// What a call returns, and what it adds to: the states' rows as in the call, gradients as they were and more.
template <class T> struct Results {
    Sequences<T> y, grad_x;
    std::vector<T> h_n, grad_h0, grad_w, grad_u, grad_bias;  // (B, H) twice; as the weights; (kept, H)

    template <class Other>
    explicit Results(const Results<Other>& other)
        : y(other.y), grad_x(other.grad_x), h_n(other.h_n.begin(), other.h_n.end()),
          grad_h0(other.grad_h0.begin(), other.grad_h0.end()), grad_w(other.grad_w.begin(), other.grad_w.end()),
          grad_u(other.grad_u.begin(), other.grad_u.end()), grad_bias(other.grad_bias.begin(), other.grad_bias.end()) {}
    Results(const Cell& cell, Sequences<T> y, Sequences<T> grad_x, int64_t batch, int64_t inputs, int64_t hidden)
        : y(y), grad_x(grad_x), h_n(random_values<T>(batch * hidden)), grad_h0(random_values<T>(batch * hidden)),
          grad_w(random_values<T>(cell.gates * hidden * inputs)),
          grad_u(random_values<T>(recurrent_gates(cell) * hidden * hidden)),
          grad_bias(random_values<T>(cell.kept * hidden)) {}
};

struct Options {
    int cell;
    Functions functions;
    int flip;
    bool ragged, reverse, batch_first, add, with_grad_y;
    int64_t inputs, hidden, steps, batch;
};

// A layer, its input and the loss' gradients by its results. `start` holds h0 as h_n, the gradient by h_n as grad_h0,
// and what the gradients are added to.
template <class T> struct Problem {
    Options o;
    std::vector<T> w, u, bias;  // (gates * H, I), those of the state (.., H), (biases, H)
    Sequences<T> x, grad_y;
    Results<T> start;
    std::vector<int64_t> order, lengths;

    explicit Problem(const Options& o)
        : o(o), w(random_values<T>(cells[o.cell].gates * o.hidden * o.inputs, 1 / sqrt(double(o.hidden)))),
          u(random_values<T>(recurrent_gates(cells[o.cell]) * o.hidden * o.hidden, 1 / sqrt(double(o.hidden)))),
          bias(random_values<T>(cells[o.cell].biases * o.hidden, 1 / sqrt(double(o.hidden)))),
          x(o.steps, o.batch, o.inputs, o.batch_first), grad_y(o.steps, o.batch, o.hidden, o.batch_first),
          start(cells[o.cell], Sequences<T>(o.steps, o.batch, o.hidden, o.batch_first), x, o.batch, o.inputs,
                o.hidden) {
        if (o.cell == cell_gru_before)  // the candidate has one bias
            for (int64_t j = 0; j < o.hidden; ++j) bias[size_t(3 * o.hidden + j)] = 0;
        for (T& value : start.y.values) value = T(NAN);
        for (T& value : start.grad_x.values) value = o.add ? T(uniform()) : T(NAN);
        for (int64_t row = 0; row < o.batch; ++row) {
            order.push_back(o.ragged ? (2 * row + 1) % o.batch : row);
            const int64_t missing = o.batch == 1 ? 1 : (row + 1) * o.steps / o.batch;
            lengths.push_back(o.ragged ? o.steps - missing : o.steps);
        }
    }
};

// The layer as the kernels take it.
template <class T> struct Prepared {
    std::vector<LaidOut<T>> matrices;
    TrainingLayer<T> layer;

    explicit Prepared(const Problem<T>& p) {
        const Options& o = p.o;
        const int64_t I = o.inputs, H = o.hidden;
        memset(&layer, 0, sizeof layer);
        layer.inputs = I;
        layer.hidden = H;
        layer.bias = p.bias.data();
        layer.cell = o.cell;
        layer.gate = o.functions.gate;
        layer.candidate_function = o.functions.candidate;
        layer.flip = o.flip;
        const Cell& cell = cells[o.cell];
        layer.usual = is_usual(cell, layer.gate, layer.candidate_function, o.flip);
        layer.input = lay_out(p.w.data(), 1, I, I, cell.gates * H);
        layer.input_back = lay_out(p.w.data(), I, 1, cell.gates * H, I);
        for (int i = 0; i < cell.phases; ++i) {
            const int64_t first = cell.phase[i].first * H, count = cell.phase[i].gates * H;
            if (count == 0) continue;
            std::vector<T> rows(p.u.begin() + first * H, p.u.begin() + (first + count) * H);
            layer.recurrent[i] = lay_out(rows.data(), 1, H, H, count);
            if (o.cell == cell_gru_after) {  // as their gradients lie: n, r, z
                rows.assign(p.u.begin() + 2 * H * H, p.u.end());
                rows.insert(rows.end(), p.u.begin(), p.u.begin() + 2 * H * H);
            }
            layer.recurrent_back[i] = lay_out(rows.data(), H, 1, count, H);
        }
    }

  private:
    Panels<T> lay_out(const T* matrix, int64_t inner_stride, int64_t outer_stride, int64_t inner, int64_t outer) {
        matrices.emplace_back(matrix, inner_stride, outer_stride, inner, outer);
        return matrices.back().panels;
    }
};

template <class T> static Results<T> results_of_kernels(const Problem<T>& p, int threads) {
    const Options& o = p.o;
    const Prepared<T> prepared(p);
    Results<T> result(p.start);
    std::vector<T> kept(size_t(o.steps * o.batch * cells[o.cell].kept * o.hidden), T(NAN));
    TrainingCall<T> call;
    memset(&call, 0, sizeof call);
    call.layer = &prepared.layer;
    call.steps = o.steps;
    call.batch = o.batch;
    call.reverse = o.reverse;
    call.threads = threads;
    call.order = o.ragged ? p.order.data() : nullptr;
    call.lengths = o.ragged ? p.lengths.data() : nullptr;
    call.x = p.x.values.data();
    call.x_step = p.x.step;
    call.x_sequence = p.x.sequence;
    call.y = result.y.values.data();
    call.y_step = result.y.step;
    call.y_sequence = result.y.sequence;
    call.state = result.h_n.data();
    call.kept = kept.data();
    if (run_record(training_kernels<T>(), call)) exit(2);
    std::vector<T> h0(p.start.h_n);
    call.state = h0.data();
    call.grad_y = o.with_grad_y ? p.grad_y.values.data() : nullptr;
    call.grad_y_step = p.grad_y.step;
    call.grad_y_sequence = p.grad_y.sequence;
    call.carry = result.grad_h0.data();
    call.grad_x = result.grad_x.values.data();
    call.grad_x_step = result.grad_x.step;
    call.grad_x_sequence = result.grad_x.sequence;
    call.add = o.add;
    call.grad_w = result.grad_w.data();
    call.grad_u = result.grad_u.data();
    call.grad_bias = result.grad_bias.data();
    if (run_backward(training_kernels<T>(), call)) exit(2);
    return result;
}

// --- The textbook's cells --------------------------------------------------------------------------------------------

typedef std::vector<double> Values;

// c += A b, for rows of A (count, width) from `first` on.
template <class T> static void add_product(const std::vector<T>& A, int64_t first, const double* b, Values& c,
                                           int64_t width) {
    for (size_t i = 0; i < c.size(); ++i)
        for (int64_t k = 0; k < width; ++k) c[i] += double(A[size_t((first + int64_t(i)) * width + k)]) * b[k];
}

// c += A' a, and the gradient by A += a b', for rows of A (count, width) from `first` on.
template <class T> static void add_back(const std::vector<T>& A, int64_t first, const Values& a, const double* b,
                                        double* c, Values& gradient, int64_t width) {
    for (size_t i = 0; i < a.size(); ++i)
        for (int64_t k = 0; k < width; ++k) {
            const size_t at = size_t((first + int64_t(i)) * width + k);
            c[k] += double(A[at]) * a[i];
            gradient[at] += a[i] * b[k];
        }
}

// What a step of one sequence computes: the arguments of the gates and the candidate, and their values. u is what the
// candidate has from the state, U_n h + c_n, or r * h with the reset gate before the product.
struct Step {
    Values x, h, at_r, at_z, at_n, r, z, n, u, next;
};

static Step with_new_state(const Options& o, Step s) {
    for (size_t j = 0; j < s.h.size(); ++j) {
        s.n[j] = value_of(o.functions.candidate, s.at_n[j]);
        s.next[j] = o.flip ? (1 - s.z[j]) * s.h[j] + s.z[j] * s.n[j] : s.z[j] * s.h[j] + (1 - s.z[j]) * s.n[j];
    }
    return s;
}

template <class T> static Step textbook_step(const Problem<T>& p, const T* x, const Values& h) {
    const Options& o = p.o;
    const int64_t I = o.inputs, H = o.hidden;
    const auto biases = [&](int which) { return Values(p.bias.begin() + which * H, p.bias.begin() + (which + 1) * H); };
    const Values zero(h.size());
    if (o.cell == cell_mingru) {
        Step s = {Values(x, x + I), h, zero, biases(0), biases(1), zero, zero, zero, zero, zero};
        add_product(p.w, 0, s.x.data(), s.at_z, I);
        add_product(p.w, H, s.x.data(), s.at_n, I);
        for (size_t j = 0; j < size_t(H); ++j) s.z[j] = value_of(o.functions.gate, s.at_z[j]);
        return with_new_state(o, s);
    }
    Step s = {Values(x, x + I), h, biases(0), biases(1), biases(2), zero, zero, zero, zero, zero};
    add_product(p.w, 0, s.x.data(), s.at_r, I);
    add_product(p.w, H, s.x.data(), s.at_z, I);
    add_product(p.w, 2 * H, s.x.data(), s.at_n, I);
    add_product(p.u, 0, h.data(), s.at_r, H);
    add_product(p.u, H, h.data(), s.at_z, H);
    for (size_t j = 0; j < size_t(H); ++j) {
        s.r[j] = value_of(o.functions.gate, s.at_r[j]);
        s.z[j] = value_of(o.functions.gate, s.at_z[j]);
    }
    if (o.cell == cell_gru_after) {
        s.u = biases(3);
        add_product(p.u, 2 * H, h.data(), s.u, H);
        for (size_t j = 0; j < size_t(H); ++j) s.at_n[j] += s.r[j] * s.u[j];
    } else {
        for (size_t j = 0; j < size_t(H); ++j) s.u[j] = s.r[j] * h[j];
        add_product(p.u, 2 * H, s.u.data(), s.at_n, H);
    }
    return with_new_state(o, s);
}

// From the loss' gradient by h' to the one by h; adds to the gradients by the layer and by x.
template <class T>
static Values textbook_step_back(const Problem<T>& p, const Step& s, const Values& by_next, double* grad_x,
                                 Results<double>& grads) {
    const Options& o = p.o;
    const int64_t I = o.inputs, H = o.hidden;
    const Values zero(s.h.size());
    Values by_h = zero, by_r = zero, by_z = zero, by_n = zero, by_u = zero;
    for (size_t j = 0; j < size_t(H); ++j) {
        const double share = o.flip ? 1 - s.z[j] : s.z[j];  // of h in h'
        const double towards_h = by_next[j] * (s.h[j] - s.n[j]);
        by_h[j] = by_next[j] * share;
        by_n[j] = by_next[j] * (1 - share) * slope_of(o.functions.candidate, s.at_n[j]);
        by_z[j] = (o.flip ? -towards_h : towards_h) * slope_of(o.functions.gate, s.at_z[j]);
    }
    const bool has_reset = o.cell != cell_mingru;
    if (o.cell == cell_gru_after) {
        for (size_t j = 0; j < size_t(H); ++j) {
            by_u[j] = by_n[j] * s.r[j];
            by_r[j] = by_n[j] * s.u[j] * slope_of(o.functions.gate, s.at_r[j]);
            grads.grad_bias[j] += by_u[j];
        }
        add_back(p.u, 2 * H, by_u, s.h.data(), by_h.data(), grads.grad_u, H);
    } else if (o.cell == cell_gru_before) {
        add_back(p.u, 2 * H, by_n, s.u.data(), by_u.data(), grads.grad_u, H);
        for (size_t j = 0; j < size_t(H); ++j) {
            by_h[j] += by_u[j] * s.r[j];
            by_r[j] = by_u[j] * s.h[j] * slope_of(o.functions.gate, s.at_r[j]);
        }
    }
    if (has_reset) {
        add_back(p.u, 0, by_r, s.h.data(), by_h.data(), grads.grad_u, H);
        add_back(p.u, H, by_z, s.h.data(), by_h.data(), grads.grad_u, H);
    }
    std::vector<Values> by_gates = {by_z, by_n};
    if (has_reset) by_gates.insert(by_gates.begin(), by_r);
    for (int64_t gate = 0; gate < int64_t(by_gates.size()); ++gate) {
        const Values& by_gate = by_gates[size_t(gate)];
        add_back(p.w, gate * H, by_gate, s.x.data(), grad_x, grads.grad_w, I);
        for (int64_t j = 0; j < H; ++j) grads.grad_bias[size_t((has_reset + gate) * H + j)] += by_gate[size_t(j)];
    }
    return by_h;
}

template <class T> static Results<double> results_of_textbook(const Problem<T>& p) {
    const Options& o = p.o;
    const int64_t H = o.hidden;
    Results<double> result(p.start);
    for (double& value : result.y.values) value = 0;
    if (!o.add)
        for (double& value : result.grad_x.values) value = 0;
    for (int64_t row = 0; row < o.batch; ++row) {
        const int64_t sequence = p.order[size_t(row)], length = p.lengths[size_t(row)];
        const auto time = [&](int64_t k) { return o.reverse ? length - 1 - k : k; };
        double *h_n = &result.h_n[size_t(row * H)], *grad_h0 = &result.grad_h0[size_t(row * H)];
        Values h(h_n, h_n + H), by_h(grad_h0, grad_h0 + H);
        std::vector<Step> steps;
        for (int64_t k = 0; k < length; ++k) {
            steps.push_back(textbook_step(p, p.x.at(time(k), sequence), h));
            h = steps.back().next;
            memcpy(result.y.at(time(k), sequence), h.data(), size_t(H) * sizeof(double));
        }
        memcpy(h_n, h.data(), size_t(H) * sizeof(double));
        for (int64_t k = length; k-- > 0;) {
            const T* grad_y = p.grad_y.at(time(k), sequence);
            for (int64_t j = 0; o.with_grad_y && j < H; ++j) by_h[size_t(j)] += double(grad_y[j]);
            by_h = textbook_step_back(p, steps[size_t(k)], by_h, result.grad_x.at(time(k), sequence), result);
        }
        memcpy(grad_h0, by_h.data(), size_t(H) * sizeof(double));
    }
    return result;
}

template <class T> static double error_of(const Results<T>& results, const Results<double>& expected) {
    double worst = 0;
    worst = larger_error(worst, relative_error(results.y.values, expected.y.values));
    worst = larger_error(worst, relative_error(results.h_n, expected.h_n));
    worst = larger_error(worst, relative_error(results.grad_x.values, expected.grad_x.values));
    worst = larger_error(worst, relative_error(results.grad_h0, expected.grad_h0));
    worst = larger_error(worst, relative_error(results.grad_w, expected.grad_w));
    worst = larger_error(worst, relative_error(results.grad_u, expected.grad_u));
    return larger_error(worst, relative_error(results.grad_bias, expected.grad_bias));
}

template <class T> static void test_layer(int cell, const Functions& functions) {
    double worst = 0;
    for (int way = 0; way < 16; ++way)
        for (const int64_t batch : {1, 9}) {
            const bool ragged = way & 1, reverse = way & 2, flip = way & 4, add = way & 8;
            const Options options = {cell, functions, flip, ragged, reverse, ragged != reverse, add, way != 5, 5, 19, 6,
                                     batch};
            const Problem<T> problem(options);
            worst = larger_error(worst, error_of(results_of_kernels(problem, 1), results_of_textbook(problem)));
        }
    char what[96];
    snprintf(what, sizeof what, "recorded and backwards, %s, %s, %s", name_of<T>(), cells[cell].name,
             functions.name);
    expect(worst < tolerance<T>(), what, worst);
}

// Steps enough for a second thread, which changes no more than the order in which gradients by the biases add up.
template <class T> static void test_threads(int cell) {
    const Options options = {cell, functions[0], 0, true, false, false, false, true, 24, 40, 600, 9};
    const Problem<T> problem(options);
    const Results<double> expected = results_of_textbook(problem);
    const Results<T> one = results_of_kernels(problem, 1), two = results_of_kernels(problem, 2);
    const double worst = larger_error(error_of(one, expected), error_of(two, expected));
    char what[96];
    snprintf(what, sizeof what, "on one thread and on two, %s, %s", name_of<T>(), cells[cell].name);
    expect(worst < tolerance<T>(), what, worst);
    const int64_t different = differences(one.y.values, two.y.values) + differences(one.h_n, two.h_n) +
                              differences(one.grad_x.values, two.grad_x.values) +
                              differences(one.grad_h0, two.grad_h0) + differences(one.grad_w, two.grad_w) +
                              differences(one.grad_u, two.grad_u);
    expect(different == 0, "values but those of biases that differ", double(different));
}

template <class T> static void test_all() {
    for (int cell = 0; cell < cell_count; ++cell) {
        for (const Functions& pair : functions) test_layer<T>(cell, pair);
        test_threads<T>(cell);
    }
}

int main() {
    if (!table) return 2;
    printf("training of %s\n", table->name);
    test_all<float>();
    test_all<double>();
    return failures != 0;
}

// The CUDA kernels as threads of the system, for sanitizers: every kernel at sizes around a warp's and a block's ends,
// in arrays of exactly their sizes, forward and backward, the fused ones beside the ones by steps.
#define CGRU_TEST_THREADS
#include "cuda_on_cpu.h"

#include CGRU_TEST_SOURCE

static int failures = 0, comparisons = 0;

struct Numbers {
    std::mt19937 random{1};
    std::vector<Real> operator()(size_t count, Real scale = 1) {
        std::uniform_real_distribution<double> uniform(-1, 1);
        std::vector<Real> values(count);
        for (Real& v : values) v = Real(uniform(random)) * scale;
        return values;
    }
};

// c (m, n) = a (m, k) b' for b (n, k), or a b for b (k, n) if `plain`; rows of a are `stride` apart
static void product(const Real* a, int stride, const Real* b, Real* c, int m, int n, int k, bool plain = false) {
    for (int i = 0; i < m; ++i)
        for (int j = 0; j < n; ++j) {
            Real sum = 0;
            for (int l = 0; l < k; ++l) sum += a[i * stride + l] * (plain ? b[l * n + j] : b[j * k + l]);
            c[i * n + j] = sum;
        }
}

static void compare(const char* what, const std::vector<Real>& a, const std::vector<Real>& b, int hidden, int batch) {
    ++comparisons;
    double worst = 0;
    for (size_t i = 0; i < a.size(); ++i) worst = fmax(worst, fabs(double(a[i]) - double(b[i])));
    const bool good = a.size() == b.size() && worst < 1e-5;  // NaN is not
    if (!good) printf("DIFFERS %s, H %d, B %d: %g\n", what, hidden, batch, worst), ++failures;
}

template <class Structure> static void start(void (*kernel)(const Structure), const Structure& structure,
                                             Dimensions grid, Dimensions block, size_t shared_bytes, bool barriers) {
    static void (*chosen)(const Structure);
    chosen = kernel;
    gpu::launch([](const void* arguments) { chosen(*(const Structure*)arguments); }, barriers, grid, block,
                shared_bytes, &structure, 1);
    if (!gpu::complaint.empty()) printf("%s\n", gpu::complaint.c_str()), ++failures;
}

struct Problem {
    int steps, batch, hidden, depth;
    bool reverse;
    std::vector<Real> input, bias, h0, u, transposed;
    std::vector<Long> lengths;

    Problem(int steps, int batch, int hidden, bool reverse)
        : steps(steps), batch(batch), hidden(hidden), depth((hidden + 3) / 4 * 4), reverse(reverse) {
        Numbers numbers;
        input = numbers(steps * batch * 3 * hidden);
        bias = numbers(4 * hidden);
        h0 = numbers(batch * hidden);
        u = numbers(3 * hidden * hidden, Real(1) / Real(sqrt(double(hidden))));
        transposed.assign(depth * 3 * hidden, 0);
        for (int i = 0; i < 3 * hidden; ++i)
            for (int k = 0; k < hidden; ++k) transposed[k * 3 * hidden + i] = u[i * hidden + k];
        for (int b = 0; b < batch; ++b) lengths.push_back(b % 2 ? steps : steps / 2);
    }
};

// What a run gives, and leaves for the way back.
struct Run {
    std::vector<Real> input, state, output, states, kept;

    explicit Run(const Problem& p)
        : input(p.input), state(p.h0), output(p.steps * p.batch * p.hidden), states(output.size()),
          kept(output.size()) {}

    Forward arguments(const Problem& p) {
        Forward f = {};
        f.input = input.data(), f.bias = p.bias.data(), f.state = state.data(), f.output = output.data();
        f.weights = (const Stored*)p.transposed.data(), f.states = states.data(), f.kept = kept.data();
        f.lengths = p.lengths.data();
        f.input_row = 3 * p.hidden, f.input_step = p.batch * f.input_row;
        f.output_row = p.hidden, f.output_step = p.batch * f.output_row, f.output_unit = 1;
        f.steps = p.steps, f.reverse = p.reverse, f.batch = p.batch, f.hidden = p.hidden;
        f.gate = {SIGMOID, 0, 0, INFINITY}, f.function = {TANH, 0, 0, INFINITY};
        return f;
    }
};

static Dimensions elementwise(const Problem& p) { return {(p.batch * p.hidden + 255) / 256, 1, 1}; }

static Run by_steps(const Problem& p, bool after) {
    Run run(p);
    const int H = p.hidden, B = p.batch;
    std::vector<Real> products(B * (after ? 3 : 2) * H), candidate(B * H), reset_state(B * H), update(B * H);
    Forward f = run.arguments(p);
    f.product = products.data(), f.candidate = candidate.data();
    f.reset_state = reset_state.data(), f.update = update.data();
    for (int i = 0; i < p.steps; ++i) {
        f.step = p.reverse ? p.steps - 1 - i : i;
        product(run.state.data(), H, p.u.data(), products.data(), B, (after ? 3 : 2) * H, H);
        if (after) {
            start(step_after, f, elementwise(p), {256, 1, 1}, 0, false);
        } else {
            start(step_before_gates, f, elementwise(p), {256, 1, 1}, 0, false);
            product(reset_state.data(), H, p.u.data() + 2 * H * H, candidate.data(), B, H, H);
            start(step_before_state, f, elementwise(p), {256, 1, 1}, 0, false);
        }
    }
    return run;
}

static void fused_like_steps(const Problem& p, bool after, const Run& expected) {
    typedef void (*Kernel)(const Forward);
    const Kernel kernels[2][4] = {
        {fused_before_streamed_1, fused_before_streamed_4, fused_before_resident_1, fused_before_resident_4},
        {fused_after_streamed_1, fused_after_streamed_4, fused_after_resident_1, fused_after_resident_4}};
    for (int k = 0; k < 4; ++k) {
        const int rows = k % 2 ? 4 : 1, width = (p.hidden + 31) / 32 * 32, groups = width < 64 ? 2 : 1;
        const size_t weights = k / 2 ? p.transposed.size() * sizeof(Stored) : 0;
        const size_t states = 2 * groups * rows * p.depth * sizeof(Real);
        Run run(p);
        start(kernels[after][k], run.arguments(p), {(p.batch + groups * rows - 1) / (groups * rows), 1, 1},
              {width, groups, 1}, states + weights, true);
        compare("states", run.state, expected.state, p.hidden, p.batch);
        compare("output", run.output, expected.output, p.hidden, p.batch);
        compare("arguments", run.input, expected.input, p.hidden, p.batch);
        compare("states of every step", run.states, expected.states, p.hidden, p.batch);
        compare("what is kept", run.kept, expected.kept, p.hidden, p.batch);
    }
}

// The gradient of sum(output * weight) by h0 along a direction, beside the difference of two runs.
static void backward(const Problem& p, bool after, const Run& run) {
    const int H = p.hidden, B = p.batch;
    Numbers numbers;
    const std::vector<Real> by_output = numbers(run.output.size()), direction = numbers(B * H);
    std::vector<Real> state(B * H), through(B * H), input(run.input.size()), recurrent(run.input.size());
    std::vector<Real> gates(B * 2 * H), candidate(B * H), reset(B * H);
    Backward f = {};
    f.arguments = run.input.data(), f.states = run.states.data(), f.kept = run.kept.data();
    f.output_gradient = by_output.data(), f.state_gradient = state.data(), f.through = through.data();
    f.input_gradient = input.data(), f.recurrent_gradient = recurrent.data(), f.gate_gradient = gates.data();
    f.candidate_gradient = candidate.data(), f.reset_gradient = reset.data(), f.lengths = p.lengths.data();
    f.output_row = H, f.output_step = B * H, f.output_unit = 1, f.batch = B, f.hidden = H;
    f.gate = {SIGMOID, 0, 0, INFINITY}, f.function = {TANH, 0, 0, INFINITY};
    for (int i = 0; i < p.steps; ++i) {
        f.step = p.reverse ? i : p.steps - 1 - i;
        if (after) {
            start(gradient_after, f, elementwise(p), {256, 1, 1}, 0, false);
            product(&recurrent[f.step * B * 3 * H], 3 * H, p.u.data(), through.data(), B, H, 3 * H, true);
        } else {
            start(gradient_before_state, f, elementwise(p), {256, 1, 1}, 0, false);
            product(candidate.data(), H, p.u.data() + 2 * H * H, reset.data(), B, H, H, true);
            start(gradient_before_gates, f, elementwise(p), {256, 1, 1}, 0, false);
            product(gates.data(), 2 * H, p.u.data(), through.data(), B, H, 2 * H, true);
        }
    }
    double foretold = 0, sums[2] = {0, 0}, size = 1;
    for (int i = 0; i < B * H; ++i) foretold += double(state[i] + through[i]) * direction[i];
    const Real distance = sizeof(Real) == 4 ? Real(1e-3) : Real(1e-6);
    for (int side = 0; side < 2; ++side) {
        Problem moved = p;
        for (int i = 0; i < B * H; ++i) moved.h0[i] += (side ? -distance : distance) * direction[i];
        const Run other = by_steps(moved, after);
        for (size_t i = 0; i < by_output.size(); ++i) sums[side] += double(other.output[i]) * by_output[i];
        size = fmax(size, fabs(sums[side]));
    }
    ++comparisons;
    const double difference = (sums[0] - sums[1]) / (2 * double(distance));
    if (!(fabs(difference - foretold) < (sizeof(Real) == 4 ? 2e-3 : 1e-7) * size))
        printf("DIFFERS gradient, H %d, B %d: %g instead of %g\n", H, B, foretold, difference), ++failures;
}

// With an argument a single size, for a quick look.
int main(int count, char**) {
    const std::vector<int> sizes = count > 1 ? std::vector<int>{33} : std::vector<int>{1, 7, 33, 70};
    for (int hidden : sizes)
        for (int batch : {3, 9})
            for (int after = 0; after < 2; ++after) {
                const Problem p(4, batch, hidden, batch == 3);
                const Run run = by_steps(p, after);
                fused_like_steps(p, after, run);
                backward(p, after, run);
            }
    printf("%d comparisons, %d failures\n", comparisons, failures);
    return failures != 0;
}

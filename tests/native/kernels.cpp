// The kernels of an instruction set against plain C++ and the C library, for machines without Python: tests/test_native.py
// builds this for another processor and runs it under an emulator. Prints what it compared; exits with 1 on a difference.
//
// CGRU_TEST_SET names the table to test.
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vector>

#include "kernels.h"

using namespace cgru;

namespace cgru {
extern const Kernels kernels_plain, CGRU_TEST_SET;
}

static int failures = 0;

static void expect(bool fine, const char* what, double figure) {
    printf("%s  %s: %g\n", fine ? "ok  " : "FAIL", what, figure);
    failures += !fine;
}

static float uniform() { return float(rand()) / float(RAND_MAX) * 2 - 1; }

// Gate rows (G*H, K) as [blocks][K][G][lanes].
static std::vector<float> pack(const std::vector<float>& rows, int64_t hidden, int64_t count, int first, int gates,
                               int64_t lanes) {
    const int64_t blocks = (hidden + lanes - 1) / lanes;
    std::vector<float> packed(size_t(blocks * count * gates * lanes));
    for (int64_t j = 0; j < hidden; ++j)
        for (int64_t k = 0; k < count; ++k)
            for (int g = 0; g < gates; ++g)
                packed[size_t(((j / lanes * count + k) * gates + g) * lanes + j % lanes)] =
                    rows[size_t(((first + g) * hidden + j) * count + k)];
    return packed;
}

// A random layer, and the same layer packed for a table.
struct Model {
    int64_t inputs, hidden;
    int reset_after;
    std::vector<float> w, u, b, c;
    Model(int64_t inputs, int64_t hidden, int reset_after)
        : inputs(inputs), hidden(hidden), reset_after(reset_after), w(size_t(3 * hidden * inputs)),
          u(size_t(3 * hidden * hidden)), b(size_t(3 * hidden)), c(size_t(hidden)) {
        for (auto* array : {&w, &u, &b, &c})
            for (float& value : *array) value = uniform() / sqrtf(float(hidden));
    }
};

struct Packed {
    std::vector<float> w, u, b, c;
    PackedLayer layer;
    Packed(const Model& m, const Kernels& kernels) {
        const int64_t lanes = kernels.packed.lanes;
        w = pack(m.w, m.hidden, m.inputs, 0, 3, lanes);
        if (m.reset_after) {
            u = pack(m.u, m.hidden, m.hidden, 0, 3, lanes);
        } else {
            u = pack(m.u, m.hidden, m.hidden, 0, 2, lanes);
            const std::vector<float> n = pack(m.u, m.hidden, m.hidden, 2, 1, lanes);
            u.insert(u.end(), n.begin(), n.end());
        }
        b = pack(m.b, m.hidden, 1, 0, 3, lanes);
        c = pack(m.c, m.hidden, 1, 0, 1, lanes);
        memset(&layer, 0, sizeof layer);
        layer.inputs = m.inputs;
        layer.hidden = m.hidden;
        layer.blocks = (m.hidden + lanes - 1) / lanes;
        layer.input_weights = w.data();
        layer.recurrent_weights = u.data();
        layer.bias = b.data();
        layer.candidate_bias = c.data();
        layer.gate.code = activation_sigmoid;
        layer.candidate.code = activation_tanh;
        layer.reset_after = m.reset_after;
        layer.usual = 1;
    }
};

// y (T, B, H) of x (T, B, I) from the zero state; a part of the batch, and in chunks of some steps.
static std::vector<float> run(const Kernels& kernels, const Packed& p, const std::vector<float>& x, int64_t steps,
                              int64_t batch, int64_t first, int64_t last, int64_t chunk) {
    const int64_t I = p.layer.inputs, H = p.layer.hidden;
    std::vector<float> y(size_t(steps * batch * H)), state(size_t((last - first) * H));
    for (int64_t t = 0; t < steps; t += chunk) {
        PackedCall call;
        memset(&call, 0, sizeof call);
        call.layer = &p.layer;
        call.steps = steps - t < chunk ? steps - t : chunk;
        call.batch = last - first;
        call.x = x.data() + (t * batch + first) * I;
        call.x_step = batch * I;
        call.x_sequence = I;
        call.x_feature = 1;
        call.state = state.data();
        call.y = y.data() + (t * batch + first) * H;
        call.y_step = batch * H;
        call.y_sequence = H;
        call.threads = 1;
        if (run_packed_call(kernels.packed, call)) exit(2);
    }
    return y;
}

static void test_layer(int64_t inputs, int64_t hidden, int reset_after) {
    const int64_t steps = 12, batch = 21;
    const Model model(inputs, hidden, reset_after);
    const Packed tested(model, CGRU_TEST_SET), plain(model, kernels_plain);
    std::vector<float> x(size_t(steps * batch * inputs));
    for (float& value : x) value = uniform();
    const std::vector<float> y = run(CGRU_TEST_SET, tested, x, steps, batch, 0, batch, steps);
    const std::vector<float> expected = run(kernels_plain, plain, x, steps, batch, 0, batch, steps);
    double worst = 0;
    for (size_t i = 0; i < y.size(); ++i) worst = fmax(worst, fabs(double(y[i]) - expected[i]));
    char what[80];
    snprintf(what, sizeof what, "I %d H %d reset %s, against plain", int(inputs), int(hidden), reset_after ? "after" : "before");
    expect(worst < 2e-6, what, worst);

    int64_t different = 0;
    for (int64_t first = 0; first < batch; ++first)
        for (const int64_t size : {1, 2, 5, 9}) {
            if (first + size > batch) continue;
            const std::vector<float> part = run(CGRU_TEST_SET, tested, x, steps, batch, first, first + size, 1 + first % 5);
            for (int64_t t = 0; t < steps; ++t)
                different += memcmp(&part[size_t((t * batch + first) * hidden)], &y[size_t((t * batch + first) * hidden)],
                                    size_t(size * hidden) * sizeof(float)) != 0;
        }
    expect(different == 0, "steps whose bits differ in another batch or chunk", double(different));
}

static void test_function(int code, double (*exact)(double), const char* name) {
    std::vector<float> x, y;
    for (uint64_t bits = 0; bits < (uint64_t(1) << 32); bits += 65521) {
        const uint32_t word = uint32_t(bits);
        float value;
        memcpy(&value, &word, sizeof value);
        if (isfinite(value)) x.push_back(value);
    }
    y.resize(x.size());
    Activation f;
    memset(&f, 0, sizeof f);
    f.code = code;
    f.clip = HUGE_VAL;
    CGRU_TEST_SET.single.activate(f, x.data(), y.data(), int64_t(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const double true_value = exact(double(x[i]));
        if (fabs(true_value) < 1.1754944e-38) continue;
        const float near = fabsf(float(true_value));
        worst = fmax(worst, fabs(true_value - y[i]) / (double(nextafterf(near, HUGE_VALF)) - near));
    }
    expect(worst < 3, name, worst);
}

static double exact_sigmoid(double x) { return 1 / (1 + exp(-x)); }

int main() {
    printf("kernels of %s, %d lanes\n", CGRU_TEST_SET.name, int(CGRU_TEST_SET.packed.lanes));
    test_function(activation_sigmoid, exact_sigmoid, "sigmoid, units in the last place");
    test_function(activation_tanh, tanh, "tanh, units in the last place");
    for (const int reset_after : {1, 0}) {
        test_layer(1, 1, reset_after);
        test_layer(5, 33, reset_after);
        test_layer(40, 64, reset_after);
    }
    return failures != 0;
}

// The kernels of an instruction set against plain C++ and the C library, without Python: tests/native/test_native.py
// builds this for another processor and runs it under an emulator, and for this one with the compiler's sanitizers.
// Prints what it compared; exits with 1 on a difference.
//
// CGRU_ISA in the environment names the instruction set to test.
#include "program.h"

namespace cgru {
extern const Kernels kernels_plain;
}

// A random layer, and the same layer packed for a table.
struct Model {
    int64_t inputs, hidden;
    int reset_after;
    std::vector<float> w, u, bias;
    Model(int64_t inputs, int64_t hidden, int reset_after)
        : inputs(inputs), hidden(hidden), reset_after(reset_after), w(size_t(3 * hidden * inputs)),
          u(size_t(3 * hidden * hidden)), bias(size_t(4 * hidden)) {
        for (auto* array : {&w, &u, &bias})
            for (float& value : *array) value = uniform() / sqrtf(float(hidden));
    }

    // The layer, its weights read from these arrays, as they are stored.
    CanonicalLayer canonical(int storage, const void* input, const void* recurrent) const {
        CanonicalLayer layer;
        memset(&layer, 0, sizeof layer);
        layer.inputs = inputs;
        layer.hidden = hidden;
        layer.storage = storage;
        layer.input = {input, nullptr, HUGE_VALF};
        layer.recurrent = {recurrent, nullptr, HUGE_VALF};
        layer.bias = bias.data();
        layer.gate = {activation_sigmoid, 0, 0, HUGE_VAL};
        layer.candidate = {activation_tanh, 0, 0, HUGE_VAL};
        layer.cell = reset_after ? cell_gru_after : cell_gru_before;
        return layer;
    }
    CanonicalLayer canonical() const { return canonical(storage_float32, w.data(), u.data()); }
};

struct Packed {
    Aligned<char> memory;
    PackedLayer layer;
    Packed(const CanonicalLayer& given, const Kernels& kernels)
        : memory(pack_layer(kernels.packed, given, nullptr, layer)) {
        pack_layer(kernels.packed, given, memory.get(), layer);
    }
};

static uint16_t bfloat16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return uint16_t(bits >> 16);
}

// Exact for multiples of 1/128 up to 1, and for tiny numbers.
static uint16_t float16_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000, size = bits & 0x7fffffff;
    if (size == 0) return uint16_t(sign);
    if (size < (113u << 23)) return uint16_t(sign | uint32_t(fabsf(value) * 16777216.0f));  // a denormal half
    return uint16_t(sign | ((size - (112u << 23)) >> 13));
}

// A model's weights as a storage holds them, packed.
static Packed packed_as(const Model& model, int storage) {
    std::vector<uint16_t> halves[2];
    std::vector<int8_t> bytes[2];
    const float most = 1 / sqrtf(float(model.hidden));  // of the weights
    const std::vector<float> scale(size_t(3 * model.hidden), most / 127), *weights[] = {&model.w, &model.u};
    for (int i = 0; i < 2; ++i)
        for (const float value : *weights[i]) {
            halves[i].push_back((storage == storage_float16 ? float16_of : bfloat16_of)(value));
            bytes[i].push_back(int8_t(lrintf(value / most * 127)));
        }
    if (storage == storage_float32) return Packed(model.canonical(), *table);
    if (storage == storage_sparse_float32)
        return Packed(model.canonical(storage, model.w.data(), model.u.data()), *table);
    if (storage != storage_int8 && storage != storage_sparse_int8)
        return Packed(model.canonical(storage, halves[0].data(), halves[1].data()), *table);
    CanonicalLayer given = model.canonical(storage, bytes[0].data(), bytes[1].data());
    given.input.scale = given.recurrent.scale = scale.data();
    return Packed(given, *table);
}

// A call of one layer, or of a stack of two layers in two directions.
struct Call {
    const Kernels* kernels;
    std::vector<const PackedLayer*> layers;
    int64_t depth, directions, inputs, hidden;
    int threads;
    const int64_t* lengths;
    const uint8_t* fresh;  // of both directions
    const float* start;
};

static Call one_layer(const Kernels& kernels, const Packed& p) {
    return {&kernels, {&p.layer}, 1, 1, p.layer.inputs, p.layer.hidden, 1, nullptr, nullptr, nullptr};
}

// y (T, B, D*H) of x (T, B, I) from the zero state; a part of the batch, and in chunks of some steps.
static std::vector<float> run(const Call& c, const std::vector<float>& x, int64_t steps, int64_t batch, int64_t first,
                              int64_t last, int64_t chunk) {
    const int64_t width = c.directions * c.hidden, count = last - first;
    std::vector<float> y(size_t(steps * batch * width)), state(size_t(c.depth * c.directions * count * c.hidden));
    std::vector<int64_t> order(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i) order[size_t(i)] = i;
    for (int64_t t = 0; t < steps; t += chunk) {
        PackedCall call;
        memset(&call, 0, sizeof call);
        call.layers = c.layers.data();
        call.depth = c.depth;
        call.directions = c.directions;
        call.steps = steps - t < chunk ? steps - t : chunk;
        call.batch = count;
        call.x = x.data() + (t * batch + first) * c.inputs;
        call.x_step = batch * c.inputs;
        call.x_sequence = c.inputs;
        call.x_feature = 1;
        call.state = state.data();
        call.y = y.data() + (t * batch + first) * width;
        call.y_step = batch * width;
        call.y_sequence = width;
        call.order = c.lengths ? order.data() : nullptr;
        call.lengths = c.lengths;
        if (c.fresh) call.fresh[0] = call.fresh[1] = c.fresh + t * batch;
        call.start = c.start;
        call.threads = c.threads;
        if (run_packed_call(c.kernels->packed, call)) exit(2);
    }
    return y;
}

static void test_layer(int64_t inputs, int64_t hidden, int reset_after) {
    const int64_t steps = 12, batch = 21;
    const Model model(inputs, hidden, reset_after);
    const Packed tested(model.canonical(), *table), plain(model.canonical(), kernels_plain);
    const Call call = one_layer(*table, tested);
    const std::vector<float> x = random_values(steps * batch * inputs);
    const std::vector<float> y = run(call, x, steps, batch, 0, batch, steps);
    const std::vector<float> expected = run(one_layer(kernels_plain, plain), x, steps, batch, 0, batch, steps);
    double worst = 0;
    for (size_t i = 0; i < y.size(); ++i) worst = larger_error(worst, fabs(double(y[i]) - expected[i]));
    char what[80];
    snprintf(what, sizeof what, "I %d H %d reset %s, against plain", int(inputs), int(hidden),
             reset_after ? "after" : "before");
    expect(worst < 2e-6, what, worst);

    int64_t different = 0;
    for (int64_t first = 0; first < batch; ++first)
        for (const int64_t size : {1, 2, 5, 9}) {
            if (first + size > batch) continue;
            const std::vector<float> part = run(call, x, steps, batch, first, first + size, 1 + first % 5);
            for (int64_t t = 0; t < steps; ++t)
                different +=
                    memcmp(&part[size_t((t * batch + first) * hidden)], &y[size_t((t * batch + first) * hidden)],
                           size_t(size * hidden) * sizeof(float)) != 0;
        }
    expect(different == 0, "steps whose bits differ in another batch or chunk", double(different));
}

static void test_storage(int64_t inputs, int64_t hidden, int reset_after) {
    const int64_t steps = 6, batch = 11;
    Model model(inputs, hidden, reset_after);
    for (auto* weights : {&model.w, &model.u})
        for (float& value : *weights)
            value = rand() % 8 ? float(rand() % 255 - 127) / 128 : ldexpf(1, -15 - rand() % 9);
    const Packed packed(model.canonical(), *table);
    const std::vector<float> x = random_values(steps * batch * inputs);
    Call call = one_layer(*table, packed);
    int64_t different = 0;
    for (const int64_t size : {1, 3, 11}) {
        call.layers[0] = &packed.layer;
        const std::vector<float> expected = run(call, x, steps, batch, 0, size, steps);
        for (const int storage : {storage_bfloat16, storage_float16}) {
            const Packed half = packed_as(model, storage);
            call.layers[0] = &half.layer;
            different += differences(run(call, x, steps, batch, 0, size, steps), expected);
        }
    }
    char what[80];
    snprintf(what, sizeof what, "values that differ, I %d H %d, weights of 16 bits", int(inputs), int(hidden));
    expect(different == 0, what, double(different));
}

// Most blocks of eight units by four inputs are zero: the results of sparse weights beside those of the same as dense
// ones; of int8 the same bits.
static void test_sparse(int64_t inputs, int64_t hidden, int reset_after) {
    const int64_t steps = 6, batch = 21;
    Model model(inputs, hidden, reset_after);
    for (auto* weights : {&model.w, &model.u}) {
        const int64_t columns = weights == &model.w ? inputs : hidden;
        for (int64_t i = 0; i < int64_t(weights->size()); ++i)
            if ((i / columns % hidden / 8 * 5 + i % columns / 4 + i / columns / hidden) % 4) (*weights)[size_t(i)] = 0;
    }
    const std::vector<float> x = random_values(steps * batch * inputs);
    int64_t different = 0;
    double worst = 0;
    for (const int storage : {storage_float32, storage_int8}) {
        const Packed dense = packed_as(model, storage), sparse = packed_as(model, sparse_storage(storage));
        const Call expected = one_layer(*table, dense), tested = one_layer(*table, sparse);
        for (const int64_t size : {1, 2, 3, 21}) {
            const std::vector<float> y = run(expected, x, steps, batch, 0, size, steps);
            const std::vector<float> found = run(tested, x, steps, batch, 0, size, 1 + size % 5);
            if (storage == storage_int8) different += differences(found, y);
            for (size_t i = 0; i < y.size(); ++i) worst = larger_error(worst, fabs(double(found[i]) - double(y[i])));
        }
    }
    char what[80];
    snprintf(what, sizeof what, "error of sparse weights, I %d H %d", int(inputs), int(hidden));
    expect(worst < 1e-5, what, worst);
    expect(different == 0, "values that differ, sparse weights of int8", double(different));
}

// Rows of integers times weights of int8, at their ends too, into candidates and states that are the sums themselves.
static void test_integers(int64_t inputs, int64_t hidden, int reset_after) {
    const int64_t batch = 11;
    std::vector<int8_t> q(size_t(3 * hidden * inputs)), none(size_t(3 * hidden * hidden));
    for (int8_t& value : q) value = int8_t(rand() % 3 ? rand() % 256 - 128 : rand() % 2 ? 127 : -128);
    const std::vector<float> scale(size_t(3 * hidden), 1);
    Model model(inputs, hidden, reset_after);
    for (float& value : model.bias) value = 0;
    for (int64_t i = 0; i < 2 * hidden * inputs; ++i)
        q[size_t(i)] = 0;  // r and z are 0, and the candidate is the state
    CanonicalLayer given = model.canonical(storage_int8, q.data(), none.data());
    given.input.scale = given.recurrent.scale = scale.data();
    given.gate.code = given.candidate.code = activation_linear;
    const Packed packed(given, *table);
    const Call call = {table, {&packed.layer}, 1, 1, inputs, hidden, 1, nullptr};
    std::vector<float> x(size_t(batch * inputs));
    for (size_t i = 0; i < x.size(); ++i) x[i] = i % size_t(inputs) ? float(rand() % 255 - 127) : 127;
    int64_t different = 0;
    for (const int64_t size : {1, 2, 11}) {
        const std::vector<float> y = run(call, x, 1, batch, 0, size, 1);
        for (int64_t b = 0; b < size; ++b)
            for (int64_t j = 0; j < hidden; ++j) {
                int64_t sum = 0;
                for (int64_t k = 0; k < inputs; ++k)
                    sum += int64_t(x[size_t(b * inputs + k)]) * q[size_t((2 * hidden + j) * inputs + k)];
                different += y[size_t(b * hidden + j)] != float(sum);
            }
    }
    char what[80];
    snprintf(what, sizeof what, "sums of integers that differ, I %d H %d", int(inputs), int(hidden));
    expect(different == 0, what, double(different));
}

// A stack of two layers in two directions, shared among threads by rows and by units: whole, by lengths, starting anew.
static void test_threads(int reset_after) {
    const int64_t inputs = 9, hidden = 70, steps = 8;
    std::vector<Model> models;
    for (int i = 0; i < 4; ++i) models.emplace_back(i < 2 ? inputs : 2 * hidden, hidden, reset_after);
    std::vector<Packed> packed;
    for (const Model& model : models) packed.emplace_back(model.canonical(), *table);
    Call call = {table, {}, 2, 2, inputs, hidden, 1, nullptr, nullptr, nullptr};
    for (const Packed& p : packed) call.layers.push_back(&p.layer);
    int64_t different = 0;
    for (const int64_t batch : {1, 3, 37}) {
        const std::vector<float> x = random_values(steps * batch * inputs);
        std::vector<int64_t> lengths(static_cast<size_t>(batch));
        for (int64_t i = 0; i < batch; ++i) lengths[size_t(i)] = steps - i * steps / batch;
        std::vector<uint8_t> fresh(size_t(steps * batch));
        for (size_t i = 0; i < fresh.size(); ++i) fresh[i] = i * 7 % 11 == 0;
        const std::vector<float> start = random_values(4 * batch * hidden);
        for (int some = 0; some < 3; ++some) {  // whole; by lengths; starting anew
            call.lengths = some == 1 ? lengths.data() : nullptr;
            call.fresh = some == 2 ? fresh.data() : nullptr;
            call.start = start.data();
            call.threads = 1;
            const std::vector<float> y = run(call, x, steps, batch, 0, batch, steps);
            for (const Sharing way : {sharing_rows, sharing_units, sharing_measured})
                for (const int threads : {2, 3, 5}) {
                    set_sharing(way);
                    call.threads = threads;
                    different += differences(run(call, x, steps, batch, 0, batch, steps), y);
                }
        }
    }
    set_sharing(sharing_measured);
    expect(different == 0, reset_after ? "values that differ on other threads, reset after"
                                       : "values that differ on other threads, reset before", double(different));
}

// Streams of a stack of layers, step by step, have the bits of the whole sequence; states taken out and put back, and
// taken over by another stream, change none of them.
static void test_streams(int storage, int reset_after) {
    const int64_t inputs = 11, hidden = 37, steps = 20;
    const Model first(inputs, hidden, reset_after), second(hidden, hidden, reset_after);
    const Packed packed[] = {packed_as(first, storage), packed_as(second, storage)};
    const PackedLayer* layers[] = {&packed[0].layer, &packed[1].layer};
    int64_t different = 0;
    for (const int64_t depth : {1, 2})
        for (const int64_t batch : {1, 5}) {
            const std::vector<float> x = random_values(steps * batch * inputs);
            const Call whole = {table, {layers, layers + depth}, depth, 1, inputs, hidden, 1, nullptr, nullptr,
                                nullptr};
            const std::vector<float> expected = run(whole, x, steps, batch, 0, batch, steps);
            PackedStream stream(table->packed, layers, depth, batch), other(table->packed, layers, depth, batch);
            if (!stream.valid() || !other.valid()) exit(2);
            std::vector<float> y(expected.size()), of_other(y), state(size_t(depth * batch * hidden)), again(state);
            for (int64_t t = 0; t < steps; ++t) {
                const float* input = &x[size_t(t * batch * inputs)];
                const int64_t at = t * batch * hidden;
                stream.step(input, inputs, &y[size_t(at)], hidden);
                other.step(input, inputs, &of_other[size_t(at)], hidden);
                stream.get_state(state.data());
                different += memcmp(&state[size_t((depth - 1) * batch * hidden)], &y[size_t(at)],
                                    size_t(batch * hidden) * sizeof(float)) != 0;
                other.get_state(again.data());
                different += differences(state, again);
                other.set_state(std::vector<float>(state.size(), 3).data());
                if (t % 2) stream.set_state(state.data());
                other.set_state(state.data());
            }
            different += differences(y, expected) + differences(of_other, expected);
        }
    static const char* const names[] = {"float32", "bfloat16", "float16", "int8", "bfloat16 products",
                                        "sparse float32", "sparse int8"};
    char what[80];
    snprintf(what, sizeof what, "values of streams that differ, %s, reset %s", names[storage],
             reset_after ? "after" : "before");
    expect(different == 0, what, double(different));
}

#if defined(CGRU_TEST_QUIET)  // on Linux with the GNU library alone, and without sanitizers
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static int64_t allocations = 0;
extern "C" void* __libc_malloc(size_t);
extern "C" void* __libc_calloc(size_t, size_t);
extern "C" void* malloc(size_t size) { ++allocations; return __libc_malloc(size); }
extern "C" void* calloc(size_t count, size_t size) { ++allocations; return __libc_calloc(count, size); }

// Steps in a process that the kernel kills at any system call but write and exit.
static void test_quiet_step(int64_t batch, int reset_after) {
    const int64_t inputs = 20, hidden = 100, steps = 1000;
    const Model model(inputs, hidden, reset_after);
    const Packed packed(model.canonical(), *table);
    const PackedLayer* layers[] = {&packed.layer};
    PackedStream stream(table->packed, layers, 1, batch);
    const std::vector<float> x = random_values(batch * inputs);
    std::vector<float> y(size_t(batch * hidden));
    fflush(stdout);
    const pid_t child = fork();
    if (child == 0) {
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT)) syscall(SYS_exit, 99);
        const int64_t before = allocations;
        for (int64_t t = 0; t < steps; ++t) stream.step(x.data(), inputs, y.data(), hidden);
        syscall(SYS_exit, allocations != before);
    }
    int status = -1;
    waitpid(child, &status, 0);
    expect(status == 0, "end of a process that stepped without allocations and system calls", status);
}
#endif

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
    table->gates32.activate(f, x.data(), y.data(), int64_t(x.size()));
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
        const double true_value = exact(double(x[i]));
        if (fabs(true_value) < 1.1754944e-38) continue;
        const float near = fabsf(float(true_value));
        worst = larger_error(worst, fabs(true_value - y[i]) / (double(nextafterf(near, HUGE_VALF)) - near));
    }
    expect(worst < 3, name, worst);
}

static double exact_sigmoid(double x) { return 1 / (1 + exp(-x)); }

int main() {
    if (!table) return 2;
    printf("kernels of %s, %d lanes\n", table->name, int(table->packed.lanes));
    test_function(activation_sigmoid, exact_sigmoid, "sigmoid, units in the last place");
    test_function(activation_tanh, tanh, "tanh, units in the last place");
    for (const int reset_after : {1, 0}) {
        test_layer(1, 1, reset_after);
        test_layer(5, 33, reset_after);
        test_layer(40, 64, reset_after);
        test_storage(5, 33, reset_after);
        test_storage(40, 64, reset_after);
        test_integers(5, 33, reset_after);
        test_integers(66, 70, reset_after);
        test_sparse(5, 33, reset_after);
        test_sparse(66, 70, reset_after);
        test_threads(reset_after);
        for (int storage = 0; storage < storage_count; ++storage) test_streams(storage, reset_after);
    }
#if defined(CGRU_TEST_QUIET)
    for (const int reset_after : {1, 0})
        for (const int64_t batch : {1, 5}) test_quiet_step(batch, reset_after);
#endif
    return failures != 0;
}

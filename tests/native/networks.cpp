// A network's program without Python: each kind of step, windows over time, recurrent layers, a look-ahead, on memory
// of an exact size. What it gives as a whole, in blocks and frame by frame has the same bits, and its convolution is
// that of plain loops.
#include "program.h"

#include "program/program.h"

namespace {

enum { features = 5, channels = 7, hidden = 9, taps = 3 };

// Weights (outputs, inputs) as a product takes them, in one block of as many vectors as it needs: 2 or 3.
struct Dense {
    std::vector<float> numbers, bias;
    std::unique_ptr<Aligned<char>> memory;
    PackedLayer layer;
    int64_t outputs, inputs;
    Dense(int64_t outputs_, int64_t inputs_) : outputs(outputs_), inputs(inputs_) {
        const PackedKernels& kernels = table->packed;
        const int64_t vectors = (outputs + kernels.lanes - 1) / kernels.lanes, width = 2;
        const int64_t blocks = (vectors + width - 1) / width, all = blocks * width * kernels.lanes;
        numbers.assign(size_t(all * inputs), 0);
        bias.assign(size_t(all), 0);
        CanonicalLayer given;
        memset(&given, 0, sizeof given);
        // output (block * width + v) * lanes + lane is unit block * lanes + lane of gate v
        std::vector<float> laid(numbers.size()), laid_bias(bias.size());
        for (int64_t n = 0; n < outputs; ++n) {
            bias[size_t(n)] = uniform();
            for (int64_t k = 0; k < inputs; ++k) numbers[size_t(n * inputs + k)] = uniform();
        }
        for (int64_t n = 0; n < all; ++n) {
            const int64_t vector = n / kernels.lanes, block = vector / width, v = vector % width;
            const int64_t to = v * blocks * kernels.lanes + block * kernels.lanes + n % kernels.lanes;
            laid_bias[size_t(to)] = bias[size_t(n)];
            for (int64_t k = 0; k < inputs; ++k) laid[size_t(to * inputs + k)] = numbers[size_t(n * inputs + k)];
        }
        given.inputs = inputs;
        given.hidden = blocks * kernels.lanes;
        given.storage = storage_float32;
        given.cell = int(width);
        given.input = {laid.data(), nullptr, HUGE_VALF};
        given.bias = laid_bias.data();
        memory.reset(new Aligned<char>(pack_dense(kernels, given, nullptr, layer)));
        pack_dense(kernels, given, memory->get(), layer);
    }
};

struct Recurrent {
    std::vector<float> w, u, bias;
    std::unique_ptr<Aligned<char>> memory;
    PackedLayer layer;
    Recurrent(int64_t inputs, int64_t units)
        : w(random_values(3 * units * inputs, 0.5)), u(random_values(3 * units * units, 0.5)),
          bias(random_values(4 * units)) {
        CanonicalLayer given;
        memset(&given, 0, sizeof given);
        given.inputs = inputs;
        given.hidden = units;
        given.storage = storage_float32;
        given.cell = cell_gru_after;
        given.input = {w.data(), nullptr, HUGE_VALF};
        given.recurrent = {u.data(), nullptr, HUGE_VALF};
        given.bias = bias.data();
        given.gate = {activation_sigmoid, 0, 0, HUGE_VAL};
        given.candidate = {activation_tanh, 0, 0, HUGE_VAL};
        memory.reset(new Aligned<char>(pack_layer(table->packed, given, nullptr, layer)));
        pack_layer(table->packed, given, memory->get(), layer);
    }
};

int code_of(const char* name) {
    int code = 0;
    while (strcmp(elementwise_names[code], name)) ++code;
    return code;
}

// A program while it is written.
struct Writer {
    std::vector<float> constants = random_values(64), fresh = std::vector<float>(hidden, 0.0f);
    std::vector<uint8_t> meets;
    std::vector<Step> steps;
    Kept kept;
    Ring ring{features, taps - 1, 0};
    Port input, output;
    Program program;
    int64_t arena = 0, width = 0, ahead = 0;

    int64_t place(int64_t count) {
        const int64_t at = arena;
        arena += count;  // side by side, so that one step that writes too much spoils the next one's
        return at;
    }
    Operand in_arena(int64_t at, int64_t count, std::vector<int64_t> strides = {1}) {
        Operand of;
        memset(&of, 0, sizeof of);
        of.space = space_arena;
        of.offset = at;
        of.row = count;
        for (size_t i = 0; i < strides.size(); ++i) of.stride[i] = strides[i];
        return of;
    }
    Operand constant(int64_t inside) {
        Operand of = in_arena(0, 0);
        of.space = space_constant;
        of.inside = inside;
        return of;
    }
    Step& add(int kind, Operand out, std::vector<int64_t> sizes) {
        Step step;
        memset(&step, 0, sizeof step);
        step.kind = kind;
        step.out = out;
        for (int64_t& size : step.size) size = 1;
        for (size_t i = 0; i < sizes.size(); ++i) step.size[i] = sizes[i];
        step.ahead = ahead;
        steps.push_back(step);
        return steps.back();
    }
    Step& elementwise(const char* name, int64_t out, std::vector<Operand> in, int64_t count) {
        Step& step = add(step_elementwise, in_arena(out, count), {});
        step.code = code_of(name);
        step.size[most_axes - 1] = count;
        step.out.stride[0] = 0;
        step.out.stride[most_axes - 1] = 1;
        for (size_t i = 0; i < in.size(); ++i) {
            step.in[i] = in[i];
            step.in[i].stride[0] = 0;
            step.in[i].stride[most_axes - 1] = 1;
        }
        return step;
    }

    // From `in` to `out`, both over time; with one state and one window, or none.
    void finish(Operand in, int64_t inputs, Operand out, int64_t outputs, int states) {
        memset(&input, 0, sizeof input);
        memset(&output, 0, sizeof output);
        input.at = in;
        output.at = out;
        for (Operand* at : {&input.at, &output.at}) {
            at->stride[0] = 0;
            at->stride[most_axes - 1] = 1;
        }
        for (int64_t& size : input.size) size = 1;
        for (int64_t& size : output.size) size = 1;
        input.size[most_axes - 1] = inputs;
        output.size[most_axes - 1] = width = outputs;
        input.over_time = output.over_time = 1;
        program = {&table->packed, table->nodes32, steps.data(), int64_t(steps.size()), &kept, states, &ring, states,
                   &input, &output, 1, 1, constants.data(), fresh.data(), arena, int64_t(fresh.size()), ahead, 0, ahead,
                   1e4, nullptr};
        meets.resize(steps.size());
        find_meetings(program, meets.data());
        program.meets = meets.data();
    }
};

struct Net : Writer {
    Dense conv{channels, taps * features};
    Recurrent gru{channels, hidden};
    std::vector<int32_t> to, from;

    Net() {
        steps.reserve(32);
        ahead = 1;  // the convolution looks one frame ahead
        Operand frames = in_arena(0, features);
        frames.space = space_ring;
        frames.inside = (taps - 1) * features;
        const int64_t y = place(channels);
        Step& window = add(step_product, in_arena(y, channels), {1, 1});
        window.in[0] = frames;
        window.in[0].inside = 0;
        window.sections = 1;
        window.section[0] = conv.layer;
        window.outputs = channels;
        window.afters = 1;
        window.after[0] = {code_of("tanh"), 0, 0, 0};
        window.pieces[0] = 1;
        window.pieces[1] = taps;
        window.distances[1] = features;
        window.length = features;
        const int64_t z = place(channels);
        elementwise("multiply_add", z, {in_arena(y, channels), constant(0), constant(8)}, channels);
        const int64_t n = place(channels);
        Step& norm = add(step_normalise, in_arena(n, channels), {1, channels});
        norm.in[0] = in_arena(z, channels);
        norm.in[1] = constant(16);
        norm.in[2] = constant(24);
        norm.p = 1e-3;
        const int64_t s = place(channels);
        add(step_softmax, in_arena(s, channels), {1, channels, 1}).in[0] = in_arena(n, channels);
        const int64_t r = place(1);
        add(step_reduce, in_arena(r, 1), {1, channels, 1}).in[0] = in_arena(s, channels);
        steps.back().code = 2;
        const int64_t a = place(1);
        add(step_arg_max, in_arena(a, 1), {1, channels, 1}).in[0] = in_arena(s, channels);
        steps.back().code = 0;
        const int64_t l = place(4);
        Step& lookup = add(step_lookup, in_arena(l, 4), {1, 4, channels});
        lookup.in[0] = in_arena(a, 1);
        lookup.in[1] = constant(32);
        const int64_t m = place(4);
        Step& multiply = add(step_multiply, in_arena(m, 4, {4}), {1, 2, 2, 2});
        multiply.in[0] = in_arena(l, 4, {4});
        multiply.in[1] = in_arena(l, 4, {4});
        const int64_t g = place(channels);
        for (int32_t i = 0; i < channels; ++i) to.push_back(i), from.push_back(i * 5 % channels);
        Step& list = add(step_list, in_arena(g, channels), {channels});
        list.in[0] = in_arena(n, channels);
        list.to = to.data();
        list.from = from.data();
        const int64_t h = place(hidden), end = place(hidden);
        Step& layer = add(step_recurrent, in_arena(h, hidden, {hidden, hidden}), {1, 1});
        layer.in[0] = in_arena(g, channels, {channels, channels});
        layer.in[1] = in_arena(0, 0, {0, hidden});
        layer.in[1].space = space_state;
        layer.in[2] = in_arena(end, hidden, {0, hidden});
        layer.layer = &gru.layer;
        layer.over_time = layer.has_start = layer.has_end = 1;
        const int64_t out = place(hidden + channels + 1 + 4 + channels);
        int64_t at = 0;
        const auto put = [&](int64_t of, int64_t count) {
            Step& step = elementwise("copy", out, {in_arena(of, count)}, count);
            step.out = in_arena(out, hidden + channels + 1 + 4 + channels);
            step.out.inside = at;
            step.out.stride[0] = 0;
            step.out.stride[most_axes - 1] = 1;
            at += count;
        };
        put(y, channels), put(h, hidden), put(r, 1), put(m, 4), put(s, channels);
        kept = {in_arena(end, hidden), 0, hidden};
        finish(frames, features, in_arena(out, at), at, 1);
    }
};

// A layer of two directions over the lines of a frame, and a product of each line: a sequence that runs whole.
struct Both : Writer {
    enum { length = 37 };
    Recurrent forwards{features, hidden}, backwards{features, hidden};
    Dense last{channels, 2 * hidden};

    Both() {
        steps.reserve(32);
        const int64_t x = place(length * features), h = place(length * 2 * hidden), end = place(2 * hidden);
        for (int d = 0; d < 2; ++d) {
            Step& step = add(step_recurrent, in_arena(h, length * 2 * hidden, {2 * hidden, 2 * hidden}), {length, 1});
            step.out.inside = d * hidden;
            step.in[0] = in_arena(x, length * features, {features, features});
            step.in[2] = in_arena(end, 2 * hidden, {0, hidden});
            step.in[2].inside = d * hidden;
            step.layer = d ? &backwards.layer : &forwards.layer;
            step.has_end = 1;
            step.reverse = d;
        }
        const int64_t y = place(length * channels), z = place(length * channels), e = place(length);
        Step& product = add(step_product, in_arena(y, length * channels, {channels, channels}), {length, 1});
        product.in[0] = in_arena(h, length * 2 * hidden, {2 * hidden, 2 * hidden});
        product.sections = 1;
        product.section[0] = last.layer;
        product.outputs = channels;
        product.afters = 1;
        product.after[0] = {code_of("tanh"), 0, 0, 0};
        add(step_softmax, in_arena(z, length * channels), {length, channels, 1}).in[0] = in_arena(y, length * channels);
        add(step_reduce, in_arena(e, length), {length, channels, 1}).in[0] = in_arena(z, length * channels);
        steps.back().code = 2;
        elementwise("neg", e, {in_arena(e, length)}, length).flat = 1;
        finish(in_arena(x, length * features), length * features, in_arena(e, length), length, 0);
        program.plain = 0;
    }
};

Array array_of(float* data, int64_t steps, int64_t width) {
    Array array;
    memset(&array, 0, sizeof array);
    array.data = reinterpret_cast<char*>(data);
    array.type = type_float32;
    array.row_stride = steps * width * int64_t(sizeof(float));
    array.frame_stride = width * int64_t(sizeof(float));
    array.stride[most_axes - 1] = sizeof(float);
    return array;
}

Answer never() { return Answer(0); }

// Whole sequences; frame t has been computed when frame t + 1 has come.
std::vector<float> whole(const Writer& net, std::vector<float> x, int64_t steps, int64_t batch, int threads) {
    std::vector<float> y(size_t(batch * steps * net.width), NAN);
    const Array in = array_of(x.data(), steps, net.input.size[most_axes - 1]);
    const Array out = array_of(y.data(), steps, net.width);
    int64_t wrong = -1;
    const Sequences call = {steps, batch, &in, &out, threads, never};
    if (run_sequences(net.program, call, wrong) != outcome_done || wrong >= 0) exit(3);
    return y;
}

// The same in blocks of so many frames, the last of which comes behind the sequence.
std::vector<float> stepped(const Net& net, std::vector<float> x, int64_t steps, int64_t batch, int64_t frames,
                           int64_t room, int threads = 1) {
    std::vector<float> y(size_t(batch * steps * net.width), NAN), rest(size_t(batch * frames * net.width), NAN);
    const Shape shape = {batch, frames, room};
    const int64_t size = state_size(net.program, room);
    std::vector<std::unique_ptr<Aligned<float>>> states;
    std::vector<float*> state_rows;
    std::vector<Place> places(size_t(batch), Place{0, 0});
    std::vector<Place*> place_rows;
    for (int64_t r = 0; r < batch; ++r) {
        states.emplace_back(new Aligned<float>(size));
        state_rows.push_back(states.back()->get());
        place_rows.push_back(&places[size_t(r)]);
        begin_state(net.program, room, state_rows.back());
    }
    Aligned<char> memory(memory_size(net.program, shape));
    for (int64_t done = 0; done <= steps; done += frames) {
        const int64_t given = done + frames <= steps ? frames : steps - done;
        const Array in = array_of(x.data() + done * features, steps, features);
        std::vector<float> part(size_t(batch * frames * net.width), NAN);
        const Array out = array_of(part.data(), frames, net.width);
        int64_t wrong = -1;
        const Advance call = {shape, memory.get(), batch, frames, state_rows.data(), place_rows.data(), &in, &out, 0,
                              given, given == frames ? endless : steps, 0, nullptr};
        if (threads == 1 ? advance(net.program, call, wrong) != advance_done
                         : advance_rows(net.program, call, threads, wrong) != outcome_done)
            exit(4);
        for (int64_t r = 0; r < batch; ++r)
            for (int64_t t = 0; t < frames; ++t)  // the first of all is none of the sequence's
                if (done + t >= 1 && done + t <= steps)
                    memcpy(&y[size_t((r * steps + done + t - 1) * net.width)],
                           &part[size_t((r * frames + t) * net.width)], size_t(net.width) * sizeof(float));
    }
    return y;
}

// Threads that share blocks in each way: the same bits as one thread.
void shared() {
    const Net net;
    const Both both;
    const char* const names[] = {"rows", "units"};
    const Sharing ways[] = {sharing_rows, sharing_units};
    for (int way = 0; way < 2; ++way)
        for (const int64_t batch : {1, 2, 9}) {
            const std::vector<float> x = random_values(batch * 150 * features);
            const std::vector<float> lines = random_values(batch * Both::length * features);
            set_sharing(sharing_none);
            const std::vector<float> y = whole(net, x, 150, batch, 1), z = whole(both, lines, 1, batch, 1);
            set_sharing(ways[way]);
            int64_t different = 0;
            for (const int threads : {2, 3, 5}) {
                different += differences(whole(net, x, 150, batch, threads), y);
                different += differences(whole(both, lines, 1, batch, threads), z);
                for (const int64_t frames : {4, 31})
                    different += differences(stepped(net, x, 150, batch, frames, frames + 3, threads), y);
            }
            set_sharing(sharing_measured);
            printf("%s, batch %d: ", names[way], int(batch));
            expect(different == 0, "2, 3 and 5 threads, values with other bits", double(different));
        }
}

}  // namespace

int main() {
    printf("networks of %s\n", table->name);
    const Net net;
    const int64_t steps = 24;
    for (const int64_t batch : {1, 3, 9}) {
        const std::vector<float> x = random_values(batch * steps * features);
        const std::vector<float> y = whole(net, x, steps, batch, 1);
        double worst = 0;
        for (int64_t r = 0; r < batch; ++r)
            for (int64_t t = 0; t < steps; ++t)
                for (int64_t n = 0; n < channels; ++n) {
                    double sum = double(net.conv.bias[size_t(n)]);
                    for (int64_t k = 0; k < taps; ++k)
                        for (int64_t i = 0; i < features; ++i) {
                            const int64_t frame = t + k - 1;
                            if (frame < 0 || frame >= steps) continue;
                            sum += double(net.conv.numbers[size_t((n * taps + k) * features + i)]) *
                                   double(x[size_t((r * steps + frame) * features + i)]);
                        }
                    worst = larger_error(worst, fabs(double(y[size_t((r * steps + t) * net.width + n)]) - tanh(sum)));
                }
        expect(worst < 1e-5, "a convolution beside plain loops, error", worst);
        expect(differences(whole(net, x, steps, batch, 3), y) == 0, "three threads, values with other bits", 0);
        for (const int64_t frames : {1, 5, 7}) {
            const int64_t different = differences(stepped(net, x, steps, batch, frames, frames + 3), y);
            expect(different == 0, "blocks, values with other bits", double(different));
        }
    }
    shared();
    return failures != 0;
}

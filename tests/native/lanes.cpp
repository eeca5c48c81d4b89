// Small layers side by side in vectors, on memory of an exact size: of every number of units that fits a vector, and of
// one to seven vectors, some with empty slots. Each slot has the bits that the packed kernels give its row alone.
#include "program.h"

#include "packed/rows.h"

namespace {

const int64_t steps = 3;

struct Layer {
    int64_t I, H;
    std::vector<float> w, u, bias;
    std::unique_ptr<Aligned<char>> memory;
    PackedLayer packed;
    Layer(int64_t I_, int64_t H_, int cell)
        : I(I_), H(H_), w(random_values(3 * H * I)), u(random_values(3 * H * H)), bias(random_values(4 * H)) {
        CanonicalLayer given;
        memset(&given, 0, sizeof given);
        given.inputs = I;
        given.hidden = H;
        given.storage = storage_float32;
        given.cell = cell;
        given.input = {w.data(), nullptr, HUGE_VALF};
        given.recurrent = {u.data(), nullptr, HUGE_VALF};
        given.bias = bias.data();
        given.gate = {activation_sigmoid, 0, 0, HUGE_VAL};
        given.candidate = {activation_tanh, 0, 0, HUGE_VAL};
        memory.reset(new Aligned<char>(pack_layer(table->packed, given, nullptr, packed)));
        pack_layer(table->packed, given, memory->get(), packed);
    }
};

// A row: x (steps, I) with gaps between its inputs; backwards it is read and written from the end.
struct Row {
    const Layer* layer;
    int64_t gap;
    bool reverse, begins;  // begins: from zero
    std::vector<float> x, start, y, end, alone;
    Row(const Layer* layer_, int64_t gap_, bool reverse_, bool begins_)
        : layer(layer_), gap(gap_), reverse(reverse_), begins(begins_),
          x(random_values((steps * layer->I - 1) * gap + 1)), start(random_values(layer->H)),
          y(size_t(steps * layer->H), NAN), end(size_t(layer->H), NAN), alone(size_t(steps * layer->H), NAN) {
        if (begins) start.assign(start.size(), 0.0f);
    }
    int64_t place(int64_t t) const { return reverse ? steps - 1 - t : t; }

    void fill(LaneSlot& slot) {
        const int64_t turn = reverse ? -1 : 1;
        slot.x = x.data() + place(0) * layer->I * gap;
        slot.y = y.data() + place(0) * layer->H;
        slot.x_step = turn * layer->I * gap;
        slot.y_step = turn * layer->H;
        slot.start = begins ? nullptr : start.data();
        slot.end = end.data();
    }
    // alone := the same by the packed kernels; leaves the last state.
    std::vector<float> run_alone() {
        const PackedLayer& packed = layer->packed;
        const PackedCellKernels& kernels = table->packed.of[storage_float32].of[packed.cell];
        const int64_t stride = row_stride(packed, table->packed.lanes);
        Aligned<float> memory(4 * stride), products(packed.blocks * 3 * table->packed.lanes);
        memset(memory.get(), 0, size_t(4 * stride) * sizeof(float));
        float* state = memory.get();
        memcpy(state, start.data(), start.size() * sizeof(float));
        for (int64_t t = 0; t < steps; ++t) {
            std::vector<float> input;
            for (int64_t k = 0; k < layer->I; ++k)
                input.push_back(x[size_t((place(t) * layer->I + k) * gap)]);
            const float* from = input.data();
            float* to = alone.data() + place(t) * layer->H;
            PackedStep step;
            memset(&step, 0, sizeof step);
            step.x = &from;
            step.y = &to;
            step.products = products.get();
            step.state = state;
            step.next = memory.get() + (state == memory.get() ? stride : 0);
            step.reset_state = memory.get() + 2 * stride;
            step.update = memory.get() + 3 * stride;
            step.stride = stride;
            step.last_row = 1;
            step.last_block = packed.blocks;
            kernels.input_product(packed, step);
            for (int p = 0; p < cells[packed.cell].phases; ++p) kernels.phase[p](packed, step);
            state = step.next;
        }
        return std::vector<float>(state, state + layer->H);
    }
};

// How many values have other bits, with `count` vectors of rows of as many layers as a vector has slots.
int64_t other_bits(int cell, int64_t I, int64_t H, int64_t count) {
    const int64_t lanes = table->packed.lanes;
    const int64_t slots = lanes / H < most_slots ? lanes / H : most_slots;
    std::vector<std::unique_ptr<Layer>> layers;
    const int64_t size = 4 + 3 * (I + H);
    std::vector<float> weights(size_t(size * lanes), 0.0f);
    std::vector<int32_t> first, masks(size_t(slots * lanes), 0);
    for (int64_t s = 0; s < slots; ++s) {
        layers.emplace_back(new Layer(I, H, cell));
        const Layer& layer = *layers.back();
        for (int64_t j = 0; j < H; ++j) {
            const auto weight = [&](int64_t at) -> float& { return weights[size_t(at * lanes + s * H + j)]; };
            masks[size_t(s * lanes + s * H + j)] = -1;
            for (int64_t b = 0; b < 4; ++b) weight(b) = layer.bias[size_t(b * H + j)];
            for (int64_t g = 0; g < 3; ++g) {
                for (int64_t k = 0; k < I; ++k) weight(4 + 3 * k + g) = layer.w[size_t((g * H + j) * I + k)];
                for (int64_t k = 0; k < H; ++k) weight(4 + 3 * (I + k) + g) = layer.u[size_t((g * H + j) * H + k)];
            }
        }
    }
    for (int64_t lane = 0; lane < lanes; ++lane) first.push_back(int32_t(lane / H < slots ? lane / H * H : 0));
    std::vector<Row> rows;
    std::vector<LaneVector> vectors;
    for (int64_t v = 0; v < count; ++v) {
        LaneVector vector;
        vector.weights = weights.data();
        vector.slots = v % 3 == 1 ? 1 : slots;
        for (int64_t s = 0; s < vector.slots; ++s)
            rows.emplace_back(layers[size_t(s)].get(), H % 3 + 1, (v + s) % 2, (v + s) % 3 == 0);
        vectors.push_back(vector);
    }
    size_t at = 0;
    for (LaneVector& vector : vectors)
        for (int64_t s = 0; s < vector.slots; ++s) rows[at++].fill(vector.slot[s]);
    LaneStep step;
    step.cell = cell;
    step.inputs = I;
    step.hidden = H;
    step.steps = steps;
    step.input_stride = H % 3 + 1;
    step.first = reinterpret_cast<const float*>(first.data());
    step.masks = reinterpret_cast<const float*>(masks.data());
    table->packed.side_by_side(step, vectors.data(), count);
    int64_t different = 0;
    for (Row& row : rows) {
        different += differences(row.run_alone(), row.end);
        different += differences(row.alone, row.y);
    }
    return different;
}

}  // namespace

int main() {
    printf("lanes of %s\n", table->name);
    for (const int cell : {cell_gru_before, cell_gru_after}) {
        int64_t different = 0;
        for (int64_t H = 1; H <= table->packed.lanes && H <= 16; ++H)
            for (int64_t count = 1; count <= 7; ++count) different += other_bits(cell, 1 + (H + count) % 6, H, count);
        expect(different == 0, cell == cell_gru_after ? "reset after the product, values with other bits"
                                                      : "reset before the product, values with other bits", 0);
    }
    return failures != 0;
}

// Streams: states kept between calls, input and recurrent weights of a step swept together. The arithmetic is in
// tiles.h.
#include <stdlib.h>
#include <string.h>

#include "packed/rows.h"

namespace cgru {

struct PackedStream::Layer {
    const PackedLayer* layer;
    PackedStep step;
    float* states[2];       // [batch][stride]: before the step and after it, by `turn`
    const float** inputs;   // [batch] addresses of a step's inputs
    float** outputs;        // [batch] addresses of a step's outputs
};

PackedStream::PackedStream(const PackedKernels& kernels, const PackedLayer* const* given, int64_t count, int64_t batch)
    : kernels(kernels), count(count), batch(batch), turn(0), memory(nullptr), layers(nullptr) {
    int64_t size = Parts::size<Layer>(count);
    for (int64_t k = 0; k < count; ++k) {
        const int64_t stride = row_stride(*given[k], kernels.lanes);
        const int64_t width = given[k]->blocks * cells[given[k]->cell].gates * kernels.lanes;
        size += 2 * Parts::size<float*>(batch);
        size += 4 * Parts::size<float>(batch * stride) + Parts::size<float>(batch * width);
        const StorageKernels& compute = kernels.of[given[k]->storage];
        size += Parts::narrow_size(compute, batch, given[k]->inputs);
        size += Parts::narrow_size(compute, batch, given[k]->hidden);
    }
    memory = static_cast<char*>(calloc(1, size_t(size)));
    if (!memory) return;
    Parts parts(memory);
    layers = parts.take<Layer>(count);
    for (int64_t k = 0; k < count; ++k) {
        Layer& l = layers[k];
        l.layer = given[k];
        const int64_t stride = row_stride(*l.layer, kernels.lanes);
        l.inputs = parts.take<const float*>(batch);
        l.outputs = parts.take<float*>(batch);
        l.states[0] = parts.take<float>(batch * stride);
        l.states[1] = parts.take<float>(batch * stride);
        l.step.reset_state = parts.take<float>(batch * stride);
        l.step.update = parts.take<float>(batch * stride);
        l.step.products = parts.take<float>(batch * l.layer->blocks * cells[l.layer->cell].gates * kernels.lanes);
        const StorageKernels& compute = kernels.of[l.layer->storage];
        l.step.narrow_x = parts.take_narrow(compute, batch, l.layer->inputs);
        l.step.narrow_state = parts.take_narrow(compute, batch, l.layer->hidden);
        l.step.x = l.inputs;
        l.step.y = l.outputs;
        l.step.stride = stride;
        l.step.last_row = batch;
        l.step.last_block = l.layer->blocks;
    }
}

PackedStream::~PackedStream() { free(memory); }

void PackedStream::step(const float* x, int64_t x_stride, float* out, int64_t out_stride) {
    FlushDenormals mode;
    for (int64_t k = 0; k < count; ++k) {
        Layer& l = layers[k];
        PackedStep& step = l.step;
        const StorageKernels& compute = kernels.of[l.layer->storage];
        const bool last = k == count - 1;
        step.state = l.states[turn];
        step.next = l.states[!turn];
        step.downwards = !step.downwards;
        for (int64_t b = 0; b < batch; ++b) {
            l.inputs[b] = x + b * x_stride;
            l.outputs[b] = last ? out + b * out_stride : step.next + b * step.stride;
        }
        const PackedCellKernels& cell = compute.of[l.layer->cell];
        if (cell.from_input) {
            cell.from_input(*l.layer, step);
        } else {
            cell.input_product(*l.layer, step);
            for (int p = 0; p < cells[l.layer->cell].phases; ++p) cell.phase[p](*l.layer, step);
        }
        x = step.next;
        x_stride = step.stride;
    }
    turn = !turn;  // of all layers at once: a process that forks meanwhile has the states before the step, or after it
}

void PackedStream::get_state(float* states) const {
    for (int64_t k = 0; k < count; ++k)
        for (int64_t b = 0; b < batch; ++b, states += layers[k].layer->hidden)
            memcpy(states, layers[k].states[turn] + b * layers[k].step.stride, layers[k].layer->hidden * sizeof(float));
}

void PackedStream::set_state(const float* states) {
    for (int64_t k = 0; k < count; ++k)
        for (int64_t b = 0; b < batch; ++b, states += layers[k].layer->hidden)
            memcpy(layers[k].states[turn] + b * layers[k].step.stride, states, layers[k].layer->hidden * sizeof(float));
}

}  // namespace cgru

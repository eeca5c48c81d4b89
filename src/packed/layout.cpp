// A layer laid out as packed/layout.h says. Not compiled per instruction set: it runs once a layer, and moves numbers.
#include <string.h>

#include "kernels.h"

namespace cgru {
namespace {

// Rows (gates * H, K) as [blocks][K][gates][lanes], for the gates of a phase; `together` numbers share a unit of
// memory. Returns the end of what was written.
template <class Number, int together>
void* pack_gates(const void* from, int64_t hidden, int64_t count, const Phase& phase, int64_t lanes, void* memory) {
    const Number* rows = static_cast<const Number*>(from);
    Number* to = static_cast<Number*>(memory);
    const int64_t line = 64 / int64_t(sizeof(Number)), gates = phase.gates;
    const int64_t size = (count + together - 1) / together * together * gates * lanes;
    for (int64_t unit = 0; unit < hidden; unit += lanes, to += size) {
        const int64_t valid = hidden - unit < lanes ? hidden - unit : lanes;
        memset(to, 0, size_t(size) * sizeof(Number));
        for (int64_t start = 0; start < count; start += line) {  // a cache line of each row at a time
            const int64_t end = count - start < line ? count : start + line;
            for (int64_t g = 0; g < gates; ++g)
                for (int64_t lane = 0; lane < valid; ++lane) {
                    const Number* row = rows + ((phase.first + g) * hidden + unit + lane) * count;
                    for (int64_t k = start; k < end; ++k)
                        to[((k / together * gates + g) * lanes + lane) * together + k % together] = row[k];
                }
        }
    }
    return to;
}

// By the bytes of a number, and how many share a unit.
const struct {
    int64_t bytes, together;
    void* (*pack)(const void*, int64_t, int64_t, const Phase&, int64_t, void*);
} packers[] = {
    {4, 1, pack_gates<float, 1>},
    {2, 1, pack_gates<uint16_t, 1>},
    {2, 2, pack_gates<uint16_t, 2>},
    {1, 4, pack_gates<uint8_t, 4>},
};

// Takes parts of the memory, each from a cache line on; without memory, only to see how much that is.
struct Packer {
    const CanonicalLayer& from;
    const StorageKernels& storage;
    const int64_t lanes;
    char* memory;
    int64_t used;

    int64_t blocks() const { return (from.hidden + lanes - 1) / lanes; }

    // Rows (gates * H, K) of numbers of so many bytes, phase by phase.
    const void* pack(const void* rows, int64_t count, const Phase* phase, int phases, int64_t bytes, int64_t together) {
        char* const start = memory ? memory + used : nullptr;
        const int64_t units = (count + together - 1) / together;
        void* to = start;
        for (int p = 0; p < phases; ++p) {
            used += blocks() * units * together * phase[p].gates * lanes * bytes;
            for (const auto& packer : packers)
                if (memory && packer.bytes == bytes && packer.together == together)
                    to = packer.pack(rows, from.hidden, count, phase[p], lanes, to);
        }
        used = (used + 63) / 64 * 64;
        return start;
    }
    const float* vector(const float* rows, int gates) {
        const Phase all = {0, gates, 0};
        return static_cast<const float*>(pack(rows, 1, &all, 1, sizeof(float), 1));
    }

    // Blocks of some units by four inputs, of those that hold a number other than zero, in lists.
    template <class Number> void sparse(PackedMatrix& packed, const Number* rows, int64_t count, const Phase* phase,
                                        int phases) {
        const int64_t units = storage.block_units, parts = lanes / units;
        Number* weights = nullptr;
        int32_t *firsts = nullptr, *columns = nullptr;
        for (int writing = 0; writing < (memory ? 2 : 1); ++writing) {
            int64_t lists = 0, at = 0;
            for (int p = 0; p < phases; ++p)
                for (int64_t list = 0; list < blocks() * phase[p].gates * parts; ++list, ++lists) {
                    const int64_t gate = phase[p].first + list / parts % phase[p].gates;
                    const int64_t unit = list / parts / phase[p].gates * lanes + list % parts * units;
                    const int64_t valid = from.hidden - unit < units ? from.hidden - unit : units;
                    if (writing) firsts[lists] = int32_t(at);
                    for (int64_t k = 0; k < count; k += 4) {
                        const Number* corner = rows + (gate * from.hidden + unit) * count + k;
                        const int64_t inputs = count - k < 4 ? count - k : 4;
                        if (!is_held(corner, count, valid, inputs)) continue;
                        if (writing) {
                            for (int64_t i = 0; i < valid; ++i)
                                for (int64_t input = 0; input < inputs; ++input)
                                    weights[at * units * 4 + (sizeof(Number) == 1 ? i * 4 + input
                                                                  : input * units + i)] = corner[i * count + input];
                            columns[at] = int32_t(k);
                        }
                        ++at;
                    }
                }
            if (writing) {
                firsts[lists] = int32_t(at);
                break;
            }
            packed.weights = weights = take<Number>(at * units * 4);
            packed.lists = firsts = take<int32_t>(lists + 1);
            packed.columns = columns = take<int32_t>(at);
            if (memory) memset(weights, 0, size_t(at * units * 4) * sizeof(Number));
        }
    }
    template <class Number> static bool is_held(const Number* corner, int64_t stride, int64_t units, int64_t inputs) {
        for (int64_t unit = 0; unit < units; ++unit)
            for (int64_t input = 0; input < inputs; ++input)
                if (corner[unit * stride + input] != 0) return true;
        return false;
    }
    template <class T> T* take(int64_t count) {
        char* const start = memory ? memory + used : nullptr;
        used = (used + count * int64_t(sizeof(T)) + 63) / 64 * 64;
        return reinterpret_cast<T*>(start);
    }

    // A matrix of so many gates, K wide.
    PackedMatrix matrix(const CanonicalMatrix& rows, int64_t count, const Phase* phase, int phases, int gates) {
        PackedMatrix packed = {nullptr, nullptr, nullptr, nullptr, nullptr, rows.limit};
        if (!storage.block_units)
            packed.weights = pack(rows.numbers, count, phase, phases, storage.bytes, storage.together);
        else if (rows.scale)
            sparse(packed, static_cast<const int8_t*>(rows.numbers), count, phase, phases);
        else
            sparse(packed, static_cast<const float*>(rows.numbers), count, phase, phases);
        if (!rows.scale) return packed;
        packed.scale = vector(rows.scale, gates);
        const int64_t size = blocks() * gates * lanes, before = used;
        used += (size * int64_t(sizeof(int32_t)) + 63) / 64 * 64;
        if (!memory) return packed;
        int32_t* start = reinterpret_cast<int32_t*>(memory + before);
        packed.start = start;
        memset(start, 0, size_t(size) * sizeof(int32_t));
        const int8_t* numbers = static_cast<const int8_t*>(rows.numbers);
        for (int64_t row = 0; row < gates * from.hidden; ++row) {
            const int64_t gate = row / from.hidden, unit = row % from.hidden;
            int32_t sum = 0;
            for (int64_t k = 0; k < count; ++k) sum += numbers[row * count + k];
            start[(unit / lanes * gates + gate) * lanes + unit % lanes] = -storage.offset * sum;
        }
        return packed;
    }
};

}  // namespace

int64_t pack_layer(const PackedKernels& kernels, const CanonicalLayer& layer, char* memory, PackedLayer& to) {
    const Cell& cell = cells[layer.cell];
    const Phase all = {0, cell.gates, 0};
    Packer packer = {layer, kernels.of[layer.storage], kernels.lanes, memory, 0};
    to.inputs = layer.inputs;
    to.hidden = layer.hidden;
    to.blocks = packer.blocks();
    to.storage = layer.storage;
    to.input = packer.matrix(layer.input, layer.inputs, &all, 1, cell.gates);
    to.recurrent = packer.matrix(layer.recurrent, layer.hidden, cell.phase, cell.phases, recurrent_gates(cell));
    to.bias = packer.vector(layer.bias, cell.gates);
    to.recurrent_bias = packer.vector(layer.bias + cell.gates * layer.hidden, cell.biases - cell.gates);
    to.cell = layer.cell;
    to.gate = layer.gate;
    to.candidate = layer.candidate;
    to.flip = layer.flip;
    to.usual = is_usual(cell, layer.gate, layer.candidate, layer.flip);
    return packer.used;
}

int64_t input_products(const PackedKernels& kernels, const PackedLayer& layer, const float* const* rows, int64_t count,
                       float* products) {
    const StorageKernels& storage = kernels.of[layer.storage];
    if (storage.narrow) return 0;  // inputs are rounded row by row, in memory of the call
    if (products) {
        PackedStep step;
        memset(&step, 0, sizeof step);
        step.x = rows;
        step.products = products;
        step.last_row = count;
        step.last_block = layer.blocks;
        storage.of[layer.cell].input_product(layer, step);
    }
    return layer.blocks * cells[layer.cell].gates * kernels.lanes;
}

int64_t pack_dense(const PackedKernels& kernels, const CanonicalLayer& layer, char* memory, PackedLayer& to) {
    const int vectors = layer.cell;
    const Phase all = {0, vectors, 0};
    Packer packer = {layer, kernels.of[layer.storage], kernels.lanes, memory, 0};
    to = PackedLayer();
    to.inputs = layer.inputs;
    to.hidden = layer.hidden;
    to.blocks = packer.blocks();
    to.storage = layer.storage;
    to.input = packer.matrix(layer.input, layer.inputs, &all, 1, vectors);
    to.bias = packer.vector(layer.bias, vectors);
    to.cell = vectors;
    return packer.used;
}

}  // namespace cgru

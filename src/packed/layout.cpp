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

const Cell all_gates = {1, {{0, 3}, {0, 0}}}, one_gate = {1, {{0, 1}, {0, 0}}};

// Takes parts of the memory, each from a cache line on; without memory, only to see how much that is.
struct Packer {
    const CanonicalLayer& from;
    const StorageKernels& storage;
    const int64_t lanes;
    char* memory;
    int64_t used;

    int64_t blocks() const { return (from.hidden + lanes - 1) / lanes; }

    // Rows (gates * H, K) of numbers of so many bytes, phase by phase.
    const void* pack(const void* rows, int64_t count, const Cell& cell, int64_t bytes, int64_t together) {
        char* const start = memory ? memory + used : nullptr;
        const int64_t units = (count + together - 1) / together;
        void* to = start;
        for (int p = 0; p < cell.phases; ++p) {
            used += blocks() * units * together * cell.phase[p].gates * lanes * bytes;
            for (const auto& packer : packers)
                if (memory && packer.bytes == bytes && packer.together == together)
                    to = packer.pack(rows, from.hidden, count, cell.phase[p], lanes, to);
        }
        used = (used + 63) / 64 * 64;
        return start;
    }
    const float* vector(const float* rows, const Cell& cell) {
        return static_cast<const float*>(pack(rows, 1, cell, sizeof(float), 1));
    }

    PackedMatrix matrix(const CanonicalMatrix& rows, int64_t count, const Cell& cell) {
        PackedMatrix packed = {nullptr, nullptr, nullptr, rows.limit};
        packed.weights = pack(rows.numbers, count, cell, storage.bytes, storage.together);
        if (!rows.scale) return packed;
        packed.scale = vector(rows.scale, all_gates);
        const int64_t size = blocks() * 3 * lanes, before = used;
        used += (size * int64_t(sizeof(int32_t)) + 63) / 64 * 64;
        if (!memory) return packed;
        int32_t* start = reinterpret_cast<int32_t*>(memory + before);
        packed.start = start;
        memset(start, 0, size_t(size) * sizeof(int32_t));
        const int8_t* numbers = static_cast<const int8_t*>(rows.numbers);
        for (int64_t row = 0; row < 3 * from.hidden; ++row) {
            const int64_t gate = row / from.hidden, unit = row % from.hidden;
            int32_t sum = 0;
            for (int64_t k = 0; k < count; ++k) sum += numbers[row * count + k];
            start[(unit / lanes * 3 + gate) * lanes + unit % lanes] = -storage.offset * sum;
        }
        return packed;
    }
};

}  // namespace

int64_t pack_layer(const PackedKernels& kernels, const CanonicalLayer& layer, char* memory, PackedLayer& to) {
    Packer packer = {layer, kernels.of[layer.storage], kernels.lanes, memory, 0};
    to.inputs = layer.inputs;
    to.hidden = layer.hidden;
    to.blocks = packer.blocks();
    to.storage = layer.storage;
    to.input = packer.matrix(layer.input, layer.inputs, all_gates);
    to.recurrent = packer.matrix(layer.recurrent, layer.hidden, cells[layer.cell]);
    to.bias = packer.vector(layer.bias, all_gates);
    to.candidate_bias = packer.vector(layer.bias + 3 * layer.hidden, one_gate);
    to.cell = layer.cell;
    to.gate = layer.gate;
    to.candidate = layer.candidate;
    to.flip = layer.flip;
    to.usual = is_usual(layer.gate, layer.candidate, layer.flip);
    return packer.used;
}

}  // namespace cgru

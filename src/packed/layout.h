// How the weights of the packed engine lie in memory, and how they get there.
//
// Weights lie in blocks of as many hidden units as a vector has lanes. A block holds, for every input k in turn, the
// vectors of its gates side by side, so that one broadcast of x[k] or h[k] feeds all of them:
//
//   input weights       [blocks][I][3][lanes]     r, z, n
//   recurrent weights   [blocks][H][3][lanes]     r, z, n         reset after the product
//                       [blocks][H][2][lanes]     r, z; then      reset before the product
//                       [blocks][H][1][lanes]     n
//   bias, scale, start  [blocks][3][lanes]        r, z, n
//   candidate's bias    [blocks][lanes]
//
// Where a unit of memory holds the numbers of two inputs, or four (src/storage), I and H are counted in pairs, or
// fours, and the first of them is in the lowest bits. Units beyond H and inputs beyond the last are zero.
#pragma once

#include "storage/storage.h"

namespace cgru {
namespace CGRU_SET {

// Units of memory of a block's weights for so many inputs and gates.
template <class S> CGRU_INLINE int64_t units_of(int64_t inputs, int64_t gates) {
    return (inputs + S::inputs - 1) / S::inputs * gates * lanes;
}

// The weights of a block, so many units of memory from the first on; its scales, so many gates of [blocks][3] from
// there.
template <class S> CGRU_INLINE Block<S> block_at(const PackedMatrix& matrix, int64_t units, int64_t gates) {
    const auto* weights = static_cast<const typename S::Unit*>(matrix.weights) + units;
    if (!S::integer) return {weights, nullptr, nullptr};
    return {weights, matrix.scale + gates * lanes, matrix.start + gates * lanes};
}
// A block's input weights of all gates, and its recurrent ones of G gates from the `first` on.
template <class S> CGRU_INLINE Block<S> input_block(const PackedLayer& layer, int64_t block) {
    return block_at<S>(layer.input, block * units_of<S>(layer.inputs, 3), block * 3);
}
template <class S, int G> CGRU_INLINE Block<S> recurrent_block(const PackedLayer& layer, int first, int64_t block) {
    const int64_t before = layer.blocks * units_of<S>(layer.hidden, first);
    return block_at<S>(layer.recurrent, before + block * units_of<S>(layer.hidden, G), block * 3 + first);
}

// Rows (gates * H, K) as [blocks][K][gates][lanes], for so many gates from the `first` on; `together` numbers share a
// unit of memory. Returns the end of what was written.
template <int together, class Number>
static CGRU_NOINLINE Number* pack_gates(const Number* rows, int64_t hidden, int64_t count, int first, int gates,
                                        Number* to) {
    const int64_t line = 64 / int64_t(sizeof(Number));
    const int64_t size = (count + together - 1) / together * together * gates * lanes;
    for (int64_t unit = 0; unit < hidden; unit += lanes, to += size) {
        const int64_t valid = hidden - unit < lanes ? hidden - unit : lanes;
        memset(to, 0, size_t(size) * sizeof(Number));
        for (int64_t start = 0; start < count; start += line) {  // a cache line of each row at a time
            const int64_t end = count - start < line ? count : start + line;
            for (int g = 0; g < gates; ++g)
                for (int64_t lane = 0; lane < valid; ++lane) {
                    const Number* row = rows + ((first + g) * hidden + unit + lane) * count;
                    CGRU_LOOP for (int64_t k = start; k < end; ++k)
                        to[((k / together * gates + g) * lanes + lane) * together + k % together] = row[k];
                }
        }
    }
    return to;
}

// Lays a layer out in memory that begins at a cache line, each array at another; without memory, to see how much that
// takes.
template <class S> struct Packer {
    const CanonicalLayer& from;
    char* memory;
    int64_t used;

    int64_t blocks() const { return (from.hidden + lanes - 1) / lanes; }
    template <class T> T* take(int64_t count) {
        T* part = memory ? reinterpret_cast<T*>(memory + used) : nullptr;
        used += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
        return part;
    }
    const float* vector(const float* rows, int gates) {
        float* to = take<float>(blocks() * gates * lanes);
        if (memory) pack_gates<1>(rows, from.hidden, 1, 0, gates, to);
        return to;
    }

    // Rows (3H, K), the gates of one phase behind those of another.
    PackedMatrix matrix(const CanonicalMatrix& rows, int64_t count, const Cell& cell) {
        typedef typename S::Number Number;
        const auto* numbers = static_cast<const Number*>(rows.numbers);
        Number* to = take<Number>(blocks() * units_of<S>(count, 3) * S::inputs);
        PackedMatrix packed = {to, nullptr, nullptr, rows.limit};
        for (int p = 0; memory && p < cell.phases; ++p)
            to = pack_gates<S::inputs>(numbers, from.hidden, count, cell.phase[p].first, cell.phase[p].gates, to);
        if (!S::integer) return packed;
        packed.scale = vector(rows.scale, 3);
        int32_t* start = take<int32_t>(blocks() * 3 * lanes);
        packed.start = start;
        if (!memory) return packed;
        memset(start, 0, size_t(blocks() * 3 * lanes) * sizeof(int32_t));
        for (int64_t row = 0; S::offset && row < 3 * from.hidden; ++row) {
            const int64_t gate = row / from.hidden, unit = row % from.hidden;
            int32_t sum = 0;
            CGRU_LOOP for (int64_t k = 0; k < count; ++k) sum += int32_t(numbers[row * count + k]);
            start[(unit / lanes * 3 + gate) * lanes + unit % lanes] = -S::offset * sum;
        }
        return packed;
    }

    void run(PackedLayer& to) {
        to.inputs = from.inputs;
        to.hidden = from.hidden;
        to.blocks = blocks();
        to.storage = from.storage;
        to.input = matrix(from.input, from.inputs, {1, {{0, 3}, {0, 0}}});
        to.recurrent = matrix(from.recurrent, from.hidden, cells[from.cell]);
        to.bias = vector(from.bias, 3);
        to.candidate_bias = vector(from.bias + 3 * from.hidden, 1);
        to.gate = from.gate;
        to.candidate = from.candidate;
        to.cell = from.cell;
        to.flip = from.flip;
        to.usual = is_usual(from.gate, from.candidate, from.flip);
    }
};

template <class S> static int64_t pack_layer(const CanonicalLayer& layer, char* memory, PackedLayer& packed) {
    Packer<S> packer = {layer, memory, 0};
    packer.run(packed);
    return packer.used;
}

}  // namespace CGRU_SET
}  // namespace cgru

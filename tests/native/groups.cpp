// Products of groups side by side, on memory of an exact size: beside plain loops in double, and each row and group
// with the bits that it has alone.
#include "program.h"

namespace {

struct Groups {
    int64_t groups, outputs, inputs, vectors;
    std::vector<float> numbers, bias;
    std::unique_ptr<Aligned<char>> memory;
    PackedLayer layer;

    Groups(int64_t groups_, int64_t outputs_, int64_t inputs_)
        : groups(groups_), outputs(outputs_), inputs(inputs_),
          vectors((outputs_ + table->packed.lanes - 1) / table->packed.lanes),
          numbers(random_values(groups_ * outputs_ * inputs_)), bias(random_values(groups_ * outputs_)) {
        pack(0, groups, memory, layer);
    }
    // Some of the groups, one behind the other in blocks: output n of group g is unit g * lanes + n % lanes of vector
    // n / lanes.
    void pack(int64_t first, int64_t count, std::unique_ptr<Aligned<char>>& to, PackedLayer& packed) const {
        const int64_t lanes = table->packed.lanes;
        std::vector<float> laid(size_t(vectors * count * lanes * inputs)), own(size_t(vectors * count * lanes));
        for (int64_t g = 0; g < count; ++g)
            for (int64_t n = 0; n < outputs; ++n) {
                const int64_t at = (n / lanes * count + g) * lanes + n % lanes, from = (first + g) * outputs + n;
                own[size_t(at)] = bias[size_t(from)];
                for (int64_t k = 0; k < inputs; ++k)
                    laid[size_t(at * inputs + k)] = numbers[size_t(from * inputs + k)];
            }
        CanonicalLayer given;
        memset(&given, 0, sizeof given);
        given.inputs = inputs;
        given.hidden = count * lanes;
        given.storage = storage_float32;
        given.cell = int(vectors);
        given.input = {laid.data(), nullptr, HUGE_VALF};
        given.bias = own.data();
        to.reset(new Aligned<char>(pack_dense(table->packed, given, nullptr, packed)));
        pack_dense(table->packed, given, to->get(), packed);
    }
};

// Rows of `groups` times `length` inputs in two pieces by three, each behind a gap.
struct Rows {
    enum { across = 2, along = 3, gap = 5 };
    int64_t count, length, width;
    std::vector<float> x;
    Rows(int64_t count_, const Groups& of)
        : count(count_), length(of.inputs / (across * along)), width(of.groups * length),
          x(random_values(count_ * across * along * (of.groups * length + gap) - gap)) {}
    int64_t place(int64_t row, int64_t i, int64_t j) const { return ((row * across + i) * along + j) * (width + gap); }
};

std::vector<float> products(const Groups& of, const PackedLayer& layer, const Rows& rows, int64_t first_row,
                            int64_t last_row, int64_t first_group, int64_t groups) {
    std::vector<float> y(size_t((last_row - first_row) * groups * of.outputs), NAN);
    std::vector<const float*> from;
    std::vector<float*> to;
    for (int64_t row = first_row; row < last_row; ++row) {
        from.push_back(&rows.x[size_t(rows.place(row, 0, 0) + first_group * rows.length)]);
        to.push_back(&y[size_t((row - first_row) * groups * of.outputs)]);
    }
    DenseStep step;
    memset(&step, 0, sizeof step);
    step.x = from.data();
    step.y = to.data();
    step.outputs = step.y_next = of.outputs;
    step.x_next = step.length = rows.length;
    step.last_row = last_row - first_row;
    step.last_block = groups;
    step.pieces[0] = Rows::across;
    step.pieces[1] = Rows::along;
    step.distances[0] = Rows::along * (rows.width + Rows::gap);
    step.distances[1] = rows.width + Rows::gap;
    table->nodes32->grouped[layer.cell - 1](layer, step);
    return y;
}

void compare(int64_t groups, int64_t outputs, int64_t count) {
    const Groups of(groups, outputs, Rows::across * Rows::along * 4);
    const Rows rows(count, of);
    const std::vector<float> y = products(of, of.layer, rows, 0, count, 0, groups);
    double worst = 0;
    int64_t different = 0;
    for (int64_t g = 0; g < groups; ++g) {
        std::unique_ptr<Aligned<char>> memory;
        PackedLayer alone;
        of.pack(g, 1, memory, alone);
        for (int64_t row = 0; row < count; ++row) {
            const std::vector<float> own = products(of, alone, rows, row, row + 1, g, 1);
            const auto first = y.begin() + (row * groups + g) * outputs;
            different += differences(own, std::vector<float>(first, first + outputs));
            for (int64_t n = 0; n < outputs; ++n) {
                const int64_t weights = (g * outputs + n) * of.inputs;
                double sum = double(of.bias[size_t(g * outputs + n)]);
                for (int64_t k = 0; k < of.inputs; ++k) {
                    const int64_t piece = k / rows.length, i = piece / Rows::along, j = piece % Rows::along;
                    sum += double(of.numbers[size_t(weights + k)]) *
                           double(rows.x[size_t(rows.place(row, i, j) + g * rows.length + k % rows.length)]);
                }
                worst = larger_error(worst, fabs(double(first[n]) - sum));
            }
        }
    }
    printf("%d groups of %d, %d rows: ", int(groups), int(outputs), int(count));
    expect(worst < 1e-5, "beside plain loops, error", worst);
    expect(different == 0, "alone, values with other bits", double(different));
}

}  // namespace

int main() {
    printf("groups of %s\n", table->name);
    const int64_t lanes = table->packed.lanes;
    for (const int64_t groups : {1, 3, 9})
        for (const int64_t outputs : {int64_t(1), lanes, 2 * lanes - 1 + (lanes == 1)})
            for (const int64_t count : {1, 7, 21}) compare(groups, outputs, count);
    return failures != 0;
}

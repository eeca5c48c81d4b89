// The products of the training kernels of an instruction set against loops over scalars, without Python: rows times a
// matrix laid out, and outer products of rows. As kernels.cpp it is built for other processors and with sanitizers.
#include "training.h"

// Rows, each with memory of its own.
template <class T> struct SeparateRows {
    std::vector<std::vector<T>> rows;
    std::vector<T*> addresses;
    SeparateRows(int64_t count, int64_t width) {
        for (int64_t i = 0; i < count; ++i) rows.push_back(random_values<T>(width));
        for (auto& row : rows) addresses.push_back(row.data());
    }
    std::vector<const T*> readable() const { return {addresses.begin(), addresses.end()}; }
};

template <class T> static void test_products() {
    double worst = 0;
    for (const int64_t inner : {1, 7, 40})
        for (const int64_t outer : {1, 5, 16, 33, 50, 97})
            for (const int64_t rows : {1, 2, 3, 5, 9, 17})
                for (int way = 0; way < 8; ++way) {
                    const int transposed = way & 1, add = way >> 1 & 1, downwards = way >> 2 & 1;
                    const std::vector<T> matrix = random_values<T>(inner * outer);
                    const int64_t inner_stride = transposed ? 1 : outer, outer_stride = transposed ? inner : 1;
                    const LaidOut<T> laid_out(matrix.data(), inner_stride, outer_stride, inner, outer);
                    const SeparateRows<T> a(rows, inner), before(rows, outer);
                    SeparateRows<T> c(rows, outer);
                    for (size_t i = 0; i < size_t(rows); ++i)
                        for (size_t n = 0; n < size_t(outer); ++n) c.rows[i][n] = add ? before.rows[i][n] : T(NAN);
                    const std::vector<const T*> given = a.readable();
                    training_kernels<T>().product(laid_out.panels,
                                                  {rows, given.data(), c.addresses.data(), add, downwards});
                    for (size_t i = 0; i < size_t(rows); ++i) {
                        std::vector<double> expected;
                        for (int64_t n = 0; n < outer; ++n) {
                            double sum = add ? double(before.rows[i][size_t(n)]) : 0;
                            for (int64_t k = 0; k < inner; ++k)
                                sum += double(a.rows[i][size_t(k)]) *
                                       double(matrix[size_t(k * inner_stride + n * outer_stride)]);
                            expected.push_back(sum);
                        }
                        worst = larger_error(worst, relative_error(c.rows[i], expected));
                    }
                }
    char what[80];
    snprintf(what, sizeof what, "products with a matrix, %s", name_of<T>());
    expect(worst < tolerance<T>(), what, worst);
}

// A part of the rows of one or two outer products; the others stay as they are.
template <class T> static void test_outer_products() {
    const TrainingKernels<T>& kernels = training_kernels<T>();
    double worst = 0;
    for (const int64_t rows : {1, 6, 128})
        for (const int64_t wide : {1, 8, 21})
            for (const int64_t first : {0, 8})
                for (const int64_t last : {wide, wide < 16 ? wide : 16})
                    for (const int64_t columns : {1, 19, 50})
                        for (const int64_t other : {0, 1, 35}) {
                            if (first >= last) continue;
                            const SeparateRows<T> a(rows, wide), b[] = {{rows, columns}, {rows, other}};
                            const std::vector<const T*> left = a.readable();
                            const Aligned<T> memory(kernels.outer_memory(rows));
                            const Aligned<T> laid_out[] = {Aligned<T>(kernels.rows_size(rows, columns)),
                                                           Aligned<T>(kernels.rows_size(rows, other))};
                            OuterProduct<T> product = {rows, left.data(), first, last, {}, memory.get()};
                            std::vector<T> c[2];
                            std::vector<double> expected[2];
                            const int64_t widths[] = {columns, other};
                            for (int p = 0; p < 2; ++p) {
                                const int64_t width = widths[p];
                                c[p] = random_values<T>(wide * width);
                                expected[p].assign(c[p].begin(), c[p].end());
                                if (width == 0) continue;
                                const std::vector<const T*> right = b[p].readable();
                                kernels.lay_out(right.data(), rows, width, laid_out[p].get());
                                product.of[p] = {laid_out[p].get(), width, c[p].data()};
                                for (int64_t i = 0; i < rows; ++i)
                                    for (int64_t m = first; m < last; ++m)
                                        for (int64_t n = 0; n < width; ++n)
                                            expected[p][size_t(m * width + n)] +=
                                                double(left[size_t(i)][m]) * double(right[size_t(i)][n]);
                            }
                            kernels.outer_product(product);
                            for (int p = 0; p < 2; ++p)
                                worst = larger_error(worst, relative_error(c[p], expected[p]));
                        }
    char what[80];
    snprintf(what, sizeof what, "outer products, %s", name_of<T>());
    expect(worst < tolerance<T>(), what, worst);
}

int main() {
    if (!table) return 2;
    printf("products of %s\n", table->name);
    test_products<float>();
    test_products<double>();
    test_outer_products<float>();
    test_outer_products<double>();
    return failures != 0;
}

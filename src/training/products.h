// Products of rows for training: with a matrix laid out once (panels), and of all rows with each other (outer product).
//
// A matrix (K, N) lies in panels of up to three vectors of columns: [panels][K][vectors][lanes]. The last panels have
// two where three would leave a panel with one. A tile is a few rows by a panel, whose sums fit the registers; rows of
// many tiles meet a panel while it is in the nearest cache.
//
// An outer product first lays out both operands in the order in which its tiles read them.
#pragma once

#include "simd/vector.h"

namespace cgru {
namespace CGRU_SET {

static const int panel_vectors = 3;
// How the columns of a matrix are shared out among panels.
template <class T> struct Columns {
    int64_t count, vectors, panels, full;  // full: panels of three vectors
    explicit Columns(int64_t count)
        : count(count), vectors((count + Vector<T>::lanes - 1) / Vector<T>::lanes),
          panels((vectors + panel_vectors - 1) / panel_vectors), full(panels - (panels * panel_vectors - vectors)) {
        if (vectors == 1) full = 0;
    }
    int width(int64_t panel) const { return vectors == 1 ? 1 : panel < full ? 3 : 2; }
    // The first vector of a panel.
    int64_t start(int64_t panel) const { return panel <= full ? panel * 3 : full * 3 + (panel - full) * 2; }
};

template <class T> static int64_t panels_size(int64_t inner, int64_t outer) {
    return Columns<T>(outer).vectors * Vector<T>::lanes * inner;
}

template <class T>
static void pack(const T* matrix, int64_t inner_stride, int64_t outer_stride, int64_t inner, int64_t outer, T* panels) {
    const Columns<T> columns(outer);
    for (int64_t panel = 0; panel < columns.panels; ++panel) {
        const int64_t first = columns.start(panel) * Vector<T>::lanes, width = columns.width(panel) * Vector<T>::lanes;
        const int64_t valid = outer - first < width ? outer - first : width;
        T* to = panels + first * inner;
        if (outer_stride == 1) {
            for (int64_t i = 0; i < inner; ++i) {
                memcpy(to + i * width, matrix + i * inner_stride + first, size_t(valid) * sizeof(T));
                for (int64_t n = valid; n < width; ++n) to[i * width + n] = 0;
            }
            continue;
        }
        const int64_t line = 64 / int64_t(sizeof(T));
        for (int64_t k = 0; k < inner; k += line) {  // a cache line of each column at a time
            const int64_t end = inner - k < line ? inner : k + line;
            for (int64_t n = 0; n < valid; ++n) {
                const T* column = matrix + (first + n) * outer_stride;
                prefetch(column + (k + line) * inner_stride);
                for (int64_t i = k; i < end; ++i) to[i * width + n] = column[i * inner_stride];
            }
            for (int64_t i = k; i < end; ++i)
                for (int64_t n = valid; n < width; ++n) to[i * width + n] = 0;
        }
    }
}

// sums += a[.][k] b[k] for k from 0 to count; of the rows a the elements at each k are `a_stride` apart
template <class T, int R, int B, int V>
CGRU_INLINE void multiply(typename Vector<T>::Value (&sums)[R][B][V], const T* const (&a)[R], const T* const (&b)[B],
                          int64_t a_stride, int64_t count) {
    typedef typename Vector<T>::Value Value;
    for (int64_t k = 0; k < count; ++k) {
        Value w[B][V];
        CGRU_UNROLL for (int p = 0; p < B; ++p)
            CGRU_UNROLL for (int v = 0; v < V; ++v) w[p][v] = load<T>(b[p] + (k * V + v) * Vector<T>::lanes);
        CGRU_UNROLL for (int r = 0; r < R; ++r) {
            const Value x = broadcast<T>(a[r][k * a_stride]);
            CGRU_UNROLL for (int p = 0; p < B; ++p)
                CGRU_UNROLL for (int v = 0; v < V; ++v) sums[r][p][v] = fma(w[p][v], x, sums[r][p][v]);
        }
    }
}

// V vectors of a row's columns from `first` on: sums added to the row, or, not `add`, written to it. Columns end at
// `count`.
template <class T, int V>
CGRU_INLINE void finish(const typename Vector<T>::Value (&sums)[V], T* row, int64_t first, int64_t count, bool add) {
    const int lanes = Vector<T>::lanes;
    CGRU_UNROLL for (int v = 0; v < V; ++v) {
        T* at = row + first + v * lanes;
        const int64_t left = count - first - v * lanes;
        if (left >= lanes)
            store<T>(at, add ? load<T>(at) + sums[v] : sums[v]);
        else if (left > 0)
            store<T>(at, add ? load<T>(at, left) + sums[v] : sums[v], left);
    }
}

// A tile of R rows by B panels of V vectors.
template <class T, int R, int B, int V>
static void product_tile(const Panels<T>& matrix, const Columns<T>& columns, int64_t panel, const Product<T>& call,
                         int64_t row) {
    typedef typename Vector<T>::Value Value;
    const T* a[R];
    const T* b[B];
    Value sums[R][B][V];
    CGRU_UNROLL for (int r = 0; r < R; ++r) {
        a[r] = call.a[row + r];
        CGRU_UNROLL for (int p = 0; p < B; ++p)
            CGRU_UNROLL for (int v = 0; v < V; ++v) sums[r][p][v] = Value{};
    }
    const int64_t first = columns.start(panel) * Vector<T>::lanes;
    CGRU_UNROLL for (int p = 0; p < B; ++p) b[p] = matrix.values + (first + p * V * Vector<T>::lanes) * matrix.inner;
    multiply<T, R, B, V>(sums, a, b, 1, matrix.inner);
    CGRU_UNROLL for (int r = 0; r < R; ++r)
        CGRU_UNROLL for (int p = 0; p < B; ++p)
            finish<T, V>(sums[r][p], call.c[row + r], first + p * V * Vector<T>::lanes, columns.count, call.add != 0);
}

// All rows by B panels of V vectors. A full tile's sums fill the registers; fewer rows may have more panels.
template <class T, int B, int V>
static void product_panels(const Panels<T>& matrix, const Columns<T>& columns, int64_t panel, const Product<T>& call) {
    int64_t row = 0;
    if (B == 1)
        for (; row + tile_rows <= call.rows; row += tile_rows)
            product_tile<T, tile_rows, 1, V>(matrix, columns, panel, call, row);
    if (B == 1)
        for (; row + 4 <= call.rows; row += 4) product_tile<T, 4, 1, V>(matrix, columns, panel, call, row);
    for (; row + 2 <= call.rows; row += 2) product_tile<T, 2, B, V>(matrix, columns, panel, call, row);
    if (row < call.rows) product_tile<T, 1, B, V>(matrix, columns, panel, call, row);
}

template <class T> static void product(const Panels<T>& matrix, const Product<T>& call) {
    const Columns<T> columns(matrix.outer);
    const bool few = call.rows < 4;
    for (int64_t done = 0; done < columns.panels;) {
        int64_t panel = call.downwards ? columns.panels - 1 - done : done;
        const int64_t next = call.downwards ? panel - 1 : panel + 1;
        const int width = columns.width(panel);
        const bool pair = few && done + 1 < columns.panels && columns.width(next) == width;
        if (call.downwards && pair) panel = next;
        if (pair)
            (width == 3 ? product_panels<T, 2, 3> : product_panels<T, 2, 2>)(matrix, columns, panel, call);
        else
            (width == 3 ? product_panels<T, 1, 3> : width == 2 ? product_panels<T, 1, 2> : product_panels<T, 1, 1>)(
                matrix, columns, panel, call);
        done += pair ? 2 : 1;
    }
}

// Rows laid out for an outer product, as the rows of a matrix would be: [panels][rows][vectors][lanes].
template <class T> static int64_t rows_size(int64_t rows, int64_t columns) { return panels_size<T>(rows, columns); }

template <class T> static void lay_out(const T* const* rows, int64_t count, int64_t column_count, T* to) {
    const Columns<T> columns(column_count);
    const int lanes = Vector<T>::lanes;
    for (int64_t i = 0; i < count; ++i)  // row by row, as they lie in memory
        for (int64_t panel = 0; panel < columns.panels; ++panel) {
            const int64_t first = columns.start(panel) * lanes, width = columns.width(panel) * lanes;
            T* at = to + first * count + i * width;
            for (int64_t n = first; n < first + width; n += lanes, at += lanes) {
                const int64_t left = columns.count - n;
                store<T>(at, left >= lanes ? load<T>(rows[i] + n) : load<T>(rows[i] + n, left));
            }
        }
}

// Room for tile_rows columns of a, [rows][tile_rows].
template <class T> static int64_t outer_memory(int64_t rows) { return tile_rows * rows; }

template <class T, int V>
static void outer_tile(const OuterProduct<T>& call, const OuterOperand<T>& operand, int64_t first, int64_t m) {
    typename Vector<T>::Value sums[tile_rows][1][V];
    const T* a[tile_rows];
    CGRU_UNROLL for (int r = 0; r < tile_rows; ++r) {
        a[r] = call.memory + r;
        CGRU_UNROLL for (int v = 0; v < V; ++v) sums[r][0][v] = typename Vector<T>::Value{};
    }
    const T* b[1] = {operand.rows + first * call.rows};
    multiply<T, tile_rows, 1, V>(sums, a, b, tile_rows, call.rows);
    CGRU_UNROLL for (int r = 0; r < tile_rows; ++r)
        if (m + r < call.last)
            finish<T, V>(sums[r][0], operand.c + (m + r) * operand.columns, first, operand.columns, true);
}

template <class T> static void outer_product(const OuterProduct<T>& call) {
    for (int64_t m = call.first; m < call.last; m += tile_rows) {
        const int64_t valid = call.last - m < tile_rows ? call.last - m : tile_rows;
        for (int64_t i = 0; i < call.rows; ++i) {
            const T* from = call.a[i] + m;
            prefetch(from + 64 / sizeof(T));
            if (valid == tile_rows)
                memcpy(call.memory + i * tile_rows, from, tile_rows * sizeof(T));
            else
                for (int64_t r = 0; r < tile_rows; ++r)
                    call.memory[i * tile_rows + r] = r < valid ? from[r] : T(0);
        }
        for (int i = 0; i < 2; ++i) {
            const Columns<T> columns(call.of[i].columns);
            for (int64_t panel = 0; panel < columns.panels; ++panel) {
                const int64_t first = columns.start(panel) * Vector<T>::lanes;
                const int width = columns.width(panel);
                (width == 3 ? outer_tile<T, 3> : width == 2 ? outer_tile<T, 2> : outer_tile<T, 1>)(
                    call, call.of[i], first, m);
            }
        }
    }
}

}  // namespace CGRU_SET
}  // namespace cgru

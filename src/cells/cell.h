// Cells as data: what a step of each consists of. The loops over time and the layouts follow this table; the arithmetic
// of a cell is in a file of its own beside this one.
//
// A step is made of phases. A phase multiplies some gates' recurrent weights by an operand and computes with the
// products: the first one's operand is the state, the second one's r * h of all units, which the first has computed.
#pragma once

#include <stdint.h>

namespace cgru {

// Functions of gates and candidates, in the order of cgru/model/activations.py.
enum {
    activation_tanh,
    activation_sigmoid,
    activation_relu,
    activation_hard_sigmoid,
    activation_softsign,
    activation_softplus,
    activation_elu,
    activation_leaky_relu,
    activation_thresholded_relu,
    activation_scaled_tanh,
    activation_affine,
    activation_linear,
    activation_g
};

enum { cell_gru_before, cell_gru_after, cell_mingru, cell_count };

const int most_phases = 2, most_outer = 3;

struct Phase {
    int first, gates;  // those of the recurrent weights that it multiplies; none: 0
    int rolled;        // on the way back so many of their gradients, the last ones, stand before the others
};

// Gradients of weights: outer products of `gates` gradients by arguments with what the weights met.
struct Outer {
    int kept, gates;       // where the gradients are among the values kept
    int input, recurrent;  // the gate whose weights are the first; -1: none
    int operand;           // of the recurrent weights: the state; or what was kept there as value 0
};
enum { operand_state, operand_kept };

struct Cell {
    const char* name;  // by which Python's layers know it (cgru/model/layer.py)
    int gates;         // of the input weights: rows over H
    int biases;        // rows (H,) of the bias: those of the gates, and behind them others
    int kept;          // values a unit and step that a recording keeps, of which the last are the gates'
    int usual, flip;   // the candidate's function, and the flip, of the layer whose functions are compiled in
    int phases;
    Phase phase[most_phases];
    Outer outer[most_outer];  // with 0 gates: no more
};

const Cell cells[cell_count] = {
    // r, z from h; then n from r * h. Kept: r * h, r, z, n.
    {"gru_before", 3, 4, 4, activation_tanh, 0, 2, {{0, 2, 0}, {2, 1, 0}},
     {{1, 2, 0, 0, operand_state}, {3, 1, 2, 2, operand_kept}}},
    // r, z, n from h. Kept: u = U_n h + c_n, r, z, n.
    {"gru_after", 3, 4, 4, activation_tanh, 0, 1, {{0, 3, 1}},
     {{1, 2, 0, 0, operand_state}, {3, 1, 2, -1, operand_state}, {0, 1, -1, 2, operand_state}}},
    // z, n from x alone. Kept: z, n.
    {"mingru", 2, 2, 2, activation_g, 1, 1, {{0, 0, 0}}, {{0, 2, 0, -1, operand_state}}},
};

// Rows of the recurrent weights over H. (Static, as what follows: see `is_usual` in kernels.h.)
static inline int recurrent_gates(const Cell& cell) {
    int sum = 0;
    for (int p = 0; p < cell.phases; ++p) sum += cell.phase[p].gates;
    return sum;
}

// The weights of a layer.
static inline double weights_of(const Cell& cell, int64_t inputs, int64_t hidden) {
    return double(hidden) * (cell.gates * double(inputs) + recurrent_gates(cell) * double(hidden));
}

// The flops of their products with so many rows of inputs and states.
static inline double flops_of(const Cell& cell, int64_t inputs, int64_t hidden, double rows) {
    return 2 * rows * weights_of(cell, inputs, hidden);
}

}  // namespace cgru

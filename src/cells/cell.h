// Cells as data: what a step of each consists of. The loops over time and the layouts follow this table.
//
// A step is made of phases. A phase multiplies some gates' recurrent weights by an operand and computes with the
// products: the first one's operand is the state, the second one's r * h of all units, which the first has computed.
#pragma once

namespace cgru {

enum { cell_gru_before, cell_gru_after, cell_count };  // the reset gate before the product, or after it

const int most_phases = 2;

struct Phase {
    int first, gates;  // of the gates r, z, n, those whose recurrent product it takes
};

struct Cell {
    int phases;
    Phase phase[most_phases];
};

const Cell cells[cell_count] = {
    {2, {{0, 2}, {2, 1}}},  // r, z; then n
    {1, {{0, 3}, {0, 0}}},  // r, z, n
};

}  // namespace cgru

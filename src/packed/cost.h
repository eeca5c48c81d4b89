// How long a step of a recurrent layer takes on one thread, by what the machine was measured to do: by that engines
// compare ways of sharing.
#pragma once

#include "kernels.h"

namespace cgru {

struct StepSeconds {
    double inputs, recurrent;
};

// Of some rows. The input product, and the recurrent one of many rows, run at the rate of arithmetic; the recurrent
// weights of a few rows as fast as they are read.
inline StepSeconds step_seconds(const PackedKernels& kernels, const Machine& m, const PackedLayer& layer, double rows) {
    const Cell& cell = cells[layer.cell];
    const double hidden = double(layer.hidden), weights = recurrent_gates(cell) * hidden * hidden;
    const StorageKernels& storage = kernels.of[layer.storage];
    const double flops = m.flops * storage.rate;
    const double arithmetic = 2 * weights * rows / flops;
    const double reading = rows < double(kernels.tile_rows) ? (rows + 1) / 2 * weights * storage.bytes / m.bytes : 0;
    const double inputs = 2 * cell.gates * rows * hidden * double(layer.inputs) / flops;
    return {inputs, arithmetic > reading ? arithmetic : reading};
}

}  // namespace cgru

// The gated recurrent unit on a GPU: all kernels, one text, compiled when first used.
//
// It is compiled once per pair of types: REAL is float or double, what everything is computed in; STORED is what the
// recurrent weights of the fused kernels lie in: Real, Half or Bfloat. No header is needed. The same text is compiled
// for the processor by the tests (tests/cuda/cuda_on_cpu.cpp), which run it thread by thread.
//
//   r = f(W_r x + U_r h + b_r)      z = f(W_z x + U_z h + b_z)
//   after:   n = g(W_n x + b_n + r * (U_n h + c_n))
//   before:  n = g(W_n x + b_n + U_n (r * h))             (c_n is part of b_n)
//   h' = z h + (1 - z) n
//
// Every kernel takes one structure, whose twin is in arguments.py. Shapes: T steps, B sequences, H hidden units.

typedef long long Long;
typedef REAL Real;

#ifndef SHARED_MEMORY  // what a block's threads share; its size is given at the launch
#define SHARED_MEMORY(name) extern __shared__ __align__(16) unsigned char name[]
#endif

// ---------------------------------------------------------------------------------------------------------------------
// Weights of 16 bits

struct Half {  // finite values of float16
    unsigned short bits;
};
struct Bfloat {
    unsigned short bits;
};

__device__ __forceinline__ Real widened(Real value) { return value; }
__device__ __forceinline__ float widened(Bfloat value) { return __uint_as_float((unsigned)value.bits << 16); }
__device__ __forceinline__ float widened(Half value) {
    const float scale = 5.192296858534828e33f;  // 2^112: from float16's exponents to float32's, subnormal ones too
    const float size = __uint_as_float((unsigned)(value.bits & 0x7fff) << 13) * scale;
    return value.bits & 0x8000 ? -size : size;
}

typedef STORED Stored;

// ---------------------------------------------------------------------------------------------------------------------
// Activations: codes and formulas are those of cgru/activations.py. Comparisons let NaN through.

struct Function {
    int code;
    double alpha, beta, clip;  // clip bounds the argument to [-clip, clip]
};

enum {
    TANH, SIGMOID, RELU, HARD_SIGMOID, SOFTSIGN, SOFTPLUS, ELU, LEAKY_RELU, THRESHOLDED_RELU, SCALED_TANH, AFFINE,
    LINEAR, POSITIVE
};

__device__ __forceinline__ Real sigmoid(Real x) { return Real(1) / (Real(1) + exp(-x)); }

__device__ __forceinline__ Real bounded(const Function& f, Real x) {
    const Real clip = Real(f.clip);
    x = x > clip ? clip : x;
    return x < -clip ? -clip : x;
}

__device__ Real rare_value(const Function& f, Real x) {
    const Real alpha = Real(f.alpha), beta = Real(f.beta);
    switch (f.code) {
        case RELU: return x < Real(0) ? Real(0) : x;
        case HARD_SIGMOID: {
            const Real line = alpha * x + beta;
            return line < Real(0) ? Real(0) : line > Real(1) ? Real(1) : line;
        }
        case SOFTSIGN: return x / (Real(1) + fabs(x));
        case SOFTPLUS: return (x < Real(0) ? Real(0) : x) + log1p(exp(-fabs(x)));
        case ELU: return x > Real(0) ? x : alpha * expm1(x);
        case LEAKY_RELU: return x < Real(0) ? alpha * x : x;
        case THRESHOLDED_RELU: return x <= alpha ? Real(0) : x;
        case SCALED_TANH: return alpha * tanh(beta * x);
        case AFFINE: return alpha * x + beta;
        case POSITIVE: return x < Real(0) ? sigmoid(x) : x + Real(0.5);
        default: return x;
    }
}

__device__ __forceinline__ Real value(const Function& f, Real x) {
    x = bounded(f, x);
    if (f.code == TANH) return tanh(x);
    if (f.code == SIGMOID) return sigmoid(x);
    return rare_value(f, x);
}

// The derivative at x of a function whose value there is y; at a corner the one of the flat side.
__device__ Real derivative(const Function& f, Real x, Real y) {
    const Real alpha = Real(f.alpha), beta = Real(f.beta), clip = Real(f.clip);
    if (x > clip || x < -clip) return Real(0);
    switch (f.code) {
        case TANH: return Real(1) - y * y;
        case SIGMOID: return y * (Real(1) - y);
        case RELU: return x > Real(0) ? Real(1) : Real(0);
        case HARD_SIGMOID: return y > Real(0) && y < Real(1) ? alpha : Real(0);
        case SOFTSIGN: return Real(1) / ((Real(1) + fabs(x)) * (Real(1) + fabs(x)));
        case SOFTPLUS: return sigmoid(x);
        case ELU: return x > Real(0) ? Real(1) : y + alpha;
        case LEAKY_RELU: return x > Real(0) ? Real(1) : alpha;
        case THRESHOLDED_RELU: return x > alpha ? Real(1) : Real(0);
        case SCALED_TANH: {
            const Real t = tanh(beta * x);
            return alpha * beta * (Real(1) - t * t);
        }
        case AFFINE: return alpha;
        case POSITIVE: return x < Real(0) ? y * (Real(1) - y) : Real(1);
        default: return Real(1);
    }
}

// ---------------------------------------------------------------------------------------------------------------------
// The new state, and what it takes of the state and of the candidate. Each of the two is weighed by itself:
// n + z (h - n) would be shorter, but loses h beside a huge n, where z is 1 too.

struct Shares {
    Real state, candidate;

    __device__ __forceinline__ Shares(Real z, int flip)
        : state(flip ? Real(1) - z : z), candidate(flip ? z : Real(1) - z) {}
};

__device__ __forceinline__ Real new_state(const Shares& shares, Real state, Real candidate) {
    return shares.state * state + shares.candidate * candidate;
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward

struct Forward {
    Real* input;            // W x; step t, row b, gate g, unit j: t * input_step + b * input_row + g * H + j.
                            // While recording, the arguments of the three functions take its place.
    const Real* bias;       // (4, H): b_r, b_z, b_n, c_n
    Real* state;            // (B, H): h; h' on return
    Real* output;           // step t, row b, unit j: t * output_step + b * output_row + j * output_unit
    Real* product;          // by steps: (B, 3H) U h, or (B, 2H) of it with the reset gate before the product
    Real* candidate;        // by steps, before: (B, H) U_n (r * h)
    Real* reset_state;      // by steps, before: (B, H) r * h
    Real* update;           // by steps, before: (B, H) z
    const Stored* weights;  // fused: (K, 3H) U transposed, K being H rounded up to fours, with rows of zeros
    Real* states;           // recording: (T, B, H) h before every step; else null
    Real* kept;             // recording: (T, B, H) U_n h + c_n, or r * h
    const Long* lengths;    // (B,) steps of each sequence, or null
    Long input_step, input_row, output_step, output_row, output_unit;
    int steps;       // fused: how many steps, from the first or, in reverse, from the last
    int step;        // by steps: which one
    int reverse, batch, hidden;
    int flip;        // z weighs the candidate
    Function gate, function;
};

// One unit of one sequence at one step: where its numbers lie.
struct Cell {
    const Forward& f;
    const int row, unit, step;

    __device__ Cell(const Forward& f, int row, int unit, int step) : f(f), row(row), unit(unit), step(step) {}

    __device__ __forceinline__ bool runs() const { return f.lengths == 0 || step < f.lengths[row]; }
    __device__ __forceinline__ Real* input(int gate) const {
        return f.input + step * f.input_step + row * f.input_row + gate * (Long)f.hidden + unit;
    }
    __device__ __forceinline__ Long at() const { return (Long)row * f.hidden + unit; }              // in (B, H)
    __device__ __forceinline__ Long at_step() const { return step * ((Long)f.batch * f.hidden) + at(); }  // (T, B, H)
    __device__ __forceinline__ Real bias(int gate) const { return f.bias[gate * f.hidden + unit]; }

    __device__ __forceinline__ void write(Real h) const {
        Real* y = f.output + step * f.output_step + row * f.output_row + unit * f.output_unit;
        *y = h;
    }
    __device__ __forceinline__ void record_gates(Real h, Real a_r, Real a_z, Real kept) const {
        if (f.states == 0) return;
        f.states[at_step()] = h;
        f.kept[at_step()] = kept;
        *input(0) = a_r;
        *input(1) = a_z;
    }
    __device__ __forceinline__ void record_candidate(Real a_n) const {
        if (f.states) *input(2) = a_n;
    }
    // h' from the arguments of the update gate and the candidate
    __device__ __forceinline__ Real next(Real h, Real z, Real a_n) const {
        const Real n = value(f.function, a_n);
        return new_state(Shares(z, f.flip), h, n);
    }
    // With the reset gate after the product, from U h of the three gates.
    __device__ __forceinline__ Real after(Real h, Real u_r, Real u_z, Real u_n) const {
        const Real a_r = *input(0) + bias(0) + u_r, a_z = *input(1) + bias(1) + u_z, product = u_n + bias(3);
        const Real a_n = *input(2) + bias(2) + value(f.gate, a_r) * product;
        record_gates(h, a_r, a_z, product);
        record_candidate(a_n);
        return next(h, value(f.gate, a_z), a_n);
    }
};

// A sequence that has ended keeps its state, gives 0, and leaves zeros in a tape.
__device__ __forceinline__ void rest(const Cell& cell, Real h) {
    cell.write(Real(0));
    cell.record_gates(h, Real(0), Real(0), Real(0));
    cell.record_candidate(Real(0));
}

// The cells of a step, one for each thread; a kernel's thread beyond them does nothing.
#define CELL_OF_THREAD(f)                                               \
    const Long index = (Long)blockIdx.x * blockDim.x + threadIdx.x;     \
    if (index >= (Long)(f).batch * (f).hidden) return;                  \
    const int row = (int)(index / (f).hidden), unit = (int)(index % (f).hidden)

extern "C" __global__ void __launch_bounds__(256) step_after(const Forward f) {
    CELL_OF_THREAD(f);
    const Cell cell(f, row, unit, f.step);
    const Real h = f.state[index];
    if (!cell.runs()) return rest(cell, h);
    const Real* u = f.product + row * (3 * (Long)f.hidden) + unit;
    const Real next = cell.after(h, u[0], u[f.hidden], u[2 * f.hidden]);
    f.state[index] = next;
    cell.write(next);
}

extern "C" __global__ void __launch_bounds__(256) step_before_gates(const Forward f) {
    CELL_OF_THREAD(f);
    const Cell cell(f, row, unit, f.step);
    const Real* u = f.product + row * (2 * (Long)f.hidden) + unit;
    const Real a_r = *cell.input(0) + cell.bias(0) + u[0], a_z = *cell.input(1) + cell.bias(1) + u[f.hidden];
    const Real h = f.state[index], reset_state = value(f.gate, a_r) * h;
    f.reset_state[index] = reset_state;
    f.update[index] = value(f.gate, a_z);
    if (cell.runs()) cell.record_gates(h, a_r, a_z, reset_state);
}

extern "C" __global__ void __launch_bounds__(256) step_before_state(const Forward f) {
    CELL_OF_THREAD(f);
    const Cell cell(f, row, unit, f.step);
    const Real h = f.state[index];
    if (!cell.runs()) return rest(cell, h);
    const Real a_n = *cell.input(2) + cell.bias(2) + f.candidate[index];
    cell.record_candidate(a_n);
    const Real next = cell.next(h, f.update[index], a_n);
    f.state[index] = next;
    cell.write(next);
}

// ---------------------------------------------------------------------------------------------------------------------
// Forward, fused: all steps in one launch. A block owns some sequences, a thread one unit of `rows` of them; the states
// lie in shared memory, the weights too where `resident`, else they are read anew at every step, from the L2 cache.
//
// Block: x units, rounded up to whole warps, at least K; y groups of `rows` sequences. Shared memory: two tiles of
// states, (groups * rows, K) each, then (K, 3H) weights. Columns from H to K hold zeros.

struct __align__(16) Four {
    Real at[4];
};

// sum[g][r] += U_g h_r, from `weights` of this thread's unit and the first of the gates
template <int gates, int rows>
__device__ __forceinline__ void add_products(Real (&sum)[gates][rows], const Real* states, const Stored* weights,
                                             int depth, int hidden) {
    for (int k = 0; k < depth; k += 4) {
        Four h[rows];
#pragma unroll
        for (int r = 0; r < rows; ++r) h[r] = *(const Four*)(states + r * depth + k);
#pragma unroll
        for (int q = 0; q < 4; ++q)
#pragma unroll
            for (int g = 0; g < gates; ++g) {
                const Real weight = widened(weights[((k + q) * 3 + g) * hidden]);
#pragma unroll
                for (int r = 0; r < rows; ++r) sum[g][r] += weight * h[r].at[q];
            }
    }
}

// A thread's unit of its group's sequences: `now` and `other` are the group's part of the two tiles.
template <int rows> struct Tile {
    const Forward& f;
    const int depth, unit, first;

    __device__ Tile(const Forward& f)
        : f(f), depth((f.hidden + 3) / 4 * 4), unit(threadIdx.x),
          first((blockIdx.x * blockDim.y + threadIdx.y) * rows) {}

    __device__ __forceinline__ bool holds(int r) const { return unit < f.hidden && first + r < f.batch; }
    __device__ __forceinline__ int at(int r) const { return r * depth + unit; }

    __device__ void load(Real* now, Real* other) const {
        if (unit >= depth) return;
        for (int r = 0; r < rows; ++r) {
            now[at(r)] = holds(r) ? f.state[(first + r) * (Long)f.hidden + unit] : Real(0);
            other[at(r)] = Real(0);
        }
    }
    __device__ void store(const Real* now) const {
        for (int r = 0; r < rows; ++r)
            if (holds(r)) f.state[(first + r) * (Long)f.hidden + unit] = now[at(r)];
    }

    __device__ __forceinline__ void after(const Stored* weights, const Real* now, Real* next, int step) const {
        if (unit >= f.hidden) return;
        Real u[3][rows] = {};
        add_products<3, rows>(u, now, weights, depth, f.hidden);
#pragma unroll
        for (int r = 0; r < rows; ++r) {
            if (!holds(r)) continue;
            const Cell cell(f, first + r, unit, step);
            Real h = now[at(r)];
            if (cell.runs()) {
                h = cell.after(h, u[0][r], u[1][r], u[2][r]);
                cell.write(h);
            } else {
                rest(cell, h);
            }
            next[at(r)] = h;
        }
    }
    __device__ __forceinline__ void before_gates(const Stored* weights, const Real* now, Real* reset, Real (&z)[rows],
                                                 int step) const {
        if (unit >= f.hidden) return;
        Real u[2][rows] = {};
        add_products<2, rows>(u, now, weights, depth, f.hidden);
#pragma unroll
        for (int r = 0; r < rows; ++r) {
            if (!holds(r)) continue;
            const Cell cell(f, first + r, unit, step);
            const Real a_r = *cell.input(0) + cell.bias(0) + u[0][r], a_z = *cell.input(1) + cell.bias(1) + u[1][r];
            const Real h = now[at(r)], reset_state = value(f.gate, a_r) * h;
            reset[at(r)] = reset_state;
            z[r] = value(f.gate, a_z);
            if (cell.runs()) cell.record_gates(h, a_r, a_z, reset_state);
        }
    }
    __device__ __forceinline__ void before_state(const Stored* weights, Real* now, const Real* reset,
                                                 const Real (&z)[rows], int step) const {
        if (unit >= f.hidden) return;
        Real u[1][rows] = {};
        add_products<1, rows>(u, reset, weights + 2 * f.hidden, depth, f.hidden);
#pragma unroll
        for (int r = 0; r < rows; ++r) {
            if (!holds(r)) continue;
            const Cell cell(f, first + r, unit, step);
            Real h = now[at(r)];
            if (cell.runs()) {
                const Real a_n = *cell.input(2) + cell.bias(2) + u[0][r];
                cell.record_candidate(a_n);
                h = cell.next(h, z[r], a_n);
                cell.write(h);
            } else {
                rest(cell, h);
            }
            now[at(r)] = h;
        }
    }
};

template <int rows, bool resident, bool reset_after> __device__ __forceinline__ void fused(const Forward& f) {
    SHARED_MEMORY(memory);
    const Tile<rows> tile(f);
    const int numbers = blockDim.y * rows * tile.depth;  // of a tile of the whole block
    Real* now = (Real*)memory + threadIdx.y * rows * tile.depth;
    Real* other = now + numbers;
    const Stored* weights = f.weights;
    if (resident) {
        Stored* copy = (Stored*)((Real*)memory + 2 * numbers);
        const int threads = blockDim.x * blockDim.y;
        for (int i = threadIdx.y * blockDim.x + threadIdx.x; i < tile.depth * 3 * f.hidden; i += threads)
            copy[i] = weights[i];
        weights = copy;
    }
    weights += tile.unit;
    tile.load(now, other);
    __syncthreads();

    for (int i = 0; i < f.steps; ++i) {
        const int step = f.reverse ? f.steps - 1 - i : i;
        if (reset_after) {
            tile.after(weights, now, other, step);
            __syncthreads();  // the next states are complete, and these ones no longer read
            Real* const next = other;
            other = now;
            now = next;
        } else {
            Real z[rows];
            tile.before_gates(weights, now, other, z, step);
            __syncthreads();  // r * h is complete, and h no longer read
            tile.before_state(weights, now, other, z, step);
            __syncthreads();  // h' is complete, and r * h no longer read
        }
    }
    tile.store(now);
}

#define FUSED(name, rows, resident, reset_after)                                     \
    extern "C" __global__ void __launch_bounds__(512, 1) name(const Forward f) {        \
        fused<rows, resident, reset_after>(f);                                       \
    }
FUSED(fused_after_resident_1, 1, true, true)
FUSED(fused_after_resident_4, 4, true, true)
FUSED(fused_after_streamed_1, 1, false, true)
FUSED(fused_after_streamed_4, 4, false, true)
FUSED(fused_before_resident_1, 1, true, false)
FUSED(fused_before_resident_4, 4, true, false)
FUSED(fused_before_streamed_1, 1, false, false)
FUSED(fused_before_streamed_4, 4, false, false)

// ---------------------------------------------------------------------------------------------------------------------
// Backward: one step, from the last in the direction's order to the first. A gradient "to" something is the derivative
// of the loss by it.

struct Backward {
    const Real* arguments;         // (T, B, 3H) of the three functions, as recorded
    const Real* states;            // (T, B, H) h before every step
    const Real* kept;              // (T, B, H) U_n h + c_n, or r * h
    const Real* output_gradient;   // to y, with the output's strides; null: zero
    Real* state_gradient;          // (B, H) to h', without what came through the later step's product; to h on return,
                                   // likewise
    const Real* through;           // (B, H) what came through that product
    Real* input_gradient;          // (T, B, 3H) to the arguments, which is to W x
    Real* recurrent_gradient;      // (T, B, 3H) after: to U h
    Real* gate_gradient;           // (B, 2H) before: to the arguments of r and z
    Real* candidate_gradient;      // (B, H) before: to the argument of n
    const Real* reset_gradient;    // (B, H) before: to r * h
    const Long* lengths;           // (B,) or null
    Long output_step, output_row, output_unit;
    int step, batch, hidden, flip;
    Function gate, function;
};

// The gradients to one unit's state, update gate and candidate.
struct Slope {
    const Backward& f;
    const int row, unit;
    const Long at, at_step;

    __device__ Slope(const Backward& f, int row, int unit, Long index)
        : f(f), row(row), unit(unit), at(index), at_step(f.step * ((Long)f.batch * f.hidden) + index) {}

    __device__ bool runs() const { return f.lengths == 0 || f.step < f.lengths[row]; }
    __device__ Long gate_at(int gate) const {
        return (f.step * (Long)f.batch + row) * 3 * f.hidden + gate * f.hidden + unit;
    }
    __device__ Real argument(int gate) const { return f.arguments[gate_at(gate)]; }
    // to h', all of it
    __device__ Real incoming() const {
        const Real carried = f.state_gradient[at] + f.through[at];
        if (f.output_gradient == 0 || !runs()) return carried;
        return carried + f.output_gradient[f.step * f.output_step + row * f.output_row + unit * f.output_unit];
    }
    // to the arguments of z and n, and the part of the gradient to h that does not come through a product
    __device__ void split(Real gradient, Real& to_z, Real& to_n, Real& to_h) const {
        const Real a_z = argument(1), a_n = argument(2), h = f.states[at_step];
        const Real z = value(f.gate, a_z), n = value(f.function, a_n);
        const Shares shares(z, f.flip);
        const Real to_weight = gradient * (h - n);
        to_z = (f.flip ? -to_weight : to_weight) * derivative(f.gate, a_z, z);
        to_n = gradient * shares.candidate * derivative(f.function, a_n, n);
        to_h = gradient * shares.state;
    }
};

extern "C" __global__ void __launch_bounds__(256) gradient_after(const Backward f) {
    CELL_OF_THREAD(f);
    const Slope slope(f, row, unit, index);
    const Real incoming = slope.incoming();
    Real to_r = 0, to_z = 0, to_n = 0, to_product = 0, to_h = incoming;
    if (slope.runs()) {
        slope.split(incoming, to_z, to_n, to_h);
        const Real a_r = slope.argument(0), r = value(f.gate, a_r);
        to_r = to_n * f.kept[slope.at_step] * derivative(f.gate, a_r, r);
        to_product = to_n * r;
    }
    f.state_gradient[index] = to_h;
    f.input_gradient[slope.gate_at(0)] = f.recurrent_gradient[slope.gate_at(0)] = to_r;
    f.input_gradient[slope.gate_at(1)] = f.recurrent_gradient[slope.gate_at(1)] = to_z;
    f.input_gradient[slope.gate_at(2)] = to_n;
    f.recurrent_gradient[slope.gate_at(2)] = to_product;
}

extern "C" __global__ void __launch_bounds__(256) gradient_before_state(const Backward f) {
    CELL_OF_THREAD(f);
    const Slope slope(f, row, unit, index);
    const Real incoming = slope.incoming();
    Real to_z = 0, to_n = 0, to_h = incoming;
    if (slope.runs()) slope.split(incoming, to_z, to_n, to_h);
    f.state_gradient[index] = to_h;
    f.candidate_gradient[index] = to_n;
    f.gate_gradient[row * (2 * (Long)f.hidden) + f.hidden + unit] = to_z;
    f.input_gradient[slope.gate_at(1)] = to_z;
    f.input_gradient[slope.gate_at(2)] = to_n;
}

extern "C" __global__ void __launch_bounds__(256) gradient_before_gates(const Backward f) {
    CELL_OF_THREAD(f);
    const Slope slope(f, row, unit, index);
    Real to_r = 0;
    if (slope.runs()) {
        const Real a_r = slope.argument(0), r = value(f.gate, a_r), to_reset_state = f.reset_gradient[index];
        to_r = to_reset_state * f.states[slope.at_step] * derivative(f.gate, a_r, r);
        f.state_gradient[index] += to_reset_state * r;
    }
    f.gate_gradient[row * (2 * (Long)f.hidden) + unit] = to_r;
    f.input_gradient[slope.gate_at(0)] = to_r;
}

// What the compiled kernels offer to the Cython modules: plain structures and one table of functions per instruction
// set. `kernels()` gives the table of the best set that this machine can run.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace cgru {

// In the order of cgru/activations.py.
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
    activation_linear
};

struct Activation {
    int code;
    double alpha, beta;
    double clip;  // bounds the argument to [-clip, clip]; infinity where there is no clip
};

// One step of a batch after its products, laid out as BLAS leaves it: lines of values side by side.
//
//   many sequences:  a line is one unit of all sequences;   H lines of B values, of which the first `width` still run
//   one sequence:    a line is all units of the sequence;   one line of H values
//
// Every array holds its lines at one stride, and the three gates r, z, n one after the other.
template <class T> struct GateStep {
    int64_t lines, width;
    int single;                 // 1: one sequence; bias is read along the line and not once a line
    const T* input;             // W x without bias, three gates; read
    int64_t input_line, input_gate;
    T* recurrent;               // U h without bias, three gates; read, and the room of z while U (r * h) is computed
    int64_t recurrent_gate;
    T* state;                   // h on entry, h' on return
    T* reset_state;             // r * h, if reset before the product; written
    int64_t line;               // stride of lines in recurrent, state and reset_state
    const T* bias;              // [4][H]: r, z, candidate's input part, candidate's recurrent part
    int64_t bias_gate;          // H
    Activation gate, candidate;
    int flip;                   // 1: z weighs the candidate and not the state
};

// The functions of one instruction set. Each step function works on the lines [first, last).
template <class T> struct GateKernels {
    void (*reset_after)(const GateStep<T>&, int64_t first, int64_t last);    // gates, candidate and state at once
    void (*reset_before)(const GateStep<T>&, int64_t first, int64_t last);   // r and z; leaves r * h and z
    void (*update_state)(const GateStep<T>&, int64_t first, int64_t last);   // candidate and state, after U (r * h)
    void (*activate)(const Activation&, const T* x, T* y, int64_t count);    // y = f(x)
};

struct Kernels {
    const char* name;
    GateKernels<float> single;
    GateKernels<double> twice;
};

// The table in use: CGRU_ISA's if that is set, else the best this machine runs. Null if CGRU_ISA names none of those.
const Kernels* kernels();
// The names of the sets this machine can run, best first: "avx2 sse2 plain".
const char* runnable_sets();

// The thread's floating-point mode with denormal numbers read and written as zero, while an object of this class lives.
class FlushDenormals {
  public:
    FlushDenormals();
    ~FlushDenormals();

  private:
    uint64_t saved;
};

}  // namespace cgru

// What the compiled kernels offer to the Cython modules: plain structures and one table of functions per instruction
// set. `kernels()` gives the table of the best set that this machine can run.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "cells/cell.h"
#include "nodes/node.h"

namespace cgru {

struct Activation {
    int code;
    double alpha, beta;
    double clip;  // bounds the argument to [-clip, clip]; infinity where there is no clip
};

// Whether a layer has the functions that are compiled into its cell's loops: for the GRU sigmoid, tanh, no clip, no
// flip. (Static, as every function that files of an instruction set see: no set's code may be handed to another.)
static inline bool is_usual(const Cell& cell, const Activation& gate, const Activation& candidate, int flip) {
    return gate.code == activation_sigmoid && candidate.code == cell.usual && flip == cell.flip && gate.clip > 1e300 &&
           candidate.clip > 1e300;
}

// One step of a batch after its products, laid out as BLAS leaves it: lines of values side by side.
//
//   many sequences:  a line is one unit of all sequences;   H lines of B values, of which the first `width` still run
//   one sequence:    a line is all units of the sequence;   one line of H values
//
// Every array holds its lines at one stride, and the gates one after the other.
template <class T> struct GateStep {
    int64_t lines, width;
    int one_sequence;           // 1: one sequence; bias is read along the line and not once a line
    const T* input;             // W x without bias, all gates; read
    int64_t input_line, input_gate;
    T* recurrent;               // U h without bias, by gates; read, and the room of z while U (r * h) is computed
    int64_t recurrent_gate;
    T* state;                   // h on entry, h' on return
    T* reset_state;             // r * h, if reset before the product; written
    int64_t line;               // stride of lines in recurrent, state and reset_state
    const T* bias;              // [biases][H]
    int64_t bias_gate;          // H
    Activation gate, candidate;
    int flip;                   // 1: z weighs the candidate and not the state
    int usual;                  // `is_usual`
};

// The functions of one instruction set. Those of a cell's phases work on the lines [first, last), behind the phase's
// product: with one phase from gates to state; with two the first leaves r * h and z.
template <class T> struct GateKernels {
    void (*of[cell_count][most_phases])(const GateStep<T>&, int64_t first, int64_t last);
    void (*activate)(const Activation&, const T* x, T* y, int64_t count);    // y = f(x)
};

// Numbers of weights in memory. The kernels widen halves to float32, which is exact, and compute in that; int8 ones,
// and bfloat16 ones for products, meet inputs and states that were made such numbers, too (src/storage).
enum {
    storage_float32,
    storage_bfloat16,
    storage_float16,
    storage_int8,
    storage_bfloat16_products,
    storage_sparse_float32,
    storage_sparse_int8,
    storage_count
};

// The weights of a matrix (gates * H, K).
struct CanonicalMatrix {
    const void* numbers;             // contiguous: float, int8_t, or 16 bits of float16 or bfloat16, by the storage
    const float* scale;              // [gates * H], of int8: w = scale * number
    float limit;                     // of int8: what inputs, or states, are clipped to; infinity: nothing
};

// A layer as it is given to be packed.
struct CanonicalLayer {
    int64_t inputs, hidden;          // I, H
    int storage;                     // how the numbers of both matrices are stored
    CanonicalMatrix input, recurrent;
    const float* bias;               // [biases][H]: those of the gates; of a GRU then n's recurrent part
    int cell;                        // of cells/cell.h
    Activation gate, candidate;
    int flip;
};

// The same for the packed engine; how its arrays lie is written in packed/layout.h.
struct PackedMatrix {
    const void* weights;
    const float* scale;              // of int8
    const int32_t* start;            // of int8: what integer sums start from
    const int32_t *lists, *columns;  // of sparse ones: where each list of blocks begins; blocks' first inputs
    float limit;
};

struct PackedLayer {
    int64_t inputs, hidden;          // I, H
    int64_t blocks;                  // of `lanes` units each; units beyond H are zero
    int storage;
    PackedMatrix input, recurrent;
    const float* bias;               // of the gates: r, z, n's input part
    const float* recurrent_bias;     // n's recurrent part; of cells that have one
    int cell;
    Activation gate, candidate;
    int flip;
    int usual;                       // `is_usual`
};

// Rows of inputs or states as int8 and bfloat16 kernels multiply them; written by the kernels that read them.
struct NarrowRows {
    uint8_t* bytes;                  // of int8 offset as the kernels need it; behind a row there may be any
    float* scales;                   // [rows], of int8; NaN where a number of the row is not finite
    int64_t stride;                  // of bytes
};

// Rows [first_row, last_row) by blocks [first_block, last_block) of one step, or of many steps' input products.
// Rows of state, next, reset_state and update hold blocks * lanes values and lie at one stride.
struct PackedStep {
    const float* const* x;           // [rows] addresses of inputs (I,); read
    float* products;                 // rows of [blocks][gates][lanes]: bias + W x; written by the input product
    const float* state;              // h; read
    float* next;                     // h'; written, another array than state
    int64_t stride;
    float* reset_state;              // r * h, reset before the product
    float* update;                   // z, reset before the product
    float* const* y;                 // [rows] addresses of outputs (H,); written
    int64_t first_row, last_row, first_block, last_block;
    int downwards;                   // the order of blocks
    NarrowRows narrow_x, narrow_state;
};

// The kernels of a cell's step: from x to the products, and from these, phase by phase, to the new state; or at once
// from x, where one phase sweeps the weights of both (else null).
typedef void (*PackedKernel)(const PackedLayer&, const PackedStep&);
struct PackedCellKernels {
    PackedKernel input_product;          // x -> products
    PackedKernel from_input;             // x, state -> next, y
    PackedKernel phase[most_phases];     // products, state -> next, y; with two, by way of reset_state and update
};

// Rows [first_row, last_row) by blocks [first_block, last_block) of a product with a matrix, which is the input weights
// of a layer that `pack_dense` has made.
struct DenseStep {
    const float* const* x;           // [rows] addresses of inputs; read
    float* const* y;                 // [rows] addresses of outputs; written
    int64_t outputs;                 // of a row: the last vector may be partly used
    int64_t first_row, last_row, first_block, last_block;
    int downwards;                   // the order of blocks
    int64_t pieces[2], distances[2], length;  // a row's inputs: a grid of pieces of so many numbers; pieces[0] 0: one
    int64_t x_next, y_next;          // of groups: how far inputs, and outputs, lie behind those of the group before
    NarrowRows narrow_x;
};

typedef void (*DenseKernel)(const PackedLayer&, const DenseStep&);

// The kernels for weights of one storage.
struct StorageKernels {
    int bytes;                       // of a weight
    int together;                    // weights that share a unit of memory, of inputs that follow each other
    int offset;                      // of an int8 input's byte: 128 where the bytes are unsigned
    double rate;                     // of multiply-adds, about, beside those of float32
    int narrow;                      // bytes of an input or state as it is multiplied; 0: the float32 that it is
    int block_units;                 // of sparse weights: units of a block, by four inputs; 0: they are dense
    PackedCellKernels of[cell_count];
    DenseKernel product[2];          // y := bias + W x, where blocks are two vectors, or three; null: not with these
};

// The storage of the same numbers in sparse blocks; the storage itself where there is none.
inline constexpr int sparse_storage(int storage) {
    return storage == storage_float32 ? storage_sparse_float32
           : storage == storage_int8  ? storage_sparse_int8
                                      : storage;
}

// Of a part of an instruction set: those of its storage, and of the sparse one.
struct PartKernels {
    StorageKernels own, sparse;
};

const int64_t large_weights = 1 << 20;  // bytes of a matrix that lies beyond the second-level cache

// Layers of so few units that a vector has room for several: it is cut into slots, of which each is a row of a layer
// over some steps (packed/lanes.h).
const int most_slots = 8;

struct LaneSlot {
    const float* x;                  // (I,) of the first step; read
    float* y;                        // (H,) of the first step; written
    int64_t x_step, y_step;          // to the next one
    const float* start;              // (H,); null: zero
    float* end;                      // (H,) where the last state goes; null: it does not
};

struct LaneVector {
    const float* weights;            // [4 + 3 I + 3 H][lanes]: biases, then r, z, n of each input, and of each state
    int64_t slots;                   // that there are; lanes behind them are unused
    LaneSlot slot[most_slots];
};

struct LaneStep {
    int cell;                        // of cells/cell.h: a GRU
    int64_t inputs, hidden, steps;
    int64_t input_stride;            // of x, from one input to the next
    const float* first;              // [lanes] integers: of each lane the first one of its slot
    const float* masks;              // [slots][lanes] integers: all bits where a lane is the slot's
};

typedef void (*LaneKernel)(const LaneStep&, const LaneVector*, int64_t count);

struct PackedKernels {
    int64_t lanes;
    int64_t tile_rows;               // rows from which x and h are best multiplied together
    StorageKernels of[storage_count];
    LaneKernel side_by_side;         // of usual GRUs
    double (*multiply_adds)(int64_t rounds);                            // so much arithmetic; returns how many flops
    void (*read)(const float* memory, int64_t count, int downwards);    // as the kernels read weights
};

// Lay a layer out in memory from a cache line on, which is used from then on. Returns how many bytes it takes; without
// memory, only that.
int64_t pack_layer(const PackedKernels& kernels, const CanonicalLayer& layer, char* memory, PackedLayer& packed);

// Of rows (I,) of inputs what a step of a layer starts from, bias + W x: rows of [blocks][gates][lanes], the bits that
// a call makes by itself. Returns how long such a row is; 0: none are made so. Without memory, only that.
int64_t input_products(const PackedKernels& kernels, const PackedLayer& layer, const float* const* rows, int64_t count,
                       float* products);

// As `pack_layer`, of a matrix without a state: `cell` says how many vectors a block's outputs are, which stand in the
// place of as many gates. Output (block * vectors + v) * lanes + lane is unit block * lanes + lane of gate v.
int64_t pack_dense(const PackedKernels& kernels, const CanonicalLayer& layer, char* memory, PackedLayer& packed);

// A matrix (inner, outer) laid out for products from the left, as training/products.h says; the last vectors are padded
// by zero.
template <class T> struct Panels {
    const T* values;
    int64_t inner, outer;
};

// c[i] := a[i] P, or c[i] += a[i] P, for rows a[i] (inner,) and c[i] (outer,).
template <class T> struct Product {
    int64_t rows;
    const T* const* a;
    T* const* c;
    int add;
    int downwards;                   // the order of panels: by turns, what is left in the cache serves the next product
};

// c[m] += sum over i of a[i][m] b[i], for c's rows m of [first, last), over rows a[i] (M,) and b[i] (columns,); for one
// or two pairs of b and c.
template <class T> struct OuterOperand {
    const T* rows;                   // the rows b, laid out
    int64_t columns;                 // 0: there is none
    T* c;                            // (M, columns) contiguous
};
template <class T> struct OuterProduct {
    int64_t rows;
    const T* const* a;
    int64_t first, last;
    OuterOperand<T> of[2];
    T* memory;                       // outer_memory(rows) of it
};

// The elementwise part of a step while recording, after its products, and its mirror image on the way back. A row of
// `kept` holds the cell's values of all units one after the other. Of a GRU it is (4, H): u, r, z, n. They are the
// values of gates and candidate of a usual layer, else the arguments of their functions; u is the candidate's recurrent
// product, or r * h with the reset gate before it. On entry to the record kernels r, z, n are the input products, and
// on return from the backward ones they are the loss' gradients by the arguments of the functions, and u the one by the
// recurrent product (with the reset gate before: still r * h).
template <class T> struct TrainingStep {
    int64_t rows, hidden;
    T* kept;                         // rows at the stride `kept_stride`
    int64_t kept_stride;
    int64_t next;                    // from there to the next step's, which are wanted soon
    T* recurrent;                    // recording: U h, three gates; backward: gradients u, r, z (before: n; then r, z)
    int64_t recurrent_stride;
    T* state;                        // h on entry, h' on return; backward: the loss' gradient by h', on return by h
    T* reset_state;                  // r * h, or the loss' gradient by it; with the reset gate before
    int64_t stride;                  // of state and reset_state
    T* const* y;                     // [rows] h', written
    const T* const* grad_y;          // [rows] the loss' gradient by y; null: zero
    const T* const* before;          // [rows] h, read by the backward kernels
    const T* bias;                   // (biases, H): r, z, candidate's input part, candidate's recurrent part
    T* grad_bias;                    // (kept, H): u, r, z, n; added to
    Activation gate, candidate;
    int flip, usual;
};

// The kernels of a cell's phases, each behind its product while recording, and before it on the way back, from the last
// phase to the first: grad_y, state -> kept, recurrent, state.
template <class T> struct TrainingCellKernels {
    typedef void (*Kernel)(const TrainingStep<T>&);
    Kernel record[most_phases];      // recurrent -> kept, state, y; with two, by way of reset_state
    Kernel backward[most_phases];
};

template <class T> struct TrainingKernels {
    int64_t (*panels_size)(int64_t inner, int64_t outer);               // values that a matrix in panels takes
    // panels := the matrix whose element (k, n) is at k * inner_stride + n * outer_stride
    void (*pack)(const T* matrix, int64_t inner_stride, int64_t outer_stride, int64_t inner, int64_t outer, T* panels);
    void (*product)(const Panels<T>&, const Product<T>&);
    int64_t (*rows_size)(int64_t rows, int64_t columns);                // values that rows laid out take
    void (*lay_out)(const T* const* rows, int64_t count, int64_t columns, T* to);
    int64_t (*outer_memory)(int64_t rows);
    void (*outer_product)(const OuterProduct<T>&);
    TrainingCellKernels<T> of[cell_count];
};

struct Kernels {
    const char* name;
    GateKernels<float> gates32;
    GateKernels<double> gates64;
    PackedKernels packed;
    TrainingKernels<float> training32;
    TrainingKernels<double> training64;
    const NodeKernels<float>* nodes32;
};

// A direction of a layer for training.
template <class T> struct TrainingLayer {
    int64_t inputs, hidden;          // I, H
    Panels<T> input;                 // (I, gates * H)
    Panels<T> recurrent[most_phases];       // by phase: (H, 3H): r, z, n; or (H, 2H): r, z, and (H, H): n
    Panels<T> input_back;            // (gates * H, I): the same backwards
    Panels<T> recurrent_back[most_phases];  // (3H, H): n, r, z; or (2H, H), (H, H)
    const T* bias;                   // (biases, H)
    int cell;
    Activation gate, candidate_function;
    int flip, usual;
};

// Asked now and then while a call runs, by the thread that made it, whether the call shall end; null: it does not.
enum Answer { answer_go_on, answer_stop, answer_never_ask };
typedef Answer (*Interrupted)();

// How a call ended. What one that did not end well has written is of no use.
enum Outcome { outcome_done, outcome_no_memory, outcome_interrupted };

// A direction of a layer over T steps of B sequences, recorded or backwards.
template <class T> struct TrainingCall {
    const TrainingLayer<T>* layer;
    int64_t steps, batch;
    int reverse, threads;
    Interrupted interrupted;
    const int64_t* order;            // [B] the sequence of each row of state, kept and carry; null: as they come
    const int64_t* lengths;          // [B] falling; null: all T
    const uint8_t* fresh;            // (T, B) contiguous, rows as in state: 1 where a row starts anew; null: nowhere
    const T* start;                  // (B, H) contiguous; the states it starts from
    const T* x;                      // (T, B, I), features contiguous; read
    int64_t x_step, x_sequence;
    T* y;                            // (T, B, H), units contiguous; written while recording, backward read
    int64_t y_step, y_sequence;
    T* state;                        // (B, H) contiguous; h0 on entry, h_n on return from recording; backward h0, read
    T* kept;                         // (T, B, kept, H) contiguous; as in TrainingStep
    // backward only:
    const T* grad_y;                 // (T, B, H), units contiguous; null: zero
    int64_t grad_y_step, grad_y_sequence;
    T* carry;                        // (B, H) contiguous; the loss' gradient by h_n on entry, by h0 on return
    T* grad_start;                   // (B, H) contiguous; by start, added to; null: not wanted
    T* grad_x;                       // (T, B, I), features contiguous; written or, by `add`, added to; null: not wanted
    int64_t grad_x_step, grad_x_sequence;
    int add;
    T* grad_w;                       // as the weights, contiguous; (kept, H); added to
    T* grad_u;
    T* grad_bias;
};

template <class T> Outcome run_record(const TrainingKernels<T>& kernels, const TrainingCall<T>& call);
template <class T> Outcome run_backward(const TrainingKernels<T>& kernels, const TrainingCall<T>& call);

// A call of the packed engine: T steps of B sequences through a stack of layers.
struct PackedCall {
    const PackedLayer* const* layers;  // [depth][directions]
    int64_t depth, directions;       // L, D
    int reverse;                     // whether the one direction reads from the last step to the first
    int64_t steps, batch;            // T, B
    const float* x;                  // (T, B, I) at these strides; read
    int64_t x_step, x_sequence, x_feature;
    float* state;                    // (L, D, B, H) contiguous, sequences as in `order`; h0 on entry, h_n on return
    float* y;                        // (T, B, D*H), units contiguous; written
    int64_t y_step, y_sequence;
    const int64_t* order;            // [B] the sequence of each row of state; null: as they come
    const int64_t* lengths;          // [B] falling; null: all T
    const uint8_t* fresh[2];         // of each direction (T, B) contiguous, sequences as in `order`: 1 where one starts
                                     // anew before a step; null: nowhere
    const float* start;              // (L, D, B, H) contiguous; the states they start from
    int threads;
    Interrupted interrupted;
};

Outcome run_packed_call(const PackedKernels& kernels, const PackedCall& call);

// What this machine does in a second, and what threads cost on it: measured at first use, in a millisecond or two.
// Threads move between cores, so hot starts and meetings are measured again, in a tenth of one, every second that
// `spinning` threads are at hand.
struct Machine {
    double flops;                    // multiply-adds from registers, two a lane, per second on one thread
    double bytes;                    // read per second from the second-level cache
    double hot_start, cold_start;    // seconds until another thread works: one that still spins, one that sleeps
    double meeting;                  // seconds for two threads to meet
};
Machine machine(const PackedKernels& kernels, bool spinning);

// How calls are shared among threads: by what was measured, or, for tests and benchmarks, in one way wherever it can
// be.
enum Sharing { sharing_measured, sharing_rows, sharing_units, sharing_none };
void set_sharing(Sharing);
// Calls that so far ran on more than one thread, and of those the ones finished on one because another process had the
// core that a thread needed.
struct ThreadCounts {
    int64_t shared, abandoned;
};
ThreadCounts thread_counts();
// What calls have seen of threads (threads/history.h). Modules that are linked apart take one's for all.
class History;
History& history();
void use_history(History*);

// States kept between steps: `layers` layers of `batch` sequences, advanced one step at a time. A step allocates
// nothing, takes no lock and makes no system call. All memory is taken at construction; `valid()` says whether it was
// there.
class PackedStream {
  public:
    PackedStream(const PackedKernels& kernels, const PackedLayer* const* layers, int64_t count, int64_t batch);
    ~PackedStream();
    bool valid() const { return memory != nullptr; }
    // x: rows of (I,), out: rows of (H,); rows at these strides, values contiguous; the two do not overlap
    void step(const float* x, int64_t x_stride, float* out, int64_t out_stride);
    // states (layers, batch, H), contiguous
    void get_state(float* states) const;
    void set_state(const float* states);

  private:
    PackedStream(const PackedStream&);
    struct Layer;
    const PackedKernels& kernels;
    int64_t count, batch;
    int turn;  // which of a layer's two states is the last
    char* memory;
    Layer* layers;
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

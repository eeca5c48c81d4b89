// CUDA's words for a processor: what gru.cu needs to be compiled by an ordinary compiler and run thread by thread.
//
// A block's threads run as fibers, resumed after every barrier in an order drawn anew, so that a result that depends on
// their order shows; blocks run one after another, in a drawn order, too. With CGRU_TEST_THREADS they are threads of
// the system with a real barrier, for the thread sanitizer. Shared memory is full of NaN when a block begins and has
// exactly the size asked for, with marks behind it.
#pragma once

#include <math.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
#define SHARED_MEMORY(name) unsigned char* const name = gpu::shared_memory

using std::exp;
using std::expm1;
using std::fabs;
using std::log1p;
using std::tanh;

struct Dimensions {
    int x, y, z;
};
inline thread_local Dimensions threadIdx, blockIdx, blockDim, gridDim;

inline float __uint_as_float(unsigned bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

namespace gpu {

inline thread_local unsigned char* shared_memory;
inline void (*barrier)();
inline thread_local std::string complaint;

// What a launch is: `body` is the kernel with its arguments, run by every thread.
struct Launch {
    Dimensions grid, block;
    size_t shared_bytes;
    std::vector<unsigned char> memory;

    static constexpr size_t mark_bytes = 64;
    static constexpr unsigned char mark = 0xa5;

    Launch(Dimensions grid, Dimensions block, size_t shared_bytes)
        : grid(grid), block(block), shared_bytes(shared_bytes), memory(shared_bytes + mark_bytes + 16) {}

    int threads() const { return block.x * block.y * block.z; }
    unsigned char* shared() { return (unsigned char*)(((uintptr_t)memory.data() + 15) / 16 * 16); }
    void poison() {
        memset(shared(), 0xff, shared_bytes);
        memset(shared() + shared_bytes, mark, mark_bytes);
    }
    void check() {
        for (size_t i = 0; i < mark_bytes; ++i)
            if (shared()[shared_bytes + i] != mark) complaint = "written behind the shared memory";
    }
    void become(int block_number, int thread) {
        gridDim = grid;
        blockDim = block;
        blockIdx = {block_number % grid.x, block_number / grid.x % grid.y, block_number / grid.x / grid.y};
        threadIdx = {thread % block.x, thread / block.x % block.y, thread / block.x / block.y};
        shared_memory = shared();
    }
};

#ifndef CGRU_TEST_THREADS

inline ucontext_t scheduler;
inline ucontext_t* current;
inline void (*entry)(const void*);
inline const void* entry_arguments;
inline bool finished;

inline void fiber() {
    entry(entry_arguments);
    finished = true;
    swapcontext(current, &scheduler);
}

inline void run_block(Launch& launch, int block, std::mt19937& random) {
    static std::vector<std::unique_ptr<unsigned char[]>> stacks;
    const size_t stack_bytes = 1 << 16;
    const int threads = launch.threads();
    while ((int)stacks.size() < threads) stacks.emplace_back(new unsigned char[stack_bytes]);
    std::vector<ucontext_t> contexts(threads);
    std::vector<int> order(threads);
    for (int i = 0; i < threads; ++i) {
        order[i] = i;
        getcontext(&contexts[i]);
        contexts[i].uc_stack.ss_sp = stacks[i].get();
        contexts[i].uc_stack.ss_size = stack_bytes;
        contexts[i].uc_link = nullptr;
        makecontext(&contexts[i], fiber, 0);
    }
    barrier = [] { swapcontext(current, &scheduler); };
    for (int done = 0; done < threads;) {
        std::shuffle(order.begin(), order.end(), random);
        int left = 0;
        for (int i : order) {
            launch.become(block, i);
            current = &contexts[i];
            finished = false;
            swapcontext(&scheduler, current);
            left += finished;
        }
        if (left != 0 && left != threads) {
            complaint = "some threads of a block ended while others wait at a barrier";
            return;
        }
        done += left;
    }
}

#else

inline pthread_barrier_t meeting;

inline void run_block(Launch& launch, int block, std::mt19937&, void (*entry)(const void*), const void* arguments) {
    const int threads = launch.threads();
    pthread_barrier_init(&meeting, nullptr, threads);
    barrier = [] { pthread_barrier_wait(&meeting); };
    std::vector<std::thread> team;
    for (int i = 0; i < threads; ++i)
        team.emplace_back([&launch, block, i, entry, arguments] {
            launch.become(block, i);
            entry(arguments);
        });
    for (std::thread& thread : team) thread.join();
    pthread_barrier_destroy(&meeting);
}

#endif

// Run a kernel of one structure. A kernel without barriers needs no fibers; one that calls a barrier there is at fault.
inline void launch(void (*entry_point)(const void*), bool barriers, Dimensions grid, Dimensions block,
                   size_t shared_bytes, const void* arguments, unsigned seed) {
    std::mt19937 random(seed);
    Launch launch(grid, block, shared_bytes);
    std::vector<int> blocks(grid.x * grid.y * grid.z);
    for (size_t i = 0; i < blocks.size(); ++i) blocks[i] = (int)i;
    std::shuffle(blocks.begin(), blocks.end(), random);
    for (int number : blocks) {
        launch.poison();
        if (!barriers) {
            barrier = [] { complaint = "a barrier in a kernel that is said to have none"; };
            for (int i = launch.threads(); i-- > 0;) {
                launch.become(number, i);
                entry_point(arguments);
            }
        } else {
#ifndef CGRU_TEST_THREADS
            entry = entry_point;
            entry_arguments = arguments;
            run_block(launch, number, random);
#else
            run_block(launch, number, random, entry_point, arguments);
#endif
        }
        launch.check();
    }
}

}  // namespace gpu

inline void __syncthreads() { gpu::barrier(); }

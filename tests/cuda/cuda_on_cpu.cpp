// gru.cu as a library for the processor: `run` launches a kernel by its name. The kernels' text is CGRU_TEST_SOURCE,
// and CGRU_TEST_LAYOUT a list of the structures' sizes and offsets that the tests compare with their own.
#include "cuda_on_cpu.h"

#include CGRU_TEST_SOURCE

namespace {

struct Kernel {
    const char* name;
    void (*run)(const void*);
    bool barriers;
    size_t bytes;  // of its structure
};

#define KERNEL(name, Structure, barriers) \
    {#name, [](const void* arguments) { name(*(const Structure*)arguments); }, barriers, sizeof(Structure)}

const Kernel kernels[] = {
    KERNEL(step_after, Forward, false),
    KERNEL(step_before_gates, Forward, false),
    KERNEL(step_before_state, Forward, false),
    KERNEL(fused_after_resident_1, Forward, true),
    KERNEL(fused_after_resident_4, Forward, true),
    KERNEL(fused_after_streamed_1, Forward, true),
    KERNEL(fused_after_streamed_4, Forward, true),
    KERNEL(fused_before_resident_1, Forward, true),
    KERNEL(fused_before_resident_4, Forward, true),
    KERNEL(fused_before_streamed_1, Forward, true),
    KERNEL(fused_before_streamed_4, Forward, true),
    KERNEL(gradient_after, Backward, false),
    KERNEL(gradient_before_state, Backward, false),
    KERNEL(gradient_before_gates, Backward, false),
};

}  // namespace

#ifdef CGRU_TEST_LAYOUT
#include CGRU_TEST_LAYOUT
#endif

// Nothing, or what was wrong.
extern "C" const char* run(const char* name, const int* grid, const int* block, size_t shared_bytes,
                           const void* arguments, size_t bytes, unsigned seed) {
    for (const Kernel& kernel : kernels) {
        if (strcmp(kernel.name, name) != 0) continue;
        if (bytes != kernel.bytes) return "a structure of another size";
        gpu::complaint.clear();
        gpu::launch(kernel.run, kernel.barriers, {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]},
                    shared_bytes, arguments, seed);
        return gpu::complaint.empty() ? nullptr : gpu::complaint.c_str();
    }
    return "no such kernel";
}

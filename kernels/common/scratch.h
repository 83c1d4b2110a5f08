// Scratch memory of the calling thread, kept between calls: packing buffers, score tiles. Aligned
// to 64 bytes, contents undefined. A kernel may hold one piece of each slot at a time.
#pragma once

#include <cstddef>

namespace accel::kernels {

enum class ScratchSlot { A, B, C, D, Count };

void* scratch(ScratchSlot slot, size_t bytes);

// Gives back the pieces of more than 64 MiB: after a kernel whose need follows from its operands.
void trim_scratch();

}  // namespace accel::kernels

// What combine.cpp and combine.simd.cpp share.
#pragma once

#include "kernels/combine/combine.h"

namespace accel::kernels {

// combine() for floating and integral dtypes, Bool with the ops of bits; each of `outs` gets the
// result.
void combine_arrays(const Combination& args, void* const* outs, int out_count,
                    const void* const* sources, int count, int64_t elements);

}  // namespace accel::kernels

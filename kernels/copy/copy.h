// Copies between strided tensors of the same element size: layout changes (transposes, cat, split,
// slices). Converting copies are vector programs.
#pragma once

#include <cstdint>

namespace accel::kernels {

// destination[i...] = source[i...] for all indices below sizes. Strides in bytes, any sign or 0 for
// the source. Transposes go through cache-sized blocks. The two may not overlap.
void strided_copy(int dims, const int64_t* sizes, int64_t element_size, void* destination,
                  const int64_t* destination_strides, const void* source,
                  const int64_t* source_strides);

}  // namespace accel::kernels

// One tile of a strided copy whose two sides run along different dimensions.
// Implemented in transpose.simd.cpp, called by copy.cpp.
#pragma once

#include <cstdint>

namespace accel::kernels {

// A rectangle of elements; strides in bytes. Dimension a is the destination's innermost.
struct CopyTile {
  char* destination;
  const char* source;
  int64_t a, b;
  int64_t destination_a, destination_b;
  int64_t source_a, source_b;
};

// destination[i * destination_a + j * destination_b] = source[i * source_a + j * source_b].
// element_size is 1, 2, 4, 8, 16, 32 or 64. Fastest where destination_a and source_b are equal to
// it.
void copy_tile(const CopyTile& tile, int64_t element_size);

}  // namespace accel::kernels

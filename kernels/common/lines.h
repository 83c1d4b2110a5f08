// Tensors as lines: the elements along one dimension, for each index over all others (the kept
// dimensions). What scans and sorts have in common.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// A View: strides in bytes, of the kept dimensions and of the one along which lines run.
struct LineOperand {
  void* data = nullptr;
  DType dtype = DType::Float32;
  std::vector<int64_t> strides;  // per kept dimension
  int64_t stride = 0;            // along the line; unused where there is one element a line
};

// A kept dimension, with its strides in each of the operands of a kernel.
struct LineDimension {
  static constexpr int kSides = 4;
  int64_t size = 1;
  int64_t strides[kSides] = {};
};
using LineDimensions = std::vector<LineDimension>;

// The same lines in fewer dimensions: those of one element dropped, adjacent ones joined where one
// stride of every operand walks both.
LineDimensions joined(const LineDimensions& dimensions);

int64_t count_of(const LineDimensions& dimensions);

// Adds to each side's offset that of the row-major index `flat`.
void add_offsets(const LineDimensions& dimensions, int64_t flat, int64_t* offsets);

}  // namespace accel::kernels

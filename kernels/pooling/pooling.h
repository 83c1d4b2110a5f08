// Max pooling over up to three dimensions, its gradient, and its inverse. Averages are resampling
// (kernels/resampling).
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/fault.h"

namespace accel::kernels {

enum class PoolingKind : uint8_t {
  Max,      // input [full] → output and indices [pooled]
  MaxBack,  // gradient and indices [pooled] → gradient [full]
  Unpool,   // input and indices [pooled] → output [full], zero but where an index points
};

// Along one dimension.
struct PoolingAxis {
  int64_t full = 1, pooled = 1;  // elements
  int64_t kernel = 1, stride = 1, padding = 0, dilation = 1;
};

// The largest of a window is its first in row-major order; NaN is larger than all, and the last NaN
// counts. A gradient is a sum in ascending order of windows, in fp32 (fp64 for Float64), rounded
// once; of what Unpool writes to one place, the last stays.
struct Pooling {
  PoolingKind kind = PoolingKind::Max;
  DType dtype = DType::Float32;  // floating
  bool adaptive = false;         // windows follow from the sizes
  PoolingAxis axes[3];           // depth, rows, columns
  int64_t planes = 0;
  int64_t channels = 1;  // elements of a place that lie side by side: channels_last has several
  const void* input = nullptr;  // [planes, depth, rows, columns, channels]
  void* output = nullptr;
  // Where in its plane, row-major over depth, rows and columns, the largest element is: written by
  // Max, read by the others.
  int64_t* indices = nullptr;
  Fault* fault = nullptr;  // MaxBack, Unpool: of an index outside the plane
};
void pooling(const Pooling& args);

}  // namespace accel::kernels

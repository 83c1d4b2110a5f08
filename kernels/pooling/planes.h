// One chunk of planes of a Pooling, compiled for each instruction set.
#pragma once

#include "kernels/pooling/pooling.h"

namespace accel::kernels {

// The elements of one window: begin, begin + dilation, ... < end; and its size with the padding.
struct PoolingWindow {
  int64_t begin, end, padded;
};

// The windows of rows [0] and columns [1]. Plain pointers: what is inlined in a variant must not
// leave a template of the standard library behind (see tools/check_isa.py).
struct PoolingPlan {
  const PoolingWindow* windows[2];
};

}  // namespace accel::kernels

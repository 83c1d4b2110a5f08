// Planes of a Pooling, compiled for each instruction set.
#pragma once

#include "kernels/pooling/pooling.h"

namespace accel::kernels {

// The elements of one window: begin, begin + dilation, ... < end.
struct PoolingWindow {
  int64_t begin, end;
};

// The windows of depth [0], rows [1] and columns [2]. Plain pointers: what is inlined in a variant
// must not leave a template of the standard library behind (see tools/check_isa.py).
struct PoolingPlan {
  const PoolingWindow* windows[3];
};

// Max: one row of the results of one plane and depth. room: without channels, 16 bytes for each
// column of the input.
void max_pool_row(const Pooling& args, const PoolingPlan& plan, int64_t plane, int64_t depth,
                  int64_t row, void* room);

// MaxBack and Unpool: channels [begin, end) of a plane. sums: where elements of 16 bits are added
// up, room for a plane of these channels.
void scatter_plane(const Pooling& args, int64_t plane, int64_t begin, int64_t end, float* sums);

}  // namespace accel::kernels

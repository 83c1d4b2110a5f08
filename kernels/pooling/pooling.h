// Pooling over two dimensions, and resampling to the nearest neighbour, which is pooling backwards.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/fault.h"

namespace accel::kernels {

enum class PoolingKind : uint8_t { Max, Average, Nearest };

// Where the windows lie, for rows [0] and columns [1].
struct PoolingWindows {
  int64_t kernel[2] = {1, 1}, stride[2] = {1, 1}, padding[2] = {0, 0}, dilation[2] = {1, 1};
  bool adaptive = false;     // Average: windows follow from the sizes, all else is ignored
  double scale[2] = {1, 1};  // Nearest: input elements an output element
  bool exact = false;        // Nearest: at the centres of elements, not at their corners
};

// Forward: output = pooled input. Backward: input is the gradient of the output, output that of the
// input; every element of it is a sum in ascending order of windows, in fp32 (fp64 for Float64),
// rounded once. All planes are contiguous.
struct Pooling {
  PoolingKind kind = PoolingKind::Max;
  bool backward = false;
  DType dtype = DType::Float32;  // floating
  PoolingWindows windows;
  int64_t planes = 0;
  int64_t full[2] = {0, 0};    // sizes of what is pooled
  int64_t pooled[2] = {0, 0};  // and of the result
  bool count_padding = true;   // Average: the divisor of a window at the border
  int64_t divisor = 0;         // Average: 0 stands for the window's size
  const void* input = nullptr;
  void* output = nullptr;
  // Max: where in its plane the largest element is. Written forward, read backward.
  int64_t* indices = nullptr;
  Fault* fault = nullptr;  // backward: of an index outside the plane
};
void pooling(const Pooling& args);

}  // namespace accel::kernels

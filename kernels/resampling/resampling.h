// Separable resampling of up to three dimensions: interpolation, averages over windows, nearest
// neighbours, and the gradients of all of them.
//
// Along each dimension an output element is a weighted sum of a short run of input elements. The
// methods differ in nothing but the lists of runs and weights, and a gradient is the same sum with
// the lists transposed: every element is written by one thread, in one order.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

enum class ResamplingMethod : uint8_t {
  Window,    // averages over windows of kernel, stride and padding
  Adaptive,  // averages over windows that follow from the sizes
  Nearest,
  NearestExact,  // at the centres of elements, not at their corners
  Linear,
  Cubic,
  LinearAntialiased,  // the filter is as wide as the scale where that shrinks
  CubicAntialiased,
  LanczosAntialiased,
};

struct ResamplingAxis {
  int64_t full = 1, resampled = 1;              // elements before and after, seen forward
  int64_t kernel = 1, stride = 1, padding = 0;  // Window
  double scale = 0;  // interpolation: input elements an output element; 0: what the sizes say
};

// Forward: output is input resampled. Backward: input is the gradient of the output, output that of
// the input. Sums are fp32 (fp64 for Float64) and rounded once. Depth is summed first, then rows,
// then columns; columns before rows where there are more rows afterwards.
struct Resampling {
  ResamplingMethod method = ResamplingMethod::Linear;
  bool backward = false;
  DType dtype = DType::Float32;  // floating
  bool align_corners = false;    // Linear, Cubic: the outermost elements keep their places
  bool count_padding = true;     // Window: the divisor of a window at the border
  int64_t divisor = 0;           // Window: 0 stands for the window's size
  ResamplingAxis axes[3];        // depth, rows, columns
  int64_t planes = 0;
  int64_t channels = 1;  // elements of a place that lie side by side: channels_last has several
  const void* input = nullptr;  // [planes, depth, rows, columns, channels]
  void* output = nullptr;
};
void resampling(const Resampling& args);

}  // namespace accel::kernels

// Images and volumes read at the places that a grid names, and the gradients of both.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// The numbers are those of grid_sampler's arguments.
enum class GridInterpolation : uint8_t { Linear, Nearest, Cubic };
enum class GridPadding : uint8_t { Zeros, Border, Reflection };

enum class GridSamplingKind : uint8_t { Forward, InputGradient, GridGradient };

// A place of the grid holds one coordinate a dimension, columns first, from -1 to 1. Sums are fp32
// (fp64 for Float64) in the order of places, channels and elements, and rounded once.
struct GridSampling {
  GridSamplingKind kind = GridSamplingKind::Forward;
  GridInterpolation interpolation = GridInterpolation::Linear;
  GridPadding padding = GridPadding::Zeros;
  bool align_corners =
      false;  // -1 and 1 are the centres of the outermost elements, not their edges
  DType dtype = DType::Float32;  // floating
  int dims = 2;                  // or 3, then without Cubic
  int64_t sizes[3] = {1, 1, 1};  // depth, rows, columns of the input
  int64_t batch = 0, channels = 0, places = 0;
  const void* input = nullptr;  // [batch, channels, sizes]; not read by InputGradient
  const void* grid = nullptr;   // [batch, places, dims]
  const void* grad = nullptr;   // [batch, channels, places]; not read by Forward
  // Forward: [batch, channels, places]; else as input or grid.
  void* output = nullptr;
};
void grid_sampling(const GridSampling& args);

}  // namespace accel::kernels

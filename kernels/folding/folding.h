// Sliding windows of images laid out side by side, and their sum back into images: unfold and fold
// (im2col and col2im), and the gradient of Tensor.unfold.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// Element k of window i lies at i * stride + k * dilation - padding of the image.
struct FoldingAxis {
  int64_t image = 1, kernel = 1, windows = 1;
  int64_t stride = 1, padding = 0, dilation = 1;
  // Of the columns, in elements.
  int64_t kernel_stride = 0, window_stride = 0;
};

// Unfold: columns = windows of the images, zero where they reach over the border. Fold: every
// element of the images is the sum of the columns that name it, by ascending kernel row, kernel
// column; fp32 (fp64 for Float64), rounded once. Images are contiguous, [planes, rows, columns].
struct Folding {
  bool fold = false;
  DType dtype = DType::Float32;  // floating
  FoldingAxis rows, columns;
  int64_t planes = 0, plane_stride = 0;  // of the columns, in elements
  const void* input = nullptr;
  void* output = nullptr;
};
void folding(const Folding& args);

}  // namespace accel::kernels

// Negative log likelihood.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/fault.h"

namespace accel::kernels {

// Negative log likelihood: for each row i with target t = targets[i] != ignore_index,
// loss_i = -weight[t] * input[i, t]; reduction None writes loss_i (0 where ignored), Sum and Mean
// one value; total_weight is the sum of weight[t] over rows that count (0 for None, as PyTorch
// returns it). Mean divides by it. A target out of range is a fault and counts as ignored.
enum class Reduction : uint8_t { None, Mean, Sum };

struct NllLoss {
  int64_t rows = 0, classes = 0;
  DType dtype = DType::Float32;  // input, weight, out and total_weight
  const void* input = nullptr;
  int64_t row_stride = 0, column_stride = 1;
  const int64_t* targets = nullptr;
  int64_t target_stride = 1;
  const void* weight = nullptr;  // [classes], contiguous, or null
  int64_t ignore_index = -100;
  Reduction reduction = Reduction::Mean;
  void* out = nullptr;
  void* total_weight = nullptr;
};
void nll_loss(const NllLoss& args, Fault* fault);

}  // namespace accel::kernels

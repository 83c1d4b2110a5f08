// Rows picked from a table by integer index, and the gradients of such picks.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/fault.h"

namespace accel::kernels {

// out[i, :] = table[indices[i], :]. Strides in elements. Negative indices are a fault.
struct Embedding {
  int64_t count = 0, width = 0, rows = 0;
  const void* indices = nullptr;  // Int32 or Int64
  DType index_dtype = DType::Int64;
  int64_t index_stride = 1;
  DType dtype = DType::Float32;  // of the table and the output: any
  const void* table = nullptr;
  int64_t table_row_stride = 0, table_column_stride = 1;
  void* out = nullptr;  // contiguous [count, width]
};
void embedding(const Embedding& args, Fault* fault);

// grad_table[r, :] = sum over i with indices[i] == r of grad[i, :], in ascending i, accumulated in
// fp32 (fp64 for Float64) and rounded once. padding_index (-1: none) contributes nothing.
// scale_by_frequency divides row r by how often r occurs.
struct EmbeddingBackward {
  int64_t count = 0, width = 0, rows = 0;
  const void* indices = nullptr;
  DType index_dtype = DType::Int64;
  int64_t index_stride = 1;
  DType dtype = DType::Float32;
  const void* grad = nullptr;
  int64_t grad_row_stride = 0, grad_column_stride = 1;
  int64_t padding_index = -1;
  bool scale_by_frequency = false;
  void* grad_table = nullptr;  // contiguous [rows, width], fully written
};
void embedding_backward(const EmbeddingBackward& args, Fault* fault);

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

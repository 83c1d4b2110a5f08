// Bags of rows of a table: their sums, means or maxima.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"
#include "kernels/common/fault.h"

namespace accel::kernels {

// The numbers are those of embedding_bag's mode argument.
enum class BagMode : uint8_t { Sum, Mean, Max };

// Bag b holds the rows that indices[offsets[b]] to indices[offsets[b + 1] - 1] name; the last ends
// with the indices where there are no more offsets than bags. Rows are added in their order in fp32
// (fp64 for Float64) and rounded once; of equal maxima the first counts; a bag of nothing is 0.
// Offsets that do not begin with 0, descend or leave the indices, and indices out of range, are
// faults.
struct EmbeddingBag {
  BagMode mode = BagMode::Sum;
  DType dtype = DType::Float32;      // floating: table, weights and out
  DType index_dtype = DType::Int64;  // or Int32: indices, offsets and all outputs but out
  int64_t rows = 0, width = 0, count = 0, bags = 0, offset_count = 0;
  int64_t row_stride = 0;         // of the table, whose columns are dense
  int64_t padding = -1;           // an index that counts as absent
  const void* table = nullptr;    // [rows, width]
  const void* indices = nullptr;  // [count]
  const void* offsets = nullptr;  // [offset_count]: bags, or one more
  const void* weights = nullptr;  // [count] factors of the rows of a Sum, or null
  void* out = nullptr;            // [bags, width]
  void* offset2bag = nullptr;     // [count]: the bag of each index
  void* bag_size = nullptr;       // [bags]: rows that count
  void* maximum_index = nullptr;  // of Max: [bags, width] the rows of the maxima, -1 for none
};
void embedding_bag(const EmbeddingBag& args, Fault* fault);

// The gradient of a Sum's weights: weight_grad[i] = grad[offset2bag[i]] · table[indices[i]], 0 for
// padding. Reads table, indices and offset2bag of `forward`.
struct BagWeightGradient {
  EmbeddingBag forward;
  const void* grad = nullptr;   // [bags, width]
  void* weight_grad = nullptr;  // [count]
};
void bag_weight_gradient(const BagWeightGradient& args, Fault* fault);

}  // namespace accel::kernels

// The arithmetic behind embedding.cpp and nll_loss.cpp, compiled per instruction set
// (rows.simd.cpp). Indices have been checked by then, or are reported back.
#pragma once

#include <cstdint>

#include "kernels/embedding/embedding.h"

namespace accel::kernels {

// args.grad_table[row, :] = the sum of args.grad[positions[i], :] for i in [0, count), in that
// order.
void sum_embedding_row(const EmbeddingBackward& args, int64_t row, const int32_t* positions,
                       int64_t count);

// What a run of rows adds to a negative log likelihood.
struct NllPartial {
  double loss = 0, weight = 0;
  int64_t bad_target = 0;
  bool has_bad_target = false;
};
// Rows [begin, end); writes the losses themselves for Reduction::None.
void nll_rows(const NllLoss& args, int64_t begin, int64_t end, NllPartial* partial);
// Writes a value of args.dtype.
void store_value(DType dtype, void* to, double value);

}  // namespace accel::kernels

// The arithmetic behind nll_loss.cpp, compiled per instruction set (nll_rows.simd.cpp). Targets out
// of range are reported back.
#pragma once

#include <cstdint>

#include "kernels/loss/nll_loss.h"

namespace accel::kernels {

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

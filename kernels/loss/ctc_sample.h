// One sample of a CTC loss, compiled per instruction set (ctc_sample.simd.cpp).
#pragma once

#include "kernels/loss/ctc.h"

namespace accel::kernels {

// Checked: lengths and labels are in range.
struct CtcSample {
  int64_t index = 0, frames = 0, symbols = 1;
  const int64_t* labels = nullptr;
};

void ctc_sample(const Ctc& args, const CtcSample& sample);
void ctc_sample_backward(const CtcBackward& args, const CtcSample& sample);

}  // namespace accel::kernels

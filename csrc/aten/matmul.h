// What ops of matrix products share.
#pragma once

#include <ATen/Context.h>

#include "kernels/matmul/matmul.h"

namespace accel::aten {

// How fp32 products are computed now: torch.set_float32_matmul_precision.
inline kernels::Float32Precision float32_precision() {
  switch (at::globalContext().float32MatmulPrecision()) {
    case at::Float32MatmulPrecision::HIGH:
      return kernels::Float32Precision::High;
    case at::Float32MatmulPrecision::MEDIUM:
      return kernels::Float32Precision::Medium;
    default:
      return kernels::Float32Precision::Highest;
  }
}

}  // namespace accel::aten

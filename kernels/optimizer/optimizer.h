// Optimizer steps: one pass over the memory of each parameter.
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// One parameter's tensors, dense and of `elements` elements in the same order. State has the
// parameter's dtype (as torch._fused_adamw_ requires) unless state_dtype says otherwise.
struct AdamTensor {
  int64_t elements = 0;
  DType dtype = DType::Float32;        // parameter and gradient
  DType state_dtype = DType::Float32;  // moments
  void* parameter = nullptr;
  void* grad = nullptr;  // rewritten unscaled where grad_scale is given, as PyTorch does
  void* exp_avg = nullptr;
  void* exp_avg_sq = nullptr;
  void* max_exp_avg_sq = nullptr;  // amsgrad only
  const float* step = nullptr;     // a device scalar, already advanced
};

enum class WeightDecay : uint8_t { L2, Decoupled };  // Adam, AdamW

struct Adam {
  double learning_rate = 1e-3;
  const float* learning_rate_pointer = nullptr;  // device scalar; overrides learning_rate
  double beta1 = 0.9, beta2 = 0.999, weight_decay = 0, eps = 1e-8;
  bool amsgrad = false, maximize = false;
  WeightDecay decay = WeightDecay::Decoupled;
  const float* grad_scale = nullptr;  // device scalars of GradScaler, or null
  const float* found_inf = nullptr;   // 1: the step is skipped
};

// Updates all tensors, splitting them over the team by elements. Formula: torch.optim.AdamW's
// single-tensor documentation, computed in fp32 (fp64 for Float64).
void adam(const Adam& args, const AdamTensor* tensors, int64_t count);

struct SgdTensor {
  int64_t elements = 0;
  DType dtype = DType::Float32;
  void* parameter = nullptr;
  void* grad = nullptr;
  void* momentum_buffer = nullptr;  // null without momentum
};

struct Sgd {
  double learning_rate = 1e-3;
  const float* learning_rate_pointer = nullptr;
  double momentum = 0, dampening = 0, weight_decay = 0;
  bool nesterov = false, maximize = false;
  bool first_step = false;  // the momentum buffer is set to the gradient
  const float* grad_scale = nullptr;
  const float* found_inf = nullptr;
};
void sgd(const Sgd& args, const SgdTensor* tensors, int64_t count);

}  // namespace accel::kernels

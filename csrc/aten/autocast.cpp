// Autocast for the device: the lists of ops that PyTorch itself uses for CUDA.
#include <ATen/autocast_mode.h>

namespace accel::aten {

// PyTorch's macros write signatures with these names.
using at::IntArrayRef;
using at::Scalar;
using at::ScalarType;
using at::Tensor;

namespace {

Tensor binary_cross_entropy_is_unsafe(const Tensor&, const Tensor&, const std::optional<Tensor>&,
                                      int64_t) {
  TORCH_CHECK(
      false,
      "torch.nn.functional.binary_cross_entropy and torch.nn.BCELoss are unsafe to "
      "autocast.\nMany models use a sigmoid layer right before the binary cross entropy "
      "layer.\nIn this case, combine the two layers using "
      "torch.nn.functional.binary_cross_entropy_with_logits\nor torch.nn.BCEWithLogitsLoss. "
      " binary_cross_entropy_with_logits and BCEWithLogits are\nsafe to autocast.");
}

}  // namespace

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
#define ACCEL_LOWER_PRECISION_FP(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
  AT_FORALL_LOWER_PRECISION_FP(ACCEL_LOWER_PRECISION_FP)
#undef ACCEL_LOWER_PRECISION_FP

#define ACCEL_FP32(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
  AT_FORALL_FP32(ACCEL_FP32)
#undef ACCEL_FP32

#define ACCEL_FP32_SET_OPT_DTYPE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32_set_opt_dtype)
  AT_FORALL_FP32_SET_OPT_DTYPE(ACCEL_FP32_SET_OPT_DTYPE)
#undef ACCEL_FP32_SET_OPT_DTYPE

  // norm has no dtype flag to set where it is called without one; it is called with fp32 appended.
  AT_FORALL_DIFFERENT_REDISPATCH_SIGNATURE(KERNEL_DIFFERENT_REDISPATCH_SIGNATURE_PRIVATEUSEONE)

#define ACCEL_PROMOTE(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, promote)
  AT_FORALL_PROMOTE(ACCEL_PROMOTE)
#undef ACCEL_PROMOTE

  m.impl("binary_cross_entropy", TORCH_FN(binary_cross_entropy_is_unsafe));
}

}  // namespace accel::aten

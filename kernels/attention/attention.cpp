// Attention's entry points, and its way to PyTorch's exported bf16 micro-kernels.
#include "kernels/attention/attention.h"

#include <ATen/native/CPUBlas.h>

#include "kernels/attention/internal.h"
#include "kernels/common/isa.h"

namespace accel::kernels {

namespace attention_internal {

namespace {

Bf16Path detect_bf16_path() {
  if (current_isa() == Isa::Amx) return Bf16Path::Tiles;
  return current_isa() == Isa::Avx512Bf16 ? Bf16Path::Dot : Bf16Path::Convert;
}

Bf16Path& chosen_bf16_path() {
  static Bf16Path path = detect_bf16_path();
  return path;
}

}  // namespace

Bf16Path bf16_path() { return chosen_bf16_path(); }
void override_bf16_path(Bf16Path path) { chosen_bf16_path() = path; }

void tile_product_bf16(int64_t m, int64_t n, int64_t k, const void* a, int64_t lda, const void* b,
                       int64_t ldb, float* c, int64_t ldc, bool accumulate) {
  at::native::cpublas::brgemm(m, n, k, lda, ldb, ldc, accumulate,
                              static_cast<const at::BFloat16*>(a),
                              static_cast<const at::BFloat16*>(b), c);
}

void tile_product_release() { at::native::cpublas::brgemm_release(); }

}  // namespace attention_internal

ACCEL_DISPATCH(void, attention_forward,
               (const Attention& args, const AttentionTensor& out, void* logsumexp),
               (args, out, logsumexp))

ACCEL_DISPATCH(void, attention_backward,
               (const Attention& args, const AttentionTensor& grad_out, const AttentionTensor& out,
                const void* logsumexp, const AttentionTensor& dq, const AttentionTensor& dk,
                const AttentionTensor& dv, const AttentionTensor& dmask),
               (args, grad_out, out, logsumexp, dq, dk, dv, dmask))

}  // namespace accel::kernels

// Scaled dot-product attention, forward and backward, without materialising the scores.
//   out = dropout(softmax(scale * q k^T + mask)) v
#pragma once

#include <cstdint>

#include "kernels/common/dtype.h"

namespace accel::kernels {

// A [batch, heads, length, width] tensor; strides in elements, any order.
struct AttentionTensor {
  void* data = nullptr;
  int64_t strides[4] = {};
};

struct Attention {
  int64_t batch = 0, heads = 0, kv_heads = 0;  // heads % kv_heads == 0: grouped-query attention
  int64_t query_length = 0, key_length = 0;
  int64_t width = 0, value_width = 0;  // of q and k; of v and out
  DType dtype = DType::Float32;        // of q, k, v, out: Float32, BFloat16, Float16 or Float64
  double scale = 1;
  bool causal =
      false;  // key j is visible to query i when j <= i (top-left, as PyTorch's is_causal)
  AttentionTensor q, k, v;
  // Added to the scores, or, for DType::Bool, true keeps. Strides may be 0. Absent: null data.
  AttentionTensor mask;
  DType mask_dtype = DType::Bool;
  // Dropout of the probabilities: element (b, h, i, j) is dropped when the uniform number with
  // row-major index in [batch, heads, query_length, key_length] (see vector/program.h, Uniform) is
  // < dropout; kept ones are scaled by 1 / (1 - dropout).
  double dropout = 0;
  int64_t seed = 0, offset = 0;
};

// logsumexp: contiguous [batch, heads, query_length], fp32 (fp64 for Float64), read by the
// backward. A row with no visible key gives zeros and logsumexp -inf.
void attention_forward(const Attention& args, const AttentionTensor& out, void* logsumexp);

// Gradients of q, k and v from the gradient of out (strided as given). For grouped heads dk and dv
// are summed over the group. Any of dq, dk, dv may have null data: it is not computed.
// dmask, where not null, is [batch, heads, query_length, key_length] in `dtype`, written in full.
void attention_backward(const Attention& args, const AttentionTensor& grad_out,
                        const AttentionTensor& out, const void* logsumexp,
                        const AttentionTensor& dq, const AttentionTensor& dk,
                        const AttentionTensor& dv, const AttentionTensor& dmask);

}  // namespace accel::kernels

// Scaled dot-product attention: which implementation a call takes, and the fused one, forward and
// backward. What it does not cover goes PyTorch's way through matmul and softmax.
#include <cmath>
#include <limits>

#include <ATen/Context.h>
#include <ATen/EmptyTensor.h>
#include <ATen/ExpandUtils.h>
#include <ATen/TensorOperators.h>
#include <ATen/native/DispatchStub.h>
#include <ATen/native/transformers/attention.h>
#include <ATen/native/transformers/sdp_utils_cpp.h>
#include <ATen/ops/_safe_softmax.h>
#include <ATen/ops/_scaled_dot_product_fused_attention_overrideable_backward.h>
#include <ATen/ops/full.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/zeros.h>
#include <c10/core/SymInt.h>
#include <c10/core/impl/TorchDispatchModeTLS.h>

#include "csrc/aten/alias.h"
#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

using at::DimVector;

// A head of this width fits the kernel's tiles in the second-level cache; wider ones gain nothing
// over matrix products.
constexpr int64_t kMostWidth = 256;

bool has_dtype(const Tensor& tensor) {
  const ScalarType dtype = tensor.scalar_type();
  return dtype == ScalarType::Float || dtype == ScalarType::BFloat16 || dtype == ScalarType::Half ||
         dtype == ScalarType::Double;
}

// Whether a mask broadcasts to [batch, heads, query length, key length].
bool is_mask_for(const Tensor& mask, const Tensor& query, const Tensor& key) {
  if (mask.is_nested() || mask.dim() < 2 || mask.dim() > 4) return false;
  const c10::SymInt sizes[] = {query.sym_size(0), query.sym_size(1), query.sym_size(2),
                               key.sym_size(2)};
  for (int64_t i = 1; i <= mask.dim(); ++i) {
    const c10::SymInt size = mask.sym_size(-i);
    if (size != 1 && size != sizes[4 - i]) return false;
  }
  return true;
}

// Tensors may be fake ones here, with symbolic sizes.
bool is_supported(const Tensor& query, const Tensor& key, const Tensor& value,
                  const OptionalTensor& mask, bool enable_gqa) {
  for (const Tensor* tensor : {&query, &key, &value}) {
    if (tensor->is_nested() || tensor->dim() != 4 || tensor->layout() != at::kStrided ||
        !has_dtype(*tensor) || tensor->scalar_type() != query.scalar_type() ||
        tensor->device() != query.device()) {
      return false;
    }
    if (tensor->sym_size(3) > kMostWidth || tensor->sym_numel() == 0) return false;
  }
  if (key.sym_size(0) != query.sym_size(0) || value.sym_size(0) != query.sym_size(0) ||
      key.sym_size(1) != value.sym_size(1) || key.sym_size(2) != value.sym_size(2) ||
      key.sym_size(3) != query.sym_size(3)) {
    return false;
  }
  if (key.sym_size(1) != query.sym_size(1) &&
      !(enable_gqa && query.sym_size(1) % key.sym_size(1) == 0)) {
    return false;
  }
  return !mask || !mask->defined() ||
         (mask->device() == query.device() && is_mask_for(*mask, query, key));
}

// Whether a tensor is a subclass that gives operators their meaning in Python, as DTensor does, and
// nothing is traced: FakeTensor and its like are such subclasses too.
bool is_subclass_at_work(const Tensor& tensor) {
  using c10::impl::TorchDispatchModeKey;
  using c10::impl::TorchDispatchModeTLS;
  return tensor.unsafeGetTensorImpl()->is_python_dispatch() &&
         !TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::FAKE) &&
         !TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::PROXY) &&
         !TorchDispatchModeTLS::get_mode(TorchDispatchModeKey::FUNCTIONAL);
}

int64_t sdp_choice(const Tensor& query, const Tensor& key, const Tensor& value,
                   const OptionalTensor& mask, double dropout, bool causal,
                   std::optional<double> scale, bool enable_gqa) {
  (void)dropout, (void)causal, (void)scale;
  const auto& context = at::globalContext();
  // The kernel is a flash attention and memory-efficient: a program that asks for one of these by
  // name gets it.
  const bool enabled = context.userEnabledOverrideableSDP() || context.userEnabledFlashSDP() ||
                       context.userEnabledMemEfficientSDP();
  if (enabled && is_supported(query, key, value, mask, enable_gqa)) {
    // The same kernel under two names. DTensor, and context parallelism with it, has rules for the
    // efficient one only.
    return static_cast<int64_t>(is_subclass_at_work(query) ? at::SDPBackend::efficient_attention
                                                           : at::SDPBackend::overrideable);
  }
  return static_cast<int64_t>(context.userEnabledMathSDP() ? at::SDPBackend::math
                                                           : at::SDPBackend::error);
}

// A [batch, heads, length, width] tensor whose dimensions lie in memory in the order of the
// query's, as PyTorch infers it for graphs: where the query is a transposed view of [batch, length,
// heads, width], so is the result, and flattening its heads is free.
Tensor empty_in_order_of(const Tensor& query, IntArrayRef sizes) {
  if (query.sizes() == sizes) return empty_like(query, query.scalar_type());
  int order[] = {0, 1, 2, 3};
  std::stable_sort(order, order + 4,
                   [&](int a, int b) { return query.stride(a) > query.stride(b); });
  DimVector strides(4, 1);
  int64_t step = 1;
  for (int i = 3; i >= 0; --i) {
    strides[order[i]] = step;
    step *= sizes[order[i]];
  }
  return empty_on(query, sizes, strides, query.scalar_type());
}

// Seed and offset of the dropout for backward: in device memory, where forward writes them, so that
// a graph that is replayed finds those of its own turn. Each at 16 bytes, as inductor asserts of
// all that an op returns.
std::pair<Tensor, Tensor> empty_philox(const Tensor& like) {
  const Tensor both = empty_on(like, {3}, ScalarType::Long);
  return {element_of(both, 0), element_of(both, 2)};
}

// On the CPU they can come from a program that calls the backward op by itself.
Tensor on_device(const Tensor& number, const Tensor& like) {
  return number.defined() ? number.to(like.device()) : number;
}

double scale_of(std::optional<double> scale, const Tensor& query) {
  const int64_t width = query.sym_size(3).guard_int(__FILE__, __LINE__);
  return scale.value_or(1 / std::sqrt(static_cast<double>(width)));
}

void add_mask(Recording& recording, const Tensor& mask, const Tensor& query, const Tensor& key) {
  recording.input(mask, {query.size(0), query.size(1), query.size(2), key.size(2)});
}

void check_attention(const Tensor& query, const Tensor& key, const Tensor& value,
                     const Tensor& mask) {
  check_same_device("_scaled_dot_product_fused_attention_overrideable",
                    {{query, "query"}, {key, "key"}, {value, "value"}, {mask, "attn_bias"}});
  TORCH_CHECK(
      is_supported(query, key, value, mask, /*enable_gqa=*/true),
      "_scaled_dot_product_fused_attention_overrideable: query, key and value must be "
      "non-empty [batch, heads, length, width] tensors of one floating dtype with width <= ",
      kMostWidth,
      ", attn_bias must broadcast to [batch, heads, query length, key length]. "
      "Got query ",
      query.sizes(), ", key ", key.sizes(), ", value ", value.sizes());
  TORCH_CHECK(!mask.defined() || mask.scalar_type() == ScalarType::Bool || has_dtype(mask),
              "Expected attn_mask dtype to be bool or float or to match query dtype, but got "
              "attn_mask.dtype: ",
              mask.dtype(), " and  query.dtype: ", query.dtype(), " instead.");
}

std::tuple<Tensor, Tensor, Tensor, Tensor, c10::SymInt, c10::SymInt, Tensor, Tensor, Tensor>
attention(const Tensor& query, const Tensor& key, const Tensor& value,
          const OptionalTensor& mask_option, double dropout, bool causal, bool return_debug_mask,
          std::optional<double> scale) {
  (void)return_debug_mask;
  const Tensor& mask = value_or_undefined(mask_option);
  check_attention(query, key, value, mask);
  TORCH_CHECK(dropout >= 0 && dropout <= 1,
              "dropout probability has to be between 0 and 1, but got ", dropout);
  const int64_t batch = query.size(0), heads = query.size(1), length = query.size(2);
  const int64_t out_sizes[] = {batch, heads, length, value.size(3)};
  Tensor out = empty_in_order_of(query, out_sizes);
  Tensor logsumexp = empty_on(query, {batch, heads, length}, arithmetic_dtype(query.scalar_type()));
  auto [philox_seed, philox_offset] = empty_philox(query);
  Recording recording(Opcode::Attention);
  recording.output(out).output(logsumexp);
  PhiloxState philox{scalar_of(int64_t{0}), scalar_of(int64_t{0}), {}};
  if (dropout > 0) {
    philox =
        reserve_philox(std::nullopt, query.device().index(), batch * heads * length * key.size(2));
    recording.output(philox_seed).output(philox_offset);
  }
  recording.input(query).input(key).input(value);
  add_mask(recording, mask, query, key);
  recording.attribute(query.scalar_type())
      .attribute(causal)
      .scalar(scale_of(scale, query))
      .scalar(dropout)
      .random(philox)
      .record();
  return {std::move(out),
          std::move(logsumexp),
          Tensor(),
          Tensor(),
          c10::SymInt(length),
          c10::SymInt(key.size(2)),
          std::move(philox_seed),
          std::move(philox_offset),
          Tensor()};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> attention_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& mask, std::array<bool, 4> wanted, const Tensor& out, const Tensor& logsumexp,
    const Tensor& /*cum_seq_q*/, const Tensor& /*cum_seq_k*/, int64_t /*max_q*/, int64_t /*max_k*/,
    double dropout, bool causal, const Tensor& philox_seed, const Tensor& philox_offset,
    std::optional<double> scale) {
  if (!grad_out.defined()) return {};
  check_attention(query, key, value, mask);
  check_same_device("_scaled_dot_product_fused_attention_overrideable_backward",
                    {{query, "query"}, {grad_out, "grad_out"}, {out, "out"}});
  const ScalarType dtype = query.scalar_type();
  Tensor grad_query, grad_key, grad_value, grad_scores;
  if (wanted[0]) grad_query = empty_like(query, dtype);
  if (wanted[1]) grad_key = empty_like(key, dtype);
  if (wanted[2]) grad_value = empty_like(value, dtype);
  const bool mask_wanted = wanted[3] && mask.defined() && at::isFloatingType(mask.scalar_type());
  if (mask_wanted) {
    grad_scores =
        empty_on(query, {query.size(0), query.size(1), query.size(2), key.size(2)}, dtype);
  }
  if (!(wanted[0] || wanted[1] || wanted[2] || mask_wanted)) return {};
  Recording recording(Opcode::AttentionBackward);
  for (const Tensor& output : {grad_query, grad_key, grad_value, grad_scores}) {
    recording.output(output);
  }
  recording.input(query).input(key).input(value);
  add_mask(recording, mask, query, key);
  recording.input(out).input(logsumexp).input(grad_out);
  if (dropout > 0) {
    recording.input(on_device(philox_seed, query)).input(on_device(philox_offset, query));
  }
  recording.attribute(dtype)
      .attribute(causal)
      .scalar(scale_of(scale, query))
      .scalar(dropout)
      .record();
  Tensor grad_mask;
  if (mask_wanted) grad_mask = at::sum_to(grad_scores, mask.sizes()).to(mask.scalar_type());
  return {std::move(grad_query), std::move(grad_key), std::move(grad_value), std::move(grad_mask)};
}

// ---- second derivatives ----

// What dropout multiplies each probability with, [batch, heads, query length, key length]: 0 or
// 1 / (1 - dropout). The fused backward drew it, so it is asked: with all probabilities and all
// gradients of probabilities equal to one, and an output of zero, the gradient of the scores is the
// factor.
Tensor dropout_factors(const Tensor& query, const Tensor& key, double dropout,
                       const Tensor& philox_seed, const Tensor& philox_offset) {
  const c10::SymInt batch = query.sym_size(0), heads = query.sym_size(1),
                    queries = query.sym_size(2), keys = key.sym_size(2);
  const auto options = query.options().dtype(arithmetic_dtype(query.scalar_type()));
  auto rows = [&](const c10::SymInt& length, double value) {
    return at::full_symint({batch, heads, length, 1}, value, options);
  };
  return std::get<3>(at::_scaled_dot_product_fused_attention_overrideable_backward_symint(
      /*grad_out=*/rows(queries, 1), /*query=*/rows(queries, 0), /*key=*/rows(keys, 0),
      /*value=*/rows(keys, 1),
      /*attn_bias=*/at::zeros_symint({batch, heads, queries, keys}, options),
      {false, false, false, true}, /*out=*/rows(queries, 0),
      /*logsumexp=*/at::zeros_symint({batch, heads, queries}, options), {}, {}, queries, keys,
      dropout, /*is_causal=*/false, philox_seed, philox_offset, /*scale=*/1.0));
}

// The gradients of attention as ops that can be differentiated themselves. With scores
// s = scale q k^T + mask, probabilities p = softmax(s), dropout's factors m and out = (m p) v:
//   dv = (m p)^T do,  dp = m (do v^T),  ds = p (dp - sum(p dp)),  dq = scale ds k,
//   dk = scale ds^T q,  dmask = ds
// Heads of the query that share one of the key's are a dimension of their own.
std::tuple<Tensor, Tensor, Tensor, Tensor> composed_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& mask, std::array<bool, 4> wanted, double dropout, bool causal,
    const Tensor& philox_seed, const Tensor& philox_offset, double scale) {
  const ScalarType dtype = query.scalar_type(), compute = arithmetic_dtype(dtype);
  const c10::SymInt batch = query.sym_size(0), heads = query.sym_size(1), groups = key.sym_size(1),
                    queries = query.sym_size(2), keys = key.sym_size(2);
  auto grouped = [&](const Tensor& of_heads) {
    return of_heads.unflatten_symint(1, {groups, heads / groups});
  };
  auto flat = [&](const Tensor& of_groups) { return of_groups.flatten(1, 2).to(dtype); };
  auto of_key = [&](const Tensor& of_groups) { return of_groups.sum(2).to(dtype); };

  const Tensor q = grouped(query.to(compute)), k = key.to(compute).unsqueeze(2),
               v = value.to(compute).unsqueeze(2), grad = grouped(grad_out.to(compute));
  constexpr double kMasked = -std::numeric_limits<double>::infinity();
  Tensor scores = at::matmul(q, k.mT()) * scale;
  if (mask.defined()) {
    const Tensor of_scores = grouped(mask.expand_symint({batch, heads, queries, keys}));
    scores = mask.scalar_type() == ScalarType::Bool
                 ? scores.masked_fill(of_scores.logical_not(), kMasked)
                 : scores + of_scores.to(compute);
  }
  if (causal) {
    const auto flags = query.options().dtype(ScalarType::Bool);
    scores = scores.masked_fill(at::ones_symint({queries, keys}, flags).triu(1), kMasked);
  }
  const Tensor probabilities = at::_safe_softmax(scores, -1);

  Tensor kept = probabilities, grad_kept = at::matmul(grad, v.mT());
  if (dropout > 0) {
    const Tensor factors =
        grouped(dropout_factors(query, key, dropout, philox_seed, philox_offset));
    kept = kept * factors;
    grad_kept = grad_kept * factors;
  }
  const Tensor grad_scores =
      probabilities * (grad_kept - (grad_kept * probabilities).sum(-1, /*keepdim=*/true));

  Tensor grad_query, grad_key, grad_value, grad_mask;
  if (wanted[0]) grad_query = flat(at::matmul(grad_scores, k) * scale);
  if (wanted[1]) grad_key = of_key(at::matmul(grad_scores.mT(), q) * scale);
  if (wanted[2]) grad_value = of_key(at::matmul(kept.mT(), grad));
  if (wanted[3] && mask.defined() && at::isFloatingType(mask.scalar_type())) {
    grad_mask = at::sum_to(grad_scores.flatten(1, 2), mask.sym_sizes()).to(mask.scalar_type());
  }
  return {std::move(grad_query), std::move(grad_key), std::move(grad_value), std::move(grad_mask)};
}

// Under create_graph=True the fused backward, which has no derivative, gives way.
std::tuple<Tensor, Tensor, Tensor, Tensor> differentiable_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& mask, std::array<bool, 4> wanted, const Tensor& out, const Tensor& logsumexp,
    const Tensor& cum_seq_q, const Tensor& cum_seq_k, c10::SymInt max_q, c10::SymInt max_k,
    double dropout, bool causal, const Tensor& philox_seed, const Tensor& philox_offset,
    std::optional<double> scale) {
  bool learnt = false;
  for (const Tensor* tensor : {&grad_out, &query, &key, &value, &mask}) {
    learnt |= tensor->defined() && tensor->requires_grad();
  }
  if (learnt && grad_out.defined() && at::GradMode::is_enabled()) {
    return composed_backward(grad_out, query, key, value, mask, wanted, dropout, causal,
                             philox_seed, philox_offset, scale_of(scale, query));
  }
  const at::AutoDispatchBelowADInplaceOrView guard;
  return at::_scaled_dot_product_fused_attention_overrideable_backward_symint(
      grad_out, query, key, value, mask, wanted, out, logsumexp, cum_seq_q, cum_seq_k,
      std::move(max_q), std::move(max_k), dropout, causal, philox_seed, philox_offset, scale);
}

// ---- the same under the name that DTensor knows ----

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_attention(
    const Tensor& query, const Tensor& key, const Tensor& value, const OptionalTensor& bias,
    bool /*compute_log_sumexp*/, double dropout, bool causal, std::optional<double> scale) {
  auto result = attention(query, key, value, bias, dropout, causal, false, scale);
  return {std::move(std::get<0>(result)), std::move(std::get<1>(result)),
          std::move(std::get<6>(result)), std::move(std::get<7>(result))};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> efficient_attention_backward(
    const Tensor& grad_out, const Tensor& query, const Tensor& key, const Tensor& value,
    const Tensor& bias, const Tensor& out, const Tensor& logsumexp, const Tensor& philox_seed,
    const Tensor& philox_offset, double dropout, std::array<bool, 4> wanted, bool causal,
    std::optional<double> scale) {
  return attention_backward(grad_out, query, key, value, bias, wanted, out, logsumexp, {}, {}, 0, 0,
                            dropout, causal, philox_seed, philox_offset, scale);
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_fused_sdp_choice", TORCH_FN(sdp_choice));
  m.impl("_scaled_dot_product_efficient_attention", TORCH_FN(efficient_attention));
  m.impl("_scaled_dot_product_efficient_attention_backward",
         TORCH_FN(efficient_attention_backward));
  m.impl("_scaled_dot_product_fused_attention_overrideable", TORCH_FN(attention));
  m.impl("_scaled_dot_product_fused_attention_overrideable_backward", TORCH_FN(attention_backward));
}

TORCH_LIBRARY_IMPL(aten, AutogradPrivateUse1, m) {
  m.impl("_scaled_dot_product_fused_attention_overrideable_backward",
         TORCH_FN(differentiable_backward));
}

}  // namespace accel::aten

namespace at::native {

// scaled_dot_product_attention asks the stub, before dispatch, whether the device has a choice.
REGISTER_PRIVATEUSE1_DISPATCH(_fused_sdp_choice_stub, &accel::aten::sdp_choice)

}  // namespace at::native

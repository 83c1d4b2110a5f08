// The pointwise part of recurrent cells, between the matmuls that make their gates. Composed of
// recorded ops that the planner fuses: each step's cell becomes a few Launches. LibTorch's
// recurrent layers call these fused cells on every device but the CPU.
#include <ATen/ops/add.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mul.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/sub.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/tanh.h>

#include "csrc/aten/recording.h"

namespace accel::aten {

namespace {

// Slices of equal width along the gates' dimension.
Tensor gate(const Tensor& gates, int64_t number, int64_t width) {
  return gates.narrow(1, number * width, width);
}

Tensor with_bias(const Tensor& gates, const OptionalTensor& bias) {
  return bias && bias->defined() ? at::add(gates, *bias) : gates;
}

void check_gates(const char* op, const Tensor& input_gates, const Tensor& hidden_gates,
                 const Tensor& hidden, int64_t gates) {
  TORCH_CHECK(input_gates.dim() == 2 && hidden.dim() == 2, op, ": expected 2D tensors, got ",
              input_gates.dim(), "D gates and a ", hidden.dim(), "D state");
  TORCH_CHECK(input_gates.sizes() == hidden_gates.sizes(), op, ": gates of ", input_gates.sizes(),
              " and ", hidden_gates.sizes(), " do not match");
  TORCH_CHECK(
      input_gates.size(0) == hidden.size(0) && input_gates.size(1) == gates * hidden.size(1), op,
      ": gates of ", input_gates.sizes(), " do not fit a state of ", hidden.sizes());
}

// x (1 - x), the derivative of the sigmoid in terms of its value.
Tensor sigmoid_slope(const Tensor& value) { return at::mul(value, at::rsub(value, 1)); }

// 1 - x², the derivative of tanh in terms of its value.
Tensor tanh_slope(const Tensor& value) { return at::rsub(at::mul(value, value), 1); }

// Gates in the order input, forget, cell, output. The workspace keeps their activations.
std::tuple<Tensor, Tensor, Tensor> lstm_cell(const Tensor& input_gates, const Tensor& hidden_gates,
                                             const Tensor& cx, const OptionalTensor& input_bias,
                                             const OptionalTensor& hidden_bias) {
  check_gates("_thnn_fused_lstm_cell", input_gates, hidden_gates, cx, 4);
  const int64_t width = cx.size(1);
  const Tensor gates =
      at::add(with_bias(input_gates, input_bias), with_bias(hidden_gates, hidden_bias));
  Tensor workspace = at::empty(gates.sizes(), gates.options());
  Tensor in = gate(workspace, 0, width), forget = gate(workspace, 1, width);
  Tensor cell = gate(workspace, 2, width), out = gate(workspace, 3, width);
  at::sigmoid_out(in, gate(gates, 0, width));
  at::sigmoid_out(forget, gate(gates, 1, width));
  at::tanh_out(cell, gate(gates, 2, width));
  at::sigmoid_out(out, gate(gates, 3, width));
  Tensor cy = at::add(at::mul(forget, cx), at::mul(in, cell));
  return {at::mul(out, at::tanh(cy)), cy, workspace};
}

std::tuple<Tensor, Tensor, Tensor> lstm_cell_backward(const OptionalTensor& grad_hy,
                                                      const OptionalTensor& grad_cy,
                                                      const Tensor& cx, const Tensor& cy,
                                                      const Tensor& workspace, bool has_bias) {
  const bool has_hy = grad_hy && grad_hy->defined(), has_cy = grad_cy && grad_cy->defined();
  if (!has_hy && !has_cy) return {};
  const int64_t width = cx.size(1);
  const Tensor in = gate(workspace, 0, width), forget = gate(workspace, 1, width);
  const Tensor cell = gate(workspace, 2, width), out = gate(workspace, 3, width);
  Tensor grad_gates = at::empty(workspace.sizes(), workspace.options());
  Tensor to_in = gate(grad_gates, 0, width), to_forget = gate(grad_gates, 1, width);
  Tensor to_cell = gate(grad_gates, 2, width), to_out = gate(grad_gates, 3, width);
  Tensor to_cy;
  if (has_hy) {
    const Tensor squashed = at::tanh(cy);
    at::mul_out(to_out, at::mul(*grad_hy, squashed), sigmoid_slope(out));
    to_cy = at::mul(at::mul(*grad_hy, out), tanh_slope(squashed));
    if (has_cy) to_cy = at::add(to_cy, *grad_cy);
  } else {
    to_out.zero_();
    to_cy = *grad_cy;
  }
  at::mul_out(to_in, at::mul(to_cy, cell), sigmoid_slope(in));
  at::mul_out(to_forget, at::mul(to_cy, cx), sigmoid_slope(forget));
  at::mul_out(to_cell, at::mul(to_cy, in), tanh_slope(cell));
  return {grad_gates, at::mul(to_cy, forget), has_bias ? at::sum(grad_gates, {0}) : Tensor()};
}

// Gates in the order reset, update, new. The workspace keeps their activations, the old state and
// what the reset gate multiplies.
std::tuple<Tensor, Tensor> gru_cell(const Tensor& input_gates, const Tensor& hidden_gates,
                                    const Tensor& hx, const OptionalTensor& input_bias,
                                    const OptionalTensor& hidden_bias) {
  check_gates("_thnn_fused_gru_cell", input_gates, hidden_gates, hx, 3);
  const int64_t width = hx.size(1);
  const Tensor from_input = with_bias(input_gates, input_bias);
  const Tensor from_hidden = with_bias(hidden_gates, hidden_bias);
  Tensor workspace = at::empty({hx.size(0), 5 * width}, input_gates.options());
  Tensor reset = gate(workspace, 0, width), update = gate(workspace, 1, width);
  Tensor fresh = gate(workspace, 2, width), hidden = gate(workspace, 4, width);
  at::sigmoid_out(reset, at::add(gate(from_input, 0, width), gate(from_hidden, 0, width)));
  at::sigmoid_out(update, at::add(gate(from_input, 1, width), gate(from_hidden, 1, width)));
  hidden.copy_(gate(from_hidden, 2, width));
  at::tanh_out(fresh, at::add(gate(from_input, 2, width), at::mul(reset, hidden)));
  gate(workspace, 3, width).copy_(hx);
  return {at::add(at::mul(at::sub(hx, fresh), update), fresh), workspace};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(const Tensor& grad_hy,
                                                                     const Tensor& workspace,
                                                                     bool has_bias) {
  const int64_t width = grad_hy.size(1);
  const Tensor reset = gate(workspace, 0, width), update = gate(workspace, 1, width);
  const Tensor fresh = gate(workspace, 2, width), hx = gate(workspace, 3, width);
  const Tensor hidden = gate(workspace, 4, width);
  Tensor grad_input = at::empty({grad_hy.size(0), 3 * width}, workspace.options());
  Tensor grad_hidden = at::empty_like(grad_input);
  Tensor to_fresh = gate(grad_input, 2, width);
  at::mul_out(to_fresh, at::mul(grad_hy, at::rsub(update, 1)), tanh_slope(fresh));
  const Tensor to_reset = at::mul(at::mul(to_fresh, hidden), sigmoid_slope(reset));
  const Tensor to_update = at::mul(at::mul(grad_hy, at::sub(hx, fresh)), sigmoid_slope(update));
  for (Tensor& grads : std::array<Tensor, 2>{grad_input, grad_hidden}) {
    gate(grads, 0, width).copy_(to_reset);
    gate(grads, 1, width).copy_(to_update);
  }
  Tensor to_hidden = gate(grad_hidden, 2, width);
  at::mul_out(to_hidden, to_fresh, reset);
  Tensor input_bias, hidden_bias;
  if (has_bias) {
    input_bias = at::sum(grad_input, {0});
    hidden_bias = at::sum(grad_hidden, {0});
  }
  return {grad_input, grad_hidden, at::mul(grad_hy, update), input_bias, hidden_bias};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_thnn_fused_lstm_cell", TORCH_FN(lstm_cell));
  m.impl("_thnn_fused_lstm_cell_backward_impl", TORCH_FN(lstm_cell_backward));
  m.impl("_thnn_fused_gru_cell", TORCH_FN(gru_cell));
  m.impl("_thnn_fused_gru_cell_backward", TORCH_FN(gru_cell_backward));
}

}  // namespace accel::aten

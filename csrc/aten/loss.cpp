// Losses with kernels of their own: negative log likelihood (cross-entropy ends in it) and mean
// squared error; smooth L1, Huber and binary cross-entropy as compositions of ops that fuse. Others
// are PyTorch's own compositions, or host ops.
#include <ATen/ExpandUtils.h>
#include <ATen/core/Reduction.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/nll_loss_backward_meta.h>
#include <ATen/ops/nll_loss_forward_meta.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/rsub.h>
#include <ATen/ops/where.h>

#include "csrc/aten/inference.h"
#include "kernels/loss/nll_loss.h"

namespace accel::aten {

namespace {

bool recordable(const Tensor& tensor) {
  return is_plain(tensor) && at::isFloatingType(tensor.scalar_type()) && is_native(tensor);
}

// --- negative log likelihood ---------------------------------------------------------------------

uint64_t reduction_attribute(int64_t reduction) {
  static_assert(static_cast<int>(kernels::Reduction::None) == at::Reduction::None &&
                static_cast<int>(kernels::Reduction::Mean) == at::Reduction::Mean &&
                static_cast<int>(kernels::Reduction::Sum) == at::Reduction::Sum);
  return static_cast<uint64_t>(reduction);
}

void check_nll(const char* op, const Tensor& self, const Tensor& target, const Tensor& weight) {
  check_same_device(op, {{self, "self"}, {target, "target"}, {weight, "weight"}});
  TORCH_CHECK_NOT_IMPLEMENTED(recordable(self), "\"nll_loss_out_frame\" not implemented for '",
                              toString(self.scalar_type()), "'");
  TORCH_CHECK(target.scalar_type() == at::kLong || target.scalar_type() == at::kByte,
              "expected target dtype to be Long or Byte, but got ", toString(target.scalar_type()));
  TORCH_CHECK(!weight.defined() || weight.scalar_type() == self.scalar_type(),
              "expected scalar type ", toString(self.scalar_type()), " but found ",
              toString(weight.scalar_type()));
}

// Scores are [rows, classes]; a single row of scores has no dimension for it.
struct Rows {
  int64_t sizes[2];
  int64_t strides[2];
  explicit Rows(const Tensor& self)
      : sizes{self.dim() == 2 ? self.size(0) : 1, self.size(-1)},
        strides{self.dim() == 2 ? self.stride(0) : self.size(-1), self.stride(-1)} {}
  IntArrayRef rows() const { return {sizes, 1}; }
};

// Targets as int64 with one stride.
void add_targets(Recording& recording, const Tensor& target, const Rows& rows) {
  const Tensor targets = target.to(at::kLong);
  const int64_t stride = targets.dim() == 1 ? targets.stride(0) : 1;
  recording.input(targets, rows.rows(), IntArrayRef{stride});
}

void record_nll(const Tensor& out, const Tensor& total_weight, const Tensor& self,
                const Tensor& target, const Tensor& weight, int64_t reduction,
                int64_t ignore_index) {
  const Rows rows(self);
  Recording recording(Opcode::NllLoss);
  recording.output(out).output(total_weight).input(self, rows.sizes, rows.strides);
  add_targets(recording, target, rows);
  recording.input(weight.defined() ? weight.contiguous() : Tensor())
      .attribute(self.scalar_type())
      .attribute(static_cast<uint64_t>(ignore_index))
      .attribute(reduction_attribute(reduction))
      .record();
}

std::tuple<Tensor, Tensor> nll_loss(const Tensor& self, const Tensor& target,
                                    const OptionalTensor& weight_option, int64_t reduction,
                                    int64_t ignore_index) {
  const Tensor& weight = value_or_undefined(weight_option);
  Inferred<at::meta::structured_nll_loss_forward, 2> op;
  op.meta(self, target, weight, reduction, ignore_index);
  check_nll("nll_loss_forward", self, target, weight);
  record_nll(op[0], op[1], self, target, weight, reduction, ignore_index);
  return {op[0], op[1]};
}

std::tuple<Tensor&, Tensor&> nll_loss_out(const Tensor& self, const Tensor& target,
                                          const OptionalTensor& weight_option, int64_t reduction,
                                          int64_t ignore_index, Tensor& out, Tensor& total_weight) {
  const Tensor& weight = value_or_undefined(weight_option);
  Inferred<at::meta::structured_nll_loss_forward, 2> op{out, total_weight};
  op.meta(self, target, weight, reduction, ignore_index);
  check_nll("nll_loss_forward", self, target, weight);
  // The engine writes dense outputs.
  auto [loss, total] = nll_loss(self, target, weight_option, reduction, ignore_index);
  out.copy_(loss);
  total_weight.copy_(total);
  return {out, total_weight};
}

void record_nll_backward(const Tensor& grad_input, const Tensor& grad, const Tensor& self,
                         const Tensor& target, const Tensor& weight, int64_t reduction,
                         int64_t ignore_index, const Tensor& total_weight) {
  const Rows rows(self);
  const int64_t grad_stride = grad.dim() == 1 && grad.numel() > 1 ? grad.stride(0) : 0;
  const int64_t out_strides[] = {self.dim() == 2 ? grad_input.stride(0) : rows.sizes[1],
                                 grad_input.stride(-1)};
  Recording recording(Opcode::NllLossBackward);
  recording.output(grad_input, rows.sizes, out_strides)
      .input(grad, rows.rows(), IntArrayRef{grad_stride});
  add_targets(recording, target, rows);
  recording.input(weight, rows.sizes)
      .input(total_weight, rows.rows(), IntArrayRef{0})
      .attribute(arithmetic_dtype(self.scalar_type()))
      .attribute(1)
      .attribute(false)
      .attribute(reduction == at::Reduction::Mean)
      .scalar(scalar_of(ignore_index))
      .record();
}

void check_nll_backward(const Tensor& grad, const Tensor& self, const Tensor& target,
                        const Tensor& weight, const Tensor& total_weight) {
  check_nll("nll_loss_backward", self, target, weight);
  check_same_device("nll_loss_backward",
                    {{self, "self"}, {grad, "grad_output"}, {total_weight, "total_weight"}});
}

Tensor nll_loss_backward(const Tensor& grad, const Tensor& self, const Tensor& target,
                         const OptionalTensor& weight_option, int64_t reduction,
                         int64_t ignore_index, const Tensor& total_weight) {
  const Tensor& weight = value_or_undefined(weight_option);
  Inferred<at::meta::structured_nll_loss_backward> op;
  op.meta(grad, self, target, weight, reduction, ignore_index, total_weight);
  check_nll_backward(grad, self, target, weight, total_weight);
  record_nll_backward(op[0], grad, self, target, weight, reduction, ignore_index, total_weight);
  return op[0];
}

Tensor& nll_loss_backward_out(const Tensor& grad, const Tensor& self, const Tensor& target,
                              const OptionalTensor& weight_option, int64_t reduction,
                              int64_t ignore_index, const Tensor& total_weight,
                              Tensor& grad_input) {
  const Tensor& weight = value_or_undefined(weight_option);
  Inferred<at::meta::structured_nll_loss_backward> op{grad_input};
  op.meta(grad, self, target, weight, reduction, ignore_index, total_weight);
  check_nll_backward(grad, self, target, weight, total_weight);
  record_nll_backward(grad_input, grad, self, target, weight, reduction, ignore_index,
                      total_weight);
  return grad_input;
}

// Over pixels: the same with a row a pixel. What does not fit the host refuses.
bool fits_pixels(const Tensor& self, const Tensor& target) {
  return recordable(self) && self.numel() > 0 && self.dim() == 4 && target.dim() == 3 &&
         target.size(0) == self.size(0) && target.size(1) == self.size(2) &&
         target.size(2) == self.size(3);
}

Tensor pixels_of(const Tensor& self) {
  return self.permute({0, 2, 3, 1}).reshape({-1, self.size(1)});
}

std::tuple<Tensor, Tensor> nll_loss2d(const Tensor& self, const Tensor& target,
                                      const OptionalTensor& weight, int64_t reduction,
                                      int64_t ignore_index) {
  if (!fits_pixels(self, target)) {
    return to_host<std::tuple<Tensor, Tensor>>("aten::nll_loss2d_forward", "", self, target, weight,
                                               reduction, ignore_index);
  }
  auto [loss, total] =
      nll_loss(pixels_of(self), target.reshape({-1}), weight, reduction, ignore_index);
  if (reduction == at::Reduction::None) loss = loss.view(target.sizes());
  return {loss, total};
}

Tensor nll_loss2d_backward(const Tensor& grad, const Tensor& self, const Tensor& target,
                           const OptionalTensor& weight, int64_t reduction, int64_t ignore_index,
                           const Tensor& total_weight) {
  if (!fits_pixels(self, target)) {
    return to_host<Tensor>("aten::nll_loss2d_backward", "", grad, self, target, weight, reduction,
                           ignore_index, total_weight);
  }
  const Tensor rows =
      nll_loss_backward(grad.dim() ? grad.reshape({-1}) : grad, pixels_of(self),
                        target.reshape({-1}), weight, reduction, ignore_index, total_weight);
  return rows.view({self.size(0), self.size(2), self.size(3), self.size(1)})
      .permute({0, 3, 1, 2})
      .contiguous();
}

// --- mean squared error --------------------------------------------------------------------------

void check_mse(const Tensor& self, const Tensor& target, ScalarType dtype) {
  check_same_device("mse_loss", {{self, "self"}, {target, "target"}});
  TORCH_CHECK_NOT_IMPLEMENTED(at::isFloatingType(dtype), "\"mse_cpu\" not implemented for '",
                              toString(dtype), "'");
}

// out: with the broadcast sizes (no reduction), or of one element.
void record_mse(const Tensor& out, const Tensor& self, const Tensor& target, int64_t reduction,
                IntArrayRef sizes) {
  const ScalarType dtype = out.scalar_type();
  const bool reduces = reduction != at::Reduction::None;
  const Tensor squares = reduces ? empty_elementwise({&self, &target}, sizes, dtype) : out;
  Recording(Opcode::SquaredDifference)
      .output(squares)
      .input(self, sizes)
      .input(target, sizes)
      .attribute(dtype)
      .record();
  if (!reduces) return;
  Recording(reduction == at::Reduction::Mean ? Opcode::ReduceMean : Opcode::ReduceSum)
      .output(out)
      .input(squares)
      .attribute(dtype)
      .attribute(0)
      .attribute(false)
      .record();
}

Tensor mse_loss(const Tensor& self, const Tensor& target, int64_t reduction) {
  const ScalarType dtype = at::result_type(self, target);
  if (!is_plain(self) || !is_plain(target) || !is_native(self) || !is_native(target)) {
    return to_host<Tensor>("aten::mse_loss", "", self, target, reduction);
  }
  check_mse(self, target, dtype);
  const auto sizes = at::infer_size_dimvector(self.sizes(), target.sizes());
  Tensor out = reduction == at::Reduction::None ? empty_elementwise({&self, &target}, sizes, dtype)
                                                : empty_on(self, {}, dtype);
  record_mse(out, self, target, reduction, sizes);
  return out;
}

Tensor& mse_loss_out(const Tensor& self, const Tensor& target, int64_t reduction, Tensor& out) {
  Tensor result = mse_loss(self, target, reduction);
  TORCH_CHECK(at::canCast(result.scalar_type(), out.scalar_type()), "result type ",
              result.scalar_type(), " can't be cast to the desired output type ",
              out.scalar_type());
  resize_output(out, result.sizes());
  return out.copy_(result);
}

void record_mse_backward(const Tensor& grad_input, const Tensor& grad, const Tensor& self,
                         const Tensor& target, int64_t reduction) {
  const IntArrayRef sizes = grad_input.sizes();
  const auto elements = static_cast<double>(self.numel());
  Recording(Opcode::MseBackward)
      .output(grad_input)
      .input(self, sizes)
      .input(target, sizes)
      .input(grad, sizes)
      .attribute(arithmetic_dtype(grad_input.scalar_type()))
      .scalar(reduction == at::Reduction::Mean ? 2 / elements : 2.0)
      .record();
}

Tensor mse_loss_backward(const Tensor& grad, const Tensor& self, const Tensor& target,
                         int64_t reduction) {
  if (!recordable(grad) || !recordable(self) || !recordable(target)) {
    return to_host<Tensor>("aten::mse_loss_backward", "", grad, self, target, reduction);
  }
  check_same_device("mse_loss_backward",
                    {{self, "self"}, {target, "target"}, {grad, "grad_output"}});
  const auto sizes = at::infer_size_dimvector(
      at::infer_size_dimvector(self.sizes(), target.sizes()), grad.sizes());
  Tensor grad_input = empty_elementwise({&self, &target, &grad}, sizes, self.scalar_type());
  record_mse_backward(grad_input, grad, self, target, reduction);
  return grad_input;
}

Tensor& mse_loss_backward_out(const Tensor& grad, const Tensor& self, const Tensor& target,
                              int64_t reduction, Tensor& grad_input) {
  Tensor result = mse_loss_backward(grad, self, target, reduction);
  resize_output(grad_input, result.sizes());
  return grad_input.copy_(result);
}

// --- smooth L1, Huber ----------------------------------------------------------------------------

Tensor reduced(const Tensor& loss, int64_t reduction) {
  if (reduction == at::Reduction::Mean) return loss.mean();
  return reduction == at::Reduction::Sum ? loss.sum() : loss;
}

// By the chain rule: the slope of a loss in its input, times the gradient of its reduction.
Tensor scaled_slope(const Tensor& slope, const Tensor& grad, int64_t reduction) {
  const Tensor product = slope.mul(grad);
  if (reduction != at::Reduction::Mean) return product;
  return product.mul(1 / static_cast<double>(slope.numel()));
}

// Booleans count as 0 and 1.
Tensor difference_of(const Tensor& self, const Tensor& target) {
  const ScalarType dtype = at::result_type(self, target);
  return self.to(dtype).sub(target.to(dtype));
}

void check_loss(const char* kernel, const Tensor& self, const Tensor& target) {
  const ScalarType dtype = at::result_type(self, target);
  TORCH_CHECK_NOT_IMPLEMENTED(at::isFloatingType(dtype), "\"", kernel, "\" not implemented for '",
                              toString(dtype), "'");
}

// distance² / 2 beta within beta, distance - beta / 2 beyond.
Tensor smooth_l1_loss(const Tensor& self, const Tensor& target, int64_t reduction, double beta) {
  TORCH_CHECK(beta >= 0, "smooth_l1_loss does not support negative values for beta.");
  check_loss("smooth_l1_cpu", self, target);
  const Tensor distance = difference_of(self, target).abs();
  if (beta == 0) return reduced(distance, reduction);
  const Tensor near = distance.mul(distance).mul(0.5 / beta);
  return reduced(at::where(distance.lt(beta), near, distance.sub(0.5 * beta)), reduction);
}

Tensor smooth_l1_loss_backward(const Tensor& grad, const Tensor& self, const Tensor& target,
                               int64_t reduction, double beta) {
  const Tensor difference = difference_of(self, target);
  const Tensor slope = beta == 0 ? difference.sign() : difference.div(beta).clamp(-1, 1);
  return scaled_slope(slope, grad, reduction);
}

// distance² / 2 within delta, delta (distance - delta / 2) beyond.
Tensor huber_loss(const Tensor& self, const Tensor& target, int64_t reduction, double delta) {
  TORCH_CHECK(delta > 0, "huber_loss does not support non-positive values for delta.");
  check_loss("huber_cpu", self, target);
  const Tensor distance = difference_of(self, target).abs();
  const Tensor near = distance.mul(distance).mul(0.5), far = distance.sub(0.5 * delta).mul(delta);
  return reduced(at::where(distance.le(delta), near, far), reduction);
}

Tensor huber_loss_backward(const Tensor& grad, const Tensor& self, const Tensor& target,
                           int64_t reduction, double delta) {
  return scaled_slope(difference_of(self, target).clamp(-delta, delta), grad, reduction);
}

// --- binary cross-entropy ------------------------------------------------------------------------

Tensor weighted(const Tensor& loss, const OptionalTensor& weight) {
  return weight && weight->defined() ? loss.mul(*weight) : loss;
}

// -(t ln x + (1 - t) ln(1 - x)), logarithms not below -100. An x outside [0, 1] gives NaN, where
// the CPU raises: nothing waits for values here.
Tensor binary_cross_entropy(const Tensor& self, const Tensor& target, const OptionalTensor& weight,
                            int64_t reduction) {
  check_loss("binary_cross_entropy", self, target);
  const Tensor log_one = self.log().clamp_min(-100);
  const Tensor log_zero = self.neg().log1p().clamp_min(-100);
  const Tensor loss = target.sub(1).mul(log_zero).sub(target.mul(log_one));
  return reduced(weighted(loss, weight), reduction);
}

Tensor binary_cross_entropy_backward(const Tensor& grad, const Tensor& self, const Tensor& target,
                                     const OptionalTensor& weight, int64_t reduction) {
  const Tensor variance = at::rsub(self, 1).mul(self).clamp_min(1e-12);
  return scaled_slope(weighted(self.sub(target).div(variance), weight), grad, reduction);
}

// A host op. Its meta function gives a single example a loss of size [1], where it is a scalar.
std::tuple<Tensor, Tensor> multilabel_margin_loss(const Tensor& self, const Tensor& target,
                                                  int64_t reduction) {
  const bool single = target.dim() <= 1 && reduction == at::Reduction::None;
  Tensor output = at::empty({0}, self.options()), is_target = at::empty({0}, self.options());
  to_host<std::tuple<Tensor, Tensor>>("aten::multilabel_margin_loss_forward", "output", self,
                                      target, reduction, output, is_target);
  return {single ? output.view(IntArrayRef{}) : output, is_target};
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("nll_loss_forward", TORCH_FN(nll_loss));
  m.impl("nll_loss_forward.output", TORCH_FN(nll_loss_out));
  m.impl("nll_loss_backward", TORCH_FN(nll_loss_backward));
  m.impl("nll_loss_backward.grad_input", TORCH_FN(nll_loss_backward_out));

  m.impl("nll_loss2d_forward", TORCH_FN(nll_loss2d));
  m.impl("nll_loss2d_backward", TORCH_FN(nll_loss2d_backward));

  m.impl("mse_loss", TORCH_FN(mse_loss));
  m.impl("mse_loss.out", TORCH_FN(mse_loss_out));
  m.impl("mse_loss_backward", TORCH_FN(mse_loss_backward));
  m.impl("mse_loss_backward.grad_input", TORCH_FN(mse_loss_backward_out));

  m.impl("smooth_l1_loss", TORCH_FN(smooth_l1_loss));
  m.impl("smooth_l1_loss_backward", TORCH_FN(smooth_l1_loss_backward));
  m.impl("huber_loss", TORCH_FN(huber_loss));
  m.impl("huber_loss_backward", TORCH_FN(huber_loss_backward));
  m.impl("multilabel_margin_loss_forward", TORCH_FN(multilabel_margin_loss));
  m.impl("binary_cross_entropy", TORCH_FN(binary_cross_entropy));
  m.impl("binary_cross_entropy_backward", TORCH_FN(binary_cross_entropy_backward));
}

}  // namespace accel::aten

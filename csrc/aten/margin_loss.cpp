// multi_margin_loss, a composition of ops that fuse: for each row the mean over the other classes
// of max(0, margin - x[target] + x)^p, times the target's weight.
#include <ATen/core/Reduction.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/where.h>

#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

// Rows of scores and what both directions compute of them.
struct Margins {
  Tensor distance;   // margin - x[target] + x
  Tensor is_target;  // which column is the row's target
  Tensor counts;     // where the distance is part of the loss
  Tensor weight;     // of each row's target, or undefined
  int64_t classes;
};

bool takes(const Tensor& self, const Tensor& target, const Tensor& weight) {
  const ScalarType dtype = self.scalar_type();
  const bool is_floating = dtype == at::kFloat || dtype == at::kDouble;
  return is_plain(self) && is_plain(target) && is_floating && self.numel() > 0 && self.dim() <= 2 &&
         target.dim() <= 1 && target.numel() == (self.dim() == 2 ? self.size(0) : 1) &&
         target.scalar_type() == at::kLong &&
         (!weight.defined() ||
          (is_plain(weight) && weight.scalar_type() == dtype && weight.dim() <= 1 &&
           weight.numel() == (self.dim() == 0 ? 1 : self.size(-1))));
}

bool is_power(const at::Scalar& p) { return p.toDouble() == 1 || p.toDouble() == 2; }

Margins margins_of(const Tensor& self, const Tensor& target, const at::Scalar& margin,
                   const Tensor& weight) {
  const Tensor rows = self.dim() == 2 ? self : self.reshape({1, -1});
  const Tensor column = target.reshape({-1, 1});
  Margins result;
  result.classes = rows.size(1);
  result.distance = rows.gather(1, column).neg().add(margin).add(rows);
  result.is_target = at::arange(result.classes, target.options()).eq(column);
  result.counts = result.distance.gt(0).logical_and(result.is_target.logical_not());
  if (weight.defined()) result.weight = weight.reshape(-1).gather(0, column.view(-1)).unsqueeze(1);
  return result;
}

Tensor multi_margin_loss(const Tensor& self, const Tensor& target, const at::Scalar& p,
                         const at::Scalar& margin, const OptionalTensor& weight_option,
                         int64_t reduction) {
  const Tensor& weight = value_or_undefined(weight_option);
  if (!takes(self, target, weight) || !is_power(p)) {
    return to_host<Tensor>("aten::multi_margin_loss", "", self, target, p, margin, weight_option,
                           reduction);
  }
  const Margins margins = margins_of(self, target, margin, weight);
  Tensor loss = p.toDouble() == 1 ? margins.distance : margins.distance.mul(margins.distance);
  if (margins.weight.defined()) loss = loss.mul(margins.weight);
  loss = at::where(margins.counts, loss, loss.new_zeros({}))
             .sum(1)
             .div(static_cast<double>(margins.classes));
  if (reduction == at::Reduction::Mean) return loss.mean();
  if (reduction == at::Reduction::Sum) return loss.sum();
  return target.dim() == 0 ? loss.view(IntArrayRef{}) : loss;
}

Tensor multi_margin_loss_backward(const Tensor& grad, const Tensor& self, const Tensor& target,
                                  const at::Scalar& p, const at::Scalar& margin,
                                  const OptionalTensor& weight_option, int64_t reduction) {
  const Tensor& weight = value_or_undefined(weight_option);
  if (!takes(self, target, weight) || !is_power(p) || !is_plain(grad)) {
    return to_host<Tensor>("aten::multi_margin_loss_backward", "", grad, self, target, p, margin,
                           weight_option, reduction);
  }
  const Margins margins = margins_of(self, target, margin, weight);
  const auto terms =
      static_cast<double>(reduction == at::Reduction::Mean ? self.numel() : margins.classes);
  const Tensor unit = margins.distance.new_full({}, 1 / terms);
  Tensor slope = p.toDouble() == 1 ? unit : margins.distance.mul(unit).mul(2);
  if (margins.weight.defined()) slope = slope.mul(margins.weight);
  slope = at::where(margins.counts, slope, unit.new_zeros({}));
  const Tensor of_target = slope.sum(1, /*keepdim=*/true).neg();
  const Tensor gradient = at::where(margins.is_target, of_target, slope);
  return gradient.mul(grad.dim() == 0 ? grad : grad.unsqueeze(1)).view(self.sizes());
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("multi_margin_loss", TORCH_FN(multi_margin_loss));
  m.impl("multi_margin_loss_backward", TORCH_FN(multi_margin_loss_backward));
}

}  // namespace accel::aten

// Optimizer steps and the gradient scaler: fused steps are one Node for many parameters, the
// scaler's questions are recorded arithmetic, so that nothing here waits.

#include <limits>

#include "csrc/aten/alias.h"
#include "csrc/aten/recording.h"

namespace accel::aten {

namespace {

using at::TensorList;

// A Node's Views are counted in 16 bits, and a Plan is made of whole Nodes: large models take
// several.
constexpr size_t kTensorsPerNode = 200;

// A learning rate: a number, or a scalar of the device that a schedule writes.
struct LearningRate {
  double value = 0;
  OptionalTensor tensor;

  LearningRate(double number) : value(number) {}
  LearningRate(const Tensor& source) {
    if (source.device().is_cpu()) {
      value = scalar_of_cpu(source, ScalarType::Double).d;
    } else {
      tensor = source.scalar_type() == ScalarType::Float ? source : source.to(ScalarType::Float);
    }
  }
};

// A device scalar that kernels read as a float, or none.
bool is_float_scalar(const OptionalTensor& tensor) {
  return !tensor || !tensor->defined() ||
         (is_plain(*tensor) && tensor->numel() == 1 && tensor->scalar_type() == ScalarType::Float);
}

bool has_value(const OptionalTensor& tensor) { return tensor && tensor->defined(); }

// Whether a tensor's elements stand in memory in the order of the parameter's.
bool is_laid_out_as(const Tensor& tensor, const Tensor& parameter) {
  return is_plain(tensor) && tensor.sizes() == parameter.sizes() &&
         tensor.strides() == parameter.strides();
}

bool is_steppable(const Tensor& parameter) {
  return is_plain(parameter) && is_native(parameter) && parameter.is_floating_point() &&
         parameter.is_non_overlapping_and_dense();
}

// A gradient in the parameter's layout: itself, nearly always. An unscaled one is written back, so
// it cannot be a copy.
Tensor gradient_for(const Tensor& grad, const Tensor& parameter) {
  if (grad.strides() == parameter.strides()) return grad;
  Tensor dense = empty_on(parameter, parameter.sizes(), parameter.strides(), grad.scalar_type());
  dense.copy_(grad);
  return dense;
}

bool takes_gradient(const Tensor& grad, const Tensor& parameter, const OptionalTensor& grad_scale) {
  if (grad.scalar_type() != parameter.scalar_type() || !is_plain(grad)) return false;
  return has_value(grad_scale) ? is_laid_out_as(grad, parameter)
                               : grad.sizes() == parameter.sizes();
}

// --- Adam ----------------------------------------------------------------------------------------

struct AdamLists {
  TensorList parameters, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, steps;
};

struct AdamSettings {
  double beta1, beta2, weight_decay, eps;
  bool amsgrad, maximize;
  kernels::WeightDecay decay;
};

bool is_recordable(const AdamLists& lists, bool amsgrad, const OptionalTensor& grad_scale,
                   const OptionalTensor& found_inf) {
  if (!is_float_scalar(grad_scale) || !is_float_scalar(found_inf)) return false;
  for (size_t i = 0; i < lists.parameters.size(); ++i) {
    const Tensor& parameter = lists.parameters[i];
    const ScalarType state = lists.exp_avgs[i].scalar_type();
    auto is_state = [&](const Tensor& tensor) {
      return is_laid_out_as(tensor, parameter) && tensor.scalar_type() == state;
    };
    const Tensor& step = lists.steps[i];
    if (!is_steppable(parameter) || !takes_gradient(lists.grads[i], parameter, grad_scale) ||
        !is_state(lists.exp_avgs[i]) || !is_state(lists.exp_avg_sqs[i]) ||
        (amsgrad && !is_state(lists.max_exp_avg_sqs[i])) || !at::isFloatingType(state) ||
        !is_plain(step) || step.numel() != 1 || step.scalar_type() != ScalarType::Float) {
      return false;
    }
  }
  return true;
}

void record_adam(const AdamLists& lists, size_t begin, size_t end, const LearningRate& rate,
                 const AdamSettings& settings, const OptionalTensor& grad_scale,
                 const OptionalTensor& found_inf) {
  const Tensor absent;
  std::vector<Tensor> grads;
  Recording recording(Opcode::Adam);
  recording.input(rate.tensor).input(grad_scale).input(found_inf);
  for (size_t i = begin; i < end; ++i) {
    const Tensor& parameter = lists.parameters[i];
    grads.push_back(gradient_for(lists.grads[i], parameter));
    recording.output(parameter)
        .output(lists.exp_avgs[i])
        .output(lists.exp_avg_sqs[i])
        .output(settings.amsgrad ? lists.max_exp_avg_sqs[i] : absent)
        .input(grads.back())
        .input(lists.steps[i]);
  }
  if (has_value(grad_scale)) {
    for (const Tensor& grad : grads) recording.output(grad);
  }
  recording.attribute(lists.parameters[begin].scalar_type())
      .attribute(settings.amsgrad)
      .attribute(settings.maximize)
      .attribute(static_cast<uint64_t>(settings.decay))
      .scalar(rate.value)
      .scalar(settings.beta1)
      .scalar(settings.beta2)
      .scalar(settings.weight_decay)
      .scalar(settings.eps)
      .record();
}

template <kernels::WeightDecay kDecay, const char* const* kName, const char* const* kOverload,
          typename Rate>
void fused_adam_(TensorList self, TensorList grads, TensorList exp_avgs, TensorList exp_avg_sqs,
                 TensorList max_exp_avg_sqs, TensorList state_steps, Rate lr, double beta1,
                 double beta2, double weight_decay, double eps, bool amsgrad, bool maximize,
                 const OptionalTensor& grad_scale, const OptionalTensor& found_inf) {
  const AdamLists lists{self, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps};
  if (!is_recordable(lists, amsgrad, grad_scale, found_inf)) {
    return to_host<void>(*kName, *kOverload, self, grads, exp_avgs, exp_avg_sqs, max_exp_avg_sqs,
                         state_steps, lr, beta1, beta2, weight_decay, eps, amsgrad, maximize,
                         grad_scale, found_inf);
  }
  const LearningRate rate(lr);
  const AdamSettings settings{beta1, beta2, weight_decay, eps, amsgrad, maximize, kDecay};
  for (size_t begin = 0; begin < self.size(); begin += kTensorsPerNode) {
    record_adam(lists, begin, std::min(begin + kTensorsPerNode, self.size()), rate, settings,
                grad_scale, found_inf);
  }
}

// --- SGD -----------------------------------------------------------------------------------------

template <const char* const* kOverload, typename Rate>
void fused_sgd_(TensorList self, TensorList grads, TensorList momentum_buffers, double weight_decay,
                double momentum, Rate lr, double dampening, bool nesterov, bool maximize,
                bool is_first_step, const OptionalTensor& grad_scale,
                const OptionalTensor& found_inf) {
  const bool has_momentum = !momentum_buffers.empty();
  bool recordable = is_float_scalar(grad_scale) && is_float_scalar(found_inf);
  for (size_t i = 0; i < self.size() && recordable; ++i) {
    recordable = is_steppable(self[i]) && takes_gradient(grads[i], self[i], grad_scale) &&
                 (!has_momentum || (is_laid_out_as(momentum_buffers[i], self[i]) &&
                                    momentum_buffers[i].scalar_type() == self[i].scalar_type()));
  }
  if (!recordable) {
    return to_host<void>("aten::_fused_sgd_", *kOverload, self, grads, momentum_buffers,
                         weight_decay, momentum, lr, dampening, nesterov, maximize, is_first_step,
                         grad_scale, found_inf);
  }
  const LearningRate rate(lr);
  for (size_t begin = 0; begin < self.size(); begin += kTensorsPerNode) {
    const size_t end = std::min(begin + kTensorsPerNode, self.size());
    const Tensor absent;
    std::vector<Tensor> dense_grads;
    Recording recording(Opcode::Sgd);
    recording.input(rate.tensor).input(grad_scale).input(found_inf);
    for (size_t i = begin; i < end; ++i) {
      dense_grads.push_back(gradient_for(grads[i], self[i]));
      recording.output(self[i])
          .input(dense_grads.back())
          .output(has_momentum ? momentum_buffers[i] : absent);
    }
    if (has_value(grad_scale)) {
      for (const Tensor& grad : dense_grads) recording.output(grad);
    }
    recording.attribute(self[begin].scalar_type())
        .attribute(nesterov)
        .attribute(maximize)
        .attribute(is_first_step)
        .scalar(rate.value)
        .scalar(momentum)
        .scalar(dampening)
        .scalar(weight_decay)
        .record();
  }
}

// --- the gradient scaler -------------------------------------------------------------------------

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// found_inf becomes 1 where any gradient is not finite; gradients are multiplied by inv_scale.
void non_finite_check_and_unscale(TensorList grads, Tensor& found_inf, const Tensor& inv_scale) {
  bool recordable = is_float_scalar(found_inf) && is_float_scalar(inv_scale);
  for (const Tensor& grad : grads) {
    recordable &= is_plain(grad) && (grad.scalar_type() == ScalarType::Float ||
                                     at::isReducedFloatingType(grad.scalar_type()));
  }
  if (!recordable) {
    return to_host<void>("aten::_amp_foreach_non_finite_check_and_unscale_", "", grads, found_inf,
                         inv_scale);
  }
  if (grads.empty()) return;
  const auto count = static_cast<int64_t>(grads.size());
  // The largest magnitude of each gradient is finite where all of it is; NaN passes through.
  const Tensor largest = empty_on(found_inf, {count}, ScalarType::Float);
  for (int64_t i = 0; i < count; ++i) {
    const Tensor& grad = grads[i];
    Recording(Opcode::ReduceNormInf)
        .output(element_of(largest, i))
        .input(grad)
        .attribute(ScalarType::Float)
        .attribute(uint64_t{0})
        .attribute(uint64_t{0})
        .record();
    Recording(Opcode::Mul)
        .output(grad)
        .input(grad)
        .input(inv_scale, grad.sizes())
        .attribute(ScalarType::Float)
        .record();
  }
  const Tensor finite = empty_on(found_inf, {count}, ScalarType::Bool);
  Recording(Opcode::Lt)
      .output(finite)
      .input(largest)
      .attribute(ScalarType::Float)
      .scalar(kInfinity)
      .record();
  const Tensor all_finite = empty_on(found_inf, {}, ScalarType::Bool);
  Recording(Opcode::ReduceAll)
      .output(all_finite)
      .input(finite)
      .attribute(ScalarType::Bool)
      .attribute(uint64_t{0})
      .attribute(uint64_t{0})
      .record();
  const Tensor not_finite = empty_on(found_inf, found_inf.sizes(), ScalarType::Bool);
  Recording(Opcode::LogicalNot)
      .output(not_finite)
      .input(all_finite, found_inf.sizes())
      .attribute(ScalarType::Bool)
      .record();
  Recording(Opcode::Maximum)
      .output(found_inf)
      .input(found_inf)
      .input(not_finite)
      .attribute(ScalarType::Float)
      .record();
}

// After a step that was skipped the scale falls; after `interval` good ones it grows, unless it
// would leave the finite numbers. In double, as PyTorch multiplies a float by a double factor.
Tensor& update_scale(Tensor& scale, Tensor& growth_tracker, const Tensor& found_inf,
                     double growth_factor, double backoff_factor, int64_t interval) {
  TORCH_CHECK(growth_tracker.numel() == 1, "growth_tracker must be a 1-element tensor.");
  TORCH_CHECK(scale.numel() == 1, "current_scale must be a 1-element tensor.");
  TORCH_CHECK(found_inf.numel() == 1, "found_inf must be a 1-element tensor.");
  TORCH_CHECK(growth_tracker.scalar_type() == ScalarType::Int,
              "growth_tracker must be an int tensor.");
  TORCH_CHECK(scale.scalar_type() == ScalarType::Float, "current_scale must be a float tensor.");
  TORCH_CHECK(found_inf.scalar_type() == ScalarType::Float, "found_inf must be a float tensor.");
  const IntArrayRef sizes = scale.sizes();
  auto make = [&](ScalarType dtype) { return empty_on(scale, sizes, dtype); };
  auto apply = [&](Opcode opcode, const Tensor& out, ScalarType compute,
                   std::initializer_list<Tensor> inputs, std::initializer_list<Scalar> scalars) {
    Recording recording(opcode);
    recording.output(out).attribute(compute);
    for (const Tensor& input : inputs) {
      recording.input(input, sizes, c10::SmallVector<int64_t, 4>(sizes.size(), 0));
    }
    if (opcode == Opcode::Add) recording.attribute(uint64_t{1});
    for (const Scalar& scalar : scalars) recording.scalar(scalar);
    recording.record();
    return out;
  };
  constexpr auto kBool = ScalarType::Bool;
  constexpr auto kInt = ScalarType::Int;
  constexpr auto kFloat = ScalarType::Float;
  constexpr auto kDouble = ScalarType::Double;
  const Tensor found = apply(Opcode::Gt, make(kBool), kFloat, {found_inf}, {scalar_of(0.0)});
  const Tensor good =
      apply(Opcode::Add, make(kInt), kInt, {growth_tracker}, {scalar_of(int64_t{1})});
  const Tensor reached = apply(Opcode::Eq, make(kBool), kInt, {good}, {scalar_of(interval)});
  const Tensor grown =
      apply(Opcode::Mul, make(kFloat), kDouble, {scale}, {scalar_of(growth_factor)});
  const Tensor finite = apply(Opcode::Lt, make(kBool), kFloat, {grown}, {scalar_of(kInfinity)});
  const Tensor grows = apply(Opcode::LogicalAnd, make(kBool), kBool, {reached, finite}, {});
  const Tensor kept = apply(Opcode::Where, make(kFloat), kFloat, {grows, grown, scale}, {});
  const Tensor fallen =
      apply(Opcode::Mul, make(kFloat), kDouble, {scale}, {scalar_of(backoff_factor)});
  const Tensor restarts = apply(Opcode::LogicalOr, make(kBool), kBool, {found, reached}, {});
  apply(Opcode::Where, scale, kFloat, {found, fallen, kept}, {});
  Recording(Opcode::MaskedFill)
      .output(growth_tracker)
      .input(good, growth_tracker.sizes())
      .input(restarts, growth_tracker.sizes())
      .attribute(kInt)
      .scalar(scalar_of(int64_t{0}))
      .record();
  return scale;
}

constexpr const char* kAdam = "aten::_fused_adam_";
constexpr const char* kAdamW = "aten::_fused_adamw_";
constexpr const char* kNumber = "";
constexpr const char* kTensor = "tensor_lr";
constexpr auto kCoupled = kernels::WeightDecay::L2;
constexpr auto kDecoupled = kernels::WeightDecay::Decoupled;

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("_fused_adam_", TORCH_FN((fused_adam_<kCoupled, &kAdam, &kNumber, double>)));
  m.impl("_fused_adam_.tensor_lr",
         TORCH_FN((fused_adam_<kCoupled, &kAdam, &kTensor, const Tensor&>)));
  m.impl("_fused_adamw_", TORCH_FN((fused_adam_<kDecoupled, &kAdamW, &kNumber, double>)));
  m.impl("_fused_adamw_.tensor_lr",
         TORCH_FN((fused_adam_<kDecoupled, &kAdamW, &kTensor, const Tensor&>)));
  m.impl("_fused_sgd_", TORCH_FN((fused_sgd_<&kNumber, double>)));
  m.impl("_fused_sgd_.tensor_lr", TORCH_FN((fused_sgd_<&kTensor, const Tensor&>)));
  m.impl("_amp_foreach_non_finite_check_and_unscale_", TORCH_FN(non_finite_check_and_unscale));
  m.impl("_amp_update_scale_", TORCH_FN(update_scale));
}

}  // namespace accel::aten

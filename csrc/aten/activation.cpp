// Activations and their derivatives that programs call most, unboxed, and those with two outputs or
// an output of another shape; pointwise_boxed.cpp has the rest.
#include "csrc/aten/pointwise.h"

namespace accel::aten {

namespace {

Opcode gelu_opcode(c10::string_view approximate, bool backward) {
  TORCH_CHECK(approximate == "none" || approximate == "tanh",
              "approximate argument must be either none or tanh.");
  if (approximate == "tanh") return backward ? Opcode::GeluTanhBackward : Opcode::GeluTanh;
  return backward ? Opcode::GeluBackward : Opcode::Gelu;
}

Tensor gelu(const Tensor& self, c10::string_view approximate) {
  require_floating("GeluKernelImpl", self);
  if (!floating_native({&self})) return to_host<Tensor>("aten::gelu", "", self, approximate);
  return *floating(gelu_opcode(approximate, false), {}, {&self});
}

Tensor gelu_backward(const Tensor& grad, const Tensor& self, c10::string_view approximate) {
  require_floating("GeluBackwardKernelImpl", self);
  if (!floating_native({&grad, &self})) {
    return to_host<Tensor>("aten::gelu_backward", "", grad, self, approximate);
  }
  return *floating(gelu_opcode(approximate, true), {}, {&grad, &self});
}

Tensor silu(const Tensor& self) {
  require_floating("silu_cpu", self);
  if (!floating_native({&self})) return to_host<Tensor>("aten::silu", "", self);
  return *floating(Opcode::Silu, {}, {&self});
}

Tensor& silu_(Tensor& self) {
  require_floating("silu_cpu", self);
  if (!floating_native({&self})) {
    to_host<Tensor>("aten::silu_", "", self);
    return self;
  }
  floating(Opcode::Silu, self, {&self});
  return self;
}

Tensor relu(const Tensor& self) {
  TORCH_CHECK(self.scalar_type() != ScalarType::Bool, "Boolean inputs not supported for relu");
  if (!recordable({}, {&self})) return to_host<Tensor>("aten::relu", "", self);
  return *floating(Opcode::Relu, {}, {&self});
}

Tensor& relu_(Tensor& self) {
  TORCH_CHECK(self.scalar_type() != ScalarType::Bool, "Boolean inputs not supported for relu");
  if (!recordable(self, {&self})) {
    to_host<Tensor>("aten::relu_", "", self);
    return self;
  }
  floating(Opcode::Relu, self, {&self});
  return self;
}

// grad and a saved tensor, no scalars.
template <const char* const* kName, Opcode kOpcode>
Tensor backward_of(const Tensor& grad, const Tensor& saved) {
  if (!floating_native({&grad, &saved})) return to_host<Tensor>(*kName, "", grad, saved);
  return *floating(kOpcode, {}, {&grad, &saved});
}

Tensor threshold_backward(const Tensor& grad, const Tensor& self, const at::Scalar& threshold) {
  if (!recordable({}, {&grad, &self})) {
    return to_host<Tensor>("aten::threshold_backward", "", grad, self, threshold);
  }
  return *floating(Opcode::ThresholdBackward, {}, {&grad, &self}, {threshold});
}

Tensor leaky_relu(const Tensor& self, const at::Scalar& slope) {
  require_floating("leaky_relu_cpu", self);
  if (!floating_native({&self})) return to_host<Tensor>("aten::leaky_relu", "", self, slope);
  return *floating(Opcode::LeakyRelu, {}, {&self}, {slope});
}

Tensor leaky_relu_backward(const Tensor& grad, const Tensor& self, const at::Scalar& slope,
                           bool self_is_result) {
  if (!floating_native({&grad, &self})) {
    return to_host<Tensor>("aten::leaky_relu_backward", "", grad, self, slope, self_is_result);
  }
  return *floating(Opcode::LeakyReluBackward, {}, {&grad, &self}, {slope});
}

Tensor elu(const Tensor& self, const at::Scalar& alpha, const at::Scalar& scale,
           const at::Scalar& input_scale) {
  if (!floating_native({&self})) {
    return to_host<Tensor>("aten::elu", "", self, alpha, scale, input_scale);
  }
  return *floating(Opcode::Elu, {}, {&self},
                   {alpha.toDouble() * scale.toDouble(), scale, input_scale});
}

Tensor softplus(const Tensor& self, const at::Scalar& beta, const at::Scalar& threshold) {
  require_floating("softplus_cpu", self);
  if (!floating_native({&self})) {
    return to_host<Tensor>("aten::softplus", "", self, beta, threshold);
  }
  return *floating(Opcode::Softplus, {}, {&self}, {beta, threshold});
}

Tensor softplus_backward(const Tensor& grad, const Tensor& self, const at::Scalar& beta,
                         const at::Scalar& threshold) {
  if (!floating_native({&grad, &self})) {
    return to_host<Tensor>("aten::softplus_backward", "", grad, self, beta, threshold);
  }
  return *floating(Opcode::SoftplusBackward, {}, {&grad, &self}, {beta, threshold});
}

Tensor hardtanh(const Tensor& self, const at::Scalar& low, const at::Scalar& high) {
  if (!floating_native({&self})) return to_host<Tensor>("aten::hardtanh", "", self, low, high);
  return *floating(Opcode::Hardtanh, {}, {&self}, {low, high});
}

Tensor hardtanh_backward(const Tensor& grad, const Tensor& self, const at::Scalar& low,
                         const at::Scalar& high) {
  if (!floating_native({&grad, &self})) {
    return to_host<Tensor>("aten::hardtanh_backward", "", grad, self, low, high);
  }
  return *floating(Opcode::HardtanhBackward, {}, {&grad, &self}, {low, high});
}

template <const char* const* kName, Opcode kOpcode>
Tensor activation(const Tensor& self) {
  require_floating("activation_cpu", self);
  if (!floating_native({&self})) return to_host<Tensor>(*kName, "", self);
  return *floating(kOpcode, {}, {&self});
}

// --- what has two outputs, or an output of another shape -----------------------------------------

// The halves of a Tensor along a dimension.
std::pair<Tensor, Tensor> halves(const Tensor& self, int64_t dim) {
  const int64_t size = self.size(dim) / 2;
  return {self.narrow(dim, 0, size), self.narrow(dim, size, size)};
}

Tensor glu(const Tensor& self, int64_t dim) {
  if (!floating_native({&self}) || self.dim() == 0 || dim < -self.dim() || dim >= self.dim() ||
      self.size(dim) % 2 != 0) {
    return to_host<Tensor>("aten::glu", "", self, dim);
  }
  const auto [a, b] = halves(self, dim);
  return *floating(Opcode::Glu, {}, {&a, &b});
}

Tensor glu_backward(const Tensor& grad, const Tensor& self, int64_t dim) {
  if (!floating_native({&grad, &self})) {
    return to_host<Tensor>("aten::glu_backward", "", grad, self, dim);
  }
  const auto [a, b] = halves(self, dim);
  Tensor result = empty_on(self, self.sizes(), self.scalar_type());
  const auto [da, db] = halves(result, dim);
  Recording(Opcode::GluBackward)
      .output(da)
      .output(db)
      .attribute(self.scalar_type())
      .input(grad)
      .input(a)
      .input(b)
      .record();
  return result;
}

// The buffer serves the CPU's backward alone.
std::tuple<Tensor, Tensor> log_sigmoid_forward(const Tensor& self) {
  if (!floating_native({&self})) {
    return to_host<std::tuple<Tensor, Tensor>>("aten::log_sigmoid_forward", "", self);
  }
  return {*floating(Opcode::LogSigmoid, {}, {&self}), empty_on(self, {0}, self.scalar_type())};
}

Tensor log_sigmoid_backward(const Tensor& grad, const Tensor& self, const Tensor& buffer) {
  if (!floating_native({&grad, &self})) {
    return to_host<Tensor>("aten::log_sigmoid_backward", "", grad, self, buffer);
  }
  return *floating(Opcode::LogSigmoidBackward, {}, {&grad, &self});
}

std::tuple<Tensor, Tensor> prelu_backward(const Tensor& grad, const Tensor& self,
                                          const Tensor& weight) {
  if (!floating_native({&grad, &self, &weight}) || weight.scalar_type() != self.scalar_type()) {
    return to_host<std::tuple<Tensor, Tensor>>("aten::_prelu_kernel_backward", "", grad, self,
                                               weight);
  }
  Tensor d_self = empty_like(self, self.scalar_type());
  Tensor d_weight = empty_like(self, self.scalar_type());
  Recording(Opcode::PreluBackward)
      .output(d_self)
      .output(d_weight)
      .attribute(self.scalar_type())
      .input(grad, self.sizes())
      .input(self)
      .input(weight, self.sizes())
      .record();
  return {d_self, d_weight};
}

// --- the table -----------------------------------------------------------------------------------

constexpr const char* k_tanh_backward = "aten::tanh_backward";
constexpr const char* k_sigmoid_backward = "aten::sigmoid_backward";
constexpr const char* k_silu_backward = "aten::silu_backward";
constexpr const char* k_hardsigmoid = "aten::hardsigmoid";
constexpr const char* k_hardswish = "aten::hardswish";
constexpr const char* k_mish = "aten::mish";

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("gelu", TORCH_FN(gelu));
  m.impl("gelu_backward", TORCH_FN(gelu_backward));
  m.impl("silu", TORCH_FN(silu));
  m.impl("silu_", TORCH_FN(silu_));
  m.impl("silu_backward", TORCH_FN((backward_of<&k_silu_backward, Opcode::SiluBackward>)));
  m.impl("relu", TORCH_FN(relu));
  m.impl("relu_", TORCH_FN(relu_));
  m.impl("threshold_backward", TORCH_FN(threshold_backward));
  m.impl("tanh_backward", TORCH_FN((backward_of<&k_tanh_backward, Opcode::TanhBackward>)));
  m.impl("sigmoid_backward", TORCH_FN((backward_of<&k_sigmoid_backward, Opcode::SigmoidBackward>)));
  m.impl("leaky_relu", TORCH_FN(leaky_relu));
  m.impl("leaky_relu_backward", TORCH_FN(leaky_relu_backward));
  m.impl("elu", TORCH_FN(elu));
  m.impl("softplus", TORCH_FN(softplus));
  m.impl("softplus_backward", TORCH_FN(softplus_backward));
  m.impl("hardtanh", TORCH_FN(hardtanh));
  m.impl("hardtanh_backward", TORCH_FN(hardtanh_backward));
  m.impl("hardsigmoid", TORCH_FN((activation<&k_hardsigmoid, Opcode::Hardsigmoid>)));
  m.impl("hardswish", TORCH_FN((activation<&k_hardswish, Opcode::Hardswish>)));
  m.impl("mish", TORCH_FN((activation<&k_mish, Opcode::Mish>)));
  m.impl("glu", TORCH_FN(glu));
  m.impl("glu_backward", TORCH_FN(glu_backward));
  m.impl("log_sigmoid_forward", TORCH_FN(log_sigmoid_forward));
  m.impl("log_sigmoid_backward", TORCH_FN(log_sigmoid_backward));
  m.impl("_prelu_kernel_backward", TORCH_FN(prelu_backward));
}

}  // namespace accel::aten

// The pointwise ops that programs call most, each variant unboxed: arithmetic, comparisons,
// selection, elementary functions. activation.cpp has the activations, pointwise_boxed.cpp all
// others.
#include "csrc/aten/pointwise.h"

#include <ATen/ExpandUtils.h>
#include <ATen/MemoryOverlap.h>
#include <ATen/ScalarOps.h>
#include <ATen/WrapDimUtils.h>
#include <ATen/native/TensorIterator.h>
#include <ATen/ops/clamp.h>
#include <ATen/ops/linalg_cross_meta.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/result_type.h>
#include <ATen/ops/sub.h>

#include <cmath>

#include "csrc/aten/complex.h"
#include "csrc/aten/inference.h"

namespace accel::aten {

namespace {

using at::TensorIterator;
using at::TensorIteratorConfig;

TensorIterator iterate(const Tensor& out, Inputs inputs, Rule rule) {
  TensorIteratorConfig config;
  config.set_check_mem_overlap(true).allow_cpu_scalars(true).add_borrowed_output(out);
  for (const Tensor* input : inputs) config.add_borrowed_const_input(*input);
  config.promote_inputs_to_common_dtype(true);
  switch (rule) {
    case Rule::Same:
      config.cast_common_dtype_to_outputs(true).enforce_safe_casting_to_output(true);
      break;
    case Rule::Float:
      config.cast_common_dtype_to_outputs(true).enforce_safe_casting_to_output(true);
      config.promote_integer_inputs_to_float(true);
      break;
    case Rule::Compare:
    case Rule::Bool:
      if (out.defined()) {
        config.cast_common_dtype_to_outputs(false);
      } else {
        config.declare_static_dtype(ScalarType::Bool);
        config.promote_inputs_to_common_dtype(true);
      }
      break;
  }
  return config.build();
}

// Same shape, dtype and dense layout everywhere: the most common case by far needs no iterator.
bool uniform(const Tensor& out, Inputs inputs) {
  const Tensor& first = *inputs[0];
  if (!first.is_non_overlapping_and_dense() || first.device().is_cpu()) return false;
  if (out.defined() && !out.is_same(first)) return false;
  for (const Tensor* input : inputs) {
    if (input == &first) continue;
    if (input->scalar_type() != first.scalar_type() || input->device() != first.device() ||
        input->sizes() != first.sizes() || input->strides() != first.strides() ||
        input->unsafeGetTensorImpl()->is_wrapped_number()) {
      return false;
    }
    // In place, an input that shares the output's memory at another place is an error to report.
    if (out.defined() && input->storage().is_alias_of(first.storage()) && !input->is_same(first)) {
      return false;
    }
  }
  return !first.unsafeGetTensorImpl()->is_wrapped_number();
}

}  // namespace

bool recordable(const Tensor& out, Inputs inputs) {
  if (out.defined() && !(is_plain(out) && is_native(out))) return false;
  bool on_device = out.defined();
  for (const Tensor* input : inputs) {
    if (!input->defined() || !is_native(*input)) return false;
    if (input->device().is_cpu() && input->dim() == 0) continue;
    if (!is_plain(*input)) return false;
    on_device = true;
  }
  return on_device;
}

Inference infer(const Tensor& out, Inputs inputs, Rule rule) {
  const Tensor& first = *inputs[0];
  if (uniform(out, inputs)) {
    const ScalarType dtype = first.scalar_type();
    if (rule == Rule::Same || (rule == Rule::Float && at::isFloatingType(dtype))) {
      return {out.defined() ? Output::borrowed(out) : Output::owned(empty_like(first, dtype)),
              dtype};
    }
    if (rule == Rule::Compare && !out.defined()) {
      return {Output::owned(empty_like(first, ScalarType::Bool)), dtype};
    }
  }
  TensorIterator iter = iterate(out, inputs, rule);
  return {out.defined() ? Output::borrowed(out) : Output::owned(Tensor(iter.tensor(0))),
          iter.common_dtype()};
}

void add_operand(Recording& recording, const Tensor& tensor, IntArrayRef sizes,
                 ScalarType compute) {
  if (tensor.device().is_cpu()) {
    recording.no_input().scalar(scalar_of_cpu(tensor, compute));
  } else {
    recording.input(tensor, sizes);
  }
}

void add_view(Recording& recording, const Tensor& tensor, const Tensor& out) {
  if (tensor.device().is_cpu()) {
    recording.input(tensor.to(out.device()), out.sizes());
  } else {
    recording.input(tensor, out.sizes());
  }
}

Output unary(Opcode opcode, Rule rule, const Tensor& out, const Tensor& self) {
  TORCH_CHECK(opcode != Opcode::Neg || self.scalar_type() != ScalarType::Bool,
              "Negation, the `-` operator, on a bool tensor is not supported. If you are trying to "
              "invert a mask, use the `~` or `logical_not()` operator instead.");
  Inference inferred = infer(out, {&self}, rule);
  Recording(opcode)
      .output(inferred.out())
      .input(self, inferred.out().sizes())
      .attribute(inferred.compute)
      .record();
  return std::move(inferred.output);
}

Output binary(Opcode opcode, Rule rule, const Tensor& out, const Tensor& self,
              const Tensor& other) {
  Inference inferred = infer(out, {&self, &other}, rule);
  const IntArrayRef sizes = inferred.out().sizes();
  Recording recording(opcode);
  recording.output(inferred.out()).attribute(inferred.compute);
  add_view(recording, self, inferred.out());
  add_operand(recording, other, sizes, inferred.compute);
  recording.record();
  return std::move(inferred.output);
}

Output floating(Opcode opcode, const Tensor& out, Inputs inputs,
                c10::ArrayRef<at::Scalar> scalars) {
  Inference inferred = infer(out, inputs, Rule::Same);
  Recording recording(opcode);
  recording.output(inferred.out()).attribute(inferred.compute);
  for (const Tensor* input : inputs) {
    add_view(recording, *input, inferred.out());
  }
  for (const at::Scalar& scalar : scalars) recording.scalar(scalar_of(scalar, inferred.compute));
  recording.record();
  return std::move(inferred.output);
}

bool floating_native(Inputs inputs) {
  for (const Tensor* input : inputs) {
    if (!at::isFloatingType(input->scalar_type()) || !is_native(*input)) return false;
  }
  return recordable({}, inputs);
}

std::optional<Opcode> power_opcode(const at::Scalar& exponent) {
  if (exponent.isComplex()) return std::nullopt;
  const double value = exponent.toDouble();
  if (value == 1) return Opcode::Copy;  // the gradient of a square asks for it
  if (value == 2) return Opcode::Square;
  if (value == 3) return Opcode::Cube;
  if (value == 0.5) return Opcode::Sqrt;
  if (value == -0.5) return Opcode::Rsqrt;
  if (value == -1) return Opcode::Reciprocal;
  return std::nullopt;
}

void require_floating(const char* kernel, const Tensor& self) {
  TORCH_CHECK_NOT_IMPLEMENTED(
      at::isFloatingType(self.scalar_type()) || at::isComplexType(self.scalar_type()), "\"", kernel,
      "\" not implemented for '", toString(self.scalar_type()), "'");
}

namespace {

// --- unary ---------------------------------------------------------------------------------------

template <const char* const* kName, Opcode kOpcode, Rule kRule>
struct Unary {
  static Tensor functional(const Tensor& self) {
    if (!recordable({}, {&self})) {
      if (auto result = complex_pointwise(kOpcode, {}, {&self})) return **result;
      return to_host<Tensor>(*kName, "", self);
    }
    return *unary(kOpcode, kRule, {}, self);
  }
  static Tensor& in_place(Tensor& self) {
    if (!recordable(self, {&self})) {
      if (complex_pointwise(kOpcode, self, {&self})) return self;
      to_host<Tensor>((std::string(*kName) + "_").c_str(), "", self);
      return self;
    }
    unary(kOpcode, kRule, self, self);
    return self;
  }
  static Tensor& out(const Tensor& self, Tensor& out) {
    if (!recordable(out, {&self})) {
      if (complex_pointwise(kOpcode, out, {&self})) return out;
      to_host<Tensor>(*kName, "out", self, out);
      return out;
    }
    unary(kOpcode, kRule, out, self);
    return out;
  }
};

// --- binary --------------------------------------------------------------------------------------

template <const char* const* kName, const char* const* kOverload, Opcode kOpcode, Rule kRule>
struct Binary {
  static Tensor functional(const Tensor& self, const Tensor& other) {
    if (!recordable({}, {&self, &other})) {
      if (auto result = complex_pointwise(kOpcode, {}, {&self, &other})) return **result;
      return to_host<Tensor>(*kName, *kOverload, self, other);
    }
    return *binary(kOpcode, kRule, {}, self, other);
  }
  static Tensor& in_place(Tensor& self, const Tensor& other) {
    if (!recordable(self, {&self, &other})) {
      if (complex_pointwise(kOpcode, self, {&self, &other})) return self;
      to_host<Tensor>((std::string(*kName) + "_").c_str(), *kOverload, self, other);
      return self;
    }
    binary(kOpcode, kRule, self, self, other);
    return self;
  }
  static Tensor& out(const Tensor& self, const Tensor& other, Tensor& out) {
    if (!recordable(out, {&self, &other})) {
      if (complex_pointwise(kOpcode, out, {&self, &other})) return out;
      to_host<Tensor>(*kName, "out", self, other, out);
      return out;
    }
    binary(kOpcode, kRule, out, self, other);
    return out;
  }
};

// A tensor and a Scalar: the Scalar is a wrapped number, so it does not promote within a category.
template <const char* const* kName, Opcode kOpcode, Rule kRule>
struct BinaryScalar {
  static Output run(const Tensor& out, const Tensor& self, const at::Scalar& other) {
    Tensor number = at::native::wrapped_scalar_tensor(other);
    return binary(kOpcode, kRule, out, self, number);
  }
  static Tensor functional(const Tensor& self, const at::Scalar& other) {
    if (!recordable({}, {&self})) return to_host<Tensor>(*kName, "Scalar", self, other);
    return *run({}, self, other);
  }
  static Tensor& in_place(Tensor& self, const at::Scalar& other) {
    if (!recordable(self, {&self})) {
      to_host<Tensor>((std::string(*kName) + "_").c_str(), "Scalar", self, other);
      return self;
    }
    run(self, self, other);
    return self;
  }
  static Tensor& out(const Tensor& self, const at::Scalar& other, Tensor& out) {
    if (!recordable(out, {&self})) {
      to_host<Tensor>(*kName, "Scalar_out", self, other, out);
      return out;
    }
    run(out, self, other);
    return out;
  }
};

// --- add and sub ---------------------------------------------------------------------------------

Output add_sub(Opcode opcode, const Tensor& out, const Tensor& self, const Tensor& other,
               const at::Scalar& alpha) {
  Inference inferred = infer(out, {&self, &other}, Rule::Same);
  if (opcode == Opcode::Sub) {
    TORCH_CHECK(self.scalar_type() != ScalarType::Bool || other.scalar_type() != ScalarType::Bool,
                "Subtraction, the `-` operator, with two bool tensors is not supported. "
                "Use the `^` or `logical_xor()` operator instead.");
    TORCH_CHECK(self.scalar_type() != ScalarType::Bool && other.scalar_type() != ScalarType::Bool,
                "Subtraction, the `-` operator, with a bool tensor is not supported. "
                "If you are trying to invert a mask, use the `~` or `logical_not()` operator "
                "instead.");
  }
  TORCH_CHECK(!alpha.isBoolean() || inferred.compute == ScalarType::Bool,
              "Boolean alpha only supported for Boolean results.");
  TORCH_CHECK(at::isFloatingType(inferred.compute) || alpha.isIntegral(true),
              "For integral input tensors, argument alpha must not be a floating point number.");
  const IntArrayRef sizes = inferred.out().sizes();
  const bool one = alpha.equal(1);
  Recording recording(opcode);
  recording.output(inferred.out()).attribute(inferred.compute).attribute(uint64_t{one});
  add_view(recording, self, inferred.out());
  add_operand(recording, other, sizes, inferred.compute);
  if (!one) recording.scalar(scalar_of(alpha, inferred.compute));
  recording.record();
  return std::move(inferred.output);
}

template <Opcode kOpcode>
struct AddSub {
  static constexpr const char* name() { return kOpcode == Opcode::Add ? "aten::add" : "aten::sub"; }
  static Tensor functional(const Tensor& self, const Tensor& other, const at::Scalar& alpha) {
    if (!recordable({}, {&self, &other})) {
      if (auto result = complex_pointwise(kOpcode, {}, {&self, &other}, alpha)) return **result;
      return to_host<Tensor>(name(), "Tensor", self, other, alpha);
    }
    return *add_sub(kOpcode, {}, self, other, alpha);
  }
  static Tensor& in_place(Tensor& self, const Tensor& other, const at::Scalar& alpha) {
    if (!recordable(self, {&self, &other})) {
      if (complex_pointwise(kOpcode, self, {&self, &other}, alpha)) return self;
      to_host<Tensor>((std::string(name()) + "_").c_str(), "Tensor", self, other, alpha);
      return self;
    }
    add_sub(kOpcode, self, self, other, alpha);
    return self;
  }
  static Tensor& out(const Tensor& self, const Tensor& other, const at::Scalar& alpha,
                     Tensor& out) {
    if (!recordable(out, {&self, &other})) {
      if (complex_pointwise(kOpcode, out, {&self, &other}, alpha)) return out;
      to_host<Tensor>(name(), "out", self, other, alpha, out);
      return out;
    }
    add_sub(kOpcode, out, self, other, alpha);
    return out;
  }
};

Tensor rsub_tensor(const Tensor& self, const Tensor& other, const at::Scalar& alpha) {
  return at::sub(other, self, alpha);
}

Tensor rsub(const Tensor& self, const at::Scalar& other, const at::Scalar& alpha) {
  return at::sub(at::native::wrapped_scalar_tensor(other), self, alpha);
}

struct PowScalar {
  static bool native(const Tensor& out, const Tensor& self, const at::Scalar& exponent) {
    return recordable(out, {&self}) && !exponent.isComplex() &&
           at::isFloatingType(self.scalar_type());
  }
  static Output record(const Tensor& out, const Tensor& self, const at::Scalar& exponent) {
    if (const auto opcode = power_opcode(exponent)) return unary(*opcode, Rule::Same, out, self);
    return binary(Opcode::Pow, Rule::Same, out, self, at::native::wrapped_scalar_tensor(exponent));
  }
  static Tensor functional(const Tensor& self, const at::Scalar& exponent) {
    if (self.scalar_type() == ScalarType::Bool && exponent.isBoolean()) {
      // Bool, as on the CPU: the meta function takes the exponent for a whole number.
      return exponent.toBool() ? self.clone() : at::ones_like(self);
    }
    if (!native({}, self, exponent)) {
      const auto opcode = power_opcode(exponent);
      if (auto result = opcode ? complex_pointwise(*opcode, {}, {&self}) : std::nullopt) {
        return **result;
      }
      return to_host<Tensor>("aten::pow", "Tensor_Scalar", self, exponent);
    }
    return *record({}, self, exponent);
  }
  static Tensor& in_place(Tensor& self, const at::Scalar& exponent) {
    if (!native(self, self, exponent)) {
      to_host<Tensor>("aten::pow_", "Scalar", self, exponent);
    } else {
      record(self, self, exponent);
    }
    return self;
  }
  static Tensor& out(const Tensor& self, const at::Scalar& exponent, Tensor& out) {
    if (!native(out, self, exponent)) {
      to_host<Tensor>("aten::pow", "Tensor_Scalar_out", self, exponent, out);
    } else {
      record(out, self, exponent);
    }
    return out;
  }
};

// A Scalar to the power of a tensor.
Tensor pow_of_scalar(const at::Scalar& base, const Tensor& exponent) {
  if (!recordable({}, {&exponent}) || base.isComplex() ||
      !at::isFloatingType(exponent.scalar_type())) {
    return to_host<Tensor>("aten::pow", "Scalar", base, exponent);
  }
  return *binary(Opcode::Pow, Rule::Same, {}, at::native::wrapped_scalar_tensor(base), exponent);
}

Tensor round_decimals(const Tensor& self, int64_t decimals) {
  if (!floating_native({&self})) {
    return to_host<Tensor>("aten::round", "decimals", self, decimals);
  }
  if (decimals == 0) return *unary(Opcode::RoundEven, Rule::Same, {}, self);
  Tensor out = empty_like(self, self.scalar_type());
  Recording(Opcode::RoundDecimals)
      .output(out)
      .input(self)
      .attribute(self.scalar_type())
      .attribute(uint64_t{decimals < 0})
      .scalar(std::pow(10.0, std::abs(static_cast<double>(decimals))))
      .record();
  return out;
}

// Derivatives of digamma: by itself, by its own function, or by zeta.
Tensor polygamma(int64_t order, const Tensor& self) {
  if (order < 0 || !recordable({}, {&self})) {
    return to_host<Tensor>("aten::polygamma", "", order, self);
  }
  if (order == 0) return *unary(Opcode::Digamma, Rule::Float, {}, self);
  if (order == 1) return *unary(Opcode::Trigamma, Rule::Float, {}, self);
  const auto number = static_cast<double>(order);
  Inference inferred = infer({}, {&self}, Rule::Float);
  Recording(Opcode::Polygamma)
      .output(inferred.out())
      .input(self)
      .attribute(inferred.compute)
      .scalar(number + 1)
      .scalar((order % 2 ? 1 : -1) * std::tgamma(number + 1))
      .record();
  return std::move(*inferred.output);
}

// --- selection -----------------------------------------------------------------------------------

void check_condition(const Tensor& condition) {
  TORCH_CHECK(
      condition.scalar_type() == ScalarType::Bool || condition.scalar_type() == ScalarType::Byte,
      "where expected condition to be a boolean tensor, but got a tensor with dtype ",
      condition.scalar_type());
}

at::DimVector sizes_of_where(const Tensor& condition, const Tensor& self, const Tensor& other) {
  return at::infer_size_dimvector(at::infer_size_dimvector(condition.sizes(), self.sizes()),
                                  other.sizes());
}

void record_where(const Tensor& out, const Tensor& condition, const Tensor& self,
                  const Tensor& other) {
  Recording recording(Opcode::Where);
  recording.output(out).input(condition, out.sizes()).attribute(out.scalar_type());
  add_view(recording, self, out);
  add_view(recording, other, out);
  recording.record();
}

Tensor where(const Tensor& condition, const Tensor& self, const Tensor& other) {
  check_condition(condition);
  if (is_plain(condition) && is_complex_plain(self) && is_complex_plain(other) &&
      self.scalar_type() == other.scalar_type()) {
    Tensor out = empty_elementwise({&condition, &self, &other},
                                   sizes_of_where(condition, self, other), self.scalar_type());
    record_where(pairs_of(out), condition.unsqueeze(-1).expand(pairs_of(out).sizes()),
                 pairs_of(self.expand(out.sizes())), pairs_of(other.expand(out.sizes())));
    return out;
  }
  const bool all_there = condition.device().is_privateuseone();
  if (!all_there || !recordable({}, {&condition, &self, &other})) {
    return to_host<Tensor>("aten::where", "self", condition, self, other);
  }
  Tensor out =
      empty_elementwise({&condition, &self, &other}, sizes_of_where(condition, self, other),
                        at::result_type(self, other));
  record_where(out, condition, self, other);
  return out;
}

Tensor& where_out(const Tensor& condition, const Tensor& self, const Tensor& other, Tensor& out) {
  check_condition(condition);
  const bool all_there = condition.device().is_privateuseone();
  // Over the memory of what is read, element by element is in order only where the views are one.
  auto is_apart = [&](const Tensor& input) {
    return !input.device().is_privateuseone() || !out.is_alias_of(input) || out.is_same(input);
  };
  if (!all_there || !recordable(out, {&condition, &self, &other}) || !is_apart(condition) ||
      !is_apart(self) || !is_apart(other) || out.scalar_type() != at::result_type(self, other)) {
    to_host<Tensor>("aten::where", "self_out", condition, self, other, out);
    return out;
  }
  const at::DimVector sizes = sizes_of_where(condition, self, other);
  if (out.sizes() != IntArrayRef(sizes)) resize_output(out, sizes);
  at::assert_no_internal_overlap(out);
  record_where(out, condition, self, other);
  return out;
}

void check_masked_fill(const Tensor& self, const Tensor& mask) {
  TORCH_CHECK(mask.scalar_type() == ScalarType::Bool,
              "masked_fill_ only supports boolean masks, but got mask with dtype ",
              mask.scalar_type());
  TORCH_CHECK(self.device() == mask.device() || mask.dim() == 0,
              "expected self and mask to be on the same device, but got mask on ", mask.device(),
              " and self on ", self.device());
  const at::DimVector sizes = at::infer_size_dimvector(self.sizes(), mask.sizes());
  TORCH_CHECK(self.sizes() == IntArrayRef(sizes), "output with shape ", self.sizes(),
              " doesn't match the broadcast shape ", IntArrayRef(sizes));
}

Tensor& masked_fill_(Tensor& self, const Tensor& mask, const at::Scalar& value) {
  check_masked_fill(self, mask);
  if (!recordable(self, {&self, &mask}) || mask.device().is_cpu() || (value.isComplex()) ||
      at::has_internal_overlap(self) == at::MemOverlap::Yes) {
    to_host<Tensor>("aten::masked_fill_", "Scalar", self, mask, value);
    return self;
  }
  Recording(Opcode::MaskedFill)
      .output(self)
      .input(self)
      .input(mask, self.sizes())
      .attribute(self.scalar_type())
      .scalar(checked_scalar_of(value, self.scalar_type()))
      .record();
  return self;
}

Tensor& masked_fill_tensor_(Tensor& self, const Tensor& mask, const Tensor& value) {
  TORCH_CHECK(value.dim() == 0,
              "masked_fill_ only supports a 0-dimensional value tensor, but got tensor with ",
              value.dim(), " dimension(s).");
  check_masked_fill(self, mask);
  if (value.device().is_cpu()) return masked_fill_(self, mask, value.item());
  if (!recordable(self, {&self, &mask, &value}) || mask.device().is_cpu() ||
      at::has_internal_overlap(self) == at::MemOverlap::Yes) {
    to_host<Tensor>("aten::masked_fill_", "Tensor", self, mask, value);
    return self;
  }
  Recording(Opcode::Where)
      .output(self)
      .input(mask, self.sizes())
      .input(value, self.sizes())
      .input(self)
      .attribute(self.scalar_type())
      .record();
  return self;
}

void record_fill(const Tensor& self, const at::Scalar& value) {
  Recording(Opcode::Fill)
      .output(self)
      .attribute(self.scalar_type())
      .scalar(checked_scalar_of(value, self.scalar_type()))
      .record();
}

Tensor& fill_(Tensor& self, const at::Scalar& value) {
  if (is_complex_plain(self)) {
    const auto number = value.toComplexDouble();
    if (number == 0.0) {
      record_fill(pairs_of(self), 0);
    } else {
      record_fill(part_of(self, Part::Real), number.real());
      record_fill(part_of(self, Part::Imaginary), number.imag());
    }
    return self;
  }
  if (!recordable(self, {&self}) || value.isComplex()) {
    to_host<Tensor>("aten::fill_", "Scalar", self, value);
    return self;
  }
  record_fill(self, value);
  return self;
}

Tensor& fill_tensor_(Tensor& self, const Tensor& value) {
  TORCH_CHECK(value.dim() == 0, "fill_ only supports 0-dimension value tensor but got tensor with ",
              value.dim(), " dimensions.");
  if (value.device().is_cpu()) return fill_(self, value.item());
  self.copy_(value);
  return self;
}

Tensor& zero_(Tensor& self) { return fill_(self, 0); }

// --- clamp, lerp, addcmul ------------------------------------------------------------------------

Output clamp_bounds(const Tensor& out, const Tensor& self, const std::optional<at::Scalar>& low,
                    const std::optional<at::Scalar>& high) {
  ScalarType compute = self.scalar_type();
  if (low) compute = c10::promoteTypes(compute, at::result_type(self, *low));
  if (high) compute = c10::promoteTypes(compute, at::result_type(self, *high));
  Output result = out.defined() ? Output::borrowed(out) : Output::owned(empty_like(self, compute));
  if (out.defined()) {
    TORCH_CHECK(c10::canCast(compute, out.scalar_type()), "result type ", compute,
                " can't be cast to the desired output type ", out.scalar_type());
    if (!out.is_same(self)) resize_output(out, self.sizes());
  }
  const Opcode opcode = low && high ? Opcode::Clamp : low ? Opcode::ClampMin : Opcode::ClampMax;
  Recording recording(opcode);
  recording.output(*result).input(self, result->sizes()).attribute(compute);
  // Of floating dtypes, other devices clamp to bounds that the dtype does not hold.
  const auto bound = at::isIntegralType(compute, false)
                         ? checked_scalar_of
                         : static_cast<Scalar (*)(const at::Scalar&, ScalarType)>(scalar_of);
  if (low) recording.scalar(bound(*low, compute));
  if (high) recording.scalar(bound(*high, compute));
  recording.record();
  return result;
}

bool clampable(const Tensor& out, const Tensor& self, const std::optional<at::Scalar>& low,
               const std::optional<at::Scalar>& high) {
  auto is_nan = [](const std::optional<at::Scalar>& bound) {
    return bound && bound->isFloatingPoint() && std::isnan(bound->toDouble());
  };
  return (low || high) && recordable(out, {&self}) && self.scalar_type() != ScalarType::Bool &&
         !is_nan(low) && !is_nan(high);
}

Tensor clamp(const Tensor& self, const std::optional<at::Scalar>& low,
             const std::optional<at::Scalar>& high) {
  if (!clampable({}, self, low, high)) return to_host<Tensor>("aten::clamp", "", self, low, high);
  return *clamp_bounds({}, self, low, high);
}

Tensor& clamp_(Tensor& self, const std::optional<at::Scalar>& low,
               const std::optional<at::Scalar>& high) {
  if (!clampable(self, self, low, high)) {
    to_host<Tensor>("aten::clamp_", "", self, low, high);
    return self;
  }
  clamp_bounds(self, self, low, high);
  return self;
}

Tensor& clamp_out(const Tensor& self, const std::optional<at::Scalar>& low,
                  const std::optional<at::Scalar>& high, Tensor& out) {
  if (!clampable(out, self, low, high)) {
    to_host<Tensor>("aten::clamp", "out", self, low, high, out);
    return out;
  }
  clamp_bounds(out, self, low, high);
  return out;
}

Tensor clamp_min(const Tensor& self, const at::Scalar& low) { return at::clamp(self, low); }
Tensor clamp_max(const Tensor& self, const at::Scalar& high) {
  return at::clamp(self, std::nullopt, high);
}
Tensor& clamp_min_(Tensor& self, const at::Scalar& low) { return self.clamp_(low); }
Tensor& clamp_max_(Tensor& self, const at::Scalar& high) { return self.clamp_(std::nullopt, high); }

Tensor lerp(const Tensor& self, const Tensor& end, const at::Scalar& weight) {
  require_floating("lerp_kernel_scalar", self);
  if (!floating_native({&self, &end}) || weight.isComplex()) {
    return to_host<Tensor>("aten::lerp", "Scalar", self, end, weight);
  }
  return *floating(Opcode::Lerp, {}, {&self, &end}, {weight});
}

Tensor& lerp_(Tensor& self, const Tensor& end, const at::Scalar& weight) {
  require_floating("lerp_kernel_scalar", self);
  if (!floating_native({&self, &end}) || weight.isComplex()) {
    to_host<Tensor>("aten::lerp_", "Scalar", self, end, weight);
    return self;
  }
  floating(Opcode::Lerp, self, {&self, &end}, {weight});
  return self;
}

Tensor lerp_tensor(const Tensor& self, const Tensor& end, const Tensor& weight) {
  if (!floating_native({&self, &end, &weight})) {
    return to_host<Tensor>("aten::lerp", "Tensor", self, end, weight);
  }
  return *floating(Opcode::LerpTensor, {}, {&self, &end, &weight});
}

template <Opcode kOpcode>
struct AddProduct {
  static constexpr const char* name() {
    return kOpcode == Opcode::Addcmul ? "aten::addcmul" : "aten::addcdiv";
  }
  static bool native(const Tensor& self, const Tensor& a, const Tensor& b,
                     const at::Scalar& value) {
    return !value.isComplex() && floating_native({&self, &a, &b});
  }
  static Tensor functional(const Tensor& self, const Tensor& a, const Tensor& b,
                           const at::Scalar& value) {
    if (!native(self, a, b, value)) return to_host<Tensor>(name(), "", self, a, b, value);
    return *floating(kOpcode, {}, {&self, &a, &b}, {value});
  }
  static Tensor& in_place(Tensor& self, const Tensor& a, const Tensor& b, const at::Scalar& value) {
    if (!native(self, a, b, value)) {
      to_host<Tensor>((std::string(name()) + "_").c_str(), "", self, a, b, value);
      return self;
    }
    floating(kOpcode, self, {&self, &a, &b}, {value});
    return self;
  }
};

// --- division with rounding ----------------------------------------------------------------------

struct DivMode {
  static Opcode opcode(std::optional<c10::string_view> mode) {
    if (!mode) return Opcode::Div;
    if (*mode == "trunc") return Opcode::TruncDiv;
    TORCH_CHECK(*mode == "floor",
                "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found '",
                *mode, "'");
    return Opcode::FloorDiv;
  }
  // Integer division by zero is an error on the CPU, raised by its kernel; a divisor that is known
  // at the call is not zero.
  static bool native(const Tensor& out, const Tensor& self, const Tensor& other,
                     std::optional<c10::string_view> mode) {
    if (!recordable(out, {&self, &other})) return false;
    if (!mode || at::isFloatingType(at::result_type(self, other))) return true;
    return other.device().is_cpu() && self.scalar_type() != ScalarType::Bool &&
           other.item().to<int64_t>() != 0;
  }
  static Tensor functional(const Tensor& self, const Tensor& other,
                           std::optional<c10::string_view> mode) {
    if (!native({}, self, other, mode)) {
      return to_host<Tensor>("aten::div", "Tensor_mode", self, other, mode);
    }
    return *binary(opcode(mode), mode ? Rule::Same : Rule::Float, {}, self, other);
  }
  static Tensor& in_place(Tensor& self, const Tensor& other, std::optional<c10::string_view> mode) {
    if (!native(self, self, other, mode)) {
      to_host<Tensor>("aten::div_", "Tensor_mode", self, other, mode);
      return self;
    }
    binary(opcode(mode), mode ? Rule::Same : Rule::Float, self, self, other);
    return self;
  }
};

// --- cross product -------------------------------------------------------------------------------

void record_cross(const Tensor& out, const Tensor& self, const Tensor& other, int64_t dim) {
  const Tensor a = self.expand(out.sizes()), b = other.expand(out.sizes());
  for (int64_t i = 0; i < 3; ++i) {
    const int64_t next = (i + 1) % 3, after = (i + 2) % 3;
    Recording(Opcode::CrossProduct)
        .output(out.select(dim, i))
        .input(a.select(dim, next))
        .input(b.select(dim, after))
        .input(a.select(dim, after))
        .input(b.select(dim, next))
        .attribute(out.scalar_type())
        .record();
  }
}

bool can_cross(const Tensor& self, const Tensor& other) {
  return is_plain(self) && is_plain(other) && is_native(self) &&
         self.scalar_type() == other.scalar_type() && self.scalar_type() != ScalarType::Bool;
}

Tensor cross(const Tensor& self, const Tensor& other, int64_t dim) {
  if (!can_cross(self, other)) return to_host<Tensor>("aten::linalg_cross", "", self, other, dim);
  Inferred<at::meta::structured_linalg_cross> op;
  op.meta(self, other, dim);
  record_cross(op[0], self, other, at::maybe_wrap_dim(dim, self.dim()));
  return op[0];
}

Tensor& cross_out(const Tensor& self, const Tensor& other, int64_t dim, Tensor& out) {
  if (!can_cross(self, other) || !is_plain(out) || out.is_alias_of(self) ||
      out.is_alias_of(other)) {
    to_host<Tensor>("aten::linalg_cross", "out", self, other, dim, out);
    return out;
  }
  Inferred<at::meta::structured_linalg_cross> op{out};
  op.meta(self, other, dim);
  record_cross(out, self, other, at::maybe_wrap_dim(dim, self.dim()));
  return out;
}

// --- logical -------------------------------------------------------------------------------------

template <const char* const* kName, Opcode kOpcode>
struct Logical {
  static Tensor functional(const Tensor& self, const Tensor& other) {
    if (!recordable({}, {&self, &other}) || other.device().is_cpu() || self.device().is_cpu()) {
      return to_host<Tensor>(*kName, "", self, other);
    }
    return *binary(kOpcode, Rule::Bool, {}, self, other);
  }
};

Tensor logical_not(const Tensor& self) {
  if (!recordable({}, {&self})) return to_host<Tensor>("aten::logical_not", "", self);
  return *unary(Opcode::LogicalNot, Rule::Bool, {}, self);
}

// --- the tables ----------------------------------------------------------------------------------

// clang-format off
#define ACCEL_UNARY_TABLE(X)                                                                 \
  X(neg, Neg, Same) X(abs, Abs, Same) X(sign, Sign, Same) X(sqrt, Sqrt, Float)               \
  X(rsqrt, Rsqrt, Float) X(reciprocal, Reciprocal, Float) X(exp, Exp, Float)                 \
  X(exp2, Exp2, Float) X(expm1, Expm1, Float) X(log, Log, Float) X(log2, Log2, Float)        \
  X(log10, Log10, Float) X(log1p, Log1p, Float) X(sin, Sin, Float) X(cos, Cos, Float)        \
  X(tan, Tan, Float) X(asin, Asin, Float) X(acos, Acos, Float) X(atan, Atan, Float)          \
  X(sinh, Sinh, Float) X(cosh, Cosh, Float) X(tanh, Tanh, Float) X(asinh, Asinh, Float)      \
  X(acosh, Acosh, Float) X(atanh, Atanh, Float) X(erf, Erf, Float) X(erfc, Erfc, Float)      \
  X(erfinv, Erfinv, Float) X(sigmoid, Sigmoid, Float) X(lgamma, Lgamma, Float)

#define ACCEL_BINARY_TABLE(X)                                                                \
  X(mul, Tensor, Mul, Same) X(div, Tensor, Div, Float) X(atan2, , Atan2, Float)              \
  X(maximum, , Maximum, Same) X(minimum, , Minimum, Same) X(fmax, , Fmax, Same)              \
  X(fmin, , Fmin, Same)

#define ACCEL_COMPARE_TABLE(X) \
  X(eq, Eq) X(ne, Ne) X(lt, Lt) X(le, Le) X(gt, Gt) X(ge, Ge)
// clang-format on

#define ACCEL_NAME(name) constexpr const char* k_##name = "aten::" #name;
#define ACCEL_UNARY_NAME(name, opcode, rule) ACCEL_NAME(name)
#define ACCEL_BINARY_NAME(name, overload, opcode, rule) \
  ACCEL_NAME(name) constexpr const char* k_##name##_overload = #overload;
#define ACCEL_COMPARE_NAME(name, opcode) ACCEL_NAME(name)
ACCEL_UNARY_TABLE(ACCEL_UNARY_NAME)
ACCEL_BINARY_TABLE(ACCEL_BINARY_NAME)
ACCEL_COMPARE_TABLE(ACCEL_COMPARE_NAME)
ACCEL_NAME(logical_and)
ACCEL_NAME(logical_or)
ACCEL_NAME(logical_xor)
constexpr const char* k_tensor = "Tensor";

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
#define ACCEL_REGISTER_UNARY(name, opcode, rule)             \
  {                                                          \
    using Op = Unary<&k_##name, Opcode::opcode, Rule::rule>; \
    m.impl(#name, TORCH_FN(Op::functional));                 \
    m.impl(#name "_", TORCH_FN(Op::in_place));               \
    m.impl(#name ".out", TORCH_FN(Op::out));                 \
  }
  ACCEL_UNARY_TABLE(ACCEL_REGISTER_UNARY)

  // Overloads are named "mul.Tensor", "mul_.Tensor", "mul.out", or "maximum", "maximum.out".
  auto with = [](const char* name, const char* overload) {
    return *overload ? std::string(name) + "." + overload : std::string(name);
  };
#define ACCEL_REGISTER_BINARY(name, overload, opcode, rule)                         \
  {                                                                                 \
    using Op = Binary<&k_##name, &k_##name##_overload, Opcode::opcode, Rule::rule>; \
    m.impl(with(#name, #overload).c_str(), TORCH_FN(Op::functional));               \
    m.impl(#name ".out", TORCH_FN(Op::out));                                        \
  }
  ACCEL_BINARY_TABLE(ACCEL_REGISTER_BINARY) {
    using Mul = Binary<&k_mul, &k_mul_overload, Opcode::Mul, Rule::Same>;
    using Div = Binary<&k_div, &k_div_overload, Opcode::Div, Rule::Float>;
    m.impl("mul_.Tensor", TORCH_FN(Mul::in_place));
    m.impl("div_.Tensor", TORCH_FN(Div::in_place));
    m.impl("div.Tensor_mode", TORCH_FN(DivMode::functional));
    m.impl("div_.Tensor_mode", TORCH_FN(DivMode::in_place));
  }

#define ACCEL_REGISTER_COMPARE(name, opcode)                                \
  {                                                                         \
    using Op = Binary<&k_##name, &k_tensor, Opcode::opcode, Rule::Compare>; \
    using Number = BinaryScalar<&k_##name, Opcode::opcode, Rule::Compare>;  \
    m.impl(#name ".Tensor", TORCH_FN(Op::functional));                      \
    m.impl(#name ".Scalar", TORCH_FN(Number::functional));                  \
  }
  ACCEL_COMPARE_TABLE(ACCEL_REGISTER_COMPARE)

  m.impl("add.Tensor", TORCH_FN(AddSub<Opcode::Add>::functional));
  m.impl("add_.Tensor", TORCH_FN(AddSub<Opcode::Add>::in_place));
  m.impl("add.out", TORCH_FN(AddSub<Opcode::Add>::out));
  m.impl("sub.Tensor", TORCH_FN(AddSub<Opcode::Sub>::functional));
  m.impl("sub_.Tensor", TORCH_FN(AddSub<Opcode::Sub>::in_place));
  m.impl("sub.out", TORCH_FN(AddSub<Opcode::Sub>::out));
  m.impl("rsub.Scalar", TORCH_FN(rsub));
  m.impl("rsub.Tensor", TORCH_FN(rsub_tensor));

  m.impl("linalg_cross", TORCH_FN(cross));
  m.impl("linalg_cross.out", TORCH_FN(cross_out));
  m.impl("polygamma", TORCH_FN(polygamma));

  m.impl("pow.Tensor_Scalar", TORCH_FN(PowScalar::functional));
  m.impl("pow_.Scalar", TORCH_FN(PowScalar::in_place));
  m.impl("pow.Tensor_Scalar_out", TORCH_FN(PowScalar::out));
  m.impl("pow.Scalar", TORCH_FN(pow_of_scalar));

  m.impl("round.decimals", TORCH_FN(round_decimals));

  m.impl("where.self", TORCH_FN(where));
  m.impl("where.self_out", TORCH_FN(where_out));
  m.impl("masked_fill_.Scalar", TORCH_FN(masked_fill_));
  m.impl("masked_fill_.Tensor", TORCH_FN(masked_fill_tensor_));
  m.impl("fill_.Scalar", TORCH_FN(fill_));
  m.impl("fill_.Tensor", TORCH_FN(fill_tensor_));
  m.impl("zero_", TORCH_FN(zero_));

  m.impl("clamp", TORCH_FN(clamp));
  m.impl("clamp_", TORCH_FN(clamp_));
  m.impl("clamp.out", TORCH_FN(clamp_out));
  m.impl("clamp_min", TORCH_FN(clamp_min));
  m.impl("clamp_min_", TORCH_FN(clamp_min_));
  m.impl("clamp_max", TORCH_FN(clamp_max));
  m.impl("clamp_max_", TORCH_FN(clamp_max_));
  m.impl("lerp.Scalar", TORCH_FN(lerp));
  m.impl("lerp_.Scalar", TORCH_FN(lerp_));
  m.impl("lerp.Tensor", TORCH_FN(lerp_tensor));
  m.impl("addcmul", TORCH_FN(AddProduct<Opcode::Addcmul>::functional));
  m.impl("addcmul_", TORCH_FN(AddProduct<Opcode::Addcmul>::in_place));
  m.impl("addcdiv", TORCH_FN(AddProduct<Opcode::Addcdiv>::functional));
  m.impl("addcdiv_", TORCH_FN(AddProduct<Opcode::Addcdiv>::in_place));

  m.impl("logical_not", TORCH_FN(logical_not));
  m.impl("logical_and", TORCH_FN((Logical<&k_logical_and, Opcode::LogicalAnd>::functional)));
  m.impl("logical_or", TORCH_FN((Logical<&k_logical_or, Opcode::LogicalOr>::functional)));
  m.impl("logical_xor", TORCH_FN((Logical<&k_logical_xor, Opcode::LogicalXor>::functional)));
}

}  // namespace accel::aten

// The pointwise ops that are not called often enough for code of their own: one boxed kernel reads
// from the schema which arguments are inputs, scalars and the output, so that the functional, the
// in-place and the out= variant are one table row. What a row does not take goes to the host.
#include <ATen/core/boxing/BoxedKernel.h>
#include <ATen/native/TypeProperties.h>

#include "csrc/aten/complex.h"

namespace accel::aten {

namespace {

// The common dtypes that a row computes.
enum class Takes { Floating, Bits, Real, Any };

bool takes(Takes which, ScalarType dtype) {
  switch (which) {
    case Takes::Floating:
      return at::isFloatingType(dtype);
    case Takes::Bits:
      return at::isIntegralType(dtype, /*includeBool=*/true);
    case Takes::Real:
      return at::isFloatingType(dtype) || at::isIntegralType(dtype, /*includeBool=*/false);
    case Takes::Any:
      return true;
  }
  return false;
}

// A row: the opcode takes the op's tensors as inputs, its numbers as scalars, and as attributes its
// bools and whether optional numbers were given, all in the schema's order.
struct Row {
  Opcode opcode;
  Rule rule;
  Takes takes;
  bool promotes;  // inputs of several dtypes are the op's own business
  std::initializer_list<const char*> variants;
};

const Row kRows[] = {
    {Opcode::Floor, Rule::Same, Takes::Real, false, {"floor", "floor_", "floor.out"}},
    {Opcode::Ceil, Rule::Same, Takes::Real, false, {"ceil", "ceil_", "ceil.out"}},
    {Opcode::Trunc, Rule::Same, Takes::Real, false, {"trunc", "trunc_", "trunc.out"}},
    {Opcode::RoundEven, Rule::Same, Takes::Real, false, {"round", "round_", "round.out"}},
    {Opcode::Frac, Rule::Same, Takes::Floating, false, {"frac", "frac_", "frac.out"}},
    {Opcode::Sign, Rule::Same, Takes::Real, false, {"sgn", "sgn_", "sgn.out"}},
    {Opcode::Sinc, Rule::Float, Takes::Floating, false, {"sinc", "sinc_", "sinc.out"}},
    {Opcode::Entr, Rule::Float, Takes::Floating, false, {"special_entr", "special_entr.out"}},
    {Opcode::IsNan, Rule::Compare, Takes::Floating, false, {"isnan"}},
    {Opcode::IsPosInf, Rule::Compare, Takes::Floating, false, {"isposinf"}},
    {Opcode::IsNegInf, Rule::Compare, Takes::Floating, false, {"isneginf"}},
    {Opcode::SignBit, Rule::Compare, Takes::Real, false, {"signbit", "signbit.out"}},
    {Opcode::Angle, Rule::Float, Takes::Floating, false, {"angle", "angle.out"}},
    {Opcode::LogicalNot, Rule::Bool, Takes::Any, false, {"logical_not_", "logical_not.out"}},
    {Opcode::BitNot,
     Rule::Same,
     Takes::Bits,
     false,
     {"bitwise_not", "bitwise_not_", "bitwise_not.out"}},

    {Opcode::BitAnd,
     Rule::Same,
     Takes::Bits,
     true,
     {"bitwise_and.Tensor", "bitwise_and_.Tensor", "bitwise_and.Tensor_out"}},
    {Opcode::BitOr,
     Rule::Same,
     Takes::Bits,
     true,
     {"bitwise_or.Tensor", "bitwise_or_.Tensor", "bitwise_or.Tensor_out"}},
    {Opcode::BitXor,
     Rule::Same,
     Takes::Bits,
     true,
     {"bitwise_xor.Tensor", "bitwise_xor_.Tensor", "bitwise_xor.Tensor_out"}},
    {Opcode::ShiftLeft,
     Rule::Same,
     Takes::Bits,
     true,
     {"bitwise_left_shift.Tensor", "bitwise_left_shift_.Tensor", "bitwise_left_shift.Tensor_out"}},
    {Opcode::ShiftRight,
     Rule::Same,
     Takes::Bits,
     true,
     {"bitwise_right_shift.Tensor", "bitwise_right_shift_.Tensor",
      "bitwise_right_shift.Tensor_out"}},
    {Opcode::LogicalAnd, Rule::Bool, Takes::Any, true, {"logical_and_", "logical_and.out"}},
    {Opcode::LogicalOr, Rule::Bool, Takes::Any, true, {"logical_or_", "logical_or.out"}},
    {Opcode::LogicalXor, Rule::Bool, Takes::Any, true, {"logical_xor_", "logical_xor.out"}},
    {Opcode::CopySign,
     Rule::Float,
     Takes::Floating,
     true,
     {"copysign.Tensor", "copysign_.Tensor", "copysign.out"}},
    {Opcode::Pow,
     Rule::Same,
     Takes::Floating,
     true,
     {"pow.Tensor_Tensor", "pow_.Tensor", "pow.Tensor_Tensor_out"}},
    // Integers with a divisor that is not known stay on the host, whose kernels raise for a
    // division by zero.
    {Opcode::Fmod,
     Rule::Same,
     Takes::Floating,
     true,
     {"fmod.Tensor", "fmod_.Tensor", "fmod.Tensor_out"}},
    {Opcode::Remainder,
     Rule::Same,
     Takes::Floating,
     true,
     {"remainder.Tensor", "remainder_.Tensor", "remainder.Tensor_out"}},
    {Opcode::FloorDiv,
     Rule::Same,
     Takes::Floating,
     true,
     {"floor_divide", "floor_divide_.Tensor", "floor_divide.out"}},
    {Opcode::Hypot, Rule::Same, Takes::Floating, true, {"hypot", "hypot_", "hypot.out"}},
    {Opcode::Heaviside,
     Rule::Same,
     Takes::Floating,
     false,
     {"heaviside", "heaviside_", "heaviside.out"}},
    {Opcode::LogAddExp, Rule::Same, Takes::Floating, true, {"logaddexp", "logaddexp.out"}},
    {Opcode::LogAddExp2, Rule::Same, Takes::Floating, true, {"logaddexp2", "logaddexp2.out"}},
    {Opcode::XLogY,
     Rule::Float,
     Takes::Floating,
     true,
     {"xlogy.Tensor", "xlogy_.Tensor", "xlogy.OutTensor"}},
    {Opcode::XLog1Py,
     Rule::Float,
     Takes::Floating,
     true,
     {"special_xlog1py", "special_xlog1py.out"}},
    {Opcode::ClampTensor,
     Rule::Same,
     Takes::Real,
     true,
     {"clamp.Tensor", "clamp_.Tensor", "clamp.Tensor_out"}},
    {Opcode::ClampMin,
     Rule::Same,
     Takes::Real,
     true,
     {"clamp_min.Tensor", "clamp_min_.Tensor", "clamp_min.Tensor_out"}},
    {Opcode::ClampMax,
     Rule::Same,
     Takes::Real,
     true,
     {"clamp_max.Tensor", "clamp_max_.Tensor", "clamp_max.Tensor_out"}},
    {Opcode::LerpTensor, Rule::Same, Takes::Floating, false, {"lerp_.Tensor", "lerp.Tensor_out"}},
    {Opcode::Lerp, Rule::Same, Takes::Floating, false, {"lerp.Scalar_out"}},

    {Opcode::EluBackward,
     Rule::Same,
     Takes::Floating,
     false,
     {"elu_backward", "elu_backward.grad_input"}},
    {Opcode::HardsigmoidBackward,
     Rule::Same,
     Takes::Floating,
     false,
     {"hardsigmoid_backward", "hardsigmoid_backward.grad_input"}},
    {Opcode::HardswishBackward, Rule::Same, Takes::Floating, false, {"hardswish_backward"}},
    {Opcode::MishBackward, Rule::Same, Takes::Floating, false, {"mish_backward"}},
    {Opcode::Hardshrink, Rule::Same, Takes::Floating, false, {"hardshrink", "hardshrink.out"}},
    {Opcode::Softshrink, Rule::Same, Takes::Floating, false, {"softshrink", "softshrink.out"}},
    {Opcode::ShrinkBackward,
     Rule::Same,
     Takes::Floating,
     false,
     {"hardshrink_backward", "hardshrink_backward.grad_input", "softshrink_backward",
      "softshrink_backward.grad_input"}},
    {Opcode::Threshold,
     Rule::Same,
     Takes::Real,
     false,
     {"threshold", "threshold_", "threshold.out"}},
    {Opcode::Prelu, Rule::Same, Takes::Floating, false, {"_prelu_kernel"}},
    {Opcode::Logit, Rule::Float, Takes::Floating, false, {"logit", "logit_", "logit.out"}},
    {Opcode::LogitBackward,
     Rule::Same,
     Takes::Floating,
     false,
     {"logit_backward", "logit_backward.grad_input"}},
    {Opcode::NanToNum,
     Rule::Same,
     Takes::Floating,
     false,
     {"nan_to_num", "nan_to_num_", "nan_to_num.out"}},

    // Special functions.
    {Opcode::Digamma, Rule::Float, Takes::Floating, false, {"digamma", "digamma_", "digamma.out"}},
    {Opcode::BesselI0, Rule::Float, Takes::Floating, false, {"i0", "i0_", "i0.out"}},
    {Opcode::BesselI0e, Rule::Float, Takes::Floating, false, {"special_i0e", "special_i0e.out"}},
    {Opcode::BesselI1, Rule::Float, Takes::Floating, false, {"special_i1", "special_i1.out"}},
    {Opcode::BesselI1e, Rule::Float, Takes::Floating, false, {"special_i1e", "special_i1e.out"}},
    {Opcode::Erfcx, Rule::Float, Takes::Floating, false, {"special_erfcx", "special_erfcx.out"}},
    {Opcode::LogNdtr,
     Rule::Float,
     Takes::Floating,
     false,
     {"special_log_ndtr", "special_log_ndtr.out"}},
    {Opcode::Zeta, Rule::Float, Takes::Floating, true, {"special_zeta", "special_zeta.out"}},
    {Opcode::Igamma, Rule::Same, Takes::Floating, true, {"igamma", "igamma_", "igamma.out"}},
    {Opcode::Igammac, Rule::Same, Takes::Floating, true, {"igammac", "igammac_", "igammac.out"}},
};

// The arguments of a call, as a Node needs them.
struct Arguments {
  Tensor out;
  c10::SmallVector<Tensor, 3> inputs;  // undefined where an optional one was not given
  c10::SmallVector<at::Scalar, 3> scalars;
  c10::SmallVector<uint64_t, 3> attributes;
  bool has_complex_scalar = false;
};

Arguments read(const c10::FunctionSchema& schema, c10::ArrayRef<c10::IValue> values) {
  Arguments result;
  for (size_t i = 0; i < values.size(); ++i) {
    const c10::Argument& argument = schema.arguments()[i];
    const c10::IValue& value = values[i];
    const c10::TypePtr& type = argument.type();
    const bool optional = type->kind() == c10::TypeKind::OptionalType;
    const c10::TypeKind kind =
        optional ? type->expectRef<c10::OptionalType>().getElementType()->kind() : type->kind();
    if (kind == c10::TypeKind::TensorType) {
      const Tensor tensor = value.isNone() ? Tensor() : value.toTensor();
      const bool written = argument.alias_info() != nullptr && argument.alias_info()->isWrite();
      if (written) result.out = tensor;
      if (!argument.is_out()) result.inputs.push_back(tensor);
    } else if (kind == c10::TypeKind::BoolType) {
      result.attributes.push_back(value.toBool());
    } else {
      if (optional) result.attributes.push_back(!value.isNone());
      if (value.isNone()) continue;
      result.scalars.push_back(value.toScalar());
      result.has_complex_scalar |= result.scalars.back().isComplex();
    }
  }
  return result;
}

ScalarType common_dtype(Inputs inputs, Rule rule) {
  at::native::ResultTypeState state = {};
  for (const Tensor* input : inputs) {
    state = at::native::update_result_type_state(*input, state);
  }
  const ScalarType dtype = at::native::result_type(state);
  return rule == Rule::Float && at::isIntegralType(dtype, /*includeBool=*/true)
             ? at::get_default_dtype_as_scalartype()
             : dtype;
}

class PointwiseKernel final : public c10::OperatorKernel {
 public:
  explicit PointwiseKernel(const Row& row) : row_(row) {}

  void operator()(const c10::OperatorHandle& op, c10::DispatchKeySet, torch::jit::Stack* stack) {
    const size_t count = op.schema().arguments().size();
    Arguments arguments = read(op.schema(), torch::jit::last(*stack, count));
    c10::SmallVector<const Tensor*, 3> inputs;
    for (const Tensor& input : arguments.inputs) {
      if (input.defined()) inputs.push_back(&input);
    }
    Tensor result;
    if (!arguments.has_complex_scalar && accepts(arguments, inputs)) {
      result = record(arguments, inputs);
    } else if (const auto complex = complex_pointwise(row_.opcode, arguments.out, inputs)) {
      result = **complex;
    } else {
      return host_op(op, stack);
    }
    torch::jit::drop(*stack, count);
    torch::jit::push(*stack, std::move(result));
  }

 private:
  bool accepts(const Arguments& arguments, Inputs inputs) const {
    if (!recordable(arguments.out, inputs)) return false;
    if (!row_.promotes) {
      for (const Tensor* input : inputs) {
        if (input->scalar_type() != inputs[0]->scalar_type()) return false;
      }
    }
    // Errors that the host words: no bound at all, a negative lambda.
    if (row_.opcode == Opcode::ClampTensor && inputs.size() < 2) return false;
    if (row_.opcode == Opcode::Softshrink && !(arguments.scalars[0].toDouble() >= 0)) return false;
    const ScalarType common = common_dtype(inputs, row_.rule);
    return takes(row_.takes, common) || divides_by_number(common, inputs);
  }

  // Whether whole numbers are divided by one that is known at the call, and not zero.
  bool divides_by_number(ScalarType common, Inputs inputs) const {
    const bool divides = row_.opcode == Opcode::Fmod || row_.opcode == Opcode::Remainder ||
                         row_.opcode == Opcode::FloorDiv;
    return divides && at::isIntegralType(common, /*includeBool=*/false) &&
           inputs[1]->device().is_cpu() && inputs[1]->item().to<int64_t>() != 0;
  }

  Tensor record(const Arguments& arguments, Inputs inputs) const {
    Inference inferred = infer(arguments.out, inputs, row_.rule);
    const Tensor& out = inferred.out();
    // A table op of two operands takes the second one as a scalar too (see lower.cpp).
    const bool scalar_operand = row_.opcode < Opcode::Copy;
    Recording recording(row_.opcode);
    recording.output(out).attribute(inferred.compute);
    for (size_t i = 0; i < arguments.inputs.size(); ++i) {
      const Tensor& input = arguments.inputs[i];
      if (!input.defined()) {
        recording.no_input();
      } else if (scalar_operand && i == 1) {
        add_operand(recording, input, out.sizes(), inferred.compute);
      } else {
        add_view(recording, input, out);
      }
    }
    for (uint64_t attribute : arguments.attributes) recording.attribute(attribute);
    for (const at::Scalar& scalar : arguments.scalars) {
      recording.scalar(scalar_of(scalar, inferred.compute));
    }
    recording.record();
    return out;
  }

  const Row& row_;
};

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  for (const Row& row : kRows) {
    for (const char* variant : row.variants) {
      m.impl(variant, torch::CppFunction::makeFromBoxedKernel(c10::BoxedKernel::makeFromFunctor(
                          std::make_unique<PointwiseKernel>(row))));
    }
  }
}

}  // namespace accel::aten

// What each Node computes, as values of a ProgramBuilder. The only place that knows the formulas of
// pointwise and row ops; every formula rounds once, at its output, as the ATen op does.
#include <cmath>
#include <limits>
#include <numbers>
#include <optional>

#include "csrc/graph/program_builder.h"

namespace accel::graph {

namespace {

using kernels::DType;
using vec::Lane;
using vec::Op;

// The largest finite value of a floating dtype.
double largest_of(DType dtype) {
  switch (dtype) {
    case DType::Float16:
      return 65504;
    case DType::BFloat16:
      return std::ldexp(2 - std::ldexp(1.0, -7), 127);
    case DType::Float32:
      return std::numeric_limits<float>::max();
    default:
      return std::numeric_limits<double>::max();
  }
}

// A Node while it is lowered: its inputs in the compute dtype, shorthands for arithmetic in the
// compute lane.
class Lowering {
 public:
  Lowering(const Node& node, Domain domain, ProgramBuilder& builder)
      : node_(node),
        domain_(domain),
        builder_(builder),
        compute_(static_cast<DType>(node.attributes.at(0))),
        lane_(vec::lane_of(compute_)) {}

  void run();

 private:
  bool has(size_t i) const { return i < node_.inputs.size() && !node_.inputs[i].absent(); }
  bool wants(size_t i) const { return i < node_.outputs.size() && !node_.outputs[i].absent(); }
  // Input i cast to the compute dtype.
  Value in(size_t i) { return in(i, domain_); }
  Value in(size_t i, Domain domain) {
    return builder_.cast(builder_.input(node_.inputs[i], domain), compute_);
  }
  // Input i in its own lane.
  Value raw(size_t i, Domain domain) { return builder_.input(node_.inputs[i], domain); }
  Value s(int i) { return builder_.scalar(node_.first_scalar + i, lane_); }
  Value k(double value) { return builder_.constant(value, lane_); }

  Value op(Op code, Value a, Value b = -1, Value c = -1) {
    return builder_.apply(code, lane_, a, b, c);
  }
  Value add(Value a, Value b) { return op(Op::Add, a, b); }
  Value sub(Value a, Value b) { return op(Op::Sub, a, b); }
  Value mul(Value a, Value b) { return op(Op::Mul, a, b); }
  Value div(Value a, Value b) { return op(Op::Div, a, b); }
  Value select(Value condition, Value a, Value b) { return op(Op::Select, condition, a, b); }
  Value sigmoid(Value x) { return op(Op::Sigmoid, x); }
  Value truth(size_t i) { return builder_.convert(raw(i, domain_), Lane::Bool); }
  Value logic(Op code, Value a, Value b = -1) { return builder_.apply(code, Lane::Bool, a, b); }

  // out= of another dtype gets what the op makes in its own.
  void out(Value value) {
    const bool is_own = builder_.lane(value) == lane_ && node_.outputs[0].dtype != compute_;
    out(0, is_own ? builder_.cast(value, compute_) : value, domain_);
  }
  void out(size_t i, Value value, Domain domain) {
    if (i < node_.outputs.size()) builder_.output(node_.outputs[i], domain, value);
  }

  double reduced_elements() const;
  Value sum(Value value) { return builder_.reduce(Op::ReduceSum, lane_, value); }
  Value mean(Value value) { return div(sum(value), k(reduced_elements())); }
  Value inverse_deviation(Value variance);

  void pointwise();
  std::optional<Value> by_dtype();
  void less_common();
  void reduction();
  void row();
  void layer_norm();
  void layer_norm_backward_input();
  void layer_norm_backward_parameters();
  void batch_norm();
  void batch_norm_backward();
  void complex();
  void normal();

  const Node& node_;
  Domain domain_;
  ProgramBuilder& builder_;
  DType compute_;
  Lane lane_;
};

double Lowering::reduced_elements() const {
  const View& input = node_.inputs[0];
  const auto kept = static_cast<size_t>(node_.attributes.at(1));
  const bool column = family_of(node_) == Family::ColumnReduce;
  double product = 1;
  const size_t dims = input.sizes.size();
  const size_t begin = column ? 0 : kept;
  const size_t end = column ? dims - kept : dims;
  for (size_t i = begin; i < end; ++i) product *= static_cast<double>(input.sizes[i]);
  return product;
}

void Lowering::run() {
  switch (family_of(node_)) {
    case Family::Pointwise:
      return pointwise();
    case Family::RowReduce:
    case Family::ColumnReduce:
      if (node_.opcode <= Opcode::ReduceVariance) return reduction();
      return row();
    default:
      return;
  }
}

// Table ops whose formula depends on the dtype.
std::optional<Value> Lowering::by_dtype() {
  auto other = [this] { return has(1) ? in(1) : s(0); };
  switch (node_.opcode) {
    case Opcode::TruncDiv:  // 16-bit quotients are rounded before they are cut
      if (lane_ != Lane::F32) return std::nullopt;
      return op(Op::Trunc, builder_.cast(div(in(0), other()), compute_));
    case Opcode::Fmin:  // nothing to prefer to NaN
    case Opcode::Fmax:
      if (lane_ != Lane::Bool && lane_ != Lane::I64) return std::nullopt;
      return op(node_.opcode == Opcode::Fmin ? Op::Minimum : Op::Maximum, in(0), other());
    case Opcode::Abs:
    case Opcode::Sign:
      if (lane_ != Lane::Bool) return std::nullopt;
      return in(0);
    case Opcode::SignBit:
      if (lane_ != Lane::I64) return std::nullopt;
      return builder_.apply(Op::Lt, lane_, in(0), k(0));
    case Opcode::Floor:
    case Opcode::Ceil:
    case Opcode::Trunc:
    case Opcode::RoundEven:
      if (lane_ != Lane::I64) return std::nullopt;
      return in(0);
    default:
      return std::nullopt;
  }
}

void Lowering::pointwise() {
  if (const auto value = by_dtype()) return out(*value);
  switch (node_.opcode) {
#define ACCEL_LOWER_UNARY(name) \
  case Opcode::name:            \
    return out(op(Op::name, in(0)));
    ACCEL_UNARY_OPCODES(ACCEL_LOWER_UNARY)
#undef ACCEL_LOWER_UNARY
#define ACCEL_LOWER_BINARY(name) \
  case Opcode::name:             \
    return out(op(Op::name, in(0), has(1) ? in(1) : s(0)));
    ACCEL_BINARY_OPCODES(ACCEL_LOWER_BINARY)
#undef ACCEL_LOWER_BINARY
    case Opcode::Copy:
      return out(raw(0, domain_));
    case Opcode::Fill:
      return out(s(0));
    case Opcode::Add:
    case Opcode::Sub: {
      // Inputs: a, b or scalar b; scalar alpha unless attribute 1 says that it is one.
      const bool alpha_is_one = node_.attributes.at(1);
      Value b = has(1) ? in(1) : s(0);
      if (!alpha_is_one) b = mul(b, s(has(1) ? 0 : 1));
      return out(op(node_.opcode == Opcode::Add ? Op::Add : Op::Sub, in(0), b));
    }
    case Opcode::ReverseSub:
      return out(sub(s(0), in(0)));
    case Opcode::Where:
      return out(select(truth(0), in(1), in(2)));
    case Opcode::MaskedFill:
      return out(select(truth(1), s(0), in(0)));
    case Opcode::Clamp:
      return out(
          op(Op::Minimum, op(Op::Maximum, in(0), has(1) ? in(1) : s(0)), has(2) ? in(2) : s(1)));
    case Opcode::ClampMin:
      return out(op(Op::Maximum, in(0), has(1) ? in(1) : s(0)));
    case Opcode::ClampMax:
      return out(op(Op::Minimum, in(0), has(1) ? in(1) : s(0)));
    case Opcode::Lerp:
    case Opcode::LerpTensor: {
      // From the nearer end, so that weights 0 and 1 give the ends exactly.
      const Value a = in(0), b = in(1);
      const Value weight = node_.opcode == Opcode::Lerp ? s(0) : in(2);
      const Value difference = sub(b, a);
      const Value near = builder_.apply(Op::Lt, lane_, op(Op::Abs, weight), k(0.5));
      return out(select(near, add(a, mul(weight, difference)),
                        sub(b, mul(difference, sub(k(1), weight)))));
    }
    case Opcode::Addcmul:
      return out(add(in(0), mul(mul(s(0), in(1)), in(2))));
    case Opcode::Addcdiv:
      return out(add(in(0), div(mul(s(0), in(1)), in(2))));
    case Opcode::LogicalNot:
      return out(logic(Op::BitNot, truth(0)));
    case Opcode::LogicalAnd:
      return out(logic(Op::BitAnd, truth(0), truth(1)));
    case Opcode::LogicalOr:
      return out(logic(Op::BitOr, truth(0), truth(1)));
    case Opcode::LogicalXor:
      return out(logic(Op::BitXor, truth(0), truth(1)));
    case Opcode::Relu:
      return out(op(Op::Maximum, in(0), k(0)));
    case Opcode::ThresholdBackward: {
      const Value below = builder_.apply(Op::Le, lane_, in(1), s(0));
      return out(select(below, k(0), in(0)));
    }
    case Opcode::Gelu:
      return out(op(Op::Gelu, in(0)));
    case Opcode::GeluTanh:
      return out(op(Op::GeluTanh, in(0)));
    case Opcode::GeluBackward:
      return out(mul(in(0), op(Op::GeluSlope, in(1))));
    case Opcode::GeluTanhBackward:
      return out(mul(in(0), op(Op::GeluTanhSlope, in(1))));
    case Opcode::Silu: {
      const Value x = in(0);
      return out(mul(x, sigmoid(x)));
    }
    case Opcode::SiluBackward: {
      const Value grad = in(0), x = in(1), y = sigmoid(x);
      return out(mul(mul(grad, y), add(k(1), mul(x, sub(k(1), y)))));
    }
    case Opcode::TanhBackward: {
      const Value grad = in(0), y = in(1);
      return out(mul(grad, sub(k(1), mul(y, y))));
    }
    case Opcode::SigmoidBackward: {
      const Value grad = in(0), y = in(1);
      return out(mul(mul(grad, sub(k(1), y)), y));
    }
    case Opcode::LeakyRelu: {
      const Value x = in(0);
      return out(select(builder_.apply(Op::Gt, lane_, x, k(0)), x, mul(x, s(0))));
    }
    case Opcode::LeakyReluBackward: {
      const Value grad = in(0), x = in(1);
      return out(select(builder_.apply(Op::Gt, lane_, x, k(0)), grad, mul(grad, s(0))));
    }
    case Opcode::Elu: {
      const Value x = in(0);
      const Value negative = mul(op(Op::Expm1, mul(x, s(2))), s(0));
      return out(select(builder_.apply(Op::Lt, lane_, x, k(0)), negative, mul(x, s(1))));
    }
    case Opcode::Softplus: {
      const Value x = in(0), scaled = mul(x, s(0));
      const Value large = builder_.apply(Op::Gt, lane_, scaled, s(1));
      return out(select(large, x, div(op(Op::Log1p, op(Op::Exp, scaled)), s(0))));
    }
    case Opcode::SoftplusBackward: {
      const Value grad = in(0), scaled = mul(in(1), s(0));
      const Value large = builder_.apply(Op::Gt, lane_, scaled, s(1));
      const Value e = op(Op::Exp, scaled);
      return out(select(large, grad, div(mul(grad, e), add(e, k(1)))));
    }
    case Opcode::Hardtanh:
      return out(op(Op::Minimum, op(Op::Maximum, in(0), s(0)), s(1)));
    case Opcode::HardtanhBackward: {
      const Value x = in(1);
      const Value outside = logic(Op::BitOr, builder_.apply(Op::Le, lane_, x, s(0)),
                                  builder_.apply(Op::Ge, lane_, x, s(1)));
      return out(select(outside, k(0), in(0)));
    }
    case Opcode::Hardsigmoid: {
      const Value shifted = op(Op::Minimum, op(Op::Maximum, add(in(0), k(3)), k(0)), k(6));
      return out(div(shifted, k(6)));
    }
    case Opcode::Hardswish: {
      const Value x = in(0);
      const Value shifted = op(Op::Minimum, op(Op::Maximum, add(x, k(3)), k(0)), k(6));
      return out(div(mul(x, shifted), k(6)));
    }
    case Opcode::Mish: {
      const Value x = in(0);
      return out(mul(x, op(Op::Tanh, op(Op::Log1p, op(Op::Exp, x)))));
    }
    case Opcode::Dropout: {
      const Value uniform = builder_.uniform(node_.first_scalar, Lane::F32);
      const Value p = builder_.scalar(node_.first_scalar + 2, Lane::F32);
      const Value keep = builder_.apply(Op::Ge, Lane::F32, uniform, p);
      out(0, mul(mul(in(0), builder_.convert(keep, lane_)), s(3)), domain_);
      return out(1, keep, domain_);
    }
    case Opcode::DropoutBackward:
      return out(mul(mul(in(0), builder_.convert(truth(1), lane_)), s(0)));
    case Opcode::Uniform: {
      // Rounding can reach the end of the interval, which is not in it: its beginning stands in.
      const DType dtype = node_.outputs[0].dtype;
      const Value scaled = mul(builder_.uniform(node_.first_scalar, lane_), s(3));
      const Value value = builder_.cast(add(scaled, s(2)), dtype);
      const Value end = builder_.cast(add(s(3), s(2)), dtype);
      return out(select(builder_.apply(Op::Eq, lane_, value, end), s(2), value));
    }
    case Opcode::Bernoulli: {
      // p is a scalar, or the first input.
      const Value uniform = builder_.uniform(node_.first_scalar, lane_);
      const Value p = has(0) ? in(0) : s(2);
      return out(builder_.apply(Op::Lt, lane_, uniform, p));
    }
    case Opcode::Normal:
      return normal();
    case Opcode::Arange: {
      const Value index = builder_.convert(builder_.linear_index(), lane_);
      return out(add(s(0), mul(index, s(1))));
    }
    case Opcode::SquaredDifference: {
      const Value difference = sub(in(0), in(1));
      return out(mul(difference, difference));
    }
    case Opcode::MseBackward: {
      const Value input = in(0), target = in(1), grad = in(2);
      return out(mul(mul(s(0), sub(input, target)), grad));
    }
    case Opcode::Normalize: {
      const Value scaled = mul(sub(in(0), in(1)), in(2));
      return out(has(3) ? add(scaled, in(3)) : scaled);
    }
    default:
      return less_common();
  }
}

// Activations and functions of the second row, and what depends on an element's position.
void Lowering::less_common() {
  auto compare = [&](Op code, Value a, Value b) { return builder_.apply(code, lane_, a, b); };
  auto is_nan = [&](Value x) { return builder_.apply(Op::IsNan, lane_, x); };
  auto flag = [&](size_t i) { return i < node_.attributes.size() && node_.attributes[i] != 0; };
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  switch (node_.opcode) {
    case Opcode::ClampTensor: {
      Value x = in(0);
      if (has(1)) x = op(Op::Maximum, x, in(1));
      return out(has(2) ? op(Op::Minimum, x, in(2)) : x);
    }
    case Opcode::Cube: {
      const Value x = in(0);
      return out(mul(op(Op::Square, x), x));
    }
    case Opcode::Frac: {
      const Value x = in(0);
      return out(sub(x, op(Op::Trunc, x)));
    }
    case Opcode::IsPosInf:
      return out(compare(Op::Eq, in(0), k(kInfinity)));
    case Opcode::IsNegInf:
      return out(compare(Op::Eq, in(0), k(-kInfinity)));
    case Opcode::Heaviside: {
      const Value x = in(0);
      const Value step = builder_.convert(compare(Op::Gt, x, k(0)), lane_);
      return out(select(compare(Op::Eq, x, k(0)), in(1), step));
    }
    case Opcode::LogAddExp:
    case Opcode::LogAddExp2: {
      const Value a = in(0), b = in(1), most = op(Op::Maximum, a, b);
      const Value less = op(Op::Neg, op(Op::Abs, sub(a, b)));
      const Value sum =
          node_.opcode == Opcode::LogAddExp
              ? add(most, op(Op::Log1p, op(Op::Exp, less)))
              : add(most, mul(op(Op::Log1p, op(Op::Exp2, less)), k(std::numbers::log2e)));
      const Value same_infinity =
          logic(Op::BitAnd, builder_.apply(Op::IsInf, lane_, a), compare(Op::Eq, a, b));
      return out(select(same_infinity, a, sum));
    }
    case Opcode::XLogY:
    case Opcode::XLog1Py: {
      const Value x = in(0), y = in(1);
      const Value log = op(node_.opcode == Opcode::XLogY ? Op::Log : Op::Log1p, y);
      return out(select(is_nan(y), y, select(compare(Op::Eq, x, k(0)), k(0), mul(x, log))));
    }
    case Opcode::Entr: {
      const Value x = in(0);
      const Value positive = mul(op(Op::Neg, x), op(Op::Log, x));
      const Value other = select(compare(Op::Eq, x, k(0)), k(0), k(-kInfinity));
      return out(select(is_nan(x), x, select(compare(Op::Gt, x, k(0)), positive, other)));
    }
    case Opcode::Sinc: {
      const Value x = in(0), angle = mul(x, k(std::numbers::pi));
      return out(select(compare(Op::Eq, x, k(0)), k(1), div(op(Op::Sin, angle), angle)));
    }
    case Opcode::EluBackward: {
      const Value grad = in(0), x = in(1), scale = mul(s(0), s(1));
      const Value slope = flag(1) ? add(x, scale) : mul(scale, op(Op::Exp, mul(x, s(2))));
      return out(select(compare(Op::Le, x, k(0)), mul(mul(grad, s(2)), slope), mul(grad, s(1))));
    }
    case Opcode::HardsigmoidBackward: {
      const Value x = in(1);
      const Value inside = logic(Op::BitAnd, compare(Op::Gt, x, k(-3)), compare(Op::Lt, x, k(3)));
      return out(select(inside, mul(in(0), k(1.0 / 6)), k(0)));
    }
    case Opcode::HardswishBackward: {
      const Value grad = in(0), x = in(1);
      const Value middle = mul(grad, add(div(x, k(3)), k(0.5)));
      const Value right = select(compare(Op::Lt, x, k(3)), middle, grad);
      return out(select(compare(Op::Le, x, k(-3)), k(0), right));
    }
    case Opcode::MishBackward: {
      const Value grad = in(0), x = in(1);
      const Value tanh = op(Op::Tanh, op(Op::Log1p, op(Op::Exp, x)));
      const Value slope = mul(mul(x, sigmoid(x)), sub(k(1), mul(tanh, tanh)));
      return out(mul(grad, add(tanh, slope)));
    }
    case Opcode::Hardshrink:
    case Opcode::ShrinkBackward: {
      const Value x = in(node_.opcode == Opcode::Hardshrink ? 0 : 1);
      const Value inside =
          logic(Op::BitAnd, compare(Op::Ge, x, op(Op::Neg, s(0))), compare(Op::Le, x, s(0)));
      return out(select(inside, k(0), in(0)));
    }
    case Opcode::Softshrink: {
      const Value x = in(0), lambda = s(0);
      const Value left =
          select(compare(Op::Lt, x, op(Op::Neg, lambda)), add(x, lambda), mul(x, k(0)));
      return out(select(compare(Op::Gt, x, lambda), sub(x, lambda), left));
    }
    case Opcode::Threshold: {
      const Value x = in(0);
      return out(select(compare(Op::Le, x, s(0)), s(1), x));
    }
    case Opcode::Glu:
      return out(mul(in(0), sigmoid(in(1))));
    case Opcode::GluBackward: {
      const Value grad = in(0), a = in(1), gate = sigmoid(in(2));
      const Value passed = mul(gate, grad);
      out(0, passed, domain_);
      return out(1, mul(mul(sub(k(1), gate), passed), a), domain_);
    }
    case Opcode::LogSigmoid: {
      const Value x = in(0);
      const Value tail = op(Op::Log1p, op(Op::Exp, op(Op::Neg, op(Op::Abs, x))));
      return out(sub(op(Op::Minimum, x, k(0)), tail));
    }
    case Opcode::LogSigmoidBackward:
      return out(mul(in(0), sigmoid(op(Op::Neg, in(1)))));
    case Opcode::Prelu: {
      const Value x = in(0);
      return out(select(compare(Op::Gt, x, k(0)), x, mul(in(1), x)));
    }
    case Opcode::PreluBackward: {
      const Value grad = in(0), x = in(1), positive = compare(Op::Gt, x, k(0));
      out(0, select(positive, grad, mul(in(2), grad)), domain_);
      return out(1, select(positive, k(0), mul(x, grad)), domain_);
    }
    case Opcode::Logit: {
      Value x = in(0);
      if (flag(1)) x = op(Op::Minimum, op(Op::Maximum, x, s(0)), sub(k(1), s(0)));
      return out(op(Op::Log, div(x, sub(k(1), x))));
    }
    case Opcode::LogitBackward: {
      const Value grad = in(0), x = in(1);
      const Value low = flag(1) ? s(0) : k(0), high = sub(k(1), low);
      const Value outside = logic(Op::BitOr, compare(Op::Lt, x, low), compare(Op::Gt, x, high));
      const Value beyond = k(flag(1) ? 0 : std::numeric_limits<double>::quiet_NaN());
      return out(select(outside, beyond, div(grad, mul(x, sub(k(1), x)))));
    }
    case Opcode::NanToNum: {
      const Value x = in(0);
      int next = 0;
      auto given = [&](size_t i, double otherwise) { return flag(i) ? s(next++) : k(otherwise); };
      const double most = largest_of(compute_);
      const Value nan = given(1, 0), high = given(2, most), low = given(3, -most);
      const Value finite = select(compare(Op::Eq, x, k(kInfinity)), high,
                                  select(compare(Op::Eq, x, k(-kInfinity)), low, x));
      return out(select(is_nan(x), nan, finite));
    }
    case Opcode::RoundDecimals: {
      const Value x = in(0), power = s(0);
      const Value scaled = op(Op::RoundEven, flag(1) ? div(x, power) : mul(x, power));
      return out(flag(1) ? mul(scaled, power) : div(scaled, power));
    }
    case Opcode::Triangle: {
      const Value distance = builder_.diagonal_index(node_.first_scalar + 1);
      const Value diagonal = builder_.scalar(node_.first_scalar, Lane::I64);
      const Value kept = builder_.apply(flag(1) ? Op::Ge : Op::Le, Lane::I64, distance, diagonal);
      return out(select(kept, in(0), k(0)));
    }
    case Opcode::Linspace: {
      // From the nearer end, as the CPU has it.
      const Value index = builder_.convert(builder_.linear_index(), lane_);
      const Value left = sub(sub(s(3), index), k(1));
      return out(select(compare(Op::Lt, index, op(Op::Trunc, mul(s(3), k(0.5)))),
                        add(s(0), mul(s(2), index)), sub(s(1), mul(s(2), left))));
    }
    case Opcode::Angle: {
      const Value x = in(0);
      const Value angle = select(compare(Op::Lt, x, k(0)), k(std::numbers::pi), k(0));
      return out(select(is_nan(x), x, angle));
    }
    case Opcode::LogNdtr: {
      // Of the normal distribution's tail, from where it has digits.
      const Value x = mul(in(0), k(std::numbers::sqrt2 / 2));
      const Value tail = op(Op::Log, mul(op(Op::Erfcx, op(Op::Neg, x)), k(0.5)));
      const Value rest = op(Op::Log1p, mul(op(Op::Erfc, x), k(-0.5)));
      return out(select(compare(Op::Lt, x, k(-1)), sub(tail, mul(x, x)), rest));
    }
    case Opcode::Polygamma:
      return out(mul(s(1), op(Op::Zeta, s(0), in(0))));
    case Opcode::CrossProduct:
      return out(sub(mul(in(0), in(1)), mul(in(2), in(3))));
    default:
      return complex();
  }
}

// Inputs and outputs are parts: real, imaginary, real, imaginary, ...
void Lowering::complex() {
  auto compare = [&](Op code, Value a, Value b) { return builder_.apply(code, lane_, a, b); };
  auto both = [&](Value real, Value imaginary) {
    out(0, real, domain_);
    out(1, imaginary, domain_);
  };
  switch (node_.opcode) {
    case Opcode::ComplexMul: {
      const Value a = in(0), b = in(1), c = in(2);
      if (!has(3)) return both(mul(a, c), mul(b, c));
      const Value d = in(3);
      return both(sub(mul(a, c), mul(b, d)), add(mul(a, d), mul(b, c)));
    }
    case Opcode::ComplexDiv: {
      const Value a = has(0) ? in(0) : k(1), b = has(1) ? in(1) : k(0), c = in(2);
      if (!has(3)) return both(div(a, c), div(b, c));
      // By the larger part first, so that no square overflows (Smith, 1962).
      const Value d = in(3);
      const Value scale = op(Op::Maximum, op(Op::Abs, c), op(Op::Abs, d));
      const Value real = div(c, scale), imaginary = div(d, scale);
      const Value size = add(mul(c, real), mul(d, imaginary));
      return both(div(add(mul(a, real), mul(b, imaginary)), size),
                  div(sub(mul(b, real), mul(a, imaginary)), size));
    }
    case Opcode::ComplexExp: {
      const Value size = op(Op::Exp, in(0)), angle = in(1);
      const Value imaginary = mul(size, op(Op::Sin, angle));
      return both(mul(size, op(Op::Cos, angle)),
                  select(compare(Op::Eq, angle, k(0)), angle, imaginary));
    }
    case Opcode::ComplexSqrt: {
      // The larger part is sqrt((|a| + |z|) / 2); twice its product with the other one is b.
      const Value a = in(0), b = in(1);
      const Value sum = add(op(Op::Abs, a), op(Op::Hypot, a, b));
      const Value large = op(Op::Sqrt, mul(sum, k(0.5)));
      const Value small = div(op(Op::Abs, b), mul(large, k(2)));
      const Value right = compare(Op::Ge, a, k(0)), zero = compare(Op::Eq, large, k(0));
      const Value imaginary = op(Op::CopySign, select(right, small, large), b);
      return both(select(zero, k(0), select(right, large, small)), select(zero, b, imaginary));
    }
    case Opcode::ComplexSgn: {
      const Value a = in(0), b = in(1), size = op(Op::Hypot, a, b);
      const Value zero = compare(Op::Eq, size, k(0));
      return both(select(zero, k(0), div(a, size)), select(zero, k(0), div(b, size)));
    }
    case Opcode::Polar: {
      const Value size = in(0), angle = in(1);
      return both(mul(size, op(Op::Cos, angle)), mul(size, op(Op::Sin, angle)));
    }
    default:
      return;
  }
}

// Box-Muller (1958): two uniform numbers give a normal one. 1 - u is in (0, 1], where log is
// finite.
void Lowering::normal() {
  const Value u1 = builder_.uniform(node_.first_scalar, lane_);
  const Value u2 = builder_.uniform(node_.first_scalar + 2, lane_);
  const Value radius = op(Op::Sqrt, mul(k(-2), op(Op::Log, sub(k(1), u1))));
  const Value z = mul(radius, op(Op::Cos, mul(k(2 * std::numbers::pi), u2)));
  out(add(mul(z, s(5)), s(4)));
}

void Lowering::reduction() {
  const Value x = in(0, Domain::Elements);
  auto reduce = [&](Op code, Value value) { return builder_.reduce(code, lane_, value); };
  switch (node_.opcode) {
    case Opcode::ReduceSum:
      return out(0, sum(x), Domain::Kept);
    case Opcode::ReduceMean:
      return out(0, mean(x), Domain::Kept);
    case Opcode::ReduceProd:
      return out(0, reduce(Op::ReduceProd, x), Domain::Kept);
    case Opcode::ReduceMin:
      return out(0, reduce(Op::ReduceMin, x), Domain::Kept);
    case Opcode::ReduceMax:
      return out(0, reduce(Op::ReduceMax, x), Domain::Kept);
    case Opcode::ReduceAny:
    case Opcode::ReduceAll: {
      const Value truth = builder_.convert(x, Lane::Bool);
      const Op code = node_.opcode == Opcode::ReduceAny ? Op::ReduceAny : Op::ReduceAll;
      return out(0, builder_.reduce(code, Lane::Bool, truth), Domain::Kept);
    }
    case Opcode::ReduceNorm:
      return out(0, op(Op::Sqrt, sum(mul(x, x))), Domain::Kept);
    case Opcode::ReduceNormOne:
      return out(0, sum(op(Op::Abs, x)), Domain::Kept);
    case Opcode::ReduceNormInf:
      return out(0, reduce(Op::ReduceMax, op(Op::Abs, x)), Domain::Kept);
    case Opcode::ReduceVariance: {
      const Value average = mean(x);
      const Value centred = sub(x, average);
      const Value squares = sum(mul(centred, centred));
      const Value degrees = op(Op::Maximum, sub(k(reduced_elements()), s(0)), k(0));
      const Value variance = div(squares, degrees);
      const bool deviation = node_.attributes.at(3);
      out(0, deviation ? op(Op::Sqrt, variance) : variance, Domain::Kept);
      return out(1, average, Domain::Kept);
    }
    default:
      return;
  }
}

void Lowering::row() {
  constexpr Domain kElements = Domain::Elements;
  auto reduce = [&](Op code, Value value) { return builder_.reduce(code, lane_, value); };
  switch (node_.opcode) {
    case Opcode::Softmax: {
      const Value x = in(0, kElements);
      const Value e = op(Op::Exp, sub(x, reduce(Op::ReduceMax, x)));
      return out(0, div(e, sum(e)), kElements);
    }
    case Opcode::LogSoftmax: {
      const Value x = in(0, kElements);
      const Value shifted = sub(x, reduce(Op::ReduceMax, x));
      return out(0, sub(shifted, op(Op::Log, sum(op(Op::Exp, shifted)))), kElements);
    }
    case Opcode::SoftmaxBackward: {
      const Value grad = in(0, kElements), y = in(1, kElements);
      return out(0, mul(y, sub(grad, sum(mul(grad, y)))), kElements);
    }
    case Opcode::LogSoftmaxBackward: {
      const Value grad = in(0, kElements), y = in(1, kElements);
      // Behind a cross entropy, one pass over the row instead of two.
      const auto one = builder_.sum_of_one_hot(grad, reduced_elements());
      return out(0, sub(grad, mul(op(Op::Exp, y), one ? *one : sum(grad))), kElements);
    }
    case Opcode::LayerNorm:
      return layer_norm();
    case Opcode::RmsNorm: {
      const Value x = in(0, kElements);
      const Value rstd = op(Op::Rsqrt, add(mean(mul(x, x)), s(0)));
      Value y = mul(x, rstd);
      if (has(1)) y = mul(y, in(1, kElements));
      out(0, y, kElements);
      return out(1, rstd, Domain::Kept);
    }
    case Opcode::LayerNormBackwardInput:
      return layer_norm_backward_input();
    case Opcode::LayerNormBackwardParameters:
      return layer_norm_backward_parameters();
    case Opcode::BatchNorm:
      return batch_norm();
    case Opcode::BatchNormBackward:
      return batch_norm_backward();
    case Opcode::NllLossBackward: {
      // Attribute 3: 1 when the loss is a mean, divided by the total weight.
      Value grad = in(0, Domain::Kept);
      if (node_.attributes.at(3)) grad = div(grad, in(3, Domain::Kept));
      if (has(2)) grad = mul(grad, in(2, kElements));
      Value target = raw(1, Domain::Kept);
      const Value ignored =
          builder_.apply(Op::Eq, Lane::I64, target, builder_.scalar(node_.first_scalar, Lane::I64));
      const Value no_column = builder_.constant(-1, Lane::I64);
      target = builder_.apply(Op::Select, Lane::I64, ignored, no_column, target);
      const Value here = builder_.apply(Op::Eq, Lane::I64, builder_.column_index(), target);
      return out(0, select(here, op(Op::Neg, grad), k(0)), kElements);
    }
    default:
      return;
  }
}

void Lowering::layer_norm() {
  const Value x = in(0, Domain::Elements);
  const Value average = mean(x);
  const Value centred = sub(x, average);
  const Value variance = mean(mul(centred, centred));
  const Value rstd = op(Op::Rsqrt, add(variance, s(0)));
  Value y = mul(centred, rstd);
  if (has(1)) y = mul(y, in(1, Domain::Elements));
  if (has(2)) y = add(y, in(2, Domain::Elements));
  out(0, y, Domain::Elements);
  out(1, average, Domain::Kept);
  out(2, rstd, Domain::Kept);
}

void Lowering::layer_norm_backward_input() {
  const Value grad = in(0, Domain::Elements), x = in(1, Domain::Elements);
  const Value centred = has(2) ? sub(x, in(2, Domain::Kept)) : x;
  const Value rstd = in(3, Domain::Kept);
  const Value normalised = mul(centred, rstd);
  const Value weighted = has(4) ? mul(grad, in(4, Domain::Elements)) : grad;
  const Value along = mean(mul(weighted, normalised));
  const Value shifted = has(2) ? sub(weighted, mean(weighted)) : weighted;
  out(0, mul(sub(shifted, mul(normalised, along)), rstd), Domain::Elements);
}

void Lowering::layer_norm_backward_parameters() {
  const Value grad = in(0, Domain::Elements), x = in(1, Domain::Elements);
  const Value rstd = in(3, Domain::Elements);
  if (wants(0)) {
    const Value centred = has(2) ? sub(x, in(2, Domain::Elements)) : x;
    out(0, sum(mul(grad, mul(centred, rstd))), Domain::Kept);
  }
  if (wants(1)) out(1, sum(grad), Domain::Kept);
}

// 1/sqrt(variance + eps), or 0 where that is infinite: a constant channel without eps gives its
// bias, as on other devices.
Value Lowering::inverse_deviation(Value variance) {
  const Value sum = add(variance, s(0));
  return select(builder_.apply(Op::Eq, lane_, sum, k(0)), k(0), op(Op::Rsqrt, sum));
}

void Lowering::batch_norm() {
  constexpr Domain kKept = Domain::Kept;
  const Value x = in(0, Domain::Elements);
  const Value average = mean(x);
  const Value centred = sub(x, average);
  const Value squares = sum(mul(centred, centred));
  const Value rstd = inverse_deviation(div(squares, k(reduced_elements())));
  Value y = mul(centred, has(1) ? mul(rstd, in(1, kKept)) : rstd);
  if (has(2)) y = add(y, in(2, kKept));
  out(0, y, Domain::Elements);
  out(1, average, kKept);
  out(2, rstd, kKept);
  auto running = [&](size_t i, Value value) {
    if (has(i)) out(i, add(mul(s(1), value), mul(s(2), in(i, kKept))), kKept);
  };
  running(3, average);
  if (has(4)) running(4, div(squares, k(reduced_elements() - 1)));
}

// With n = (x - mean) rstd: dweight = sum(dy n), dbias = sum(dy),
//   dx = (dy - mean(dy) - n mean(dy n)) rstd weight,
// in evaluation, where mean and rstd do not depend on x, dx = dy rstd weight.
void Lowering::batch_norm_backward() {
  constexpr Domain kElements = Domain::Elements, kKept = Domain::Kept;
  const bool evaluation = node_.attributes.at(3);
  const Value grad = in(0, kElements), x = in(1, kElements);
  const Value rstd = evaluation ? inverse_deviation(in(3, kKept)) : in(3, kKept);
  const Value normalised = mul(sub(x, in(2, kKept)), rstd);
  const bool uses_sums = wants(0) && !evaluation;
  const Value total = uses_sums || wants(2) ? sum(grad) : -1;
  const Value along = uses_sums || wants(1) ? sum(mul(grad, normalised)) : -1;
  if (wants(0)) {
    const Value n = k(reduced_elements());
    const Value centred =
        evaluation ? grad : sub(sub(grad, div(total, n)), mul(normalised, div(along, n)));
    out(0, mul(centred, has(4) ? mul(rstd, in(4, kKept)) : rstd), kElements);
  }
  if (wants(1)) out(1, along, kKept);
  if (wants(2)) out(2, total, kKept);
}

}  // namespace

void lower(const Node& node, Domain domain, ProgramBuilder& builder) {
  Lowering(node, domain, builder).run();
}

}  // namespace accel::graph

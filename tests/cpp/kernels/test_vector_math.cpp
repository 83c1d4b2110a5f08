// Accuracy of the vectorised elementary functions, on floats sampled over all exponents.
#include "tests/cpp/kernels/vector_test.h"

namespace accel::kernels::vector {
namespace {

struct Function {
  const char* name;
  Op op;
  double (*reference)(double);
  double limit;  // units in the last place
};

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }
double rsqrt(double x) { return 1 / std::sqrt(x); }
double square_root(double x) { return std::sqrt(x); }

const Function kFunctions[] = {
    {"exp", Op::Exp, std::exp, 1},        {"exp2", Op::Exp2, std::exp2, 1.5},
    {"expm1", Op::Expm1, std::expm1, 2},  {"log", Op::Log, std::log, 1.5},
    {"log2", Op::Log2, std::log2, 2},     {"log10", Op::Log10, std::log10, 2},
    {"log1p", Op::Log1p, std::log1p, 2},  {"sin", Op::Sin, std::sin, 2},
    {"cos", Op::Cos, std::cos, 2},        {"tan", Op::Tan, std::tan, 2},
    {"asin", Op::Asin, std::asin, 2},     {"acos", Op::Acos, std::acos, 2},
    {"atan", Op::Atan, std::atan, 2},     {"sinh", Op::Sinh, std::sinh, 3},
    {"cosh", Op::Cosh, std::cosh, 3},     {"tanh", Op::Tanh, std::tanh, 2},
    {"asinh", Op::Asinh, std::asinh, 3},  {"acosh", Op::Acosh, std::acosh, 3},
    {"atanh", Op::Atanh, std::atanh, 3},  {"erf", Op::Erf, std::erf, 2},
    {"erfc", Op::Erfc, std::erfc, 6},     {"sigmoid", Op::Sigmoid, sigmoid, 2.2},
    {"sqrt", Op::Sqrt, square_root, 0.5}, {"rsqrt", Op::Rsqrt, rsqrt, 2},
};

class VectorMath : public testing::TestWithParam<Function> {};

TEST_P(VectorMath, StaysWithinItsLimit) {
  const Function& function = GetParam();
  // A step that is odd visits every mantissa's low bits; 2^32 / step values.
  constexpr uint32_t kStep = 10007;
  std::vector<float> input;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += kStep) {
    const uint32_t word = static_cast<uint32_t>(bits);
    float x;
    std::memcpy(&x, &word, sizeof x);
    input.push_back(x);
  }
  // Where functions bend, and what they treat specially.
  for (float x = -20; x < 20; x += 0.00171f) input.push_back(x);
  const float infinity = std::numeric_limits<float>::infinity();
  for (float x :
       {0.0f, -0.0f, 1.0f, -1.0f, infinity, -infinity, std::nanf(""), 1e-45f, -1e-45f,
        3.4028235e38f, -3.4028235e38f, 88.722839f, 88.7229f, -103.97f, -87.4f, 65536.0f}) {
    input.push_back(x);
  }
  std::vector<float> output(input.size());

  Builder builder;
  const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
  builder.store(out, builder.emit(function.op, Lane::F32, builder.load(in)));
  const Space space = make_space({static_cast<int64_t>(input.size())});
  const Operand operands[] = {make_operand(input.data(), {4}), make_operand(output.data(), {4})};
  for (Isa isa : testable_isas()) {
    run_on(engine_of(isa), builder.program, space, operands, nullptr);
    double worst = 0;
    float at = 0;
    for (size_t i = 0; i < input.size(); ++i) {
      const double want = function.reference(static_cast<double>(input[i]));
      const double error = ulps(output[i], want);
      if (error > worst) {
        worst = error;
        at = input[i];
      }
      if (!std::isnan(want)) {
        ASSERT_EQ(std::signbit(output[i]), std::signbit(want)) << input[i] << isa_name(isa);
      }
    }
    EXPECT_LE(worst, function.limit) << function.name << "(" << at << ") on " << isa_name(isa);
  }
}

INSTANTIATE_TEST_SUITE_P(Functions, VectorMath, testing::ValuesIn(kFunctions),
                         [](const auto& info) { return std::string(info.param.name); });

// GELU and its derivative cross zero, so their errors are in units of the larger of 1 and |x|. The
// references are the definitions, which cancel below zero: in double that leaves enough digits.
double gelu(double x) { return x / 2 * std::erfc(-x / std::sqrt(2.0)); }
double gelu_slope(double x) {
  return std::erfc(-x / std::sqrt(2.0)) / 2 + x * std::exp(-x * x / 2) / std::sqrt(2 * M_PI);
}
double inner(double x) { return std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x); }
double gelu_tanh(double x) { return x / 2 * (1 + std::tanh(inner(x))); }
double gelu_tanh_slope(double x) {
  const double tanh = std::tanh(inner(x));
  return (1 + tanh) / 2 +
         x / 2 * (1 - tanh * tanh) * std::sqrt(2 / M_PI) * (1 + 3 * 0.044715 * x * x);
}

TEST(VectorMathGelu, StaysWithinItsLimit) {
  const Function functions[] = {{"gelu", Op::Gelu, gelu, 2},
                                {"gelu_tanh", Op::GeluTanh, gelu_tanh, 2},
                                {"gelu_slope", Op::GeluSlope, gelu_slope, 3},
                                {"gelu_tanh_slope", Op::GeluTanhSlope, gelu_tanh_slope, 4}};
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> input;
  for (float x = -30; x < 30; x += 0.000171f) input.push_back(x);
  for (float x = 1e-30f; x < 1e6f; x *= 1.7f) {
    input.push_back(x);
    input.push_back(-x);
  }
  for (float x : {0.0f, -0.0f, -1e30f, infinity, std::nanf("")}) input.push_back(x);
  const auto count = static_cast<int64_t>(input.size());
  std::vector<double> wide(input.begin(), input.end());
  for (const Function& function : functions) {
    const bool is_slope = function.op == Op::GeluSlope || function.op == Op::GeluTanhSlope;
    const auto program = [&](DType dtype) {
      Builder builder;
      const int in = builder.operand(dtype), out = builder.operand(dtype);
      builder.store(out, builder.emit(function.op, lane_of(dtype), builder.load(in)));
      return builder.program;
    };
    std::vector<float> output(input.size());
    std::vector<double> wide_output(input.size());
    const Operand operands[] = {make_operand(input.data(), {4}), make_operand(output.data(), {4})};
    const Operand wide_operands[] = {make_operand(wide.data(), {8}),
                                     make_operand(wide_output.data(), {8})};
    for (Isa isa : testable_isas()) {
      run_on(engine_of(isa), program(DType::Float32), make_space({count}), operands, nullptr);
      run_on(engine_of(isa), program(DType::Float64), make_space({count}), wide_operands, nullptr);
      for (size_t i = 0; i < input.size(); ++i) {
        const double x = wide[i];
        // The derivative where a square overflows is no number, as in PyTorch.
        if (is_slope && (std::isinf(x) || std::fabs(x) > 1e18)) continue;
        const double want = std::isinf(x) ? x : function.reference(x);
        if (std::isnan(want) || std::isinf(want)) {
          EXPECT_EQ(std::isnan(output[i]), std::isnan(want)) << x;
          EXPECT_EQ(std::isinf(output[i]), std::isinf(want)) << x;
          continue;
        }
        const double unit = std::max(1.0, std::fabs(x));
        ASSERT_LE(std::fabs(output[i] - want), function.limit * 0x1p-24 * unit)
            << function.name << "(" << x << ") on " << isa_name(isa);
        ASSERT_LE(std::fabs(wide_output[i] - want), 0x1p-50 * unit) << function.name << x;
      }
    }
  }
}

TEST(VectorMathInverse, ErfinvInvertsErf) {
  std::vector<float> input;
  for (float x = -1; x <= 1; x += 1.0f / 4096) input.push_back(x);
  for (float x : {1e-30f, -1e-9f, 0.99999994f, -0.99999994f, 1.5f, std::nanf("")}) {
    input.push_back(x);
  }
  std::vector<float> output(input.size());
  Builder builder;
  const int in = builder.operand(DType::Float32), out = builder.operand(DType::Float32);
  builder.store(out, builder.emit(Op::Erfinv, Lane::F32, builder.load(in)));
  const Operand operands[] = {make_operand(input.data(), {4}), make_operand(output.data(), {4})};
  for (Isa isa : testable_isas()) {
    run_on(engine_of(isa), builder.program, make_space({static_cast<int64_t>(input.size())}),
           operands, nullptr);
    for (size_t i = 0; i < input.size(); ++i) {
      const float y = input[i], x = output[i];
      if (std::isnan(y) || std::fabs(y) > 1) {
        EXPECT_TRUE(std::isnan(x));
      } else if (std::fabs(y) == 1) {
        EXPECT_TRUE(std::isinf(x) && std::signbit(x) == std::signbit(y));
      } else {
        // How far erf must be moved to meet y, relative to 1 - |y|, is x's error times its slope.
        const double slope = 2 / std::sqrt(M_PI) * std::exp(-static_cast<double>(x) * x);
        const double error = std::fabs(std::erf(static_cast<double>(x)) - y) / slope;
        EXPECT_LE(error, 1.2e-7 * std::fabs(x)) << y;
      }
    }
  }
}

}  // namespace
}  // namespace accel::kernels::vector

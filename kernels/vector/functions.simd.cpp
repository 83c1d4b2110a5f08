// Elementary functions of vector programs: vectorised in F32 where a training step needs them
// (kernels/common/math.h), the C library's elsewhere.
#include <math.h>

#include "kernels/common/math.h"
#include "kernels/vector/kernel.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

template <VectorF32 (*function)(VectorF32)>
struct Vectorised {
  ACCEL_INLINE static VectorF32 of(VectorF32 x) { return function(x); }
};

// The C library's functions under one name for both types: theirs are overloaded.
#define ACCEL_LIBRARY_F64(name) \
  double c_##name(double x) { return ::name(x); }
#define ACCEL_LIBRARY(name) \
  ACCEL_LIBRARY_F64(name)   \
  float c_##name(float x) { return ::name##f(x); }
ACCEL_LIBRARY_F64(exp)
ACCEL_LIBRARY_F64(exp2)
ACCEL_LIBRARY_F64(expm1)
ACCEL_LIBRARY_F64(log)
ACCEL_LIBRARY_F64(log2)
ACCEL_LIBRARY_F64(log10)
ACCEL_LIBRARY_F64(log1p)
ACCEL_LIBRARY_F64(sin)
ACCEL_LIBRARY_F64(cos)
ACCEL_LIBRARY_F64(atan)
ACCEL_LIBRARY_F64(tanh)
ACCEL_LIBRARY_F64(erf)
ACCEL_LIBRARY(tan)
ACCEL_LIBRARY(asin)
ACCEL_LIBRARY(acos)
ACCEL_LIBRARY(sinh)
ACCEL_LIBRARY(cosh)
ACCEL_LIBRARY(asinh)
ACCEL_LIBRARY(acosh)
ACCEL_LIBRARY(atanh)
ACCEL_LIBRARY(erfc)
#undef ACCEL_LIBRARY
#undef ACCEL_LIBRARY_F64

// The reentrant forms: lgamma() itself writes a global.
float c_lgamma(float x) {
  int sign = 0;
  return ::lgammaf_r(x, &sign);
}
double c_lgamma(double x) {
  int sign = 0;
  return ::lgamma_r(x, &sign);
}

double c_sigmoid(double x) {
  const double power = ::exp(-::fabs(x));
  return (x < 0 ? power : 1.0) / (power + 1.0);
}

// The inverse error function: Winitzki's closed form (relative error 2e-3), then Newton's method on
// erf, or on log erfc in the tails where erf has no digits left. Each step squares the error.
double c_erfinv(double y) {
  const double magnitude = ::fabs(y);
  if (!(magnitude < 1)) return magnitude == 1 ? ::copysign(HUGE_VAL, y) : __builtin_nan("");
  if (magnitude < 1e-8) return y * 0.88622692545275801365;  // sqrt(pi) / 2; next term y^3
  constexpr double kTwoOverSqrtPi = 1.12837916709551257390, kWinitzki = 0.147;
  const double complement = 1 - magnitude;
  const double logarithm = ::log(complement) + ::log1p(magnitude);  // of 1 - y^2
  const double half = 2 / (M_PI * kWinitzki) + logarithm / 2;
  double x = ::sqrt(::sqrt(half * half - logarithm / kWinitzki) - half);
  for (int step = 0; step < 3; ++step) {
    if (magnitude < 0.5) {
      x -= (::erf(x) - magnitude) / (kTwoOverSqrtPi * ::exp(-x * x));
    } else {
      const double tail = ::erfc(x);
      x += tail * ::log(tail / complement) / (kTwoOverSqrtPi * ::exp(-x * x));
    }
  }
  return ::copysign(x, y);
}
float c_erfinv(float y) { return static_cast<float>(c_erfinv(static_cast<double>(y))); }

// GELU (Hendrycks and Gimpel 2016), its approximation by tanh, and their derivatives. One
// instruction each: in steps they would be a dozen passes over a tile, in what takes the most time
// of a transformer outside of its products.
//
//     gelu(x) = x Phi(x), Phi and phi being the standard normal distribution and its density
//     gelu_tanh(x) = x / 2 (1 + tanh u) = x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3)
//
// The quotient is the same function, and has no cancellation below 0.
constexpr double kSqrtHalf = 0.70710678118654752440;
constexpr double kInverseSqrtTau = 0.39894228040143267794;   // 1 / sqrt(2 pi)
constexpr double kMinusTwiceBeta = -1.59576912160573071176;  // -2 sqrt(2/pi)
constexpr double kMinusTwiceBetaKappa = kMinusTwiceBeta * 0.044715;
constexpr double kLargestExponent = 80;  // e^80 is finite in fp32, and sums with 1 to itself

double c_gelu(double x) { return x * (0.5 + 0.5 * ::erf(x * kSqrtHalf)); }
ACCEL_INLINE VectorF32 gelu(VectorF32 x) {
  return x * fma(erf(x * static_cast<float>(kSqrtHalf)), 0.5f, 0.5f);
}

double c_gelu_slope(double x) {
  const double density = ::exp(x * x * -0.5) * kInverseSqrtTau;
  return 0.5 + 0.5 * ::erf(x * kSqrtHalf) + x * density;
}
ACCEL_INLINE VectorF32 gelu_slope(VectorF32 x) {
  const VectorF32 density = exp(x * x * -0.5f) * static_cast<float>(kInverseSqrtTau);
  return fma(x, density, fma(erf(x * static_cast<float>(kSqrtHalf)), 0.5f, 0.5f));
}

double c_gelu_tanh(double x) {
  return x / (1 + ::exp(x * (x * x * kMinusTwiceBetaKappa + kMinusTwiceBeta)));
}
ACCEL_INLINE VectorF32 gelu_tanh(VectorF32 x) {
  const VectorF32 exponent =
      x * fma(x * x, static_cast<float>(kMinusTwiceBetaKappa), static_cast<float>(kMinusTwiceBeta));
  return x / (1.0f + exp(exponent));
}

// Below, the slope is zero, but for factors that overflow.
constexpr double kLeastForSlope = -64;

double c_gelu_tanh_slope(double x) {
  if (x < kLeastForSlope) x = kLeastForSlope;
  const double square = x * x;
  const double exponent = x * (square * kMinusTwiceBetaKappa + kMinusTwiceBeta);
  const double power = ::exp(exponent > kLargestExponent ? kLargestExponent : exponent);
  const double share = 1 / (1 + power);
  return share -
         x * (power * share * share) * (square * 3 * kMinusTwiceBetaKappa + kMinusTwiceBeta);
}
ACCEL_INLINE VectorF32 gelu_tanh_slope(VectorF32 x) {
  constexpr auto kLeast = static_cast<float>(kLeastForSlope);
  x = x < kLeast ? splat<VectorF32>(kLeast) : x;
  const VectorF32 square = x * x;
  VectorF32 exponent = x * fma(square, static_cast<float>(kMinusTwiceBetaKappa),
                               static_cast<float>(kMinusTwiceBeta));
  constexpr auto kMost = static_cast<float>(kLargestExponent);
  exponent = exponent > kMost ? splat<VectorF32>(kMost) : exponent;
  const VectorF32 power = exp(exponent);
  const VectorF32 share = 1.0f / (1.0f + power);
  return fma(-x * (power * share * share),
             fma(square, static_cast<float>(3 * kMinusTwiceBetaKappa),
                 static_cast<float>(kMinusTwiceBeta)),
             share);
}

}  // namespace

void add_function_kernels(Engine& engine) {
  engine.set(Op::Exp, Lane::F32, unary<float, Vectorised<exp>>);
  engine.set(Op::Exp2, Lane::F32, unary<float, Vectorised<exp2>>);
  engine.set(Op::Expm1, Lane::F32, unary<float, Vectorised<expm1>>);
  engine.set(Op::Log, Lane::F32, unary<float, Vectorised<log>>);
  engine.set(Op::Log2, Lane::F32, unary<float, Vectorised<log2>>);
  engine.set(Op::Log10, Lane::F32, unary<float, Vectorised<log10>>);
  engine.set(Op::Log1p, Lane::F32, unary<float, Vectorised<log1p>>);
  engine.set(Op::Sin, Lane::F32, unary<float, Vectorised<sin>>);
  engine.set(Op::Cos, Lane::F32, unary<float, Vectorised<cos>>);
  engine.set(Op::Atan, Lane::F32, unary<float, Vectorised<atan>>);
  engine.set(Op::Tanh, Lane::F32, unary<float, Vectorised<tanh>>);
  engine.set(Op::Erf, Lane::F32, unary<float, Vectorised<erf>>);
  engine.set(Op::Sigmoid, Lane::F32, unary<float, Vectorised<sigmoid>>);
  engine.set(Op::Gelu, Lane::F32, unary<float, Vectorised<gelu>>);
  engine.set(Op::GeluTanh, Lane::F32, unary<float, Vectorised<gelu_tanh>>);
  engine.set(Op::GeluSlope, Lane::F32, unary<float, Vectorised<gelu_slope>>);
  engine.set(Op::GeluTanhSlope, Lane::F32, unary<float, Vectorised<gelu_tanh_slope>>);
  engine.set(Op::Exp, Lane::F64, each_unary<double, c_exp>);
  engine.set(Op::Exp2, Lane::F64, each_unary<double, c_exp2>);
  engine.set(Op::Expm1, Lane::F64, each_unary<double, c_expm1>);
  engine.set(Op::Log, Lane::F64, each_unary<double, c_log>);
  engine.set(Op::Log2, Lane::F64, each_unary<double, c_log2>);
  engine.set(Op::Log10, Lane::F64, each_unary<double, c_log10>);
  engine.set(Op::Log1p, Lane::F64, each_unary<double, c_log1p>);
  engine.set(Op::Sin, Lane::F64, each_unary<double, c_sin>);
  engine.set(Op::Cos, Lane::F64, each_unary<double, c_cos>);
  engine.set(Op::Atan, Lane::F64, each_unary<double, c_atan>);
  engine.set(Op::Tanh, Lane::F64, each_unary<double, c_tanh>);
  engine.set(Op::Erf, Lane::F64, each_unary<double, c_erf>);
  engine.set(Op::Sigmoid, Lane::F64, each_unary<double, c_sigmoid>);
  engine.set(Op::Gelu, Lane::F64, each_unary<double, c_gelu>);
  engine.set(Op::GeluTanh, Lane::F64, each_unary<double, c_gelu_tanh>);
  engine.set(Op::GeluSlope, Lane::F64, each_unary<double, c_gelu_slope>);
  engine.set(Op::GeluTanhSlope, Lane::F64, each_unary<double, c_gelu_tanh_slope>);
#define ACCEL_BOTH(op, function)                              \
  engine.set(Op::op, Lane::F32, each_unary<float, function>); \
  engine.set(Op::op, Lane::F64, each_unary<double, function>)
  ACCEL_BOTH(Tan, c_tan);
  ACCEL_BOTH(Asin, c_asin);
  ACCEL_BOTH(Acos, c_acos);
  ACCEL_BOTH(Sinh, c_sinh);
  ACCEL_BOTH(Cosh, c_cosh);
  ACCEL_BOTH(Asinh, c_asinh);
  ACCEL_BOTH(Acosh, c_acosh);
  ACCEL_BOTH(Atanh, c_atanh);
  ACCEL_BOTH(Erfc, c_erfc);
  ACCEL_BOTH(Erfinv, c_erfinv);
  ACCEL_BOTH(Lgamma, c_lgamma);
#undef ACCEL_BOTH
}

}  // namespace accel::kernels::ACCEL_ISA

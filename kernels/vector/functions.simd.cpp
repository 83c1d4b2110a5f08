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

// Elementary functions on vectors of floats, for *.simd.cpp files: exponentials, logarithms, tanh,
// erf, sigmoid, sine, cosine and angles, branch-free and within 2 (sigmoid: 2.2) units in the last
// place over all finite inputs (tests/cpp/kernels/test_vector_math.cpp measures each). NaN gives
// NaN; infinities, signed zeros and denormals follow C's Annex F. Polynomials were fitted for this
// file (Lawson-weighted least squares, coefficients rounded to float one after the other, lowest
// order first).
#pragma once

#include "kernels/common/simd.h"

namespace accel::kernels::ACCEL_ISA {

namespace detail {

inline constexpr float kInfinity = __builtin_inff();
inline constexpr float kLog2E = 1.44269504f;
// ln 2 in two parts; the first has 15 significant bits, so that its product with an exponent is
// exact without fma too.
inline constexpr float kLn2High = 0.693145752f;
inline constexpr float kLn2Low = 1.42860677e-6f;
// Adding and subtracting 1.5 * 2^23 rounds to the nearest integer, to even.
inline constexpr float kRoundMagic = 12582912.0f;

// c[0] + c[1] x + ... by Horner's rule.
template <int n>
ACCEL_INLINE VectorF32 polynomial(VectorF32 x, const float (&c)[n]) {
  VectorF32 sum = splat<VectorF32>(c[n - 1]);
  for (int i = n - 2; i >= 0; --i) sum = fma(sum, x, c[i]);
  return sum;
}

// x * 2^n for integer n in [-300, 300], rounded once.
ACCEL_INLINE VectorF32 scale_by_power(VectorF32 x, VectorF32 n) {
#if defined(__AVX512F__)
  return (VectorF32)_mm512_scalef_ps((__m512)x, (__m512)n);
#else
  const VectorI32 power = __builtin_convertvector(n, VectorI32);
  const VectorI32 half = power >> 1;
  const VectorF32 first = float_of((half + 127) << 23);
  const VectorF32 second = float_of((power - half + 127) << 23);
  return x * first * second;
#endif
}

// x = n ln 2 + r with integer n and |r| <= ln 2 / 2.
struct Reduced {
  VectorF32 n, r;
};
ACCEL_INLINE Reduced reduce_by_ln2(VectorF32 x) {
  const VectorF32 n = fma(x, kLog2E, kRoundMagic) - kRoundMagic;
  VectorF32 r = fma(n, -kLn2High, x);
  r = fma(n, -kLn2Low, r);
  return {n, r};
}

// e^r - 1 for |r| <= ln 2 / 2, relative error 1.4e-8.
ACCEL_INLINE VectorF32 expm1_reduced(VectorF32 r) {
  constexpr float kTerms[] = {4.999999702e-01f, 1.666654348e-01f, 4.166745767e-02f,
                              8.366632275e-03f, 1.386906719e-03f};
  return fma(r * r, polynomial(r, kTerms), r);
}

// e^r for |r| <= ln 2 / 2, relative error 3.2e-9.
ACCEL_INLINE VectorF32 exp_reduced(VectorF32 r) {
  constexpr float kTerms[] = {4.999999404e-01f, 1.666651964e-01f, 4.166828841e-02f,
                              8.368892595e-03f, 1.381939161e-03f};
  return fma(r * r, polynomial(r, kTerms), r) + 1.0f;
}

ACCEL_INLINE VectorF32 clamp_keeping_nan(VectorF32 x, float low, float high) {
  x = x > high ? splat<VectorF32>(high) : x;
  return x < low ? splat<VectorF32>(low) : x;
}

// x = 2^e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)); `tail` is log(1 + f) - f.
struct LogParts {
  VectorF32 e, f, tail;
};
ACCEL_INLINE LogParts log_parts(VectorF32 x) {
  constexpr float kSmallestNormal = 1.17549435e-38f;
  constexpr uint32_t kSqrtHalfBits = 0x3f3504f3;
  constexpr float kTerms[] = {3.333333135e-01f,  -2.500082254e-01f, 2.000124902e-01f,
                              -1.662331372e-01f, 1.420132071e-01f,  -1.316026300e-01f,
                              1.276441067e-01f,  -7.637507468e-02f};
  const VectorI32 denormal = x < kSmallestNormal;
  x = denormal ? x * 16777216.0f : x;  // 2^24
  // Unsigned where the bits of negative numbers would overflow; log_result() replaces what they
  // give.
  const VectorU32 bits = (VectorU32)x;
  const VectorI32 exponent = (VectorI32)(bits - kSqrtHalfBits) >> 23;
  const VectorF32 f = (VectorF32)(bits - ((VectorU32)exponent << 23)) - 1.0f;
  const VectorF32 square = f * f;
  const VectorF32 tail = fma(square, -0.5f, f * square * polynomial(f, kTerms));
  const VectorF32 e = __builtin_convertvector(exponent + (denormal & -24), VectorF32);
  return {e, f, tail};
}

// What a logarithm is where log_parts() does not hold: -inf at 0, NaN below, inf at inf, NaN.
ACCEL_INLINE VectorF32 log_result(VectorF32 x, VectorF32 value) {
  const VectorF32 zero{};
  const VectorF32 below = splat<VectorF32>(__builtin_nanf(""));
  VectorF32 special = x < zero ? below : x;
  special = x == zero ? splat<VectorF32>(-kInfinity) : special;
  return (x > zero) & (x < kInfinity) ? value : special;
}

}  // namespace detail

ACCEL_INLINE VectorF32 exp(VectorF32 x) {
  // e^-104 is below half of the smallest denormal, e^89 above the largest float.
  const detail::Reduced part = detail::reduce_by_ln2(detail::clamp_keeping_nan(x, -104.0f, 89.0f));
  return detail::scale_by_power(detail::exp_reduced(part.r), part.n);
}

ACCEL_INLINE VectorF32 exp2(VectorF32 x) {
  x = detail::clamp_keeping_nan(x, -151.0f, 129.0f);
  const VectorF32 n = (x + detail::kRoundMagic) - detail::kRoundMagic;
  return detail::scale_by_power(detail::exp_reduced((x - n) * 0.693147181f), n);
}

ACCEL_INLINE VectorF32 expm1(VectorF32 x) {
  const VectorF32 clamped = detail::clamp_keeping_nan(x, -25.0f, 89.0f);
  const detail::Reduced part = detail::reduce_by_ln2(clamped);
  // Half of 2^n keeps the last binade finite.
  const VectorF32 half = detail::scale_by_power(splat<VectorF32>(0.5f), part.n);
  const VectorF32 value = fma(half, detail::expm1_reduced(part.r), half - 0.5f) * 2.0f;
  return abs(x) < 1e-8f ? x : value;  // denormals would lose their last bit
}

ACCEL_INLINE VectorF32 log(VectorF32 x) {
  const detail::LogParts part = detail::log_parts(x);
  const VectorF32 low = fma(part.e, detail::kLn2Low, part.tail);
  return detail::log_result(x, fma(part.e, detail::kLn2High, part.f + low));
}

ACCEL_INLINE VectorF32 log2(VectorF32 x) {
  constexpr float kHigh = 1.44269502f, kLow = 1.92596303e-8f;
  const detail::LogParts part = detail::log_parts(x);
  const VectorF32 low = fma(part.tail, kHigh, part.f * kLow);
  return detail::log_result(x, fma(part.f, kHigh, low) + part.e);
}

ACCEL_INLINE VectorF32 log10(VectorF32 x) {
  constexpr float kHigh = 0.434294492f, kLow = -1.01039691e-8f;       // log10(e)
  constexpr float kTwoHigh = 0.301025391f, kTwoLow = 4.60503907e-6f;  // log10(2)
  const detail::LogParts part = detail::log_parts(x);
  VectorF32 low = fma(part.tail, kHigh, part.f * kLow);
  low = fma(part.e, kTwoLow, low);
  return detail::log_result(x, fma(part.e, kTwoHigh, fma(part.f, kHigh, low)));
}

ACCEL_INLINE VectorF32 log1p(VectorF32 x) {
  const VectorF32 sum = x + 1.0f;
  // What the sum lost, to first order. No use at -1 and at infinity, where it is NaN.
  const VectorF32 lost = (x - (sum - 1.0f)) / sum;
  const VectorF32 whole = log(sum);
  const VectorF32 value = (sum > 0.0f) & (sum < detail::kInfinity) ? whole + lost : whole;
  return abs(x) < 1e-10f ? x : value;
}

ACCEL_INLINE VectorF32 sigmoid(VectorF32 x) {
  const VectorF32 power = exp(-abs(x));
  const VectorF32 one = splat<VectorF32>(1.0f);
  return (x < 0.0f ? power : one) / (power + 1.0f);
}

ACCEL_INLINE VectorF32 tanh(VectorF32 x) {
  // Below 0.55 a polynomial (relative error 1.2e-9), above 1 - 2 / (e^2|x| + 1), where the
  // quotient's error counts half at most. One quotient of polynomials over the whole range would
  // save a third of the instructions, but errs by 4 units.
  constexpr float kTerms[] = {-3.333331645e-01f, 1.333254576e-01f, -5.384784937e-02f,
                              2.105247229e-02f, -6.245992612e-03f};
  const VectorF32 magnitude = abs(x);
  const VectorF32 square = x * x;
  const VectorF32 small = fma(detail::polynomial(square, kTerms) * square, magnitude, magnitude);
  // 1 - 2 / (e^20 + 1) rounds to 1.
  VectorF32 twice = magnitude + magnitude;
  twice = twice > 20.0f ? splat<VectorF32>(20.0f) : twice;
  const detail::Reduced part = detail::reduce_by_ln2(twice);
#if defined(__AVX512F__)
  const VectorF32 power = detail::scale_by_power(detail::exp_reduced(part.r), part.n);
#else
  // n is at most 29: one multiplication does.
  const VectorI32 n = __builtin_convertvector(part.n, VectorI32);
  const VectorF32 power = detail::exp_reduced(part.r) * float_of((n + 127) << 23);
#endif
  const VectorF32 large = 1.0f - 2.0f / (power + 1.0f);
  return copy_sign(magnitude < 0.55f ? small : large, x);
}

ACCEL_INLINE VectorF32 erf(VectorF32 x) {
  // Below 0.875 a polynomial (relative error 8.6e-10), above 1 - e^p(|x|) with p fitted to log
  // erfc.
  constexpr float kSmall[] = {1.283791661e-01f,  -3.761262894e-01f, 1.128362268e-01f,
                              -2.685535885e-02f, 5.190895405e-03f,  -8.025360294e-04f,
                              7.860290498e-05f};
  constexpr float kLarge[] = {-1.335666166e-04f, -1.127936125e+00f, -6.367372870e-01f,
                              -1.043274254e-01f, 2.242018096e-02f,  -3.092289669e-03f,
                              2.009976160e-04f};
  const VectorF32 magnitude = abs(x);
  const VectorF32 small = fma(detail::polynomial(x * x, kSmall), magnitude, magnitude);
  const VectorF32 clamped = magnitude > 4.0f ? splat<VectorF32>(4.0f) : magnitude;  // erf(4) is 1
  const detail::Reduced part = detail::reduce_by_ln2(detail::polynomial(clamped, kLarge));
#if defined(__AVX512F__)
  const VectorF32 power = detail::scale_by_power(detail::exp_reduced(part.r), part.n);
#else
  const VectorI32 n = __builtin_convertvector(part.n, VectorI32);  // -26 at least
  const VectorF32 power = detail::exp_reduced(part.r) * float_of((n + 127) << 23);
#endif
  return copy_sign(magnitude < 0.875f ? small : 1.0f - power, x);
}

namespace detail {

using HalfF32 = float __attribute__((vector_size(kVectorBytes / 2)));

// x - n * pi / 2 for |x| <= 2^16: in double, because next to a multiple of pi / 2 a float keeps no
// correct digit. The first part of pi / 2 has 33 bits, so that n times it is exact.
ACCEL_INLINE HalfF32 reduce_half(HalfF32 x, HalfF32 n) {
  constexpr double kHigh = 1.57079632673412561417e+00, kLow = 6.07710050650619224932e-11;
  const VectorF64 wide = __builtin_convertvector(x, VectorF64);
  const VectorF64 turns = __builtin_convertvector(n, VectorF64);
  return __builtin_convertvector((wide - turns * kHigh) - turns * kLow, HalfF32);
}

ACCEL_INLINE VectorF32 reduce_by_half_pi(VectorF32 x, VectorF32 n) {
  HalfF32 x_halves[2], n_halves[2];
  std::memcpy(x_halves, &x, sizeof x);
  std::memcpy(n_halves, &n, sizeof n);
  x_halves[0] = reduce_half(x_halves[0], n_halves[0]);
  x_halves[1] = reduce_half(x_halves[1], n_halves[1]);
  std::memcpy(&x, x_halves, sizeof x);
  return x;
}

inline constexpr float kLargestAngle = 65536.0f;

// sin(x + quarter * pi / 2) for |x| <= 2^16.
ACCEL_INLINE VectorF32 sine(VectorF32 x, uint32_t quarter) {
  constexpr float kSine[] = {-1.666665375e-01f, 8.332106285e-03f, -1.950787409e-04f};
  constexpr float kCosine[] = {4.166664556e-02f, -1.388730831e-03f, 2.443210906e-05f};
  constexpr float kTwoOverPi = 0.636619772f;
  const VectorF32 turns = fma(x, kTwoOverPi, kRoundMagic);
  const VectorF32 r = reduce_by_half_pi(x, turns - kRoundMagic);
  const VectorI32 quadrant = (VectorI32)((VectorU32)turns + quarter);
  const VectorF32 square = r * r;
  const VectorF32 sine = fma(r * square, polynomial(square, kSine), r);
  const VectorF32 tail = fma(square, -0.5f, square * square * polynomial(square, kCosine));
  const VectorF32 value = (quadrant & 1) != 0 ? tail + 1.0f : sine;
  return float_of(bits_of(value) ^ ((quadrant & 2) << 30));
}

// Angles beyond the reduction's range go through the C library, one by one.
template <float (*function)(float)>
ACCEL_INLINE VectorF32 with_large_angles(VectorF32 x, VectorF32 value) {
  const VectorI32 large = abs(x) > kLargestAngle;
  if (__builtin_expect(any(large), 0)) {
    for (int i = 0; i < kLanes32; ++i) {
      if (large[i]) value[i] = function(x[i]);
    }
  }
  return value;
}

ACCEL_INLINE float library_sin(float x) { return __builtin_sinf(x); }
ACCEL_INLINE float library_cos(float x) { return __builtin_cosf(x); }

}  // namespace detail

ACCEL_INLINE VectorF32 sin(VectorF32 x) {
  const VectorF32 value = detail::with_large_angles<detail::library_sin>(x, detail::sine(x, 0));
  return x == VectorF32{} ? x : value;
}

ACCEL_INLINE VectorF32 cos(VectorF32 x) {
  return detail::with_large_angles<detail::library_cos>(x, detail::sine(x, 1));
}

// The angle of the point (x, y), from -pi to pi. The ratio of the smaller to the larger coordinate
// is an angle below pi / 4; above pi / 8 it is measured from the diagonal. Relative error of the
// polynomial 6.7e-10.
ACCEL_INLINE VectorF32 atan2(VectorF32 y, VectorF32 x) {
  constexpr float kTerms[] = {-3.333331645e-01f, 1.999846995e-01f, -1.424351186e-01f,
                              1.059364006e-01f, -6.077759713e-02f};
  constexpr float kTanOfEighth = 0.414213562f;
  // In two parts, the larger first.
  constexpr float kQuarter[] = {0.785398185f, -2.18556941e-8f};
  constexpr float kHalf[] = {1.57079637f, -4.37113883e-8f};
  constexpr float kWhole[] = {3.14159274f, -8.74227766e-8f};
  const VectorF32 a = abs(x), b = abs(y);
  // A quarter of numbers whose sum would overflow.
  const VectorF32 unit = (a > 1e38f) | (b > 1e38f) ? splat<VectorF32>(0.25f) : VectorF32{} + 1.0f;
  const VectorF32 larger = (a < b ? b : a) * unit, smaller = (a < b ? a : b) * unit;
  const VectorI32 steep = smaller > kTanOfEighth * larger;
  const VectorF32 tangent =
      (steep ? smaller - larger : smaller) / (steep ? smaller + larger : larger);
  const VectorF32 square = tangent * tangent;
  VectorF32 angle = fma(tangent * square, detail::polynomial(square, kTerms), tangent);
  angle = steep ? (angle + kQuarter[1]) + kQuarter[0] : angle;
  // 0 / 0 and infinity / infinity have angles all the same.
  angle = smaller == larger ? splat<VectorF32>(kQuarter[0]) : angle;
  angle = larger == VectorF32{} ? VectorF32{} : angle;
  angle = b > a ? (kHalf[1] - angle) + kHalf[0] : angle;
  angle = bits_of(x) < 0 ? (kWhole[1] - angle) + kWhole[0] : angle;
  angle = float_of(bits_of(angle) ^ (bits_of(y) & INT32_MIN));
  return (x != x) | (y != y) ? x + y : angle;
}

ACCEL_INLINE VectorF32 atan(VectorF32 x) { return atan2(x, splat<VectorF32>(1.0f)); }

ACCEL_INLINE VectorF32 rsqrt(VectorF32 x) { return 1.0f / sqrt(x); }

}  // namespace accel::kernels::ACCEL_ISA

// Special functions of vector programs: the gamma function's derivatives and incomplete forms,
// zeta, modified Bessel functions, scaled erfc. What has one argument is vectorised in F32; the
// rest is computed one by one. Polynomials and Chebyshev series were fitted for this file; where a
// function has a pole or no value, it gives what PyTorch's CPU kernels give.
#include <math.h>

#include "kernels/common/math.h"
#include "kernels/vector/kernel.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

constexpr double kPi = 3.14159265358979323846;

// c[0] + c[1] x + ... by Horner's rule.
template <int n>
double polynomial(double x, const double (&c)[n]) {
  double sum = c[n - 1];
  for (int i = n - 2; i >= 0; --i) sum = sum * x + c[i];
  return sum;
}

// c[0] + c[1] T1(t) + ..., t in [-1, 1], by Clenshaw's recurrence.
template <int n>
double chebyshev(double t, const double (&c)[n]) {
  double next = 0, after = 0;
  for (int i = n - 1; i > 0; --i) {
    const double sum = 2 * t * next - after + c[i];
    after = next;
    next = sum;
  }
  return t * next - after + c[0];
}

// --- digamma and trigamma ------------------------------------------------------------------------

// Both step up to where the asymptotic series in 1/y^2 (Bernoulli numbers B2k) has no error left:
//   digamma(x) = log y - 1/(2y) - sum B2k / (2k y^2k) - sum over x <= z < y of 1/z
//   trigamma(x) = 1/y + 1/(2y^2) + sum B2k / y^(2k+1) + sum over x <= z < y of 1/z^2
// and reflect at 1/2 what is negative.

double positive_digamma(double x) {
  constexpr double kTerms[] = {1.0 / 12,  -1.0 / 120,     1.0 / 252, -1.0 / 240,
                               1.0 / 132, -691.0 / 32760, 1.0 / 12};
  double below = 0;
  for (; x < 10; x += 1) below += 1 / x;
  const double square = 1 / (x * x);
  return ::log(x) - 0.5 / x - square * polynomial(square, kTerms) - below;
}

double digamma(double x) {
  if (x > 0) return positive_digamma(x);
  if (x == 0) return ::copysign(HUGE_VAL, -x);
  if (x == ::trunc(x)) return __builtin_nan("");
  return positive_digamma(1 - x) - kPi / ::tan(kPi * (x - ::trunc(x)));
}

double positive_trigamma(double x) {
  constexpr double kTerms[] = {1.0 / 6,  -1.0 / 30,     1.0 / 42, -1.0 / 30,
                               5.0 / 66, -691.0 / 2730, 7.0 / 6};
  double below = 0;
  for (; x < 10; x += 1) below += 1 / (x * x);
  const double inverse = 1 / x, square = inverse * inverse;
  return inverse + square / 2 + inverse * square * polynomial(square, kTerms) + below;
}

double trigamma(double x) {
  if (!(x < 0.5)) return positive_trigamma(x);
  const double sine = ::sin(kPi * x);
  return kPi * kPi / (sine * sine) - positive_trigamma(1 - x);
}

constexpr int kSteps = 6;  // y >= 6

struct Digamma {
  ACCEL_INLINE static VectorF32 of(VectorF32 x) {
    constexpr float kTerms[] = {8.33333333e-2f, -8.33333333e-3f, 3.96825397e-3f, -4.16666667e-3f};
    const VectorI32 reflected = x <= 0.0f;
    const VectorF32 z = reflected ? 1.0f - x : x;
    VectorF32 below{};
    for (int i = kSteps - 1; i >= 0; --i) below += 1.0f / (z + static_cast<float>(i));
    const VectorF32 y = z + static_cast<float>(kSteps), inverse = 1.0f / y;
    const VectorF32 square = inverse * inverse;
    VectorF32 value = log(y) - inverse * 0.5f - square * detail::polynomial(square, kTerms) - below;
    if (__builtin_expect(any(reflected), 0)) {
      const VectorF32 angle = (x - round_to<Rounding::Even>(x)) * static_cast<float>(kPi);
      const VectorF32 cotangent = cos(angle) / sin(angle);
      const VectorF32 pole = copy_sign(splat<VectorF32>(detail::kInfinity), -x);
      VectorF32 other = value - static_cast<float>(kPi) * cotangent;
      other = angle == 0.0f ? splat<VectorF32>(__builtin_nanf("")) : other;
      other = x == 0.0f ? pole : other;
      value = reflected ? other : value;
    }
    return value;
  }
};

struct Trigamma {
  ACCEL_INLINE static VectorF32 of(VectorF32 x) {
    constexpr float kTerms[] = {1.66666667e-1f, -3.33333333e-2f, 2.38095238e-2f, -3.33333333e-2f};
    const VectorI32 reflected = x < 0.5f;
    const VectorF32 z = reflected ? 1.0f - x : x;
    VectorF32 below{};
    for (int i = kSteps - 1; i >= 0; --i) {
      const VectorF32 inverse = 1.0f / (z + static_cast<float>(i));
      below += inverse * inverse;
    }
    const VectorF32 inverse = 1.0f / (z + static_cast<float>(kSteps)), square = inverse * inverse;
    const VectorF32 series = inverse * square * detail::polynomial(square, kTerms);
    VectorF32 value = inverse + (square * 0.5f + series) + below;
    if (__builtin_expect(any(reflected), 0)) {
      const VectorF32 sine = sin(x * static_cast<float>(kPi));
      value = reflected ? static_cast<float>(kPi * kPi) / (sine * sine) - value : value;
    }
    return value;
  }
};

// --- zeta ----------------------------------------------------------------------------------------

// Hurwitz's zeta function, sum of (q + i)^-s, by Euler and Maclaurin's formula: the first terms one
// by one, the rest as an integral with corrections.
double zeta(double s, double q) {
  // B2k / (2k)!
  constexpr double kCorrections[] = {8.3333333333333333e-2,  -1.3888888888888889e-3,
                                     3.3068783068783069e-5,  -8.2671957671957672e-7,
                                     2.0876756987868099e-8,  -5.2841901386874932e-10,
                                     1.3382536530684679e-11, -3.3896802963225829e-13,
                                     8.5860620562778446e-15, -2.1748686985580619e-16};
  constexpr double kEpsilon = 1.1e-16;
  if (s == 1) return HUGE_VAL;
  if (s < 1) return __builtin_nan("");
  if (q <= 0) {
    if (q == ::floor(q)) return HUGE_VAL;
    if (s != ::floor(s)) return __builtin_nan("");  // a power of what is negative
  }
  double sum = 0;
  for (int i = 0; i < 9 || q < 9; ++i, q += 1) {
    const double term = ::pow(q, -s);
    sum += term;
    if (::fabs(term) <= kEpsilon * ::fabs(sum)) return sum;
  }
  double power = ::pow(q, -s);
  sum += power * q / (s - 1) + power / 2;
  double factor = s;  // s (s + 1) ... (s + 2k)
  power /= q;
  for (int k = 0; k < 10; ++k) {
    const double term = kCorrections[k] * factor * power;
    sum += term;
    if (::fabs(term) < kEpsilon * ::fabs(sum)) break;
    factor *= (s + 2 * k + 1) * (s + 2 * k + 2);
    power /= q * q;
  }
  return sum;
}
float zeta(float s, float q) {
  return static_cast<float>(zeta(static_cast<double>(s), static_cast<double>(q)));
}

// --- incomplete gamma functions ------------------------------------------------------------------

// x^a e^-x / gamma(a + 1), the size of both series' first term.
double gamma_weight(double a, double x) {
  // Near x = a, where the exponents cancel, from the difference: log(1 + d) - d.
  const double difference = (x - a) / a;
  int sign = 0;
  if (a > 20 && ::fabs(difference) < 0.4) {
    // a^a e^-a / gamma(a + 1) by Stirling's series.
    constexpr double kStirling[] = {1.0 / 12, -1.0 / 360, 1.0 / 1260, -1.0 / 1680, 1.0 / 1188};
    const double correction = polynomial(1 / (a * a), kStirling) / a;
    return ::exp(a * (::log1p(difference) - difference) - correction) / ::sqrt(2 * kPi * a);
  }
  return ::exp(a * ::log(x) - x - ::lgamma_r(a + 1, &sign));
}

constexpr int kMostTerms = 20000;

// The lower function: weight (1 + x/(a+1) + x^2/((a+1)(a+2)) + ...).
double lower_gamma_series(double a, double x, double epsilon) {
  double term = 1, sum = 1;
  for (int i = 1; i < kMostTerms && term > epsilon * sum; ++i) {
    term *= x / (a + i);
    sum += term;
  }
  return sum * gamma_weight(a, x);
}

// The upper function, for x > a + 1: Legendre's continued fraction, by Lentz's method.
double upper_gamma_fraction(double a, double x, double epsilon) {
  constexpr double kTiny = 1e-300;
  double b = x + 1 - a, c = 1 / kTiny, d = 1 / b, fraction = d;
  for (int i = 1; i < kMostTerms; ++i) {
    const double numerator = i * (a - i);
    b += 2;
    d = numerator * d + b;
    d = 1 / (::fabs(d) < kTiny ? kTiny : d);
    c = b + numerator / c;
    if (::fabs(c) < kTiny) c = kTiny;
    fraction *= c * d;
    if (::fabs(c * d - 1) < epsilon * 10) break;
  }
  return fraction * a * gamma_weight(a, x);
}

// For x <= 1.1, where the lower function may be next to one: from gamma(a + 1) and x^a near one.
double upper_gamma_small(double a, double x, double epsilon) {
  double term = 1, sum = 0;
  for (int i = 1; i < kMostTerms; ++i) {
    term *= -x / i;
    const double next = term / (a + i);
    sum += next;
    if (::fabs(next) <= epsilon * ::fabs(sum)) break;
  }
  int sign = 0;
  const double power = a * ::log(x), gamma = ::lgamma_r(a + 1, &sign);
  // 1 - x^a (1 + a sum) / gamma(a + 1)
  return -::expm1(power - gamma) - ::exp(power - gamma) * a * sum;
}

enum class Part { Lower, Upper };

// The regularised function: of gamma(a), what lies below or above x.
template <Part part>
double incomplete_gamma(double a, double x, double epsilon) {
  constexpr bool kUpper = part == Part::Upper;
  if (!(x >= 0 && a >= 0)) return __builtin_nan("");
  if (a == 0) return x > 0 ? (kUpper ? 0.0 : 1.0) : __builtin_nan("");
  if (x == 0) return kUpper ? 1.0 : 0.0;
  if (::isinf(a)) return ::isinf(x) ? __builtin_nan("") : (kUpper ? 1.0 : 0.0);
  if (::isinf(x)) return kUpper ? 0.0 : 1.0;
  if (x > 1.1 && x > a + 1) {
    const double upper = upper_gamma_fraction(a, x, epsilon);
    return kUpper ? upper : 1 - upper;
  }
  if (kUpper && x <= 1.1) return upper_gamma_small(a, x, epsilon);
  const double lower = lower_gamma_series(a, x, epsilon);
  return kUpper ? 1 - lower : lower;
}
// Computed to the digits that the lane has.
constexpr double kEpsilonF64 = 1e-16, kEpsilonF32 = 1e-9;
double igamma(double a, double x) { return incomplete_gamma<Part::Lower>(a, x, kEpsilonF64); }
double igammac(double a, double x) { return incomplete_gamma<Part::Upper>(a, x, kEpsilonF64); }
float igamma(float a, float x) {
  return static_cast<float>(incomplete_gamma<Part::Lower>(a, x, kEpsilonF32));
}
float igammac(float a, float x) {
  return static_cast<float>(incomplete_gamma<Part::Upper>(a, x, kEpsilonF32));
}

// --- modified Bessel functions -------------------------------------------------------------------

// Up to 8 the power series, whose terms have one sign: sum of (x/2)^(2k + order) / (k! (k +
// order)!). Beyond, e^x / sqrt(x) times a series in 8/x.

enum class Scale { Plain, Exponential };  // times e^-|x|

constexpr double kBesselFar[2][27] = {
    {4.02245205507054416e-1,   3.36911647825569409e-3,   6.88975834691682398e-5,
     2.89137052083475648e-6,   2.04891858946906374e-7,   2.26666899049817806e-8,
     3.39623202570838635e-9,   4.94060238822496959e-10,  1.18891471078464383e-11,
     -3.14991652796324136e-11, -1.32158118404477131e-11, -1.79417853150680612e-12,
     7.18012445138366623e-13,  3.8527783827421427e-13,   1.54008621752140983e-14,
     -4.15056934728722209e-14, -9.55484669882830765e-15, 3.81168066935262242e-15,
     1.77256013305652638e-15,  -3.42548561967721913e-16, -2.82762398051658348e-16,
     3.46122286769746109e-17,  4.46562142029676e-17,     -4.83050448594418207e-18,
     -7.23318048787475395e-18, 9.9214754121736986e-19,   1.19365089084598209e-18},
    {3.8928811750914006e-1,    -9.76109749136146841e-3,  -1.10588938762623716e-4,
     -3.88256480887769039e-6,  -2.51223623787020893e-7,  -2.63146884688951951e-8,
     -3.83538038596423702e-9,  -5.58974346219658381e-10, -1.89749581235054123e-11,
     3.25260358301548824e-11,  1.41258074366137813e-11,  2.03562854414708951e-12,
     -7.19855177624590851e-13, -4.08355111109219732e-13, -2.10154184277266431e-14,
     4.27244001671195135e-14,  1.04202769841288028e-14,  -3.8144030724370078e-15,
     -1.88035477551078245e-15, 3.30820231092092828e-16,  2.96262899764595014e-16,
     -3.20952592199342396e-17, -4.65030536848935833e-17, 4.41434832307170795e-18,
     7.51729631084210481e-18,  -9.31417886732688338e-19, -1.24219327519489096e-18}};

template <int order, Scale scale>
double bessel(double x) {
  const double magnitude = ::fabs(x);
  double value;
  if (magnitude <= 8) {
    const double square = magnitude * magnitude / 4;
    double term = order == 0 ? 1 : magnitude / 2;
    value = term;
    for (int k = 1; term > 1e-17 * value; ++k) {
      term *= square / (k * (k + order));
      value += term;
    }
    if (scale == Scale::Exponential) value *= ::exp(-magnitude);
  } else {
    value = chebyshev(16 / magnitude - 1, kBesselFar[order]) / ::sqrt(magnitude);
    // In two halves: e^x alone is infinite before its quotient is.
    const double half = scale == Scale::Plain ? ::exp(magnitude / 2) : 1;
    value = half * value * half;
    if (::isinf(magnitude)) value = scale == Scale::Plain ? magnitude : 0;
  }
  return order == 1 ? ::copysign(value, x) : value;
}

template <int order, Scale scale>
struct Bessel {
  ACCEL_INLINE static VectorF32 of(VectorF32 x) {
    constexpr int kNearTerms = 20;
    constexpr float kFar[2][7] = {
        {3.989422809e-1f, 6.233429224e-3f, 4.389637391e-4f, 5.328613789e-5f, 2.068755063e-5f,
         -9.261104335e-6f, 6.955483189e-6f},
        {3.989422799e-1f, -1.870037007e-2f, -7.312400232e-4f, -7.565527398e-5f, -2.498397183e-5f,
         1.00914566e-5f, -7.85485903e-6f}};
    const VectorF32 magnitude = abs(x);
    // Near: 1 + t/(1 (1 + order)) (1 + t/(2 (2 + order)) (1 + ...)).
    const VectorF32 square = magnitude * magnitude * 0.25f;
    VectorF32 near = splat<VectorF32>(1.0f);
    for (int k = kNearTerms; k > 0; --k) {
      near = fma(square * near, 1.0f / static_cast<float>(k * (k + order)), 1.0f);
    }
    if (order == 1) near = near * magnitude * 0.5f;
    const VectorF32 inverse = 8.0f / magnitude;
    VectorF32 far = detail::polynomial(inverse, kFar[order]) / sqrt(magnitude);
    if (scale == Scale::Exponential) {
      near = near * exp(-magnitude);
    } else {
      const VectorF32 half = exp(magnitude * 0.5f);
      far = half * far * half;
      far = magnitude == detail::kInfinity ? magnitude : far;
    }
    const VectorF32 value = magnitude <= 8.0f ? near : far;
    return order == 1 ? copy_sign(value, x) : value;
  }
};

// --- e^(x^2) erfc(x) -----------------------------------------------------------------------------

double erfcx(double x) {
  // (1 + 2x) erfcx(x) over (x - 3.75) / (x + 3.75), the substitution of Shepherd and Laframboise
  // (1981).
  constexpr double kTerms[] = {
      1.17757893456740176,      -4.59005458064646957e-3,  -8.42491333665179111e-2,
      5.92099399981918906e-2,   -2.66586684353057567e-2,  9.07499767070525744e-3,
      -2.41316354041761707e-3,  4.90775836525800884e-4,   -6.9169733025016627e-5,
      4.13902798607282353e-6,   7.74038306624058645e-7,   -2.18864010484889688e-7,
      1.0764999474362112e-8,    4.52195981882456553e-9,   -7.75440016374982286e-10,
      -6.31808831676100287e-11, 2.86879460648866933e-11,  1.9455148145276482e-13,
      -9.65478079602811896e-13, 3.25181346470871234e-14,  3.34737805313424379e-14,
      -1.86477260355341513e-15, -1.24687486253014624e-15, 8.11248607253206606e-17,
      5.87410452003267646e-17};
  const double magnitude = ::fabs(x);
  const double place = magnitude > 1e300 ? 1 : (magnitude - 3.75) / (magnitude + 3.75);
  const double value = chebyshev(place, kTerms) / (1 + 2 * magnitude);
  if (!(x < 0)) return value;
  // The square's rounding error would be multiplied by the square.
  const double square = x * x, lost = ::fma(x, x, -square);
  const double power = ::exp(square);
  return (power < HUGE_VAL ? 2 * power * (1 + lost) : power) - value;
}

struct Erfcx {
  ACCEL_INLINE static VectorF32 of(VectorF32 x) {
    // The same over (x - 2) / (x + 2), as powers.
    constexpr float kTerms[] = {
        1.276978381f,     -9.276382252e-2f, -1.660303835e-1f, 1.640511269e-1f,  -5.422026662e-2f,
        -8.032344882e-3f, 8.72460764e-3f,   1.263291062e-3f,  -1.464070911e-3f, -4.343878976e-4f,
        2.215715506e-4f,  1.245434181e-4f,  -2.025598963e-5f, -1.882275685e-5f};
    const VectorF32 magnitude = abs(x);
    VectorF32 place = (magnitude - 2.0f) / (magnitude + 2.0f);
    place = magnitude > 1e30f ? splat<VectorF32>(1.0f) : place;
    VectorF32 value = detail::polynomial(place, kTerms) / fma(magnitude, 2.0f, 1.0f);
    const VectorI32 negative = x < 0.0f;
    if (any(negative)) {
      // e^(x^2) from a square that is exact, and what it leaves.
      const VectorF32 high = float_of(bits_of(magnitude) & ~0xfff);
      const VectorF32 power = exp(high * high);
      const VectorF32 rest = exp((magnitude - high) * (magnitude + high));
      const VectorF32 whole = power < detail::kInfinity ? 2.0f * power * rest : power;
      value = negative ? whole - value : value;
    }
    return value;
  }
};

}  // namespace

void add_special_kernels(Engine& engine) {
  engine.set(Op::Digamma, Lane::F32, unary<float, Digamma>);
  engine.set(Op::Digamma, Lane::F64, each_unary<double, digamma>);
  engine.set(Op::Trigamma, Lane::F32, unary<float, Trigamma>);
  engine.set(Op::Trigamma, Lane::F64, each_unary<double, trigamma>);
  engine.set(Op::Zeta, Lane::F32, each_binary<float, zeta>);
  engine.set(Op::Zeta, Lane::F64, each_binary<double, zeta>);
  engine.set(Op::Igamma, Lane::F32, each_binary<float, igamma>);
  engine.set(Op::Igamma, Lane::F64, each_binary<double, igamma>);
  engine.set(Op::Igammac, Lane::F32, each_binary<float, igammac>);
  engine.set(Op::Igammac, Lane::F64, each_binary<double, igammac>);
  engine.set(Op::BesselI0, Lane::F32, unary<float, Bessel<0, Scale::Plain>>);
  engine.set(Op::BesselI0, Lane::F64, each_unary<double, bessel<0, Scale::Plain>>);
  engine.set(Op::BesselI0e, Lane::F32, unary<float, Bessel<0, Scale::Exponential>>);
  engine.set(Op::BesselI0e, Lane::F64, each_unary<double, bessel<0, Scale::Exponential>>);
  engine.set(Op::BesselI1, Lane::F32, unary<float, Bessel<1, Scale::Plain>>);
  engine.set(Op::BesselI1, Lane::F64, each_unary<double, bessel<1, Scale::Plain>>);
  engine.set(Op::BesselI1e, Lane::F32, unary<float, Bessel<1, Scale::Exponential>>);
  engine.set(Op::BesselI1e, Lane::F64, each_unary<double, bessel<1, Scale::Exponential>>);
  engine.set(Op::Erfcx, Lane::F32, unary<float, Erfcx>);
  engine.set(Op::Erfcx, Lane::F64, each_unary<double, erfcx>);
}

}  // namespace accel::kernels::ACCEL_ISA

// Special functions against long double references and the relations between them, in both floating
// lanes and on every instruction set.
#include "tests/cpp/kernels/vector_test.h"

namespace accel::kernels::vector {
namespace {

template <class T>
constexpr bool kIsSingle = std::is_same_v<T, float>;

// op(a, b), element by element.
template <class T>
std::vector<T> run(Isa isa, Op op, std::vector<T> a, std::vector<T> b = {}) {
  constexpr Lane kLane = kIsSingle<T> ? Lane::F32 : Lane::F64;
  constexpr DType kDType = kIsSingle<T> ? DType::Float32 : DType::Float64;
  if (b.empty()) b = a;
  std::vector<T> result(a.size());
  Builder builder;
  const int oa = builder.operand(kDType), ob = builder.operand(kDType);
  const int out = builder.operand(kDType);
  const int ra = builder.load(oa), rb = builder.load(ob);
  builder.store(out, builder.emit(op, kLane, ra, rb));
  const int64_t size = sizeof(T);
  const Operand operands[] = {make_operand(a.data(), {size}), make_operand(b.data(), {size}),
                              make_operand(result.data(), {size})};
  run_on(engine_of(isa), builder.program, make_space({static_cast<int64_t>(a.size())}), operands,
         nullptr);
  return result;
}

template <class T>
void expect_close(T got, long double want, const char* name, T a, T b = 0) {
  const long double tolerance = kIsSingle<T> ? 1.5e-6L : 2e-13L;
  if (std::isinf(static_cast<T>(want)) || std::isnan(want)) {
    EXPECT_TRUE(same(got, static_cast<T>(want))) << name << "(" << a << ", " << b << ") " << got;
    return;
  }
  const long double floor = kIsSingle<T> ? 1e-37L : 1e-300L;
  EXPECT_LE(std::fabs(got - want), tolerance * std::fabs(want) + floor)
      << name << "(" << a << ", " << b << ") gave " << got << ", not " << want;
}

template <class T>
std::vector<T> positive() {
  std::vector<T> values;
  for (T x = static_cast<T>(0.01); x < 80; x *= static_cast<T>(1.07)) values.push_back(x);
  return values;
}

template <class T>
void check_bessel() {
  for (Isa isa : testable_isas()) {
    std::vector<T> x = positive<T>();
    for (size_t i = 0, n = x.size(); i < n; ++i) x.push_back(-x[i]);
    const auto i0 = run<T>(isa, Op::BesselI0, x), i0e = run<T>(isa, Op::BesselI0e, x);
    const auto i1 = run<T>(isa, Op::BesselI1, x), i1e = run<T>(isa, Op::BesselI1e, x);
    for (size_t i = 0; i < x.size(); ++i) {
      const long double size = std::fabs(x[i]), sign = x[i] < 0 ? -1 : 1;
      const long double zeroth = std::cyl_bessel_i(0.0L, size);
      const long double first = sign * std::cyl_bessel_i(1.0L, size);
      expect_close<T>(i0[i], zeroth, "i0", x[i]);
      expect_close<T>(i0e[i], zeroth * std::exp(-size), "i0e", x[i]);
      expect_close<T>(i1[i], first, "i1", x[i]);
      expect_close<T>(i1e[i], first * std::exp(-size), "i1e", x[i]);
    }
    const T infinity = std::numeric_limits<T>::infinity();
    EXPECT_EQ(run<T>(isa, Op::BesselI0, {infinity})[0], infinity);
    EXPECT_EQ(run<T>(isa, Op::BesselI0e, {infinity})[0], 0);
    EXPECT_EQ(run<T>(isa, Op::BesselI1, {-infinity})[0], -infinity);
    EXPECT_EQ(run<T>(isa, Op::BesselI0, {0})[0], 1);
  }
}

TEST(VectorSpecial, BesselF32) { check_bessel<float>(); }
TEST(VectorSpecial, BesselF64) { check_bessel<double>(); }

// By stepping far up before the asymptotic series.
long double digamma(long double x) {
  long double below = 0;
  for (; x < 60; x += 1) below += 1 / x;
  const long double s = 1 / (x * x);
  return std::log(x) - 1 / (2 * x) - s * (1 / 12.0L - s * (1 / 120.0L - s * (1 / 252.0L))) - below;
}
long double trigamma(long double x) {
  long double below = 0;
  for (; x < 60; x += 1) below += 1 / (x * x);
  const long double s = 1 / (x * x);
  return 1 / x + s / 2 + s / x * (1 / 6.0L - s * (1 / 30.0L - s * (1 / 42.0L - s / 30))) + below;
}

template <class T>
void check_digamma() {
  for (Isa isa : testable_isas()) {
    const std::vector<T> x = positive<T>();
    const auto first = run<T>(isa, Op::Digamma, x), second = run<T>(isa, Op::Trigamma, x);
    for (size_t i = 0; i < x.size(); ++i) {
      // Next to digamma's zero only the absolute error is small.
      const T slack = kIsSingle<T> ? 2e-6f : 1e-14;
      EXPECT_NEAR(first[i], digamma(x[i]), slack * std::max<T>(1, std::fabs(first[i])));
      expect_close<T>(second[i], trigamma(x[i]), "trigamma", x[i]);
    }
    // digamma(x + 1) = digamma(x) + 1 / x, on the negative side too.
    for (T negative : {T(-0.25), T(-1.5), T(-7.75)}) {
      const auto pair = run<T>(isa, Op::Digamma, {negative, negative + 1});
      EXPECT_NEAR(pair[1], pair[0] + 1 / negative, kIsSingle<T> ? 5e-6 : 1e-13);
    }
    const T infinity = std::numeric_limits<T>::infinity();
    const auto special = run<T>(isa, Op::Digamma, {T(0), -T(0), T(-3), infinity});
    EXPECT_EQ(special[0], -infinity);
    EXPECT_EQ(special[1], infinity);
    EXPECT_TRUE(std::isnan(special[2]));
    EXPECT_EQ(special[3], infinity);
  }
}

TEST(VectorSpecial, DigammaF32) { check_digamma<float>(); }
TEST(VectorSpecial, DigammaF64) { check_digamma<double>(); }

template <class T>
void check_erfcx() {
  for (Isa isa : testable_isas()) {
    std::vector<T> x;
    for (T value = -8; value < 8; value += static_cast<T>(0.037)) x.push_back(value);
    const auto result = run<T>(isa, Op::Erfcx, x);
    for (size_t i = 0; i < x.size(); ++i) {
      const auto wide = static_cast<long double>(x[i]);
      expect_close<T>(result[i], std::exp(wide * wide) * std::erfc(wide), "erfcx", x[i]);
    }
    const T infinity = std::numeric_limits<T>::infinity();
    EXPECT_EQ(run<T>(isa, Op::Erfcx, {infinity})[0], 0);
    EXPECT_EQ(run<T>(isa, Op::Erfcx, {-infinity})[0], infinity);
  }
}

TEST(VectorSpecial, ErfcxF32) { check_erfcx<float>(); }
TEST(VectorSpecial, ErfcxF64) { check_erfcx<double>(); }

template <class T>
void check_zeta() {
  for (Isa isa : testable_isas()) {
    for (T s : {T(1.25), T(2), T(3.5), T(12), T(40)}) {
      const auto one = run<T>(isa, Op::Zeta, {s}, {T(1)});
      expect_close<T>(one[0], std::riemann_zeta(static_cast<long double>(s)), "zeta", s, T(1));
      // A term less: zeta(s, q) - q^-s.
      for (T q : {T(0.5), T(2.25), T(8), T(30)}) {
        const auto pair = run<T>(isa, Op::Zeta, {s, s}, {q, q + 1});
        const long double rest = pair[0] - std::pow(static_cast<long double>(q), -s);
        EXPECT_NEAR(pair[1], rest, (kIsSingle<T> ? 4e-7 : 2e-15) * pair[0] + 1e-37);
      }
    }
    const T infinity = std::numeric_limits<T>::infinity();
    EXPECT_EQ(run<T>(isa, Op::Zeta, {T(1)}, {T(2)})[0], infinity);
    EXPECT_EQ(run<T>(isa, Op::Zeta, {T(2)}, {T(-3)})[0], infinity);
    EXPECT_TRUE(std::isnan(run<T>(isa, Op::Zeta, {T(0.5)}, {T(2)})[0]));
  }
}

TEST(VectorSpecial, ZetaF32) { check_zeta<float>(); }
TEST(VectorSpecial, ZetaF64) { check_zeta<double>(); }

template <class T>
void check_igamma() {
  for (Isa isa : testable_isas()) {
    std::vector<T> a, x;
    for (T order : {T(0.1), T(1), T(2), T(7.5), T(25), T(120), T(1000)}) {
      for (T share : {T(0.01), T(0.3), T(0.9), T(1), T(1.05), T(1.5), T(4)}) {
        a.push_back(order);
        x.push_back(order * share);
      }
    }
    const auto lower = run<T>(isa, Op::Igamma, a, x), upper = run<T>(isa, Op::Igammac, a, x);
    for (size_t i = 0; i < a.size(); ++i) {
      EXPECT_NEAR(lower[i] + upper[i], 1, kIsSingle<T> ? 2e-7 : 1e-13);
      const auto wide = static_cast<long double>(x[i]);
      if (a[i] == 1) {
        expect_close<T>(lower[i], -std::expm1(-wide), "igamma", a[i], x[i]);
        expect_close<T>(upper[i], std::exp(-wide), "igammac", a[i], x[i]);
      } else if (a[i] == 2) {
        expect_close<T>(upper[i], (1 + wide) * std::exp(-wide), "igammac", a[i], x[i]);
      }
    }
    // Half a degree of freedom: the error function.
    const auto half = run<T>(isa, Op::Igamma, {T(0.5), T(0.5)}, {T(0.04), T(2.25)});
    expect_close<T>(half[0], std::erf(0.2L), "igamma", T(0.5), T(0.04));
    expect_close<T>(half[1], std::erf(1.5L), "igamma", T(0.5), T(2.25));
    EXPECT_EQ(run<T>(isa, Op::Igamma, {T(2)}, {T(0)})[0], 0);
    EXPECT_EQ(run<T>(isa, Op::Igammac, {T(0)}, {T(1)})[0], 0);
    EXPECT_TRUE(std::isnan(run<T>(isa, Op::Igamma, {T(-1)}, {T(1)})[0]));
  }
}

TEST(VectorSpecial, IncompleteGammaF32) { check_igamma<float>(); }
TEST(VectorSpecial, IncompleteGammaF64) { check_igamma<double>(); }

}  // namespace
}  // namespace accel::kernels::vector

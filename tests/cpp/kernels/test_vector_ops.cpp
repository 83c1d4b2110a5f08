// Every op in every lane it supports against scalar references, on every instruction set, at sizes
// around the vector and tile widths, with special values.
#include <random>

#include "tests/cpp/kernels/vector_test.h"

namespace accel::kernels::vector {
namespace {

const int64_t kSizes[] = {1, 3, 7, 15, 16, 17, 31, 33, 255, 256, 257, 500, 1000};

template <class T>
std::vector<T> special_values();
template <>
std::vector<float> special_values() {
  const float infinity = std::numeric_limits<float>::infinity();
  return {0.0f,     -0.0f,     1.0f,          -1.0f,  0.5f,    1.5f,  2.5f,  -2.5f, 3.0f,  -7.25f,
          infinity, -infinity, std::nanf(""), 1e-40f, -1e-40f, 3e38f, 1e-3f, 7.0f,  -2.0f, 2.0f};
}
template <>
std::vector<double> special_values() {
  std::vector<double> values;
  for (float x : special_values<float>()) values.push_back(x);
  values.push_back(1e300);
  return values;
}
template <>
std::vector<int64_t> special_values() {
  return {0, 1, -1, 2, -2, 7, -7, 63, 64, -64, 100, INT64_MAX, INT64_MIN, INT32_MAX, 1LL << 40, 3};
}
template <>
std::vector<uint8_t> special_values() {
  return {0, 1, 1, 0, 0};
}

template <class T>
constexpr Lane kLaneOf = std::is_same_v<T, float>     ? Lane::F32
                         : std::is_same_v<T, double>  ? Lane::F64
                         : std::is_same_v<T, int64_t> ? Lane::I64
                                                      : Lane::Bool;
template <class T>
constexpr DType kDTypeOf = std::is_same_v<T, float>     ? DType::Float32
                           : std::is_same_v<T, double>  ? DType::Float64
                           : std::is_same_v<T, int64_t> ? DType::Int64
                                                        : DType::Bool;

// Runs result = op(a, b, c) on n elements drawn from all pairs of special values; checks every
// element, and that nothing around the result was written.
template <class T, class R = T, class Reference>
void check(Op op, Reference reference, double tolerance = 0) {
  const std::vector<T> values = special_values<T>();
  for (Isa isa : testable_isas()) {
    for (int64_t n : kSizes) {
      Guarded a(n * sizeof(T), sizeof(T)), b(n * sizeof(T)), c(n * sizeof(T)),
          result(n * sizeof(R));
      for (int64_t i = 0; i < n; ++i) {
        a.as<T>()[i] = values[i % values.size()];
        b.as<T>()[i] = values[(i / values.size() + i) % values.size()];
        c.as<T>()[i] = values[(i * 3 + 1) % values.size()];
      }
      Builder builder;
      const int oa = builder.operand(kDTypeOf<T>), ob = builder.operand(kDTypeOf<T>);
      const int oc = builder.operand(kDTypeOf<T>), out = builder.operand(kDTypeOf<R>);
      const int ra = builder.load(oa), rb = builder.load(ob), rc = builder.load(oc);
      builder.store(out, builder.emit(op, kLaneOf<T>, ra, rb, rc));
      const int64_t size = sizeof(T), result_size = sizeof(R);
      const Operand operands[] = {make_operand(a.data(), {size}), make_operand(b.data(), {size}),
                                  make_operand(c.data(), {size}),
                                  make_operand(result.data(), {result_size})};
      run_on(engine_of(isa), builder.program, make_space({n}), operands, nullptr);
      ASSERT_TRUE(result.intact());
      for (int64_t i = 0; i < n; ++i) {
        const T x = a.as<T>()[i], y = b.as<T>()[i], z = c.as<T>()[i];
        const R want = reference(x, y, z), got = result.as<R>()[i];
        bool equal = same(got, want);
        if constexpr (std::is_floating_point_v<R>) {
          equal = equal || std::fabs(got - want) <= tolerance * std::fabs(want);
        }
        ASSERT_TRUE(equal) << "op " << static_cast<int>(op) << " on " << isa_name(isa) << ", n "
                           << n << ", element " << i << ": (" << +x << ", " << +y << ", " << +z
                           << ") gave " << +got << ", not " << +want;
      }
    }
  }
}

// Remainders of F32 go through F64 where the quotient has at most 27 bits: dividends at and next to
// multiples of the divisor, with quotients on both sides of that limit.
TEST(VectorOps, RemaindersOfF32AreExact) {
  std::mt19937 random(1);
  std::uniform_real_distribution<float> mantissa(1, 2);
  const int64_t n = 20'000;
  std::vector<float> a(n), b(n), result(3 * n);
  for (int64_t i = 0; i < n; ++i) {
    b[i] = std::ldexp(mantissa(random), static_cast<int>(random() % 60) - 30);
    const float quotient = std::ldexp(mantissa(random), static_cast<int>(random() % 34));
    a[i] = b[i] * std::trunc(quotient);
    if (i % 3 == 1) a[i] = std::nextafterf(a[i], 0);
    if (i % 3 == 2) a[i] = b[i] * quotient;
    if (random() % 2) a[i] = -a[i];
    if (random() % 2) b[i] = -b[i];
  }
  for (Isa isa : testable_isas()) {
    Builder builder;
    const int oa = builder.operand(DType::Float32), ob = builder.operand(DType::Float32);
    const int ra = builder.load(oa), rb = builder.load(ob);
    std::vector<Operand> operands = {make_operand(a.data(), {4}), make_operand(b.data(), {4})};
    for (Op op : {Op::Fmod, Op::Remainder, Op::FloorDiv}) {
      builder.store(builder.operand(DType::Float32), builder.emit(op, Lane::F32, ra, rb));
      operands.push_back(
          make_operand(result.data() + n * static_cast<int64_t>(operands.size() - 2), {4}));
    }
    run_on(engine_of(isa), builder.program, make_space({n}), operands.data(), nullptr);
    for (int64_t i = 0; i < n; ++i) {
      const float rest = std::fmod(a[i], b[i]);
      const bool shifts = rest != 0 && (b[i] < 0) != (rest < 0);
      ASSERT_TRUE(same(result[i], rest)) << a[i] << " fmod " << b[i] << " on " << isa_name(isa);
      ASSERT_TRUE(same(result[n + i], shifts ? rest + b[i] : rest)) << a[i] << " mod " << b[i];
      const float quotient = (a[i] - rest) / b[i] - (shifts ? 1 : 0), down = std::floor(quotient);
      ASSERT_EQ(result[2 * n + i], quotient - down > 0.5f ? down + 1 : down)
          << a[i] << " // " << b[i];
    }
  }
}

template <class T>
void check_real() {
  using A = T;
  check<T>(Op::Add, [](A a, A b, A) { return a + b; });
  check<T>(Op::Sub, [](A a, A b, A) { return a - b; });
  check<T>(Op::Mul, [](A a, A b, A) { return a * b; });
  check<T>(Op::Div, [](A a, A b, A) { return a / b; });
  check<T>(Op::TruncDiv, [](A a, A b, A) { return std::trunc(a / b); });
  check<T>(Op::Fmod, [](A a, A b, A) { return std::fmod(a, b); });
  check<T>(Op::Remainder, [](A a, A b, A) {
    A r = std::fmod(a, b);
    if (r != 0 && (b < 0) != (r < 0)) r += b;
    return r;
  });
  check<T>(Op::FloorDiv, [](A a, A b, A) {
    if (b == 0) return a / b;
    const A r = std::fmod(a, b);
    A q = (a - r) / b;
    if (r != 0 && (b < 0) != (r < 0)) q -= 1;
    if (q == 0) return std::copysign(A(0), a / b);
    A f = std::floor(q);
    return q - f > A(0.5) ? f + 1 : f;
  });
  check<T>(
      Op::Pow, [](A a, A b, A) { return std::pow(a, b); }, 1e-6);
  check<T>(
      Op::Atan2, [](A a, A b, A) { return std::atan2(a, b); }, 1e-6);
  check<T>(
      Op::Hypot, [](A a, A b, A) { return std::hypot(a, b); }, 1e-6);
  check<T>(Op::Minimum, [](A a, A b, A) { return a != a ? a : b != b ? b : b < a ? b : a; });
  check<T>(Op::Maximum, [](A a, A b, A) { return a != a ? a : b != b ? b : a < b ? b : a; });
  check<T>(Op::Fmin, [](A a, A b, A) { return a != a ? b : b != b ? a : b < a ? b : a; });
  check<T>(Op::Fmax, [](A a, A b, A) { return a != a ? b : b != b ? a : a < b ? b : a; });
  check<T>(Op::MulAdd, [](A a, A b, A c) {
    volatile A product = a * b;
    return product + c;
  });
  check<T>(Op::Neg, [](A a, A, A) { return -a; });
  check<T>(Op::Abs, [](A a, A, A) { return std::fabs(a); });
  check<T>(Op::Sign, [](A a, A, A) { return A((a > 0) - (a < 0)); });
  check<T>(Op::Square, [](A a, A, A) { return a * a; });
  check<T>(Op::Sqrt, [](A a, A, A) { return std::sqrt(a); });
  check<T>(Op::Rsqrt, [](A a, A, A) { return 1 / std::sqrt(a); });
  check<T>(Op::Reciprocal, [](A a, A, A) { return 1 / a; });
  check<T>(Op::Floor, [](A a, A, A) { return std::floor(a); });
  check<T>(Op::Ceil, [](A a, A, A) { return std::ceil(a); });
  check<T>(Op::Trunc, [](A a, A, A) { return std::trunc(a); });
  check<T>(Op::RoundEven, [](A a, A, A) { return std::nearbyint(a); });
  check<T>(
      Op::Lgamma, [](A a, A, A) { return std::lgamma(a); }, 1e-6);
  check<T, uint8_t>(Op::IsNan, [](A a, A, A) { return std::isnan(a); });
  check<T, uint8_t>(Op::IsInf, [](A a, A, A) { return std::isinf(a); });
}

template <class T>
void check_comparisons() {
  using A = T;
  check<T, uint8_t>(Op::Eq, [](A a, A b, A) { return a == b; });
  check<T, uint8_t>(Op::Ne, [](A a, A b, A) { return a != b; });
  check<T, uint8_t>(Op::Lt, [](A a, A b, A) { return a < b; });
  check<T, uint8_t>(Op::Le, [](A a, A b, A) { return a <= b; });
  check<T, uint8_t>(Op::Gt, [](A a, A b, A) { return a > b; });
  check<T, uint8_t>(Op::Ge, [](A a, A b, A) { return a >= b; });
}

TEST(VectorOps, F32Arithmetic) { check_real<float>(); }
TEST(VectorOps, F64Arithmetic) { check_real<double>(); }

TEST(VectorOps, F64Functions) {
  using A = double;
  check<A>(Op::Exp, [](A a, A, A) { return std::exp(a); });
  check<A>(Op::Exp2, [](A a, A, A) { return std::exp2(a); });
  check<A>(Op::Expm1, [](A a, A, A) { return std::expm1(a); });
  check<A>(Op::Log, [](A a, A, A) { return std::log(a); });
  check<A>(Op::Log2, [](A a, A, A) { return std::log2(a); });
  check<A>(Op::Log10, [](A a, A, A) { return std::log10(a); });
  check<A>(Op::Log1p, [](A a, A, A) { return std::log1p(a); });
  check<A>(Op::Sin, [](A a, A, A) { return std::sin(a); });
  check<A>(Op::Cos, [](A a, A, A) { return std::cos(a); });
  check<A>(Op::Tanh, [](A a, A, A) { return std::tanh(a); });
  check<A>(Op::Erf, [](A a, A, A) { return std::erf(a); });
  check<A>(
      Op::Sigmoid, [](A a, A, A) { return 1 / (1 + std::exp(-a)); }, 1e-15);
  check<A>(Op::Erfc, [](A a, A, A) { return std::erfc(a); });
  check<A>(Op::Atanh, [](A a, A, A) { return std::atanh(a); });
}

int64_t wrap_pow(int64_t base, int64_t exponent) {
  if (exponent < 0) return base == 1 ? 1 : base == -1 ? (exponent % 2 ? -1 : 1) : 0;
  uint64_t power = 1, square = base;
  for (; exponent; exponent /= 2, square *= square) {
    if (exponent % 2) power *= square;
  }
  return power;
}

TEST(VectorOps, I64Arithmetic) {
  using A = int64_t;
  using U = uint64_t;
  check<A>(Op::Add, [](A a, A b, A) { return A(U(a) + U(b)); });
  check<A>(Op::Sub, [](A a, A b, A) { return A(U(a) - U(b)); });
  check<A>(Op::Mul, [](A a, A b, A) { return A(U(a) * U(b)); });
  check<A>(Op::MulAdd, [](A a, A b, A c) { return A(U(a) * U(b) + U(c)); });
  check<A>(Op::Neg, [](A a, A, A) { return A(-U(a)); });
  check<A>(Op::Abs, [](A a, A, A) { return a < 0 ? A(-U(a)) : a; });
  check<A>(Op::Sign, [](A a, A, A) { return A((a > 0) - (a < 0)); });
  check<A>(Op::Square, [](A a, A, A) { return A(U(a) * U(a)); });
  check<A>(Op::Minimum, [](A a, A b, A) { return std::min(a, b); });
  check<A>(Op::Maximum, [](A a, A b, A) { return std::max(a, b); });
  const auto quotient = [](A a, A b) { return b == 0 ? 0 : b == -1 ? A(-U(a)) : a / b; };
  const auto rest = [](A a, A b) { return b == 0 || b == -1 ? 0 : a % b; };
  check<A>(Op::TruncDiv, [=](A a, A b, A) { return quotient(a, b); });
  check<A>(Op::Fmod, [=](A a, A b, A) { return rest(a, b); });
  check<A>(Op::FloorDiv, [=](A a, A b, A) {
    return quotient(a, b) - (rest(a, b) != 0 && (rest(a, b) < 0) != (b < 0));
  });
  check<A>(Op::Remainder, [=](A a, A b, A) {
    return rest(a, b) + (rest(a, b) != 0 && (rest(a, b) < 0) != (b < 0) ? b : 0);
  });
  check<A>(Op::Pow, [](A a, A b, A) { return wrap_pow(a, b); });
  check<A>(Op::BitAnd, [](A a, A b, A) { return a & b; });
  check<A>(Op::BitOr, [](A a, A b, A) { return a | b; });
  check<A>(Op::BitXor, [](A a, A b, A) { return a ^ b; });
  check<A>(Op::BitNot, [](A a, A, A) { return ~a; });
  check<A>(Op::ShiftLeft, [](A a, A b, A) { return b < 0 || b > 63 ? 0 : A(U(a) << b); });
  check<A>(Op::ShiftRight, [](A a, A b, A) { return a >> (b < 0 || b > 63 ? 63 : b); });
}

TEST(VectorOps, BoolLogic) {
  using A = uint8_t;
  check<A>(Op::Add, [](A a, A b, A) { return A(a | b); });
  check<A>(Op::Mul, [](A a, A b, A) { return A(a & b); });
  check<A>(Op::Minimum, [](A a, A b, A) { return A(a & b); });
  check<A>(Op::Maximum, [](A a, A b, A) { return A(a | b); });
  check<A>(Op::BitAnd, [](A a, A b, A) { return A(a & b); });
  check<A>(Op::BitOr, [](A a, A b, A) { return A(a | b); });
  check<A>(Op::BitXor, [](A a, A b, A) { return A(a ^ b); });
  check<A>(Op::BitNot, [](A a, A, A) { return A(!a); });
}

TEST(VectorOps, Comparisons) {
  check_comparisons<float>();
  check_comparisons<double>();
  check_comparisons<int64_t>();
  check_comparisons<uint8_t>();
}

template <class T>
void check_select() {
  const std::vector<T> values = special_values<T>();
  for (Isa isa : testable_isas()) {
    for (int64_t n : kSizes) {
      std::vector<uint8_t> condition(n);
      Guarded b(n * sizeof(T)), c(n * sizeof(T)), result(n * sizeof(T));
      for (int64_t i = 0; i < n; ++i) {
        condition[i] = i % 3 == 0 ? 0 : i % 3;  // bytes other than 1 are true as well
        b.as<T>()[i] = values[i % values.size()];
        c.as<T>()[i] = values[(i + 5) % values.size()];
      }
      Builder builder;
      const int oc = builder.operand(DType::Bool), ob = builder.operand(kDTypeOf<T>);
      const int occ = builder.operand(kDTypeOf<T>), out = builder.operand(kDTypeOf<T>);
      const int mask = builder.load(oc), rb = builder.load(ob), rc = builder.load(occ);
      builder.store(out, builder.emit(Op::Select, kLaneOf<T>, mask, rb, rc));
      const int64_t size = sizeof(T);
      const Operand operands[] = {make_operand(condition.data(), {1}),
                                  make_operand(b.data(), {size}), make_operand(c.data(), {size}),
                                  make_operand(result.data(), {size})};
      run_on(engine_of(isa), builder.program, make_space({n}), operands, nullptr);
      ASSERT_TRUE(result.intact());
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_TRUE(same(result.as<T>()[i], condition[i] ? b.as<T>()[i] : c.as<T>()[i])) << i;
      }
    }
  }
}

TEST(VectorOps, Select) {
  check_select<float>();
  check_select<double>();
  check_select<int64_t>();
  check_select<uint8_t>();
}

// The same register as operand and result, where their sizes differ too.
TEST(VectorOps, RegistersMayBeReusedAtOnce) {
  for (Isa isa : testable_isas()) {
    for (int64_t n : kSizes) {
      std::vector<float> x(n), y(n);
      for (int64_t i = 0; i < n; ++i) x[i] = static_cast<float>(i % 13) - 6;
      Program program;
      program.operands = {DType::Float32, DType::Float32};
      const auto add = [&](Op op, Lane lane, int dst, int a, int b, int c, Lane lane2, int index) {
        Instruction i{op};
        i.lane = lane;
        i.lane2 = lane2;
        i.dst = dst;
        i.a = a;
        i.b = b;
        i.c = c;
        i.index = index;
        program.code.push_back(i);
      };
      add(Op::Load, Lane::F32, 0, 0, 0, 0, Lane::F32, 0);
      add(Op::Mul, Lane::F32, 0, 0, 0, 0, Lane::F32, 0);
      add(Op::Convert, Lane::F64, 0, 0, 0, 0, Lane::F32, 0);
      add(Op::Convert, Lane::I64, 0, 0, 0, 0, Lane::F64, 0);
      add(Op::Convert, Lane::F32, 0, 0, 0, 0, Lane::I64, 0);
      add(Op::Load, Lane::F32, 1, 0, 0, 0, Lane::F32, 0);
      add(Op::Lt, Lane::F32, 1, 1, 0, 0, Lane::F32, 0);        // x < x^2
      add(Op::Convert, Lane::F32, 1, 1, 0, 0, Lane::Bool, 0);  // widened in place
      add(Op::Add, Lane::F32, 0, 0, 1, 0, Lane::F32, 0);
      add(Op::Store, Lane::F32, 0, 0, 0, 0, Lane::F32, 1);
      const Operand operands[] = {make_operand(x.data(), {4}), make_operand(y.data(), {4})};
      run_on(engine_of(isa), program, make_space({n}), operands, nullptr);
      for (int64_t i = 0; i < n; ++i) {
        ASSERT_EQ(y[i], x[i] * x[i] + (x[i] < x[i] * x[i] ? 1 : 0)) << isa_name(isa) << i;
      }
    }
  }
}

TEST(VectorOps, EveryRealOpIsSupportedInBothRealLanes) {
  for (int op = static_cast<int>(Op::Add); op <= static_cast<int>(Op::RoundEven); ++op) {
    EXPECT_TRUE(is_supported(static_cast<Op>(op), Lane::F32)) << op;
    EXPECT_TRUE(is_supported(static_cast<Op>(op), Lane::F64)) << op;
  }
  EXPECT_FALSE(is_supported(Op::Exp, Lane::I64));
}

}  // namespace
}  // namespace accel::kernels::vector

// Arithmetic of vector programs. Semantics on edge cases (signs of remainders, NaN in minima,
// powers of integers) are those of PyTorch's CPU kernels; integers wrap, and dividing them by zero
// gives 0.
#include <math.h>

#include "kernels/common/math.h"
#include "kernels/vector/kernel.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

struct Add {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return a + b;
  }
};
struct Sub {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return a - b;
  }
};
struct Mul {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return a * b;
  }
};
struct Div {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return a / b;
  }
};
struct TruncDiv {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return round_to<Rounding::Zero>(a / b);
  }
};
struct Minimum {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return minimum(a, b);
  }
};
struct Maximum {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return maximum(a, b);
  }
};
struct Fmin {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    const V smaller = b < a ? b : a;  // a if either is NaN
    return a == a ? smaller : b;
  }
};
struct Fmax {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    const V larger = a < b ? b : a;
    return a == a ? larger : b;
  }
};
struct MulAdd {
  template <class V>
  ACCEL_INLINE static V of(V a, V b, V c) {
    return a * b + c;
  }
};
struct CopySign {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return copy_sign(a, b);
  }
};
struct Neg {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return -a;
  }
};
struct Abs {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return abs(a);
  }
};
struct AbsInteger {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return (VectorI64)a < 0 ? -a : a;
  }
};
struct Sign {  // 0 for NaN
  template <class V>
  ACCEL_INLINE static V of(V a) {
    const V zero{}, one = zero + 1;
    return a > zero ? one : (a < zero ? -one : zero);
  }
};
struct Square {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return a * a;
  }
};
struct Sqrt {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return sqrt(a);
  }
};
struct Rsqrt {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return (V{} + 1) / sqrt(a);
  }
};
struct Reciprocal {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return (V{} + 1) / a;
  }
};
template <Rounding mode>
struct RoundTo {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return round_to<mode>(a);
  }
};
// sqrt(a^2 + b^2) without overflow: in units of the larger one.
struct Hypot {
  ACCEL_INLINE static VectorF32 of(VectorF32 a, VectorF32 b) {
    const VectorF32 x = abs(a), y = abs(b), larger = x < y ? y : x, smaller = x < y ? x : y;
    const VectorF32 ratio = smaller / larger;
    const VectorF32 value = larger * sqrt(fma(ratio, ratio, 1.0f));
    const VectorF32 infinity = splat<VectorF32>(__builtin_inff());
    const VectorF32 finite = larger == VectorF32{} ? smaller : value;
    return (x == infinity) | (y == infinity) ? infinity : finite;
  }
};
struct Atan2 {
  ACCEL_INLINE static VectorF32 of(VectorF32 y, VectorF32 x) { return atan2(y, x); }
};
// Bool lanes: 0 and 1.
struct And {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return a & b;
  }
};
struct Or {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return a | b;
  }
};
struct Xor {
  template <class V>
  ACCEL_INLINE static V of(V a, V b) {
    return a ^ b;
  }
};

ACCEL_INLINE float c_fmod(float a, float b) { return ::fmodf(a, b); }
ACCEL_INLINE double c_fmod(double a, double b) { return ::fmod(a, b); }
ACCEL_INLINE float c_floor(float a) { return ::floorf(a); }
ACCEL_INLINE double c_floor(double a) { return ::floor(a); }

// The quotient rounded down, computed from the exact remainder (of a truncating division), so that
// it never rounds up.
template <class Real>
ACCEL_INLINE Real floor_div_of(Real a, Real b, Real remainder) {
  if (b == 0) return a / b;
  Real quotient = (a - remainder) / b;
  if (remainder != 0 && (b < 0) != (remainder < 0)) quotient -= 1;
  if (quotient == 0) return static_cast<Real>(__builtin_copysign(0.0, static_cast<double>(a / b)));
  const Real down = c_floor(quotient);
  return quotient - down > static_cast<Real>(0.5) ? down + 1 : down;
}

template <class Real>
Real floor_div(Real a, Real b) {
  return floor_div_of(a, b, c_fmod(a, b));
}

// The remainder with the sign of the divisor.
template <class Real>
ACCEL_INLINE Real remainder_of(Real rest, Real b) {
  return rest != 0 && (b < 0) != (rest < 0) ? rest + b : rest;
}
template <class Real>
Real remainder(Real a, Real b) {
  return remainder_of(c_fmod(a, b), b);
}

double fmod(double a, double b) { return c_fmod(a, b); }

// What becomes of the rest of a truncating division, one element at a time.
struct TruncRest {
  ACCEL_INLINE static float of(float, float, float rest) { return rest; }
};
struct FloorRest {
  ACCEL_INLINE static float of(float, float b, float rest) { return remainder_of(rest, b); }
};
struct FloorQuotient {
  ACCEL_INLINE static float of(float a, float b, float rest) { return floor_div_of(a, b, rest); }
};

// Remainders of F32 in F64, exact while the quotient has at most 27 bits: the product of its 27
// bits and the divisor's 24 fits, the difference is a multiple of the smaller operand's last bit,
// and the quotient is never so close below an integer that it would round to it. The C library's
// loop takes ten times as long; it does the rest.
template <class Function>
void by_remainder(const Instruction& instruction, Frame& frame) {
  using Floats = float __attribute__((vector_size(kVectorBytes / 2)));
  const float* a = in<float>(frame, instruction.a);
  const float* b = in<float>(frame, instruction.b);
  float* result = out<float>(frame, instruction.dst);
  for (int i = 0; i < frame.padded; i += kLanes64) {
    const Floats x = load<Floats>(a + i), y = load<Floats>(b + i);
    const VectorF64 dividend = __builtin_convertvector(x, VectorF64);
    const VectorF64 divisor = __builtin_convertvector(y, VectorF64);
    const VectorF64 quotient = dividend / divisor;
    const VectorF64 whole = round_to<Rounding::Zero>(quotient);
    const VectorF64 rest = copy_sign(dividend - whole * divisor, dividend);
    const auto exact = (abs(quotient) < 134217728.0) & (abs(divisor) < __builtin_inf());
    Floats rests = __builtin_convertvector(rest, Floats);
    if (__builtin_expect(any(~exact), 0)) {
      for (int k = 0; k < kLanes64; ++k) {
        if (!exact[k]) rests[k] = c_fmod(x[k], y[k]);
      }
    }
    for (int k = 0; k < kLanes64; ++k) result[i + k] = Function::of(x[k], y[k], rests[k]);
  }
}

float pow(float a, float b) { return ::powf(a, b); }
double pow(double a, double b) { return ::pow(a, b); }
double c_atan2(double a, double b) { return ::atan2(a, b); }
double hypot(double a, double b) { return ::hypot(a, b); }

// Wraps: the smallest integer has no opposite.
ACCEL_INLINE int64_t negate(int64_t a) { return static_cast<int64_t>(-static_cast<uint64_t>(a)); }

int64_t trunc_div(int64_t a, int64_t b) {
  if (b == 0) return 0;
  return b == -1 ? negate(a) : a / b;
}
int64_t fmod(int64_t a, int64_t b) { return b == 0 || b == -1 ? 0 : a % b; }
int64_t remainder(int64_t a, int64_t b) {
  const int64_t rest = fmod(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? rest + b : rest;
}
int64_t floor_div(int64_t a, int64_t b) {
  const int64_t quotient = trunc_div(a, b);
  const int64_t rest = fmod(a, b);
  return rest != 0 && (rest < 0) != (b < 0) ? quotient - 1 : quotient;
}
int64_t pow(int64_t base, int64_t exponent) {
  if (exponent < 0) {
    if (base == 1) return 1;
    if (base == -1) return exponent % 2 == 0 ? 1 : -1;
    return 0;
  }
  uint64_t power = 1, square = static_cast<uint64_t>(base);
  for (; exponent > 0; exponent >>= 1) {
    if (exponent & 1) power *= square;
    square *= square;
  }
  return static_cast<int64_t>(power);
}

template <class Real, Lane lane>
void add_real(Engine& engine) {
  engine.set(Op::Add, lane, binary<Real, Add>);
  engine.set(Op::Sub, lane, binary<Real, Sub>);
  engine.set(Op::Mul, lane, binary<Real, Mul>);
  engine.set(Op::Div, lane, binary<Real, Div>);
  engine.set(Op::TruncDiv, lane, binary<Real, TruncDiv>);
  engine.set(Op::Pow, lane, each_binary<Real, pow>);
  engine.set(Op::Minimum, lane, binary<Real, Minimum>);
  engine.set(Op::Maximum, lane, binary<Real, Maximum>);
  engine.set(Op::Fmin, lane, binary<Real, Fmin>);
  engine.set(Op::Fmax, lane, binary<Real, Fmax>);
  engine.set(Op::MulAdd, lane, ternary<Real, MulAdd>);
  engine.set(Op::CopySign, lane, binary<Real, CopySign>);
  engine.set(Op::Neg, lane, unary<Real, Neg>);
  engine.set(Op::Abs, lane, unary<Real, Abs>);
  engine.set(Op::Sign, lane, unary<Real, Sign>);
  engine.set(Op::Square, lane, unary<Real, Square>);
  engine.set(Op::Sqrt, lane, unary<Real, Sqrt>);
  engine.set(Op::Rsqrt, lane, unary<Real, Rsqrt>);
  engine.set(Op::Reciprocal, lane, unary<Real, Reciprocal>);
  engine.set(Op::Floor, lane, unary<Real, RoundTo<Rounding::Down>>);
  engine.set(Op::Ceil, lane, unary<Real, RoundTo<Rounding::Up>>);
  engine.set(Op::Trunc, lane, unary<Real, RoundTo<Rounding::Zero>>);
  engine.set(Op::RoundEven, lane, unary<Real, RoundTo<Rounding::Even>>);
}

}  // namespace

void add_arithmetic_kernels(Engine& engine) {
  add_real<float, Lane::F32>(engine);
  add_real<double, Lane::F64>(engine);
  engine.set(Op::Fmod, Lane::F32, by_remainder<TruncRest>);
  engine.set(Op::Remainder, Lane::F32, by_remainder<FloorRest>);
  engine.set(Op::FloorDiv, Lane::F32, by_remainder<FloorQuotient>);
  engine.set(Op::Hypot, Lane::F32, binary<float, Hypot>);
  engine.set(Op::FloorDiv, Lane::F64, each_binary<double, floor_div<double>>);
  engine.set(Op::Fmod, Lane::F64, each_binary<double, fmod>);
  engine.set(Op::Remainder, Lane::F64, each_binary<double, remainder<double>>);
  engine.set(Op::Hypot, Lane::F64, each_binary<double, hypot>);
  engine.set(Op::Atan2, Lane::F32, binary<float, Atan2>);
  engine.set(Op::Atan2, Lane::F64, each_binary<double, c_atan2>);

  // Unsigned where the sum may wrap.
  engine.set(Op::Add, Lane::I64, binary<uint64_t, Add>);
  engine.set(Op::Sub, Lane::I64, binary<uint64_t, Sub>);
  engine.set(Op::Mul, Lane::I64, binary<uint64_t, Mul>);
  engine.set(Op::Div, Lane::I64, each_binary<int64_t, trunc_div>);
  engine.set(Op::TruncDiv, Lane::I64, each_binary<int64_t, trunc_div>);
  engine.set(Op::FloorDiv, Lane::I64, each_binary<int64_t, floor_div>);
  engine.set(Op::Fmod, Lane::I64, each_binary<int64_t, fmod>);
  engine.set(Op::Remainder, Lane::I64, each_binary<int64_t, remainder>);
  engine.set(Op::Pow, Lane::I64, each_binary<int64_t, pow>);
  engine.set(Op::Minimum, Lane::I64, binary<int64_t, Minimum>);
  engine.set(Op::Maximum, Lane::I64, binary<int64_t, Maximum>);
  engine.set(Op::Fmin, Lane::I64, binary<int64_t, Minimum>);
  engine.set(Op::Fmax, Lane::I64, binary<int64_t, Maximum>);
  engine.set(Op::MulAdd, Lane::I64, ternary<uint64_t, MulAdd>);
  engine.set(Op::Neg, Lane::I64, unary<uint64_t, Neg>);
  engine.set(Op::Abs, Lane::I64, unary<uint64_t, AbsInteger>);
  engine.set(Op::Sign, Lane::I64, unary<int64_t, Sign>);
  engine.set(Op::Square, Lane::I64, unary<uint64_t, Square>);

  engine.set(Op::Add, Lane::Bool, binary<uint8_t, Or>);
  engine.set(Op::Sub, Lane::Bool, binary<uint8_t, Xor>);
  engine.set(Op::Mul, Lane::Bool, binary<uint8_t, And>);
  engine.set(Op::Minimum, Lane::Bool, binary<uint8_t, And>);
  engine.set(Op::Maximum, Lane::Bool, binary<uint8_t, Or>);
}

}  // namespace accel::kernels::ACCEL_ISA

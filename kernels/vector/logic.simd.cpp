// Bits, comparisons and selection of vector programs.
#include "kernels/vector/kernel.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

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
struct Not {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return ~a;
  }
};
struct NotBool {
  template <class V>
  ACCEL_INLINE static V of(V a) {
    return a ^ 1;
  }
};
// Amounts outside [0, 63] shift everything out: zeros from the right, signs from the left.
struct ShiftLeft {
  ACCEL_INLINE static VectorU64 of(VectorU64 a, VectorU64 b) {
    return b < 64 ? a << (b & 63) : VectorU64{};
  }
};
struct ShiftRight {
  ACCEL_INLINE static VectorI64 of(VectorI64 a, VectorI64 b) {
    return a >> (((VectorU64)b < 64 ? b : VectorI64{} + 63) & 63);
  }
};

// Comparisons work on scalars and vectors alike.
struct Eq {
  template <class T>
  ACCEL_INLINE static auto of(T a, T b) {
    return a == b;
  }
};
struct Ne {
  template <class T>
  ACCEL_INLINE static auto of(T a, T b) {
    return a != b;
  }
};
struct Lt {
  template <class T>
  ACCEL_INLINE static auto of(T a, T b) {
    return a < b;
  }
};
struct Le {
  template <class T>
  ACCEL_INLINE static auto of(T a, T b) {
    return a <= b;
  }
};
struct Gt {
  template <class T>
  ACCEL_INLINE static auto of(T a, T b) {
    return a > b;
  }
};
struct Ge {
  template <class T>
  ACCEL_INLINE static auto of(T a, T b) {
    return a >= b;
  }
};
struct IsNan {
  template <class T>
  ACCEL_INLINE static auto of(T a) {
    return a != a;
  }
};
struct SignBit {
  template <class T>
  ACCEL_INLINE static bool of(T a) {
    return __builtin_signbit(a) != 0;
  }
};
struct IsInf {
  template <class T>
  ACCEL_INLINE static auto of(T a) {
    return (a - a != a - a) & (a == a);
  }
};

template <class Function>
void compare_f32(const Instruction& instruction, Frame& frame) {
  Copy copy_a, copy_b;
  const float* a = in_beside<float>(frame, instruction.a, instruction.dst, copy_a);
  const float* b = in_beside<float>(frame, instruction.b, instruction.dst, copy_b);
  uint8_t* result = out<uint8_t>(frame, instruction.dst);
  const int n = frame.padded;
  for (int i = 0; i < n; i += kLanes32) {
    const VectorI32 mask = Function::of(load<VectorF32>(a + i), load<VectorF32>(b + i));
    store(result + i, __builtin_convertvector(mask & 1, QuarterU8));
  }
}

template <class Element, class Function>
void compare(const Instruction& instruction, Frame& frame) {
  Copy copy_a, copy_b;
  const Element* __restrict a = in_beside<Element>(frame, instruction.a, instruction.dst, copy_a);
  const Element* __restrict b = in_beside<Element>(frame, instruction.b, instruction.dst, copy_b);
  uint8_t* __restrict result = out<uint8_t>(frame, instruction.dst);
  const int n = frame.padded & -vector::kTilePadding;
  for (int i = 0; i < n; ++i) result[i] = Function::of(a[i], b[i]);
}

template <class Element, class Function>
void test(const Instruction& instruction, Frame& frame) {
  Copy copy;
  const Element* __restrict a = in_beside<Element>(frame, instruction.a, instruction.dst, copy);
  uint8_t* __restrict result = out<uint8_t>(frame, instruction.dst);
  const int n = frame.padded & -vector::kTilePadding;
  for (int i = 0; i < n; ++i) result[i] = Function::of(a[i]);
}

void select_f32(const Instruction& instruction, Frame& frame) {
  Copy copy;
  const uint8_t* condition = in_beside<uint8_t>(frame, instruction.a, instruction.dst, copy);
  const float* b = in<float>(frame, instruction.b);
  const float* c = in<float>(frame, instruction.c);
  float* result = out<float>(frame, instruction.dst);
  for_each_vector<float>(frame.padded, [=](int i) {
    const VectorF32 vb = load<VectorF32>(b + i), vc = load<VectorF32>(c + i);
    store(result + i, widen_bytes(condition + i) != 0 ? vb : vc);
  });
}

template <class Element>
void select(const Instruction& instruction, Frame& frame) {
  Copy copy;
  const uint8_t* condition = in_beside<uint8_t>(frame, instruction.a, instruction.dst, copy);
  const Element* b = in<Element>(frame, instruction.b);
  const Element* c = in<Element>(frame, instruction.c);
  Element* result = out<Element>(frame, instruction.dst);
  const int n = frame.padded & -vector::kTilePadding;
  for (int i = 0; i < n; ++i) result[i] = condition[i] ? b[i] : c[i];
}

template <class Element, Lane lane>
void add_comparisons(Engine& engine) {
  engine.set(Op::Eq, lane, compare<Element, Eq>);
  engine.set(Op::Ne, lane, compare<Element, Ne>);
  engine.set(Op::Lt, lane, compare<Element, Lt>);
  engine.set(Op::Le, lane, compare<Element, Le>);
  engine.set(Op::Gt, lane, compare<Element, Gt>);
  engine.set(Op::Ge, lane, compare<Element, Ge>);
}

}  // namespace

void add_logic_kernels(Engine& engine) {
  engine.set(Op::BitAnd, Lane::I64, binary<int64_t, And>);
  engine.set(Op::BitOr, Lane::I64, binary<int64_t, Or>);
  engine.set(Op::BitXor, Lane::I64, binary<int64_t, Xor>);
  engine.set(Op::BitNot, Lane::I64, unary<int64_t, Not>);
  engine.set(Op::ShiftLeft, Lane::I64, binary<uint64_t, ShiftLeft>);
  engine.set(Op::ShiftRight, Lane::I64, binary<int64_t, ShiftRight>);
  engine.set(Op::BitAnd, Lane::Bool, binary<uint8_t, And>);
  engine.set(Op::BitOr, Lane::Bool, binary<uint8_t, Or>);
  engine.set(Op::BitXor, Lane::Bool, binary<uint8_t, Xor>);
  engine.set(Op::BitNot, Lane::Bool, unary<uint8_t, NotBool>);

  engine.set(Op::Eq, Lane::F32, compare_f32<Eq>);
  engine.set(Op::Ne, Lane::F32, compare_f32<Ne>);
  engine.set(Op::Lt, Lane::F32, compare_f32<Lt>);
  engine.set(Op::Le, Lane::F32, compare_f32<Le>);
  engine.set(Op::Gt, Lane::F32, compare_f32<Gt>);
  engine.set(Op::Ge, Lane::F32, compare_f32<Ge>);
  add_comparisons<double, Lane::F64>(engine);
  add_comparisons<int64_t, Lane::I64>(engine);
  add_comparisons<uint8_t, Lane::Bool>(engine);
  engine.set(Op::IsNan, Lane::F32, test<float, IsNan>);
  engine.set(Op::IsInf, Lane::F32, test<float, IsInf>);
  engine.set(Op::SignBit, Lane::F32, test<float, SignBit>);
  engine.set(Op::SignBit, Lane::F64, test<double, SignBit>);
  engine.set(Op::IsNan, Lane::F64, test<double, IsNan>);
  engine.set(Op::IsInf, Lane::F64, test<double, IsInf>);

  engine.set(Op::Select, Lane::F32, select_f32);
  engine.set(Op::Select, Lane::F64, select<double>);
  engine.set(Op::Select, Lane::I64, select<int64_t>);
  engine.set(Op::Select, Lane::Bool, select<uint8_t>);
}

}  // namespace accel::kernels::ACCEL_ISA

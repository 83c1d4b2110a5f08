// Kernels for pairs of instructions (see First and Second in interpreter.h): one pass over the tile
// and one call where there were two. Each rounds as the two instructions do.
#include "kernels/common/convert.h"
#include "kernels/vector/kernel.h"

namespace accel::kernels::ACCEL_ISA {

using vector::First;
using vector::Second;

namespace {

template <First first>
ACCEL_INLINE VectorF32 apply_first(VectorF32 a, VectorF32 b, VectorF32 c) {
  switch (first) {
    case First::Add:
      return a + b;
    case First::Sub:
      return a - b;
    case First::Mul:
      return a * b;
    case First::MulAdd:
      return a * b + c;
  }
}

template <Second second>
ACCEL_INLINE VectorF32 apply_second(VectorF32 t, VectorF32 x, VectorF32 y) {
  switch (second) {
    case Second::Add:
      return t + x;
    case Second::Sub:
      return t - x;
    case Second::SubFrom:
      return x - t;
    case Second::Mul:
      return t * x;
    case Second::MulAdd:
      return t * x + y;
    case Second::AddTo:
      return x * y + t;
    case Second::Square:
      return t * t;
    case Second::RoundBF16:
      return round_bf16(t);
    case Second::RoundF16:
      return round_f16(t);
  }
}

template <First first, Second second>
void pair(const Instruction& instruction, Frame& frame) {
  constexpr bool kUsesC =
      first == First::MulAdd || second == Second::MulAdd || second == Second::AddTo;
  constexpr bool kUsesX = second < Second::Square;
  const float* a = in<float>(frame, instruction.a);
  const float* b = in<float>(frame, instruction.b);
  const float* c = in<float>(frame, instruction.c);
  const float* x = in<float>(frame, static_cast<uint8_t>(instruction.index));
  float* result = out<float>(frame, instruction.dst);
  for_each_vector<float>(frame.padded, [=](int i) {
    const VectorF32 vc = kUsesC ? load<VectorF32>(c + i) : VectorF32{};
    const VectorF32 vx = kUsesX ? load<VectorF32>(x + i) : VectorF32{};
    const VectorF32 t = apply_first<first>(load<VectorF32>(a + i), load<VectorF32>(b + i), vc);
    store(result + i, apply_second<second>(t, vx, vc));
  });
}

template <First first>
void add_first(Engine& engine) {
  vector::Kernel* row = engine.pairs[static_cast<int>(first)];
  row[static_cast<int>(Second::Add)] = pair<first, Second::Add>;
  row[static_cast<int>(Second::Sub)] = pair<first, Second::Sub>;
  row[static_cast<int>(Second::SubFrom)] = pair<first, Second::SubFrom>;
  row[static_cast<int>(Second::Mul)] = pair<first, Second::Mul>;
  row[static_cast<int>(Second::Square)] = pair<first, Second::Square>;
  row[static_cast<int>(Second::RoundBF16)] = pair<first, Second::RoundBF16>;
  row[static_cast<int>(Second::RoundF16)] = pair<first, Second::RoundF16>;
  if constexpr (first != First::MulAdd) {  // five operands are one too many for an instruction
    row[static_cast<int>(Second::MulAdd)] = pair<first, Second::MulAdd>;
    row[static_cast<int>(Second::AddTo)] = pair<first, Second::AddTo>;
  }
}

}  // namespace

void add_pair_kernels(Engine& engine) {
  add_first<First::Add>(engine);
  add_first<First::Sub>(engine);
  add_first<First::Mul>(engine);
  add_first<First::MulAdd>(engine);
}

}  // namespace accel::kernels::ACCEL_ISA

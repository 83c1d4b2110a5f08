// What the interpreter's kernels share: access to registers, and loops over them. Included by the
// *.simd.cpp files of this folder only.
#pragma once

#include "kernels/common/simd.h"
#include "kernels/vector/interpreter.h"

namespace accel::kernels::ACCEL_ISA {

using vector::Engine;
using vector::Frame;
using vector::Instruction;
using vector::Lane;
using vector::Op;
using vector::Scalar;
using vector::TileOperand;

// A register's values, to read: frame.padded of them may be.
template <class Element>
ACCEL_INLINE const Element* in(const Frame& frame, uint8_t source) {
  return static_cast<const Element*>(frame.source[source]);
}

// A register's own place, to write frame.padded values: call it after in(), because a register may
// be both. Values in front of the ones being read are never written, so same-sized elements may be
// processed in place.
template <class Element>
ACCEL_INLINE Element* out(Frame& frame, uint8_t target) {
  char* place = frame.place[target];
  frame.source[target] = place;
  frame.borrowed &= ~(1u << target);
  return reinterpret_cast<Element*>(place);
}

// A register that lies in the memory about to be overwritten gets its values into its own place.
ACCEL_INLINE void keep_borrowed(Frame& frame, const char* data, int64_t bytes) {
  for (uint32_t left = frame.borrowed; left != 0; left &= left - 1) {
    const int borrower = __builtin_ctz(left);
    if (frame.source[borrower] != data) continue;
    std::memcpy(out<char>(frame, static_cast<uint8_t>(borrower)), data, bytes);
  }
}

// Like in(), for kernels whose result has another size: if `target` is the same register, a copy.
struct Copy {
  alignas(64) char bytes[vector::kRegisterBytes];
};
template <class Element>
ACCEL_INLINE const Element* in_beside(const Frame& frame, uint8_t source, uint8_t target,
                                      Copy& copy) {
  if (__builtin_expect(source != target, 1)) return in<Element>(frame, source);
  std::memcpy(copy.bytes, frame.source[source], frame.padded * sizeof(Element));
  return reinterpret_cast<const Element*>(copy.bytes);
}

// Calls body(i) for the first element i of each vector of a register. Whole tiles, the common case,
// take a loop without a counter: a loop's mispredicted end costs as much as eight vectors.
template <class Element, class Body>
ACCEL_INLINE void for_each_vector(int padded, Body body) {
  constexpr int kStep = sizeof(Vector<Element>) / sizeof(Element);
  if (__builtin_expect(padded == vector::kTileElements, 1)) {
#pragma GCC unroll 16
    for (int i = 0; i < vector::kTileElements; i += kStep) body(i);
    return;
  }
  for (int i = 0; i < padded; i += kStep) body(i);
}

// Function::of on each vector of the operands. Functions are written once for all vector types.
template <class Element, class Function>
void unary(const Instruction& instruction, Frame& frame) {
  using V = Vector<Element>;
  const Element* a = in<Element>(frame, instruction.a);
  Element* result = out<Element>(frame, instruction.dst);
  for_each_vector<Element>(frame.padded,
                           [=](int i) { store(result + i, Function::of(load<V>(a + i))); });
}

template <class Element, class Function>
void binary(const Instruction& instruction, Frame& frame) {
  using V = Vector<Element>;
  const Element* a = in<Element>(frame, instruction.a);
  const Element* b = in<Element>(frame, instruction.b);
  Element* result = out<Element>(frame, instruction.dst);
  for_each_vector<Element>(frame.padded, [=](int i) {
    store(result + i, Function::of(load<V>(a + i), load<V>(b + i)));
  });
}

template <class Element, class Function>
void ternary(const Instruction& instruction, Frame& frame) {
  using V = Vector<Element>;
  const Element* a = in<Element>(frame, instruction.a);
  const Element* b = in<Element>(frame, instruction.b);
  const Element* c = in<Element>(frame, instruction.c);
  Element* result = out<Element>(frame, instruction.dst);
  for_each_vector<Element>(frame.padded, [=](int i) {
    store(result + i, Function::of(load<V>(a + i), load<V>(b + i), load<V>(c + i)));
  });
}

// The same one by one, for what the C library computes or the vector types lack.
template <class Element, Element (*function)(Element)>
void each_unary(const Instruction& instruction, Frame& frame) {
  const Element* a = in<Element>(frame, instruction.a);
  Element* result = out<Element>(frame, instruction.dst);
  for (int i = 0; i < frame.count; ++i) result[i] = function(a[i]);
}

template <class Element, Element (*function)(Element, Element)>
void each_binary(const Instruction& instruction, Frame& frame) {
  const Element* a = in<Element>(frame, instruction.a);
  const Element* b = in<Element>(frame, instruction.b);
  Element* result = out<Element>(frame, instruction.dst);
  for (int i = 0; i < frame.count; ++i) result[i] = function(a[i], b[i]);
}

}  // namespace accel::kernels::ACCEL_ISA

// Instructions that make values out of nothing but the element's place: scalars, slots, indices and
// random numbers.
#include <algorithm>

#include "kernels/common/philox.h"
#include "kernels/vector/cast.h"

namespace accel::kernels::ACCEL_ISA {

namespace {

template <class Element>
void fill(Element value, Element* to, int n) {
  using V = Vector<Element>;
  const V all = splat<V>(value);
  for (int i = 0; i < n; i += static_cast<int>(sizeof(V) / sizeof(Element))) store(to + i, all);
}

template <Lane lane>
void scalar(const Instruction& instruction, Frame& frame) {
  using Element = ElementOf<lane>;
  const Scalar& scalar = frame.scalars[instruction.index];
  Element* to = out<Element>(frame, instruction.dst);
  if constexpr (lane == Lane::F32 || lane == Lane::F64) {
    fill(static_cast<Element>(scalar.d), to, frame.padded);
  } else if constexpr (lane == Lane::I64) {
    fill(scalar.i, to, frame.padded);
  } else {
    fill(static_cast<uint8_t>(scalar.i != 0), to, frame.padded);
  }
}

template <Lane lane>
void slot(const Instruction& instruction, Frame& frame) {
  using Element = ElementOf<lane>;
  const Element* from = reinterpret_cast<const Element*>(frame.slots[instruction.index]);
  from += frame.slot_row;
  Element* to = out<Element>(frame, instruction.dst);
  if (frame.row_length == 1) {
    for (int i = 0; i < frame.count; ++i) to[i] = from[i];
    return;
  }
  for (int done = 0; done < frame.count; done += frame.row_length) {
    fill(*from++, to + done, frame.row_length);
  }
}

void linear_index(const Instruction& instruction, Frame& frame) {
  int64_t* to = out<int64_t>(frame, instruction.dst);
  for (int r = 0; r < frame.rows; ++r) {
    const int64_t first = frame.linear_index + r * frame.linear_stride;
    for (int c = 0; c < frame.columns; ++c) *to++ = first + c;
  }
}

void column_index(const Instruction& instruction, Frame& frame) {
  int64_t* to = out<int64_t>(frame, instruction.dst);
  for (int r = 0; r < frame.rows; ++r) {
    for (int c = 0; c < frame.columns; ++c) *to++ = frame.column_index + c;
  }
}

// Calls make(linear index of the first, how many, place of the first in the register) for each run
// of elements whose linear indices follow each other.
template <class Make>
ACCEL_INLINE void for_each_run(const Frame& frame, Make make) {
  if (frame.rows == 1 || frame.linear_stride == frame.columns) {
    make(frame.linear_index, frame.count, 0);
    return;
  }
  for (int r = 0; r < frame.rows; ++r) {
    make(frame.linear_index + r * frame.linear_stride, frame.columns, r * frame.columns);
  }
}

// Matrices follow each other in row-major order, so along a run the distance grows by one until the
// row ends.
void diagonal_index(const Instruction& instruction, Frame& frame) {
  const int64_t rows = frame.scalars[instruction.index].i;
  const int64_t columns = frame.scalars[instruction.index + 1].i;
  int64_t* to = out<int64_t>(frame, instruction.dst);
  for_each_run(frame, [&](int64_t first, int n, int place) {
    int64_t column = first % columns, row = first / columns % rows;
    for (int done = 0; done < n;) {
      const int fit = static_cast<int>(std::min<int64_t>(n - done, columns - column));
      for (int i = 0; i < fit; ++i) to[place + done + i] = column - row + i;
      done += fit;
      column = 0;
      row = row + 1 == rows ? 0 : row + 1;
    }
  });
}

void uniform_f32(const Instruction& instruction, Frame& frame) {
  const uint64_t seed = static_cast<uint64_t>(frame.scalars[instruction.index].i);
  const uint64_t offset = static_cast<uint64_t>(frame.scalars[instruction.index + 1].i);
  float* to = out<float>(frame, instruction.dst);
  for_each_run(frame, [&](int64_t first, int n, int place) {
    uniform_span(seed, offset, static_cast<uint64_t>(first), n, to + place);
  });
}

void uniform_f64(const Instruction& instruction, Frame& frame) {
  const uint64_t seed = static_cast<uint64_t>(frame.scalars[instruction.index].i);
  const uint64_t offset = static_cast<uint64_t>(frame.scalars[instruction.index + 1].i);
  double* to = out<double>(frame, instruction.dst);
  for_each_run(frame, [&](int64_t first, int n, int place) {
    uint32_t high[vector::kTileElements], low[vector::kTileElements];
    random_span(seed, offset, static_cast<uint64_t>(first), n, high);
    random_span(seed, offset, static_cast<uint64_t>(first), n, low, 1);
    for (int i = 0; i < n; ++i) to[place + i] = uniform_of(high[i], low[i]);
  });
}

void random_bits(const Instruction& instruction, Frame& frame) {
  const uint64_t seed = static_cast<uint64_t>(frame.scalars[instruction.index].i);
  const uint64_t offset = static_cast<uint64_t>(frame.scalars[instruction.index + 1].i);
  int64_t* to = out<int64_t>(frame, instruction.dst);
  for_each_run(frame, [&](int64_t first, int n, int place) {
    uint32_t words[vector::kTileElements];
    random_span(seed, offset, static_cast<uint64_t>(first), n, words);
    for (int i = 0; i < n; ++i) to[place + i] = words[i];
  });
}

}  // namespace

void add_position_kernels(Engine& engine) {
  engine.set(Op::Scalar, Lane::F32, scalar<Lane::F32>);
  engine.set(Op::Scalar, Lane::F64, scalar<Lane::F64>);
  engine.set(Op::Scalar, Lane::I64, scalar<Lane::I64>);
  engine.set(Op::Scalar, Lane::Bool, scalar<Lane::Bool>);
  engine.set(Op::Slot, Lane::F32, slot<Lane::F32>);
  engine.set(Op::Slot, Lane::F64, slot<Lane::F64>);
  engine.set(Op::Slot, Lane::I64, slot<Lane::I64>);
  engine.set(Op::Slot, Lane::Bool, slot<Lane::Bool>);
  // Their results have one type, whatever lane the instruction names.
  for (int lane = 0; lane < vector::kLanes; ++lane) {
    engine.set(Op::LinearIndex, static_cast<Lane>(lane), linear_index);
    engine.set(Op::ColumnIndex, static_cast<Lane>(lane), column_index);
    engine.set(Op::DiagonalIndex, static_cast<Lane>(lane), diagonal_index);
    engine.set(Op::RandomBits, static_cast<Lane>(lane), random_bits);
  }
  engine.set(Op::Uniform, Lane::F32, uniform_f32);
  engine.set(Op::Uniform, Lane::F64, uniform_f64);
}

}  // namespace accel::kernels::ACCEL_ISA

// Load, Store and LoadTile: between operands in memory and registers. Never reads or writes memory
// outside the tile.
#include "kernels/vector/cast.h"

namespace accel::kernels::ACCEL_ISA {

using vector::kTileElements;

namespace {

// --- Runs of elements that lie side by side ---

template <Lane lane, class Memory>
ACCEL_INLINE void load_run(const Memory* __restrict from, ElementOf<lane>* __restrict to, int n) {
  if constexpr (sizeof(Memory) == sizeof(ElementOf<lane>) && lane != Lane::Bool &&
                kIsReal<Memory> == kIsReal<ElementOf<lane>>) {
    std::memcpy(to, from, n * sizeof(Memory));
  } else {
    for (int i = 0; i < n; ++i) to[i] = to_lane<lane>(from[i]);
  }
}

ACCEL_INLINE VectorF32 load_bools(const void* bytes) {
  // Any byte but 0 is true: 1.0f's bits, or none.
  const VectorI32 one = (VectorI32)splat<VectorF32>(1.0f);
  return (VectorF32)((widen_bytes(bytes) != 0) & one);
}

template <VectorF32 (*convert)(const void*), class Memory>
ACCEL_INLINE void load_vectors(const Memory* from, float* to, int n) {
  if (n == kTileElements) {
    for_each_vector<float>(n, [=](int i) { store(to + i, convert(from + i)); });
    return;
  }
  int i = 0;
  for (; i + kLanes32 <= n; i += kLanes32) store(to + i, convert(from + i));
  for (; i < n; ++i) to[i] = value_of(from[i]);
}
template <>
ACCEL_INLINE void load_run<Lane::F32, BFloat16>(const BFloat16* __restrict from,
                                                float* __restrict to, int n) {
  load_vectors<load_bf16>(from, to, n);
}
template <>
ACCEL_INLINE void load_run<Lane::F32, Float16>(const Float16* __restrict from, float* __restrict to,
                                               int n) {
  load_vectors<load_f16>(from, to, n);
}

template <>
ACCEL_INLINE void load_run<Lane::F32, BoolByte>(const BoolByte* __restrict from,
                                                float* __restrict to, int n) {
  load_vectors<load_bools>(from, to, n);
}

template <Lane lane, class Memory>
ACCEL_INLINE void store_run(const ElementOf<lane>* __restrict from, Memory* __restrict to, int n) {
  if constexpr (sizeof(Memory) == sizeof(ElementOf<lane>) &&
                kIsReal<Memory> == kIsReal<ElementOf<lane>> && lane != Lane::Bool) {
    std::memcpy(to, from, n * sizeof(Memory));
  } else {
    for (int i = 0; i < n; ++i) to[i] = CastTo<Memory>::from(from[i]);
  }
}

template <void (*convert)(void*, VectorF32), class Memory>
ACCEL_INLINE void store_vectors(const float* from, Memory* to, int n) {
  if (n == kTileElements) {
    for_each_vector<float>(n, [=](int i) { convert(to + i, load<VectorF32>(from + i)); });
    return;
  }
  int i = 0;
  for (; i + kLanes32 <= n; i += kLanes32) convert(to + i, load<VectorF32>(from + i));
  for (; i < n; ++i) to[i] = CastTo<Memory>::from(from[i]);
}
template <>
ACCEL_INLINE void store_run<Lane::F32, BFloat16>(const float* __restrict from,
                                                 BFloat16* __restrict to, int n) {
  store_vectors<store_bf16>(from, to, n);
}
template <>
ACCEL_INLINE void store_run<Lane::F32, Float16>(const float* __restrict from,
                                                Float16* __restrict to, int n) {
  store_vectors<store_f16>(from, to, n);
}

template <>
ACCEL_INLINE void store_run<Lane::F32, RoundedBFloat16>(const float* __restrict from,
                                                        RoundedBFloat16* __restrict to, int n) {
  store_vectors<store_upper_halves>(from, to, n);
}

// --- Every other element: the parts of complex numbers ---

// A stride that the compiler knows: it loads whole vectors and shuffles.
template <Lane lane, class Memory>
ACCEL_INLINE void load_every_other(const Memory* __restrict from, ElementOf<lane>* __restrict to,
                                   int n) {
  for (int i = 0; i < n; ++i) to[i] = to_lane<lane>(from[2 * i]);
}

// What lies between is never written, not even with what is there: it may be another thread's.
ACCEL_INLINE void store_every_other(const float* __restrict from, float* __restrict to, int n) {
  int i = 0;
#if defined(__AVX512F__)
  const __m512i low = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
  const __m512i high = _mm512_add_epi32(low, _mm512_set1_epi32(8));
  for (; i + kLanes32 <= n; i += kLanes32) {
    const __m512 values = _mm512_loadu_ps(from + i);
    _mm512_mask_storeu_ps(to + 2 * i, 0x5555, _mm512_permutexvar_ps(low, values));
    _mm512_mask_storeu_ps(to + 2 * i + kLanes32, 0x5555, _mm512_permutexvar_ps(high, values));
  }
#endif
  for (; i < n; ++i) to[2 * i] = from[i];
}

// --- Transposed tiles ---

template <class Memory>
inline constexpr bool kIsFloat = false;
template <>
inline constexpr bool kIsFloat<float> = true;

// Vectors of F32 from memory, where there is a fast way.
template <class Memory>
inline constexpr bool kLoadsVectors = false;
template <>
inline constexpr bool kLoadsVectors<float> = true;
template <>
inline constexpr bool kLoadsVectors<BFloat16> = true;
template <>
inline constexpr bool kLoadsVectors<Float16> = true;
template <>
inline constexpr bool kLoadsVectors<RoundedBFloat16> = true;

// Transposes a square of vectors: at distance h, the halves of width h change places.
template <int h>
ACCEL_INLINE void transpose_square(VectorF32 (&v)[kLanes32]) {
  if constexpr (h > 0) {
    VectorI32 upper_left, lower_right;
    for (int i = 0; i < kLanes32; ++i) {
      upper_left[i] = i & h ? kLanes32 + i - h : i;
      lower_right[i] = i & h ? kLanes32 + i : i + h;
    }
    for (int i = 0; i < kLanes32; ++i) {
      if (i & h) continue;
      const VectorF32 a = v[i], b = v[i + h];
      v[i] = __builtin_shuffle(a, b, upper_left);
      v[i + h] = __builtin_shuffle(a, b, lower_right);
    }
    transpose_square<h / 2>(v);
  }
}

// A tile whose rows lie side by side in memory; both its sides are multiples of kLanes32. A sixth
// of the time of element by element.
template <class Memory>
void load_transposed(const TileOperand& operand, float* to, int rows, int columns) {
  for (int r = 0; r < rows; r += kLanes32) {
    for (int c = 0; c < columns; c += kLanes32) {
      VectorF32 square[kLanes32];
      const char* from = operand.data + r * sizeof(Memory) + c * operand.column_stride;
      for (int i = 0; i < kLanes32; ++i, from += operand.column_stride) {
        square[i] = load_wide(reinterpret_cast<const Memory*>(from));
      }
      transpose_square<kLanes32 / 2>(square);
      for (int i = 0; i < kLanes32; ++i) store(to + (r + i) * columns + c, square[i]);
    }
  }
}

// The way back.
template <class Memory>
void store_transposed(const float* from, const TileOperand& operand, int rows, int columns) {
  for (int r = 0; r < rows; r += kLanes32) {
    for (int c = 0; c < columns; c += kLanes32) {
      VectorF32 square[kLanes32];
      for (int i = 0; i < kLanes32; ++i) square[i] = load<VectorF32>(from + (r + i) * columns + c);
      transpose_square<kLanes32 / 2>(square);
      char* to = operand.data + r * sizeof(Memory) + c * operand.column_stride;
      for (int i = 0; i < kLanes32; ++i, to += operand.column_stride) {
        store_narrow(reinterpret_cast<Memory*>(to), square[i]);
      }
    }
  }
}

// Writes n copies of a value, rounded up to whole vectors: the register has room, and the next row
// overwrites what is too much.
template <class Element>
ACCEL_INLINE void splat_run(Element value, Element* to, int n) {
  using V = Vector<Element>;
  const V all = splat<V>(value);
  for (int i = 0; i < n; i += static_cast<int>(sizeof(V) / sizeof(Element))) store(to + i, all);
}

// --- Instructions ---

template <Lane lane, class Memory>
void load_operand(const Instruction& instruction, Frame& frame) {
  using Element = ElementOf<lane>;
  constexpr int64_t kSize = sizeof(Memory);
  const TileOperand& operand = frame.operands[instruction.index];
  const int rows = frame.rows, columns = frame.columns;
  if (operand.column_stride == kSize || columns == 1) {
    const bool whole = rows == 1 || (operand.row_stride == columns * kSize);
    if constexpr (sizeof(Memory) == sizeof(Element) && kIsReal<Memory> == kIsReal<Element> &&
                  lane != Lane::Bool) {
      // Nothing to convert and no padding to read: the register lies in memory.
      if (whole && frame.count == frame.padded) {
        frame.source[instruction.dst] = operand.data;
        frame.borrowed |= 1u << instruction.dst;
        return;
      }
    }
    Element* to = out<Element>(frame, instruction.dst);
    if (whole) {
      load_run<lane>(reinterpret_cast<const Memory*>(operand.data), to, frame.count);
    } else if (columns == 1) {
      const char* from = operand.data;
      for (int r = 0; r < rows; ++r, from += operand.row_stride) {
        to[r] = to_lane<lane>(*reinterpret_cast<const Memory*>(from));
      }
    } else {
      const char* from = operand.data;
      for (int r = 0; r < rows; ++r, from += operand.row_stride) {
        load_run<lane>(reinterpret_cast<const Memory*>(from), to + r * columns, columns);
      }
    }
    return;
  }
  Element* to = out<Element>(frame, instruction.dst);
  const char* row = operand.data;
  if (operand.column_stride == 0) {
    if (rows == 1 || operand.row_stride == 0) {
      splat_run(to_lane<lane>(*reinterpret_cast<const Memory*>(row)), to, frame.count);
      return;
    }
    for (int r = 0; r < rows; ++r, row += operand.row_stride) {
      splat_run(to_lane<lane>(*reinterpret_cast<const Memory*>(row)), to + r * columns, columns);
    }
    return;
  }
  if constexpr (lane == Lane::F32 && kLoadsVectors<Memory>) {
    if (operand.row_stride == kSize && rows % kLanes32 == 0 && columns % kLanes32 == 0) {
      return load_transposed<Memory>(operand, to, rows, columns);
    }
  }
  if (operand.column_stride == 2 * kSize) {
    for (int r = 0; r < rows; ++r, row += operand.row_stride, to += columns) {
      load_every_other<lane>(reinterpret_cast<const Memory*>(row), to, columns);
    }
    return;
  }
  for (int r = 0; r < rows; ++r, row += operand.row_stride) {
    const char* from = row;
    for (int c = 0; c < columns; ++c, from += operand.column_stride) {
      *to++ = to_lane<lane>(*reinterpret_cast<const Memory*>(from));
    }
  }
}

template <Lane lane, class Memory>
void store_operand(const Instruction& instruction, Frame& frame) {
  using Element = ElementOf<lane>;
  constexpr int64_t kSize = sizeof(Memory);
  const TileOperand& operand = frame.operands[instruction.index];
  const int rows = frame.rows, columns = frame.columns;
  if (frame.borrowed != 0) keep_borrowed(frame, operand.data, frame.count * kSize);
  const Element* from = in<Element>(frame, instruction.a);
  char* row = operand.data;
  if constexpr (lane == Lane::F32 && kLoadsVectors<Memory>) {
    if (operand.row_stride == kSize && operand.column_stride != kSize && rows % kLanes32 == 0 &&
        columns % kLanes32 == 0) {
      return store_transposed<Memory>(from, operand, rows, columns);
    }
  }
  if (operand.column_stride == kSize && (rows == 1 || operand.row_stride == columns * kSize)) {
    store_run<lane>(from, reinterpret_cast<Memory*>(row), frame.count);
  } else if (operand.column_stride == kSize && columns > 1) {
    for (int r = 0; r < rows; ++r, row += operand.row_stride, from += columns) {
      store_run<lane>(from, reinterpret_cast<Memory*>(row), columns);
    }
  } else if (lane == Lane::F32 && kIsFloat<Memory> && operand.column_stride == 2 * kSize) {
    for (int r = 0; r < rows; ++r, row += operand.row_stride, from += columns) {
      store_every_other(reinterpret_cast<const float*>(from), reinterpret_cast<float*>(row),
                        columns);
    }
  } else {
    for (int r = 0; r < rows; ++r, row += operand.row_stride) {
      char* to = row;
      for (int c = 0; c < columns; ++c, to += operand.column_stride) {
        *reinterpret_cast<Memory*>(to) = CastTo<Memory>::from(*from++);
      }
    }
  }
}

void load_by_dtype(const Instruction& instruction, Frame& frame) {
  const int dtype = static_cast<int>(frame.dtypes[instruction.index]);
  frame.engine->loads[dtype][static_cast<int>(instruction.lane)](instruction, frame);
}

void store_by_dtype(const Instruction& instruction, Frame& frame) {
  const int dtype = static_cast<int>(frame.dtypes[instruction.index]);
  frame.engine->stores[dtype][static_cast<int>(instruction.lane)](instruction, frame);
}

void load_tile(const Instruction& instruction, Frame& frame) {
  if (frame.count == frame.padded && (frame.rows == 1 || frame.values_stride == frame.columns)) {
    frame.source[instruction.dst] = frame.values;
    frame.borrowed |= 1u << instruction.dst;
    return;
  }
  float* to = out<float>(frame, instruction.dst);
  for (int r = 0; r < frame.rows; ++r) {
    load_run<Lane::F32>(frame.values + r * frame.values_stride, to + r * frame.columns,
                        frame.columns);
  }
}

template <DType dtype, class Memory, Lane lane>
void add_pair(Engine& engine) {
  engine.loads[static_cast<int>(dtype)][static_cast<int>(lane)] = load_operand<lane, Memory>;
  engine.stores[static_cast<int>(dtype)][static_cast<int>(lane)] = store_operand<lane, Memory>;
}

template <DType dtype, class Memory>
void add_dtype(Engine& engine) {
  add_pair<dtype, Memory, Lane::F32>(engine);
  add_pair<dtype, Memory, Lane::F64>(engine);
  add_pair<dtype, Memory, Lane::I64>(engine);
  add_pair<dtype, Memory, Lane::Bool>(engine);
}

}  // namespace

void add_memory_kernels(Engine& engine) {
  for (int lane = 0; lane < vector::kLanes; ++lane) {
    engine.set(Op::Load, static_cast<Lane>(lane), load_by_dtype);
    engine.set(Op::Store, static_cast<Lane>(lane), store_by_dtype);
  }
  engine.set(Op::LoadTile, Lane::F32, load_tile);
  engine.store_rounded_bf16 = store_operand<Lane::F32, RoundedBFloat16>;
  add_dtype<DType::UInt8, uint8_t>(engine);
  add_dtype<DType::Int8, int8_t>(engine);
  add_dtype<DType::Int16, int16_t>(engine);
  add_dtype<DType::Int32, int32_t>(engine);
  add_dtype<DType::Int64, int64_t>(engine);
  add_dtype<DType::Float16, Float16>(engine);
  add_dtype<DType::Float32, float>(engine);
  add_dtype<DType::Float64, double>(engine);
  add_dtype<DType::Bool, BoolByte>(engine);
  add_dtype<DType::BFloat16, BFloat16>(engine);
  add_dtype<DType::Float8E5M2, Float8E5M2>(engine);
  add_dtype<DType::Float8E4M3FN, Float8E4M3FN>(engine);
}

}  // namespace accel::kernels::ACCEL_ISA

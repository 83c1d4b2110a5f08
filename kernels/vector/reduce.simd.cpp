// Reductions of vector programs, in the order that reduce.h states.
#include "kernels/vector/cast.h"

namespace accel::kernels::ACCEL_ISA {

using vector::ColumnState;
using vector::kBlockRows;
using vector::kChunkElements;
using vector::kReduceLanes;
using vector::kTileElements;
using vector::ReduceInto;
using vector::Reducer;
using vector::RowState;
using vector::Total;

namespace {

// --- The six reductions: identity, and a combination of two values or vectors ---

template <class T>
struct Limits {
  static constexpr T kLowest = static_cast<T>(-__builtin_inf());
  static constexpr T kHighest = static_cast<T>(__builtin_inf());
};
template <>
struct Limits<int64_t> {
  static constexpr int64_t kLowest = INT64_MIN, kHighest = INT64_MAX;
};

struct Sum {
  template <class T>
  static constexpr T identity() {
    return T{0};
  }
  template <class T>
  ACCEL_INLINE static T of(T a, T b) {
    return a + b;
  }
};
struct Prod {
  template <class T>
  static constexpr T identity() {
    return T{1};
  }
  template <class T>
  ACCEL_INLINE static T of(T a, T b) {
    return a * b;
  }
};
struct Min {
  template <class T>
  static constexpr T identity() {
    return Limits<T>::kHighest;
  }
  template <class T>
  ACCEL_INLINE static T of(T a, T b) {
    return minimum(a, b);
  }
};
struct Max {
  template <class T>
  static constexpr T identity() {
    return Limits<T>::kLowest;
  }
  template <class T>
  ACCEL_INLINE static T of(T a, T b) {
    return maximum(a, b);
  }
};
struct Any {
  template <class T>
  static constexpr T identity() {
    return T{0};
  }
  template <class T>
  ACCEL_INLINE static T of(T a, T b) {
    return static_cast<T>(a | b);
  }
};
struct All {
  template <class T>
  static constexpr T identity() {
    return T{1};
  }
  template <class T>
  ACCEL_INLINE static T of(T a, T b) {
    return static_cast<T>(a & b);
  }
};

// What a total is computed in; it travels in a Total.
template <class Element>
struct TotalOf {
  using Type = Element;
};
template <>
struct TotalOf<float> {
  using Type = double;
};
template <>
struct TotalOf<uint8_t> {
  using Type = int64_t;
};

// A reduction over Element: uint64_t where integers wrap (Sum, Prod), int64_t where they compare.
template <class Element, class Function>
struct Reduction {
  using V = Vector<Element>;
  using Mask = decltype(V{} < V{});
  using Wide = typename TotalOf<Element>::Type;
  static constexpr int kStep = sizeof(V) / sizeof(Element);
  static constexpr int kVectors = kReduceLanes / kStep;
  static constexpr Element kIdentity = Function::template identity<Element>();

  static_assert(sizeof(Wide) == sizeof(Total));
  // Not __builtin_bit_cast: g++ 12's vectoriser crashes on loops of it over unions.
  ACCEL_INLINE static Wide get(const Total& total) {
    Wide value;
    std::memcpy(&value, &total, sizeof value);
    return value;
  }
  ACCEL_INLINE static void set(Total& total, Wide value) {
    std::memcpy(&total, &value, sizeof value);
  }
  ACCEL_INLINE static void take(Total& total, Wide value) {
    set(total, Function::of(get(total), value));
  }

  // --- Rows ---

  struct Lanes {
    V v[kVectors];
  };

  // The first n elements at `values`, the identity after them. Reads a whole vector.
  ACCEL_INLINE static V first_elements(const Element* values, int n) {
    static constexpr struct Window {
      uint8_t byte[128] = {};
      constexpr Window() {
        for (int i = 0; i < 64; ++i) byte[i] = 0xff;
      }
    } kWindow;
    const Mask mask = load<Mask>(kWindow.byte + 64 - n * sizeof(Element));
    return mask != 0 ? load<V>(values) : splat<V>(kIdentity);
  }

  ACCEL_INLINE static void accumulate_once(Lanes& lanes, const Element* values) {
    for (int k = 0; k < kVectors; ++k) {
      lanes.v[k] = Function::of(lanes.v[k], load<V>(values + k * kStep));
    }
  }

  // n values from lane 0 on; may read up to a vector beyond them.
  ACCEL_INLINE static void accumulate(Lanes& lanes, const Element* values, int n) {
    int i = 0;
    for (; i + kReduceLanes <= n; i += kReduceLanes) accumulate_once(lanes, values + i);
    if (i == n) return;
    for (int k = 0; k < kVectors; ++k, i += kStep) {
      if (n - i >= kStep) {
        lanes.v[k] = Function::of(lanes.v[k], load<V>(values + i));
      } else if (n > i) {
        lanes.v[k] = Function::of(lanes.v[k], first_elements(values + i, n - i));
      }
    }
  }

  ACCEL_INLINE static Element fold(Lanes lanes) {
    for (int half = kVectors / 2; half > 0; half /= 2) {
      for (int k = 0; k < half; ++k) lanes.v[k] = Function::of(lanes.v[k], lanes.v[k + half]);
    }
    return fold_vector<kStep / 2>(lanes.v[0]);
  }
  template <int half>
  ACCEL_INLINE static Element fold_vector(V x) {
    if constexpr (half == 0) {
      return x[0];
    } else {
      Mask upper;
      for (int i = 0; i < kStep; ++i) upper[i] = (i + half) % kStep;
      return fold_vector<half / 2>(Function::of(x, __builtin_shuffle(x, upper)));
    }
  }

  ACCEL_INLINE static Lanes identity_lanes() {
    Lanes lanes;
    for (int k = 0; k < kVectors; ++k) lanes.v[k] = splat<V>(kIdentity);
    return lanes;
  }

  static void flush_row(RowState& state) {
    Lanes lanes;
    std::memcpy(&lanes, state.lanes, sizeof lanes);
    const Wide value = static_cast<Wide>(fold(lanes));
    if (state.partials) {
      set(*state.partials++, value);
    } else {
      take(state.total, value);
    }
    lanes = identity_lanes();
    std::memcpy(state.lanes, &lanes, sizeof lanes);
    state.position = 0;
  }

  static void add_to_row(RowState& state, const Element* values, int n) {
    while (n > 0) {
      const int position = static_cast<int>(state.position);
      const int left = static_cast<int>(kChunkElements) - position;
      int taken = n < left ? n : left;
      const int lane = position % kReduceLanes;
      if (lane == 0) {
        Lanes lanes;
        std::memcpy(&lanes, state.lanes, sizeof lanes);
        accumulate(lanes, values, taken);
        std::memcpy(state.lanes, &lanes, sizeof lanes);
      } else {
        if (taken > kReduceLanes - lane) taken = kReduceLanes - lane;
        Element* to = reinterpret_cast<Element*>(state.lanes) + lane;
        int i = 0;
        for (; i + kStep <= taken; i += kStep) {
          store(to + i, Function::of(load<V>(to + i), load<V>(values + i)));
        }
        for (; i < taken; ++i) to[i] = Function::of(to[i], values[i]);
      }
      state.position += taken;
      values += taken;
      n -= taken;
      if (state.position == kChunkElements) flush_row(state);
    }
  }

  static void start_rows(RowState* states, int rows, Total* partials, int64_t partials_stride) {
    const Lanes lanes = identity_lanes();
    for (int r = 0; r < rows; ++r) {
      std::memcpy(states[r].lanes, &lanes, sizeof lanes);
      states[r].position = 0;
      set(states[r].total, Function::template identity<Wide>());
      states[r].partials = partials ? partials + r * partials_stride : nullptr;
    }
  }

  static void finish_rows(RowState* states, int rows, char* slot) {
    Element* results = reinterpret_cast<Element*>(slot);
    for (int r = 0; r < rows; ++r) {
      if (states[r].position != 0) flush_row(states[r]);
      results[r] = static_cast<Element>(get(states[r].total));
    }
  }

  // --- Columns ---

  static void flush_columns(ColumnState& state, int columns) {
    Element* lanes = reinterpret_cast<Element*>(state.lanes);
    for (int c = 0; c < columns; ++c) {
      take(state.totals[c], static_cast<Wide>(lanes[c]));
      lanes[c] = kIdentity;
    }
    state.rows = 0;
  }

  static void add_to_columns(ColumnState& state, const Element* values, int rows, int columns) {
    Element* lanes = reinterpret_cast<Element*>(state.lanes);
    while (rows > 0) {
      const int left = kBlockRows - state.rows;
      const int taken = rows < left ? rows : left;
      for (int c = 0; c < columns; c += kStep) {
        V sum = load<V>(lanes + c);
        for (int r = 0; r < taken; ++r) sum = Function::of(sum, load<V>(values + r * columns + c));
        store(lanes + c, sum);
      }
      state.rows += taken;
      values += taken * columns;
      rows -= taken;
      if (state.rows == kBlockRows) flush_columns(state, columns);
    }
  }

  static void start_columns(ColumnState& state) {
    fill_identity(state.lanes, kTileElements);
    const Wide identity = Function::template identity<Wide>();
    for (Total& total : state.totals) set(total, identity);
    state.rows = 0;
  }

  static void finish_columns(ColumnState& state, int columns, Total* totals) {
    if (state.rows != 0) flush_columns(state, columns);
    std::memcpy(totals, state.totals, columns * sizeof(Total));
  }

  // --- Partial results ---

  static void combine(const Total* partials, int64_t parts, int64_t part_stride,
                      int64_t item_stride, int items, char* slot) {
    Wide sums[kTileElements];
    for (int i = 0; i < items; ++i) sums[i] = Function::template identity<Wide>();
    for (int64_t p = 0; p < parts; ++p) {
      const Total* part = partials + p * part_stride;
      for (int i = 0; i < items; ++i) sums[i] = Function::of(sums[i], get(part[i * item_stride]));
    }
    Element* results = reinterpret_cast<Element*>(slot);
    for (int i = 0; i < items; ++i) results[i] = static_cast<Element>(sums[i]);
  }

  static void fill_identity(char* slot, int items) {
    Element* results = reinterpret_cast<Element*>(slot);
    for (int i = 0; i < items; ++i) results[i] = kIdentity;
  }

  // --- The instruction ---

  // The register's values. Vectors are read whole, so where a piece of `length` elements does not
  // end on kTilePadding they must not lie in an operand's memory.
  ACCEL_INLINE static const Element* readable(Frame& frame, uint8_t source, int length) {
    if ((frame.borrowed >> source & 1) && length % vector::kTilePadding != 0) {
      const void* from = frame.source[source];
      return static_cast<const Element*>(
          std::memcpy(out<Element>(frame, source), from, frame.count * sizeof(Element)));
    }
    return in<Element>(frame, source);
  }

  // One function a destination: inlined into one, they would share its registers and spill.
  [[gnu::noinline]] static void reduce_whole_rows(const Instruction& instruction, Frame& frame) {
    const int length = frame.row_length, count = frame.count;
    const Element* values = readable(frame, instruction.a, length);
    Element* slot = reinterpret_cast<Element*>(frame.slots[instruction.index]) + frame.slot_row;
    if (length % kReduceLanes == 0) {
      for (int done = 0; done < count;) {
        Lanes lanes = identity_lanes();
        const int end = done + length;
        for (; done < end; done += kReduceLanes) accumulate_once(lanes, values + done);
        *slot++ = fold(lanes);
      }
      return;
    }
    for (int done = 0; done < count; done += length) {
      Lanes lanes = identity_lanes();
      accumulate(lanes, values + done, length);
      *slot++ = fold(lanes);
    }
  }

  [[gnu::noinline]] static void reduce_row_pieces(const Instruction& instruction, Frame& frame) {
    const int length = frame.row_length;
    RowState* state = frame.row_states[instruction.index];
    const int position = static_cast<int>(state->position);
    const Element* values = readable(frame, instruction.a, length | position);
    for (int done = 0; done < frame.count; done += length) {
      add_to_row(*state++, values + done, length);
    }
  }

  [[gnu::noinline]] static void reduce_columns(const Instruction& instruction, Frame& frame) {
    const Element* values = readable(frame, instruction.a, frame.columns);
    add_to_columns(*frame.column_states[instruction.index], values, frame.rows, frame.columns);
  }

  static void run(const Instruction& instruction, Frame& frame) {
    switch (frame.reduce_into) {
      case ReduceInto::Slots:
        return reduce_whole_rows(instruction, frame);
      case ReduceInto::RowStates:
        return reduce_row_pieces(instruction, frame);
      case ReduceInto::ColumnState:
        return reduce_columns(instruction, frame);
    }
  }

  static void add(Engine& engine, Op op, Lane lane) {
    engine.set(op, lane, run);
    const int index = static_cast<int>(op) - static_cast<int>(Op::ReduceSum);
    engine.reducers[index][static_cast<int>(lane)] = {
        start_rows, finish_rows, flush_row, start_columns, finish_columns, combine, fill_identity};
  }
};

template <class Real, Lane lane>
void add_real(Engine& engine) {
  Reduction<Real, Sum>::add(engine, Op::ReduceSum, lane);
  Reduction<Real, Prod>::add(engine, Op::ReduceProd, lane);
  Reduction<Real, Min>::add(engine, Op::ReduceMin, lane);
  Reduction<Real, Max>::add(engine, Op::ReduceMax, lane);
}

}  // namespace

void add_reduce_kernels(Engine& engine) {
  add_real<float, Lane::F32>(engine);
  add_real<double, Lane::F64>(engine);
  Reduction<uint64_t, Sum>::add(engine, Op::ReduceSum, Lane::I64);
  Reduction<uint64_t, Prod>::add(engine, Op::ReduceProd, Lane::I64);
  Reduction<int64_t, Min>::add(engine, Op::ReduceMin, Lane::I64);
  Reduction<int64_t, Max>::add(engine, Op::ReduceMax, Lane::I64);
  Reduction<uint8_t, Any>::add(engine, Op::ReduceAny, Lane::Bool);
  Reduction<uint8_t, All>::add(engine, Op::ReduceAll, Lane::Bool);
}

}  // namespace accel::kernels::ACCEL_ISA

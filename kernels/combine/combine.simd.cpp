// Element by element over several arrays: each vector of the result is made in registers from all
// sources, so that every source is read once and the result is written once. Called by combine.cpp.
#include "kernels/combine/internal.h"
#include "kernels/common/elements.h"
#include "kernels/common/prefetch.h"

namespace accel::kernels::ACCEL_ISA {
namespace combine {
namespace {

// How an element lies in memory and is computed with. Integers are unsigned, so that they wrap;
// kLanes is what one Vector holds.
template <class Element>
struct Floating {
  using Vector = decltype(load_wide(static_cast<const Element*>(nullptr)));
  using Real = RealOf<Element>;
  static constexpr int kLanes = sizeof(Vector) / sizeof(Real);
  static constexpr int kBytes = sizeof(Element);
  ACCEL_INLINE static Vector load(const char* from) {
    return load_wide(reinterpret_cast<const Element*>(from));
  }
  ACCEL_INLINE static void store(char* to, Vector x) {
    store_narrow(reinterpret_cast<Element*>(to), x);
  }
};

template <class Unsigned, class Signed>
struct Integral {
  // Not by `using`: of a dependent type g++ ignores the attribute there.
  typedef Unsigned Vector __attribute__((vector_size(kVectorBytes)));
  typedef Signed SignedVector __attribute__((vector_size(kVectorBytes)));
  static constexpr int kLanes = kVectorBytes / sizeof(Unsigned);
  static constexpr int kBytes = sizeof(Unsigned);
  ACCEL_INLINE static Vector load(const char* from) { return ACCEL_ISA::load<Vector>(from); }
  ACCEL_INLINE static void store(char* to, Vector x) { ACCEL_ISA::store(to, x); }
};

struct Sum {
  template <class Kind, class V = typename Kind::Vector>
  ACCEL_INLINE static V apply(V a, V b) {
    return a + b;
  }
};
struct Product {
  template <class Kind, class V = typename Kind::Vector>
  ACCEL_INLINE static V apply(V a, V b) {
    return a * b;
  }
};
struct Minimum {
  template <class Kind, class V = typename Kind::Vector>
  ACCEL_INLINE static V apply(V a, V b) {
    if constexpr (requires { typename Kind::SignedVector; }) {
      using S = typename Kind::SignedVector;
      return (S)b < (S)a ? b : a;
    } else {
      return minimum(a, b);
    }
  }
};
struct Maximum {
  template <class Kind, class V = typename Kind::Vector>
  ACCEL_INLINE static V apply(V a, V b) {
    if constexpr (requires { typename Kind::SignedVector; }) {
      using S = typename Kind::SignedVector;
      return (S)a < (S)b ? b : a;
    } else {
      return maximum(a, b);
    }
  }
};
struct UnsignedMinimum {
  template <class Kind, class V = typename Kind::Vector>
  ACCEL_INLINE static V apply(V a, V b) {
    return b < a ? b : a;
  }
};
struct UnsignedMaximum {
  template <class Kind, class V = typename Kind::Vector>
  ACCEL_INLINE static V apply(V a, V b) {
    return a < b ? b : a;
  }
};
struct And {
  template <class Kind, class V = typename Kind::Vector>
  ACCEL_INLINE static V apply(V a, V b) {
    return a & b;
  }
};
struct Or {
  template <class Kind, class V = typename Kind::Vector>
  ACCEL_INLINE static V apply(V a, V b) {
    return a | b;
  }
};
struct Xor {
  template <class Kind, class V = typename Kind::Vector>
  ACCEL_INLINE static V apply(V a, V b) {
    return a ^ b;
  }
};

// The last elements, fewer than a vector holds, through a vector's memory.
template <class Kind>
typename Kind::Vector load_part(const char* from, int lanes) {
  alignas(64) char part[Kind::kLanes * Kind::kBytes] = {};
  std::memcpy(part, from, static_cast<size_t>(lanes * Kind::kBytes));
  return Kind::load(part);
}
template <class Kind>
void store_part(char* to, typename Kind::Vector x, int lanes) {
  alignas(64) char part[Kind::kLanes * Kind::kBytes];
  Kind::store(part, x);
  std::memcpy(to, part, static_cast<size_t>(lanes * Kind::kBytes));
}

struct Sources {
  const void* const* arrays;
  int count;
  const double* factors;
  int64_t divisor;

  const char* at(int source, int64_t offset) const {
    return static_cast<const char*>(arrays[source]) + offset;
  }
};

struct Results {
  void* const* arrays;
  int count;

  char* at(int result, int64_t offset) const { return static_cast<char*>(arrays[result]) + offset; }
};

// What a source's vector is multiplied by, and the result divided: nothing in integers, whose
// division is a pass of its own.
template <class Kind>
ACCEL_INLINE typename Kind::Vector scaled(typename Kind::Vector x, const Sources& from,
                                          int source) {
  if constexpr (requires { typename Kind::Real; }) {
    using Real = typename Kind::Real;
    if (from.factors) {
      x = x * splat<typename Kind::Vector>(static_cast<Real>(from.factors[source]));
    }
  }
  return x;
}
template <class Kind>
ACCEL_INLINE typename Kind::Vector divided(typename Kind::Vector x, const Sources& from) {
  if constexpr (requires { typename Kind::Real; }) {
    using Real = typename Kind::Real;
    if (from.divisor != 1) {
      x = x / splat<typename Kind::Vector>(static_cast<Real>(from.divisor));
    }
  }
  return x;
}

// Elements at byte offsets [begin, end).
template <class Kind, class Op>
void run(const Sources& from, const Results& to, int64_t begin, int64_t end) {
  using V = typename Kind::Vector;
  constexpr int64_t kStep = Kind::kLanes * Kind::kBytes;
  // Four vectors at once: their loads overlap.
  constexpr int kUnroll = 4;
  // What is asked for before its turn: the processor does not foresee the next page.
  constexpr int64_t kAhead = 512;
  int64_t offset = begin;
  for (; offset + kUnroll * kStep <= end; offset += kUnroll * kStep) {
    V x[kUnroll];
    prefetch_rows(from.at(0, offset + kAhead), 1, 0, kUnroll * kStep);
    for (int u = 0; u < kUnroll; ++u) {
      x[u] = scaled<Kind>(Kind::load(from.at(0, offset + u * kStep)), from, 0);
    }
    for (int source = 1; source < from.count; ++source) {
      prefetch_rows(from.at(source, offset + kAhead), 1, 0, kUnroll * kStep);
      for (int u = 0; u < kUnroll; ++u) {
        const V next = scaled<Kind>(Kind::load(from.at(source, offset + u * kStep)), from, source);
        x[u] = Op::template apply<Kind>(x[u], next);
      }
    }
    for (int u = 0; u < kUnroll; ++u) x[u] = divided<Kind>(x[u], from);
    for (int result = 0; result < to.count; ++result) {
      for (int u = 0; u < kUnroll; ++u) Kind::store(to.at(result, offset + u * kStep), x[u]);
    }
  }
  for (; offset < end; offset += kStep) {
    const int64_t left = (end - offset) / Kind::kBytes;
    const int lanes = static_cast<int>(left < Kind::kLanes ? left : Kind::kLanes);
    V x = scaled<Kind>(load_part<Kind>(from.at(0, offset), lanes), from, 0);
    for (int source = 1; source < from.count; ++source) {
      x = Op::template apply<Kind>(
          x, scaled<Kind>(load_part<Kind>(from.at(source, offset), lanes), from, source));
    }
    x = divided<Kind>(x, from);
    for (int result = 0; result < to.count; ++result) {
      store_part<Kind>(to.at(result, offset), x, lanes);
    }
  }
}

template <class Kind>
void with_op(CombineOp op, const Sources& from, const Results& to, int64_t begin, int64_t end) {
  switch (op) {
    case CombineOp::Product:
      return run<Kind, Product>(from, to, begin, end);
    case CombineOp::Minimum:
      return run<Kind, Minimum>(from, to, begin, end);
    case CombineOp::Maximum:
      return run<Kind, Maximum>(from, to, begin, end);
    default:
      break;
  }
  if constexpr (requires { typename Kind::SignedVector; }) {
    switch (op) {
      case CombineOp::UnsignedMinimum:
        return run<Kind, UnsignedMinimum>(from, to, begin, end);
      case CombineOp::UnsignedMaximum:
        return run<Kind, UnsignedMaximum>(from, to, begin, end);
      case CombineOp::And:
        return run<Kind, And>(from, to, begin, end);
      case CombineOp::Or:
        return run<Kind, Or>(from, to, begin, end);
      case CombineOp::Xor:
        return run<Kind, Xor>(from, to, begin, end);
      default:
        break;
    }
  }
  run<Kind, Sum>(from, to, begin, end);
}

template <class Integer>
void divide(char* out, int64_t elements, int64_t divisor) {
  for (int64_t i = 0; i < elements; ++i) {
    Integer x;
    std::memcpy(&x, out + i * static_cast<int64_t>(sizeof(x)), sizeof(x));
    x = static_cast<Integer>(x / divisor);
    std::memcpy(out + i * static_cast<int64_t>(sizeof(x)), &x, sizeof(x));
  }
}

// Division: the type whose sign counts. One result is divided and copied, a stretch at a time that
// stays in the first cache.
template <class Unsigned, class Signed, class Integer = Signed>
void with_integer(CombineOp op, const Sources& from, const Results& to, int64_t bytes) {
  using Kind = Integral<Unsigned, Signed>;
  if (from.divisor == 1) return with_op<Kind>(op, from, to, 0, bytes);
  constexpr int64_t kStretch = 8192;
  for (int64_t begin = 0; begin < bytes; begin += kStretch) {
    const int64_t end = begin + kStretch < bytes ? begin + kStretch : bytes;
    with_op<Kind>(op, from, {to.arrays, 1}, begin, end);
    char* first = to.at(0, begin);
    divide<Integer>(first, (end - begin) / Kind::kBytes, from.divisor);
    for (int result = 1; result < to.count; ++result) {
      std::memcpy(to.at(result, begin), first, static_cast<size_t>(end - begin));
    }
  }
}

}  // namespace
}  // namespace combine

void combine_arrays(const Combination& args, void* const* outs, int out_count,
                    const void* const* sources, int count, int64_t elements) {
  using namespace combine;
  const Sources from{sources, count, args.factors, args.divisor};
  const Results to{outs, out_count};
  const int64_t bytes = elements * size_of(args.dtype);
  switch (args.dtype) {
    case DType::UInt8:
    case DType::Bool:
      return with_integer<uint8_t, int8_t, uint8_t>(args.op, from, to, bytes);
    case DType::Int8:
      return with_integer<uint8_t, int8_t>(args.op, from, to, bytes);
    case DType::Int16:
      return with_integer<uint16_t, int16_t>(args.op, from, to, bytes);
    case DType::Int32:
      return with_integer<uint32_t, int32_t>(args.op, from, to, bytes);
    case DType::Int64:
      return with_integer<uint64_t, int64_t>(args.op, from, to, bytes);
    default:
      return with_floating(args.dtype, [&](auto element) {
        with_op<Floating<decltype(element)>>(args.op, from, to, 0, bytes);
      });
  }
}

}  // namespace accel::kernels::ACCEL_ISA

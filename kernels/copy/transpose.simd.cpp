// Tiles of strided copies, see transpose.h. Squares of a vector's side are transposed in registers;
// what is left at the edges, and elements of other sizes, go one by one.
#include "kernels/copy/transpose.h"

#include <cstring>

#include "kernels/common/simd.h"

namespace accel::kernels::ACCEL_ISA {
namespace copy {
namespace {

// Bytes of a square's row, by element size; a square has as many rows as a row has elements, and
// they must fit the registers. 16 bytes of small elements interleave in one instruction everywhere.
template <class Element>
inline constexpr int kRowBytes = sizeof(Element) == 1   ? 16
                                 : sizeof(Element) == 2 ? (kVectorBytes == 64 ? 32 : 16)
                                 : sizeof(Element) <= 8 ? kVectorBytes
                                                        : 0;
template <class Element>
inline constexpr int kSide = kRowBytes<Element> / static_cast<int>(sizeof(Element));

template <class Element>
struct RowOf {
  typedef Element Type __attribute__((vector_size(kRowBytes<Element>)));
};

template <class Element>
void transpose_square(char* to, int64_t to_stride, const char* from, int64_t from_stride) {
  constexpr int kN = kSide<Element>;
  using Row = typename RowOf<Element>::Type;
  Row rows[kN];
#pragma GCC unroll 16
  for (int i = 0; i < kN; ++i) std::memcpy(&rows[i], from + i * from_stride, sizeof(Row));
  transpose_rows<kN>(rows);
#pragma GCC unroll 16
  for (int i = 0; i < kN; ++i) std::memcpy(to + i * to_stride, &rows[i], sizeof(Row));
}

// n elements in the other order: to[i] = from[-i].
template <class Element>
void copy_backward(char* to, const char* from, int64_t n) {
  constexpr int64_t kSize = static_cast<int64_t>(sizeof(Element));
  int64_t i = 0;
  if constexpr (kRowBytes<Element> != 0) {
    constexpr int kN = kSide<Element>;
    using Row = typename RowOf<Element>::Type;
    Row order;
    for (int k = 0; k < kN; ++k) order[k] = static_cast<Element>(kN - 1 - k);
    for (; i + kN <= n; i += kN) {
      Row row;
      std::memcpy(&row, from - (i + kN - 1) * kSize, sizeof(Row));
      row = __builtin_shuffle(row, order);
      std::memcpy(to + i * kSize, &row, sizeof(Row));
    }
  }
  for (; i < n; ++i) std::memcpy(to + i * kSize, from - i * kSize, sizeof(Element));
}

// The tile by value: stores of bytes could change what a reference refers to.
template <class Element>
void copy_elements(const CopyTile t, int64_t first_a, int64_t end_a, int64_t first_b,
                   int64_t end_b) {
  for (int64_t j = first_b; j < end_b; ++j) {
    char* to = t.destination + j * t.destination_b;
    const char* from = t.source + j * t.source_b;
    if (t.destination_a == static_cast<int64_t>(sizeof(Element))) {
      if (t.source_a == -t.destination_a) {
        copy_backward<Element>(to + first_a * t.destination_a, from + first_a * t.source_a,
                               end_a - first_a);
        continue;
      }
#pragma GCC unroll 8
      for (int64_t i = first_a; i < end_a; ++i) {
        std::memcpy(to + i * static_cast<int64_t>(sizeof(Element)), from + i * t.source_a,
                    sizeof(Element));
      }
    } else {
      for (int64_t i = first_a; i < end_a; ++i) {
        std::memcpy(to + i * t.destination_a, from + i * t.source_a, sizeof(Element));
      }
    }
  }
}

template <class Element>
void copy_typed(const CopyTile& t) {
  constexpr int64_t kSize = static_cast<int64_t>(sizeof(Element));
  int64_t whole_a = 0, whole_b = 0;
  if constexpr (kSide < Element >> 1) {
    constexpr int kN = kSide<Element>;
    if (t.destination_a == kSize && t.source_b == kSize) {
      whole_a = t.a / kN * kN;
      whole_b = t.b / kN * kN;
      for (int64_t i = 0; i < whole_a; i += kN) {
        for (int64_t j = 0; j < whole_b; j += kN) {
          transpose_square<Element>(t.destination + i * kSize + j * t.destination_b,
                                    t.destination_b, t.source + i * t.source_a + j * kSize,
                                    t.source_a);
        }
      }
    }
  }
  copy_elements<Element>(t, whole_a, t.a, 0, whole_b);
  copy_elements<Element>(t, 0, t.a, whole_b, t.b);
}

struct Bytes16 {
  char bytes[16];
};
struct Bytes32 {
  char bytes[32];
};
struct Bytes64 {
  char bytes[64];
};

}  // namespace
}  // namespace copy

void copy_tile(const CopyTile& tile, int64_t element_size) {
  using namespace copy;
  switch (element_size) {
    case 1:
      return copy_typed<uint8_t>(tile);
    case 2:
      return copy_typed<uint16_t>(tile);
    case 4:
      return copy_typed<uint32_t>(tile);
    case 8:
      return copy_typed<uint64_t>(tile);
    case 16:
      return copy_typed<Bytes16>(tile);
    case 32:
      return copy_typed<Bytes32>(tile);
    default:
      return copy_typed<Bytes64>(tile);
  }
}

}  // namespace accel::kernels::ACCEL_ISA

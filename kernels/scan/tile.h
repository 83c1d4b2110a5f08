// A tile of a scan: a few steps of adjacent lanes. Called by scan.cpp, compiled per instruction set
// (tile.simd.cpp).
#pragma once

#include <cstdint>

#include "kernels/scan/scan.h"

namespace accel::kernels {

// Lanes are computed so many at a time, whatever the instruction set.
inline constexpr int kScanLanes = 16;
// The most lanes of one tile.
inline constexpr int kMaxTileLanes = 128;

// How elements are held in a tile: Real32 for Float32 and the 16-bit types.
enum class ScanElement : uint8_t { Real32, Real64, Int64 };

union ScanValue {
  double real;
  int64_t integer;
};

// What the elements so far come to, a lane. value: the sum, product or extremum; LogSumExp: the
// maximum, and in `terms` the sum of exp(x - maximum) over all other elements.
struct ScanState {
  ScanValue value[kMaxTileLanes];
  double terms[kMaxTileLanes];
  int64_t index[kMaxTileLanes];
  int64_t position[kMaxTileLanes];  // of the next element
};

struct ScanTile {
  ScanOp op = ScanOp::Sum;
  ScanElement element = ScanElement::Real32;
  bool wide = false;  // fp32 sums and products in fp64
  int64_t lanes = 0;  // a multiple of kScanLanes, at most kMaxTileLanes
  int64_t steps = 0;
  // Bytes from one step to the next; lanes are adjacent. Without `out`, only the state moves on.
  const void* in = nullptr;
  int64_t in_step = 0;
  void* out = nullptr;
  int64_t out_step = 0;
  int64_t* indices = nullptr;  // where the op finds places and `out` is written
  int64_t index_step = 0;
};
void scan_tile(const ScanTile& tile, ScanState* state);

// The first extremum (op: FirstMaximum or FirstMinimum) of `count` elements side by side. Where it
// beats the value, replaces the value and its index; the first element is number `position`.
void find_extremum(ScanOp op, ScanElement element, const void* elements, int64_t count,
                   int64_t position, ScanValue* value, int64_t* index);

// Between a dtype in memory and the ScanElement that stands for it.
void widen_elements(DType dtype, const void* from, void* to, int64_t count);
void narrow_elements(DType dtype, const void* from, void* to, int64_t count);

}  // namespace accel::kernels

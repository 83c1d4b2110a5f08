// Inclusive scans along one dimension of a strided tensor, and the reductions that find a place as
// well as a value: those are scans of which only the end is kept.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/common/lines.h"

namespace accel::kernels {

enum class ScanOp : uint8_t {
  Sum,
  Product,
  LogSumExp,
  // With the place of the extremum. NaN beats every number. Of equals, and of several NaN, a scan
  // names the last, a reduction the first.
  LastMaximum,
  LastMinimum,
  FirstMaximum,
  FirstMinimum,
};

// For each index over the kept dimensions: values[i] = in[0] op in[1] op ... op in[i], and the
// place of that element in `indices` (Int64; extrema only).
//
// A lane (one index over the kept dimensions) is computed in order of its elements; from
// kScanBlock elements on, blocks are computed side by side, each starting from the result of those
// before it. So bits depend on the length and the dtype, not on strides, threads or other lanes.
// Sums and products accumulate as ATen's CPU kernels do: fp32 in fp64, 16-bit floating types in
// fp32, whole numbers in int64 (modulo 2^64).
//
// dtypes: those that vector programs compute in. The input's is the values', or both are integral
// or Bool.
// A values operand may be the very same View as the input; other overlaps are not allowed.
struct Scan {
  ScanOp op = ScanOp::Sum;
  std::vector<int64_t> sizes;  // of the kept dimensions; none is 0
  int64_t length = 1;          // at least 1
  LineOperand in, values, indices;
};
void scan(const Scan& args);

// The last values and indices of such a scan, over the kept dimensions. Either may have no data.
// op: FirstMaximum or FirstMinimum.
void arg_reduce(const Scan& args);

inline constexpr int64_t kScanBlock = 4096;

}  // namespace accel::kernels
